"""The levels of simulation: how to run a seed, and what the sum of many is judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from dynagent.testing import simulation as level_1
from dynagent.testing.simulation import Report
from dynagent.testing.world import World
from tests.sim.totals import Totals


class Run(Protocol):
    """Runs a seed."""

    def __call__(self, seed: int, *, keep_trace: bool = False) -> Report: ...


def _level_1() -> tuple[Run, Callable[[], Totals]]:
    return level_1.run, Totals


def _level_2() -> tuple[Run, Callable[[], Totals]]:
    from dynagent.testing.level2 import simulation as level_2
    from tests.sim.level2 import Level2Totals

    return level_2.run, Level2Totals


Simulate = Callable[[int, Any], Report]  # a seed under a profile; None: the seed's own
Profiles = tuple[Simulate, Callable[[int], Any], type[Any]]  # that; the seed's own; its class


def _profiles_1() -> Profiles:
    from dynagent.testing.profile import Profile, draw

    return (
        lambda seed, profile: level_1.Simulation(seed, profile=profile).run(),
        lambda seed: draw(World(seed, keep_trace=False)),
        Profile,
    )


def _profiles_2() -> Profiles:
    from dynagent.testing.level2 import simulation as level_2
    from dynagent.testing.level2.profile import Profile, draw

    return (
        lambda seed, profile: level_2.run(seed, profile=profile),
        lambda seed: draw(World(seed, keep_trace=False)),
        Profile,
    )


PROFILES: dict[int, Callable[[], Profiles]] = {1: _profiles_1, 2: _profiles_2}

LEVELS: dict[int, Callable[[], tuple[Run, Callable[[], Totals]]]] = {1: _level_1, 2: _level_2}
