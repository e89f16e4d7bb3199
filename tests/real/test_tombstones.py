"""Deleted keys leave nothing behind on real agents, and what is written afterwards is as new.

The keys are 500; `TOMBSTONE_KEYS=10000` makes it the size of the issue.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynagent.core.messages import MODE_OVERWRITE, Put
from dynctl.load.driver import Answer
from tests.real.cluster import ROOT, RealCluster, wait_for
from tests.real.drive import drive
from tests.real.replicas import node_id, present, status

pytestmark = pytest.mark.real
KEYS = [b"key-%d" % number for number in range(int(os.environ.get("TOMBSTONE_KEYS", "500")))]
GONE_S_MAX = 60.0


def resting(directory: Path, rest_s: float) -> tuple[str, str]:
    """Flags of agents that keep tombstones no longer than that."""
    path = directory / "agent.toml"
    path.write_text(f"tombstone_rest_s = {rest_s}\n", encoding="utf-8")
    return "--config", str(path)


def write_all(cluster: RealCluster, value: bytes | None) -> None:
    """Puts or deletes every key; each must succeed."""
    failed: list[Answer] = []

    def on_reply(_key: bytes, reply: Answer, _seconds: float) -> None:
        if isinstance(reply, Exception):
            failed.append(reply)

    requests = ((key, Put(key, value, MODE_OVERWRITE, b"", os.urandom(16), w=3)) for key in KEYS)
    drive(cluster.addresses, requests, on_reply)
    assert failed == []


def tombstones(cluster: RealCluster) -> dict[str, object]:
    """What `dynctl tombstones` says."""
    done = subprocess.run(
        [sys.executable, "-m", "dynctl", "tombstones", "--by-partition", "-o", "json"]
        + [word for address in cluster.addresses for word in ("--endpoint", address)],
        capture_output=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert done.returncode in (0, 11), done
    document: dict[str, object] = json.loads(done.stdout)
    return document


def counts(cluster: RealCluster) -> list[int]:
    running = [agent for agent in cluster.agents if agent.process is not None]
    return [status(agent)["tombstones"]["count"] for agent in running]


def test_deleted_keys_leave_nothing_behind_and_are_as_new_afterwards(tmp_path: Path) -> None:
    with RealCluster(tmp_path, 3, *resting(tmp_path, 2.0)) as cluster:
        with cluster.client() as client:
            write_all(cluster, b"value")
            old = client.get(KEYS[0])
            write_all(cluster, None)
            told = tombstones(cluster)
            nodes = told["nodes"]
            assert isinstance(nodes, list)
            # Of many keys the first have gone before the last are deleted.
            assert sum(row["tombstones"] + row["purged"] for row in nodes) == 3 * len(KEYS)
            took = wait_for(
                lambda: counts(cluster) == [0, 0, 0], "the tombstones", wait_s=GONE_S_MAX
            )
            print(f"{len(KEYS):,} tombstones were gone {took:.1f} s after the last delete")
            assert present(cluster, KEYS) == []
            assert [status(agent)["tombstones"]["purged"] for agent in cluster.agents] == [
                len(KEYS)
            ] * 3

            # The context of a value that nobody remembers: it supersedes nothing that is there.
            client.put(KEYS[0], b"new", context=old.context)
            client.put(KEYS[0], b"beside", blind=True)
            both = client.get(KEYS[0], r=3)
            assert sorted(version.value for version in both.versions) == [b"beside", b"new"]
            client.delete(KEYS[0], context=old.context)
            assert len(client.get(KEYS[0], r=3).versions) == 2
            client.put(KEYS[0], b"one", context=both.context, op_id=b"o" * 16)
            client.put(KEYS[0], b"one", context=both.context, op_id=b"o" * 16)
            assert [v.value for v in client.get(KEYS[0], r=3).versions] == [b"one"]
        assert tombstones(cluster)["tombstones"] == 0


def test_an_agent_that_is_away_holds_them_back_by_name(tmp_path: Path) -> None:
    with (
        RealCluster(tmp_path, 3, *resting(tmp_path, 0.5)) as cluster,
        cluster.client() as client,
    ):
        client.put(b"k", b"v", w=3)
        away = cluster.agents[2]
        name, its_id = away.name, node_id(away)
        away.kill()
        client.delete(b"k")

        def is_blocked() -> bool:
            running = cluster.agents[:2]
            return any(its_id in status(agent)["tombstones"]["blocked"] for agent in running)

        wait_for(is_blocked, "somebody to name who is away")
        blocked = tombstones(cluster)["blocked"]
        assert isinstance(blocked, list)
        assert {(row["blocked_by"], row["reason"]) for row in blocked} == {(name, "away")}
        cluster.start()
        cluster.wait_ready()
        wait_for(lambda: counts(cluster) == [0, 0, 0], "the tombstone", wait_s=GONE_S_MAX)
        assert present(cluster, [b"k"]) == []
        assert not client.get(b"k", r=3).versions
