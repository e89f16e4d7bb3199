"""`repair`, `verify`, `recheck` and `jobs`, as people use them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.dynctl.conftest import Cluster
from tests.dynctl.schemas import problems
from tests.dynctl.test_up import own_cluster, pid_of

pytestmark = pytest.mark.real


def told(cluster: Cluster, *words: str, status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster(*words, "-o", "json", status=status).stdout)
    schema = json.loads(
        cluster("schema", *words[: 2 if words[0] in ("jobs", "ring") else 1]).stdout
    )
    assert problems(found, schema) == ""
    return found


def test_equal_replicas_are_verified_and_told(cluster: Cluster) -> None:
    for number in range(5):
        cluster("put", f"key-{number}", "value", "-w", "3")
    time.sleep(0.2)
    found = told(cluster, "verify")
    assert (found["state"], found["differing"], found["moved"]) == ("done", 0, 0)
    assert found["done"] == found["all"] == 3 * 256
    assert len(found["pairs"]) == 6
    assert found["preview"]
    job = found["id"]
    assert told(cluster, "jobs", "status", job) == found
    assert told(cluster, "jobs", "wait", job)["state"] == "done"
    assert job in [row["id"] for row in told(cluster, "jobs", "ls")["jobs"]]
    cluster("jobs", "cancel", job)  # it has ended: nothing changes
    assert told(cluster, "jobs", "status", job)["state"] == "done"
    repaired = told(cluster, "repair", "local-1", "--partition", "17")
    assert repaired["node"] == "local-1"
    assert repaired["partitions"] == [17]
    assert {row["node"] for row in repaired["pairs"]} | {
        row["peer"] for row in repaired["pairs"]
    } >= {"local-1"}
    assert repaired["all"] == 2
    assert told(cluster, "ring", "status")["oldest_unverified_s"] < 600


def test_a_report_is_checked_again(cluster: Cluster, tmp_path: Path) -> None:
    report = str(tmp_path / "report.json")
    cluster("verify", "--out", report)
    kept = json.loads(Path(report).read_text())
    assert len(kept["partitions"]) == 256
    assert len({owner["root"] for owner in kept["partitions"][0]["owners"]}) == 1
    same = told(cluster, "recheck", report)
    assert (same["checked"], same["same"], same["roots"]) == (256, 256, [])
    cluster("put", "one more", "value", "-w", "3")
    changed = told(cluster, "recheck", report, status=12)
    assert changed["same"] == 255
    assert len(changed["roots"]) == 3


def test_bad_words_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    assert "no node is called 'nobody'" in cluster.fails(2, "repair", "nobody")
    assert "--partition" in cluster.fails(2, "repair", "--partition", "256")
    assert "no agent knows a job" in cluster.fails(3, "jobs", "status", "0123456789abcdef")
    assert "no agent knows a job" in cluster.fails(3, "jobs", "cancel", "x")
    (tmp_path / "other.json").write_text("{}")
    assert "is no report" in cluster.fails(2, "recheck", str(tmp_path / "other.json"))
    assert "No such file" in cluster.fails(1, "recheck", str(tmp_path / "none.json"))


def test_a_job_waits_for_who_is_down_and_an_interrupt_leaves_it(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 3) as cluster:
        cluster("put", "k", "value", "-w", "3")
        os.kill(pid_of(cluster, "local-3"), signal.SIGKILL)
        line = cluster.fails(124, "repair", "--timeout", "3s")
        job = line.rpartition("dynctl jobs wait ")[2].strip()
        assert f"job {job} goes on" in line
        with subprocess.Popen(
            [*cluster.command, "jobs", "wait", job],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=cluster.environment,
        ) as waiting:
            time.sleep(3)
            waiting.send_signal(signal.SIGINT)
            _, words = waiting.communicate(timeout=20)
        assert waiting.returncode == 130
        assert f"see: dynctl jobs wait {job}" in words.decode()
        cluster("up", "--dir", str(cluster.directory))
        done = told(cluster, "jobs", "wait", job, "--timeout", "30s")
        assert (done["state"], done["done"]) == ("done", 3 * 256)


def test_converged_is_what_has_been_compared_since_the_question(cluster: Cluster) -> None:
    cluster("repair")  # what was compared before the question does not count
    line = cluster.fails(124, "wait", "converged", "--timeout", "0.01s")
    assert "have been compared and found equal" in line
    with subprocess.Popen(
        [*cluster.command, "wait", "converged", "--timeout", "60s"], env=cluster.environment
    ) as waiting:
        while waiting.poll() is None:
            cluster("repair")
    assert waiting.returncode == 0
