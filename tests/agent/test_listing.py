"""Listings and copies of real agents: what one of them has missed, and pages under load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dynagent import limits
from dynagent.client.blocking import Client
from dynagent.core.messages import Inspect, InspectReply, List, ListReply
from dynagent.core.ring import token_of
from dynagent.errors import BadRequest, NotReady, QuorumNotMet
from tests.real.cluster import RealAgent, RealCluster, free_ports

pytestmark = pytest.mark.real


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RealCluster]:
    with RealCluster(tmp_path, 3, partitions=8) as running:
        yield running


def _keys(client: Client, **how: object) -> set[bytes]:
    found = [listed.key for listed in client.keys(**how)]  # type: ignore[arg-type]
    assert len(found) == len(set(found))
    return set(found)


def test_what_an_agent_missed_while_it_was_down_is_listed_rightly(cluster: RealCluster) -> None:
    """Each agent in turn misses a write and a delete, and comes back with its old copies."""
    with cluster.client() as client:
        kept, deleted = set(), set()
        for agent in cluster.agents:
            name = agent.name.encode()
            client.put(b"old/" + name, b"v", w=3)
            agent.kill()
            client.put(b"new/" + name, b"v")
            client.delete(b"old/" + name)
            kept.add(b"new/" + name)
            deleted.add(b"old/" + name)
            assert _keys(client) == kept
            cluster.start()
            cluster.wait_ready()
            assert _keys(client) == kept


def test_with_two_of_three_agents_gone_nothing_is_listed_and_the_token_has_it_all(
    cluster: RealCluster,
) -> None:
    with cluster.client(timeout_s=3.0) as client:
        client.put(b"k", b"v")
        for agent in cluster.agents[:2]:
            agent.kill()
        keys = client.keys()
        with pytest.raises(QuorumNotMet, match=r"partitions 0-7 \(n1: .*refused, n2: .*refused\)"):
            list(keys)
        cluster.start()
        cluster.wait_ready()
        assert _keys(client, resume=keys.token) == {b"k"}


@pytest.mark.parametrize("engine", ["sqlite", "rocksdb"])
def test_more_keys_than_a_page_holds_come_once_while_others_are_written(
    tmp_path: Path, engine: str
) -> None:
    if engine == "rocksdb":
        pytest.importorskip("rocksdict")
    wanted = {b"key-%d" % number for number in range(1_000)}
    with (
        RealCluster(tmp_path, 3, "--engine", engine, partitions=8) as cluster,
        cluster.client() as client,
        cluster.client() as writer,
    ):
        for key in wanted:
            client.put(key, b"v" * 2_000, blind=True)
        found = []
        for number, listed in enumerate(client.keys(prefix=b"key-", rate=100_000)):
            found.append(listed.key)
            if number % 10 == 0:
                writer.put(b"other-%d" % number, b"v")
        assert len(found) == len(wanted)
        assert set(found) == wanted


def test_an_agent_that_is_no_owner_or_has_no_cluster_lists_nothing(tmp_path: Path) -> None:
    lone = RealAgent(tmp_path / "lone", "lone", free_ports(1)[0])
    with RealCluster(tmp_path, 4, partitions=8) as cluster, cluster.client() as client:
        ring = client.ring()
        stranger = next(m for m in ring.members if m.id not in ring.lists[3])
        with pytest.raises(BadRequest, match="is not of this agent"):
            client.ask(stranger.address, List(3))
        with pytest.raises(BadRequest, match="not in partition 3"):
            client.ask(_address(client, ring.lists[3][0]), List(3, b"\0" * 16 + b"k"))
        lone.start()
        lone.wait_log("agent.ready")
        try:
            for message in (List(0), Inspect(b"k")):
                with pytest.raises(NotReady):
                    client.ask(lone.address, message)
        finally:
            lone.kill()


def _address(client: Client, node: str) -> str:
    return next(member.address for member in client.ring().members if member.id == node)


def test_a_page_and_a_copy_come_over_the_wire_as_they_are(cluster: RealCluster) -> None:
    with cluster.client() as client:
        client.put(b"k", b"value", w=3)
        ring = client.ring()
        partition = ring.partition_of(token_of(b"k"))
        copies = []
        for member in ring.members:
            page = client.ask(member.address, List(partition, look_max=limits.LISTING_ROWS_MAX))
            assert isinstance(page, ListReply)
            assert [row[0] for row in page.rows] == [b"k"]
            copy = client.ask(member.address, Inspect(b"k"))
            assert isinstance(copy, InspectReply)
            assert (copy.sizes, copy.clock, copy.dots) == ([5], page.rows[0][1], page.rows[0][2])
            copies.append(copy.digest)
        assert len(set(copies)) == 1
