"""Keys are drawn as often as they should be. Seeded: the same draws every time."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from dynctl.load.keys import DISTRIBUTIONS, THETA, chooser, scattered, zipfian

_DRAWS = 200_000


def _chi_square(seen: Counter[int], expected: list[float]) -> float:
    return sum((seen[key] - want) ** 2 / want for key, want in enumerate(expected))


def test_uniform_draws_every_key_equally_often() -> None:
    draw = chooser("uniform", 1_000, random.Random(1))
    seen = Counter(draw() for _ in range(_DRAWS))
    # 999 degrees of freedom: mean 999, standard deviation 45.
    assert _chi_square(seen, [_DRAWS / 1_000] * 1_000) < 999 + 4 * 45


@pytest.mark.parametrize("count", [1_000, 100_000])
def test_zipfian_ranks_have_the_weights_of_zipf(count: int) -> None:
    """The two hottest exactly, the rest as closely as the formula of Gray et al. fits."""
    weights = [1 / rank**THETA for rank in range(1, count + 1)]
    total = sum(weights)
    draw = zipfian(count, random.Random(2))
    seen = Counter(draw() for _ in range(_DRAWS))
    hot = [weight / total * _DRAWS for weight in weights[:2]]
    assert _chi_square(seen, hot) < 14  # two degrees of freedom: one in a thousand
    for first in (10, 100, 500):
        share = sum(seen[rank] for rank in range(first)) / _DRAWS
        assert share == pytest.approx(sum(weights[:first]) / total, abs=0.03)
    assert max(seen) < count


def test_zipfian_draws_are_those_of_the_formula() -> None:
    """Chi-square against the exact chances that the formula gives each rank."""
    count, theta = 100, THETA
    zeta: float = sum(1 / rank**theta for rank in range(1, count + 1))
    eta: float = (1 - (2 / count) ** (1 - theta)) / (1 - (1 + 0.5**theta) / zeta)
    first = 1 / zeta
    second: float = (1 + 0.5**theta) / zeta

    def share_below(rank: int) -> float:
        """The inverse of the formula: which uniform share leads to ranks below this one."""
        below: float = ((rank / count) ** (1 - theta) - 1 + eta) / eta
        return max(second, below)

    edges = [0.0, first, *(share_below(rank) for rank in range(2, count)), 1.0]
    expected = [(high - low) * _DRAWS for low, high in pairwise(edges)]
    draw = zipfian(count, random.Random(3))
    seen = Counter(draw() for _ in range(_DRAWS))
    assert _chi_square(seen, expected) < 99 + 4 * 14


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1_000, 10_000, 65_536])
def test_scattering_gives_every_rank_a_key_of_its_own(count: int) -> None:
    ranks = iter(range(count))
    draw = scattered(lambda: next(ranks), count)
    assert sorted(draw() for _ in range(count)) == list(range(count))


def test_hot_keys_are_not_neighbours() -> None:
    ranks = iter(range(10))
    draw = scattered(lambda: next(ranks), 10_000)
    hot = sorted(draw() for _ in range(10))
    assert min(b - a for a, b in pairwise(hot)) > 300


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_keys_are_all_drawn_and_no_other(distribution: str, count: int) -> None:
    draw = chooser(distribution, count, random.Random(4))
    assert {draw() for _ in range(500)} == set(range(count))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_same_seed_draws_the_same_keys(distribution: str) -> None:
    one = chooser(distribution, 1_000, random.Random(5))
    other = chooser(distribution, 1_000, random.Random(5))
    assert [one() for _ in range(100)] == [other() for _ in range(100)]
