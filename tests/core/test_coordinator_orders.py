"""Every order of every delivery, commit and failure of one request, for N ≤ 3, on real nodes.

The search walks over *local histories*. A node is a function of the events that it was fed, in
their order, so two interleavings that feed each node the same are one state, however the nodes'
steps were mixed; each state is entered once, and the orders that lead through it are counted. What
is checked at the moment of an answer is checked on every step that can give one.

Events: a packet arrives (in any order, also on one link), a batch is committed, the coordinator's
link to a peer breaks, a late read asks the rest of the owners; and in every state once more, the
deadline passes and everything that is still under way arrives late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations, product

import pytest

from dynagent import limits
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
from tests.core.harness import IDS, Cluster, Disk, Packet, make_ring

A, B, C = IDS[:3]
KEY, OURS = b"key", b"o" * 16
FIRST, SECOND = b"1" * 16, b"2" * 16  # op-ids of earlier writes
RINGS = {n: make_ring(n) for n in (1, 2, 3)}
Event = tuple[object, ...]
Rows = dict[NodeId, dict[bytes, bytes]]


# --- where it starts: what lies on the disks -----------------------------------------------------


def put(
    value: bytes | None,
    op_id: bytes,
    mode: int = MODE_BLIND,
    *,
    attempt: int = 1,
    r: int = 0,
    w: int = 0,
) -> Put:
    return Put(KEY, value, mode, b"", op_id, attempt, r, w, True)


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
            "known at the others": history(n, (B, ours, everyone[1:])),
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
    unordered: bool = False  # packets overtake each other on one link, too
    doubled: bool = False  # each packet arrives a second time
    dots_max: int = 1  # 2: a retry whose read may miss the first attempt

    @property
    def r(self) -> int:
        return self.request.r or self.n // 2 + 1

    @property
    def w(self) -> int:
        return (isinstance(self.request, Put) and self.request.w) or self.n // 2 + 1


def behaviours(case: Case, *, twins: bool = False) -> Iterator[Case]:
    """The case with every peer well, down, refusing or breaking, in all combinations; `twins`:
    the peers hold the same, so that it does not matter which is which."""
    peers, kinds = IDS[1 : case.n], ("well", "down", "refusing", "breaking")
    for chosen in product(kinds, repeat=len(peers)):
        if twins and [kinds.index(kind) for kind in chosen] != sorted(map(kinds.index, chosen)):
            continue
        of_kind = {
            kind: frozenset(p for p, k in zip(peers, chosen, strict=True) if k == kind)
            for kind in kinds
        }
        yield replace(
            case,
            down=of_kind["down"],
            refusing=of_kind["refusing"],
            breaking=of_kind["breaking"],
        )


# --- one run -------------------------------------------------------------------------------------


class World:
    """A cluster with one request under way, and the names of all that may happen next."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.cluster = Cluster(RINGS[case.n])
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
        first: dict[tuple[NodeId, NodeId], Event] = {}
        for name, packet in self.packets.items():
            first.setdefault((packet.source, packet.target), name)
        names = self.packets if self.case.unordered else first.values()
        found = [(self.packets[name].target, name) for name in names]
        for id_, node in self.cluster.nodes.items():
            if node.replica.is_dirty:
                found.append((id_, ("commit",)))
        found += [(A, ("break", id_)) for id_ in self.case.breaking - self.broken]
        coordinator = self.cluster.nodes[A].coordinator
        assert coordinator is not None
        if any(op.due < op.deadline for op in coordinator.operations.values()):
            found.append((A, ("hedge",)))
        return found

    def step(self, who: NodeId, event: Event) -> None:
        if event[0] == "commit":
            self.cluster.commit(who)
        elif event[0] == "hedge":
            self.cluster.tick(limits.HEDGE_S)
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
        if BY_CODE[answer.error].definite and isinstance(case.request, Put):
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


def check_done(world: World) -> None:
    """When every peer has answered or is gone: nothing waits for the deadline."""
    assert len(world.cluster.answers) == 1
    for node in world.cluster.nodes.values():
        assert node.coordinator is not None
        assert node.coordinator.operations == {}
        assert node.coordinator.next_deadline() is None


def check_end(world: World) -> None:
    """When the deadline has passed and nothing more can come."""
    check_done(world)
    assert all(node.is_idle for node in world.cluster.nodes.values())
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
        return self._visit([], dict.fromkeys(IDS[: self.case.n], ()), world)

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
        if not events:
            check_done(world)
        self._end(world)
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

    def _end(self, world: World) -> None:
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
    """What a test has explored, and how its requests ended."""

    orders: int = 0
    states: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def explore(self, cases: Iterable[Case]) -> int:
        """The number of orders; all kinds of outcomes must have been seen."""
        for case in cases:
            search = Search(case)
            self.orders += search.run()
            self.states += search.states
            self.outcomes += search.outcomes
        print(f"{self.orders:,} orders of {self.states:,} states: {dict(self.outcomes)}")
        assert self.outcomes["Error"]
        assert self.outcomes["GetReply"] + self.outcomes["PutReply"]
        return self.orders


def gets(n: int) -> Iterator[Case]:
    found = starts(n)
    same = found["the same everywhere"]
    found |= {f"damaged at {id_[0]}": damaged(same, id_) for id_ in IDS[:n]}
    for rows, r in product(found.values(), range(1, n + 1)):
        yield from behaviours(Case(n=n, rows=rows, request=Get(KEY, r, True), unordered=True))


def plain_puts(n: int) -> Iterator[Case]:
    """First attempts that write at once: blind, with a context, and deletes with one."""
    for rows, w in product(starts(n).values(), range(1, n + 1)):
        for value, context in (
            (b"ours", b""),
            (b"ours", context_of(rows)),
            (None, context_of(rows)),
        ):
            request = put(value, OURS, MODE_CONTEXT if context else MODE_BLIND, w=w)
            request.context = context
            yield from behaviours(Case(n=n, rows=rows, request=request), twins=True)


def overwrites(n: int) -> Iterator[Case]:
    """First attempts that read first. For N=3 one start with every R and W, the others with 2."""
    for (name, rows), value in product(starts(n).items(), (b"ours", None)):
        is_main = name == "an old copy here" and value is not None
        is_other = name in ("an old copy here", "nothing", "siblings apart")
        for r, w in product(range(1, n + 1), repeat=2):
            if n < 3 or is_main or (is_other and value is None and r == w == 2):
                request = put(value, OURS, MODE_OVERWRITE, r=r, w=w)
                yield from behaviours(Case(n=n, rows=rows, request=request), twins=True)


def later_attempts(n: int) -> Iterator[Case]:
    for (name, rows), mode in product(retries(n).items(), (MODE_BLIND, MODE_OVERWRITE)):
        # The mode matters only to a retry that mints.
        is_main = mode == MODE_BLIND or name == "unknown"
        for r, w in product(range(1, n + 1), repeat=2):
            if n < 3 or (is_main and r == w):
                request = put(b"ours", OURS, mode, attempt=2, r=r, w=w)
                dots_max = 2 if may_mint_again(request, rows) else 1
                yield from behaviours(Case(n=n, rows=rows, request=request, dots_max=dots_max))


def may_mint_again(retry: Put, rows: Rows) -> bool:
    """Can R owners be asked of which none has heard of the first attempt?"""
    disks = disks_with(rows)
    knows = [id_ for id_ in rows if holds(retry, disks[id_].record(KEY))]
    return bool(knows) and A not in knows and retry.r + len(knows) <= len(rows)


def with_overtaking(n: int) -> Iterator[Case]:
    """An overwrite whose read is answered after its merge, and a retry that fetches."""
    rows, there = starts(n)["an old copy here"], retries(n)["known there only"]
    request = put(b"ours", OURS, MODE_OVERWRITE)
    for breaking in (frozenset[NodeId](), frozenset([C])):
        yield Case(n=n, rows=rows, request=request, breaking=breaking, unordered=True)
    retry = put(b"ours", OURS, attempt=2, r=n)
    yield Case(n=n, rows=there, request=retry, breaking=frozenset([B]), unordered=True)


def with_doubles(n: int) -> Iterator[Case]:
    """One request of each kind, each packet of which arrives twice."""
    rows, there = starts(n)["an old copy here"], retries(n)["known there only"]
    found = [(rows, put(b"ours", OURS)), (rows, put(b"ours", OURS, MODE_OVERWRITE))]
    found.append((there, put(b"ours", OURS, attempt=2)))
    for breaking in (frozenset[NodeId](), frozenset([B])):
        yield Case(n=n, rows=rows, request=Get(KEY, strict=True), breaking=breaking, doubled=True)
        for start, request in found:
            yield Case(n=n, rows=start, request=request, breaking=breaking, doubled=True)


def disks_with(rows: Rows) -> dict[NodeId, Disk]:
    return {id_: Disk(dict(held)) for id_, held in rows.items()}


def context_of(rows: Rows) -> bytes:
    """What a client that read at all nodes would hand back."""
    merged = merge_all(disk.record(KEY).value for disk in disks_with(rows).values())
    return encode_context(merged.clock, key=KEY)


# How many orders there are at least, so that nobody narrows a search without noticing.


@pytest.mark.parametrize(("n", "orders"), [(1, 3), (2, 80), (3, 17_000)])
def test_every_order_of_a_get_ends_in_one_answer_made_of_r_copies(n: int, orders: int) -> None:
    assert Total().explore(gets(n)) >= orders


@pytest.mark.parametrize(("n", "orders"), [(1, 6), (2, 700), (3, 200_000)])
def test_every_order_of_a_put_ends_in_one_answer_that_is_true(n: int, orders: int) -> None:
    assert Total().explore(plain_puts(n)) >= orders


@pytest.mark.parametrize(("n", "orders"), [(1, 4), (2, 900), (3, 1_000_000)])
def test_every_order_of_an_overwrite_ends_in_one_answer_that_is_true(n: int, orders: int) -> None:
    assert Total().explore(overwrites(n)) >= orders


@pytest.mark.parametrize(("n", "orders"), [(1, 4), (2, 650), (3, 1_000_000)])
def test_every_order_of_a_retry_ends_in_one_answer_that_is_true(n: int, orders: int) -> None:
    assert Total().explore(later_attempts(n)) >= orders


def test_packets_that_overtake_each_other_change_nothing() -> None:
    assert Total().explore(with_overtaking(3)) >= 80_000


def test_packets_that_arrive_twice_change_nothing() -> None:
    assert Total().explore(with_doubles(2)) >= 60_000
