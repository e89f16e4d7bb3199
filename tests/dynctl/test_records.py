"""What the verbs about the cluster print, in every form, held against their schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dynagent import __version__
from tests.dynctl.conftest import Cluster, Dynctl, Here
from tests.dynctl.schemas import problems

_RECORDS = [
    *(
        ["node", "ls"],
        ["ring", "status"],
        ["ring", "show"],
        ["health"],
        ["stats"],
        ["get", "k", "--all"],
    ),
    *(["keys"], ["keys", "--prefix", "k"], ["explain", "k"], ["explain", "no such key"]),
]


def _schema(here: Here, words: list[str], form: str) -> dict[str, Any]:
    verb = words if words[0] in ("node", "ring") else words[:1]
    status, out, _ = here("schema", *verb, "-o", form)
    assert status == 0
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.real
@pytest.mark.parametrize("words", _RECORDS, ids=" ".join)
def test_json_is_what_the_schema_says(cluster: Cluster, here: Here, words: list[str]) -> None:
    cluster("put", "k", "v")
    document = json.loads(cluster(*words, "-o", "json").stdout)
    assert problems(document, _schema(here, words, "json")) == ""
    assert document["schema_version"] == 1
    schema = _schema(here, words, "jsonl")
    for line in cluster(*words, "-o", "jsonl").stdout.splitlines():
        assert problems(json.loads(line), schema) == ""
        assert json.loads(line)["schema_version"] == 1


def test_the_checker_finds_what_is_wrong(here: Here) -> None:
    schema = _schema(here, ["health"], "json")
    quorums = {"quorums": "healthy", "partitions": 8, "strict_fails": 0, "sloppy_fails": 0}
    right = {"schema_version": 1, "healthy": True, **quorums, "nodes": []}
    assert problems(right, schema) == ""
    assert problems({**right, "healthy": 1}, schema) == "healthy: 1 is not boolean"
    assert problems({**right, "more": 1}, schema) == "not described: {'more'}"
    assert problems({"healthy": True}, schema).startswith("missing")
    assert problems({**right, "nodes": [{}]}, schema).startswith("nodes: missing")


@pytest.mark.real
def test_node_ls_tells_all_about_each_node(cluster: Cluster) -> None:
    nodes = json.loads(cluster("node", "ls", "-o", "json").stdout)["nodes"]
    assert [node["name"] for node in nodes] == ["local-1", "local-2", "local-3"]
    assert [node["host"] for node in nodes] == ["local-1", "local-2", "local-3"]
    assert [node["address"] for node in nodes] == cluster.endpoints
    assert {node["liveness"] for node in nodes} == {"up"}
    assert {node["state"] for node in nodes} == {"serving"}
    assert sum(node["share"] for node in nodes) == pytest.approx(1, abs=0.001)


@pytest.mark.real
def test_node_ls_tells_what_gossip_has_told_the_agent_that_answers(cluster: Cluster) -> None:
    for endpoint in cluster.endpoints:
        nodes: list[dict[str, Any]] = [{"epoch": None}]
        while any(node["epoch"] is None for node in nodes):  # until gossip has gone round
            done = cluster("node", "ls", "-o", "json", "--endpoint", endpoint)
            nodes = json.loads(done.stdout)["nodes"]
        assert {node["release"] for node in nodes} == {__version__}
        assert {(node["epoch"], node["run"], node["draining"]) for node in nodes} == {(1, 1, False)}
        assert all(0 <= node["background_share"] <= 1 for node in nodes)
        assert all(node["stored_bytes"] > 0 and node["told_s"] >= 0 for node in nodes)


@pytest.mark.real
def test_ring_status_and_ring_show_agree(cluster: Cluster) -> None:
    status = json.loads(cluster("ring", "status", "-o", "json").stdout)
    assert (status["n"], status["r"], status["w"], status["partitions"]) == (3, 2, 2, 256)
    assert (status["unsettled"], status["hints"]) == (False, 0)
    assert status["oldest_unverified_s"] >= 0
    ring = json.loads(cluster("ring", "show", "-o", "json").stdout)
    assert (ring["cluster_id"], ring["epoch"]) == (status["cluster_id"], status["epoch"])
    first = [row["owners"][0] for row in ring["partitions"]]
    for node in status["nodes"]:
        assert node["first_places"] == first.count(node["name"])
        assert node["places"] == sum(node["name"] in row["owners"] for row in ring["partitions"])
    one = cluster("ring", "show", "--partition", "255", "-o", "jsonl").stdout
    assert json.loads(one) == {"schema_version": 1, **ring["partitions"][255]}
    assert ring["partitions"][255]["first_token"] == "ff" + "0" * 30


@pytest.mark.real
def test_plain_is_one_line_a_row_with_tabs(cluster: Cluster) -> None:
    lines = cluster("node", "ls").stdout.decode().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["local-1", "local-2", "local-3"]
    assert {line.count("\t") for line in lines} == {20}
    assert {tuple(line.split("\t")[5:9]) for line in lines} == {("100", "serving", "up", "0.3333")}


@pytest.mark.real
def test_a_table_in_a_file_has_headers_and_neither_colour_nor_cuts(cluster: Cluster) -> None:
    table = cluster("node", "ls", "-o", "table").stdout.decode()
    assert table.splitlines()[0].split()[:3] == ["NAME", "ADDRESS", "ZONE"]
    assert "\x1b" not in table
    assert "\x1b[" in cluster("node", "ls", "-o", "table", "--color", "always").stdout.decode()


def test_version_and_help_go_to_stdout(bare: Dynctl) -> None:
    assert bare("--version").stdout.startswith(b"dynctl ")
    done = bare("--help")
    assert done.stderr == b""
    assert b"bootstrap" in done.stdout
    nothing = bare(status=2)  # as other tools of two words do
    assert (nothing.stdout, nothing.stderr.splitlines()[0]) == (
        b"",
        b"Usage: dynctl [OPTIONS] COMMAND [ARGS]...",
    )


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("verb", ["get", "up", "ring status"])
def test_help_of_a_verb_ends_with_an_example(here: Here, verb: str, flag: str) -> None:
    status, out, told = here(*verb.split(), flag)
    assert (status, told) == (0, "")
    assert f"example: {'eval' if verb == 'up' else 'dynctl ' + verb}" in out.splitlines()[-1]
