"""The questions of a purge's driver, and its orders: one to each of several nodes, at once.

The next ones go out when all have been answered, or have failed: a peer is down, refuses, or says
nothing for `BARRIER_ANSWER_S`. Its own node is asked like any other, without a message. All of it
waits for the background budget.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf

from dynagent import limits
from dynagent.core.admission import Gate
from dynagent.core.coordinator import Coordinator, Operation
from dynagent.core.hints import DURABLE
from dynagent.core.messages import (
    BarrierMove,
    BarrierRequest,
    Error,
    MergeAck,
    Message,
    Purge,
    RingIs,
    TombstoneQuery,
    TombstoneReply,
)
from dynagent.core.ports import LinkId, NodeId, PartitionId
from dynagent.core.purge_answers import PurgeAnswers, Row
from dynagent.errors import DynagentError, Overloaded

_NO_LINK = LinkId(-1)

Question = tuple[NodeId, Message]
Answers = dict[NodeId, Message]  # of those that have answered


class Questions:
    """At most one round of questions is under way; `go_on` is called with the answers to it."""

    def __init__(
        self,
        coordinator: Coordinator,
        own: PurgeAnswers,
        go_on: Callable[[float, Answers], None],
    ) -> None:
        self.due = inf  # when `on_tick` is: the budget will grant something then
        self._coordinator = coordinator
        self._own = own
        self._go_on = go_on
        self._asking: list[Question] = []  # not yet granted
        self._waiting: set[_Asked] = set()
        self._came: Answers = {}

    def ask(self, now: float, questions: list[Question]) -> Answers | None:
        """The answers, if there is nothing to wait for."""
        self._asking, self._came = questions, {}
        self._send(now)
        return None if self._asking or self._waiting else self._came

    def on_tick(self, now: float) -> None:
        if self._asking and self.due <= now:
            self._send(now)
            if not self._asking and not self._waiting:
                self._go_on(now, self._came)

    def stop(self) -> None:
        """What has been asked is not waited for, and the rest is not asked."""
        for one in self._waiting:
            one.finish()
        self._waiting.clear()
        self._asking, self.due = [], inf

    def _send(self, now: float) -> None:
        coordinator, budget = self._coordinator, self._coordinator.budget
        if self._asking and not budget.grant(now, limits.BACKGROUND_GRANT_BYTES_MIN):
            self.due = budget.next_grant_at(now)
            return
        asking, self._asking, self.due = self._asking, [], inf
        asked: list[tuple[_Asked, Message]] = []
        for node, message in asking:
            if node in coordinator.up:
                with suppress(Overloaded):  # no room for it: as if there were no answer
                    asked.append((_Asked(coordinator, now, node, self._on_answer), message))
        self._waiting.update(one for one, _ in asked)
        for one, message in asked:
            rows = len(message.rows) if isinstance(message, TombstoneQuery | Purge) else 1
            budget.spend(now, rows * limits.PURGE_ROW_BYTES, 0)
            if one.peer == coordinator.node_id:
                self._ask_ourselves(now, one, message)
            else:
                coordinator.send(now, [one.peer], one.number, one.budget_ms(now), message)

    def _ask_ourselves(self, now: float, one: _Asked, message: Message) -> None:
        own, replica = self._own, self._coordinator.replica
        answer: Message | None = MergeAck()
        batch = DURABLE
        match message:
            case BarrierRequest():
                answer = own.tell([PartitionId(at) for at in message.partitions])
            case TombstoneQuery():
                answer = TombstoneReply(bytes(map(own.state_of, _rows(message))))
            case BarrierMove() | Purge():
                try:
                    replica.check_room(now)
                except DynagentError:
                    answer = None
                else:
                    batch = self._obey(message)
        if not replica.when_durable(batch, (None, one.number)):
            self._settle(one, answer)

    def _obey(self, message: BarrierMove | Purge) -> int:
        if isinstance(message, Purge):
            return self._own.purge(_rows(message))
        orders = zip(map(PartitionId, message.partitions), message.barriers, strict=True)
        return self._own.close(orders) if message.closes else self._own.move(orders)

    def _settle(self, one: _Asked, answer: Message | None) -> None:
        self._waiting.discard(one)
        one.finish()
        if answer is not None and not isinstance(answer, Error | RingIs):
            self._came[one.peer] = answer

    def _on_answer(self, now: float, one: _Asked, answer: Message | None) -> None:
        """It has been answered, or will not be; goes on if it was the last."""
        if one in self._waiting:
            self._settle(one, answer)
            if not self._waiting and not self._asking:
                self._go_on(now, self._came)


def _rows(message: TombstoneQuery | Purge) -> list[Row]:
    """What our own driver has written."""
    return [(key, digest, barrier) for key, digest, barrier in message.rows]  # type: ignore[misc]


class _Asked(Operation):
    """One message under way; it stands in the table so that its answer finds it."""

    __slots__ = ("_tell", "peer")

    def __init__(
        self,
        coordinator: Coordinator,
        now: float,
        peer: NodeId,
        tell: Callable[[float, _Asked, Message | None], None],
    ) -> None:
        super().__init__(coordinator, _NO_LINK, 0, now + limits.BARRIER_ANSWER_S, gate=Gate())
        self.answered = True  # no client waits, and no gate counts it
        self.peer = peer
        self._tell = tell

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if source == self.peer:
            self._tell(now, self, message)

    def on_failure(self, now: float, source: NodeId) -> None:
        if source == self.peer:
            self._tell(now, self, None)

    def on_durable(self, now: float) -> None:
        self._tell(now, self, MergeAck())

    def on_deadline(self, now: float) -> None:
        self._tell(now, self, None)
