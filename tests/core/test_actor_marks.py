"""The actor-mark rule (core/replica, *Minting*), searched exhaustively on the product's own code.

One key, owners A, B, C and a fallback F, W=2, blind puts only: so nothing that was acknowledged may
ever be gone from every disk. All hazards at once, in every order: a coordinator sends its merge
before it commits, and crashes; merges arrive late, twice or never; a record is removed from a node
(a hint was delivered, ownership was lost, a row vanished) and the node coordinates again.

Each step that mints, merges or commits is done by a real `Replica`, loaded with a snapshot; equal
snapshots are done once. A record is compared by content: clock, dots with op-ids, mark.

The search must be able to fail: with each clause of the rule taken away it finds the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import pytest

from dynagent.core.entry import (
    ABSENT,
    Mark,
    Record,
    decode_entry,
    decode_stored,
    encode_entry,
    encode_stored,
)
from dynagent.core.messages import MODE_BLIND, Put
from dynagent.core.replica import Replica
from dynagent.core.ring import token_of
from dynagent.core.siblings import Clock, Dot, Sibling, Siblings
from tests.core import exhaustive
from tests.core.harness import CLUSTER_ID, Disk

pytestmark = pytest.mark.plain

T = TypeVar("T")
KEY = b"key"
TOKEN = token_of(KEY)
OWNERS, NODES, NAMES = (0, 1, 2), (0, 1, 2, 3), "ABCF"
W = 2


class Copy(NamedTuple):
    """A record as a value that can be compared and hashed."""

    clock: tuple[Dot, ...]
    siblings: tuple[Sibling, ...]
    op_ids: tuple[bytes, ...]
    mark: Mark


def freeze(record: Record) -> Copy:
    return Copy(
        tuple(sorted(record.value.clock.items())),
        record.value.siblings,
        record.op_ids,
        record.mark,
    )


def thaw(copy: Copy) -> Record:
    value = Siblings(dict(copy.clock), copy.siblings)
    return Record(value, op_ids=copy.op_ids, mark=copy.mark)


class Dice:
    """Draws 0, 1, 2, …: every new actor is another one."""

    def __init__(self, drawn: int) -> None:
        self.drawn = drawn

    def getrandbits(self, k: int) -> int:
        self.drawn += 1
        return self.drawn - 1


class Silent:
    def send(self, *effect: object) -> None: ...
    def answer(self, *effect: object) -> None: ...
    def reconnect(self, ring: object) -> None: ...

    def adopt(self, *effect: object) -> None: ...
    def note(self, event: str, **fields: object) -> None: ...


class Loaded(Replica):
    """A replica in the middle of its life. `counter`: what a node-wide counter would hold."""

    def __init__(self, committed: Copy | None, overlay: Copy | None, about: About) -> None:
        disk = Disk()
        if committed is not None:
            disk.rows[KEY] = encode_stored(thaw(committed), cluster_id=CLUSTER_ID, key=KEY)
        super().__init__(
            reader=disk,
            effects=Silent(),
            dice=Dice(about.drawn),
            cluster_id=CLUSTER_ID,
            run=about.run,
            clean_from_run=about.clean_from_run,
            cache_bytes=0,
        )
        self.node = about.node
        self.counter = about.counter
        if overlay is not None:
            self._keep(KEY, TOKEN, ABSENT, thaw(overlay))

    def frozen_overlay(self) -> Copy:
        return freeze(self.newest(KEY, TOKEN))


class About(NamedTuple):
    """What a mint may depend on besides the copy."""

    node: int
    run: int
    clean_from_run: int
    counter: int
    drawn: int


# --- other ways to mint --------------------------------------------------------------------------


class OneActorPerNode(Loaded):
    """A node-wide actor and a counter that survives everything."""

    def _mint(self, old: Record, context: Clock) -> Dot:
        self.counter += 1
        return 1_000 + self.node, self.counter


class MarkKeptAcrossACrash(Loaded):
    """The mark of any earlier run is good enough."""

    def _mint(self, old: Record, context: Clock) -> Dot:
        self.clean_from_run = 0
        return super()._mint(old, context)


class OldActorOnAnAbsentCopy(Loaded):
    """A new actor after a crash, but not after the record has left the node."""

    def _mint(self, old: Record, context: Clock) -> Dot:
        self.counter += 1
        return 1_000 * self.run + self.node, self.counter


# --- the model -----------------------------------------------------------------------------------

NO_COPY = 0  # copies are numbered, so that a state is a tuple of small numbers


class State(NamedTuple):
    committed: tuple[int, ...] = (NO_COPY,) * 4
    overlay: tuple[int, ...] = (NO_COPY,) * 4
    runs: tuple[tuple[int, int], ...] = ((1, 1),) * 4  # run, first run joined by clean stops
    counters: tuple[int, ...] = (0,) * 4
    drawn: int = 0
    sent: frozenset[tuple[int, int]] = frozenset()  # (target, copy): delivered later, twice, never
    puts: tuple[tuple[Dot, frozenset[int]], ...] = ()  # the dot of each, and who has fsynced it
    crashes: int = 0
    stops: int = 0
    removals: int = 0


def changed(row: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*row[:place], value, *row[place + 1 :])


@dataclass
class Model:
    coordinators: tuple[int, ...]
    puts: int
    crashes: int = 1
    stops: int = 0
    removals: int = 1
    replica: type[Loaded] = Loaded
    copies: list[Copy | None] = field(default_factory=lambda: [None])
    numbers: dict[Copy, int] = field(default_factory=dict)
    done: dict[tuple[object, ...], tuple[int, ...]] = field(default_factory=dict)

    def number(self, copy: Copy) -> int:
        if copy not in self.numbers:
            self.numbers[copy] = len(self.copies)
            self.copies.append(copy)
        return self.numbers[copy]

    # The three steps that the product takes, each done once for equal input.

    def write(self, base: tuple[int, int], about: About, put: int) -> tuple[int, ...]:
        """(new copy, copy as sent, counter, drawn, actor, counter of the dot)"""
        step = ("write", base, about, put)
        if step not in self.done:
            replica = self.replica(self.copies[base[0]], self.copies[base[1]], about)
            request = Put(KEY, b"value", MODE_BLIND, b"", b"put %012d" % put)
            record, _batch = replica.write(request, TOKEN, replica.newest(KEY, TOKEN), {}, 1)
            _key, received = decode_entry(encode_entry(KEY, record))
            [dot] = [s.dot for s in record.value.siblings if s.op_id == request.op_id]
            dice = replica._dice
            assert isinstance(dice, Dice)
            own, sent = self.number(replica.frozen_overlay()), self.number(freeze(received))
            self.done[step] = (own, sent, replica.counter, dice.drawn, *dot)
        return self.done[step]

    def merge(self, base: tuple[int, int], incoming: int) -> int:
        """The newest copy afterwards."""
        step = ("merge", base, incoming)
        if step not in self.done:
            replica = self.replica(self.copies[base[0]], self.copies[base[1]], About(0, 1, 1, 0, 0))
            copy = self.copies[incoming]
            assert copy is not None
            replica.merge([(KEY, thaw(copy))], barrier=0)
            self.done[step] = (self.number(replica.frozen_overlay()),)
        return self.done[step][0]

    def commit(self, overlay: int) -> int:
        """What is on disk afterwards."""
        step = ("commit", overlay)
        if step not in self.done:
            replica = self.replica(None, self.copies[overlay], About(0, 1, 1, 0, 0))
            batch = replica.take_batch()
            assert batch is not None
            [(_token, _key, stored)] = batch.records
            replica.on_committed(batch)
            assert not replica.is_dirty
            record = decode_stored(stored, cluster_id=CLUSTER_ID, key=KEY)
            self.done[step] = (self.number(freeze(record)),)
        return self.done[step][0]

    # Everything that may happen next.

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        for node in self.coordinators:
            if len(s.puts) < self.puts:
                yield self._put(s, node)
            if s.overlay[node] and s.crashes < self.crashes:
                run = s.runs[node][0] + 1
                yield (
                    f"crash {NAMES[node]}",
                    s._replace(
                        overlay=changed(s.overlay, node, NO_COPY),
                        runs=changed(s.runs, node, (run, run)),
                        crashes=s.crashes + 1,
                    ),
                )
            if not s.overlay[node] and s.stops < self.stops:
                run, first = s.runs[node]
                runs = changed(s.runs, node, (run + 1, first))
                yield f"clean stop {NAMES[node]}", s._replace(runs=runs, stops=s.stops + 1)
            if self._may_remove(s, node):
                committed = changed(s.committed, node, NO_COPY)
                yield (
                    f"remove from {NAMES[node]}",
                    s._replace(committed=committed, removals=s.removals + 1),
                )
        for target, copy in s.sent:
            base = (s.committed[target], s.overlay[target])
            merged = self.merge(base, copy)
            if merged not in base or (base[1] and merged != base[1]):
                overlay = changed(s.overlay, target, merged)
                yield f"merge at {NAMES[target]}", s._replace(overlay=overlay)
        for node in NODES:
            if s.overlay[node]:
                yield self._commit(s, node)

    def _put(self, s: State, node: int) -> tuple[str, State]:
        about = About(node, *s.runs[node], s.counters[node], s.drawn)
        base = (s.committed[node], s.overlay[node])
        own, sent, counter, drawn, actor, last = self.write(base, about, len(s.puts))
        return (
            f"put {len(s.puts) + 1} at {NAMES[node]}",
            s._replace(
                overlay=changed(s.overlay, node, own),
                counters=changed(s.counters, node, counter),
                drawn=drawn,
                sent=s.sent | {(owner, sent) for owner in OWNERS if owner != node},
                puts=(*s.puts, ((actor, last), frozenset())),
            ),
        )

    def _commit(self, s: State, node: int) -> tuple[str, State]:
        on_disk = self.commit(s.overlay[node])
        held = self.writes(on_disk)
        return (
            f"commit at {NAMES[node]}",
            s._replace(
                committed=changed(s.committed, node, on_disk),
                overlay=changed(s.overlay, node, NO_COPY),
                puts=tuple(
                    (dot, acked | {node} if put in held else acked)
                    for put, (dot, acked) in enumerate(s.puts)
                ),
            ),
        )

    def _may_remove(self, s: State, node: int) -> bool:
        """As a rule of ownership or hints may: when W other owners hold all that this one has."""
        if not s.committed[node] or s.overlay[node] or s.removals >= self.removals:
            return False
        held = self.writes(s.committed[node])
        others = [n for n in OWNERS if n != node and held <= self.writes(s.committed[n])]
        return len(others) >= W

    def writes(self, copy: int) -> frozenset[int]:
        """The puts whose values a reader of this copy is shown."""
        found = self.copies[copy]
        return frozenset(int(x.op_id[4:]) for x in found.siblings) if found else frozenset()

    def is_lost(self, s: State) -> bool:
        """Is an acknowledged put gone from every disk?"""
        left: frozenset[int] = frozenset().union(*(self.writes(copy) for copy in s.committed))
        return any(len(acked) >= W and put not in left for put, (_, acked) in enumerate(s.puts))

    @staticmethod
    def is_minted_twice(s: State) -> bool:
        return len({dot for dot, _ in s.puts}) < len(s.puts)


def search(model: Model, *is_bad: Callable[[State], bool]) -> tuple[int, list[str]]:
    """(states, the shortest way to a bad one): breadth first, every state once."""
    found = exhaustive.search(
        State(), model.steps, lambda state: "bad" if any(bad(state) for bad in is_bad) else ""
    )
    return found.states, found.way


A, F = 0, 3


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Model((A,), puts=3), 3_922),
        (Model((F,), puts=3), 83_415),
        (Model((A, F), puts=2), 13_330),
        (Model((A,), puts=3, stops=1), 13_523),
    ],
    ids=["an owner", "the fallback", "an owner and the fallback", "an owner that also stops"],
)
def test_no_acknowledged_put_is_lost_under_the_actor_mark_rule(model: Model, expected: int) -> None:
    states, way = search(model, model.is_lost, model.is_minted_twice)
    print(f"{states:,} states, {len(model.done):,} steps of the product")
    assert way == []
    assert states == expected  # a change of the model or of the rule: look again


def counter_example(model: Model) -> list[str]:
    states, way = search(model, model.is_lost)
    print(f"{states:,} states; lost in {len(way)} steps: {', '.join(way)}")
    return way


def test_the_model_finds_the_loss_if_a_node_has_one_actor() -> None:
    assert len(counter_example(Model((A,), puts=2, replica=OneActorPerNode))) == 11


def test_the_model_finds_the_loss_if_an_absent_copy_gets_its_old_actor() -> None:
    way = counter_example(Model((A,), puts=2, replica=OldActorOnAnAbsentCopy))
    assert "remove from A" in way
    assert len(way) == 12


def test_the_model_finds_the_dot_minted_twice_if_a_mark_outlives_a_crash() -> None:
    model = Model((A,), puts=3, replica=MarkKeptAcrossACrash)
    states, way = search(model, model.is_minted_twice)
    print(f"{states:,} states; minted twice in {len(way)} steps: {', '.join(way)}")
    assert "crash A" in way
    assert len(way) == 5
