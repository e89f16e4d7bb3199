"""One connection of the trio client, from its dial to its end; any number of tasks share it.

A task hands over a `Call` and sleeps. The call's frame waits in the connection's lane until the
agent has said Hello and there is room, leaves with all others at the end of a turn, and the task
is woken by the reply with its request id. A task that does not wait any longer (its time is over,
or it was cancelled) leaves; if its frame has been sent, the reply still counts as on its way, and
is passed over when it comes. No task sends: bytes are queued, the transport moves them.
"""

from __future__ import annotations

import trio

from dynagent import limits
from dynagent.client.lane import Costs, Flight, Lane
from dynagent.client.requests import new_session
from dynagent.client.routing import Plan
from dynagent.core.messages import Error, GetReply, Message
from dynagent.env import Connection, Transport
from dynagent.errors import (
    ConnectionLost,
    DynagentError,
    ProtocolError,
    Unreachable,
    from_wire,
)


class Call(Flight):
    """One try of one request, and the task that waits for its outcome."""

    __slots__ = ("outcome", "task")

    message: Message

    def __init__(self, message: Message, plan: Plan, *, now: float, timeout_s: float) -> None:
        self.message = message
        self.plan = plan
        self.try_deadline = now + timeout_s
        self.outcome: Message | DynagentError | None = None
        self.task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Until there is an outcome."""
        if self.outcome is None:
            self.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        else:
            await trio.lowlevel.checkpoint()

    def _abort(self, _raise: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def conclude(self, outcome: Message | DynagentError) -> None:
        self.outcome = outcome
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
            self.task = None


class Turns:
    """The connections of a client that have something to send, and the transport that sends it."""

    __slots__ = ("_is_requested", "_touched", "transport")

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._touched: dict[TrioLink, None] = {}
        self._is_requested = False

    async def run(self) -> None:
        """Moves bytes until cancelled; then everything is closed."""
        await self.transport.run(self._end)

    def touch(self, link: TrioLink) -> None:
        """It has something to send. All that is written before the turn leaves in one send."""
        self._touched[link] = None
        if not self._is_requested:
            self._is_requested = True
            self.transport.request_turn()

    def _end(self) -> None:
        self._is_requested = False
        touched, self._touched = self._touched, {}
        for link in touched:
            link.flush()


class TrioLink:
    """A connection to one agent (`env.Handler`)."""

    __slots__ = (
        *("_connection", "_costs", "_greeted", "_lane", "_session", "_turns", "address"),
        "error",
    )

    def __init__(
        self, address: str, turns: Turns, costs: Costs, *, cluster_id: bytes, wall_ms: int
    ) -> None:
        self.address = address
        self.error: DynagentError | None = None  # why it is over
        self._turns = turns
        self._costs = costs
        self._lane: Lane[Call] = Lane(address, requests_max=limits.LANE_REQUESTS_MAX)
        self._session = new_session(cluster_id, wall_ms=wall_ms)
        self._connection: Connection | None = None
        self._greeted = trio.Event()

    async def connect(self, *, timeout_s: float) -> None:
        """Dials, says Hello and waits for the agent's; `error` tells if that was in vain."""
        try:
            with trio.move_on_after(timeout_s):
                await self._turns.transport.dial(self.address, self._accept)
                await self._greeted.wait()
        except DynagentError as exc:
            self._fail(exc)
        finally:
            if not self._lane.is_up:
                self.end("no answer in time")

    def _accept(self, connection: Connection) -> TrioLink:
        self._connection = connection
        connection.write(self._session.hello())
        return self

    @property
    def load(self) -> int:
        """Requests that count as under way."""
        return len(self._lane.pending)

    # --- what tasks do ---------------------------------------------------------------------------

    async def request(self, call: Call, *, now: float) -> Message:
        """Sends it and waits for its reply, at most until its `try_deadline`.

        Raises what the agent answered, `Unreachable` if it was never sent, `ConnectionLost` if it
        was sent and there is no answer, `TooLarge`.
        """
        call.cost = self._costs.of(call.message)
        self._lane.send(now, call)
        if self._lane.frames:
            self._turns.touch(self)
        try:
            with trio.move_on_at(call.try_deadline):
                await call.wait()
        finally:
            if call.outcome is None:
                is_sent = self._leave(call)
        outcome = call.outcome
        if outcome is None:
            if is_sent:
                raise ConnectionLost(f"{self.address}: no answer in time")
            lacking = "room" if self._lane.is_up else "connection"
            raise Unreachable(f"{self.address}: no {lacking} in time")
        if isinstance(outcome, DynagentError):
            raise outcome
        return outcome

    def _leave(self, call: Call) -> bool:
        """Nobody waits for it any more. True if it has been sent and may have an effect."""
        lane, now = self._lane, trio.current_time()
        is_sent = not lane.withdraw(call)
        # The oldest may be of a task that has left earlier: those that wait only shortly would
        # otherwise never find out that the agent hangs.
        oldest = next(iter(lane.pending.values()), call)
        for flight in (oldest, call):
            if flight.number not in lane.pending or now < flight.try_deadline:
                continue
            if lane.heard_at <= flight.sent_at:
                self.end("no answer in time")
                return is_sent
            lane.take(flight.number)  # the agent answers others: this one is lost
        lane.admit(now)
        if lane.frames:
            self._turns.touch(self)
        return is_sent

    # --- what the turn does ----------------------------------------------------------------------

    def flush(self) -> None:
        """Hands what waits to the transport, as one piece."""
        frames, self._lane.frames = self._lane.frames, []
        if frames and self._connection is not None:
            self._connection.write(b"".join(frames))

    def on_bytes(self, data: bytes) -> None:
        if self.error is not None:
            return
        lane, session, now = self._lane, self._session, trio.current_time()
        try:
            frames = session.receive(data)
        except DynagentError as exc:
            if lane.is_up:
                self.end(exc.message)
            else:
                self._fail(_refusal(self.address, exc))
            return
        lane.heard_at = now
        if not lane.is_up and session.remote is not None:
            lane.is_up = True
            self._greeted.set()
        for frame in frames:
            message = frame.message
            call = lane.take(frame.request_id)
            if call is not None:
                if isinstance(message, GetReply):
                    self._costs.learn(message)
                call.conclude(_outcome(self.address, message))
            elif frame.request_id == 0 and isinstance(message, Error):
                self.end(message.text)  # a farewell
                return
        lane.admit(now)
        self.flush()

    def on_closed(self, reason: str) -> None:
        self.end(reason)

    # --- the end ---------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """Closes it at once; every request that it had fails, and its plan goes on elsewhere."""
        kind = ConnectionLost if self._lane.is_up else Unreachable
        self._fail(kind(f"{self.address}: {reason}"))

    def _fail(self, error: DynagentError) -> None:
        if self.error is not None:
            return
        self.error = error
        self._greeted.set()
        pending, unsent = self._lane.clear()
        if pending:
            self._costs.doubt()
        missing = type(error) if error.definite else Unreachable
        # Each gets one of its own: a raised exception carries the traces of who raised it.
        for call in pending:
            call.conclude(type(error)(error.message))
        for call in unsent:
            call.conclude(missing(error.message))
        if self._connection is not None:
            self._connection.drop(error.message)


def _outcome(address: str, message: Message | None) -> Message | DynagentError:
    if isinstance(message, Error):
        return from_wire(message.error, message.text, message.trace)
    if message is None:
        return ProtocolError(f"{address}: an unknown message is not an answer")
    return message


def _refusal(address: str, error: DynagentError) -> DynagentError:
    """What it means that this came instead of a Hello: nothing was sent, so it is definite."""
    if error.definite and not isinstance(error, ProtocolError):
        return error
    return Unreachable(f"{address} is no agent: {error.message}")
