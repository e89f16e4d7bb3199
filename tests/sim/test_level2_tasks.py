"""The trio client in the second world: its clients are tasks, some of them cancelled, on shared
connections that stall, break, vanish and are cut in pieces."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynagent.client.lane import Lane
from dynagent.client.trio_link import Call
from dynagent.testing.level2.profile import Profile, draw
from dynagent.testing.level2.simulation import run
from dynagent.testing.world import World


def stormy(seed: int) -> Profile:
    """The weather of the seed, and a dozen tasks in it."""
    profile = draw(World(seed))
    return replace(profile, tasks=True, cancels=0.15, clients=12, operations=150)


def test_in_calm_weather_every_task_is_served() -> None:
    report = run(1, profile=Profile(tasks=True, clients=12, operations=150))
    assert report.violations == []
    assert report.operations >= 150
    assert not report.faults


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_the_promises_hold(seed: int) -> None:
    report = run(seed, profile=stormy(seed))
    assert report.violations == []
    assert report.faults["cancel"]


def test_a_seed_is_one_run() -> None:
    one, other = (run(3, profile=stormy(3), keep_trace=True) for _ in range(2))
    assert one.trace == other.trace
    assert one.trace


def test_a_client_that_takes_what_was_sent_for_unsent_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mutant calls a put definitely failed although its frame has left."""
    withdraw = Lane.withdraw

    def always(lane: Lane[Call], call: Call) -> bool:
        withdraw(lane, call)
        return True

    monkeypatch.setattr(Lane, "withdraw", always)
    violations = [
        line for seed in range(8, 16) for line in run(seed, profile=stormy(seed)).violations
    ]
    assert any(line.startswith("refused_is_nothing") for line in violations)
