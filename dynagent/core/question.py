"""A message to one other node, and its answer: what background machines ask with."""

from __future__ import annotations

from collections.abc import Callable

from dynagent.core.admission import Gate
from dynagent.core.coordinator import Coordinator, Operation
from dynagent.core.messages import Message
from dynagent.core.ports import LinkId, NodeId
from dynagent.errors import Overloaded

Tell = Callable[[float, NodeId, Message | None], None]

_NO_LINK = LinkId(-1)


def ask(
    coordinator: Coordinator,
    now: float,
    peer: NodeId,
    message: Message,
    tell: Tell,
    *,
    deadline: float,
) -> bool:
    """Sends it to a member that is linked; False if that cannot be done now. `tell` is called once:
    with the answer, an Error too, or with None if there will be none."""
    row = coordinator.peers.get(peer)
    if row is None or not row.is_linked:
        return False
    try:
        question = Question(coordinator, peer, tell, deadline=deadline)
    except Overloaded:
        return False
    coordinator.send(now, [peer], question.number, question.budget_ms(now), message)
    return True


class Question(Operation):
    """It stands in the coordinator's table, so that its answer finds it; no client waits for it."""

    __slots__ = ("_peer", "_tell")

    def __init__(
        self, coordinator: Coordinator, peer: NodeId, tell: Tell, *, deadline: float
    ) -> None:
        super().__init__(coordinator, _NO_LINK, 0, deadline, gate=Gate())
        self.answered = True
        self._peer = peer
        self._tell = tell

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        self._end(now, source, message)

    def on_failure(self, now: float, source: NodeId) -> None:
        self._end(now, source, None)

    def on_deadline(self, now: float) -> None:
        self._tell(now, self._peer, None)

    def _end(self, now: float, source: NodeId, answer: Message | None) -> None:
        if source == self._peer:
            self.finish()
            self._tell(now, source, answer)
