"""Drawings: as wide as asked for, and with the marks where the values are."""

from __future__ import annotations

import pytest

from dynctl.load.histogram import Histogram
from dynctl.load.plot import distribution, milliseconds, sparkline


def test_a_sparkline_goes_from_nothing_to_full() -> None:
    assert sparkline([0, 1, 50, 100], 10) == " ▁▄█"
    assert sparkline([5, 5], 10) == "██"
    assert sparkline([], 10) == ""
    assert sparkline([0, 0], 10) == "  "


def test_a_long_run_shares_columns() -> None:
    assert sparkline([4, 4, 8, 8], 2) == "▄█"
    assert len(sparkline([1] * 1_000, 60)) <= 60


def _histogram(*values: int) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@pytest.mark.parametrize("values", [(0,), (1,), (7,) * 50, (1, 2**35), tuple(range(100, 3_000))])
@pytest.mark.parametrize("width", [20, 77])
def test_a_distribution_is_as_large_as_asked_for(values: tuple[int, ...], width: int) -> None:
    lines = distribution(_histogram(*values), width=width, height=5)
    assert [len(line) for line in lines] == [width] * 7
    assert any(line.strip() for line in lines[:5])
    assert "p50" in lines[-1]


def test_peaks_stand_where_the_values_are() -> None:
    *rows, axis, names = distribution(
        _histogram(*[1_000] * 90, *[100_000] * 9, 1_000_000), width=61, height=4
    )
    bottom = rows[-1]
    assert bottom[0] == "█"  # 1 ms of 1 to 1,000
    assert bottom[40].strip()  # 100 ms: two of three decades to the right
    assert bottom[20] == " "
    assert axis[0] == "┴"
    assert names.startswith("p50 1.00 ms")


def test_times_have_three_digits() -> None:
    told = [milliseconds(value) for value in (0, 234, 2_340, 23_400, 234_000, 2_340_000)]
    assert told == ["0.000 ms", "0.234 ms", "2.34 ms", "23.4 ms", "234 ms", "2,340 ms"]
