"""The HTTP endpoint of real agents: what it tells, and what it makes of hostile clients."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from dynagent import limits
from dynagent.agent.http import HttpServer
from dynagent.client.blocking import Client
from dynagent.client.bootstrap import status_of
from dynagent.config import load
from dynagent.core.node import Node
from dynagent.errors import ConfigError
from dynagent.obs.metrics import METRICS, PROCESS_METRICS
from tests.agent.test_agent import run_agent
from tests.real.cluster import RealAgent, RealCluster, free_ports, wait_for

pytestmark = pytest.mark.real

HTTP = ("--http", "127.0.0.1:0")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with RealCluster(tmp_path_factory.mktemp("http"), 3, *HTTP) as running:
        yield running


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealAgent]:
    """An agent without a cluster."""
    directory = tmp_path_factory.mktemp("fresh") / "lone"
    agent = RealAgent(directory, "lone", free_ports(1)[0], *HTTP)
    agent.start()
    agent.wait_log("agent.ready")
    yield agent
    assert "http.crashed" not in agent.log_text()
    assert agent.stop() == 0


def place(agent: RealAgent) -> tuple[str, int]:
    """Where it serves HTTP; its log tells."""
    found = re.search(r"event=http.ready listen=(\S+):(\d+)", agent.log_text())
    assert found is not None
    return found[1], int(found[2])


def get(agent: RealAgent, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*place(agent), timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def say(agent: RealAgent, data: bytes) -> bytes:
    """Sends that and no more; what comes back until the agent closes."""
    with socket.create_connection(place(agent), timeout=10) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        found = b""
        while more := sock.recv(65_536):
            found += more
        return found


def metrics(agent: RealAgent) -> dict[tuple[str, str], float]:
    """(sample, its label `kind` if it has one) → value."""
    status, body = get(agent, "/metrics")
    assert status == 200
    return {
        (sample.name, sample.labels.get("kind", "")): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


# --- what it tells -------------------------------------------------------------------------------


def test_a_scrape_has_every_metric_of_the_table(cluster: RealCluster) -> None:
    with cluster.client() as client:
        client.put(b"k", b"v")
        with pytest.raises(Exception, match="empty"):
            client.get(b"")
    _, body = get(cluster.agents[0], "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    declared = [(metric.name, metric.kind) for metric in METRICS]
    for name, kind in declared + [(name, kind) for name, kind, _ in PROCESS_METRICS]:
        assert families.pop(name.removesuffix("_total")).type == kind, name
    assert families == {}


def test_metrics_count_what_happened(cluster: RealCluster) -> None:
    agent = cluster.agents[0]
    before = metrics(agent)
    with Client([agent.address], learn_ring=False) as client:
        for number in range(10):
            client.put(b"counted-%d" % number, b"v", w=3)
    after = metrics(agent)

    def grown(name: str, kind: str = "") -> float:
        return after[name, kind] - before.get((name, kind), 0)

    assert grown("dynagent_requests_total", "Put") == 10
    assert grown("dynagent_committed_records_total") == 10
    assert 1 <= grown("dynagent_commit_duration_seconds_count") <= 10
    assert grown("dynagent_commit_duration_seconds_sum") > 0
    assert after["dynagent_peers_up", ""] == after["dynagent_peers_known", ""] == 2
    assert after["dynagent_ring_epoch", ""] == 1
    assert after["dynagent_partitions_below_quorum", ""] == 0
    assert after["dynagent_store_bytes", ""] > 0
    assert 0 < after["dynagent_background_share", ""] <= 1
    assert after["dynagent_foreground_duration_seconds", ""] > 0
    assert after["dynagent_cpu_seconds_total", ""] > 0


def test_head_is_get_without_the_body(fresh: RealAgent) -> None:
    for path in ("/", "/metrics", "/healthz", "/readyz", "/nope"):
        assert get(fresh, path, "HEAD") == (get(fresh, path)[0], b"")


def test_a_query_is_no_part_of_the_path(fresh: RealAgent) -> None:
    assert get(fresh, "/healthz?verbose=1") == (200, b"ok\n")
    assert get(fresh, "/healthz/")[0] == 404


def test_one_connection_serves_many_requests(fresh: RealAgent) -> None:
    connection = http.client.HTTPConnection(*place(fresh), timeout=10)
    connection.connect()
    sock = connection.sock
    for _ in range(5):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok\n"
        assert connection.sock is sock
    connection.close()


def test_before_bootstrap_an_agent_is_alive_and_not_ready(fresh: RealAgent) -> None:
    assert get(fresh, "/healthz") == (200, b"ok\n")
    status, body = get(fresh, "/readyz")
    assert status == 503
    assert json.loads(body) == {"ready": False, "reason": "this agent belongs to no cluster yet"}


def test_an_agent_that_sees_too_few_owners_is_not_ready(tmp_path: Path) -> None:
    with RealCluster(tmp_path, 3, *HTTP) as cluster:
        first = cluster.agents[0]
        assert get(first, "/readyz") == (200, b'{"ready": true}\n')
        cluster.agents[1].kill()
        wait_for(lambda: metrics(first)["dynagent_peers_up", ""] == 1, "one to be missed")
        assert get(first, "/readyz")[0] == 200
        cluster.agents[2].kill()
        wait_for(lambda: get(first, "/readyz")[0] == 503, "the second to be missed")
        reason = json.loads(get(first, "/readyz")[1])["reason"]
        assert reason == "too few owners are reachable for 64 of 64 partitions"
        assert metrics(first)["dynagent_partitions_below_quorum", ""] == 64


def test_a_draining_agent_is_alive_and_not_ready(tmp_path: Path) -> None:
    with RealCluster(tmp_path, 3, *HTTP) as cluster:
        first, last = cluster.agents[0], cluster.agents[2]
        assert first.process is not None
        assert last.process is not None
        os.kill(last.process.pid, signal.SIGSTOP)

        def hang() -> None:
            with Client([first.address], learn_ring=False, timeout_s=60) as client:
                client.put(b"k", b"v", w=3)

        waits = threading.Thread(target=hang)
        waits.start()
        try:
            wait_for(lambda: metrics(first)["dynagent_operations_in_flight", ""] == 1, "the put")
            os.kill(first.process.pid, signal.SIGTERM)
            first.wait_log("agent.draining")
            wait_for(lambda: get(first, "/readyz")[0] == 503, "the drain to be told")
            assert b"this agent is stopping" in get(first, "/readyz")[1]
            assert get(first, "/healthz")[0] == 200
            assert metrics(first)["dynagent_serving", ""] == 0
        finally:
            os.kill(last.process.pid, signal.SIGCONT)
            waits.join()
        assert first.wait_exit() == 0


# --- hostile clients -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na=b", 405),
        (b"DELETE / HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na=b", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS greeting\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /" + b"a" * 2_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (b"GET /" + b"a" * 100_000, 414),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 8_300 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431),
    ],
)
def test_a_bad_request_is_answered_and_costs_its_connection(
    fresh: RealAgent, data: bytes, status: int
) -> None:
    answer = say(fresh, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1") == 1
    assert (b"\r\nAllow: GET, HEAD\r\n" in answer) == (status == 405)
    assert get(fresh, "/healthz")[0] == 200


def test_a_bad_request_behind_or_by_head_is_answered_too(fresh: RealAgent) -> None:
    head = b"HEAD /healthz HTTP/1.1\r\nHost: h\r\n"
    answer = say(fresh, head + b"Content-Length: 3\r\n\r\na=b")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"\r\n\r\n")
    answer = say(fresh, head + b"\r\nnonsense\r\n\r\n")
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]


def test_half_a_request_gets_no_answer(fresh: RealAgent) -> None:
    for part in (b"", b"G", b"GET / HTTP/1.1\r\nHo"):
        answer = say(fresh, part)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


def test_pipelined_requests_are_answered_in_their_order(fresh: RealAgent) -> None:
    ask = b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n"
    answer = say(fresh, ask % b"healthz" + ask % b"nope" + ask % b"readyz")
    codes = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert codes == [b"200", b"404", b"503"]


def test_an_old_client_gets_its_answer_and_the_end(fresh: RealAgent) -> None:
    assert say(fresh, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok\n")


def test_slow_clients_keep_nobody_out_and_cost_no_more_than_the_bound(fresh: RealAgent) -> None:
    assert fresh.process is not None
    open_files = Path(f"/proc/{fresh.process.pid}/fd")
    slow = []
    try:
        for _ in range(3 * limits.HTTP_CONNECTIONS_MAX):
            sock = socket.create_connection(place(fresh), timeout=10)
            sock.sendall(b"GET / HTTP/1.1\r\nHost:")
            slow.append(sock)
        assert get(fresh, "/healthz")[0] == 200
        wait_for(lambda: len(list(open_files.iterdir())) < 80, "surplus connections to be closed")
        assert slow[0].recv(1) == b""  # the one that had idled longest
    finally:
        for sock in slow:
            sock.close()


# --- in this process -----------------------------------------------------------------------------


async def ask(server: HttpServer, *requests: bytes) -> list[bytes]:
    """Serves while it sends each of these on a connection of its own; what comes back first."""
    host, _, port = (await server.listen("127.0.0.1:0")).rpartition(":")
    answers = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        for request in requests:
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(request)
                with trio.fail_after(30):
                    answers.append(bytes(await stream.receive_some()))
        nursery.cancel_scope.cancel()
    return answers


@pytest.mark.plain
def test_a_client_that_does_not_finish_its_head_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HTTP_IDLE_S_MAX", 0.01)
    server = HttpServer(Node.__new__(Node))
    assert trio.run(ask, server, b"GET / HT", b"") == [b"", b""]


@pytest.mark.plain
def test_a_page_that_crashes_is_a_500_and_the_server_goes_on() -> None:
    server = HttpServer(Node.__new__(Node))  # it has no state to tell
    paths = (b"/readyz", b"/metrics", b"/healthz")
    answers = trio.run(ask, server, *(b"GET %s HTTP/1.0\r\n\r\n" % path for path in paths))
    assert [answer[9:12] for answer in answers] == [b"500", b"500", b"200"]


# --- where it may listen -------------------------------------------------------------------------


def test_beyond_loopback_it_is_refused_unless_insisted(tmp_path: Path) -> None:
    knobs = {"data_dir": str(tmp_path), "http": "0.0.0.0:7412"}
    with pytest.raises(ConfigError, match=r"HTTP on 0\.0\.0\.0:7412.*--insecure-bind"):
        load(None, knobs)
    assert load(None, {**knobs, "insecure_bind": True}).http == "0.0.0.0:7412"
    with pytest.raises(ConfigError, match="not an address"):
        load(None, {**knobs, "http": "127.0.0.1:http"})


def test_an_address_in_use_stops_the_start_in_one_line(fresh: RealAgent, tmp_path: Path) -> None:
    words = ["--data-dir", str(tmp_path / "d"), "--listen", "127.0.0.1:0"]
    taken = "{}:{}".format(*place(fresh))
    refused = run_agent(*words, "--http", taken)
    assert refused.returncode == 1
    assert f"cannot serve HTTP on {taken}" in refused.stderr
    assert "--http" in refused.stderr.splitlines()[-1]


def test_without_an_address_nothing_is_served_or_loaded(tmp_path: Path) -> None:
    agent = RealAgent(tmp_path / "d", "lone", free_ports(1)[0])
    agent.start()
    agent.wait_log("agent.ready")
    with Client([agent.address], learn_ring=False) as client:
        assert status_of(client, agent.address)["http"] == ""
    assert agent.process is not None
    assert "http.ready" not in agent.log_text()
    assert "prometheus" not in Path(f"/proc/{agent.process.pid}/maps").read_text()
    assert agent.stop() == 0
