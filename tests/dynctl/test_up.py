"""`up` and `down`, `bootstrap`, `health` and `wait`: real agents that start, die and come back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dynagent.store.datadir import read_lock_holder
from tests.dynctl.conftest import Cluster, Dynctl, free_port, start_cluster

pytestmark = pytest.mark.real


@contextmanager
def own_cluster(home: Path, nodes: int) -> Iterator[Cluster]:
    cluster = start_cluster(home, nodes)
    try:
        yield cluster
    finally:
        cluster("down", "--dir", str(cluster.directory))


def pid_of(cluster: Cluster, name: str) -> int:
    pid = read_lock_holder(cluster.directory / name)
    assert pid
    return pid


@contextmanager
def agents(home: Path, *hosts: str) -> Iterator[list[str]]:
    """Fresh agents, started by hand; yields their addresses."""
    processes, addresses = [], []
    for number, host in enumerate(hosts):
        address = f"127.0.0.1:{free_port()}"
        words = ["--data-dir", str(home / f"a{number}"), "--listen", address]
        command = [sys.executable, "-m", "dynagent.main", "run", *words, "--host", host]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path.cwd()))
        addresses.append(address)
    try:
        for process in processes:
            assert process.stderr is not None
            assert any(b"agent.ready" in line for line in iter(process.stderr.readline, b""))
        yield addresses
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.communicate(timeout=30)


# --- up and down ---------------------------------------------------------------------------------


def test_a_shell_evaluates_what_up_prints(cluster: Cluster) -> None:
    up = f"dynctl up --dir {cluster.directory}"
    script = f'dynctl() {{ "$PYTHON" -m dynctl "$@"; }}; eval "$({up})"; env'
    environment = cluster.environment | {"PYTHON": sys.executable, "XDG_STATE_HOME": "/nowhere"}
    environment["XDG_STATE_HOME"] = str(cluster.home / "other state")
    done = subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, timeout=60, check=True
    )
    assert f"DYNCTL_ENDPOINTS={','.join(cluster.endpoints)}\n" in done.stdout.decode()


def test_up_again_keeps_running_agents(cluster: Cluster) -> None:
    pids = [pid_of(cluster, f"local-{i}") for i in (1, 2, 3)]
    done = cluster("up", "--dir", str(cluster.directory))
    assert done.stdout.decode() == f"export DYNCTL_ENDPOINTS={','.join(cluster.endpoints)}\n"
    assert done.stderr.decode().count("was running") == 3
    assert [pid_of(cluster, f"local-{i}") for i in (1, 2, 3)] == pids


def test_up_with_another_shape_is_refused(cluster: Cluster) -> None:
    told = ["up", "--dir", str(cluster.directory)]
    assert "has 3 agents, not 2" in cluster.fails(10, *told, "--nodes", "2")
    assert "not on port 9" in cluster.fails(10, *told, "--port", "9")


def test_down_keeps_the_data_for_the_next_up(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 1) as cluster:
        directory = str(cluster.directory)
        cluster("put", "k", "durable")
        done = cluster("down", "--dir", directory)
        assert (done.stdout, done.stderr) == (b"", f"stopped: local-1 (in {directory})\n".encode())
        assert read_lock_holder(cluster.directory / "local-1") is None
        assert "no cluster is named" in cluster.fails(7, "get", "k")
        cluster("down", "--dir", directory)
        cluster("up", "--dir", directory)
        assert cluster("get", "k").stdout == b"durable"


def test_single_agents_are_stopped_killed_and_started_by_name(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 3) as cluster:
        directory = str(cluster.directory)
        others = [pid_of(cluster, "local-1"), pid_of(cluster, "local-3")]
        for how in ([], ["--kill"]):
            done = cluster("down", "local-2", "--dir", directory, *how)
            assert done.stderr == f"stopped: local-2 (in {directory})\n".encode()
            assert "local-2 is down" in cluster("health", status=8).stderr.decode()
            cluster("put", "k", "v")
            cluster("up", "local-2", "--dir", directory)
            cluster("wait", "ready", "--timeout", "20s")
        assert [pid_of(cluster, "local-1"), pid_of(cluster, "local-3")] == others
        assert "no local agent is called 'n7'" in cluster.fails(2, "up", "n7", "--dir", directory)
        assert "leave out --nodes" in cluster.fails(
            2, "up", "local-2", "--nodes", "4", "--dir", directory
        )
        words = ["down", "local-2", "--purge", "--dir", directory]
        assert "local-2 is a member, its data is a copy" in cluster.fails(10, *words)


def test_a_drained_node_leaves_clients_to_the_others_until_it_is_told_to_serve(
    cluster: Cluster,
) -> None:
    at = ["--endpoint", cluster.endpoints[1]]
    cluster("put", "drained", "v")
    cluster("node", "drain", "local-2")
    try:
        assert "drained; see: dynctl node drain --help" in cluster.fails(8, "get", "drained", *at)
        assert cluster("get", "drained").stdout == b"v"
        cluster("put", "drained", "w", "-w", "3")  # it is an owner all the same
        rows = cluster("node", "ls").stdout.decode().splitlines()
        assert [row.split("\t")[6] for row in rows] == ["serving", "draining", "serving"]
    finally:
        cluster("node", "drain", "local-2", "--undo")
    assert cluster("get", "drained", *at).stdout == b"w"
    cluster("wait", "ready")


def test_an_agent_that_was_killed_is_told_and_brought_back(tmp_path: Path) -> None:
    with own_cluster(tmp_path, 3) as cluster:
        os.kill(pid_of(cluster, "local-3"), signal.SIGKILL)
        while read_lock_holder(cluster.directory / "local-3") is not None:
            pass
        done = cluster("health", status=8)
        assert done.stderr.decode().startswith("dynctl: health: unhealthy: ")
        assert "local-3 is down" in done.stderr.decode()
        assert done.stderr.decode().rstrip().endswith("; all requests pass")
        assert b"\tno\tdown" in done.stdout.splitlines()[2]
        assert "local-3 is down" in cluster.fails(124, "wait", "ready", "--timeout", "300ms")
        row = cluster("node", "ls").stdout.decode().splitlines()[2].split("\t")
        assert row[6:8] == ["unknown", "down"]
        cluster("put", "k", "two of three")
        assert cluster("get", "k", "--endpoint", cluster.endpoints[2], *_also(cluster)).stdout
        line = cluster.fails(5, "put", "k", "v", "-w", "3")
        assert "quorum not met" in line
        assert "local-3" in line
        done = cluster("up", "--dir", str(cluster.directory))
        assert done.stderr.decode().count("was running") == 2
        cluster("health")
        cluster("wait", "ready")
        cluster("put", "k", "v", "-w", "3")


def _also(cluster: Cluster) -> list[str]:
    return ["--endpoint", cluster.endpoints[0]]


def test_a_put_that_misses_w_is_unknown_and_its_op_id_repeats_it(cluster: Cluster) -> None:
    pid = pid_of(cluster, "local-2")
    os.kill(pid, signal.SIGSTOP)
    try:
        words = ["put", "misses w", "v", "-w", "3", "--endpoint", cluster.endpoints[0]]
        line = cluster.fails(6, *words, "--timeout", "1s")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert line.startswith("dynctl: put: outcome unknown: 2 of 3 acknowledged (local-2 timed out)")
    op_id = line.rsplit("retry safely with --op-id ")[1].strip()
    cluster("wait", "ready")
    cluster(*words, "--op-id", op_id)
    assert cluster("get", "misses w").stdout == b"v"


def test_a_port_in_use_is_told_and_nothing_is_left(bare: Dynctl, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = bare.fails(
            1, "up", "--nodes", "1", "--port", str(port), "--dir", str(tmp_path / "d")
        )
    assert f"local-1 cannot listen on 127.0.0.1:{port}: Address already in use" in line
    assert "--port" in line
    assert list((tmp_path / "d").iterdir()) == []


def test_an_agent_that_dies_at_start_is_told_by_its_last_words(tmp_path: Path) -> None:
    cluster = start_cluster(tmp_path, 2)
    directory = str(cluster.directory)
    cluster("down", "--dir", directory)
    identity = cluster.directory / "local-2" / "identity"
    identity.write_bytes(bytes(len(identity.read_bytes())))
    line = cluster.fails(1, "up", "--dir", directory)
    assert line.startswith("dynctl: up: local-2 stopped with status 1: ")
    assert "identity" in line
    assert read_lock_holder(cluster.directory / "local-1") is None
    cluster("down", "--dir", directory, "--purge")


def test_data_of_another_cluster_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (start_cluster(tmp_path / name, 2) for name in ("one", "two"))
    for cluster in (one, two):
        cluster("down", "--dir", str(cluster.directory))
    shutil.rmtree(one.directory / "local-2")
    shutil.copytree(two.directory / "local-2", one.directory / "local-2")
    line = one.fails(10, "up", "--dir", str(one.directory))
    assert "data directories of different clusters" in line
    assert read_lock_holder(one.directory / "local-1") is None


def test_a_directory_that_is_not_ours_is_left_alone(bare: Dynctl, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    mine = str(tmp_path / "mine")
    assert "holds 'thesis.tex' and no cluster" in bare.fails(10, "up", "--dir", mine)
    assert "holds no cluster" in bare.fails(10, "down", "--dir", mine, "--purge")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"
    (tmp_path / "mine" / "cluster").write_text("format=1\n../mine=127.0.0.1:1\n")
    assert "not a name" in bare.fails(2, "down", "--dir", mine, "--purge")
    (tmp_path / "mine" / "cluster").write_text("format=1\nlocal-1=127.0.0.1:1\n")
    assert "also holds 'thesis.tex'" in bare.fails(10, "down", "--dir", mine, "--purge")


def test_a_file_in_place_of_the_directory_is_one_clear_line(bare: Dynctl, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "name another --dir" in bare.fails(1, "up", "--dir", str(tmp_path / "file"))


def test_down_where_nothing_is_succeeds(bare: Dynctl) -> None:
    done = bare("down")
    assert done.stdout == b""
    assert b"there is no cluster" in done.stderr


# --- bootstrap -----------------------------------------------------------------------------------


def test_bootstrap_makes_one_cluster_and_may_be_repeated(bare: Dynctl, tmp_path: Path) -> None:
    with agents(tmp_path, "h1", "h2", "h3") as addresses:
        bare.environment["DYNCTL_ENDPOINTS"] = ",".join(addresses)
        assert "belongs to no cluster yet" in bare.fails(8, "get", "k")
        assert "belongs to no cluster yet" in bare.fails(8, "health")
        done = bare("bootstrap", *addresses, "--partitions", "64", "-o", "jsonl")
        assert b'"partitions":64' in done.stdout
        assert b'"resumed":false' in done.stdout
        assert b'"resumed":true' in bare("bootstrap", *addresses, "-o", "jsonl").stdout
        bare("wait", "ready")
        bare("put", "k", "v")


def test_bootstrap_refuses_what_would_break_its_promise(
    cluster: Cluster, bare: Dynctl, tmp_path: Path
) -> None:
    with agents(tmp_path, "h1", "h1", "h2") as addresses:
        line = bare.fails(10, "bootstrap", *addresses)
        assert "host" in line
        line = bare.fails(10, "bootstrap", addresses[0], cluster.endpoints[0])
        assert "already belongs to cluster" in line
        line = bare.fails(7, "bootstrap", *addresses, f"127.0.0.1:{free_port()}")
        assert "Connection refused" in line
        bare("bootstrap", *addresses, "--allow-colocated")


# --- signals -------------------------------------------------------------------------------------


def test_an_interrupt_ends_a_wait_with_130(bare: Dynctl) -> None:
    with subprocess.Popen(
        [*bare.command, "wait", "ready", "--endpoint", f"127.0.0.1:{free_port()}"],
        stderr=subprocess.PIPE,
        env=bare.environment,
        process_group=0,
    ) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while "msgspec" not in maps.read_text():  # it has nearly come as far as its own work
            assert process.poll() is None
        time.sleep(0.5)  # what interrupts an import may be ignored there, once in thousands of runs
        os.kill(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (130, b"")
