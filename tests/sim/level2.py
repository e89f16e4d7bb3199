"""The sum of many runs of level 2, and the floors under it: per 1,000 seeds, as in `totals.py`, at
about half of what 1,000 gave when they were set."""

from __future__ import annotations

from collections import Counter

from dynagent.testing.level2.points import POINTS, STRIKES
from dynagent.testing.level2.simulation import Report
from dynagent.testing.simulation import Report as AnyReport
from tests.sim.totals import Totals

SEEDS_MIN = 100  # a smaller run is too small for its floors to mean anything

ACKNOWLEDGED = 16_000  # writes
OVERLAPPING_PAIRS = 14_000  # of writes to one key

FAULTS = {
    # Processes and power, at any moment; at a failure point: POINTS_STRUCK.
    "kill": 1_000,
    "power_cut": 2_100,
    "power_cut_all": 1_100,
    "clean_stop": 960,
    "pause": 600,
    # Streams.
    "delay": 41_000,
    "split": 80_000,
    "stall": 1_800,
    "stall_one_way": 2_000,
    "stall_node": 2_000,
    "reset": 1_800,
    "half_open": 1_600,
    "slow_reader": 1_700,
    "refused": 7_100,
    "retry": 46_000,
    # Disks and clocks; at most one host's log rots in a run.
    "slow_disk": 910,
    "fsync_fails": 960,
    "disk_full": 810,
    "rot": 77,
    "clock_jump": 600,
    # Bent frames of the hostile client.
    "hostile_frame": 16_000,
    "poison_frame": 3_000,
    "stranger": 200,
}

POINTS_STRUCK = 81  # for each failure point: processes that have ended exactly there
STRIKES_OF_A_KIND = 300  # of kills, power cuts, power cuts of all: at all points together

EVALUATIONS = {
    "ack_is_durable": 22_000,
    "acks_stand_apart": 22_000,
    "answered_once": 340_000,
    "antichain": 1_500,
    "bad_frame_costs_one": 7_200,
    "context_is_honest": 22_000,
    "copies_grow": 63_000,
    "dots_unique": 110_000,
    "failed_is_silent": 45_000,
    "failed_stops": 300,
    "fresh": 69_000,
    "heals": 7_400,
    "monotonic": 26_000,
    "no_lost_write": 10_000,
    "poison_is_refused": 15_000,
    "no_phantom": 49_000,
    "nothing_left": 1_700,
    "read_is_durable": 23_000,
    "refused_is_nothing": 2_700,
    "replicas_converge": 180,
    "retried_once": 24_000,
    "siblings_are_bounded": 58_000,
    "siblings_are_concurrent": 20_000,
    "store_is_known": 16_000,
    "strangers_are_refused": 100,
    "superseded_stays_away": 80_000,
    "trees_are_current": 13_000,
    "trees_are_known": 1_700,
    # One rotten log may give none or thirty: 120 seeds had 36, 500 others 365.
    "unreadable_is_unknown": 250,
}


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

    def below_floors(self, rings: str = "") -> list[str]:
        if self.seeds < SEEDS_MIN:
            return []
        figures = [
            ("acknowledged", self.acknowledged, ACKNOWLEDGED),
            ("overlapping_pairs", self.overlapping_pairs, OVERLAPPING_PAIRS),
            *((kind, self.faults[kind], floor) for kind, floor in FAULTS.items()),
            *((name, self.evaluations[name], floor) for name, floor in EVALUATIONS.items()),
            *((point, self.struck[point], POINTS_STRUCK) for point in POINTS),
            *(
                (strike, self._strikes(strike), len(POINTS) * POINTS_STRUCK // 6)
                for strike in STRIKES
            ),
        ]
        return [
            f"{name}: {count}, must be {floor * self.seeds / 1000:.0f}"
            for name, count, floor in figures
            if not count or count < floor * self.seeds / 1000
        ]

    def _strikes(self, strike: str) -> int:
        """How many processes that kind of strike has ended at some failure point."""
        return sum(self.faults[f"{strike}@{point}"] for point in POINTS)
