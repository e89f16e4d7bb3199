"""A wait for our own disk, of background work: an entry in the table of operations that no client
waits for, and no gate of the foreground counts."""

from __future__ import annotations

from collections.abc import Callable

from dynagent import limits
from dynagent.core.admission import Gate
from dynagent.core.coordinator import Coordinator, Operation
from dynagent.core.ports import LinkId, NodeId

_NO_LINK = LinkId(-1)


class Wait(Operation):
    """Calls `then` when a batch of ours is durable: with True, or with False if the disk was full.
    At once if there is nothing to wait for."""

    __slots__ = ("_then",)

    def __init__(
        self,
        coordinator: Coordinator,
        now: float,
        batch: int,
        then: Callable[[float, bool], None],
    ) -> None:
        # The batch ends one way or the other; the deadline is only because each has one.
        deadline = now + limits.BUDGET_MS_MAX / 1000
        super().__init__(coordinator, _NO_LINK, 0, deadline, gate=Gate())
        self.answered = True
        self._then = then
        if not coordinator.replica.when_durable(batch, (None, self.number)):
            self.on_durable(now)

    def on_durable(self, now: float) -> None:
        self.finish()
        self._then(now, True)

    def on_failure(self, now: float, source: NodeId) -> None:
        if source == self.coordinator.node_id:
            self.finish()
            self._then(now, False)

    def on_deadline(self, now: float) -> None:
        self._then(now, False)
