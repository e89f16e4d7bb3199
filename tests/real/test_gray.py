"""Peers that look well and are not, slow networks, and connections of which one end is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.chaos import ProxiedCluster
from tests.real.load import OK, Load
from tests.real.replicas import missing, present

pytestmark = pytest.mark.real
FAULT_S = 4.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ProxiedCluster]:
    with ProxiedCluster(tmp_path, 3) as made:
        yield made


def new_load(cluster: ProxiedCluster, places: slice = slice(None), prefix: bytes = b"load") -> Load:
    """Straight to the agents in these places, not through the proxies."""
    addresses = cluster.addresses[places]
    return Load(addresses, read_share=0.4, learn_ring=False, prefix=prefix)


def check_afterwards(cluster: ProxiedCluster, load: Load) -> None:
    cluster.wait_ready()
    assert load.wrong == []
    assert missing(cluster, load.acknowledged) == set()
    assert present(cluster, load.refused) == []
    with new_load(cluster, prefix=b"after") as after:
        time.sleep(1.0)
    assert set(after.outcomes) == {OK}


def test_a_gray_peer_that_answers_pings_and_no_data_costs_no_request(
    cluster: ProxiedCluster,
) -> None:
    with new_load(cluster, slice(1, 3)) as load:
        time.sleep(0.5)
        cluster.proxies[0].is_gray = True
        time.sleep(FAULT_S)
        cluster.proxies[0].is_gray = False
        time.sleep(0.5)
    assert cluster.proxies[0].swallowed > 0
    assert set(load.outcomes) == {OK}
    check_afterwards(cluster, load)


def test_slow_and_uneven_ways_between_agents_cost_time_only(cluster: ProxiedCluster) -> None:
    for proxy in cluster.proxies:
        proxy.delay_s, proxy.jitter_s = 0.05, 0.1
    with new_load(cluster) as load:
        time.sleep(FAULT_S)
    for proxy in cluster.proxies:
        proxy.delay_s = proxy.jitter_s = 0.0
    assert set(load.outcomes) == {OK}
    check_afterwards(cluster, load)


def test_connections_whose_other_end_is_gone_without_notice_are_replaced(
    cluster: ProxiedCluster,
) -> None:
    with new_load(cluster) as load:
        time.sleep(0.5)
        cluster.proxies[0].deafen()
        time.sleep(FAULT_S)
    assert set(load.outcomes) == {OK}
    check_afterwards(cluster, load)


def test_resets_of_all_links_to_one_agent_after_the_other_cost_no_request(
    cluster: ProxiedCluster,
) -> None:
    with new_load(cluster) as load:
        for turn in range(6):
            time.sleep(FAULT_S / 6)
            cluster.proxies[turn % 3].reset()
    assert set(load.outcomes) == {OK}
    check_afterwards(cluster, load)
