"""Hints whose target owns the partition no longer (design §5): they go to who owns it now.

A hint names an owner. When the ring changes, that one may have no part in the partition any more,
and would refuse what it is owed. So after each change the markers of all targets are gone through,
page by page, and those that are of no use any more are turned, in one batch each:

    the copy is ours: we own it       every other owner of the present lists is owed it
    it was here for others only       the marker goes. What lies here then is explained by no hint
                                      and belongs to no partition of ours: `core.former` gives it to
                                      all owners, and drops it when all of them have it
    a dirty partition (`core.hints`)  likewise, as a whole

So no copy is without somebody who sees to it at any moment, and nothing is remembered here: what is
left to do is what the markers say. A put that began under an older ring may still owe something to
such a one: delivery meets those (`look_again`). Who is no member any more, and partitions owed to
who does not own them, are looked for now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.former import Former
from dynagent.core.ports import NodeId, PartitionId, Token
from dynagent.core.ring import Ring
from dynagent.errors import CorruptRecord, Overloaded


class Reaimer:
    def __init__(
        self, coordinator: Coordinator, former: Former, *, is_draining: Callable[[], bool]
    ) -> None:
        self.turned = 0  # markers since the start
        self._coordinator = coordinator
        self._replica = coordinator.replica
        self._hints = coordinator.replica.hints
        self._former = former
        self._is_draining = is_draining
        self._left: list[NodeId] = []  # targets that have not been gone through under this ring
        self._after = b""  # how far the last of them has been
        self._due = 0.0
        self._check_at = 0.0  # whether somebody is owed anything who is gone
        self._begin()

    def on_ring(self, now: float, ring: Ring) -> None:
        self._begin()
        self._due = now

    def _begin(self) -> None:
        self._left, self._after = self._hints.targets, b""

    def look_again(self, target: NodeId) -> None:
        """A hint for it has been met that is of no use."""
        if target not in self._left:
            self._left.insert(0, target)

    @property
    def due(self) -> float:
        """When `on_tick` is; infinite if nobody is owed anything."""
        if self._left:
            return self._due
        return self._check_at if self._hints.counts or self._hints.dirty else inf

    @property
    def is_done(self) -> bool:
        return not self._left

    def on_tick(self, now: float) -> None:
        if now >= self._check_at:
            self._check_at = now + limits.REAIM_CHECK_S
            for node in self._hints.targets:
                if self._is_misdirected(node):
                    self.look_again(node)
        if now < self._due or not self._left:
            return
        if self._is_draining():
            self._due = inf
            return
        budget = self._coordinator.budget
        if not budget.grant(now, limits.BACKGROUND_GRANT_BYTES_MIN):
            self._due = budget.next_grant_at(now)
            return
        target = self._left[-1]
        try:
            self._replica.check_room(now)
            rows = self._hints.page(target, self._after, limits.HINT_PAGE_ROWS)
        except (Overloaded, CorruptRecord):
            self._due = now + limits.HINT_REST_S
            return
        for token, key in rows:
            self._look_at(target, token, key)
            self._after = token + key
        budget.spend(now, len(rows) * limits.EXCHANGE_ROW_BYTES, 0)
        if not rows:
            self._turn_partitions(target)
            self._left.pop()
            self._after = b""
        self._due = now

    def _is_misdirected(self, target: NodeId) -> bool:
        ring, dirty = self._coordinator.ring, self._hints.dirty.get(target, ())
        return ring.member(target) is None or not all(ring.owns(target, at) for at in dirty)

    def _look_at(self, target: NodeId, token: Token, key: bytes) -> None:
        ring = self._coordinator.ring
        partition = self._replica.barriers.partition_of(token)
        if not ring.owns(target, partition) and self._hints.is_kept(target, token, key):
            self._replica.turn(target, self._others(partition), key, token)
            self._note(partition)

    def _turn_partitions(self, target: NodeId) -> None:
        ring = self._coordinator.ring
        for partition in sorted(self._hints.dirty.get(target, ())):
            if not ring.owns(target, partition):
                self._replica.turn_partition(target, self._others(partition), partition)
                self._note(partition)

    def _others(self, partition: PartitionId) -> list[NodeId]:
        """Who is owed it instead: nobody if it is not ours."""
        ring, own = self._coordinator.ring, self._coordinator.node_id
        if not ring.owns(own, partition):
            return []
        return [
            node for node in ring.all_owners(partition) if node != own and node not in ring.removed
        ]

    def _note(self, partition: PartitionId) -> None:
        self.turned += 1
        if not self._coordinator.ring.owns(self._coordinator.node_id, partition):
            self._former.look_again(partition)
