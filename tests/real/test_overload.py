"""Clients that ask for more than their share, and requests that nobody waits for any more."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynagent.address import parse_address
from dynagent.client.bootstrap import status_of
from dynagent.client.requests import new_session
from dynagent.core.admission import EXPIRED
from dynagent.core.messages import MODE_BLIND, Error, Put
from dynagent.errors import Overloaded
from dynagent.wire.codec import encode_frame
from tests.real.cluster import RealCluster, wait_for
from tests.real.hostile import Greedy

pytestmark = pytest.mark.real
GETS = 30_000
STOPPED_S = 3.0  # over a budget of 1 s, and over the second until an idle agent notices it
KEY = b"key"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RealCluster]:
    with RealCluster(tmp_path, 3) as made:
        yield made


def refused(cluster: RealCluster, reason: str) -> int:
    """How many requests the first agent has refused for that."""
    with cluster.client() as client:
        status = status_of(client, cluster.agents[0].address)
    return int(status["admission"]["refused"][reason])


def test_who_sends_thousands_of_gets_at_once_waits_for_itself_and_not_others_for_it(
    cluster: RealCluster,
) -> None:
    agent = cluster.agents[0]
    with cluster.client() as client:
        client.put(KEY, b"value")
        with Greedy(agent, KEY, GETS) as greedy:
            wait_for(lambda: greedy.answered > 0, "the first of its answers")
            for _ in range(20):
                assert client.get(KEY).versions[0].value == b"value"
            assert greedy.answered < GETS / 2  # each of the 20 has waited for some of them only
            wait_for(lambda: greedy.answered == GETS, "all of its answers")
    assert refused(cluster, "waiting") == 0


def test_what_an_agent_reads_too_late_it_does_not_execute(cluster: RealCluster) -> None:
    agent = cluster.agents[0]
    session = new_session(b"", wall_ms=0)
    put = Put(KEY, b"late", MODE_BLIND, b"", bytes(16))
    with socket.create_connection(parse_address(agent.address), timeout=20) as sock:
        sock.sendall(session.hello())
        assert session.receive(sock.recv(4096)) == []
        agent.send(signal.SIGSTOP)
        sock.sendall(encode_frame(put, request_id=1, budget_ms=1_000))
        time.sleep(STOPPED_S)
        agent.send(signal.SIGCONT)
        [frame] = session.receive(sock.recv(4096))
    assert isinstance(frame.message, Error) and frame.message.error == Overloaded.code
    cluster.wait_ready()
    with cluster.client() as client:
        assert client.get(KEY).versions == []
    assert refused(cluster, EXPIRED) == 1
