"""Clients of level 2: real frames, and the real client's rules for routing and retries.

What they ask and remember is level 1's `LoopClient`. How they ask is what `client.blocking` does: a
`client.routing.Plan` for each request, one kept connection to each agent, a try that ends with its
share of the time and takes its connection with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dynagent import limits
from dynagent.client.routing import Plan
from dynagent.core.messages import ROLE_CLIENT, Error, Hello, Message, Put
from dynagent.core.ports import NodeId
from dynagent.core.ring import Ring, token_of
from dynagent.env import Accept
from dynagent.errors import (
    ConnectionLost,
    DynagentError,
    ProtocolError,
    Unreachable,
    from_wire,
)
from dynagent.testing.clients import LoopClient, make_message
from dynagent.testing.history import FAILED, OK, UNKNOWN, Attempt, History, Operation
from dynagent.testing.level2.profile import Profile
from dynagent.testing.level2.wires import End, Wires
from dynagent.testing.world import World
from dynagent.wire.codec import encode_frame
from dynagent.wire.registry import VERSION_MAX, VERSION_MIN
from dynagent.wire.session import Session

Outcome = Callable[[Message | DynagentError], None]


class Port:
    """The network of a client: whatever arrives is read at once, whatever is written is sent."""

    def __init__(self, wires: Wires, place: str) -> None:
        self.place = place
        self.is_dead = False
        self.is_slow = False  # it has stopped reading
        self._wires = wires
        self._waiting: dict[End, None] = {}

    def touch(self, end: End) -> None:
        end.flush()

    def on_ready(self, end: End) -> None:
        if self.is_slow:
            self._waiting[end] = None
        else:
            self._wires.world.after(0.0, self._receive, end)

    def _receive(self, end: End) -> None:
        end.receive()

    def wake(self) -> None:
        """Reads on."""
        self.is_slow = False
        waiting, self._waiting = self._waiting, {}
        for end in waiting:
            self.on_ready(end)

    def on_connect(self, end: End, accept: Accept) -> None:
        raise AssertionError("nobody dials a client")

    def dial(self, address: str, on_result: Callable[[End | str], None]) -> None:
        self._wires.dial(self, address, on_result)


class Call:
    """A connection to one agent, one request at a time (`client.blocking.Connection`)."""

    def __init__(self, world: World, port: Port, address: str) -> None:
        self.is_open = True
        self._world = world
        self._port = port
        self._address = address
        self._end: End | None = None
        self._last_id = 0
        self._outcome: Outcome | None = None
        hello = Hello(
            VERSION_MIN, VERSION_MAX, ROLE_CLIENT, b"", "", b"", [], limits.DATA_FRAME_BYTES_MAX, 0
        )
        self._session = Session(hello, dialled=True)

    def request(self, message: Message, *, timeout_s: float, outcome: Outcome) -> None:
        """`outcome` is called once, with the reply or with the error that it came to."""
        self._last_id += 1
        self._outcome = outcome
        budget_ms = min(max(1, int(timeout_s * 950)), limits.BUDGET_MS_MAX)
        data = encode_frame(message, request_id=self._last_id, budget_ms=budget_ms)
        self._world.after(timeout_s, self._on_timeout, self._last_id)
        if self._end is not None:
            self._end.write(data)
            return
        self._world.after(
            min(timeout_s, limits.CONNECT_S_MAX), self._on_no_connection, "no answer in time"
        )
        self._port.dial(self._address, lambda result: self._on_dialled(result, data))

    def _on_dialled(self, result: End | str, data: bytes) -> None:
        if isinstance(result, str):
            self._on_no_connection(result)
        elif not self.is_open:
            result.handler = self
            result.close("too late")
        else:
            self._end = result
            result.handler = self
            result.write(self._session.hello() + data)
            self._port.on_ready(result)

    def _on_no_connection(self, why: str) -> None:
        if self._end is None:
            self.is_open = False
            self._conclude(Unreachable(f"{self._address}: {why}"))

    def _on_timeout(self, request_id: int) -> None:
        if request_id == self._last_id and self._outcome is not None:
            self.close("gave up")
            self._conclude(ConnectionLost(f"{self._address}: no answer in time"))

    def _conclude(self, result: Message | DynagentError) -> None:
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            outcome(result)

    def close(self, reason: str) -> None:
        self.is_open = False
        if self._end is not None:
            self._end.close(reason)

    def lose(self, wires: Wires) -> None:
        """Gone without a word to the other end."""
        if self._end is not None:
            wires.vanish(self._end)
        self.on_closed("lost")

    # --- env.Handler -----------------------------------------------------------------------------

    def on_bytes(self, data: bytes) -> None:
        if not self.is_open:
            return
        try:
            for frame in self._session.receive(data):
                message = frame.message
                if isinstance(message, Error):
                    self._conclude(from_wire(message.error, message.text))
                elif message is not None and frame.request_id == self._last_id:
                    self._conclude(message)
        except DynagentError as exc:
            is_early = isinstance(exc, ProtocolError) and self._session.remote is None
            self.close(exc.message)
            self._conclude(Unreachable(exc.message) if is_early else exc)

    def on_closed(self, reason: str) -> None:
        self.is_open = False
        self._conclude(ConnectionLost(f"{self._address}: {reason}"))


class Caller:
    """What `client.blocking.Client` is among simulated clients: plans, tries, kept connections."""

    def __init__(self, world: World, wires: Wires, place: str) -> None:
        self.port = Port(wires, place)
        self._world = world
        self._wires = wires
        self._calls: dict[str, Call] = {}

    def read_late(self, seconds: float) -> None:
        """It does not read for a while."""
        self.port.is_slow = True
        self._world.after(seconds, self.port.wake)

    def wake(self) -> None:
        """Reads on."""
        self.port.wake()

    def lose_all(self) -> None:
        """Its machine has gone away: the agents are not told, requests under way end."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.lose(self._wires)

    def run(
        self,
        plan: Plan,
        message: Message,
        *,
        outcome: Outcome,
        on_try: Callable[[str, float], None],
        on_failed: Callable[[DynagentError], None],
    ) -> None:
        """Tries until there is a reply or the plan has come to its end."""
        step = plan.next(self._world.now)
        if step is None:
            outcome(plan.error())
            return
        address, timeout_s = step
        if isinstance(message, Put):
            message.attempt = plan.attempt
        call = self._calls.get(address)
        if call is None or not call.is_open:
            call = self._calls[address] = Call(self._world, self.port, address)
        on_try(address, timeout_s)

        def concluded(result: Message | DynagentError) -> None:
            if isinstance(result, DynagentError):
                on_failed(result)
                plan.failed(result)
                self.run(plan, message, outcome=outcome, on_try=on_try, on_failed=on_failed)
            else:
                outcome(result)

        call.request(message, timeout_s=timeout_s, outcome=concluded)


class FrameClient(LoopClient):
    """A client in a closed loop (level 1's), that asks as the real one does."""

    def __init__(
        self,
        *,
        number: int,
        world: World,
        wires: Wires,
        history: History,
        ring: Ring,
        profile: Profile,
        keys: Sequence[bytes],
    ) -> None:
        super().__init__(
            number=number, world=world, history=history, ring=ring, profile=profile, keys=keys
        )
        self.place = self.name
        self.caller = Caller(world, wires, self.place)
        self._level2 = profile
        self._addresses = [member.address for member in ring.members]
        self._is_router = self._dice.random() < profile.router

    def _try(self) -> None:
        operation = self._operation
        assert operation is not None
        deadline = self._world.now + self._level2.timeout_s
        addresses = self._order(operation.key)
        plan = Plan(addresses, deadline=deadline, is_write=operation.is_write)
        self.caller.run(
            plan,
            make_message(operation, 1),
            outcome=self._on_outcome,
            on_try=lambda address, timeout_s: self._on_try(operation, plan, address, timeout_s),
            on_failed=lambda error: self._on_failed(operation, error),
        )

    def _order(self, key: bytes) -> list[str]:
        """Owners first, as with a learnt ring; or anybody, as with a list of endpoints."""
        if self._is_router:
            return self._dice.sample(self._addresses, len(self._addresses))
        ring = self._ring
        address_of = {member.id: member.address for member in ring.members}
        owners = [address_of[node] for node in ring.lists[ring.partition_of(token_of(key))]]
        if self._dice.random() < 0.5:
            self._dice.shuffle(owners)
        return list(dict.fromkeys([*owners, *self._addresses]))

    def _on_try(self, operation: Operation, plan: Plan, address: str, timeout_s: float) -> None:
        now = self._world.now
        dead_by = now + timeout_s + self._level2.longest_delay_s
        if operation.attempts:
            self._world.faults["retry"] += 1
        operation.attempts.append(
            Attempt(number=plan.attempt, agent=NodeId(address), sent=now, dead_by=dead_by)
        )

    def _on_failed(self, operation: Operation, error: DynagentError) -> None:
        operation.attempts[-1].is_refused = error.definite
        self._world.log(f"{self.name} is told {type(error).__name__}: {error.message}")

    def _on_outcome(self, result: Message | DynagentError) -> None:
        operation = self._operation
        assert operation is not None
        if isinstance(result, DynagentError):
            self._finish(FAILED if result.definite else UNKNOWN)
            return
        self._take(operation, result)
        self._finish(OK)
