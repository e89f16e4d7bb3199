"""trio under the second world's clock: time moves only when nothing can run, and dice schedule.

The run loop asks `deadline_to_sleep_time` exactly when no task is runnable. So that is where time
moves: to trio's next deadline, or to the world's next event, whichever comes first. The events are
played by one task, the driver, so that what they raise ends the run like any other exception.

trio makes scheduling repeatable only with *both* its generator seeded and its flag set, and both
are private: `seeded_scheduling` looks that they are still there.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

import trio

from dynagent.testing.world import World

LATE_S = 0.001  # an event loop looks at its deadlines up to that late
_DICE, _FLAG = "_r", "_ALLOW_DETERMINISTIC_SCHEDULING"  # in trio's run loop


class SimulationStuck(Exception):
    """Nothing can ever happen again, or the run went past its horizon."""


class SimClock(trio.abc.Clock):
    """The world's time as trio's."""

    def __init__(self, world: World, *, horizon_s: float) -> None:
        self._world = world
        self._horizon_s = horizon_s
        self._dice = world.stream("lateness")
        self._driver: trio.lowlevel.Task | None = None
        self._stuck = ""

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._world.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Nothing is runnable: moves time on, and never sleeps."""
        world = self._world
        event_at = world.next_at
        if self._driver is None:
            return 0  # the driver has not started, or the run is being torn down
        if min(deadline, event_at) > self._horizon_s:
            self._stuck = "deadlock" if min(deadline, event_at) == inf else "horizon"
            self._wake_driver()
        elif event_at <= deadline:
            self._wake_driver()
        else:
            # Late by some dice: real loops are, and a deadline that misses its moment by a
            # rounding error must not be asked for again at the same instant for ever.
            late_s = 1e-6 + LATE_S * self._dice.random() ** 4
            world.now = min(event_at, max(world.now, deadline + late_s))
        return 0

    def _wake_driver(self) -> None:
        assert self._driver is not None
        trio.lowlevel.reschedule(self._driver)
        self._driver = None

    async def drive(self) -> None:
        """Plays the world's events, each when its time has come; runs until cancelled."""
        while True:
            self._driver = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
            if self._stuck:
                raise SimulationStuck(f"{self._stuck} at {self._world.now:.3f} s")
            self._world.run(until=self._world.next_at)

    def _abort(self, _raise: object) -> trio.lowlevel.Abort:
        self._driver = None
        return trio.lowlevel.Abort.SUCCEEDED


@contextmanager
def seeded_scheduling(seed: int) -> Iterator[None]:
    """trio's scheduler is a function of `seed` in this block, and the collector stands still."""
    loop = importlib.import_module("trio._core._run")
    for name in (_DICE, _FLAG):
        assert hasattr(loop, name), f"trio {trio.__version__} has no {name}: look for its successor"
    dice, flag = getattr(loop, _DICE), getattr(loop, _FLAG)
    state = dice.getstate()
    collects = gc.isenabled()
    gc.collect()
    gc.disable()  # a finaliser must not run at a moment that depends on the process's memory
    dice.seed(seed)
    setattr(loop, _FLAG, True)
    try:
        yield
    finally:
        dice.setstate(state)
        setattr(loop, _FLAG, flag)
        if collects:
            gc.enable()
