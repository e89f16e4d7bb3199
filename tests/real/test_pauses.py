"""One of three agents hangs under load (a pause of its machine, of a collector, of a debugger)."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from dynagent.client.blocking import Client
from dynagent.core.ring import token_of
from tests.real.cluster import RealCluster
from tests.real.load import OK, Load
from tests.real.replicas import missing

pytestmark = pytest.mark.real
PAUSE_S = 6.0


def test_nobody_is_left_without_an_answer_while_an_agent_hangs(tmp_path: Path) -> None:
    with RealCluster(tmp_path, 3) as cluster:
        hung = cluster.agents[1]
        with Load(cluster.addresses, read_share=0.5) as load:
            time.sleep(1.0)
            hung.send(signal.SIGSTOP)
            time.sleep(PAUSE_S)
            hung.send(signal.SIGCONT)
            time.sleep(1.0)
        assert set(load.outcomes) == {OK}
        assert load.wrong == []
        cluster.wait_ready()
        assert missing(cluster, load.acknowledged) == set()
        with Load([hung.address], learn_ring=False) as again:
            time.sleep(0.5)
        assert set(again.outcomes) == {OK}


def test_a_client_waits_for_a_hung_agent_once_and_then_asks_others_first(tmp_path: Path) -> None:
    with RealCluster(tmp_path, 3) as cluster, Client(cluster.addresses, timeout_s=4.0) as client:
        ring = client.ring()
        hung = cluster.agents[1]
        first = {member.address: member.id for member in ring.members}[hung.address]
        keys = (b"key%d" % number for number in range(1_000))
        its = [key for key in keys if ring.lists[ring.partition_of(token_of(key))][0] == first][:20]
        hung.send(signal.SIGSTOP)
        try:
            asked = [client.put(key, b"v", trace=True).trace for key in its]
        finally:
            hung.send(signal.SIGCONT)
        waited = [trace for trace in asked if f"asks {hung.address}" in trace[0][2]]
    assert len(its) == 20
    assert len(waited) == 1
