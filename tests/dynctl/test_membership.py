"""Nodes join, leave and are replaced: the verbs, against real agents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

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
