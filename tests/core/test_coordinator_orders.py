"""Every order of every delivery, commit and failure of one request, for N ≤ 3, on real nodes.

The search walks over *local histories*. A node is a function of the events that it was fed, in
their order, so two interleavings that feed each node the same are one state, however the nodes'
steps were mixed; each state is entered once, and the orders that lead through it are counted. What
is checked at the moment of an answer is checked on every step that can give one.

Events: a packet arrives (in any order, also on one link), a batch is committed, the coordinator's
link to a peer breaks; and in every state once more, the deadline passes and everything that is
still under way arrives late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations, product

import pytest

from dynagent.core.entry import ABSENT, Record, decode_context, encode_context
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_CONTEXT,
    MODE_OVERWRITE,
    Error,
    Get,
    GetReply,
    Merge,
    Put,
    PutReply,
)
from dynagent.core.ports import NodeId
from dynagent.core.siblings import EMPTY, Siblings
from dynagent.core.version import Version
from dynagent.errors import BY_CODE, CorruptRecord, Overloaded
from tests.core.harness import IDS, Cluster, Packet, make_ring

A, B, C = IDS[:3]
KEY, OURS = b"key", b"o" * 16
FIRST, SECOND = b"1" * 16, b"2" * 16  # op-ids of earlier writes
Event = tuple[object, ...]
Rows = dict[NodeId, dict[bytes, bytes]]


# --- where it starts: what lies on the disks -----------------------------------------------------


def put(value: bytes | None, op_id: bytes, mode: int = MODE_BLIND, **more: int) -> Put:
    return Put(KEY, value, mode, b"", op_id, **more)


def history(n: int, *steps: tuple[NodeId, Put, str]) -> Rows:
    """The disks after some writes, of each of which only the nodes named have heard."""
    cluster = Cluster(make_ring(n))
    for coordinator, request, heard in steps:
        cluster.request(coordinator, request)
        for packet in [p for p in cluster.wire if p.target[0] not in heard]:
            cluster.wire.remove(packet)
        cluster.settle()
        cluster.tick(cluster.now + 1)
    return {id_: dict(disk.rows) for id_, disk in cluster.disks.items()}


def damaged(rows: Rows, *nodes: NodeId) -> Rows:
    return {
        id_: {key: stored[:-1] + b"?" for key, stored in held.items()} if id_ in nodes else held
        for id_, held in rows.items()
    }


def starts(n: int) -> dict[str, Rows]:
    """What a get or a first attempt may meet."""
    everyone = "abc"[:n]
    blind, last = put(b"1", FIRST), IDS[n - 1]
    found = {
        "nothing": history(n),
        "the same everywhere": history(n, (A, blind, everyone)),
    }
    if n > 1:
        second = put(b"2", SECOND, MODE_OVERWRITE, r=1)
        found |= {
            "an old copy here": history(n, (A, blind, everyone), (last, second, everyone[1:])),
            "nothing here": history(n, (last, blind, everyone[1:])),
            "siblings apart": history(n, (A, blind, "a"), (last, put(b"2", SECOND), last[0])),
        }
    return found


def retries(n: int) -> dict[str, Rows]:
    """What a retry may meet: where its first attempt has got to."""
    everyone, ours = "abc"[:n], put(b"ours", OURS)
    found = {"unknown": history(n), "known here": history(n, (A, ours, "a"))}
    if n > 1:
        second = put(b"2", SECOND, MODE_OVERWRITE, r=1)
        found |= {
            "known everywhere": history(n, (A, ours, everyone)),
            "known there only": history(n, (B, ours, "b")),
            "superseded there only": history(n, (B, ours, "b"), (B, second, "b")),
        }
    return found


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request at the first node, and how its peers behave."""

    n: int
    rows: Rows
    request: Get | Put
    down: frozenset[NodeId] = frozenset()  # before it starts
    refusing: frozenset[NodeId] = frozenset()  # answer each merge with Overloaded
    breaking: frozenset[NodeId] = frozenset()  # the link may break at any moment
    doubled: bool = False  # each packet arrives a second time
    dots_max: int = 1  # 2: a retry whose read may miss the first attempt

    @property
    def r(self) -> int:
        return self.request.r or self.n // 2 + 1

    @property
    def w(self) -> int:
        return (isinstance(self.request, Put) and self.request.w) or self.n // 2 + 1


def behaviours(case: Case) -> Iterator[Case]:
    """The case with every peer well, down, refusing or breaking, in all combinations."""
    peers = IDS[1 : case.n]
    for kinds in product(("well", "down", "refusing", "breaking"), repeat=len(peers)):
        named = {
            kind: frozenset(p for p, k in zip(peers, kinds, strict=True) if k == kind)
            for kind in kinds
        }
        named.pop("well", None)
        yield replace(case, **named)


# --- one run -------------------------------------------------------------------------------------


class World:
    """A cluster with one request under way, and the names of all that may happen next."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.cluster = Cluster(make_ring(case.n))
        for id_, rows in case.rows.items():
            self.cluster.disks[id_].rows = dict(rows)
        for id_ in case.down:
            self.cluster.nodes[A].on_peer_down(0, id_)
        self.broken: set[NodeId] = set()
        self.packets: dict[Event, Packet] = {}
        self.sent: Counter[tuple[NodeId, NodeId]] = Counter()
        self.merges_sent = False
        self.cluster.request(A, case.request)
        self._observe()

    def events(self) -> list[tuple[NodeId, Event]]:
        """(who changes, what happens) of everything that can happen now."""
        found = [(packet.target, name) for name, packet in self.packets.items()]
        for id_, node in self.cluster.nodes.items():
            if node.replica.is_dirty:
                found.append((id_, ("commit",)))
        found += [(A, ("break", id_)) for id_ in self.case.breaking - self.broken]
        return found

    def step(self, who: NodeId, event: Event) -> None:
        if event[0] == "commit":
            self.cluster.commit(who)
        elif event[0] == "break":
            [_, peer] = event
            self.broken.add(NodeId(str(peer)))
            self.cluster.nodes[A].on_peer_down(0, NodeId(str(peer)))
        else:
            self._arrive(self.packets.pop(event))
        self._observe()

    def _arrive(self, packet: Packet) -> None:
        if isinstance(packet.message, Merge) and packet.target in self.case.refusing:
            refusal = Error(Overloaded.code, "full")
            self.cluster.wire.append(
                Packet(packet.target, packet.source, packet.number, refusal, None)
            )
        else:
            self.cluster.deliver(packet)

    def _observe(self) -> None:
        """Names new packets by link and place, which depend on their sender's history alone."""
        for packet in self.cluster.wire:
            link = (packet.source, packet.target)
            self.merges_sent |= isinstance(packet.message, Merge)
            for copy in (0, 1) if self.case.doubled else (0,):
                self.packets["packet", *link, self.sent[link], copy] = packet
            self.sent[link] += 1
        self.cluster.wire.clear()
        for name, packet in list(self.packets.items()):
            if packet.budget_ms is None and packet.source in self.broken:
                del self.packets[name]  # a reply cannot come by a link that is gone

    def pass_deadline(self) -> None:
        """Time is up; then all that was under way arrives."""
        self.cluster.tick(1.0)
        while events := self.events():
            self.step(*events[0])


# --- what must hold ------------------------------------------------------------------------------


def check_answer(world: World) -> None:
    """At the moment of the answer."""
    [(_number, answer)] = world.cluster.answers
    case = world.case
    if isinstance(answer, PutReply):
        assert isinstance(case.request, Put)
        durable = [copy for copy in stored(world).values() if holds(case.request, copy)]
        assert len(durable) >= case.w or nothing_to_delete(world)
    elif isinstance(answer, GetReply):
        check_get(world, answer)
    else:
        assert isinstance(answer, Error)
        if BY_CODE[answer.error].definite:
            assert not world.merges_sent
            assert not any(node.replica.is_dirty for node in world.cluster.nodes.values())
            assert {id_: d.rows for id_, d in world.cluster.disks.items()} == case.rows


def stored(world: World) -> dict[NodeId, Record]:
    """The durable copies; a damaged one is none."""
    copies = {}
    for id_ in IDS[: world.case.n]:
        with suppress(CorruptRecord):
            copies[id_] = world.cluster.disks[id_].record(KEY)
    return copies


def holds(request: Put, record: Record) -> bool:
    present = [s for s in record.value.siblings if s.op_id == request.op_id]
    return bool(present) or request.op_id in record.op_ids


def nothing_to_delete(world: World) -> bool:
    request = world.case.request
    assert isinstance(request, Put)
    return request.value is None and not stored(world).get(A, ABSENT).value.clock


def check_get(world: World, answer: GetReply) -> None:
    """The answer is the merge of at least R copies, and so is its context."""
    case = world.case
    assert answer.answered >= case.r
    copies = [copy.value for copy in stored(world).values() if not copy.unknown]
    context = decode_context(answer.context, key=KEY)
    values = sorted(Version(data).value for data in answer.siblings)
    for chosen in combinations(copies, answer.answered):
        merged = merge_all(chosen)
        shown = sorted(Version(s.data).value for s in merged.siblings)
        if (merged.clock, shown) == (context, values):
            return
    raise AssertionError(f"{values} under {context} is the merge of no {answer.answered} copies")


def merge_all(copies: Iterable[Siblings]) -> Siblings:
    merged = EMPTY
    for copy in copies:
        merged = merged.merge(copy)
    return merged


def check_end(world: World) -> None:
    """When nothing more can come."""
    assert len(world.cluster.answers) == 1
    for node in world.cluster.nodes.values():
        assert node.coordinator is not None
        assert node.coordinator.operations == {}
        assert node.next_deadline() is None
        assert node.is_idle
    request = world.case.request
    if isinstance(request, Put):
        dots = {
            s.dot
            for copy in stored(world).values()
            for s in copy.value.siblings
            if s.op_id == request.op_id
        }
        assert len(dots) <= world.case.dots_max


# --- the search ----------------------------------------------------------------------------------

Path = list[tuple[NodeId, Event]]
State = tuple[tuple[Event, ...], ...]


@dataclass
class Search:
    case: Case
    states: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    orders_from: dict[State, int] = field(default_factory=dict)

    def run(self) -> int:
        """The number of orders, all of which have been checked."""
        world = World(self.case)
        if world.cluster.answers:
            check_answer(world)
        return self._visit([], {id_: () for id_ in IDS[: self.case.n]}, world)

    def _visit(self, path: Path, past: dict[NodeId, tuple[Event, ...]], world: World) -> int:
        state = tuple(past.values())
        self.states += 1
        events = world.events()
        orders = 0
        for event in events:
            who = event[0]
            after = {**past, who: (*past[who], event[1])}
            known = self.orders_from.get(tuple(after.values()))
            if known is None or who == A:  # only the coordinator answers
                child = self._replay([*path, event])
                known = self.orders_from.get(tuple(after.values()))
                if known is None:
                    known = self._visit([*path, event], after, child)
            orders += known
        self._end(path)
        self.orders_from[state] = orders or 1
        return orders or 1

    def _replay(self, path: Path) -> World:
        world = World(self.case)
        for event in path[:-1]:
            world.step(*event)
        before = len(world.cluster.answers)
        if path:
            world.step(*path[-1])
        if len(world.cluster.answers) > before:
            check_answer(world)
        return world

    def _end(self, path: Path) -> None:
        world = self._replay(path)
        was_answered = bool(world.cluster.answers)
        world.pass_deadline()
        check_end(world)
        if not was_answered:
            check_late_answer(world)
        self.outcomes[type(world.cluster.answers[0][1]).__name__] += 1


def check_late_answer(world: World) -> None:
    """What the deadline itself answers: never success."""
    [(_number, answer)] = world.cluster.answers
    assert isinstance(answer, Error)
    if BY_CODE[answer.error].definite:
        assert not world.merges_sent
        assert {id_: d.rows for id_, d in world.cluster.disks.items()} == world.case.rows


@dataclass
class Total:
    """What a test has explored, and how its requests ended: an outcome never seen is a blind test."""

    orders: int = 0
    states: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def explore(self, cases: Iterable[Case]) -> Total:
        for case in cases:
            search = Search(case)
            self.orders += search.run()
            self.states += search.states
            self.outcomes += search.outcomes
        print(f"{self.orders:,} orders of {self.states:,} states: {dict(self.outcomes)}")
        return self


def gets(n: int) -> Iterator[Case]:
    found = starts(n)
    same = found["the same everywhere"]
    found |= {f"damaged at {id_[0]}": damaged(same, id_) for id_ in IDS[:n]}
    for rows, r in product(found.values(), range(1, n + 1)):
        yield from behaviours(Case(n=n, rows=rows, request=Get(KEY, r)))


def first_attempts(n: int) -> Iterator[Case]:
    for rows, w in product(starts(n).values(), range(1, n + 1)):
        for value, mode in product((b"ours", None), (MODE_CONTEXT, MODE_BLIND, MODE_OVERWRITE)):
            for r in range(1, n + 1) if mode == MODE_OVERWRITE else (0,):
                request = put(value, OURS, mode, r=r, w=w)
                if mode == MODE_CONTEXT:
                    request.context = context_of(rows)
                yield from behaviours(Case(n=n, rows=rows, request=request))


def context_of(rows: Rows) -> bytes:
    """What a client that read at all nodes would hand back."""
    cluster = Cluster(make_ring(len(rows)))
    for id_, held in rows.items():
        cluster.disks[id_].rows = dict(held)
    merged = merge_all(disk.record(KEY).value for disk in cluster.disks.values())
    return encode_context(merged.clock, key=KEY)


def later_attempts(n: int) -> Iterator[Case]:
    for (name, rows), mode in product(retries(n).items(), (MODE_BLIND, MODE_OVERWRITE)):
        for r, w in product(range(1, n + 1), repeat=2):
            dots_max = 2 if "there only" in name and r < n else 1
            request = put(b"ours", OURS, mode, attempt=2, r=r, w=w)
            yield from behaviours(Case(n=n, rows=rows, request=request, dots_max=dots_max))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_order_of_a_get_ends_in_one_answer_made_of_r_copies(n: int) -> None:
    total = Total().explore(gets(n))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_order_of_a_put_ends_in_one_answer_that_is_true(n: int) -> None:
    total = Total().explore(first_attempts(n))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_order_of_a_retry_ends_in_one_answer_that_is_true(n: int) -> None:
    total = Total().explore(later_attempts(n))
