"""`hints`: what is kept for an agent that is away, held back and handed over."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.dynctl.conftest import Cluster
from tests.dynctl.test_up import own_cluster, pid_of

pytestmark = pytest.mark.real


def rows(cluster: Cluster, *, status: int = 0) -> list[dict[str, Any]]:
    hints: list[dict[str, Any]] = json.loads(
        cluster("hints", "ls", "-o", "json", status=status).stdout
    )["hints"]
    return hints


def test_hints_are_kept_paused_and_drained(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 3) as cluster:
        assert rows(cluster) == []
        os.kill(pid_of(cluster, "local-3"), signal.SIGKILL)
        for number in range(5):
            cluster("put", f"key-{number}", "value")
        kept = rows(cluster, status=11)
        assert sum(row["hints"] for row in kept) == 5
        assert {(row["target"], row["state"]) for row in kept} == {("local-3", "waiting")}

        cluster("hints", "pause", "local-3", status=11)
        cluster("up", "--dir", str(cluster.directory))
        cluster("wait", "ready")
        assert {row["state"] for row in rows(cluster)} == {"paused"}

        cluster("hints", "drain", "local-3")
        assert rows(cluster) == []
        strict = cluster("get", "key-4", "--strict", "-r", "3").stdout
        assert strict == b"value"


def test_an_unknown_node_is_refused_by_its_name(cluster: Cluster) -> None:
    for verb in ("pause", "resume", "drain"):
        assert "no node is called 'nobody'" in cluster.fails(2, "hints", verb, "nobody")
