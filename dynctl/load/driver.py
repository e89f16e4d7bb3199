"""Sends requests through many connections, from one thread, and hands over what comes back.

Neither retries nor hides anything: each request has one outcome, a reply or an error. What is
pending on a connection that breaks has failed; the connection is opened again after a pause, and
meanwhile the others take its share, so that one agent that dies does not end a load.

    closed loop    a request goes out as soon as there is room (connections × in flight)
    open loop      request number i is due at start + i/rate, and counts from then on, however late
                   it goes out: a slow agent cannot hide by slowing the load down ("coordinated
                   omission", Tene)
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dynagent import limits
from dynagent.core.messages import Error, Message
from dynagent.errors import ConnectionLost, DynagentError, Unreachable, from_wire
from dynagent.wire.codec import encode_frame
from dynctl.load.wires import Agent, Request, Wire

Answer = Message | DynagentError
OnAnswer = Callable[[Request, Answer, float, float], None]  # …, began, answered: perf_counter
Owners = Callable[[bytes], Sequence[str]]  # the addresses that hold a key

_FOREVER = float("inf")
_TICK_S = 0.05  # how often time-outs and broken connections are looked after
_SELECT_MAX = 256  # connections up to which an open loop uses select(2)


@dataclass(slots=True, kw_only=True)
class Run:
    """What a run was. `unsent`: due before its end, and never sent (an open loop only)."""

    began: float
    ended: float = 0.0  # when the last request was answered
    sent: int = 0
    unsent: int = 0


class Driver:
    """Connections to some agents. Raises what `Wire.open` raises; `with` closes them.

    Each request goes to an agent that `owners` names for its key (to any without it), and there to
    a connection with room. `timeout_s`: for each request; a connection on which one has had no
    answer by then is closed, because an agent that lives answers a little earlier.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        connections: int,
        in_flight: int = 1,
        timeout_s: float = 5.0,
        owners: Owners | None = None,
        cluster_id: bytes = b"",
        is_open_loop: bool = False,
    ) -> None:
        self._agents = {address: Agent(address) for address in addresses}
        self._everybody = list(self._agents.values())
        self._owners = owners
        self._per_wire = in_flight
        self._window = connections * in_flight
        self._timeout_s = timeout_s
        self._budget_ms = min(max(1, int(timeout_s * 950)), limits.BUDGET_MS_MAX)
        self._in_flight = 0
        self._turn = 0
        self._touched: list[Wire] = []
        self._looked_at = 0.0
        self._alive_at = 0.0
        # epoll waits in whole milliseconds; an open loop would send up to one too late.
        fine = is_open_loop and connections <= _SELECT_MAX
        self._selector: selectors.BaseSelector = (
            selectors.SelectSelector() if fine else selectors.DefaultSelector()
        )
        self._wires = [
            Wire(self._everybody[place % len(self._everybody)], cluster_id)
            for place in range(connections)
        ]

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        for wire in self._wires:
            if wire.is_open:
                wire.close(0.0)
        self._selector.close()

    @property
    def losses(self) -> dict[str, int]:
        """How many connections to each agent broke; only agents that lost some."""
        return {agent.address: agent.losses for agent in self._everybody if agent.losses}

    @property
    def absent(self) -> list[str]:
        """The agents to which no connection is open now."""
        return [agent.address for agent in self._everybody if not agent.ready]

    def connect(self) -> None:
        """Returns once every connection has been tried; raises `Unreachable` if all failed."""
        deadline = time.perf_counter() + limits.CONNECT_S_MAX
        self._on_answer: OnAnswer = lambda *_: None
        while (now := time.perf_counter()) < deadline:
            self._look_after(now)
            if all(wire.is_ready or wire.failures for wire in self._wires):
                break
            self._poll(_TICK_S)
        if len(self.absent) == len(self._everybody):
            raise Unreachable(f"none of {', '.join(self._agents)} takes connections")

    # --- a run -----------------------------------------------------------------------------------

    def run(
        self,
        requests: Iterator[Request],
        on_answer: OnAnswer,
        *,
        until: float = _FOREVER,
        rate: float = 0.0,
    ) -> Run:
        """Sends all requests, or those that can go out before `until` (perf_counter), and waits for
        the outcome of each. `rate`: requests per second of an open loop; 0: a closed one.

        Raises `Unreachable` when nobody has taken connections for `timeout_s`, and `LocalFailure`.
        """
        self._on_answer = on_answer
        began = self._alive_at = time.perf_counter()
        run = Run(began=began)
        is_done = False
        while not is_done or self._in_flight:
            now = time.perf_counter()
            if not is_done:
                if now < until:
                    is_done = self._fill(run, requests, rate, now)
                else:
                    is_done = True
                    run.unsent = max(0, int((until - began) * rate) - run.sent) if rate else 0
            self._flush()
            wait_s = _TICK_S
            if rate and not is_done and self._in_flight < self._window:
                wait_s = min(wait_s, began + run.sent / rate - time.perf_counter())
            self._poll(max(0.0, min(wait_s, until - now) if not is_done else wait_s))
            if now - self._looked_at >= _TICK_S:
                self._look_after(now)
        run.ended = time.perf_counter()
        return run

    def _fill(self, run: Run, requests: Iterator[Request], rate: float, now: float) -> bool:
        """Sends what is due, as far as there is room; True if there are no more requests."""
        if len(self.absent) == len(self._everybody):
            return False
        began, pause_s = now, 1 / rate if rate else 0.0
        while self._in_flight < self._window:
            if rate and (began := run.began + run.sent * pause_s) > now:
                break
            request = next(requests, None)
            if request is None:
                return True
            run.sent += 1
            self._send(request, began, now)
        return False

    def _send(self, request: Request, began: float, now: float) -> None:
        agent = self._choose(request[0])
        wire = agent.take()
        wire.last_id += 1
        frame = encode_frame(request[1], request_id=wire.last_id, budget_ms=self._budget_ms)
        if not wire.output:
            self._touched.append(wire)
        wire.output += frame
        wire.pending[wire.last_id] = (request, began, now + self._timeout_s)
        agent.in_flight += 1
        self._in_flight += 1

    def _choose(self, key: bytes) -> Agent:
        """The owner whose connections are the least busy; another agent if no owner is there."""
        agents = self._everybody
        if self._owners is not None:
            found = self._agents
            agents = [found[address] for address in self._owners(key) if found[address].ready]
        agents = agents or self._everybody
        self._turn = turn = self._turn + 1
        best: Agent | None = None
        for place in range(len(agents)):  # equals take turns
            agent = agents[(place + turn) % len(agents)]
            if agent.ready and (
                best is None
                or agent.in_flight * len(best.ready) < best.in_flight * len(agent.ready)
            ):
                best = agent
        assert best is not None  # `_fill` has looked
        return best

    def _flush(self) -> None:
        touched, self._touched = self._touched, []
        for wire in touched:
            if wire.is_open:
                self._write(wire)

    # --- events ----------------------------------------------------------------------------------

    def _poll(self, wait_s: float) -> None:
        for key, events in self._selector.select(wait_s):
            wire: Wire = key.data
            if events & selectors.EVENT_WRITE:
                self._write(wire)
            if events & selectors.EVENT_READ and wire.is_open:
                self._read(wire)

    def _write(self, wire: Wire) -> None:
        try:
            wire.flush()
        except DynagentError as exc:
            self._lose(wire, exc)
            return
        if bool(wire.output) != wire.watches_output:
            self._watch(wire, output=bool(wire.output))

    def _watch(self, wire: Wire, *, output: bool) -> None:
        wire.watches_output = output
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if output else 0)
        self._selector.modify(wire.socket, events, wire)

    def _read(self, wire: Wire) -> None:
        try:
            frames = wire.receive()
        except DynagentError as exc:
            self._lose(wire, exc)
            return
        if not wire.is_ready and wire.session.remote is not None:
            wire.is_ready, wire.failures = True, 0
            wire.agent.joins(wire, self._per_wire)
        now = time.perf_counter()
        for frame in frames:
            entry = wire.pending.pop(frame.request_id, None)
            if entry is None or frame.message is None:
                continue  # a farewell: the connection's end follows
            wire.agent.in_flight -= 1
            self._in_flight -= 1
            if len(wire.pending) < self._per_wire:
                wire.agent.free.append(wire)
            message = frame.message
            answer = (
                from_wire(message.error, message.text) if isinstance(message, Error) else message
            )
            self._on_answer(entry[0], answer, entry[1], now)

    def _lose(self, wire: Wire, error: DynagentError) -> None:
        """The connection is closed, and all that was under way on it has failed."""
        now = time.perf_counter()
        self._selector.unregister(wire.socket)
        for request, began, _deadline in wire.close(now):
            self._in_flight -= 1
            self._on_answer(request, error, began, now)

    def _look_after(self, now: float) -> None:
        """Opens what is due, gives up what has had no answer."""
        self._looked_at = now
        for wire in self._wires:
            if not wire.is_open:
                if now >= wire.due_at:
                    self._open(wire, now)
            elif not wire.is_ready:
                if now >= wire.due_at:
                    self._lose(wire, Unreachable(f"{wire.agent.address}: no Hello in time"))
            elif wire.pending:
                deadline = next(iter(wire.pending.values()))[2]  # the oldest comes first
                if now >= deadline:
                    self._lose(wire, ConnectionLost(f"{wire.agent.address}: no answer in time"))
        if len(self.absent) < len(self._everybody):
            self._alive_at = now
        elif self._alive_at and now - self._alive_at > self._timeout_s:
            raise Unreachable(f"no agent has taken connections for {self._timeout_s:g}s")

    def _open(self, wire: Wire, now: float) -> None:
        try:
            wire.open(now)
        except Unreachable:
            wire.close(now)
            return
        self._selector.register(wire.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, wire)
        wire.watches_output = True
