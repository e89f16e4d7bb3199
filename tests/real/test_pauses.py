"""One of three agents hangs under load (a pause of its machine, of a collector, of a debugger)."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

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
