"""Level 2 itself: it finds nothing today, it is a function of its seed, it can be believed.

Seeds run in processes of their own: pytest has imported hypothesis, which changes trio's scheduling
for good, and a seed means what `python -m tests.sim` makes of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynagent.agent.agent import Agent
from dynagent.core.ports import Batch
from dynagent.testing.level2 import watch
from dynagent.testing.level2.disk import SimDisk
from dynagent.testing.level2.points import POINTS
from dynagent.testing.level2.profile import NEMESES, Profile
from dynagent.testing.level2.simulation import Report, run
from tests.sim.level2 import EVALUATIONS, FAULTS, Level2Totals
from tests.sim.pairs import first_difference, trace_of

ROOT = Path(__file__).resolve().parents[2]


def only(**nemeses: float) -> Profile:
    """A world in which nothing but this goes wrong."""
    return Profile(nemeses=nemeses, calm_s=0.3, disk_s=0.005)


def test_ten_seeds_have_no_violation() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--level", "2", "--seeds", "0:10"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " violations=0 " in done.stdout


@pytest.mark.parametrize("seed", [2, 5])
def test_a_seed_is_one_run_whatever_the_process_hashes(seed: int) -> None:
    one, other = (trace_of(2, seed, hash_seed=hash_seed) for hash_seed in (1, 77))
    assert first_difference(one, other) == ""
    assert len(one.splitlines()) > 500


def test_every_fault_checker_and_point_has_a_floor() -> None:
    assert set(NEMESES) < set(FAULTS)
    totals = Level2Totals()
    totals.seeds = 1_000
    below = {line.partition(":")[0] for line in totals.below_floors()}
    assert below >= {*FAULTS, *EVALUATIONS, *POINTS}


# --- scenarios -----------------------------------------------------------------------------------


def test_in_calm_weather_everything_is_acknowledged() -> None:
    report = run(1, profile=Profile())
    assert report.violations == []
    assert report.operations >= 80
    assert not report.faults
    assert report.passed["adoption.after"] == 3  # each agent took its ring once


def _fails(seed: int) -> Report:
    return run(seed, profile=only(fsync_fails=1.0), keep_trace=True)


def test_an_agent_whose_fsync_fails_stops_and_loses_nothing_that_it_acknowledged() -> None:
    stopped = 0
    for seed in range(6):
        report = _fails(seed)
        assert report.violations == []
        assert report.trace is not None
        stopped += sum("logs store.failed" in line for line in report.trace)
        assert report.evaluations["failed_stops"] <= report.faults["fsync_fails"]
    assert stopped >= 6


def test_a_failed_fsync_before_a_power_cut_loses_nothing_that_was_acknowledged() -> None:
    """The kernel has marked the pages clean: only the power cut shows that they never arrived."""
    for seed in range(6):
        report = run(seed, profile=only(fsync_fails=1.0, power_cut=1.0))
        assert report.violations == []
        assert report.faults["fsync_fails"]
        assert report.faults["power_cut"]


def test_a_full_disk_refuses_writes_and_is_well_again_with_the_first_free_byte() -> None:
    refused = 0
    for seed in range(6):
        report = run(seed, profile=only(disk_full=1.0), keep_trace=True)
        assert report.violations == []
        assert report.trace is not None
        refused += sum("logs store.full" in line for line in report.trace)
        assert not any("logs store.failed" in line for line in report.trace)
    assert refused >= 6


def test_a_hostile_client_costs_itself_its_connections_and_nobody_else_anything() -> None:
    report = run(3, profile=Profile(hostile=0.01))
    assert report.violations == []
    assert report.faults["hostile_frame"] > 50
    assert report.evaluations["bad_frame_costs_one"] > 10


def test_a_damaged_log_is_refused_and_the_others_go_on() -> None:
    lost = 0
    for seed in range(6):
        report = run(seed, profile=only(rot=1.0, kill=1.0), keep_trace=True)
        assert report.violations == []
        assert report.trace is not None
        lost += any("does not start: store.log: damaged" in line for line in report.trace)
    assert lost >= 3


# --- what it finds in a broken product -----------------------------------------------------------


def _checkers(report: Report) -> set[str]:
    return {violation.partition(":")[0] for violation in report.violations}


def test_a_disk_that_does_not_sync_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimDisk, "fsync", lambda _disk, _name: None)
    found = {name for s in range(8) for name in _checkers(run(s, profile=only(power_cut=1.0)))}
    assert "copies_grow" in found


def test_an_agent_that_goes_on_after_a_failed_fsync_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Agent, "_stop_failed", lambda _agent, _error: None)
    assert "failed_stops" in {name for seed in range(4) for name in _checkers(_fails(seed))}


def test_an_agent_that_acknowledges_what_was_not_written_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def commit(agent: Agent, _error: BaseException | None) -> None:
        batch, agent._in_flight = agent._in_flight, None
        assert batch is not None
        agent.node.on_committed(agent.env.monotonic(), batch)

    monkeypatch.setattr(Agent, "_on_written", commit)
    found = {name for seed in range(4) for name in _checkers(_fails(seed))}
    assert found >= {"ack_is_durable", "failed_is_silent", "failed_stops"}


def test_a_store_that_forgets_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    write = watch.WatchedStore.write

    def lossy(store: watch.WatchedStore, batch: Batch) -> None:
        kept = Batch(batch.number)
        kept.records = batch.records[:-1]
        kept.hints = batch.hints
        kept.meta = batch.meta
        kept.sums = batch.sums
        write(store, kept)

    monkeypatch.setattr(watch.WatchedStore, "write", lossy)
    assert "ack_is_durable" in _checkers(run(1, profile=Profile()))
