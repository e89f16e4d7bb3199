"""A store is an identity: what real agents do whose store is not what it was (design §6)."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynagent.client.blocking import Client
from dynagent.client.bootstrap import status_of
from dynagent.core.messages import RingReply, RingRequest
from dynagent.core.ring import Ring
from dynagent.core.ringcodec import decode_ring
from dynagent.errors import DynagentError
from tests.real.cluster import RealAgent, RealCluster, free_ports, wait_for

pytestmark = pytest.mark.real


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RealCluster]:
    with RealCluster(tmp_path, 3) as running:
        yield running


def ring_at(agent: RealAgent) -> Ring | None:
    """The ring that an agent has by now."""
    try:
        with Client([agent.address], learn_ring=False) as client:
            reply = client.ask(agent.address, RingRequest())
    except DynagentError:
        return None
    return decode_ring(reply.ring) if isinstance(reply, RingReply) else None


def state_of(agent: RealAgent) -> str:
    try:
        with Client([agent.address], learn_ring=False) as client:
            return str(status_of(client, agent.address)["state"])
    except DynagentError:
        return "no answer"


def snapshot(agent: RealAgent, to: Path) -> Path:
    """A copy of the data directory of an agent."""
    shutil.copytree(agent.directory, to)
    return to


def put_back(agent: RealAgent, copy: Path) -> None:
    shutil.rmtree(agent.directory)
    shutil.copytree(copy, agent.directory)


def with_seeds(agent: RealAgent, cluster: RealCluster) -> None:
    others = [other.address for other in cluster.agents if other is not agent]
    agent.flags = ("--seeds", ",".join(others))


def has_replaced(cluster: RealCluster, agent: RealAgent, old: str) -> bool:
    """Everybody has a ring in which another node has that agent's name and place."""
    rings = [ring_at(one) for one in cluster.agents]
    for ring in rings:
        if ring is None:
            return False
        staying = [m for m in ring.members if m.id not in ring.removed]
        new = next((m for m in staying if m.name == agent.name), None)
        if new is None or new.id == old or new.address != agent.address:
            return False
        is_named = any(new.id in ring.all_owners(p) for p in ring.moves) or any(
            new.id in owners for owners in ring.lists
        )
        if not is_named:
            return False
    return True


def is_settled(cluster: RealCluster, old: str) -> bool:
    """Everybody knows that the change is over, and that the old node is no member."""
    rings = [ring_at(one) for one in cluster.agents]
    return all(
        ring is not None and ring.change is None and all(m.id != old for m in ring.members)
        for ring in rings
    )


def id_of(cluster: RealCluster, agent: RealAgent) -> str:
    ring = ring_at(agent)
    assert ring is not None
    return next(str(m.id) for m in ring.members if m.name == agent.name)


# --- the store that it was ------------------------------------------------------------------------


def test_a_whole_cluster_starts_in_any_order_and_serves(cluster: RealCluster) -> None:
    for agent in cluster.agents:
        agent.stop()
    one, *others = cluster.agents
    one.start()
    wait_for(lambda: state_of(one) == "starting", "the first one to say that it is starting")
    with Client([one.address], learn_ring=False) as client:
        registration = status_of(client, one.address)["registration"]
    assert (registration["recorded"], registration["needed"]) == (1, 2)
    assert set(registration["missing"].values()) == {"unreachable"}
    for agent in others:
        agent.start()
    cluster.wait_ready()


def test_a_node_at_another_address_is_found_again(cluster: RealCluster) -> None:
    moved = cluster.agents[2]
    moved.stop()
    [port] = free_ports(1)
    moved.address = f"127.0.0.1:{port}"
    moved.start()

    def is_known() -> bool:
        rings = [ring_at(agent) for agent in cluster.agents]
        return all(
            ring is not None and any(m.address == moved.address for m in ring.members)
            for ring in rings
        )

    wait_for(is_known, "the new address to be in everybody's ring")
    cluster.wait_ready()  # the others have a link to it there
    with cluster.client() as client:
        client.put(b"k", b"v", w=3, strict=True)


# --- a store that it was not ----------------------------------------------------------------------


def test_a_copy_of_a_store_is_refused_beside_its_original(
    cluster: RealCluster, tmp_path: Path
) -> None:
    original = cluster.agents[0]
    original.stop()
    copy = snapshot(original, tmp_path / "copy")
    original.start()
    cluster.wait_ready()
    twin = RealAgent(copy, original.name, free_ports(1)[0])
    for _ in range(3):  # its run number is the higher one soon
        twin.start()
        assert twin.wait_exit() == 10
    assert f"is a copy of the store of node {id_of(cluster, original)}" in twin.log_text()
    assert f"which runs at {original.address}" in twin.log_text()
    assert state_of(original) == "serving"


def test_a_copy_of_a_store_that_runs_is_refused_too(cluster: RealCluster, tmp_path: Path) -> None:
    """Its past is that of the original; but the voters have a link to that one."""
    original = cluster.agents[0]
    twin = RealAgent(snapshot(original, tmp_path / "copy"), original.name, free_ports(1)[0])
    twin.start()
    assert twin.wait_exit() == 10
    assert f"which runs at {original.address}" in twin.log_text()
    assert state_of(original) == "serving"


def test_an_old_backup_is_refused_and_says_what_to_do(cluster: RealCluster, tmp_path: Path) -> None:
    agent = cluster.agents[1]
    agent.stop()
    backup = snapshot(agent, tmp_path / "backup")
    agent.start()
    cluster.wait_ready()
    agent.stop()
    put_back(agent, backup)
    agent.start()
    assert agent.wait_exit() == 10
    assert "is not the store that node" in agent.log_text()
    assert "dynctl replace" in agent.log_text()


def test_an_old_backup_with_seeds_is_set_aside_and_its_place_taken(
    cluster: RealCluster, tmp_path: Path
) -> None:
    agent = cluster.agents[1]
    agent.stop()
    backup = snapshot(agent, tmp_path / "backup")
    agent.start()
    cluster.wait_ready()
    old = id_of(cluster, agent)
    agent.stop()
    put_back(agent, backup)
    with_seeds(agent, cluster)
    agent.start()
    agent.wait_log("store.set_aside")
    wait_for(lambda: has_replaced(cluster, agent, old), "the old backup to be replaced")
    assert (agent.directory / f"set-aside-{old}" / "store.sqlite").exists()
    assert (agent.directory / f"set-aside-{old}" / "identity").exists()


def test_a_damaged_log_with_seeds_is_set_aside_and_its_place_taken(cluster: RealCluster) -> None:
    agent = cluster.agents[1]
    with cluster.client() as client:
        for number in range(200):
            client.put(b"key-%d" % number, b"value")
    old = id_of(cluster, agent)
    agent.kill()
    log = agent.directory / "store.sqlite-wal"
    data = bytearray(log.read_bytes())
    data[len(data) // 3] ^= 1
    log.write_bytes(data)
    with_seeds(agent, cluster)
    agent.start()
    agent.wait_log("store.set_aside")
    assert "damaged at byte" in agent.log_text()
    wait_for(lambda: has_replaced(cluster, agent, old), "the damaged store to be replaced")


def test_a_wiped_disk_with_seeds_takes_its_own_place(cluster: RealCluster) -> None:
    agent = cluster.agents[1]
    old = id_of(cluster, agent)
    with cluster.client() as client:
        for number in range(50):
            client.put(b"key-%d" % number, b"value-%d" % number)
    agent.kill()
    shutil.rmtree(agent.directory)
    with_seeds(agent, cluster)
    agent.start()
    wait_for(lambda: has_replaced(cluster, agent, old), "the wiped node to be replaced")
    wait_for(lambda: is_settled(cluster, old), "the change to be settled")
    with cluster.client() as client:
        for number in range(50):
            (version,) = client.get(b"key-%d" % number, r=3, strict=True).versions
            assert version.value == b"value-%d" % number


def test_a_wiped_disk_without_seeds_waits_for_an_operator(cluster: RealCluster) -> None:
    agent = cluster.agents[1]
    agent.kill()
    shutil.rmtree(agent.directory)
    agent.start()
    wait_for(lambda: state_of(agent) == "fresh", "the new store to say that it is fresh")
    cluster.agents[0].wait_log(f"answers at {agent.address}, where the ring has {agent.name}")


def test_a_fresh_agent_of_another_name_is_told_how_to_join(
    cluster: RealCluster, tmp_path: Path
) -> None:
    fresh = RealAgent(tmp_path / "n9", "n9", free_ports(1)[0])
    with_seeds(fresh, cluster)
    fresh.start()
    try:
        fresh.wait_log("entrance.refused")
        assert "no member of this cluster is named n9" in fresh.log_text()
        assert f"dynctl join {fresh.address}" in fresh.log_text()
    finally:
        fresh.kill()


def test_a_second_agent_of_a_name_that_is_up_is_refused(
    cluster: RealCluster, tmp_path: Path
) -> None:
    double = RealAgent(tmp_path / "double", "n2", free_ports(1)[0])
    with_seeds(double, cluster)
    double.start()
    try:
        double.wait_log("entrance.refused")
        assert "is up at" in double.log_text() and "give this agent another name" in (
            double.log_text()
        )
        assert state_of(double) == "fresh"
    finally:
        double.kill()


# --- two clusters ---------------------------------------------------------------------------------


def test_agents_of_two_clusters_with_swapped_addresses_exchange_nothing(tmp_path: Path) -> None:
    with RealCluster(tmp_path / "one", 3) as one, RealCluster(tmp_path / "two", 3) as two:
        ours, theirs = one.agents[2], two.agents[2]
        our_ring, their_ring = ring_at(ours), ring_at(theirs)
        assert our_ring is not None and their_ring is not None
        with one.client() as client:
            client.put(b"k", b"one")
        for agent in (ours, theirs):
            agent.stop()
        for agent in (ours, theirs):  # as if the ports were forwarded to the wrong machines
            agent.flags = ("--advertise", agent.address)
        ours.address, theirs.address = theirs.address, ours.address
        for agent in (ours, theirs):
            agent.start()
        asked = f"asked for cluster {our_ring.cluster_id.hex()}"
        met = f"{asked}, met one of {their_ring.cluster_id.hex()}"
        one.agents[0].wait_log(f"{theirs.address}: {met}")
        theirs.wait_log("link.refused")
        assert met in theirs.log_text()
        with two.client() as client:
            assert not client.get(b"k").versions
        # Each still reaches its own cluster from where it is.
        wait_for(lambda: state_of(ours) == state_of(theirs) == "serving", "both to be registered")


def test_a_stranger_at_a_members_address_is_named(cluster: RealCluster, tmp_path: Path) -> None:
    agent = cluster.agents[2]
    agent.stop()
    port = int(agent.address.rpartition(":")[2])
    stranger = RealAgent(tmp_path / "stranger", "stranger", port)
    stranger.start()
    try:
        stranger.wait_log("agent.ready")
        text = f"answers at {agent.address}, where the ring has {agent.name}"
        cluster.agents[0].wait_log(text)
    finally:
        stranger.kill()
    with socket.socket() as probe:
        probe.settimeout(1)
        assert probe.connect_ex(("127.0.0.1", port)) != 0
