"""Every order of every delivery, commit and failure of one request, for N ≤ 3, on real nodes.

The search walks over *local histories*. A node is a function of the events that it was fed, in
their order, so two interleavings that feed each node the same are one state, however the nodes'
steps were mixed; each state is entered once, and the orders that lead through it are counted. What
is checked at the moment of an answer is checked on every step that can give one. For the same
reason each local history is played once (`Local`), whatever the other nodes do meanwhile; a state
is a combination of some.

Events: a packet arrives (in any order, also on one link), a batch is committed, the coordinator's
link to a peer breaks, a late read asks the rest of the owners; and in every state once more, the
deadline passes and everything that is still under way arrives late.

Two things are left out because another order has them:

- The deadline before a step of a peer that could be next: it is an event of the coordinator alone,
  so it may as well come behind that step.
- A peer that is merely well: one whose link may break does the same until it breaks.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from math import inf

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
    Message,
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
    """The case with every peer down, refusing or breaking, in all combinations; `twins`: the peers
    hold the same, so that it does not matter which is which."""
    peers, kinds = IDS[1 : case.n], ("down", "refusing", "breaking")
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


Step = tuple[str, Packet | NodeId | None]  # what one node is fed


class Local:
    """One node behind its local history: what can be seen of it, and what its last step gave."""

    def __init__(self, case: Case, id_: NodeId, steps: tuple[Step, ...], cluster: Cluster) -> None:
        self._case = case
        self._id = id_
        self._cluster: Cluster | None = cluster  # until a step leads on from here
        self.steps = steps
        node = cluster.nodes[id_]
        assert node.coordinator is not None
        operations = node.coordinator.operations.values()
        self.sent, cluster.wire = cluster.wire, []
        self.answers, cluster.answers = cluster.answers, []
        self.disk = Disk(dict(cluster.disks[id_].rows))
        self.is_dirty = node.replica.is_dirty
        self.is_idle = node.is_idle
        self.is_done = not operations and node.coordinator.due == inf
        self.may_hedge = any(op.due < op.deadline for op in operations)

    def after(self, step: Step) -> Local:
        cluster, self._cluster = self._cluster or self._replay(), None
        feed(cluster, self._id, step, is_refusing=self._id in self._case.refusing)
        return Local(self._case, self._id, (*self.steps, step), cluster)

    def _replay(self) -> Cluster:
        cluster = begin(self._case, self._id)
        for step in self.steps:
            feed(cluster, self._id, step, is_refusing=self._id in self._case.refusing)
        cluster.wire.clear()
        cluster.answers.clear()
        return cluster


def begin(case: Case, id_: NodeId) -> Cluster:
    """One node of the case, alone."""
    cluster = Cluster(RINGS[case.n], running=(id_,))
    cluster.without_healer(id_)  # what it does is no part of a request
    cluster.disks[id_].rows = dict(case.rows[id_])
    if id_ == A:
        for peer in case.down:
            cluster.nodes[A].on_peer_down(0, peer)
        cluster.request(A, case.request)
    return cluster


def feed(cluster: Cluster, id_: NodeId, step: Step, *, is_refusing: bool) -> None:
    what, about = step
    if isinstance(about, Packet):
        if isinstance(about.message, Merge) and is_refusing:
            refusal = Error(Overloaded.code, "full")
            cluster.wire.append(Packet(id_, about.source, about.number, refusal, None))
        else:
            cluster.deliver(about)
    elif about is not None:
        cluster.nodes[id_].on_peer_down(0, about)
    elif what == "commit":
        cluster.commit(id_)
    else:
        cluster.tick(limits.HEDGE_S if what == "hedge" else 1.0)


class Locals:
    """The nodes of a case behind every local history that has come up."""

    def __init__(self, case: Case) -> None:
        self._known: dict[tuple[NodeId, tuple[Step, ...]], Local] = {}
        self._packets: dict[tuple[object, ...], Packet] = {}
        self.first = {
            id_: self._enter(id_, Local(case, id_, (), begin(case, id_))) for id_ in IDS[: case.n]
        }

    def after(self, id_: NodeId, local: Local, step: Step) -> Local:
        known = self._known.get((id_, (*local.steps, step)))
        return known or self._enter(id_, local.after(step))

    def _enter(self, id_: NodeId, local: Local) -> Local:
        local.sent = [self._same(packet) for packet in local.sent]
        self._known[id_, local.steps] = local
        return local

    def _same(self, packet: Packet) -> Packet:
        """Two that are alike in everything are one, so that histories can be compared."""
        p = packet
        alike = (p.source, p.target, p.number, p.budget_ms, repr(p.message))
        return self._packets.setdefault(alike, p)


class World:
    """A cluster with one request under way, and the names of all that may happen next."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.known = Locals(case)
        self.locals = self.known.first
        self.answers: list[tuple[int, Message]] = []
        self.broken: frozenset[NodeId] = frozenset()
        self.packets: dict[Event, Packet] = {}
        self.sent: Counter[tuple[NodeId, NodeId]] = Counter()
        self.merges_sent = False
        for local in self.locals.values():
            self._observe(local)

    @property
    def disks(self) -> dict[NodeId, Disk]:
        return {id_: local.disk for id_, local in self.locals.items()}

    def events(self) -> list[tuple[NodeId, Event]]:
        """(who changes, what happens) of everything that can happen now."""
        first: dict[tuple[NodeId, NodeId], Event] = {}
        for name, packet in self.packets.items():
            first.setdefault((packet.source, packet.target), name)
        names = self.packets if self.case.unordered else first.values()
        found = [(self.packets[name].target, name) for name in names]
        for id_, local in self.locals.items():
            if local.is_dirty:
                found.append((id_, ("commit",)))
        found += [(A, ("break", id_)) for id_ in sorted(self.case.breaking - self.broken)]
        if self.locals[A].may_hedge:
            found.append((A, ("hedge",)))
        return found

    def after(self, who: NodeId, event: Event) -> World:
        """The world behind one more event; this one stays as it is."""
        world = copy(self)
        world.packets, world.sent = dict(self.packets), Counter(self.sent)
        kind, about = str(event[0]), None
        if kind == "break":
            about = NodeId(str(event[1]))
            world.broken = self.broken | {about}
        step: Step = (kind, world.packets.pop(event) if kind == "packet" else about)
        local = self.known.after(who, self.locals[who], step)
        world.locals = {**self.locals, who: local}
        world._observe(local)
        return world

    def _observe(self, local: Local) -> None:
        """Names new packets by link and place, which depend on their sender's history alone."""
        self.answers = self.answers + local.answers
        for packet in local.sent:
            link = (packet.source, packet.target)
            self.merges_sent |= isinstance(packet.message, Merge)
            for number in (0, 1) if self.case.doubled else (0,):
                self.packets["packet", *link, self.sent[link], number] = packet
            self.sent[link] += 1
        for name, packet in list(self.packets.items()):
            if packet.budget_ms is None and packet.source in self.broken:
                del self.packets[name]  # a reply cannot come by a link that is gone

    def behind_deadline(self) -> World:
        """Time is up; then all that was under way arrives. Peers, for whom nothing is up, look at
        their clocks last: before that they do what they would have done in time."""
        world = self
        for id_ in self.locals:
            world = world.after(id_, ("deadline",))
            while events := world.events():
                world = world.after(*events[0])
        return world


# --- what must hold ------------------------------------------------------------------------------


def check_answer(world: World) -> None:
    """At the moment of the answer."""
    [(_number, answer)] = world.answers
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
            assert not any(local.is_dirty for local in world.locals.values())
            assert {id_: d.rows for id_, d in world.disks.items()} == case.rows


def stored(world: World) -> dict[NodeId, Record]:
    """The durable copies; a damaged one is none."""
    copies = {}
    for id_ in IDS[: world.case.n]:
        with suppress(CorruptRecord):
            copies[id_] = world.disks[id_].record(KEY)
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
    for value in copies:
        merged = merged.merge(value)
    return merged


def check_done(world: World) -> None:
    """When every peer has answered or is gone: nothing waits for the deadline."""
    assert len(world.answers) == 1
    assert all(local.is_done for local in world.locals.values())


def check_end(world: World) -> None:
    """When the deadline has passed and nothing more can come."""
    check_done(world)
    assert all(local.is_idle for local in world.locals.values())
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
        if world.answers:
            check_answer(world)
        return self._visit(dict.fromkeys(IDS[: self.case.n], ()), world)

    def _visit(self, past: dict[NodeId, tuple[Event, ...]], world: World) -> int:
        self.states += 1
        events = world.events()
        orders = 0
        for who, event in events:
            after = {**past, who: (*past[who], event)}
            known = self.orders_from.get(tuple(after.values()))
            if known is None or who == A:  # only the coordinator answers
                child = world.after(who, event)
                if len(child.answers) > len(world.answers):
                    check_answer(child)
                if known is None:
                    known = self._visit(after, child)
            orders += known
        if all(event[0] == "break" for _, event in events):
            check_done(world)
        if not events or events[0][0] == A:
            self._end(world)
        self.orders_from[tuple(past.values())] = orders or 1
        return orders or 1

    def _end(self, world: World) -> None:
        end = world.behind_deadline()
        check_end(end)
        if not world.answers:
            check_late_answer(end)
        self.outcomes[type(end.answers[0][1]).__name__] += 1


def check_late_answer(world: World) -> None:
    """What the deadline itself answers: never success."""
    [(_number, answer)] = world.answers
    assert isinstance(answer, Error)
    if BY_CODE[answer.error].definite:
        assert not world.merges_sent
        assert {id_: d.rows for id_, d in world.disks.items()} == world.case.rows


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
            gc.collect()  # the nodes of this case
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
                # Both peers are asked at once, or none of them.
                twins = r in (1, n) and name in ("unknown", "known here")
                case = Case(n=n, rows=rows, request=request, dots_max=dots_max)
                yield from behaviours(case, twins=twins)


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


@pytest.fixture(autouse=True, scope="module")
def collected_between_cases() -> Iterator[None]:
    """A case keeps thousands of nodes, which the collector would look through again and again."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


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
