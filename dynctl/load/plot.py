"""Drawings of unicode blocks, as lines of text. Pure: the width is the caller's business."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from dynctl.load.histogram import Histogram

_BLOCKS = " ▁▂▃▄▅▆▇█"
_MARKS = ((50, "p50"), (99, "p99"), (99.9, "p99.9"))


def sparkline(values: Sequence[float], width: int) -> str:
    """One line, at most `width` wide, from 0 to the highest; neighbours share a column if need
    be."""
    if not values:
        return ""
    per_column = -(-len(values) // max(1, width))
    groups = [values[i : i + per_column] for i in range(0, len(values), per_column)]
    means = [sum(group) / len(group) for group in groups]
    top = max(means) or 1
    return "".join(_BLOCKS[max(value > 0, round(value / top * 8))] for value in means)


def distribution(histogram: Histogram, *, width: int, height: int) -> list[str]:
    """How often which latency came: time to the right (logarithmic), with its percentiles marked
    below. `width`, `height`: in characters, without the lines of the marks."""
    low, high = max(1, histogram.minimum), max(2, histogram.maximum + 1)
    scale = width / log(high / low) if high > low else 0.0
    columns = [0.0] * width
    for first, last, count in histogram.rows():
        # A bucket may be wider or narrower than a column: each gets its share of the other.
        start = log(max(first, low) / low) * scale
        end = max(min(width, log(max(last + 1, low) / low) * scale), start + 1e-9)
        for column in range(int(start), min(width, int(end) + 1)):
            share = min(end, column + 1) - max(start, column)
            columns[column] += count * max(0.0, share) / (end - start)
    top = max(columns) or 1.0
    levels = [max(int(value > 0), round(value / top * height * 8)) for value in columns]
    rows = [
        "".join(_BLOCKS[min(8, max(0, level - 8 * row))] for level in levels)
        for row in range(height - 1, -1, -1)
    ]
    return [*rows, *_axis(histogram, low, scale, width)]


def _axis(histogram: Histogram, low: int, scale: float, width: int) -> list[str]:
    """A line with a tick at each percentile, and their names where they do not meet."""
    line, names = ["─"] * width, [" "] * width
    free_from = 0
    for percent, name in _MARKS:
        value = histogram.percentile(percent)
        column = min(width - 1, int(log(max(value, low) / low) * scale))
        line[column] = "┴"
        words = f"{name} {milliseconds(value)}"
        start = max(free_from, min(column, width - len(words)))
        if start + len(words) <= width:
            names[start : start + len(words)] = words
            free_from = start + len(words) + 2
    return ["".join(line), "".join(names)]


def milliseconds(micros: float) -> str:
    """Three digits: 0.234, 2.34, 23.4, 234 ms."""
    value = micros / 1000
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} ms"
