"""Real agents: starting, stopping, dying, and what they say to bad input. Loopback only."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynagent.client.blocking import Client, Connection
from dynagent.client.bootstrap import bootstrap, status_of
from dynagent.core.encoding import encode
from dynagent.core.messages import ROLE_PEER, Error, Get, Hello, LogReply, Merge
from dynagent.errors import (
    BadRequest,
    ConnectionLost,
    DynagentError,
    NotReady,
    QuorumNotMet,
    Refused,
    TooLarge,
    UnknownEntry,
    Unreachable,
    WrongCluster,
)
from dynagent.wire.codec import encode_frame
from tests.real.cluster import ROOT, RealAgent, RealCluster, free_ports, wait_for

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with RealCluster(tmp_path_factory.mktemp("cluster"), 3) as running:
        yield running


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[RealAgent]:
    """One fresh agent that belongs to no cluster."""
    agent = RealAgent(tmp_path / "lone", "lone", free_ports(1)[0])
    agent.start()
    agent.wait_log("agent.ready")
    yield agent
    if agent.process is not None:
        agent.kill()


def run_agent(*flags: str) -> subprocess.CompletedProcess[str]:
    """An agent that is expected to refuse to start."""
    return subprocess.run(
        [sys.executable, "-m", "dynagent.main", "run", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


# --- life ----------------------------------------------------------------------------------------


def test_everything_acknowledged_survives_a_kill_of_all_agents(tmp_path: Path) -> None:
    with RealCluster(tmp_path, 3) as cluster:
        with cluster.client() as client:
            for number in range(50):
                client.put(b"key-%d" % number, b"value-%d" % number)
        for agent in cluster.agents:
            assert agent.kill() == -signal.SIGKILL
        cluster.start()
        cluster.wait_ready()
        with cluster.client() as client:
            for number in range(50):
                (version,) = client.get(b"key-%d" % number).versions
                assert version.value == b"value-%d" % number


def test_with_one_of_three_agents_gone_reads_and_writes_go_on(tmp_path: Path) -> None:
    with RealCluster(tmp_path, 3) as cluster, cluster.client() as client:
        client.put(b"k", b"before")
        for agent in cluster.agents:
            agent.kill()
            client.put(b"k", b"without " + agent.name.encode())
            assert [v.value for v in client.get(b"k").versions] == [
                b"without " + agent.name.encode()
            ]
            agent.start()
            cluster.start()
            cluster.wait_ready()


def test_with_two_of_three_agents_gone_requests_are_refused_definitely(tmp_path: Path) -> None:
    with RealCluster(tmp_path, 3) as cluster, cluster.client(timeout_s=3) as client:
        client.put(b"k", b"v")
        cluster.agents[0].kill()
        cluster.agents[1].kill()
        wait_for(
            lambda: len(status_of(client, cluster.addresses[2])["up"]) == 1, "both to be missed"
        )
        with Client(cluster.addresses[2:], learn_ring=False) as survivor:
            with pytest.raises(QuorumNotMet, match="down: n1, n2"):
                survivor.get(b"k", strict=True)
            result = survivor.get(b"k")
            assert result.partial and result.versions[0].value == b"v"
            with pytest.raises(QuorumNotMet, match="W=2"):
                survivor.put(b"k", b"v2")


def test_any_of_five_agents_answers_for_any_key(tmp_path: Path) -> None:
    with RealCluster(tmp_path, 5) as cluster:
        for number, address in enumerate(cluster.addresses * 4):
            key = b"key-%d" % number
            other = cluster.addresses[(number + 2) % 5]
            with Client([address], learn_ring=False) as client:
                client.put(key, b"v")
            with Client([other], learn_ring=False) as client:
                assert [v.value for v in client.get(key).versions] == [b"v"]


def test_sigterm_drains_and_marks_the_stop_clean(lone: RealAgent) -> None:
    assert lone.stop() == 0
    assert "event=agent.stopped clean=True" in lone.log_text()
    lone.start()
    lone.wait_log("run=2")


def test_a_directory_in_use_is_refused_with_the_pid(lone: RealAgent) -> None:
    assert lone.process is not None
    refused = run_agent("--data-dir", str(lone.directory), "--listen", "127.0.0.1:0")
    assert refused.returncode == 1
    assert str(lone.process.pid) in refused.stderr
    assert refused.stderr.count("\n") == 1


# --- bootstrap -----------------------------------------------------------------------------------


def test_an_agent_without_a_cluster_says_so(lone: RealAgent) -> None:
    with (
        pytest.raises(NotReady, match="dynctl bootstrap"),
        Client([lone.address], learn_ring=False) as client,
    ):
        client.get(b"k")


def test_bootstrap_twice_with_the_same_agents_is_harmless(cluster: RealCluster) -> None:
    again = bootstrap(cluster.addresses, partitions=cluster.partitions)
    assert again.resumed
    assert again.ring == cluster.ring()


def test_bootstrap_refuses_an_agent_of_another_cluster(
    cluster: RealCluster, lone: RealAgent
) -> None:
    with pytest.raises(Refused, match="already belongs to cluster"):
        bootstrap([lone.address, *cluster.addresses[:2]])
    with Client([], learn_ring=False) as client:
        assert status_of(client, lone.address)["state"] == "fresh"  # nothing was changed


def test_bootstrap_refuses_too_few_hosts_and_impossible_quorums(lone: RealAgent) -> None:
    with pytest.raises(DynagentError, match="N=3"):
        bootstrap([lone.address])
    with pytest.raises(BadRequest, match="R=4"):
        bootstrap([lone.address], r=4)
    with pytest.raises(BadRequest, match="power of two"):
        bootstrap([lone.address], partitions=100)


def test_an_interrupted_bootstrap_is_finished_by_repeating_it(tmp_path: Path) -> None:
    agents = [
        RealAgent(tmp_path / f"n{place}", f"n{place}", port)
        for place, port in enumerate(free_ports(3))
    ]
    try:
        for agent in agents[:2]:
            agent.start()
        for agent in agents[:2]:
            agent.wait_log("agent.ready")
        first = bootstrap([agents[0].address, agents[1].address], n=2)
        agents[1].kill()
        agents[1].start()
        agents[1].wait_log("agent.ready", times=2)
        again = bootstrap([agents[0].address, agents[1].address], n=2)
        assert again.resumed and again.ring == first.ring
    finally:
        for agent in agents[:2]:
            if agent.process is not None:
                agent.kill()


# --- configuration and addresses -----------------------------------------------------------------


def test_a_port_in_use_is_one_clear_line(tmp_path: Path, cluster: RealCluster) -> None:
    refused = run_agent("--data-dir", str(tmp_path / "d"), "--listen", cluster.addresses[0])
    assert refused.returncode == 1
    assert "another process has it" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("died", [False, True])
def test_a_start_that_fails_leaves_a_store_that_starts(tmp_path: Path, died: bool) -> None:
    with (
        RealCluster(tmp_path, 3) as cluster,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        victim = cluster.agents[0]
        with cluster.client() as client:
            client.put(b"k", b"kept")
        for flag in ("--http", "--listen", "--cluster-id"):
            victim.kill() if died else victim.stop()
            value = "ab" * 16 if flag == "--cluster-id" else taken
            flags = ["--data-dir", str(victim.directory), "--listen", victim.address]
            assert run_agent(*flags, flag, value).returncode in (1, 2)
            victim.start()
            cluster.wait_ready()
        with cluster.client() as client:
            assert [version.value for version in client.get(b"k").versions] == [b"kept"]


def test_listening_beyond_loopback_needs_the_long_flag(tmp_path: Path) -> None:
    refused = run_agent("--data-dir", str(tmp_path / "d"), "--listen", "0.0.0.0:0")
    assert refused.returncode == 2
    assert "--insecure-bind" in refused.stderr
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("listen = [1", "not TOML"),
        ("data_dir = 5", "Expected `str`, got `int` - at `$.data_dir`"),
        ('data_dir = "x"\nlisten_on = "y"', "unknown field `listen_on`"),
        ('data_dir = "x"\nlisten = "nowhere:port"', "not an address"),
        ('data_dir = "x"\ncapacity = -1', "capacity"),
        ('data_dir = "x"\nlog_level = "loud"', "log_level"),
        ('data_dir = "x"\nengine = "foo"', "engine"),
        ('data_dir = "x"\ncluster_id = "short"', "32 hex digits"),
        ("", "no data directory; say --data-dir DIR"),
    ],
)
def test_a_corrupt_config_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "dynagent.toml"
    path.write_text(text, encoding="utf-8")
    refused = run_agent("--config", str(path))
    assert refused.returncode == 2
    assert says in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_config_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    refused = run_agent("--config", str(tmp_path / "none.toml"))
    assert refused.returncode == 2
    assert "No such file" in refused.stderr


def test_a_data_directory_that_cannot_be_written_is_one_clear_line() -> None:
    refused = run_agent("--data-dir", "/proc/dynagent", "--listen", "127.0.0.1:0")
    assert refused.returncode == 1
    assert "/proc/dynagent" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_data_directory_of_another_cluster_is_refused(tmp_path: Path) -> None:
    with RealCluster(tmp_path, 3) as cluster:
        cluster.stop()
        directory = str(cluster.agents[0].directory)
        refused = run_agent(
            *("--data-dir", directory, "--listen", "127.0.0.1:0", "--cluster-id", "ab" * 16)
        )
    assert refused.returncode == 2
    assert "belongs to cluster" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_an_agent_of_another_cluster_at_a_peers_address_is_not_talked_to(tmp_path: Path) -> None:
    with RealCluster(tmp_path / "one", 3) as one, RealCluster(tmp_path / "two", 3) as two:
        with one.client() as client:
            client.put(b"k", b"one's")
        victim = one.agents[2]
        victim.stop()
        two.agents[2].stop()
        impostor = RealAgent(
            two.agents[2].directory, "impostor", int(victim.address.rpartition(":")[2])
        )
        impostor.start()
        try:
            one.agents[0].wait_log("met one of")
            with one.client() as client:
                assert [v.value for v in client.get(b"k").versions] == [b"one's"]
                client.put(b"k", b"again")
                up = status_of(client, one.addresses[0])["up"]
            assert len(up) == 2
        finally:
            impostor.kill()


def test_listening_everywhere_needs_an_address_for_others(tmp_path: Path) -> None:
    refused = run_agent(
        *("--data-dir", str(tmp_path / "d"), "--listen", "0.0.0.0:0", "--insecure-bind")
    )
    assert refused.returncode == 2
    assert "--advertise" in refused.stderr


def test_sighup_reads_the_log_level_again_and_survives_a_broken_file(tmp_path: Path) -> None:
    config = tmp_path / "dynagent.toml"
    config.write_text('log_level = "info"', encoding="utf-8")
    agent = RealAgent(tmp_path / "a", "a", free_ports(1)[0], "--config", str(config))
    agent.start()
    try:
        agent.wait_log("agent.ready")
        assert agent.process is not None
        config.write_text('log_level = "debug"', encoding="utf-8")
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_log("log_level=debug")
        config.write_text("log_level =", encoding="utf-8")
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_log("config.refused")
        assert agent.stop() == 0
    finally:
        if agent.process is not None:
            agent.kill()


# --- strangers on the port -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\0\0\0\2\xff\xff", b"\0\0\0\1\x00" * 3],
)
def test_garbage_closes_that_connection_and_harms_nobody(cluster: RealCluster, data: bytes) -> None:
    host, port = cluster.addresses[0].split(":")
    with Client(cluster.addresses) as innocent:
        innocent.put(b"k", b"v")
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.sendall(data)
            answer = b""
            while chunk := stranger.recv(4096):
                answer += chunk
        assert answer  # it was told why
        assert [v.value for v in innocent.get(b"k").versions] == [b"v"]
    assert "link.refused" in cluster.agents[0].log_text()


def test_a_frame_that_lies_about_its_fields_closes_that_connection(cluster: RealCluster) -> None:
    connection = Connection(cluster.addresses[0], timeout_s=5)
    connection.request(Get(b"k"), timeout_s=5)
    bad = bytearray(encode_frame(Get(b"kk", r=1), request_id=9, budget_ms=1))
    bad[-3] = 0xFF  # a CBOR break where R should be
    connection._socket.sendall(bad)
    with pytest.raises(DynagentError):
        connection.request(Get(b"k"), timeout_s=5)
    assert not connection.is_open


def test_an_entry_of_the_ring_log_of_a_later_release_stops_an_agent(tmp_path: Path) -> None:
    with RealCluster(tmp_path, 3) as cluster:
        ring, victim = cluster.ring(), cluster.agents[2]
        peer_id, boot_id, room = ring.members[0].id, b"b" * 8, 1 << 20
        hello = Hello(1, 1, ROLE_PEER, ring.cluster_id, peer_id, boot_id, [], room, 0)
        index = ring.epoch + 1
        later = LogReply(index, index, [encode([99, 0, "n1", "news"])])
        host, port = victim.address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as peer:
            peer.sendall(encode_frame(hello, request_id=0, budget_ms=0))
            peer.sendall(encode_frame(later, request_id=1, budget_ms=1_000))
            assert victim.wait_exit() == UnknownEntry.exit_status
        assert (
            "an entry of kind 99, which this agent does not know; upgrade it"
            in (victim.log_text().splitlines()[-1])
        )
        with cluster.client() as client:
            client.put(b"k", b"the others go on")


def test_a_client_may_not_speak_as_a_peer(cluster: RealCluster) -> None:
    connection = Connection(cluster.addresses[0], timeout_s=5)
    with pytest.raises(BadRequest, match="for peers only"):
        connection.request(Merge(1, 2, 0, []), timeout_s=5)
    connection.close()


def test_an_unknown_message_is_answered_not_punished(cluster: RealCluster) -> None:
    connection = Connection(cluster.addresses[0], timeout_s=5)
    body = b"\x84\x18\xf0\x01\x00\xf6"  # [240, 1, 0, null]
    connection._socket.sendall(connection._session.hello() + len(body).to_bytes(4, "big") + body)
    connection._last_id = 1
    reply = connection._receive(time.monotonic() + 5)
    assert isinstance(reply, Error) and "unknown message 240" in reply.text
    connection.close()


# --- limits of keys and values -------------------------------------------------------------------


def test_keys_and_values_over_their_limits_are_refused_by_name(cluster: RealCluster) -> None:
    with cluster.client() as client:
        with pytest.raises(BadRequest, match="the key is empty"):
            client.put(b"", b"v")
        with pytest.raises(TooLarge, match="1,025 bytes"):
            client.put(b"k" * 1_025, b"v")
        with pytest.raises(TooLarge, match="1,048,577 bytes"):
            client.put(b"k", b"v" * 1_048_577)
        with pytest.raises(BadRequest, match="N=3"):
            client.get(b"k", r=4)
        client.put(b"k" * 1_024, b"v" * 1_048_576)
        (version,) = client.get(b"k" * 1_024).versions
        assert version.value == b"v" * 1_048_576


def test_an_unknown_agent_is_unreachable_within_the_connect_time_out() -> None:
    with (
        pytest.raises(Unreachable),
        Client([f"127.0.0.1:{free_ports(1)[0]}"], learn_ring=False) as client,
    ):
        client.get(b"k")


def test_a_port_where_something_else_listens_is_no_agent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        connection = Connection(address, timeout_s=5)
        other, _ = server.accept()
        other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(Unreachable, match="is no agent"):
            connection.request(Get(b"k"), timeout_s=5)
        other.close()


def test_an_agent_that_goes_silent_is_an_indefinite_loss() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = Connection(f"127.0.0.1:{server.getsockname()[1]}", timeout_s=5)
        with pytest.raises(ConnectionLost, match="no answer in time"):
            connection.request(Get(b"k"), timeout_s=0.2)
        assert not connection.is_open


def test_a_client_that_demands_another_cluster_is_told(cluster: RealCluster) -> None:
    with (
        Client(cluster.addresses, learn_ring=False, cluster_id=b"x" * 16) as client,
        pytest.raises(WrongCluster, match="asked for cluster 7878"),
    ):
        client.get(b"k")
