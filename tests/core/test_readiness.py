"""When a node should get requests, and what its status tells beside that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynagent.core.inspect import status_fields
from dynagent.core.messages import Put
from dynagent.core.readiness import unready_reason
from tests.core.harness import IDS, Cluster, make_ring

A, B, C = IDS[:3]


def test_a_node_without_a_ring_is_not_ready() -> None:
    node = Cluster(None).nodes[A]
    assert unready_reason(node) == "this agent belongs to no cluster yet"
    fields = status_fields(node)
    assert (fields["state"], fields["members"], fields["below_quorum"]) == ("fresh", 0, 0)


def test_a_draining_node_is_not_ready() -> None:
    node = Cluster(make_ring(3)).nodes[A]
    assert unready_reason(node) == ""
    node.draining = True
    assert unready_reason(node) == "this agent is stopping"


def test_a_node_is_ready_while_it_reaches_the_larger_of_r_and_w_owners() -> None:
    node = Cluster(make_ring(3)).nodes[A]
    node.on_peer_down(0, B)
    assert unready_reason(node) == ""
    node.on_peer_down(0, C)
    assert unready_reason(node) == "too few owners are reachable for 8 of 8 partitions"
    assert status_fields(node)["below_quorum"] == 8


@pytest.mark.parametrize(("short", "is_ready"), [(0, True), (4, True), (5, False), (8, False)])
def test_half_of_the_partitions_are_enough(short: int, is_ready: bool) -> None:
    ring = make_ring(3, others=1)
    away = IDS[1:]  # of the first `short` partitions; the others have A, B and C
    lists = (away,) * short + ring.lists[short:]
    cluster = Cluster(replace(ring, lists=lists))
    node = cluster.nodes[A]
    node.on_peer_down(0, IDS[3])
    node.on_peer_down(0, C)
    assert status_fields(node)["below_quorum"] == short
    assert (unready_reason(node) == "") is is_ready


def test_the_status_tells_what_gathers_for_the_next_commit_and_what_the_shell_adds() -> None:
    cluster = Cluster(make_ring(3))
    node = cluster.nodes[A]
    assert status_fields(node)["batch"] == {"records": 0, "bytes": 0}
    assert "cpu_s" not in status_fields(node)
    cluster.request(A, Put(b"k", b"value", 2, b"", b"1" * 16))
    node.measure = lambda: {"cpu_s": 1.5}
    fields = status_fields(node)
    assert fields["batch"]["records"] == 1
    assert fields["batch"]["bytes"] >= len(b"value")
    assert fields["cpu_s"] == 1.5
