"""Passing a request on: any agent accepts any request (Dynamo §5, the request router).

A node that does not own the key hands the message to the first owner that is up, or to who stands
in where none is, and relays the answer. A get that fails on the way is tried at the next one. A put
is tried again only while it surely has not begun: anything later is the client's retry, which
carries the op-id.

An owner may rightly take all of its time, if those that it asks hang; then it says so, before our
own deadline. The client is told our epoch: with a newer ring than it has, it would ask an owner.
Only who has said nothing by then has left a request unanswered (gray failure,
detector.py).
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.aim import Aim
from dynagent.core.coordinator import Coordinator, Request
from dynagent.core.messages import Error, Get, GetReply, Message, Put, PutReply, RingIs
from dynagent.core.ports import LinkId, NodeId
from dynagent.core.trace import reply_words
from dynagent.errors import NotReady, Overloaded, ProtocolError, QuorumNotMet, WriteOutcomeUnknown


class ForwardOperation(Request):
    """One request under way to an owner. Raises on creation `QuorumNotMet` if none is up; if none
    has been met since this agent started, `NotReady`: others may have met them."""

    __slots__ = ("candidates", "message", "target")

    aims_again = False  # whoever runs it does that

    def __init__(
        self,
        coordinator: Coordinator,
        link: LinkId,
        request_id: int,
        deadline: float,
        message: Get | Put,
        aim: Aim,
    ) -> None:
        owners = aim.readers
        self.aim = aim
        self.candidates = [node for node in owners if node in coordinator.up]
        if not message.strict:
            stand_ins = coordinator.stand_ins(aim, owners)
            self.candidates += [node for node in stand_ins if node != coordinator.node_id]
        if message.hops >= limits.HOPS_MAX:
            raise NotReady("this agent is no owner of this key by its ring; it may be changing")
        if not self.candidates:
            names = coordinator.names(owners)
            peers = [peer for node, peer in coordinator.peers.items() if node in owners]
            if not any(peer.heard_at for peer in peers):
                raise NotReady(f"this agent has not met an owner of this key yet ({names})")
            raise QuorumNotMet(f"no owner of this key is up ({names})")
        message.hops += 1
        gate, size = coordinator.admission.gets, 0
        if isinstance(message, Put):
            gate, size = coordinator.admission.puts, len(message.value or b"")
        super().__init__(coordinator, link, request_id, deadline, gate=gate, size=size)
        self.message = message
        self.target = self.candidates.pop(0)

    def start(self, now: float) -> None:
        self._send(now)

    def _send(self, now: float) -> None:
        if self.trace is not None:
            own, target = self.coordinator.node_id, self.coordinator.names([self.target])
            self.tell(now, own, f"is no owner of this key: passes it on to {target}")
        # The owner gets a little less time, so that its own, better answer comes before ours.
        left_ms = self.budget_ms(now)
        budget_ms = max(1, left_ms - min(100, left_ms // 10))
        self.coordinator.effects.send([self.target], self.number, budget_ms, self.message)

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if source != self.target:
            return
        if self.trace is not None:
            self._tell_reply(now, source, message)
        is_stranger = isinstance(message, RingIs)  # we are to it, by its ring
        if is_stranger or (isinstance(message, Error) and self._is_elsewhere(message)):
            # It has done nothing.
            if is_stranger and not self.coordinator.is_member:
                self.fail(NotReady("this agent is no member of its cluster any more"))
                self.finish()
                return
            if self._try_next(now):
                return
            if self.aim.stamp != self.coordinator.ring.stamps[self.aim.partition]:
                self.coordinator.start_over(now, self, self.message)
                return
            if is_stranger:
                self.coordinator.ask_later(now, self, source)
                return
        if isinstance(message, GetReply | PutReply | Error):
            message.epoch = self.coordinator.ring.epoch  # with that ring it had come to an owner
        self.answer(message)
        self.finish()

    def ask_again(self, now: float, node: NodeId) -> None:
        """By now that one should know the ring in which we are a member. (Under another number:
        what still answers the first request must not have it sent once more.)"""
        if not self.answered:
            self.coordinator.renumber(self)
            self._send(now)

    def on_failure(self, now: float, source: NodeId) -> None:
        if source != self.target:
            return
        if self.trace is not None:
            self.tell_failure(now, source)
        if isinstance(self.message, Get) and self._try_next(now):
            return
        self._give_up(f"{self.coordinator.names([source])} failed while it ran the request")
        self.finish()

    def on_deadline(self, now: float) -> None:
        if (peer := self.coordinator.peers.get(self.target)) is not None:  # still a member
            peer.expect(now)
        if self.trace is not None:
            self.tell(now, self.coordinator.node_id, "has no more time")
        self._give_up(f"{self.coordinator.names([self.target])} did not answer in time")

    def _tell_reply(self, now: float, source: NodeId, message: Message) -> None:
        assert self.trace is not None
        if isinstance(message, GetReply | PutReply | Error):
            try:
                self.trace.include(message.trace)
            except ProtocolError as exc:
                self.coordinator.effects.note("peer.malformed", peer=source, reason=exc.message)
        is_answer = isinstance(message, GetReply | PutReply)
        self.tell(now, source, "has answered" if is_answer else reply_words(message))

    def _is_elsewhere(self, refusal: Error) -> bool:
        """May another one take what was refused? Not what its owners are too busy for."""
        if refusal.error == Overloaded.code:
            return self.target not in self.aim.readers  # a stand-in that may keep no more
        return refusal.error == NotReady.code

    def _try_next(self, now: float) -> bool:
        while self.candidates:
            self.target = self.candidates.pop(0)
            if self.target in self.coordinator.up:
                self._send(now)
                return True
        return False

    @property
    def may_have_effect(self) -> bool:
        return isinstance(self.message, Put)

    def _give_up(self, why: str) -> None:
        is_get = isinstance(self.message, Get)
        self.fail(QuorumNotMet(why) if is_get else WriteOutcomeUnknown(why))
