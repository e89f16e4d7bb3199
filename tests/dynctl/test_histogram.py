"""The histogram of latencies: against sorted lists, which know better."""

from __future__ import annotations

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from dynctl.load.histogram import VALUE_MAX, Histogram, bounds_of, bucket_of

_VALUES = st.one_of(
    st.integers(0, 1_000), st.integers(0, 10**7), st.integers(0, VALUE_MAX), st.just(VALUE_MAX)
)
_LISTS = st.lists(_VALUES, min_size=1, max_size=200)


def _filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(_VALUES)
def test_a_bucket_holds_its_value_and_is_no_wider_than_a_hundredth(value: int) -> None:
    low, high = bounds_of(bucket_of(value))
    assert low <= value <= high
    assert (high - low) * 100 <= value
    assert bucket_of(low) == bucket_of(high) == bucket_of(value)


@given(st.integers(0, bucket_of(VALUE_MAX) - 1))
def test_buckets_follow_each_other_without_gaps(bucket: int) -> None:
    assert bounds_of(bucket)[1] + 1 == bounds_of(bucket + 1)[0]


@given(_LISTS, st.sampled_from([0, 1, 25, 50, 90, 99, 99.9, 99.99, 100]))
def test_a_percentile_is_the_bound_of_the_bucket_of_that_rank(
    values: list[int], percent: float
) -> None:
    rank = max(1, ceil(round(percent * len(values) / 100, 6)))
    exact = sorted(values)[rank - 1]
    assert _filled(values).percentile(percent) == min(bounds_of(bucket_of(exact))[1], max(values))


@given(_LISTS)
def test_counts_mean_and_extremes_are_exact(values: list[int]) -> None:
    histogram = _filled(values)
    assert (histogram.count, histogram.total) == (len(values), sum(values))
    assert (histogram.minimum, histogram.maximum) == (min(values), max(values))
    assert histogram.mean() == sum(values) / len(values)
    rows = list(histogram.rows())
    assert sum(count for _low, _high, count in rows) == len(values)
    assert rows == sorted(rows)


@given(_LISTS, _LISTS)
def test_merged_histograms_are_that_of_all_values(left: list[int], right: list[int]) -> None:
    merged = _filled(left)
    merged.merge(_filled(right))
    both = _filled(left + right)
    assert list(merged.rows()) == list(both.rows())
    assert (merged.count, merged.total) == (both.count, both.total)
    assert (merged.minimum, merged.maximum) == (both.minimum, both.maximum)


def test_nothing_recorded_has_no_percentiles_and_what_is_out_of_range_is_clipped() -> None:
    assert Histogram().percentile(99) == 0
    assert Histogram().mean() == 0
    assert _filled([-5]).percentile(100) == 0
    assert _filled([2**60]).percentile(100) == VALUE_MAX


def test_a_rank_is_not_one_too_high_because_of_binary_fractions() -> None:
    """99.9 / 100 * 1000 is more than 999 in floating point."""
    assert _filled(list(range(1, 201)) * 5).percentile(99.9) == 200
    assert _filled([1] * 999 + [200]).percentile(99.9) == 1
