"""Gossip among 5 to 200 nodes: how many rounds, and how many bytes (benchmarks/gossip.py)."""

from __future__ import annotations

import pytest

from benchmarks.gossip import (
    IDLE_BYTES_PER_S_MAX,
    LOSS,
    SIZES,
    converge,
    idle_bytes_per_s,
    rounds_max,
)


@pytest.mark.parametrize("loss", [0.0, LOSS])
@pytest.mark.parametrize("nodes", SIZES)
def test_all_know_all_and_then_a_change_within_so_many_times_log_s_rounds(
    nodes: int, loss: float
) -> None:
    for seed in range(3 if nodes <= 50 else 1):
        rounds = converge(nodes, loss=loss, seed=seed)
        print(f"{nodes} nodes, {loss:.0%} lost: {rounds}")
        assert rounds.start <= rounds_max("start", nodes, loss=loss)
        assert rounds.change <= rounds_max("change", nodes, loss=loss)


def test_a_change_is_known_to_a_hundred_nodes_within_ten_rounds() -> None:
    assert rounds_max("change", 100, loss=0.0) <= 10
    assert converge(100, loss=0.0, seed=7).change <= 10


@pytest.mark.parametrize("nodes", [5, 100])
def test_idle_gossip_costs_less_than_2_kib_a_second(nodes: int) -> None:
    cost = idle_bytes_per_s(nodes, rounds=10)
    print(f"{nodes} nodes: {cost:.0f} bytes per node and second")
    assert 0 < cost <= IDLE_BYTES_PER_S_MAX
