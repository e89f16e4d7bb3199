"""Taking up the purge barriers of partitions with which this node has had nothing to do.

As long as the ring has never changed, only owners and fallbacks of a partition move its barrier.
Later everybody does (`core.tombstones`), and some stand nowhere yet: all nodes in most partitions
after the first change, and whoever joins in all of them. Such a node would take as a stand-in what
everybody else refuses, and stand where nothing that it hands over is taken any more. So before it
keeps anything of a partition for others it asks an owner where that one stands, and stands there:

    another ring, or a start ──▶ asks owners that are up ──▶ stands there, durably, if it holds
                                   ▲     │                    nothing there; else it was asked when
                                   └─────┘ rests              the others moved, and need not
                                   no answer, another ring

An owner may be asked as soon as both have the same ring: from then on no barrier is completed
without this node. What it comes to own it takes up from those that it copies from.
"""

from __future__ import annotations

from math import inf

from dynagent import limits
from dynagent.core.coordinator import SETTLED, Coordinator
from dynagent.core.messages import BarrierReply, BarrierRequest, Message
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.question import ask
from dynagent.core.ring import Ring


class Newcomer:
    """One node's first steps in the partitions that are foreign to it (`Barriers.is_foreign`)."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.due = 0.0
        self._coordinator = coordinator
        self._replica = coordinator.replica
        self._told: dict[PartitionId, int] = {}  # where an owner stands
        self._asked: dict[NodeId, list[PartitionId]] = {}  # under way
        self._turn = 0

    def on_ring(self, now: float, ring: Ring) -> None:
        self.due = now
        if self._coordinator.node_id in self._coordinator.up:  # its start is registered
            self.on_tick(now)  # at once: what it is asked to keep meanwhile it refuses

    def on_tick(self, now: float) -> None:
        if now < self.due:
            return
        ring, barriers = self._coordinator.ring, self._replica.barriers
        foreign = [at for at in map(PartitionId, range(ring.partitions)) if barriers.is_foreign(at)]
        self.due = now + limits.NEWCOMER_REST_S if foreign else inf
        self._ask(now, [at for at in foreign if at not in self._told])
        for partition in foreign:
            if partition in self._told:
                self._take_up(now, partition, self._told[partition])

    def _take_up(self, now: float, partition: PartitionId, barrier: int) -> None:
        """Ends with a partition if it stands there durably."""
        barriers = self._replica.barriers
        if barriers.standing(partition) >= barrier or self._replica.survey.holding([partition]):
            barriers.settle(partition)
            del self._told[partition]
        elif barriers.newest(partition) < barrier and not self._replica.is_full(now):
            self._replica.adopt(partition, barrier, barrier)

    def _ask(self, now: float, partitions: list[PartitionId]) -> None:
        """Asks an owner of each; another one at the next turn."""
        self._turn += 1
        ring, up = self._coordinator.ring, self._coordinator.up
        by_owner: dict[NodeId, list[PartitionId]] = {}
        for partition in partitions:
            owners = [node for node in ring.lists[partition] if node in up]
            if owners:
                by_owner.setdefault(owners[self._turn % len(owners)], []).append(partition)
        for owner, its in sorted(by_owner.items()):
            if owner not in self._asked:
                page = its[: limits.BARRIER_PARTITIONS_MAX]
                request = BarrierRequest(ring.epoch, SETTLED, [*page])
                deadline = now + limits.BARRIER_ANSWER_S
                if ask(self._coordinator, now, owner, request, self._on_answer, deadline=deadline):
                    self._asked[owner] = page

    def _on_answer(self, now: float, owner: NodeId, answer: Message | None) -> None:
        partitions = self._asked.pop(owner)
        if isinstance(answer, BarrierReply) and len(answer.barriers) == len(partitions):
            self._told.update(zip(partitions, answer.barriers, strict=True))
            self.due = now
            self.on_tick(now)
