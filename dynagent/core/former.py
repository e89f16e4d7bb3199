"""Former owners: what lies here of partitions that are not ours (design §6, step 5).

A partition that this node has given up, or did not come to own because the change was taken back,
leaves its copies behind. They may be news: a write that reached only this node, or a hint for it,
and that the new owners could not know of. So they are pushed before they are dropped:

    given up, settled ──▶ window by window: our copies there, without those that are owed to an
        ▲                 owner by a hint (`core.delivery` sees to them)
        │                    │ with each owner in turn: trees compared, then keys and versions;
        │                    │ what it does not cover is sent to it                core.covering
        │                    └─ all owners cover it ──▶ dropped, if it is still the same copy
        └── an owner is down, or something cannot be read: pause

What holds:

- What is found is read from the store, at each start and at each change of the ring: no list of it
  is kept, so none can be lost or forgotten.
- The minimum stamp of this node is raised to that of the ring first: nothing older is taken any
  more. It is no owner, so nothing newer is either.
- A copy goes only when each owner has on its disk what it has seen, and only that copy: one that
  has changed meanwhile, that cannot be read, or that a hint still speaks of, stays. Its actor mark
  goes with it.
- Nothing is done to a partition that moves: who shall have it is not settled.

All of it waits for the background budget (design §8), and drops go in bounded batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from dynagent import limits
from dynagent.core.clearing import Clearing
from dynagent.core.coordinator import Coordinator
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Ring


class Former:
    """Clears one partition after the other."""

    def __init__(self, coordinator: Coordinator, *, is_draining: Callable[[], bool]) -> None:
        self.dropped = 0  # copies since the start
        self.pushed = 0  # of them and others, sent to owners
        self._coordinator = coordinator
        self._replica = coordinator.replica
        self._is_draining = is_draining
        self._unseen: deque[PartitionId] = deque()  # not looked at since the ring changed
        self._held: dict[PartitionId, str] = {}  # something lies there → why it does not go on
        self._clearing: Clearing | None = None
        self._due = 0.0
        self._pause_s = 0.0
        self._ring: Ring | None = None  # that all this is about
        self._take(coordinator.ring)

    # --- what the node feeds ---------------------------------------------------------------------

    def on_ring(self, now: float, ring: Ring) -> None:
        self._take(ring)
        self._due, self._pause_s = now, 0.0

    def _take(self, ring: Ring) -> None:
        """Where to look: everywhere at the start, then where something has changed."""
        before, self._ring = self._ring, ring
        own = self._coordinator.node_id
        if self._clearing is not None:
            self._clearing.stop()
            self._clearing = None
        changed = {
            PartitionId(at)
            for at, stamp in enumerate(ring.stamps)
            if before is None or before.stamps[at] != stamp
        }
        changed.update(self._unseen, self._held)
        self._held.clear()
        self._unseen = deque(
            partition
            for partition in sorted(changed)
            if not ring.owns(own, partition) and partition not in ring.moves
        )

    def wake(self, now: float, node: NodeId) -> None:
        """`node` has come up."""
        if self._held:
            self._due, self._pause_s = now, 0.0

    @property
    def due(self) -> float:
        """When `on_tick` is; infinite if nothing is left here, or it waits for answers."""
        if self._clearing is not None:
            return self._clearing.due
        return self._due if self._unseen or self._held else inf

    def on_tick(self, now: float) -> None:
        if now < self.due:
            return
        if self._is_draining():
            self._due = inf
        elif self._clearing is not None:
            self._clearing.go_on(now)
        elif self._unseen:
            self._look(now)
        elif self._held:
            self._begin(now, next(iter(self._held)))

    @property
    def is_empty(self) -> bool:
        """Nothing lies here that is not ours; only true once all has been looked at."""
        return not self._unseen and not self._held

    def look_again(self, partition: PartitionId) -> None:
        """A hint has gone that explained copies there."""
        if partition in self._held:
            self._due = 0.0
        elif partition not in self._unseen:
            self._unseen.append(partition)

    # --- one partition after the other -----------------------------------------------------------

    def _look(self, now: float) -> None:
        """Where does anything lie?"""
        count = min(len(self._unseen), limits.FORMER_LOOK_PARTITIONS)
        some = [self._unseen.popleft() for _ in range(count)]
        for partition in sorted(self._replica.survey.holding(some)):
            self._held[partition] = ""
        for partition in some:
            if partition not in self._held:
                self._replica.on_dropped(partition)
        self._due = now

    def _begin(self, now: float, partition: PartitionId) -> None:
        self._clearing = Clearing(self._coordinator, partition, self._on_end, self._on_figures)
        self._clearing.go_on(now)

    def _on_figures(self, *, pushed: int = 0, dropped: int = 0) -> None:
        self.pushed += pushed
        self.dropped += dropped

    def _on_end(self, now: float, clearing: Clearing, problem: str) -> None:
        """A partition has been gone through: nothing of it is left, or `problem` says why."""
        if clearing is not self._clearing:
            return
        self._clearing = None
        partition = clearing.partition
        del self._held[partition]
        self._due = now
        if problem:
            self._held[partition] = problem  # at the end
            if all(self._held.values()):  # none of them goes on
                self._pause_s = min(
                    2 * self._pause_s or limits.FORMER_REST_S, limits.FORMER_PAUSE_S_MAX
                )
                self._due = now + self._pause_s
        else:
            self._pause_s = 0.0
            self._replica.on_dropped(partition)
            if clearing.dropped:
                self._coordinator.effects.note(
                    "transfer.dropped", partition=partition, records=clearing.dropped
                )

    def document(self) -> dict[str, object]:
        """For the status of this node."""
        return {
            "unseen": len(self._unseen),
            "partitions": len(self._held),
            "dropped": self.dropped,
            "pushed": self.pushed,
            "problems": sorted({problem for problem in self._held.values() if problem}),
        }
