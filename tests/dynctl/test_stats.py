"""`stats`: what agents have counted, as records and as Prometheus text."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dynagent.obs.metrics import METRICS
from dynctl.local import load
from dynctl.spawn import free_port_near
from tests.dynctl.conftest import Cluster, Dynctl
from tests.dynctl.test_up import own_cluster, pid_of

pytestmark = pytest.mark.real


def nodes(cluster: Cluster, *words: str) -> dict[str, dict[str, Any]]:
    document = json.loads(cluster("stats", *words, "-o", "json").stdout)
    return {node["name"]: node for node in document["nodes"]}


def test_stats_count_what_happened(cluster: Cluster, key: str) -> None:
    first = ["--endpoint", cluster.endpoints[0]]
    before = nodes(cluster)
    for _ in range(3):
        cluster("put", key, "v", "-w", "3", *first)
    cluster.fails(2, "get", "", *first)
    after = nodes(cluster)
    assert list(after) == ["local-1", "local-2", "local-3"]
    assert sum(after[name]["puts"] - before[name]["puts"] for name in after) >= 3
    for name, node in after.items():
        assert node["committed_records"] - before[name]["committed_records"] >= 3
        assert node["commits"] > before[name]["commits"]
        assert node["cpu_s"] > before[name]["cpu_s"] > 0
        assert (node["peers_up"], node["peers_known"]) == (2, 2)
        assert node["gets"] == dict_of(node["requests_by_kind"]).get("Get", 0)
        assert node["errors"] == sum(dict_of(node["errors_by_kind"]).values())


def dict_of(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {row["kind"]: row["count"] for row in rows}


def test_one_node_is_named_by_its_name_its_id_or_its_address(cluster: Cluster) -> None:
    second = nodes(cluster)["local-2"]
    for word in ("local-2", second["id"], second["address"]):
        assert list(nodes(cluster, word)) == ["local-2"]
    line = cluster.fails(2, "stats", "local-9")
    assert "no node is called 'local-9'; choose one of local-1, local-2, local-3" in line


def test_prometheus_text_has_the_metrics_of_the_table_for_every_agent(cluster: Cluster) -> None:
    text = cluster("stats", "--prometheus").stdout.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    found = {s.labels["node"] for s in families["dynagent_store_bytes"].samples}
    assert found == {"local-1", "local-2", "local-3"}
    assert "leave -o out" in cluster.fails(2, "stats", "--prometheus", "-o", "json")


def test_a_table_shows_the_main_figures_only(cluster: Cluster) -> None:
    header = cluster("stats", "-o", "table").stdout.decode().splitlines()[0].split()
    assert header[:4] == ["NAME", "STATE", "GETS", "PUTS"]
    assert len(header) == 9  # as wide as a terminal
    for line in cluster("stats").stdout.decode().splitlines():
        assert line.count("\t") == 10


def test_each_agent_of_up_serves_http_where_up_and_stats_say(cluster: Cluster) -> None:
    told = cluster("up", "--dir", str(cluster.directory)).stderr.decode()
    for node in nodes(cluster).values():
        assert f"metrics on http://{node['http']}\n" in told
        connection = http.client.HTTPConnection(node["http"], timeout=10)
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
        connection.close()


def test_agents_that_do_not_answer_make_it_partial(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 3) as cluster:
        os.kill(pid_of(cluster, "local-3"), signal.SIGKILL)
        done = cluster("stats", status=11)
        assert [line.split(b"\t")[0] for line in done.stdout.splitlines()] == [
            b"local-1",
            b"local-2",
        ]
        assert done.stderr.startswith(b"dynctl: stats: partial: 2 of 3 agents answered: local-3 is")
        assert b"local-2" in cluster("stats", "--prometheus", status=11).stdout
        assert "local-3 is down" in cluster.fails(7, "stats", "local-3")


def test_a_metrics_port_that_is_taken_keeps_no_cluster_down(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 1) as cluster:
        directory = str(cluster.directory)
        cluster("down", "--dir", directory)
        before = load(cluster.directory)
        assert before is not None
        host, _, port = before.http["local-1"].rpartition(":")
        with socket.create_server((host, int(port))):
            cluster("up", "--dir", directory)
        after = load(cluster.directory)
        assert after is not None
        assert after.addresses == before.addresses
        assert after.http != before.http
        assert nodes(cluster)["local-1"]["http"] == after.http["local-1"]


def test_a_cluster_of_an_earlier_version_gets_its_metrics_ports(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 1) as cluster:
        directory = str(cluster.directory)
        cluster("down", "--dir", directory)
        file = cluster.directory / "cluster"
        lines = [line for line in file.read_text().splitlines() if ".http=" not in line]
        file.write_text("\n".join(lines) + "\n")
        cluster("up", "--dir", directory)
        assert nodes(cluster)["local-1"]["http"] != ""


def test_stats_of_no_cluster_says_what_to_do(bare: Dynctl) -> None:
    assert "no cluster is named" in bare.fails(7, "stats")


def test_a_port_that_another_agent_owns_is_not_given_twice() -> None:
    wanted = free_port_near(20_000)
    assert free_port_near(wanted) == wanted
    assert free_port_near(wanted, not_in={wanted}) != wanted


def test_a_port_beyond_the_last_falls_back_to_any() -> None:
    assert 0 < free_port_near(70_000) < 65_536
