"""What one traced request went through, as its client saw it: pure, loaded only where asked for.

Its own events (which agent was tried, at which attempt, what came of it) with those of the agents
between them: `core.trace` says how.
"""

from __future__ import annotations

from dynagent.core.messages import Message
from dynagent.core.trace import Event, Trace
from dynagent.errors import DynagentError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from dynagent.client.requests import Receipt, Result

    Outcome = TypeVar("Outcome", Result, Receipt, DynagentError)

_SELF = "client"


class Journal:
    """The trace of one request over all its tries."""

    __slots__ = ("_trace",)

    def __init__(self, now: float) -> None:
        self._trace = Trace(now)

    @property
    def events(self) -> list[Event]:
        return self._trace.events

    def on_try(self, now: float, address: str, attempt: int) -> None:
        words = f"asks {address}, attempt {attempt}" if attempt > 1 else f"asks {address}"
        self._trace.add(now, _SELF, words)

    def on_reply(self, now: float, address: str, reply: Message) -> None:
        """The agent has answered; raises `ProtocolError` if its trace is malformed."""
        data: bytes = getattr(reply, "trace", b"")
        try:
            self._trace.include(data)
        except ProtocolError as exc:
            raise self.sign(ProtocolError(f"{address} sent {exc.message}")) from exc
        words = "" if data else ", without a trace: it is older than this client"
        self._trace.add(now, _SELF, f"has the answer of {address}{words}")

    def on_failure(self, now: float, address: str, error: DynagentError) -> None:
        """It has failed. A malformed trace is told, and hides neither the failure nor its kind."""
        try:
            self._trace.include(error.trace_data)
        except ProtocolError as exc:
            self._trace.add(now, _SELF, f"cannot read what {address} sent: {exc.message}")
        words = f"has no answer of {address}: {type(error).__name__}: {error.message}"
        self._trace.add(now, _SELF, words)

    def sign(self, outcome: Outcome) -> Outcome:
        """The same result, receipt or error, with the trace on it."""
        outcome.trace = self.events
        return outcome
