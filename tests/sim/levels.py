"""The levels of simulation: how to run a seed, and what the sum of many is judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dynagent.testing import simulation as level_1
from dynagent.testing.simulation import Report
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


LEVELS: dict[int, Callable[[], tuple[Run, Callable[[], Totals]]]] = {1: _level_1, 2: _level_2}
