"""A cluster of the harness in which partitions change their owners, entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dynagent.core.messages import BarrierRequest, LogReply
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Owners, Ring, token_of
from dynagent.core.ringentry import (
    AbortEntry,
    ChangeEntry,
    Content,
    Entry,
    PhaseEntry,
    encode_log_entry,
    fold,
)
from tests.core.harness import IDS, KEY, Cluster, make_ring

A, B, C, D = IDS
P = make_ring(3).partition_of(token_of(KEY))


@dataclass(slots=True, kw_only=True)
class Changing:
    """`c` is the cluster; `ring` the newest one that was decided. Who is told is the test's."""

    c: Cluster
    ring: Ring
    entries: list[bytes]

    def decide(self, content: Content, *nodes: NodeId, introduce: bool = True) -> None:
        """The next entry, and who learns it (and all before it) at once."""
        entry = Entry(content=content, proposer=A, wall_ms=0)
        self.ring = fold(self.ring, entry)
        self.entries.append(encode_log_entry(entry))
        self.tell(*nodes, introduce=introduce)

    def tell(self, *nodes: NodeId, introduce: bool = True) -> None:
        """All entries, durably."""
        for node in nodes:
            ringlog = self.c.nodes[node].ringlog
            assert ringlog is not None
            ringlog.take(self.c.now, LogReply(self.ring.epoch, 2, self.entries))
            assert self.c.commit(node)
        if introduce:
            self._introduce()

    def _introduce(self) -> None:
        """What nodes ask about partitions foreign to them (`core.newcomer`) comes and goes:
        these tests are about something else."""
        wire, asked = self.c.wire, set()
        for packet in [p for p in wire if isinstance(p.message, BarrierRequest)]:
            asked.add((packet.target, packet.source, packet.number))
            self.c.deliver(packet)
        for packet in [p for p in wire if (p.source, p.target, p.number) in asked]:
            self.c.deliver(packet)

    def move(self, owners: Owners, *nodes: NodeId, removed: tuple[NodeId, ...] = ()) -> None:
        """Partition P begins to move: a change of its own. All do, if they must."""
        every = range(self.ring.partitions) if removed else [P]
        moves = {PartitionId(partition): owners for partition in every}
        self.decide_moves(moves, *nodes, removed=removed)

    def decide_moves(
        self,
        moves: Mapping[PartitionId, Owners],
        *nodes: NodeId,
        removed: tuple[NodeId, ...] = (),
        introduce: bool = True,
    ) -> None:
        change = ChangeEntry(
            id=self.ring.epoch.to_bytes(16, "big"),
            verb="ring",
            members=self.ring.members,
            leaving=(),
            removed=removed,
            moves=tuple(sorted(moves.items())),
        )
        self.decide(change, *nodes, introduce=introduce)

    def phase(self, phase: int, *nodes: NodeId) -> None:
        assert self.ring.change is not None
        index = self.ring.change.index
        self.decide(PhaseEntry(index=index, phase=phase, partitions=(P,)), *nodes)

    def abort(self, *nodes: NodeId) -> None:
        assert self.ring.change is not None
        self.decide(AbortEntry(index=self.ring.change.index, id=b"a" * 16), *nodes)

    def fence(self, *nodes: NodeId) -> None:
        """At the stamp of the newest ring, durably."""
        for node in nodes:
            self.c.nodes[node].replica.fence(P, self.ring.stamps[P])
            assert self.c.commit(node)

    def ready(self, *nodes: NodeId) -> None:
        """These owners to be have had the replies to their fences."""
        for node in nodes:
            self.c.nodes[node].copies.has_fenced = lambda _partition: True

    def unready(self, *nodes: NodeId) -> None:
        for node in nodes:
            self.c.nodes[node].copies.has_fenced = lambda _partition: False


def changing(*, n: int = 3, others: int = 1) -> Changing:
    """All partitions belong to the first `n` nodes; nobody tells anybody of the log by itself."""
    ring = make_ring(n, others=others)
    return Changing(c=Cluster(ring), ring=ring, entries=[])
