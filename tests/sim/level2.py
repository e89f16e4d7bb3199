"""The sum of many runs of level 2, and the floors under it (as `totals.py`: per 1,000 seeds)."""

from __future__ import annotations

from collections import Counter

from dynagent.testing.level2.points import POINTS
from dynagent.testing.level2.profile import NEMESES
from dynagent.testing.level2.simulation import Report
from dynagent.testing.simulation import Report as AnyReport
from tests.sim.totals import Totals

SEEDS_MIN = 100  # a smaller run is too small for its floors to mean anything


class Level2Totals(Totals):
    """Reports added up, failure points among them."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()

    def add(self, report: AnyReport) -> None:
        assert isinstance(report, Report)
        super().add(report)
        self.passed += report.passed
        self.struck += report.struck

    def merge(self, other: Totals) -> None:
        assert isinstance(other, Level2Totals)
        super().merge(other)
        self.passed += other.passed
        self.struck += other.struck

    def line(self) -> str:
        points = (f"{name}:{self.struck[name]}/{self.passed[name]}" for name in POINTS)
        return f"{super().line()} points=[{' '.join(points)}]"
