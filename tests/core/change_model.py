"""Every order of everything that may happen to a write while its partition changes its owners.

    python -m tests.core.change_model               the rules as they are: eight worlds, all safe
    python -m tests.core.change_model --forgotten   each rule left out: the shortest way to harm

Four nodes, N=3, R=W=2. The partition moves from a, b, c to b, c, d, may be taken back, and may move
again; a writer brings a write to W, a reader reads whenever it likes. Both may be slow: they go on
under any ring that was ever decided, however old, and look for a newer one when they like; nodes
learn of rings when they like. One node crashes, or rots, or is removed with its disk lost. A
breadth-first search visits all states, so the way that it prints is the shortest.

    stale read    a read of R under one stamp misses a write that was acknowledged before it began
    unavailable   a node refuses the newest ring there is: who learns everything is still refused

The rings are folded by `core.ringentry`, and stamps, takers and tallies are the product's
(`core.stamps`, `core.aim`, `core.quorum`); a mutant replaces one of them, or a clause of the driver
(`Rules`).

One writer stands for any number: nothing here depends on what else a node holds (a copy is merged
whole, and a read is stale for one write or for none), so a way with many writes is, seen from each
of them, a way with one. `test_change_model.py` holds that against the steps of two.

Steps that nobody can tell apart are one: a node learns of a ring when it first needs it; a Merge is
taken and fsynced at once, but for the node that may crash; answers are counted when they are given
(if they come later, less is promised meanwhile).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

from dynagent.core.aim import TAKEN, Aim, judge_merge, judge_read
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.quorum import DONE, JointQuorum, PutQuorum
from dynagent.core.ring import JOINT_NEW, JOINT_OLD, SETTLED, Member, Ring, Stamp
from dynagent.core.ringentry import AbortEntry, ChangeEntry, Content, Entry, PhaseEntry, fold
from tests.core import exhaustive

NODES = tuple(NodeId(name) for name in "abcd")
A, B, C, D = range(4)
OLD, NEW = NODES[:3], NODES[1:]
P = PartitionId(0)
N, R, W = 3, 2, 2


# --- the product's rules, and what the driver adds ------------------------------------------------


def new_tally(aim: Aim) -> PutQuorum:
    if aim.is_joint:
        return JointQuorum(aim.owners, W, aim.lists, {})
    return PutQuorum(aim.owners, W)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The product's, unless a test says otherwise."""

    judge_merge: Callable[..., int] = judge_merge
    judge_read: Callable[..., bool] = judge_read
    tally: Callable[[Aim], PutQuorum] = new_tally
    readers: Callable[[Aim], Collection[NodeId]] = lambda aim: aim.readers
    sources: int = N - W + 1  # a new owner copies from so many of the old ones
    fences_sources: bool = True  # and only from who refuses what is older than the change
    fenced_before_settling: int = N - R + 1
    phases: tuple[int, ...] = (JOINT_OLD, JOINT_NEW, SETTLED)
    is_source: Callable[[Ring, NodeId, bool], bool] = (  # its copies are known, and not lost
        lambda ring, node, is_unknown: not is_unknown and node not in ring.removed
    )
    unknown_answers: bool = False  # a copy that is unknown counts for R
    keeps_minimum: bool = True  # over a crash
    answers_after_fsync: bool = True
    fence_follows_log: bool = True
    one_stamp: bool = True  # acknowledgements of an older stamp are counted no more
    forgets_aborted: bool = True  # what was copied for a change that was taken back
    pushes: bool = True  # a former owner drops only what all present owners have
    removed_may: tuple[str, ...] = ()  # what a member that was removed still does


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What may happen. `faulty`: the node that crashes, rots, or is removed."""

    writers: int = 1
    changes: int = 1
    aborts: int = 1
    fault: str = ""  # "crash", "rot", "removal"
    faulty: int = -1


# --- rings ----------------------------------------------------------------------------------------


@cache
def ring_of(path: str, removed: int) -> Ring:
    """What the entries make of the first ring: C changes, 1 and S are its phases, A takes back."""
    if not path:
        members = tuple(
            Member(id=node, name=node, address=node, zone="", host=node, capacity=1)
            for node in NODES
        )
        return Ring(epoch=1, cluster_id=b"c" * 16, n=N, r=R, w=W, members=members, lists=(OLD,))
    before = ring_of(path[:-1], removed)
    content = _content(before, path[-1], removed)
    return fold(before, Entry(content=content, proposer=NODES[B], wall_ms=0))


def _content(ring: Ring, what: str, removed: int) -> Content:
    if what == "C":
        return ChangeEntry(
            id=ring.epoch.to_bytes(16, "big"),
            verb="ring",
            members=ring.members,
            leaving=(),
            removed=() if removed < 0 else (NODES[removed],),
            moves=((P, NEW if ring.lists[0] == OLD else OLD),),
        )
    assert ring.change is not None
    if what == "A":
        return AbortEntry(index=ring.change.index, id=b"a" * 16)
    phase = JOINT_NEW if what == "1" else SETTLED
    return PhaseEntry(index=ring.change.index, phase=phase, partitions=(P,))


# --- states ---------------------------------------------------------------------------------------


class State(NamedTuple):
    """Sets of nodes and of writes are bits."""

    path: str  # the entries that are decided
    known: tuple[int, ...]  # how many of them each node has, at least
    minimums: tuple[Stamp, ...]  # on the disk
    held: tuple[int, ...]  # writes, on the disk
    pulled: tuple[int, ...]  # from whom each owner to be has copied everything
    writers: tuple[tuple[int, int, bool], ...]  # entries it knows, who has acknowledged, is it done
    reader: tuple[int, ...]  # entries, writes it must see, has seen, who answered; () if none reads
    unsynced: tuple[int, int, Stamp]  # of the node that may crash: writes, those that wait for an
    # acknowledgement, minimum
    faults: int  # left
    unknown: int  # nodes whose copies are unknown

    def with_held(self, node: int, writes: int) -> State:
        return self._replace(held=_with(self.held, node, self.held[node] | writes))


Step = tuple[str, State]
NO_STAMP: Stamp = (0, 0)


_SWAPPED = tuple(nodes & 9 | (nodes & 2) << 1 | (nodes & 4) >> 1 for nodes in range(16))  # b, c


def _twin(state: State) -> State:
    """The same with b and c in each other's place, who are owners all the time."""
    path, known, minimums, held, pulled, writers, reader, unsynced, faults, unknown = state
    a, b, c, d = pulled
    return State(
        path,
        (known[0], known[2], known[1], known[3]),
        (minimums[0], minimums[2], minimums[1], minimums[3]),
        (held[0], held[2], held[1], held[3]),
        (_SWAPPED[a], _SWAPPED[c], _SWAPPED[b], _SWAPPED[d]),
        tuple((epoch, _SWAPPED[acks], is_done) for epoch, acks, is_done in writers),
        (*reader[:3], _SWAPPED[reader[3]]) if reader else reader,
        unsynced,
        faults,
        _SWAPPED[unknown],
    )


_TURNED = (0, 2, 1, 3)  # sets of two writes


def _turned(state: State) -> State:
    """The same with the two writers in each other's place."""
    reader = state.reader
    if reader:
        reader = (reader[0], _TURNED[reader[1]], _TURNED[reader[2]], reader[3])
    held, waiting, minimum = state.unsynced
    return state._replace(
        held=tuple(_TURNED[writes] for writes in state.held),
        writers=state.writers[::-1],
        reader=reader,
        unsynced=(_TURNED[held], _TURNED[waiting], minimum),
    )


def _with(values: tuple, at: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:at], value, *values[at + 1 :])


def search(world: World, rules: Rules = Rules(), *, folds: bool = False) -> exhaustive.Outcome:
    """Visits every state; stops at the first violation.

    `folds`: those that differ only in which writer is which, or in which of b and c, are one. Then
    the names in a way that it finds may change from step to step.
    """
    model = Model(world, rules)
    alike = model.folded if folds else None
    return exhaustive.search(model.first(), model.steps, model.violation, fold=alike)


class Model:
    def __init__(self, world: World, rules: Rules) -> None:
        self._world = world
        self._rules = rules
        self._removed = world.faulty if world.fault == "removal" else -1
        self._crashes = world.faulty if world.fault == "crash" else -1
        self._takes = cache(self._takes_uncached)
        self._tells = cache(self._tells_uncached)
        self._is_done = cache(self._is_done_uncached)
        self._aim = cache(lambda path: Aim(self._ring(path), P))

    def _ring(self, path: str) -> Ring:
        return ring_of(path, self._removed)

    def first(self) -> State:
        return State(
            path="",
            known=(0,) * 4,
            minimums=(NO_STAMP,) * 4,
            held=(0,) * 4,
            pulled=(0,) * 4,
            writers=((0, 0, False),) * self._world.writers,
            reader=(),
            unsynced=(0, 0, NO_STAMP),
            faults=1 if self._world.fault in ("crash", "rot") else 0,
            unknown=0,
        )

    def folded(self, state: State) -> State:
        """One for all that are alike."""
        if len(state.writers) == 2 and state.writers[0] > state.writers[1]:
            state = _turned(state)
        if self._world.faulty in (B, C):
            return state
        return min(state, _twin(state))

    def violation(self, state: State) -> str:
        if state.reader and state.reader[3].bit_count() >= R:
            return "stale read"  # those that have seen what they must have ended
        newest = self._ring(state.path).stamps[P]
        if max(*state.minimums, state.unsynced[2]) > newest:
            return "unavailable"
        return ""

    def steps(self, state: State) -> Iterator[Step]:
        yield from self._decide(state)
        yield from self._write(state)
        yield from self._read(state)
        yield from self._fence(state)
        yield from self._copy(state)
        yield from self._give_up(state)
        yield from self._fail(state)

    # --- the log ---------------------------------------------------------------------------------

    def _decide(self, state: State) -> Iterator[Step]:
        path, ring, rules = state.path, self._ring(state.path), self._rules
        change = ring.change
        if change is None:
            if path.count("C") < self._world.changes:
                keeps = not rules.forgets_aborted and path.endswith("A")
                pulled = state.pulled if keeps else (0,) * 4
                changed = state._replace(path=path + "C", pulled=pulled)
                if self._removed >= 0:
                    changed = changed._replace(held=_with(state.held, self._removed, 0))
                yield "a change is decided", changed
            return
        phase = ring.moves[P].phase
        if phase == JOINT_OLD and path.count("A") < self._world.aborts and not ring.removed:
            yield "it is taken back", state._replace(path=path + "A")
        to_come = [after for after in rules.phases if after > phase]
        if phase == JOINT_OLD and all(
            state.pulled[NODES.index(node)].bit_count() >= rules.sources
            for node in ring.new_owners(P)
        ):
            steps = "1" if JOINT_NEW in to_come else "1S"
            yield f"phase {to_come[0]} is decided", state._replace(path=path + steps)
        elif phase == JOINT_NEW:
            fenced = [
                node
                for node in ring.lists[P]
                if self._minimum(state, NODES.index(node)) >= ring.stamps[P]
                and node not in ring.removed
            ]
            if len(fenced) >= rules.fenced_before_settling:
                yield "it is settled", state._replace(path=path + "S")

    def _is_gone(self, state: State, node: int, what: str) -> bool:
        is_removed = node == self._removed and "C" in state.path
        return is_removed and what not in self._rules.removed_may

    def _minimum(self, state: State, node: int) -> Stamp:
        """What a node has said that it refuses below."""
        if node == self._crashes and not self._rules.answers_after_fsync:
            return max(state.minimums[node], state.unsynced[2])
        return state.minimums[node]

    def _refused_below(self, state: State, node: int) -> Stamp:
        if node == self._crashes:
            return max(state.minimums[node], state.unsynced[2])
        return state.minimums[node]

    # --- writers ---------------------------------------------------------------------------------

    def _write(self, state: State) -> Iterator[Step]:
        for writer, (epoch, acks, is_done) in enumerate(state.writers):
            if is_done:
                continue
            stamp = self._ring(state.path[:epoch]).stamps[P]
            for newer in range(epoch + 1, len(state.path) + 1):
                if (other := self._ring(state.path[:newer]).stamps[P]) != stamp:
                    kept = 0 if self._rules.one_stamp else acks
                    writers = _with(state.writers, writer, (newer, kept, False))
                    cut = state._replace(writers=writers)
                    if not self._rules.one_stamp:
                        cut = self._counted(cut, writer, 0)
                    elif self._crashes >= 0:  # it will be acknowledged to nobody
                        held, waiting, minimum = state.unsynced
                        cut = cut._replace(unsynced=(held, waiting & ~(1 << writer), minimum))
                    yield f"writer {writer} aims by {other}", cut
            aim = self._aim(state.path[:epoch])
            for owner in aim.owners:
                node = NODES.index(owner)
                if not acks >> node & 1 and not self._is_gone(state, node, "write"):
                    yield from self._merge(state, writer, node, stamp)

    def _merge(self, state: State, writer: int, node: int, stamp: Stamp) -> Iterator[Step]:
        known = self._takes(
            state.path,
            state.known[node],
            node,
            stamp,
            self._refused_below(state, node),
            self._has_fenced(state),
        )
        if known is None:
            return
        name = NODES[node]
        learnt = state._replace(known=_with(state.known, node, known))
        if node != self._crashes:
            taken = learnt.with_held(node, 1 << writer)
            yield (
                f"{name} takes write {writer} under {stamp}, on its disk",
                self._counted(taken, writer, 1 << node),
            )
            return
        held, waiting, minimum = state.unsynced
        if waiting >> writer & 1:
            return
        taken = learnt._replace(unsynced=(held | 1 << writer, waiting | 1 << writer, minimum))
        if not self._rules.answers_after_fsync:
            taken = self._counted(taken, writer, 1 << node)
        yield f"{name} takes write {writer} under {stamp}", taken

    def _takes_uncached(
        self, path: str, known: int, node: int, stamp: Stamp, minimum: Stamp, has_fenced: bool
    ) -> int | None:
        """With how many entries the node takes it: the least; None: with no ring there is."""
        for epoch in range(known, len(path) + 1):
            verdict = self._rules.judge_merge(
                self._ring(path[:epoch]),
                NODES[node],
                P,
                stamp,
                minimum=minimum,
                has_fenced=has_fenced,
            )
            if verdict == TAKEN:
                return epoch
        return None

    def _has_fenced(self, state: State) -> bool:
        """Have the owners to be had the replies to their fences?"""
        ring = self._ring(state.path)
        if ring.change is None:
            return False
        fence = (ring.change.index, JOINT_OLD)
        minimums = [self._minimum(state, NODES.index(node)) for node in ring.lists[P]]
        fenced = sum(minimum >= fence for minimum in minimums)
        return fenced >= self._rules.sources or not self._rules.fences_sources

    def _counted(self, state: State, writer: int, acks: int) -> State:
        epoch, before, is_done = state.writers[writer]
        acks |= before
        is_done = is_done or self._is_done(state.path[:epoch], acks)
        return state._replace(
            writers=_with(state.writers, writer, (epoch, 0 if is_done else acks, is_done))
        )

    def _is_done_uncached(self, path: str, acks: int) -> bool:
        tally = self._rules.tally(self._aim(path))
        for node, name in enumerate(NODES):
            if acks >> node & 1:
                tally.add_result(name)
        return tally.take_reply() == DONE

    # --- the reader ------------------------------------------------------------------------------

    def _read(self, state: State) -> Iterator[Step]:
        if not state.reader:
            must = sum(1 << writer for writer, (_, _, done) in enumerate(state.writers) if done)
            if must:
                for epoch in range(len(state.path) + 1):
                    yield (
                        f"a read begins under {self._ring(state.path[:epoch]).stamps[P]}",
                        state._replace(reader=(epoch, must, 0, 0)),
                    )
            return
        epoch, must, seen, answered = state.reader
        stamp = self._ring(state.path[:epoch]).stamps[P]
        for owner in self._rules.readers(self._aim(state.path[:epoch])):
            node = NODES.index(owner)
            is_unknown = state.unknown >> node & 1 and not self._rules.unknown_answers
            if answered >> node & 1 or is_unknown or self._is_gone(state, node, "read"):
                continue
            known = self._tells(
                state.path, state.known[node], node, stamp, self._refused_below(state, node)
            )
            if known is None:
                continue
            has = seen | state.held[node]
            after = () if has & must == must else (epoch, must, has & must, answered | 1 << node)
            learnt = state._replace(known=_with(state.known, node, known), reader=after)
            yield f"{owner} answers the read under {stamp}", learnt
        yield "the read is given up", state._replace(reader=())

    def _tells_uncached(
        self, path: str, known: int, node: int, stamp: Stamp, minimum: Stamp
    ) -> int | None:
        for epoch in range(known, len(path) + 1):
            ring = self._ring(path[:epoch])
            if self._rules.judge_read(ring, NODES[node], P, stamp, minimum=minimum):
                return epoch
        return None

    # --- fences, copying, giving up --------------------------------------------------------------

    def _fence(self, state: State) -> Iterator[Step]:
        """At the stamp of the newest ring; without the rule also at the one that is to come."""
        ring = self._ring(state.path)
        if ring.change is None:
            return
        index, phase = ring.stamps[P]
        fences = [(index, phase)]
        if not self._rules.fence_follows_log:
            fences.append((index, phase + 1))
        for fence in fences:
            for owner in ring.lists[P]:
                node = NODES.index(owner)
                is_asked = not self._is_gone(state, node, "copy")
                if self._refused_below(state, node) < fence and is_asked:
                    yield f"{owner} is fenced at {fence}", self._fenced(state, node, fence)

    def _fenced(self, state: State, node: int, fence: Stamp) -> State:
        learnt = state._replace(known=_with(state.known, node, len(state.path)))
        if node == self._crashes:
            held, waiting, _ = state.unsynced
            return learnt._replace(unsynced=(held, waiting, fence))
        return learnt._replace(minimums=_with(state.minimums, node, fence))

    def _copy(self, state: State) -> Iterator[Step]:
        """An owner to be copies all that an old owner holds on its disk, after its fence."""
        ring, rules = self._ring(state.path), self._rules
        if ring.change is None or ring.moves[P].phase != JOINT_OLD:
            return
        fence = (ring.change.index, JOINT_OLD)
        for owner in ring.new_owners(P):
            node = NODES.index(owner)
            for source in ring.lists[P]:
                at = NODES.index(source)
                is_fenced = self._minimum(state, at) >= fence or not rules.fences_sources
                if state.pulled[node] >> at & 1 or not is_fenced:
                    continue
                if rules.is_source(ring, source, bool(state.unknown >> at & 1)):
                    pulled = _with(state.pulled, node, state.pulled[node] | 1 << at)
                    copied = state.with_held(node, state.held[at])._replace(pulled=pulled)
                    yield f"{owner} copies what {source} holds", copied

    def _give_up(self, state: State) -> Iterator[Step]:
        """A former owner refuses what is older, pushes what the new ones lack, and drops it."""
        ring = self._ring(state.path)
        if ring.change is not None or not state.path:
            return
        for node, name in enumerate(NODES):
            if name in ring.lists[P] or node == self._crashes:
                continue
            least = max(state.minimums[node], ring.stamps[P])
            if least == state.minimums[node] and not state.held[node]:
                continue  # it has
            pushed = state.held[node] if self._rules.pushes else 0
            held = tuple(
                0 if at == node else writes | pushed if other in ring.lists[P] else writes
                for at, (other, writes) in enumerate(zip(NODES, state.held, strict=True))
            )
            learnt = _with(state.known, node, len(state.path))
            yield (
                f"{name} pushes what it holds, and drops it",
                state._replace(
                    known=learnt, minimums=_with(state.minimums, node, least), held=held
                ),
            )

    # --- what fails ------------------------------------------------------------------------------

    def _fail(self, state: State) -> Iterator[Step]:
        node = self._world.faulty
        if self._crashes >= 0 and state.unsynced != (0, 0, NO_STAMP):
            yield f"{NODES[node]} has fsynced", self._synced(state)
        if not state.faults:
            return
        if self._world.fault == "crash":
            minimums = state.minimums
            if not self._rules.keeps_minimum:
                minimums = _with(minimums, node, NO_STAMP)
            yield (
                f"{NODES[node]} crashes, and is back",
                state._replace(unsynced=(0, 0, NO_STAMP), minimums=minimums, faults=0),
            )
        else:
            rotten = state._replace(held=_with(state.held, node, 0), unknown=1 << node, faults=0)
            yield f"the copies of {NODES[node]} rot", rotten

    def _synced(self, state: State) -> State:
        node = self._crashes
        held, waiting, minimum = state.unsynced
        least = max(state.minimums[node], minimum)
        synced = state.with_held(node, held)._replace(
            minimums=_with(state.minimums, node, least), unsynced=(0, 0, NO_STAMP)
        )
        for writer in range(self._world.writers):
            if waiting >> writer & 1 and not synced.writers[writer][2]:
                synced = self._counted(synced, writer, 1 << node)
        return synced


# --- what is run ----------------------------------------------------------------------------------

CRASH_A, REMOVAL = World(fault="crash", faulty=A), World(fault="removal", faulty=A)
WORLDS = {
    "one change, taken back or not": World(),
    "a crashes": CRASH_A,
    "b crashes": World(fault="crash", faulty=B),
    "d crashes": World(fault="crash", faulty=D),
    "a rots": World(fault="rot", faulty=A),
    "b rots": World(fault="rot", faulty=B),
    "a is removed, its disk lost": REMOVAL,
    "the change comes again, or goes back": World(changes=2),
}


def _tells_anything_known(ring: Ring, node: NodeId, *rest: object, **named: object) -> bool:
    return judge_read(replace(ring, removed=()), node, *rest, **named)  # type: ignore[arg-type]


def _takes_unfenced(*about: object, minimum: Stamp, **named: object) -> int:
    return judge_merge(*about, minimum=NO_STAMP, **named)  # type: ignore[arg-type]


def _tells_unfenced(*about: object, minimum: Stamp) -> bool:
    return judge_read(*about, minimum=NO_STAMP)  # type: ignore[arg-type]


# Each rule left out, and a world in which that does harm.
FORGOTTEN = {
    "the sources are not fenced before they are copied": (World(), Rules(fences_sources=False)),
    "a fence does not refuse older writes": (World(), Rules(judge_merge=_takes_unfenced)),
    "a fence does not refuse older reads": (World(), Rules(judge_read=_tells_unfenced)),
    "a minimum does not outlive a crash": (CRASH_A, Rules(keeps_minimum=False)),
    "who is fenced says so before its fsync": (CRASH_A, Rules(answers_after_fsync=False)),
    "a put needs W in the old list only": (
        World(),
        Rules(tally=lambda aim: PutQuorum(aim.lists[0], W)),
    ),
    "a put needs W in the new list only": (
        World(),
        Rules(tally=lambda aim: PutQuorum(aim.lists[-1], W)),
    ),
    "a put needs W of both lists together": (
        World(),
        Rules(tally=lambda aim: PutQuorum(aim.owners, W)),
    ),
    "gets read the new list in phase 0": (World(), Rules(readers=lambda aim: aim.lists[-1])),
    "gets read the old list in phase 1": (World(), Rules(readers=lambda aim: aim.lists[0])),
    "phase 1 is left out": (World(), Rules(phases=(JOINT_OLD, SETTLED))),
    "one source is enough": (World(), Rules(sources=1)),
    "one fence is enough to settle": (World(), Rules(fenced_before_settling=1)),
    "a fence runs ahead of the log": (World(), Rules(fence_follows_log=False)),
    "a source whose copies are unknown counts": (
        World(fault="rot", faulty=A),
        Rules(is_source=lambda ring, node, is_unknown: True),
    ),
    "a copy that is unknown is an answer": (
        World(fault="rot", faulty=A),
        Rules(unknown_answers=True),
    ),
    "a member that was removed is a source": (
        REMOVAL,
        Rules(removed_may=("copy",), is_source=lambda ring, node, is_unknown: True),
    ),
    "a member that was removed answers reads": (
        REMOVAL,
        Rules(
            removed_may=("read",),
            judge_read=_tells_anything_known,
            readers=lambda aim: aim.lists[aim.stamp[1] == JOINT_NEW and aim.is_joint],
        ),
    ),
    # Each of these alone does no harm.
    "acknowledgements under two stamps are added up, and who gives up drops at once": (
        World(changes=2, aborts=0),
        Rules(one_stamp=False, pushes=False),
    ),
    "what was copied for a change that was taken back counts for the next": (
        World(changes=2),
        Rules(forgets_aborted=False),
    ),
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forgotten", action="store_true", help="the rules left out, one by one")
    parser.add_argument("--writers", type=int, default=1)
    options = parser.parse_args(arguments)
    is_safe = True
    if options.forgotten:
        for name, (world, rules) in FORGOTTEN.items():
            outcome = search(world, rules)
            print(f"{name}: {outcome.violation or 'no harm'} ({outcome.states:,} states)")
            print("".join(f"    {step}\n" for step in outcome.way), flush=True)
        return 0
    for name, world in WORLDS.items():
        outcome = search(replace(world, writers=options.writers), folds=True)
        is_safe &= not outcome.violation
        print(f"{name}: {outcome.states:,} states, {outcome.violation or 'safe'}", flush=True)
        print("".join(f"    {step}\n" for step in outcome.way), end="")
    return 0 if is_safe else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
