"""`env.Transport` and `env.Writer` of one simulated process.

A turn is what it is in `net.tcp`: all that has arrived is handed out (in any order, and perhaps not
all of it), the jobs of other threads run, `on_turn_end` is called once, everything written is sent.
Between what wakes a turn and the turn itself lies a little time, so that more may gather.

`die` is the end of the process: nothing that its code still does has any effect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from dynagent import limits
from dynagent.env import Accept
from dynagent.errors import DynagentError, StoreFailed, Unreachable
from dynagent.testing.level2.disk import Gone
from dynagent.testing.level2.profile import Profile
from dynagent.testing.level2.wires import End, Wires
from dynagent.testing.world import World

SLOWEST_S = 3.0  # of one job: a run must come to its end


class SimTransport:
    """The network of one process. `point` is told of acknowledgements, and may end the process."""

    def __init__(
        self, wires: Wires, place: str, profile: Profile, point: Callable[[str], None]
    ) -> None:
        self.place = place
        self.is_dead = False
        self.turns = 0
        self.paused_until = 0.0  # its loop is busy with something else
        self.ends: dict[End, None] = {}
        self._wires = wires
        self._world = wires.world
        self._turn_s = profile.turn_s
        self._point = point
        self._dice = self._world.stream(f"turns {place}")
        self._connects: list[tuple[End, Accept]] = []
        self._ready: dict[End, None] = {}
        self._touched: dict[End, None] = {}
        self._soon: deque[Callable[[], None]] = deque()
        self._is_waking = False
        self._awake = trio.Event()

    # --- env.Transport ---------------------------------------------------------------------------

    async def listen(self, address: str, accept: Accept) -> str:
        await trio.lowlevel.checkpoint()
        self._wires.listen(address, self, accept)
        return address

    async def dial(self, address: str, accept: Accept) -> End:
        answered = trio.Event()
        results: list[End | str] = []
        is_waiting = True

        def on_result(result: End | str) -> None:
            if is_waiting and not self.is_dead:
                results.append(result)
                answered.set()
            elif isinstance(result, End):
                self._wires.vanish(result)
                self._wires.send(result.other, None)

        self._wires.dial(self, address, on_result)
        try:
            with trio.move_on_after(limits.CONNECT_S_MAX):
                await answered.wait()
        finally:
            is_waiting = False
        result = results[0] if results else "no answer in time"
        if isinstance(result, str):
            raise Unreachable(f"{address}: {result}")
        self._adopt(result, accept)
        return result

    async def run(self, on_turn_end: Callable[[], None]) -> None:
        try:
            while True:
                await self._awake.wait()
                self._awake = trio.Event()
                self._turn(on_turn_end)
        finally:
            self._close()

    def stop_listening(self) -> None:
        if not self.is_dead:
            self._wires.stop_listening(self)

    def call_soon(self, job: Callable[[], None]) -> None:
        self._soon.append(job)
        self._wake()

    def request_turn(self) -> None:
        self._wake()

    # --- what wakes it ---------------------------------------------------------------------------

    def touch(self, end: End) -> None:
        self._touched[end] = None
        self._wake()

    def on_ready(self, end: End) -> None:
        self._ready[end] = None
        self._wake()

    def on_connect(self, end: End, accept: Accept) -> None:
        self._connects.append((end, accept))
        self._wake()

    def _wake(self) -> None:
        if not self._is_waking and not self.is_dead:
            self._is_waking = True
            wait_s = max(0.0, self.paused_until - self._world.now)
            self._world.after(wait_s + self._turn_s * self._dice.random() ** 3, self._rise)

    def _rise(self) -> None:
        self._is_waking = False
        self._awake.set()

    # --- the turn --------------------------------------------------------------------------------

    def _turn(self, on_turn_end: Callable[[], None]) -> None:
        if self.is_dead:
            return
        self.turns += 1
        connects, self._connects = self._connects, []
        for end, accept in connects:
            self._adopt(end, accept)
        ready, self._ready = self._ready, {}
        for end in self._dice.sample(list(ready), len(ready)):
            end.receive()
            self._forget_if_gone(end)
        for _ in range(len(self._soon)):
            self._soon.popleft()()
        on_turn_end()
        while self._touched and not self.is_dead:
            touched, self._touched = self._touched, {}
            for end in touched:
                self._flush(end)

    def _adopt(self, end: End, accept: Accept) -> None:
        self.ends[end] = None
        end.handler = accept(end)
        if end.inbox or end.broken:
            self.on_ready(end)

    def _flush(self, end: End) -> None:
        will_ack, end.will_ack = end.will_ack, False
        try:
            if will_ack:
                self._point("ack.before")
            end.flush()
            if will_ack:
                self._point("ack.after")
        except Gone:
            return  # the process has just died; its code learns of it when it next waits
        self._forget_if_gone(end)

    def _forget_if_gone(self, end: End) -> None:
        if end.is_gone:
            self.ends.pop(end, None)
            self._ready.pop(end, None)

    def _close(self) -> None:
        if not self.is_dead:
            self.stop_listening()
            for end in list(self.ends):
                end.flush()
                end.drop("the agent stops")
        self.is_dead = True

    def die(self, *, loudly: bool) -> None:
        """The process is gone. Loudly: its kernel closes its connections; else nobody is told."""
        self._wires.stop_listening(self)
        self.is_dead = True
        ends = [*self.ends, *(end for end, _ in self._connects)]
        for end in ends:
            if not end.is_gone:
                self._wires.vanish(end)
                if loudly:
                    self._wires.send(end.other, None)
        self.ends.clear()


class SimWriter:
    """The commit thread: one job after the other, each takes its time."""

    def __init__(
        self,
        world: World,
        transport: SimTransport,
        profile: Profile,
        *,
        point: Callable[[str], None],
        on_failed: Callable[[], None],
    ) -> None:
        self.slowness = 1.0
        self.is_dead = False
        self._world = world
        self._transport = transport
        self._job_s = profile.disk_s
        self._point = point
        self._on_failed = on_failed  # the agent has just been told that its disk has failed
        self._dice = world.stream(f"jobs {transport.place}")
        self._jobs: deque[tuple[Callable[[], None], Callable[[BaseException | None], None]]]
        self._jobs = deque()
        self._has_run = False  # the first of them, which is not yet reported

    @property
    def is_busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        if self.is_dead:
            return
        try:
            self._point("submit.before")
            self._jobs.append((job, done))
            if len(self._jobs) == 1:
                self._begin()
            self._point("submit.after")
        except Gone:
            pass  # the process has just died; its code learns of it when it next waits

    def _begin(self) -> None:
        delay_s = self._job_s * self.slowness * (0.5 + self._dice.random())
        self._world.after(min(SLOWEST_S, delay_s), self._run)

    def _run(self) -> None:
        if self.is_dead or not self._jobs:
            return
        job, done = self._jobs[0]
        error: BaseException | None = None
        self._has_run = True
        try:
            job()
        except Gone:
            return
        except Exception as exc:
            error = exc
        # Its thread puts the news into the loop's queue a moment later.
        self._world.after(0.0005 * self._dice.random(), self._report, done, error)

    def _report(
        self, done: Callable[[BaseException | None], None], error: BaseException | None
    ) -> None:
        if self.is_dead:
            return
        self._jobs.popleft()
        self._has_run = False
        self._transport.call_soon(lambda: self._tell(done, error))
        if self._jobs:
            self._begin()

    def _tell(
        self, done: Callable[[BaseException | None], None], error: BaseException | None
    ) -> None:
        done(error)
        if isinstance(error, StoreFailed):
            self._on_failed()

    def close(self) -> None:
        """The job that is running ends; the rest is dropped."""
        if not self.is_dead and self._jobs and not self._has_run:
            try:
                self._jobs[0][0]()
            except DynagentError as exc:
                self._world.log(f"{self._transport.place} the last job failed: {exc.message}")
        self.is_dead = True
