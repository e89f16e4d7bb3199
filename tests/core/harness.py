"""A cluster of real nodes in which nothing moves by itself.

Effects are recorded: what a node sends lies in `wire` until a test delivers, drops, doubles or
reorders it; a batch is durable when the test says so. Disks are dicts and survive `restart`.
`settle` does everything that is left to do, in the order in which it came up.

Below the cluster: what the tests of single requests ask (`put`), and how they look at the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from dynagent import limits
from dynagent.core.coordinator import Operation
from dynagent.core.entry import ABSENT, Record, decode_stored
from dynagent.core.logrows import RING_ROW
from dynagent.core.messages import MODE_BLIND, Error, GetReply, Message, Put
from dynagent.core.node import Node
from dynagent.core.peer import Timing
from dynagent.core.ports import Batch, LinkId, NodeId, Token
from dynagent.core.question import Question
from dynagent.core.ring import Member, Ring, token_of
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.core.settings import Settings
from dynagent.core.version import Version
from dynagent.errors import DynagentError
from dynagent.store.markers import Markers

IDS = tuple(NodeId(letter * 16) for letter in "abcd")
CLIENT = LinkId(len(IDS))  # lower numbers are the links of the peers
CLUSTER_ID = b"c" * 16
KEY = b"key"  # of every request made here


def member(number: int, *, zone: str = "", capacity: int = 1) -> Member:
    """One of many, each on a host of its own."""
    return Member(
        id=NodeId(f"{number:016x}"),
        name=f"n{number}",
        address=f"10.0.0.{number}:7411",
        zone=zone,
        host=f"h{number}",
        capacity=capacity,
    )


def make_ring(n: int, *, others: int = 0, voters: Sequence[NodeId] = ()) -> Ring:
    """Every partition has the same owners, the first `n` ids; `others` own nothing. Without voters
    the ring stays as it is."""
    members = tuple(
        Member(id=id_, name=f"n-{id_[0]}", address="h:1", zone="", host=id_, capacity=1)
        for id_ in IDS[: n + others]
    )
    r, lists = n // 2 + 1, (IDS[:n],) * 8
    return Ring(
        epoch=1,
        cluster_id=CLUSTER_ID,
        n=n,
        r=r,
        w=r,
        members=members,
        lists=lists,
        voters=tuple(voters),
    )


# No probe or gossip comes between what a test sends.
QUIET = Timing(
    probe_interval_s=1e9,
    probe_timeout_s=1e9,
    gray_s=1e9,
    suspicion_s=1e9,
    gossip_interval_s=1e9,
)


@dataclass(slots=True, eq=False)
class Packet:
    """A request or a reply between two nodes, under way."""

    source: NodeId
    target: NodeId
    number: int
    message: Message
    budget_ms: int | None  # None for a reply


@dataclass(slots=True)
class Disk:
    """What is committed at one node."""

    rows: dict[bytes, bytes] = field(default_factory=dict)
    markers: Markers = field(default_factory=Markers)
    meta: dict[str, bytes] = field(default_factory=dict)
    numbered: dict[int, bytes] = field(default_factory=dict)
    strays: list[tuple[Token, bytes, bytes]] = field(default_factory=list)  # misplaced rows

    def get(self, token: Token, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def read_ahead(self, places: Sequence[tuple[Token, bytes]]) -> Sequence[bytes | None]:
        return [self.rows.get(key, b"") for _, key in places]

    def get_meta(self, name: str) -> bytes | None:
        return self.meta.get(name)

    def sums(self) -> list[tuple[int, bytes]]:
        return list(self.numbered.items())

    def scan(self, first: Token, last: Token) -> Iterator[tuple[Token, bytes, bytes]]:
        rows = [(token_of(key), key, stored) for key, stored in self.rows.items()]
        for token, key, stored in sorted(rows + self.strays):
            if first <= token <= last:
                yield token, key, stored

    def hints(self, target: NodeId, after: bytes, count: int) -> list[tuple[Token, bytes]]:
        return self.markers.read(target, after, count)

    def has_hint(self, target: NodeId, token: Token, key: bytes) -> bool:
        return self.markers.has(target, token, key)

    def hint_counts(self) -> dict[NodeId, int]:
        return self.markers.counts()

    def write(self, batch: Batch) -> None:
        for _token, key, stored in batch.records:
            if stored:
                self.rows[key] = stored
            else:
                self.rows.pop(key, None)
        self.strays = [row for row in self.strays if row[:2] not in batch.strays]
        self.markers.apply(batch.hints)
        self.meta.update(batch.meta)
        self.numbered.update(batch.sums)

    def record(self, key: bytes) -> Record:
        """What is durable here."""
        stored = self.rows.get(key)
        return ABSENT if stored is None else decode_stored(stored, cluster_id=CLUSTER_ID, key=key)


class Cluster:
    def __init__(
        self,
        ring: Ring | None,
        ids: Sequence[NodeId] = IDS,
        *,
        bounds: dict[str, int] | None = None,
        running: Sequence[NodeId] | None = None,
        rest_s: float = 0.0,
    ) -> None:
        """`running`: the nodes that are made, if not all."""
        self.bounds = bounds or {}  # of hints
        self.rest_s = rest_s  # of tombstones; 0: they are never purged
        self.ring = ring
        self.wire: list[Packet] = []
        self.answers: list[tuple[int, Message]] = []  # (request id, reply) to clients
        self.adopting: list[tuple[NodeId, Ring, LinkId, int]] = []
        self.fresh: set[NodeId] = set()  # they were made without a ring
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.now = 0.0
        present = ids if ring is None else [member.id for member in ring.members]
        self.disks = {id_: Disk() for id_ in present}
        self.runs = dict.fromkeys(self.disks, 0)
        self.nodes: dict[NodeId, Node] = {}
        self.last_request = 0
        for id_ in self.disks if running is None else running:
            self.restart(id_)

    def restart(
        self, id_: NodeId, *, clean: bool = False, nonces: Sequence[bytes] | None = None
    ) -> Node:
        """A new run on the same disk; a clean stop joins it to the one before. `nonces`: of its
        starts, if they are not those of this node."""
        self.runs[id_] = run = self.runs[id_] + 1
        if nonces is None:
            nonces = [b"%s%07d" % (id_[:1].encode(), number) for number in range(1, run + 1)]
        clean_from_run = self.nodes[id_].replica.clean_from_run if clean else run
        effects = Recorder(self, id_)
        self.nodes[id_] = self._make(id_, effects, run, clean_from_run, nonces)
        self.nodes[id_].on_tick(self.now)  # the first one of gossip, which says how the node is
        effects.dialled.update(self.disks)
        for peer in self.disks:
            self.nodes[id_].on_peer_up(self.now, peer)
        return self.nodes[id_]

    def newborn(self, id_: NodeId) -> Node:
        """As `restart`, but beside the one that runs: only to look at."""
        run = self.runs[id_] + 1
        return self._make(id_, Recorder(Cluster(None, ()), id_), run, run, [b"newborn!"])

    def _make(
        self,
        id_: NodeId,
        effects: Recorder,
        run: int,
        clean_from_run: int,
        nonces: Sequence[bytes],
    ) -> Node:
        row = self.disks[id_].meta.get(RING_ROW)
        return Node(
            node_id=id_,
            ring=self.ring if row is None and id_ not in self.fresh else _ring_of(row),
            reader=self.disks[id_],
            effects=effects,
            dice=Random(f"{id_} {run}"),
            probe_dice=Random(f"{id_} {run} probes"),
            gossip_dice=Random(f"{id_} {run} gossip"),
            ring_dice=Random(f"{id_} {run} ring log"),
            wall_ms=lambda: 1_000,
            run=run,
            clean_from_run=clean_from_run,
            starts=nonces,
            settings=Settings(
                timing=QUIET,
                hint_bytes_max=self.bounds.get("hint_bytes_max", limits.HINT_BYTES_DEFAULT_MAX),
                owner_hints_max=self.bounds.get("owner_hints_max", limits.OWNER_HINTS_DEFAULT_MAX),
                antientropy_interval_s=0,
                tombstone_rest_s=self.rest_s,
            ),
        )

    def add(self, id_: NodeId) -> Node:
        """A fresh agent, which belongs to no cluster."""
        self.fresh.add(id_)
        self.disks[id_], self.runs[id_] = Disk(), 0
        return self.restart(id_)

    def adopt(self) -> None:
        """The rings that fresh agents were given are durable."""
        adopting, self.adopting = self.adopting, []
        for id_, ring, link, number in adopting:
            self.disks[id_].meta[RING_ROW] = encode_ring(ring)
            self.nodes[id_].on_adopted(self.now, ring, link, number)

    def without_healer(self, id_: NodeId) -> Callable[[], None]:
        """Until what is returned is called, nothing is healed there."""
        node = self.nodes[id_]
        assert node.healer is not None
        node.machines.remove(node.healer)
        return partial(node.machines.append, node.healer)

    def overwrite_row(self, id_: NodeId, stored: bytes) -> None:
        """Something else than the node has put that on its disk, and its cache has forgotten it."""
        self.disks[id_].rows[KEY] = stored
        self.nodes[id_].replica.forget(KEY)

    def request(self, id_: NodeId, message: Message, *, budget_ms: int = 1_000) -> int:
        self.last_request += 1
        self.nodes[id_].on_message(self.now, CLIENT, self.last_request, budget_ms, message)
        return self.last_request

    def ask(self, id_: NodeId, message: Message) -> Message:
        """A client's request, run to its end; its one answer."""
        number = self.request(id_, message)
        self.settle()
        [answer] = [message for request_id, message in self.answers if request_id == number]
        return answer

    def deliver(self, packet: Packet) -> None:
        """Hands it over; it leaves the wire if it was still there."""
        if packet in self.wire:
            self.wire.remove(packet)
        node, number = self.nodes[packet.target], packet.number
        if packet.budget_ms is None:
            node.on_reply(self.now, packet.source, number, packet.message)
        else:
            link = LinkId(IDS.index(packet.source))
            node.on_message(self.now, link, number, packet.budget_ms, packet.message)

    def commit(self, id_: NodeId) -> bool:
        """Makes all that has gathered at a node durable; False if nothing had."""
        if (batch := self.nodes[id_].take_batch()) is None:
            return False
        self.finish(id_, batch)
        return True

    def finish(self, id_: NodeId, batch: Batch) -> None:
        self.disks[id_].write(batch)
        self.nodes[id_].on_committed(self.now, batch)

    def settle(self) -> None:
        while self.wire or any(self.commit(id_) for id_ in self.nodes):
            while self.wire:
                self.deliver(self.wire[0])

    def tick(self, now: float) -> None:
        self.now = now
        for node in self.nodes.values():
            node.on_tick(now)


def _ring_of(row: bytes | None) -> Ring | None:
    return None if row is None else decode_ring(row)


@dataclass(slots=True)
class Recorder:
    """The effects of one node."""

    cluster: Cluster
    node: NodeId
    dialled: set[NodeId] = field(default_factory=set)

    def send(self, targets: Sequence[NodeId], number: int, budget: int, message: Message) -> None:
        self.cluster.wire += [Packet(self.node, peer, number, message, budget) for peer in targets]

    def answer(self, link: LinkId, number: int, message: Message) -> None:
        if link == CLIENT:
            self.cluster.answers.append((number, message))
        else:
            self.cluster.wire.append(Packet(self.node, IDS[link], number, message, None))

    def reconnect(self, ring: Ring) -> None:
        """Links to new members are up; others are as they were."""
        new = sorted({member.id for member in ring.members} - self.dialled)
        self.dialled.update(new)
        for peer in new:
            if self.node in self.cluster.nodes:
                self.cluster.nodes[self.node].on_peer_up(self.cluster.now, peer)

    def adopt(self, ring: bytes, link: LinkId, request_id: int) -> None:
        self.cluster.adopting.append((self.node, decode_ring(ring), link, request_id))

    def note(self, event: str, **fields: object) -> None:
        self.cluster.notes.append((event, fields))


# --- one request after the other -----------------------------------------------------------------


def op(number: int) -> bytes:
    return number.to_bytes(limits.OP_ID_BYTES, "big")


def put(
    value: bytes | None,
    number: int = 1,
    *,
    mode: int = MODE_BLIND,
    context: bytes = b"",
    attempt: int = 1,
    r: int = 0,
    w: int = 0,
    strict: bool = False,
) -> Put:
    return Put(KEY, value, mode, context, op(number), attempt, r, w, strict)


def values(reply: Message) -> list[bytes]:
    assert isinstance(reply, GetReply), reply
    return sorted(Version(data).value for data in reply.siblings)


def is_error(reply: Message, kind: type[DynagentError]) -> bool:
    return isinstance(reply, Error) and reply.error == kind.code


def cluster(*, n: int = 3, others: int = 0, **bounds: int) -> Cluster:
    return Cluster(make_ring(n, others=others), bounds=bounds)


def at_once(c: Cluster, node: NodeId, request: Message) -> Message:
    """The answer to what needs neither a peer nor the disk."""
    number = c.request(node, request)
    assert c.answers[-1][0] == number
    return c.answers[-1][1]


def operations(c: Cluster, node: NodeId) -> list[Operation]:
    """Of requests: not the questions of machines that ask by themselves."""
    coordinator = c.nodes[node].coordinator
    assert coordinator is not None
    return [one for one in coordinator.operations.values() if not isinstance(one, Question)]


def heard_only_at(c: Cluster, node: NodeId, request: Put) -> None:
    """A write that reaches no other node, and of which its coordinator has given up the rest."""
    c.request(node, request)
    c.wire.clear()
    c.settle()
    c.tick(c.now + 1)


def requests(c: Cluster, kind: type[Message]) -> list[Packet]:
    return [packet for packet in c.wire if isinstance(packet.message, kind)]


def dots(c: Cluster, number: int) -> set[tuple[int, int]]:
    return {
        s.dot
        for disk in c.disks.values()
        for s in disk.record(KEY).value.siblings
        if s.op_id == op(number)
    }
