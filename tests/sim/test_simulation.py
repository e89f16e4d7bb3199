"""The simulation itself: it finds nothing today, it is a function of its seed, it can be believed.

What it finds in a broken product is in `tests/mutants`; how each checker bites, in
`test_checkers.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynagent.testing.profile import NEMESES
from dynagent.testing.simulation import run
from tests.sim.totals import EVALUATIONS, FAULTS, RARE, Totals

ROOT = Path(__file__).resolve().parents[2]


def test_sixty_seeds_have_no_violation_and_every_checker_looks() -> None:
    totals = Totals()
    for seed in range(60):
        totals.add(report := run(seed))
        assert report.violations == []
        assert report.operations >= 60
    # Each has looked at least once, and each kind of fault has struck.
    assert set(totals.evaluations) | RARE == set(EVALUATIONS) | RARE
    assert set(totals.faults) | RARE == set(FAULTS) | RARE
    assert set(NEMESES) < set(FAULTS)


@pytest.mark.parametrize("seed", [71, 155, 201])
def test_a_seed_that_has_found_a_bug_finds_it_no_more(seed: int) -> None:
    """test_scenarios.py tells the stories without dice; the mutants A15 and A16 undo the fixes."""
    assert run(seed).violations == []


def test_a_seed_gives_the_same_trace_in_every_process() -> None:
    for seed in (3, 71, 155):
        traces = {_trace(seed, hash_seed) for hash_seed in ("1", "77")}
        assert len(traces) == 1
        assert len(traces.pop().splitlines()) > 300


def _trace(seed: int, hash_seed: str) -> bytes:
    return subprocess.run(
        [sys.executable, "-m", "tests.sim", "--seed", str(seed), "--trace"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
    ).stdout


def test_a_run_without_enough_to_judge_fails() -> None:
    idle = Totals()
    idle.seeds = 1_000
    named = {line.split(":")[0] for line in idle.below_floors()}
    assert named == {"acknowledged", "overlapping_pairs", *FAULTS, *EVALUATIONS}
