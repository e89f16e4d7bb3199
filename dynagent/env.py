"""All that a node may ask of the world (design §10): the seams that the simulator replaces.

The real world is `net.tcp`, `agent.writer` and the clocks that `main` picks; the second world lives
in `dynagent.testing`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dynagent.core.ports import Dice
from dynagent.obs.pulse import Pulse


class Connection(Protocol):
    """A byte stream to another process. `write` and `close` never block and never call back."""

    @property
    def remote(self) -> str:
        """The other end's address, for logs."""

    @property
    def unsent(self) -> int:
        """Bytes that have been written and are still here."""

    def write(self, data: bytes) -> None:
        """Queues bytes; they leave at the end of the turn."""

    def pause(self, *, is_paused: bool) -> None:
        """While paused nothing is read: the other end waits, by TCP's own means."""

    def close(self, reason: str) -> None:
        """Closes at the end of the turn, behind what has been written."""

    def drop(self, reason: str) -> None:
        """Closes now, whatever waits to be sent; this one does call `Handler.on_closed`."""


class Handler(Protocol):
    """What the agent makes of one connection."""

    def on_bytes(self, data: bytes) -> None:
        """Some bytes arrived; raises nothing."""

    def on_closed(self, reason: str) -> None:
        """The connection is gone, by whichever end; called once."""


Accept = Callable[[Connection], Handler]


class Transport(Protocol):
    """Moves bytes in **turns**: all that has arrived is handed out, then `on_turn_end` is called
    once, then everything written is sent. Nothing in a turn waits."""

    async def listen(self, address: str, accept: Accept) -> str:
        """Serves an address from now on; returns it with the real port. Raises `StartError`."""

    async def dial(self, address: str, accept: Accept) -> Connection:
        """Connects; raises `Unreachable`."""

    async def run(self, on_turn_end: Callable[[], None]) -> None:
        """Runs turns until cancelled."""

    def stop_listening(self) -> None:
        """No new connections; present ones go on."""

    def call_soon(self, job: Callable[[], None]) -> None:
        """Runs `job` in the next turn; the one method that other threads may call."""

    def request_turn(self) -> None:
        """There is something to send although nothing has arrived (a timer fired)."""


class Writer(Protocol):
    """Runs blocking disk work off the loop, one job at a time, in order."""

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """`done(error)` is called on the loop, in a turn."""

    def close(self) -> None:
        """Waits for the job that is running; what waits behind it may or may not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """One node's world."""

    monotonic: Callable[[], float]  # seconds; the only clock that decides anything
    wall_ms: Callable[[], int]  # milliseconds since 1970; information only
    dice: Callable[[str], Dice]  # a random stream by name
    transport: Transport
    writer: Writer
    cpu_s: Callable[[], float] = float  # CPU time of the process; a simulated host uses none
    pulse: Pulse = field(default_factory=Pulse)  # beats once a turn
