"""Makes unknown leaves of the trees known again, from the disk, under the background budget.

    a leaf is unknown ──▶ round: one leaf after the other ──▶ none left
                              ▲                                  │ some could not be read
                              └────────────── rest ◀─────────────┘

Whole leaves, since the smallest are a 65,536th of a node's data. What cannot be read waits for
whoever heals it; each round tries it again.
"""

from __future__ import annotations

from math import inf

from dynagent import limits
from dynagent.core.budget import Budget
from dynagent.core.merkle import Forest
from dynagent.core.ports import PartitionId
from dynagent.core.ring import Ring


class Rebuilder:
    """One for each node."""

    def __init__(self, forest: Forest, budget: Budget) -> None:
        self.rebuilt = 0  # leaves, since the start
        self._forest = forest
        self._budget = budget
        self._queue: list[tuple[PartitionId, int]] = []  # of this round, the next one last
        self._due = 0.0

    @property
    def due(self) -> float:
        """When `on_tick` is; infinite if no leaf is unknown."""
        return self._due if self._forest.unknown else inf

    def on_ring(self, now: float, ring: Ring) -> None:
        """Trees have come and gone: a new round looks at what is unknown now."""
        self._queue = []
        self._due = min(self._due, now)

    def on_tick(self, now: float) -> None:
        forest, budget = self._forest, self._budget
        if now < self._due or not forest.unknown:
            return
        if not self._queue:
            self._queue = sorted(forest.unknown, reverse=True)
        room = budget.grant(now, limits.TREE_REBUILD_RECORDS * limits.BACKGROUND_RECORD_BYTES)
        if not room:
            self._due = budget.next_grant_at(now)
            return
        spent = 0
        while self._queue and spent < room:
            partition, leaf = self._queue.pop()
            if not forest.is_known(partition, leaf):
                self.rebuilt += forest.rebuild(partition, leaf)
                found = forest.leaf(partition, leaf)
                records = 1 + (found[0] if found is not None else 0)
                budget.spend(now, 0, records)
                spent += records * limits.BACKGROUND_RECORD_BYTES
        self._due = now + (limits.TREE_TURN_S if self._queue else limits.TREE_REST_S)
