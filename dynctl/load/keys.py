"""Which key comes next: uniform, or zipfian as in YCSB. Pure, and seeded by its caller.

Zipfian: rank k of n is drawn with a probability near 1/k^0.99, in constant time, by the formula of
Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994), which YCSB uses
too: exact for the two hottest ranks, a close fit below them.

Ranks are scattered over the key space, so that hot keys are not neighbours. YCSB does that with a
hash modulo n, which lets several ranks fall on one key and leaves a third of the keys cold; here it
is a permutation, and every rank keeps its own key.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import gcd

THETA = 0.99  # YCSB's
DISTRIBUTIONS = ("uniform", "zipfian")
_GOLDEN = 0.6180339887498949  # steps of this share of a circle keep the greatest distance


def chooser(distribution: str, count: int, dice: random.Random) -> Callable[[], int]:
    """A function that draws a number of 0..count-1. `distribution`: one of `DISTRIBUTIONS`."""
    if distribution == "zipfian":
        return scattered(zipfian(count, dice), count)
    draw = dice.random
    return lambda: int(draw() * count)


def zipfian(count: int, dice: random.Random, theta: float = THETA) -> Callable[[], int]:
    """A function that draws ranks, 0 the most likely. Takes time in proportion to `count` once."""
    zeta = sum(1 / rank**theta for rank in range(1, count + 1))
    if count <= 2:
        first = 1 / zeta
        return lambda: int(dice.random() >= first)
    second = 1 + 0.5**theta
    alpha = 1 / (1 - theta)
    eta = (1 - (2 / count) ** (1 - theta)) / (1 - second / zeta)
    draw = dice.random

    def rank() -> int:
        share = draw()
        scaled = share * zeta
        if scaled < 1:
            return 0
        if scaled < second:
            return 1
        return min(count - 1, int(count * (eta * share - eta + 1) ** alpha))

    return rank


def scattered(ranks: Callable[[], int], count: int) -> Callable[[], int]:
    """The same draws, each rank moved to a place of its own (rank × step, modulo count)."""
    step = max(1, int(count * _GOLDEN))
    while gcd(step, count) > 1:
        step += 1
    return lambda: ranks() * step % count
