"""A cluster whose partitions change their owners: for the tests of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

from dynagent import limits
from dynagent.core.entry import Record, encode_sibling
from dynagent.core.messages import (
    Message,
    Propose,
    PullReply,
)
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Ring, token_of
from dynagent.core.ringentry import ChangeEntry, Content, Entry, encode_log_entry
from dynagent.core.siblings import EMPTY
from tests.core.harness import IDS, Cluster, Packet, make_ring

A, B, C, D = IDS
PARTITIONS = [PartitionId(at) for at in range(8)]
STEP_S = 0.05


def version(
    actor: int, counter: int = 1, *, value: bytes = b"v", base: Record | None = None
) -> Record:
    old = base.value if base is not None else EMPTY
    sibling = encode_sibling(
        dot=(actor, counter),
        wall_ms=1,
        content=0,
        expiry_ms=0,
        op_id=actor.to_bytes(8, "big") + counter.to_bytes(8, "big"),
        meta={},
        value=b"v",
    )
    return Record(old.write(old.clock, sibling))


def tombstone(base: Record) -> Record:
    return Record(base.value.delete(base.value.clock))


class World:
    """A cluster of A, B and C, and of D, who owns nothing. Nothing is lost unless a test says so:
    `loses` is asked about each packet."""

    def __init__(self, *, others: int = 1, rest_s: float = 0.0) -> None:
        self.cluster = Cluster(make_ring(3, others=others, voters=(A, B, C)), rest_s=rest_s)
        self.sent: list[Packet] = []
        self.loses: Callable[[Packet], bool] = lambda packet: False
        self.on_step: Callable[[], None] = lambda: None
        self.has_full_disk: Callable[[NodeId], bool] = lambda id_: False
        self.cluster.settle()  # all are registered
        self.down: set[NodeId] = set()

    # --- time ------------------------------------------------------------------------------------

    def step(self) -> None:
        """Everything that can happen now, then a moment passes."""
        c = self.cluster
        c.tick(c.now)
        while True:
            self.on_step()
            if c.wire:
                packet = c.wire.pop(0)
                self.sent.append(packet)
                is_away = packet.target in self.down or packet.source in self.down
                if not is_away and not self.loses(packet):
                    c.deliver(packet)
            elif not any(self._commit(id_) for id_ in c.nodes if id_ not in self.down):
                break
        c.now += STEP_S

    def _commit(self, id_: NodeId) -> bool:
        if not self.has_full_disk(id_):
            return self.cluster.commit(id_)
        node = self.cluster.nodes[id_]
        if node.take_batch() is None:
            return False
        node.on_refused(self.cluster.now)
        return True

    def run(self, until: Callable[[], bool] | None = None, seconds: float = 120.0) -> World:
        """Until that is so; without it for so long."""
        end = self.cluster.now + seconds
        while self.cluster.now < end:
            self.step()
            if until is not None and until():
                return self
        assert until is None, self.describe()
        return self

    def describe(self) -> object:
        nodes = self.cluster.nodes.values()
        return [
            (
                node.node_id[0],
                node.transfers and node.transfers.document(self.cluster.now),
                node.driver and node.driver.document(),
                node.former and node.former.document(),
            )
            for node in nodes
        ]

    # --- nodes -----------------------------------------------------------------------------------

    def crash(self, id_: NodeId) -> None:
        """It is back at once, with what was on its disk. (A while has passed since the last one:
        what flaps is used only after some answers.)"""
        self.cluster.now += limits.FLAP_WINDOW_S
        self.cluster.wire = [
            packet for packet in self.cluster.wire if id_ not in (packet.source, packet.target)
        ]
        for other, node in self.cluster.nodes.items():
            if other != id_:
                node.on_peer_down(self.cluster.now, id_)
        self.cluster.restart(id_)
        for other, node in self.cluster.nodes.items():
            if other != id_:
                node.on_peer_up(self.cluster.now, id_)

    def take_down(self, id_: NodeId) -> None:
        self.down.add(id_)
        for other, node in self.cluster.nodes.items():
            if other != id_:
                node.on_peer_down(self.cluster.now, id_)

    def bring_back(self, id_: NodeId) -> None:
        self.down.discard(id_)
        self.crash(id_)

    def hold(self, id_: NodeId, key: bytes, record: Record) -> None:
        """That copy is there, durably."""
        node = self.cluster.nodes[id_]
        node.replica.merge([(key, record)], barrier=node.replica.barriers.read_under(token_of(key)))
        self.cluster.commit(id_)

    def fill(self, ids: Iterable[NodeId] = (A, B, C), count: int = 400) -> dict[bytes, Record]:
        records = {b"key %d" % at: version(at + 1) for at in range(count)}
        for id_ in ids:
            self.hold_all(id_, records)
        return records

    def hold_all(self, id_: NodeId, records: dict[bytes, Record]) -> None:
        """These copies are there, durably."""
        self.cluster.nodes[id_].replica.merge(list(records.items()), barrier=0)
        self.cluster.commit(id_)

    def keys_at(self, id_: NodeId) -> set[bytes]:
        return set(self.cluster.disks[id_].rows)

    def holds(self, id_: NodeId, *, at_least: int = 0, at_most: int = 1_000_000) -> bool:
        return at_least <= len(self.keys_at(id_)) <= at_most

    # --- the ring --------------------------------------------------------------------------------

    def ring(self, id_: NodeId = A) -> Ring:
        ring = self.cluster.nodes[id_].ring
        assert ring is not None
        return ring

    def propose(self, content: Content, at: NodeId = A) -> None:
        entry = Entry(content=content, proposer=at, wall_ms=0)
        self.cluster.request(
            at, Propose(encode_log_entry(entry), self.ring(at).epoch), budget_ms=5_000
        )
        before = self.ring(at).epoch
        self.run(lambda: self.ring(at).epoch > before, seconds=5)

    def change(
        self,
        lists: dict[PartitionId, Sequence[NodeId]],
        *,
        leaving: Sequence[NodeId] = (),
        removed: Sequence[NodeId] = (),
        at: NodeId = A,
    ) -> None:
        """These partitions go to these owners."""
        self.propose(
            ChangeEntry(
                id=bytes([self.ring(at).epoch]) * 16,
                verb="set",
                members=self.ring(at).members,
                leaving=tuple(leaving),
                removed=tuple(removed),
                moves=tuple((partition, tuple(owners)) for partition, owners in lists.items()),
            ),
            at,
        )

    def is_settled(self) -> bool:
        return all(
            node.ring is not None and node.ring.change is None and node.ring.epoch > 1
            for id_, node in self.cluster.nodes.items()
            if id_ not in self.down
        )

    def partition_of(self, key: bytes) -> PartitionId:
        return self.ring().partition_of(token_of(key))

    def of(self, kind: type[Message]) -> list[Packet]:
        return [packet for packet in self.sent if isinstance(packet.message, kind)]


def pulled(world: World, by: NodeId) -> list[bytes]:
    """The keys of all records that came to it by Pulls."""
    keys = []
    for packet in world.of(PullReply):
        if packet.target == by:
            assert isinstance(packet.message, PullReply)
            keys += [entry[0] for entry in packet.message.entries]
    return keys  # type: ignore[return-value]


def rot(world: World, id_: NodeId, key: bytes) -> None:
    world.cluster.disks[id_].rows[key] = b"\0" * 40
    world.cluster.nodes[id_].replica.forget(key)


def test_a_new_owner_whose_disk_is_full_goes_on_when_there_is_room() -> None:
    world = World()
    records = world.fill()
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    dice = Random(3)
    world.has_full_disk = lambda id_: id_ == D and dice.random() < 0.2
    world.run(world.is_settled)
    for key, record in records.items():
        assert world.cluster.disks[D].record(key).digest == record.digest
