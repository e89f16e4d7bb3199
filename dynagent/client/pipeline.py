"""Many requests in flight: which one goes where, when, and in what order they end. Pure.

A `Request` waits in the window from the moment it is taken in until it is handed out; they are
handed out in the order in which they came. In between its `Plan` sends it along lanes, one lane for
each agent:

    add ──▶ (the same key is under way: it waits for its end) ──▶ lane ──▶ reply ──▶ finished
                                                      ▲              │
                                                      └── next try ◀─┘ refused, lost or too late

A lane that is lost hands all its requests to their next address; one that is down is passed over.
When all addresses of a request are down it waits for one of them, but an outage is waited for once
only, `timeout_s` long: after that requests fail at once. The shell (`client.bulk`) moves the bytes
and tells the time.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from dynagent import limits
from dynagent.client.lane import Costs, Lane, Request
from dynagent.client.routing import Addresses, Plan
from dynagent.core.messages import Error, Get, GetReply, Message, Put, PutReply
from dynagent.errors import (
    ConnectionLost,
    DynagentError,
    NotReady,
    Overloaded,
    ProtocolError,
    QuorumNotMet,
    TooLarge,
    Unreachable,
    WriteOutcomeUnknown,
    WrongCluster,
    from_wire,
)

_GOLDEN = 0.618034
_BUSY = (NotReady, Overloaded, QuorumNotMet)  # may well be over after a pause


class Pipeline:
    """The window over all lanes. The times it is given are of one monotonic clock, in seconds."""

    def __init__(self, addresses: Addresses, *, timeout_s: float, in_flight: int) -> None:
        self.lanes: dict[str, Lane[Request]] = {}  # grows as addresses are needed
        self.addresses = addresses
        self._told = 0  # the newest epoch that an agent has told of
        self._timeout_s = timeout_s
        self._in_flight = in_flight
        self._window: deque[Request] = deque()
        self._bytes = 0  # cost of all in the window
        self._tails: dict[bytes, Request] = {}  # the last request of each key, until it has ended
        self._ready: deque[Request] = deque()  # those whose key has just become free
        self._down: dict[str, DynagentError] = {}  # why, for each address that was lost
        self._resting: list[tuple[float, int, Request]] = []  # a heap: when to try again, …
        self._refusals = 0  # in all
        self._stranded: list[Request] = []  # all their addresses are down
        self._outage_ends: float | None = None
        self._costs = Costs()

    def __len__(self) -> int:
        """Requests that have been taken in and not been handed out."""
        return len(self._window)

    @property
    def has_room(self) -> bool:
        return len(self._window) < self._in_flight and self._bytes < limits.BULK_BYTES_MAX

    def add(self, now: float, request: Request) -> None:
        """Takes it in; it is sent at once, or when the earlier one of its key has ended."""
        self._window.append(request)
        message = request.message
        if message is None:
            request.has_ended = True
            return
        key = message.key
        self._charge(request, self._costs.of(message))
        earlier = self._tails.get(key)
        self._tails[key] = request
        if earlier is not None:
            earlier.follower = request
        else:
            self._start(now, request)

    def finished(self) -> list[Request]:
        """Those at the head of the window that have ended."""
        window = self._window
        found = []
        while window and window[0].has_ended:
            request = window.popleft()
            self._bytes -= request.cost
            found.append(request)
        return found

    # --- what lanes report -----------------------------------------------------------------------

    def on_up(self, now: float, lane: Lane[Request]) -> None:
        """The agent has said Hello."""
        lane.is_up = True
        lane.heard_at = now
        self._down.pop(lane.address, None)
        self._outage_ends = None
        stranded, self._stranded = self._stranded, []
        for request in stranded:
            self._try(now, request)
        lane.admit(now)
        self._start_ready(now)

    def on_lost(self, now: float, lane: Lane[Request], error: DynagentError) -> None:
        """The connection could not be made, or is closed: everything in the lane goes elsewhere."""
        missing = error if isinstance(error, WrongCluster) else Unreachable(error.message)
        self._down[lane.address] = missing
        pending, unsent = lane.clear()
        if pending:
            self._costs.doubt()
        for request in pending:
            assert request.message is not None
            self._charge(request, self._costs.of(request.message))
            request.plan.failed(error)
            self._try(now, request)
        for request in unsent:
            request.plan.failed(missing)
            self._try(now, request)
        self._start_ready(now)

    def on_reply(
        self, now: float, lane: Lane[Request], request_id: int, message: Message | None
    ) -> None:
        """A frame has come. One that nobody waits for any more is too late, and passed over."""
        request = lane.take(request_id)
        if request is None:
            return
        lane.answered += 1
        request.agent = lane.address
        if type(message) is PutReply and type(request.message) is Put:
            request.reply = message
            if message.epoch:
                self._told = max(self._told, message.epoch)
            self._end(request)
        elif type(message) is GetReply and type(request.message) is Get:
            request.reply = message
            if message.epoch:
                self._told = max(self._told, message.epoch)
            self._charge(request, self._costs.learn(message))
            self._end(request)
        else:
            self._fail(now, request, _error_of(lane, message))
        lane.admit(now)
        self._start_ready(now)

    def sweep(self, now: float, lanes: list[Lane[Request]]) -> list[Lane[Request]]:
        """Ends tries whose time is over, in those of `lanes` whose bytes have all been read, and
        starts those that rested. Returns lanes that are silent: they are to be closed.

        All requests are looked at, some twenty times a second; a heap of their deadlines would
        cost more for each than this does for all.
        """
        resting = self._resting
        while resting and resting[0][0] <= now:
            self._try(now, heappop(resting)[2])
        if self._stranded:
            stranded, self._stranded = self._stranded, []
            for request in stranded:
                self._try(now, request)
        silent = []
        for lane in lanes:
            late, unsent = lane.late(now)
            for waiting in unsent:
                self._fail(now, waiting, Unreachable(f"{lane.address} is too slow"))
            if late and lane.heard_at <= lane.pending[late[0]].sent_at:
                silent.append(lane)
                continue
            for number in late:
                if (taken := lane.take(number)) is not None:
                    self._fail(now, taken, ConnectionLost(f"{lane.address}: no answer in time"))
        self._start_ready(now)
        return silent

    @property
    def lags(self) -> bool:
        """An agent has told of a newer ring than the addresses are of; `aim` at those of that."""
        return self._told > self.addresses.epoch

    def aim(self, addresses: Addresses) -> None:
        """Where the requests go that start from now on."""
        self._told = 0  # until somebody tells again
        if addresses.epoch > self.addresses.epoch:
            self.addresses = addresses

    # --- from try to try -------------------------------------------------------------------------

    def _start(self, now: float, request: Request) -> None:
        message = request.message
        assert message is not None
        request.plan = Plan(
            self.addresses.of(message.key),
            deadline=now + self._timeout_s,
            is_write=type(message) is Put,
            repeats=request.repeats,
        )
        self._try(now, request)

    def _start_ready(self, now: float) -> None:
        while self._ready:
            self._start(now, self._ready.popleft())

    def _try(self, now: float, request: Request) -> None:
        """Sends it along the next lane of its plan, or ends it."""
        plan = request.plan
        if self._down and self._is_stranded(now, request):
            self._stranded.append(request)
            return
        while (step := plan.next(now)) is not None:
            address, share_s = step
            if address in self._down:
                plan.failed(self._down[address])
                continue
            lane = self.lanes.get(address)
            if lane is None:
                lane = self.lanes[address] = Lane(address)
            request.try_deadline = now + share_s
            try:
                lane.send(now, request)
            except TooLarge as exc:
                plan.failed(exc)
                continue
            return
        error = plan.error()
        if isinstance(error, WriteOutcomeUnknown):
            assert isinstance(request.message, Put)
            error.op_id = request.message.op_id
        request.error = error
        self._end(request)

    def _is_stranded(self, now: float, request: Request) -> bool:
        """Nobody is there for it, and the outage is young enough to wait for its end."""
        assert request.message is not None
        down = self._down
        addresses = self.addresses.of(request.message.key)
        if now >= request.plan.deadline or any(address not in down for address in addresses):
            return False
        if self._outage_ends is None:
            self._outage_ends = now + self._timeout_s
        if now >= self._outage_ends:
            return False
        request.plan.failed(down[addresses[0]])  # for the message, should its time pass meanwhile
        return True

    def _fail(self, now: float, request: Request, error: DynagentError) -> None:
        request.plan.failed(error)
        if isinstance(error, _BUSY):
            # Hundreds may be refused at once: multiples of the golden ratio spread them evenly.
            self._refusals = number = self._refusals + 1
            pause_s = request.plan.pause_s(now, number * _GOLDEN % 1) or limits.RETRY_PAUSE_S
            heappush(self._resting, (now + pause_s, number, request))
        else:
            self._try(now, request)

    def _end(self, request: Request) -> None:
        request.has_ended = True
        assert request.message is not None
        follower = request.follower
        if follower is None:
            del self._tails[request.message.key]
        else:
            request.follower = None
            self._ready.append(follower)

    def _charge(self, request: Request, cost: int) -> None:
        self._bytes += cost - request.cost
        request.cost = cost


def _error_of(lane: Lane[Request], message: Message | None) -> DynagentError:
    if isinstance(message, Error):
        return from_wire(message.error, message.text)
    name = type(message).__name__ if message is not None else "an unknown message"
    return ProtocolError(f"{lane.address}: {name} is not the answer to this request")
