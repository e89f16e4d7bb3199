"""One operation under way, and what is under way to one agent: the parts of `client.pipeline`."""

from __future__ import annotations

from collections import deque

from dynagent import limits
from dynagent.client.requests import Receipt, Result, budget_ms, read_receipt, read_result
from dynagent.client.routing import Plan
from dynagent.core.messages import Get, GetReply, Put, PutReply
from dynagent.errors import DynagentError
from dynagent.wire.codec import encode_frame


class Request:
    """One get or put, and after it has ended its outcome: a `reply` or an `error`.

    `tag` is the caller's own. A caller may also put in an `error` of its own, without a message:
    it is handed out at its place. `repeats`: the op-id was sent before, with an unknown outcome.
    """

    __slots__ = (
        *("agent", "cost", "error", "follower", "has_ended", "message", "plan", "repeats"),
        *("reply", "sent_at", "tag", "try_deadline"),
    )

    plan: Plan
    sent_at: float
    try_deadline: float

    def __init__(
        self,
        message: Get | Put | None,
        tag: object = None,
        *,
        error: DynagentError | None = None,
        repeats: bool = False,
    ) -> None:
        self.message = message
        self.tag = tag
        self.error = error
        self.repeats = repeats
        self.reply: GetReply | PutReply | None = None
        self.agent = ""  # who answered last
        self.cost = 0  # bytes held, as far as they are known
        self.has_ended = False
        self.follower: Request | None = None  # the next one of this key

    def outcome(self) -> Result | Receipt:
        """What the blocking client would have returned; raises what it would have raised."""
        if self.error is not None:
            raise self.error
        assert self.reply is not None
        if isinstance(self.message, Put):
            attempts = self.plan.attempt
            return read_receipt(self.reply, self.message, attempts=attempts, agent=self.agent)
        return read_result(self.reply, agent=self.agent)


class Lane:
    """What is on its way to and from one agent. While it is not up nothing of it has been sent."""

    __slots__ = (
        *("_last_id", "_load", "_waiting", "address", "answered", "frames", "heard_at", "is_up"),
        "pending",
    )

    def __init__(self, address: str) -> None:
        self.address = address
        self.is_up = False
        self.heard_at = 0.0  # when bytes came last
        self.answered = 0  # replies so far
        self.frames: list[bytes] = []  # encoded; the shell takes and sends them
        self.pending: dict[int, Request] = {}  # by request id; their frames were in `frames`
        self._waiting: deque[tuple[int, Request, bytes]] = deque()  # until there is room
        self._load = 0  # cost of what is pending
        self._last_id = 0

    def send(self, now: float, request: Request) -> None:
        """Encodes it and puts it in line; raises `TooLarge`."""
        message = request.message
        assert message is not None
        if type(message) is Put:
            message.attempt = request.plan.attempt
        self._last_id += 1
        budget = budget_ms(request.try_deadline - now)
        frame = encode_frame(message, request_id=self._last_id, budget_ms=budget)
        request.sent_at = now
        if self._waiting or (self._load and self._load + request.cost > limits.LANE_BYTES_MAX):
            self._waiting.append((self._last_id, request, frame))
        else:
            self._add(self._last_id, request, frame)

    def _add(self, number: int, request: Request, frame: bytes) -> None:
        self.pending[number] = request
        self.frames.append(frame)
        self._load += request.cost

    def take(self, number: int) -> Request | None:
        """The request of this id, which is pending no longer; None if it was not."""
        request = self.pending.pop(number, None)
        if request is not None:
            self._load -= request.cost
        return request

    def admit(self, now: float) -> None:
        """Sends those that waited for room, as far as there is some."""
        waiting = self._waiting
        while waiting:
            number, request, frame = waiting[0]
            if self._load and self._load + request.cost > limits.LANE_BYTES_MAX:
                return
            waiting.popleft()
            request.sent_at = now
            self._add(number, request, frame)

    def late(self, now: float) -> tuple[list[int], list[Request]]:
        """(pending, never sent): those whose try is over. The latter are taken out."""
        pending = [number for number, r in self.pending.items() if r.try_deadline <= now]
        unsent = [request for _, request, _ in self._waiting if request.try_deadline <= now]
        if unsent:
            kept = (item for item in self._waiting if item[1].try_deadline > now)
            self._waiting = deque(kept)
        return pending, unsent

    def clear(self) -> tuple[list[Request], list[Request]]:
        """(pending, never sent): all of them, taken out; the lane is not up any more."""
        pending = list(self.pending.values())
        unsent = [request for _, request, _ in self._waiting]
        if not self.is_up:
            pending, unsent = [], pending + unsent
        self.is_up = False
        self.pending = {}
        self.frames = []
        self._waiting.clear()
        self._load = 0
        return pending, unsent
