"""Durations counted into buckets; count, sum and maximum are exact."""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """How often something took how long. One thread observes; others may read, and then see a state
    that is at most one observation old or half old."""

    __slots__ = ("bounds_s", "counts", "max_s", "sum_s")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s  # upper, ascending; what is longer falls into one more bucket
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0
        self.max_s = 0.0

    def observe(self, lasted_s: float) -> None:
        self.counts[bisect_left(self.bounds_s, lasted_s)] += 1
        self.sum_s += lasted_s
        if lasted_s > self.max_s:
            self.max_s = lasted_s

    @property
    def count(self) -> int:
        return sum(self.counts)

    def document(self) -> dict[str, object]:
        """As it stands in a status document (`core.inspect`)."""
        return {
            "bounds_s": list(self.bounds_s),
            "counts": list(self.counts),
            "sum_s": self.sum_s,
            "max_s": self.max_s,
        }
