"""The watchdog: what blocked the event loop, and for how long.

A turn that lasts too long delays every request of the agent, and no metric of a request tells why.
Two halves find it out:

- **The loop measures.** Trio tells when it starts and stops waiting for events, the transport when
  a turn ends: each notes the time, so the length of a stall is exact, and none is missed. Waiting
  in epoll is no stall. This costs two clock readings an iteration of the loop, nothing a request.
- **A thread looks.** It sleeps in the kernel for three quarters of `watchdog_stall_ms`; when it
  finds a turn that is at least one quarter old it notes the loop's stack, so each stall has been
  looked at when it is told of. Two threads that both run Python stall each other: this one runs
  Python for some microseconds 13 times a second.

When the stall is over one line `loop.stalled` names its length and the innermost frames; a loop
that does not come back is told as `loop.stuck`, by the thread. `cpu` is the share of the time since
the look in which the loop had a core: near 1 that code computes; near 0 it waits, for a disk, or
for a core on a machine that has none free, and then the code is innocent.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import trio

import dynagent
from dynagent.obs.log import log
from dynagent.obs.pulse import Pulse

_LOG_PAUSE_S = 10.0  # at most one line in this time; what lay between is counted in the next
_STUCK_S = 10.0  # a turn of this age may never end: told while it lasts
_LOOK_S_MIN = 0.01  # below a threshold of 13 ms some stalls are told without their code
_FRAMES_MAX = 4

_PACKAGE = Path(dynagent.__file__).parent


class _Look(NamedTuple):
    """What the thread found: the turn's begin, the time, the loop's CPU time, its stack."""

    begun: float
    at: float
    cpu_s: float | None
    where: str


class Watchdog(Pulse, trio.abc.Instrument):
    """Watches the trio loop of the thread that calls `start`, until `stop`."""

    def __init__(self, stall_s: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._stall_s = stall_s
        self._monotonic = monotonic
        self._since = monotonic()  # when the present turn began
        self._is_waiting = False  # the loop is in epoll
        self._seen = _Look(0.0, 0.0, 0.0, "")
        self._is_stuck = False
        self._silent_until = 0.0
        self._unlogged = 0
        self._loop_thread = 0  # 0: not watching
        self._stopped = threading.Lock()  # held while it runs: a sleep that `stop` can end
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begins; called inside the loop."""
        self._loop_thread = threading.get_ident()
        self._since = self._monotonic()
        self._stopped.acquire()
        trio.lowlevel.add_instrument(self)
        self._thread.start()

    def stop(self) -> None:
        if not self._loop_thread:
            return
        trio.lowlevel.remove_instrument(self)
        self._stopped.release()
        self._thread.join()
        self._loop_thread = 0

    # --- the loop measures -----------------------------------------------------------------------

    def after_io_wait(self, timeout: float) -> None:
        self._since = self._monotonic()
        self._is_waiting = False

    def before_io_wait(self, timeout: float) -> None:
        self.beat()
        self._is_waiting = True

    def beat(self) -> None:
        now = self._monotonic()
        begun, self._since = self._since, now
        if now - begun >= self._stall_s:
            self._on_stall(begun, now)

    def _on_stall(self, begun: float, now: float) -> None:
        self.stalls.observe(now - begun)
        if now < self._silent_until:
            self._unlogged += 1
            return
        self._silent_until = now + _LOG_PAUSE_S
        fields: dict[str, object] = {"ms": round((now - begun) * 1000)}
        seen = self._seen
        if seen.begun == begun:  # else nothing could run beside it
            if seen.cpu_s is not None:
                share = (time.thread_time() - seen.cpu_s) / max(now - seen.at, 0.001)
                fields["cpu"] = round(min(max(share, 0.0), 1.0), 2)
            fields["at"] = seen.where
        if self._unlogged:
            fields["unlogged"] = self._unlogged
            self._unlogged = 0
        log(logging.WARNING, "loop.stalled", **fields)

    # --- the thread looks ------------------------------------------------------------------------

    def _look(self) -> None:
        look_s = max(self._stall_s * 3 / 4, _LOOK_S_MIN)
        while not self._stopped.acquire(timeout=look_s):
            begun = self._since
            now = self._monotonic()
            age_s = now - begun
            if self._is_waiting or age_s < self._stall_s / 4:
                continue
            if self._seen.begun != begun:
                self._is_stuck = False
                look = _Look(begun, now, self._loop_cpu_s(), self._where())
                if self._since == begun:  # else the turn ended meanwhile
                    self._seen = look
            elif age_s >= _STUCK_S and not self._is_stuck:
                self._is_stuck = True
                log(logging.ERROR, "loop.stuck", ms=round(age_s * 1000), at=self._where())

    def _loop_cpu_s(self) -> float | None:
        if not hasattr(time, "pthread_getcpuclockid"):
            return None  # macOS: no thread may ask for another's
        return time.clock_gettime(time.pthread_getcpuclockid(self._loop_thread))

    def _where(self) -> str:
        """`dynagent/core/node.py:120 on_message < dynagent/agent/links.py:97 _dispatch < …`"""
        innermost = frame = sys._current_frames().get(self._loop_thread)
        told: list[str] = []
        while frame is not None and len(told) < _FRAMES_MAX:
            file = Path(frame.f_code.co_filename)
            if frame is innermost or _PACKAGE in file.parents:
                told.append(_frame(frame, file))
            frame = frame.f_back
        return " < ".join(told)


def _frame(frame: FrameType, file: Path) -> str:
    is_ours = _PACKAGE in file.parents
    short = file.relative_to(_PACKAGE.parent) if is_ours else Path(*file.parts[-2:])
    return f"{short}:{frame.f_lineno} {frame.f_code.co_name}"
