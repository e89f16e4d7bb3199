"""Clearing one partition that is not ours any more: `core.former` has the rules.

    fenced ──▶ a window of our copies gathered ──▶ each owner covers it ──▶ dropped
                   ▲                                 (`core.covering`)        │
                   └───────────────────── the next window ────────────────────┘

A window is a few thousand keys: what it takes in memory does not grow with the partition.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.covering import Covering, Window
from dynagent.core.ports import NodeId, PartitionId, Token
from dynagent.core.wait import Wait
from dynagent.errors import CorruptRecord, Overloaded

_TOKEN_BYTES = 16


class Clearing:
    """One pass through a partition. `on_end` is told once, with "" if nothing is left there that is
    not explained by a hint."""

    def __init__(
        self,
        coordinator: Coordinator,
        partition: PartitionId,
        on_end: Callable[[float, Clearing, str], None],
        on_figures: Callable[..., None],
    ) -> None:
        self.partition = partition
        self._due = 0.0
        self.dropped = 0
        self.explained = 0  # copies that a hint speaks of
        self._coordinator = coordinator
        self._replica = coordinator.replica
        self._on_end = on_end
        self._on_figures = on_figures
        self._stamp = coordinator.ring.stamps[partition]
        self._is_over = False
        self._is_fenced = False
        self._left = 0  # copies that stay
        self._after = b""  # the place up to which all is gone through
        self._is_complete = False  # all of it has been gathered
        self._is_first = True  # the window begins where the partition does
        self._window = self._new_window()
        self._owners: list[NodeId] = []  # that have not yet been compared with the window
        self._covering: Covering | None = None
        self._to_drop: list[bytes] = []

    @property
    def due(self) -> float:
        """When `go_on` is to be called."""
        return self._covering.due if self._covering is not None else self._due

    def _next_window(self) -> None:
        self._window, self._is_first = self._new_window(), False

    def _new_window(self) -> Window:
        return Window(self.partition, self._replica.forest)

    def stop(self) -> None:
        self._is_over = True
        if self._covering is not None:
            self._covering.stop()

    def go_on(self, now: float) -> None:
        """The next step, as far as the budget goes."""
        if self._is_over:
            return
        if self._covering is not None:
            self._covering.go_on(now)
            return
        self._due = inf
        budget = self._coordinator.budget
        if not budget.grant(now, limits.BACKGROUND_GRANT_BYTES_MIN):
            self._due = budget.next_grant_at(now)
        elif not self._is_fenced:
            self._fence(now)
        elif self._to_drop:
            self._drop(now)
        elif self._owners:
            self._cover(now)
        elif not self._is_complete:
            self._gather(now)
        else:
            is_former = self.partition in self._replica.hints.former
            if self._left or (is_former and self.explained):
                # Hints are delivered as ever; but nobody else drops a copy here after that.
                self._end(now, f"{self._left + self.explained} copies stay for now")
            else:
                self._end(now, "")

    def _end(self, now: float, problem: str) -> None:
        self.stop()
        self._on_end(now, self, problem)

    def _fence(self, now: float) -> None:
        """Nothing older is taken here any more."""

        def on_durable(now: float, is_durable: bool) -> None:
            if not self._is_over:
                self._is_fenced = is_durable
                self._due = now if is_durable else now + limits.DISK_FULL_PAUSE_S

        if self._replica.stamps.fenced(self.partition) >= self._stamp:
            self._is_fenced, self._due = True, now
        else:
            Wait(
                self._coordinator,
                now,
                self._replica.fence(self.partition, self._stamp),
                on_durable,
            )

    # --- what lies here --------------------------------------------------------------------------

    def _gather(self, now: float) -> None:
        """Some more of our copies; a window ends with a group of leaves."""
        replica, window = self._replica, self._window
        first, last = replica.barriers.range_of(self.partition)
        looked_at = looked = 0
        try:
            for place, digest, size in replica.survey.digests(first, last, self._after):
                token, key = Token(place[:_TOKEN_BYTES]), place[_TOKEN_BYTES:]
                leaf = replica.forest.leaf_of(token)
                if window.is_full and window.begins_group(leaf):
                    break
                looked_at += 1
                looked += size
                self._after = place
                if replica.hints.owed(token, key):
                    self.explained += 1
                    continue
                if not digest or replica.batch_of(key):
                    self._left += 1  # it is healed first, or on its way to the disk
                else:
                    window.add(leaf, key, digest)
                if looked_at >= limits.EXCHANGE_ROWS_MAX:
                    self._due = now
                    break
            else:
                self._is_complete = True
                window.is_whole = self._is_first
        except CorruptRecord as exc:
            self._end(now, exc.message)
            return
        read_bytes = looked // limits.EXCHANGE_READ_CHEAPER
        self._coordinator.budget.spend(now, read_bytes, 0)
        if self._due == inf:
            self._due = now
            if window.keys:
                owners = self._coordinator.ring.lists[self.partition]
                self._owners = [node for node in owners if node != self._coordinator.node_id]

    # --- that its owners have it -----------------------------------------------------------------

    def _cover(self, now: float) -> None:
        owner = self._owners[0]
        up = self._coordinator.up
        if down := [node for node in self._owners if node not in up]:
            self._end(now, f"{self._coordinator.names(down)} is down")
            return
        self._covering = Covering(
            self._coordinator, self._window, owner, self._stamp, self._on_covered
        )
        self._covering.go_on(now)

    def _on_covered(self, now: float, covering: Covering, problem: str) -> None:
        if self._is_over or covering is not self._covering:
            return
        self._covering = None
        self._on_figures(pushed=covering.pushed)
        if problem:
            self._end(now, f"{self._coordinator.names([covering.owner])}: {problem}")
            return
        self._left += len(self._window.keys) - len(covering.covered)
        self._window.keep_only(covering.covered)
        self._owners.pop(0)
        self._due = now
        if not self._owners:
            self._to_drop = list(self._window.keys)
            if not self._to_drop:
                self._next_window()

    # --- dropping --------------------------------------------------------------------------------

    def _drop(self, now: float) -> None:
        replica = self._replica
        try:
            replica.check_room(now)
        except Overloaded:  # or the disk is full
            self._due = now + limits.TRANSFER_RETRY_S
            return
        page = self._to_drop[: limits.FORMER_DROP_ROWS]
        del self._to_drop[: len(page)]
        count = sum(replica.drop_former(key, self._window.keys[key]) for key in page)
        self._left += len(page) - count
        self.dropped += count
        self._on_figures(dropped=count)
        self._coordinator.budget.spend(now, len(page) * limits.EXCHANGE_ROW_BYTES, 0)
        if not self._to_drop:
            self._next_window()

        def on_durable(now: float, is_durable: bool) -> None:
            if not self._is_over:
                self._left += 0 if is_durable else count
                self._due = now if is_durable else now + limits.DISK_FULL_PAUSE_S

        Wait(self._coordinator, now, replica.newest_batch, on_durable)
