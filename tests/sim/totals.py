"""The sum of many runs, and the floors under it: was there enough to judge?

A simulation that finds nothing is worth what it has tried. Each floor is per 1,000 seeds, at about
half of what 1,000 seeds give today: high enough that a change which quietly switches a fault or a
checker off fails, low enough that another mix of seeds does not.
"""

from __future__ import annotations

from collections import Counter

from dynagent.testing.simulation import Report

SEEDS_MIN = 200  # a smaller run is too small for its floors to mean anything

ACKNOWLEDGED = 20_000  # writes: what durability and freshness are judged by
OVERLAPPING_PAIRS = 20_000  # of writes to one key: without them there is no concurrency at all

FAULTS = {
    "kill": 1,
    "power_cut": 1,
}

EVALUATIONS = {
    "fresh": 1,
}


class Totals:
    """Reports added up."""

    def __init__(self) -> None:
        self.seeds = 0
        self.sim_s = 0.0
        self.cpu_s = 0.0
        self.messages = 0
        self.operations = 0
        self.acknowledged = 0
        self.overlapping_pairs = 0
        self.faults: Counter[str] = Counter()
        self.evaluations: Counter[str] = Counter()
        self.violations: list[tuple[int, str]] = []

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.sim_s += report.sim_s
        self.messages += report.messages
        self.operations += report.operations
        self.acknowledged += report.acknowledged
        self.overlapping_pairs += report.overlapping_pairs
        self.faults += report.faults
        self.evaluations += report.evaluations
        self.violations += [(report.seed, violation) for violation in report.violations]

    def merge(self, other: Totals) -> None:
        self.seeds += other.seeds
        self.sim_s += other.sim_s
        self.cpu_s += other.cpu_s
        self.messages += other.messages
        self.operations += other.operations
        self.acknowledged += other.acknowledged
        self.overlapping_pairs += other.overlapping_pairs
        self.faults += other.faults
        self.evaluations += other.evaluations
        self.violations += other.violations

    def line(self) -> str:
        faults = " ".join(f"{kind}:{count}" for kind, count in sorted(self.faults.items()))
        looks = " ".join(f"{name}:{count}" for name, count in sorted(self.evaluations.items()))
        return (
            f"seeds={self.seeds} sim_hours={self.sim_s / 3600:.1f} cpu_s={self.cpu_s:.1f} "
            f"messages={self.messages} operations={self.operations} "
            f"acknowledged={self.acknowledged} overlapping_pairs={self.overlapping_pairs} "
            f"faults=[{faults}] evaluations=[{looks}] violations={len(self.violations)}"
        )

    def below_floors(self) -> list[str]:
        """One line for each figure that is 0 or below its floor; empty for a small run."""
        if self.seeds < SEEDS_MIN:
            return []
        figures = [
            ("acknowledged", self.acknowledged, ACKNOWLEDGED),
            ("overlapping_pairs", self.overlapping_pairs, OVERLAPPING_PAIRS),
            *((kind, self.faults[kind], floor) for kind, floor in FAULTS.items()),
            *((name, self.evaluations[name], floor) for name, floor in EVALUATIONS.items()),
        ]
        return [
            f"{name}: {count}, must be {floor * self.seeds / 1000:.0f}"
            for name, count, floor in figures
            if not count or count < floor * self.seeds / 1000
        ]
