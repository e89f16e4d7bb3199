"""How long a read waits before it asks the rest of the owners (decision 0006)."""

from __future__ import annotations

import pytest

from dynagent import limits
from dynagent.core.messages import Get, GetReply, Read
from tests.core.harness import IDS, KEY, Cluster, cluster, requests

A, B, C = IDS[:3]


def read(c: Cluster, *, takes_s: float) -> None:
    """A get at A whose owner takes that long to answer; nobody else is asked."""
    number = c.request(A, Get(KEY), budget_ms=10_000)
    [packet] = requests(c, Read)
    assert packet.target == B
    c.now += takes_s
    c.deliver(packet)
    c.deliver(c.wire[0])
    assert [type(reply) for sent, reply in c.answers if sent == number] == [GetReply]


def wait_s(c: Cluster) -> float:
    coordinator = c.nodes[A].coordinator
    assert coordinator is not None
    return coordinator.hedge_at(c.now) - c.now


def test_where_answers_are_fast_the_wait_is_the_least() -> None:
    c = cluster()
    for _ in range(50):
        read(c, takes_s=0.002)
    assert wait_s(c) == pytest.approx(limits.HEDGE_S)


def test_where_all_are_slow_reads_wait_longer_and_do_not_double_the_load() -> None:
    c = cluster()
    for _ in range(100):
        read(c, takes_s=0.1)
    assert wait_s(c) == pytest.approx(limits.HEDGE_FACTOR * 0.1, rel=0.01)
    for _ in range(100):
        read(c, takes_s=5.0)
    assert wait_s(c) == pytest.approx(limits.HEDGE_S_MAX)


def test_an_owner_that_hangs_costs_the_least_wait_each_time() -> None:
    c = cluster()
    for _ in range(50):
        number = c.request(A, Get(KEY), budget_ms=10_000)
        [to_b] = requests(c, Read)
        assert to_b.target == B
        c.wire.clear()  # it hangs
        c.tick(c.now + limits.HEDGE_S)
        [to_c] = requests(c, Read)
        assert to_c.target == C
        c.now += 0.002
        c.deliver(to_c)
        c.deliver(c.wire[0])
        assert [type(reply) for sent, reply in c.answers if sent == number] == [GetReply]
        assert wait_s(c) == pytest.approx(limits.HEDGE_S)
