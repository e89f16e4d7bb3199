"""Agents that run out of descriptors or memory, and clients that want them to."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynagent import limits
from dynagent.client.blocking import Client
from tests.real.cluster import RealCluster, wait_for
from tests.real.hostile import (
    memory_cap,
    open_files,
    peak_kib,
    silent_connections,
    slow_readers,
    why_no_cap,
)
from tests.real.load import OK, Load
from tests.real.replicas import missing

pytestmark = pytest.mark.real
READERS, GETS = 3, 400  # of a value of 1 MiB: 1.2 GiB that nobody reads


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RealCluster]:
    with RealCluster(tmp_path, 3) as made:
        yield made


def test_without_descriptors_open_connections_are_served_and_new_ones_wait(
    cluster: RealCluster,
) -> None:
    agent = cluster.agents[0]
    assert agent.process is not None
    with Client([agent.address], learn_ring=False) as client, cluster.client() as later:
        client.put(b"key", b"before")
        room = open_files(agent) + 8
        resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (room, room))
        with silent_connections(agent, 100):
            wait_for(lambda: open_files(agent) >= room - 1, "the descriptors to be used up")
            before = agent.cpu_s()
            for number in range(200):
                client.put(b"key", b"%d" % number)
            assert client.get(b"key").versions[0].value == b"199"
            time.sleep(1.0)
            assert agent.cpu_s() - before < 1.0  # it does not spin on what it cannot accept
        later.put(b"key", b"after")
        assert later.get(b"key").versions[0].value == b"after"
        with Client([agent.address], learn_ring=False) as new:
            assert new.get(b"key").versions[0].value == b"after"
    cluster.wait_ready()


def test_clients_that_never_read_cost_bounded_memory_and_nobody_else_a_request(
    cluster: RealCluster,
) -> None:
    agent = cluster.agents[0]
    with cluster.client() as client:
        client.put(b"big", b"x" * limits.MIB)
    before = peak_kib(agent)
    with (
        slow_readers(agent, b"big", readers=READERS, gets=GETS),
        Load(cluster.addresses, read_share=0.5) as load,
    ):
        time.sleep(4.0)
    assert set(load.outcomes) == {OK}
    # An outbox is joined for sending, so it counts twice.
    bound = limits.REQUEST_BYTES_IN_FLIGHT_MAX + 2 * READERS * limits.OUTBOX_BYTES_MAX
    assert (peak_kib(agent) - before) * limits.KIB < bound
    assert agent.log_text().count("too slowly") <= READERS


@pytest.mark.skipif(bool(why_no_cap()), reason=why_no_cap())
def test_an_agent_that_is_killed_for_its_memory_loses_nothing(cluster: RealCluster) -> None:
    agent = cluster.agents[0]
    assert agent.process is not None
    with cluster.client() as client:
        client.put(b"big", b"x" * limits.MIB)
    cap = peak_kib(agent) * limits.KIB + 8 * limits.MIB
    with memory_cap(agent, cap), Load(cluster.addresses, read_share=0.5) as load:
        time.sleep(0.5)
        with slow_readers(agent, b"big", readers=READERS, gets=GETS):
            assert agent.wait_exit() == -9
            time.sleep(1.0)
    assert set(load.outcomes) == {OK}
    cluster.start()
    cluster.wait_ready()
    assert load.wrong == []
    assert missing(cluster, load.acknowledged) == set()
