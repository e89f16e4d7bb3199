"""Networks that fail in one direction, by chance, or with resets, under load; and then heal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.cluster import RealCluster
from tests.real.load import OK, Load
from tests.real.namespaces import DROP, RESET, Network, loss, namespace_cluster, why_not
from tests.real.replicas import missing, present
from tests.real.shapes import Shape, between

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]
FAULT_S = 4.0


@pytest.fixture
def net(tmp_path: Path) -> Iterator[tuple[RealCluster, Network]]:
    with namespace_cluster(tmp_path, 3) as made:
        yield made


def load_through_a_fault(
    cluster: RealCluster, network: Network, shape: Shape, action: tuple[str, ...]
) -> list[Load]:
    """A load from the namespace of each node while the rule is in force; all must be answered, and
    afterwards nothing is lost and nothing is there that was refused."""
    loads = [
        Load(
            [agent.address],
            prefix=agent.name.encode(),
            writers=3,
            read_share=0.3,
            learn_ring=False,
            timeout_s=3.0,
            via=(network, agent.name),
        )
        for agent in cluster.agents
    ]
    network.rule(shape, action)
    for load in loads:
        load.__enter__()
    try:
        time.sleep(FAULT_S)
    finally:
        for load in loads:
            load.stop()
    network.heal()
    cluster.wait_ready()
    for load in loads:
        assert load.wrong == []
        assert missing(cluster, load.acknowledged) == set()
        assert present(cluster, load.refused) == []
    with Load(cluster.addresses, prefix=b"after", read_share=0.3) as after:
        time.sleep(1.0)
    assert set(after.outcomes) == {OK}
    return loads


def test_an_agent_that_is_heard_by_nobody_loses_nothing(
    net: tuple[RealCluster, Network],
) -> None:
    cluster, network = net
    muted = frozenset({("n1", "n2"), ("n1", "n3")})
    loads = load_through_a_fault(cluster, network, muted, DROP)
    for load in loads[1:]:
        assert set(load.outcomes) == {OK}


def test_an_agent_that_is_cut_off_refuses_and_the_other_two_go_on(
    net: tuple[RealCluster, Network],
) -> None:
    cluster, network = net
    alone, *others = load_through_a_fault(cluster, network, between(["n1"], ["n2", "n3"]), DROP)
    assert alone.acknowledged == {}
    for load in others:
        assert set(load.outcomes) == {OK}


def test_with_a_tenth_of_all_packets_lost_requests_are_answered(
    net: tuple[RealCluster, Network],
) -> None:
    cluster, network = net
    everybody = between(network.nodes, network.nodes)
    for load in load_through_a_fault(cluster, network, everybody, loss(0.1)):
        assert load.outcomes[OK] >= 0.95 * len(load.samples)


def test_resets_between_two_agents_cost_no_request_at_the_third(
    net: tuple[RealCluster, Network],
) -> None:
    cluster, network = net
    loads = load_through_a_fault(cluster, network, between(["n1"], ["n2"]), RESET)
    assert set(loads[2].outcomes) == {OK}
    for load in loads[:2]:
        assert load.outcomes[OK] >= 0.9 * len(load.samples)
