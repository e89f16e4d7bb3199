"""One operation under way, and what is under way to one agent: what `client.pipeline` and the trio
client are made of. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from dynagent import limits
from dynagent.client.requests import Receipt, Result, budget_ms, read_receipt, read_result
from dynagent.client.routing import Plan
from dynagent.core.messages import Get, GetReply, Message, Put, PutReply
from dynagent.errors import DynagentError
from dynagent.wire.codec import encode_frame

_OVERHEAD_BYTES = 512  # of a request and its reply beside key and value, roughly


class Flight:
    """What a lane carries: a message on the present try of its plan."""

    __slots__ = ("cost", "message", "number", "plan", "sent_at", "try_deadline")

    message: Message | None
    plan: Plan
    sent_at: float
    try_deadline: float
    number: int  # its request id in the lane that it was last given to
    cost: int  # bytes held, as far as they are known


class Request(Flight):
    """One get or put, and after it has ended its outcome: a `reply` or an `error`.

    `tag` is the caller's own. A caller may also put in an `error` of its own, without a message:
    it is handed out at its place. `repeats`: the op-id was sent before, with an unknown outcome.
    """

    __slots__ = ("agent", "error", "follower", "has_ended", "repeats", "reply", "tag")

    message: Get | Put | None

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
        self.cost = 0
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


AnyFlight = TypeVar("AnyFlight", bound=Flight)


class Lane(Generic[AnyFlight]):
    """What is on its way to and from one agent. While it is not up all of it waits, unsent.

    What is under way is bounded by `limits.LANE_BYTES_MAX` and by `requests_max`; the rest waits
    in line.
    """

    __slots__ = (
        *("_last_id", "_load", "_requests_max", "_waiting", "address", "answered", "frames"),
        *("heard_at", "is_up", "pending"),
    )

    def __init__(self, address: str, *, requests_max: int = limits.BULK_IN_FLIGHT_MAX) -> None:
        self.address = address
        self.is_up = False
        self.heard_at = 0.0  # when bytes came last
        self.answered = 0  # replies so far
        self.frames: list[bytes] = []  # encoded; the shell takes and sends them
        self.pending: dict[int, AnyFlight] = {}  # by request id; their frames were in `frames`
        self._waiting: OrderedDict[int, tuple[AnyFlight, bytes]] = OrderedDict()
        self._load = 0  # cost of what is pending
        self._last_id = 0
        self._requests_max = requests_max

    def send(self, now: float, flight: AnyFlight) -> None:
        """Encodes it and puts it in line; raises `TooLarge`."""
        message = flight.message
        assert message is not None
        if type(message) is Put:
            message.attempt = flight.plan.attempt
        number = self._last_id = flight.number = self._last_id + 1
        budget = budget_ms(flight.try_deadline - now)
        frame = encode_frame(message, request_id=number, budget_ms=budget)
        flight.sent_at = now
        if self._waiting or not self._has_room(flight):
            self._waiting[number] = (flight, frame)
        else:
            self._add(number, flight, frame)

    def _has_room(self, flight: AnyFlight) -> bool:
        if not self.pending:
            return self.is_up
        is_within = self._load + flight.cost <= limits.LANE_BYTES_MAX
        return is_within and len(self.pending) < self._requests_max

    def _add(self, number: int, flight: AnyFlight, frame: bytes) -> None:
        self.pending[number] = flight
        self.frames.append(frame)
        self._load += flight.cost

    def take(self, number: int) -> AnyFlight | None:
        """The one of this id, which is pending no longer; None if it was not."""
        flight = self.pending.pop(number, None)
        if flight is not None:
            self._load -= flight.cost
        return flight

    def withdraw(self, flight: AnyFlight) -> bool:
        """Takes it out if it is still waiting; False: it has been sent, or was never here."""
        return self._waiting.pop(flight.number, None) is not None

    def admit(self, now: float) -> None:
        """Sends those that waited, as far as there is room."""
        waiting = self._waiting
        while waiting:
            number = next(iter(waiting))
            flight, frame = waiting[number]
            if not self._has_room(flight):
                return
            del waiting[number]
            flight.sent_at = now
            self._add(number, flight, frame)

    def late(self, now: float) -> tuple[list[int], list[AnyFlight]]:
        """(pending, never sent): those whose try is over. The latter are taken out."""
        pending = [number for number, f in self.pending.items() if f.try_deadline <= now]
        unsent = [flight for flight, _ in self._waiting.values() if flight.try_deadline <= now]
        for flight in unsent:
            del self._waiting[flight.number]
        return pending, unsent

    def clear(self) -> tuple[list[AnyFlight], list[AnyFlight]]:
        """(pending, never sent): all of them, taken out; the lane is not up any more."""
        pending = list(self.pending.values())
        unsent = [flight for flight, _ in self._waiting.values()]
        self.is_up = False
        self.pending = {}
        self.frames = []
        self._waiting.clear()
        self._load = 0
        return pending, unsent


class Costs:
    """What requests hold in memory: a put its value, a get what replies lead us to expect."""

    __slots__ = ("_reply_bytes",)

    def __init__(self) -> None:
        self._reply_bytes = limits.REPLY_BYTES_ASSUMED

    def of(self, message: Message) -> int:
        if type(message) is Put:
            return (len(message.value) if message.value is not None else 0) + _OVERHEAD_BYTES
        return self._reply_bytes + _OVERHEAD_BYTES

    def learn(self, reply: GetReply) -> int:
        """Takes note of a reply; returns its own cost."""
        size, expected = sum(map(len, reply.siblings)), self._reply_bytes
        # Up at once, down slowly: one small reply says little about the next one.
        self._reply_bytes = size if size > expected else expected - (expected - size) // 16
        return size + _OVERHEAD_BYTES

    def doubt(self) -> None:
        """A connection was lost, perhaps by an agent that could not hold so many replies: begin
        again with few."""
        self._reply_bytes = max(self._reply_bytes, limits.VALUE_BYTES_DEFAULT_MAX)
