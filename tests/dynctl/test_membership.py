"""Nodes join, leave and are replaced: the verbs, against real agents."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dynagent.client.blocking import Client
from dynagent.client.proposing import propose
from dynagent.errors import DynagentError
from dynctl import planfile
from tests.dynctl.conftest import Cluster, Here
from tests.dynctl.schemas import problems
from tests.dynctl.test_up import own_cluster

pytestmark = pytest.mark.real


class Grown(Cluster):
    """A cluster of three with a spare agent, which is in no cluster."""

    spare: str


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grown]:
    with own_cluster(tmp_path_factory.mktemp("grown"), 3) as found:
        found("up", "--dir", str(found.directory), "--spare", "1")
        cluster = Grown(found.home)
        cluster.directory, cluster.endpoints = found.directory, found.endpoints
        pairs = dict(
            line.partition("=")[::2]
            for line in (found.directory / "cluster").read_text().splitlines()
        )
        cluster.spare = pairs["local-4"]
        yield cluster


def document(cluster: Cluster, *words: str, status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster(*words, "-o", "json", status=status).stdout)
    return found


def epoch_of(cluster: Cluster) -> int:
    return int(document(cluster, "ring", "status")["epoch"])


def test_a_spare_agent_runs_and_is_in_no_cluster(grown: Grown) -> None:
    done = grown("up", "--dir", str(grown.directory))
    assert f"in no cluster: dynctl join {grown.spare}" in done.stderr.decode()
    assert grown.spare not in done.stdout.decode()
    grown("health")


def test_a_dry_run_tells_the_plan_and_changes_nothing(grown: Grown, here: Here) -> None:
    plan = document(grown, "join", grown.spare, "--dry-run")
    assert (plan["state"], plan["moved"], plan["bound"]) == ("planned", 192, 192)
    assert {(row["name"], row["before"], row["after"]) for row in plan["nodes"]} == {
        ("local-1", 256, 192),
        ("local-2", 256, 192),
        ("local-3", 256, 192),
        ("local-4", 0, 192),
    }
    schema = json.loads(here("schema", "join")[1])
    assert problems(plan, schema) == ""
    assert epoch_of(grown) == 1


def test_impossible_changes_are_refused_with_a_way_out(grown: Grown) -> None:
    first = grown.endpoints[0]
    for words, told in (
        (["leave", "local-3", "--yes"], "2 nodes hold capacity, N=3 needs 3; add a node"),
        (["remove", "local-3", "--yes"], "local-3 is up: dynctl leave local-3"),
        (["remove", "local-3", "--force", "--yes"], "see: dynctl replace --help"),
        (["join", first, "--yes"], "belongs to this cluster already"),
        (["join", grown.spare], "there is no terminal to ask; say --yes"),
        (["ring", "abort", "--yes"], "no change is under way"),
        (["node", "set", "local-1", "--capacity", "100", "--yes"], "has it already"),
    ):
        assert told in grown.fails(10, *words), words
    for words, told in (
        (["leave", "nobody", "--yes"], "no node is called 'nobody'"),
        (["leave", "local-1", "local-1", "--yes"], "named twice"),
        (["join", grown.spare, grown.spare, "--yes"], "given twice"),
        (["join", grown.spare, "--capacity", "heavy"], "--capacity 'heavy' is not"),
        (["node", "set", "local-1"], "nothing is given that shall change"),
        (["ring", "apply", "/dev/null"], "holds no plan"),
    ):
        assert told in grown.fails(2, *words), words
    assert epoch_of(grown) == 1


def test_a_kept_plan_is_applied_once_and_only_to_its_epoch(grown: Grown) -> None:
    plan, other = str(grown.home / "plan.json"), str(grown.home / "other.json")
    grown("node", "set", "local-1", "--capacity", "120", "--dry-run")
    grown("join", grown.spare, "--capacity", "0", "--out", plan)
    grown("join", grown.spare, "--out", other)
    assert epoch_of(grown) == 1
    done = document(grown, "ring", "apply", plan, "--yes", "--wait")
    assert (done["state"], done["moved"]) == ("settled", 0)
    again = grown("ring", "apply", plan, "--yes")
    assert "carried out already, as entry 2" in again.stderr.decode()
    assert "the ring is at 2 by now" in grown.fails(10, "ring", "apply", other, "--yes")
    [entry] = document(grown, "ring", "history")["entries"]
    assert (entry["entry"], entry["kind"], entry["id"]) == (2, "change", done["id"])
    assert entry["what"].startswith("join local-4")
    rows = {row["name"]: row for row in document(grown, "node", "ls")["nodes"]}
    assert (rows["local-4"]["capacity"], rows["local-4"]["share"]) == (0, 0)
    grown("wait", "ready")
    grown("wait", "settled")
    grown("ring", "diff", "local-1", "local-4")


# --- with data that moves ------------------------------------------------------------------------


class Writer:
    """Writes new keys through one client, one after the other, until the end of the block."""

    def __init__(self, cluster: Cluster) -> None:
        self._endpoints = cluster.endpoints
        self.written: list[bytes] = []  # acknowledged
        self.failures: list[DynagentError] = []
        self.in_doubt: list[bytes] = []  # of these, keys that may be there all the same
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        with Client(self._endpoints) as client:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                key = b"meanwhile/%d" % number
                try:
                    client.put(key, key, strict=True)
                    self.written.append(key)
                except DynagentError as exc:
                    self.failures.append(exc)
                    self.in_doubt += [] if exc.definite else [key]

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def check_all_there(
    cluster: Cluster, keys: Iterable[bytes], *, in_doubt: Collection[bytes] = ()
) -> None:
    """Each key is with R of the owners that it has now, and no other but what is `in_doubt`; all
    owners hold the same."""
    with Client(cluster.endpoints) as client:
        for key in keys:
            assert [v.value for v in client.get(key, strict=True).versions] == [key]
    listed = cluster("keys", "-0").stdout.split(b"\0")[:-1]
    assert sorted(key for key in listed if key not in in_doubt) == sorted(keys)
    cluster("verify")


def test_three_become_five_and_three_again_under_writes_and_nothing_is_lost(
    tmp_path: Path, here: Here
) -> None:
    with own_cluster(tmp_path, 3) as cluster:
        directory = str(cluster.directory)
        with Writer(cluster) as writer:
            cluster("up", "--dir", directory, "--nodes", "5", "--timeout", "60s")
            cluster("wait", "settled", "--timeout", "60s")
            moved = document(cluster, "transfers")
            plan = document(cluster, "leave", "local-1", "local-4", "--yes", "--wait")
        assert writer.failures == []
        assert len(writer.written) > 10
        assert problems(moved, json.loads(here("schema", "transfers")[1])) == ""
        assert {row["name"]: row["role"] for row in plan["nodes"]} == {
            "local-1": "leaves",
            "local-2": "stays",
            "local-3": "stays",
            "local-4": "leaves",
            "local-5": "stays",
        }
        names = [row["name"] for row in document(cluster, "node", "ls")["nodes"]]
        assert names == ["local-2", "local-3", "local-5"]
        done = cluster("down", "local-1", "local-4", "--purge", "--dir", directory)
        assert b"removed: local-1, local-4" in done.stderr
        listed = cluster("up", "--dir", directory).stdout.decode().strip().partition("=")[2]
        cluster.endpoints = listed.split(",")
        assert len(cluster.endpoints) == 3
        check_all_there(cluster, writer.written)
        status = document(cluster, "ring", "status")
        assert not status["unsettled"]
        assert {row["places"] for row in status["nodes"]} == {256}
        kinds = [row["kind"] for row in document(cluster, "ring", "history")["entries"]]
        assert kinds.count("change") == 2
        assert "retire" in kinds
        cluster("doctor")


def test_a_dead_machine_is_replaced_by_a_fresh_one_in_its_very_places(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 3) as cluster:
        directory = str(cluster.directory)
        with Writer(cluster) as writer:
            cluster("up", "--dir", directory, "--spare", "1")
        before = document(cluster, "ring", "show")["partitions"]
        cluster("down", "local-2", "--kill", "--dir", directory)
        spare = (cluster.directory / "cluster").read_text().split("local-4=")[1].split("\n")[0]
        line = cluster.fails(10, "replace", "local-2", spare, "--yes")
        assert "the copies of local-2 would be declared lost" in line
        plan = document(cluster, "replace", "local-2", spare, "--force", "--yes", "--wait")
        assert [step["writes_at_risk"] for step in plan["steps"]] == [256, 256, 256, 0]
        after = document(cluster, "ring", "show")["partitions"]
        assert [row["owners"] for row in after] == [
            ["local-4" if name == "local-2" else name for name in row["owners"]] for row in before
        ]
        cluster("up", "local-2", "--dir", directory)  # a removed node is recognised
        assert "a former member" in cluster("up", "--dir", directory).stderr.decode()
        cluster("down", "local-2", "--purge", "--dir", directory)
        cluster("wait", "ready")
        check_all_there(cluster, writer.written)


def test_a_join_whose_agent_dies_is_told_of_and_taken_back(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 3) as cluster:
        directory, plan = str(cluster.directory), str(tmp_path / "plan.json")
        cluster("up", "--dir", directory, "--spare", "1")
        spare = (cluster.directory / "cluster").read_text().split("local-4=")[1].split("\n")[0]
        cluster("join", spare, "--out", plan)
        cluster("down", "local-4", "--kill", "--dir", directory)
        assert spare in cluster.fails(7, "ring", "apply", plan, "--yes")  # a guard
        with Client(cluster.endpoints) as client:  # so it is done without guards
            propose(client, cluster.endpoints, planfile.load(plan)[2], epoch=1, timeout_s=10)
        with Writer(cluster) as writer:
            status = document(cluster, "ring", "status")
            assert (status["change"], status["copying"]) == ("join local-4", 192)
            [row] = document(cluster, "transfers")["transfers"]
            assert (row["node"], row["copying"]) == ("local-4", 192)
            assert row["problem"].startswith("down (")
            advice = cluster("doctor", status=8).stdout.decode()
            assert "change_waits\tlocal-4" in advice
            assert "start local-4, or: dynctl ring abort" in advice
            line = cluster.fails(10, "node", "set", "local-1", "--capacity", "7", "--yes")
            assert "a change is under way (join local-4, entry 2)" in line
            line = cluster.fails(124, "wait", "settled", "--timeout", "500ms")
            assert "192 partitions are moving (join local-4, entry 2)" in line
            cluster("ring", "abort", "--yes", "--wait", "--timeout", "60s")
        assert writer.failures == []
        names = [row["name"] for row in document(cluster, "node", "ls")["nodes"]]
        assert names == ["local-1", "local-2", "local-3"]
        cluster("wait", "ready")
        check_all_there(cluster, writer.written)


def test_a_cluster_that_lost_most_of_its_voters_is_brought_back(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 3) as cluster:
        directory = str(cluster.directory)
        with Writer(cluster) as writer:
            cluster("up", "--dir", directory, "--spare", "2")
        cluster("repair")  # so that the one that is left has all
        assert "nothing has to be forced" in cluster.fails(10, "ring", "force", "--yes")
        cluster("down", "local-2", "local-3", "--kill", "--dir", directory)
        text = (cluster.directory / "cluster").read_text()
        spares = [text.split(f"local-{n}=")[1].split("\n")[0] for n in (4, 5)]
        lost = ["replace", "local-2", spares[0], "local-3", spares[1], "--force", "--yes"]
        line = cluster.fails(10, *lost)
        assert "2 of 3 voters are down" in line
        assert "dynctl ring force --help" in line
        assert "voters_lost" in cluster("doctor", status=8).stdout.decode()
        done = cluster("ring", "force", "--yes")
        assert "see: dynctl remove --help" in done.stderr.decode()
        plan = document(cluster, *lost, "--wait", "--timeout", "60s")
        assert plan["moved"] == 512
        assert "of 256 partitions 2 or more owners are removed" in plan["notes"][0]
        cluster("wait", "ready", "--timeout", "60s")
        check_all_there(cluster, writer.written, in_doubt=writer.in_doubt)
        kinds = [row["kind"] for row in document(cluster, "ring", "history")["entries"]]
        assert "forced" in kinds


def test_members_bring_in_an_agent_that_nobody_has_told(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 3) as cluster:
        directory, plan = str(cluster.directory), str(tmp_path / "plan.json")
        cluster("up", "--dir", directory, "--spare", "1")
        spare = (cluster.directory / "cluster").read_text().split("local-4=")[1].split("\n")[0]
        cluster("join", spare, "--out", plan)
        with Writer(cluster) as writer, Client(cluster.endpoints) as client:
            propose(client, cluster.endpoints, planfile.load(plan)[2], epoch=1, timeout_s=10)
            cluster("wait", "settled", "--timeout", "60s")
        assert writer.failures == []
        cluster("wait", "ready")
        again = cluster("ring", "apply", plan, "--yes", "--wait")
        assert "carried out already, as entry 2" in again.stderr.decode()
        check_all_there(cluster, writer.written)
