"""Runs that once failed, made small and kept; and the shrinker that makes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynagent.testing.profile import Profile
from tests.sim.shrink import SCENARIOS, replay, shrink

KEPT = sorted(SCENARIOS.glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_once_failed_holds_now(path: Path) -> None:
    assert json.loads(path.read_text(encoding="utf-8"))["why"]
    assert replay(path) == ()


def test_there_are_scenarios_to_replay() -> None:
    assert KEPT


def test_shrinking_leaves_only_what_the_failure_needs() -> None:
    large = Profile(
        nodes=5,
        keys=3,
        clients=5,
        operations=90,
        loss=0.1,
        duplication=0.2,
        skew_ms=1_000,
        nemeses={"kill": 2.0, "rot": 1.0, "cut_pair": 1.0},
    )

    def fails(profile: Profile) -> bool:
        return "rot" in profile.nemeses and profile.clients >= 2 and profile.loss > 0

    small = shrink(large, fails)
    assert fails(small)
    assert small == Profile(
        nodes=3, keys=1, clients=2, operations=5, loss=0.1, nemeses={"rot": 1.0}
    )


def test_shrinking_stops_at_its_bound() -> None:
    runs = 0

    def fails(_profile: Profile) -> bool:
        nonlocal runs
        runs += 1
        return True

    shrink(Profile(operations=100_000), fails, runs_max=7)
    assert runs == 7
