"""The hour decides nothing: with any clocks on the nodes a seed has the same trace and outcomes.

Not an hour of skew and two of jumps only (those every second seed has): a clock that stands still,
one twice as fast, one that runs backwards, and one that says something else each time it is asked.
Each time takes as many bytes as any other of this century, so that records are equally long.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from dynagent.testing.simnode import SimNode
from dynagent.testing.simulation import Simulation

BEGIN_MS = 1_700_000_000_000
Clock = Callable[[int, float], int]  # of the node of that number, at that true time


def right(_node: int, now: float) -> int:
    return BEGIN_MS + int(1000 * now)


def skewed(node: int, now: float) -> int:
    return BEGIN_MS + int(1000 * now) + (node - 2) * 3_600_000


def frozen(node: int, _now: float) -> int:
    return BEGIN_MS + node


def fast(node: int, now: float) -> int:
    return BEGIN_MS + int(1000 * now * (node + 1))


def backwards(_node: int, now: float) -> int:
    return BEGIN_MS - int(1000 * now)


def mad() -> Clock:
    dice = Random(1)
    return lambda _node, _now: dice.randint(1 << 33, 1 << 60)


def told(seed: int, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], object]:
    """The trace, and of each operation how it ended and what it returned."""

    def wall_ms(node: SimNode) -> int:
        return clock(int(node.id[1]), node._world.now)

    monkeypatch.setattr(SimNode, "wall_ms", wall_ms)
    simulation = Simulation(seed, keep_trace=True)
    report = simulation.run()
    assert report.violations == []
    assert report.trace is not None
    outcomes = [
        (op.number, op.outcome, op.returned, op.values, op.dots)
        for op in simulation.history.operations.values()
    ]
    return report.trace, outcomes


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 8, 13])
def test_a_seed_has_the_same_trace_and_outcomes_with_any_clocks(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, outcomes = told(seed, right, monkeypatch)
    assert len(trace) > 300
    for clock in (skewed, frozen, fast, backwards, mad()):
        assert told(seed, clock, monkeypatch) == (trace, outcomes)
