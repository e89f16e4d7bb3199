"""Latencies in log-linear buckets, as HdrHistogram has them: constant memory, mergeable.

A value below 256 has a bucket of its own; above that each octave has 128 buckets of equal width, so
no bucket is wider than 1/128 (0.8 %) of the values in it. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator

_BITS = 7  # 2^7 buckets an octave: an error of at most 0.8 %
_EXACT = 2 << _BITS  # below this a value is its own bucket
VALUE_MAX = 2**36 - 1  # of microseconds: 19 hours; what is longer counts as this
_BUCKETS = ((36 - _BITS - 1) << _BITS) + _EXACT


def bucket_of(value: int) -> int:
    """The bucket of a value of 0..VALUE_MAX."""
    shift = value.bit_length() - _BITS - 1
    return value if shift <= 0 else (shift << _BITS) + (value >> shift)


def bounds_of(bucket: int) -> tuple[int, int]:
    """The smallest and the largest value of a bucket."""
    if bucket < _EXACT:
        return bucket, bucket
    shift = (bucket >> _BITS) - 1
    low = (bucket - (shift << _BITS)) << shift
    return low, low + (1 << shift) - 1


class Histogram:
    """Counts of whole numbers ≥ 0; negative ones count as 0."""

    __slots__ = ("_counts", "count", "maximum", "minimum", "total")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.total = 0
        self.minimum = VALUE_MAX
        self.maximum = 0

    def record(self, value: int) -> None:
        if value > VALUE_MAX:
            value = VALUE_MAX
        elif value < 0:
            value = 0
        shift = value.bit_length() - _BITS - 1  # `bucket_of`, without the cost of a call
        self._counts[value if shift <= 0 else (shift << _BITS) + (value >> shift)] += 1
        self.count += 1
        self.total += value
        if value > self.maximum:
            self.maximum = value
        if value < self.minimum:
            self.minimum = value

    def merge(self, other: Histogram) -> None:
        """Adds the counts of another one."""
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
        self.count += other.count
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def percentile(self, percent: float) -> int:
        """The upper bound of the bucket in which the value of that rank lies (at most the maximum);
        0 if nothing was recorded. `percent`: 0 to 100."""
        # Rounded first: 99.9 / 100 * 1000 is a little over 999, and would ask for the 1000th.
        exact = round(percent * self.count / 100, 6)
        rank = max(1, int(exact) + (exact > int(exact)))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(bounds_of(bucket)[1], self.maximum)
        return 0

    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """(smallest, largest, count) of each bucket that is not empty, in order."""
        for bucket, count in enumerate(self._counts):
            if count:
                yield *bounds_of(bucket), count
