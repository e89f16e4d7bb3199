"""Whatever is wrong: one line of cause and remedy, nothing on stdout, the exit status that says
which kind of wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dynctl.conftest import Cluster, Dynctl, Here, free_port


class Listener:
    """Something that listens and is no agent. It answers every connection with `words`."""

    def __init__(self, words: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.words = words
        self._open: list[socket.socket] = []
        self.met = threading.Event()
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.words == b"stop":
                connection.close()
                return
            self._open.append(connection)
            self.met.set()
            connection.sendall(self.words)

    def close(self) -> None:
        self.words = b"stop"
        host, port = self._listener.getsockname()
        socket.create_connection((host, port)).close()
        self._thread.join()
        self._listener.close()
        for connection in self._open:
            connection.close()


@pytest.fixture
def web_server() -> Iterator[Listener]:
    listener = Listener(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    yield listener
    listener.close()


@pytest.fixture
def silence() -> Iterator[Listener]:
    listener = Listener(b"")
    yield listener
    listener.close()


def dead() -> str:
    return f"127.0.0.1:{free_port()}"


# --- where nobody is -----------------------------------------------------------------------------


def test_without_any_endpoint_the_remedies_are_named(bare: Dynctl) -> None:
    line = bare.fails(7, "get", "k")
    assert all(word in line for word in ("--endpoint", "DYNCTL_ENDPOINTS", "dynctl up"))


@pytest.mark.parametrize(
    "words",
    [
        *(["get", "k"], ["put", "k", "v"], ["node", "ls"], ["health"], ["ring", "status"]),
        *(["keys"], ["explain", "k"], ["resolve", "k", "--delete"]),
    ],
    ids=" ".join,
)
def test_a_dead_endpoint_exits_7_and_is_named(bare: Dynctl, words: list[str]) -> None:
    endpoint = dead()
    line = bare.fails(7, *words, "--endpoint", endpoint)
    assert f"dynctl: {' '.join(words[:2]) if words[0] in ('node', 'ring') else words[0]}: " in line
    assert f"{endpoint}: Connection refused" in line


def test_a_name_that_does_not_resolve_exits_7(bare: Dynctl) -> None:
    assert "no agent reachable" in bare.fails(7, "get", "k", "--endpoint", "no-such-host.invalid:1")


@pytest.mark.parametrize("words", [["get", "k"], ["put", "k", "v"], ["node", "ls"]], ids=" ".join)
def test_something_else_on_the_port_is_no_agent(
    bare: Dynctl, web_server: Listener, words: list[str]
) -> None:
    line = bare.fails(7, *words, "--endpoint", web_server.endpoint)
    assert f"{web_server.endpoint} is no agent" in line


def test_a_silent_port_times_out(bare: Dynctl, silence: Listener) -> None:
    told = ["--endpoint", silence.endpoint, "--timeout", "300ms"]
    assert "no answer in time" in bare.fails(7, "get", "k", *told)
    line = bare.fails(6, "put", "k", "v", *told)
    assert "outcome unknown" in line
    assert len(line.rsplit("retry safely with --op-id ")[1].strip()) == 32


@pytest.mark.real
def test_dead_and_foreign_endpoints_are_passed_over(cluster: Cluster, web_server: Listener) -> None:
    told = ["--endpoint", dead(), "--endpoint", web_server.endpoint]
    told += ["--endpoint", cluster.endpoints[0]]
    cluster("put", "passed over", "v", *told)
    assert cluster("get", "passed over", *told).stdout == b"v"
    assert cluster("node", "ls", *told).stdout.count(b"\n") == 3


def test_waiting_for_nobody_exits_124(bare: Dynctl) -> None:
    line = bare.fails(124, "wait", "ready", "--timeout", "200ms", "--endpoint", dead())
    assert "Connection refused" in line


def test_a_put_that_is_interrupted_while_it_reads_its_value_has_sent_nothing(
    bare: Dynctl, tmp_path: Path
) -> None:
    pipe = tmp_path / "value"
    os.mkfifo(pipe)
    words = [*bare.command, "put", "k", f"@{pipe}", "--endpoint", dead()]
    with (
        subprocess.Popen(words, stderr=subprocess.PIPE, env=bare.environment) as process,
        pipe.open("wb"),  # it has it open, too
    ):
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert told == b"dynctl: put: interrupted; nothing was sent\n"


def test_an_interrupted_put_says_that_it_may_still_take_effect(
    bare: Dynctl, silence: Listener
) -> None:
    with subprocess.Popen(
        [*bare.command, "put", "k", "v", "--endpoint", silence.endpoint, "--timeout", "60s"],
        stderr=subprocess.PIPE,
        env=bare.environment,
    ) as process:
        assert silence.met.wait(30)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert told == b"dynctl: put: interrupted; it may still take effect, see: dynctl get\n"


# --- words that mean nothing ---------------------------------------------------------------------

_AT = ["--endpoint", "127.0.0.1:1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["get", ""], "the key is empty"),
        (["get", "k" * 1025], "1,025 bytes; the limit is 1,024"),
        (["put", "", "v"], "the key is empty"),
        (["delete", "k" * 1025], "1,025 bytes"),
        (["put", "k"], "no value"),
        (["put", "k", "v", "--value", "v"], "both given"),
        (["put", "k", "v", "--context", "C!"], "not base64url"),
        (["put", "k", "v", "--context", ""], "--context is empty"),
        (["put", "k", "v", "--context", "AAAA", "--blind"], "contradict"),
        (["put", "k", "v", "--op-id", "zz"], "32 hex digits"),
        (["put", "k", "v", "--op-id", "00"], "32 hex digits"),
        (["put", "k", "v", "-w", "0"], "-w '0'"),
        (["get", "k", "-r", "x"], "-r 'x'"),
        (["get", "k", "-r", "17"], "1..16"),
        (["get", "k", "--timeout", "0"], "--timeout 0"),
        (["get", "k", "--timeout", "-1"], "--timeout '-1' is not a duration"),
        (["get", "k", "--timeout", "nan"], "not a duration"),
        (["get", "k", "--timeout", "1e3"], "not a duration"),
        (["get", "k", "--timeout", "11m"], "at most 600s"),
        (["get", "k", "--timeout", ""], "not a duration"),
        (["get", "k", "--out", "f", "--all"], "--out takes one value"),
        (["get", "k", "-o", "json"], "--all"),
        (["get", "k", "--all", "--print-context", "-o", "json"], "different things"),
        (["get", "k", "--all", "-o", "xml"], "choose one of table, plain, json, jsonl"),
        (["node", "ls", "-o", "xml"], "choose one of"),
        (["node", "ls", "--color", "blue"], "auto, always or never"),
        (["health", "--timeout", "0"], "--timeout 0"),
        (["wait", "ready", "--timeout", "-5"], "not a duration"),
        (["get"], "missing argument 'KEY'; see: dynctl get --help"),
        (["get", "k", "--frob"], "no such option: --frob"),
        (["get", "k", "j"], "unexpected extra argument"),
        (["frob"], "'frob' is not a verb"),
        (["gte", "k"], "did you mean get?"),
        (["ls"], "did you mean keys?"),
        (["help", "get"], "see: dynctl get --help"),
        (["help"], "see: dynctl --help"),
        (["put", "k", "@"], "@ names no file"),
        (["ring", "frob"], "'frob' is no verb of ring; see: dynctl ring --help"),
        (["hints", "frob"], "'frob' is no verb of hints; see: dynctl hints --help"),
        (["up", "--nodes", "0"], "--nodes '0'"),
        (["up", "--port", "70000"], "--port '70000'"),
        (["--endpoint", "h:1", "get", "k"], "options follow their verb"),
        (["bootstrap", "not an address"], "not an address"),
        (["bootstrap", "127.0.0.1:0"], "port 0"),
        (["bootstrap", "127.0.0.1:1", "127.0.0.1:1"], "given twice"),
        (["bootstrap", "127.0.0.1:1", "--partitions", "100"], "power of two"),
        (["bootstrap", "127.0.0.1:1", "--r", "4"], "R=4 is not in 1..N"),
        (["bootstrap", "127.0.0.1:1", "--n", "17"], "--n '17'"),
        (["keys", "--limit", "0"], "--limit '0'"),
        (["keys", "--rate", "fast"], "--rate 'fast'"),
        (["keys", "--resume", ""], "--resume is empty"),
        (["keys", "--resume", "no token!"], "--resume is not base64url"),
        (["keys", "-0", "-o", "json"], "contradict"),
        (["keys", "-o", "xml"], "choose one of"),
        (["keys", "--prefix", "k" * 1025], "1,025 bytes"),
        (["keys", "--timeout", "0"], "--timeout 0"),
        (["keys", "k"], "unexpected extra argument"),
        (["resolve", "k"], "say one of --pick"),
        (["resolve", "k", "--pick", "a:1", "--value", "v"], "say one of --pick"),
        (["resolve", "k", "--value", "v", "--delete"], "say one of --pick"),
        (["resolve", "", "--pick", "a:1"], "the key is empty"),
        (["resolve", "k", "--value", "v", "-w", "0"], "-w '0'"),
        (["explain", ""], "the key is empty"),
        (["explain", "k" * 1025], "1,025 bytes"),
        (["explain"], "missing argument 'KEY'"),
        (["schema", "put"], "prints no records"),
        (["completion", "tcsh"], "choose bash, zsh or fish"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_usage_error_exits_2_before_anything_is_sent(
    here: Here, words: list[str], said: str
) -> None:
    at = _AT if words[0] in ("get", "put", "delete") and len(words) > 1 else []
    status, out, line = here(*words, *at)
    assert (status, out) == (2, ""), line
    assert line.startswith("dynctl: ") and line.count("\n") == 1, line
    assert said in line


@pytest.mark.real
def test_more_owners_than_there_are_exits_2(cluster: Cluster) -> None:
    assert "N=3" in cluster.fails(2, "get", "k", "-r", "4")
    assert "N=3" in cluster.fails(2, "put", "k", "v", "-w", "4")


@pytest.mark.real
def test_a_context_of_another_key_exits_2(cluster: Cluster, key: str) -> None:
    cluster("put", key, "v")
    context = cluster("get", key, "--print-context").stdout.decode().strip()
    assert "not one of this key" in cluster.fails(2, "put", f"{key} 2", "v", "--context", context)


@pytest.mark.real
def test_a_value_over_the_limit_exits_2(cluster: Cluster, key: str, tmp_path: Path) -> None:
    line = cluster.fails(2, "put", key, "-", stdin=bytes((1 << 20) + 1))
    assert "1,048,577 bytes" in line
    (tmp_path / "large").write_bytes(bytes((8 << 20) + 1))
    assert "8,388,608" in cluster.fails(2, "put", key, f"@{tmp_path / 'large'}")
    cluster.fails(3, "get", key)


@pytest.mark.real
def test_a_partition_that_does_not_exist_exits_2(cluster: Cluster) -> None:
    assert "0..255" in cluster.fails(2, "ring", "show", "--partition", "256")


def test_an_unreadable_file_is_named(bare: Dynctl, tmp_path: Path) -> None:
    assert "/no/such: No such file" in bare.fails(1, "put", "k", "@/no/such", *_AT)
    assert "Is a directory" in bare.fails(1, "put", "k", f"@{tmp_path}", *_AT)
    assert bare.fails(1, "put", "k", "@alice", *_AT).endswith(
        "alice: No such file or directory; write a text that begins with @ as --value\n"
    )


def test_an_endpoint_without_a_port_is_told_with_it(bare: Dynctl) -> None:
    assert ":7411: " in bare.fails(7, "get", "k", "--endpoint", "no-such-host.invalid")


# --- files and variables -------------------------------------------------------------------------


def _config(bare: Dynctl, text: str | bytes) -> Path:
    path = bare.home / "config" / "dynctl" / "config"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("current=prod\n", "there is no prod.endpoints="),
        ("currant=prod\n", "'currant' is unknown; write current=NAME"),
        ("# a comment\ncurrent\n", "config:2: 'current' is not key=value"),
        ("current=p\np.endpoints=a b\n", "'a b' is not an address"),
        ("current=p\np.endpoints=h:99999\n", "not an address"),
        ("current=p\np.endpoints=,\n", "is empty"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"x" * 70_000, "should be a few lines"),
    ],
)
def test_a_malformed_config_file_is_one_clear_line(
    bare: Dynctl, text: str | bytes, said: str
) -> None:
    path = _config(bare, text)
    line = bare.fails(2, "get", "k")
    assert said in line
    assert str(path) in line


def test_a_malformed_variable_is_named(bare: Dynctl) -> None:
    bare.environment["DYNCTL_ENDPOINTS"] = "a:7411,b:x"
    assert "DYNCTL_ENDPOINTS: 'b:x' is not an address" in bare.fails(2, "get", "k")
    bare.environment["DYNCTL_ENDPOINTS"] = ","
    assert "DYNCTL_ENDPOINTS is empty" in bare.fails(2, "get", "k")


def test_flags_win_over_the_variable_over_the_file_over_the_local_cluster(bare: Dynctl) -> None:
    one, two, three, four = (dead() for _ in range(4))
    state = bare.home / "state" / "dynctl" / "cluster"
    state.parent.mkdir(parents=True)
    state.write_text(f"dir=/nowhere\nendpoints={four}\n")
    assert four in bare.fails(7, "get", "k")
    _config(bare, f"current=prod\nother.endpoints=x:1\nprod.endpoints={three}\n")
    assert three in bare.fails(7, "get", "k")
    bare.environment["DYNCTL_ENDPOINTS"] = two
    assert two in bare.fails(7, "get", "k")
    assert one in bare.fails(7, "get", "k", "--endpoint", one)


def test_a_relative_xdg_directory_is_ignored(bare: Dynctl) -> None:
    _config(bare, "not a pair")
    bare.environment |= {"XDG_CONFIG_HOME": "config", "HOME": str(bare.home)}
    bare.fails(7, "get", "k")


# --- trace and pipes -----------------------------------------------------------------------------


def test_a_stack_trace_is_shown_only_with_debug(bare: Dynctl) -> None:
    assert b"Traceback" not in bare("get", "k", *_AT, status=7).stderr
    done = bare("get", "k", "--debug", *_AT, status=7)
    assert b"Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(b"dynctl: get: ")


def test_a_full_disk_behind_stdout_is_one_clear_line(bare: Dynctl) -> None:
    for words in (["schema", "health"], ["--version"], ["--help"]):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [*bare.command, *words],
                stdout=full,
                stderr=subprocess.PIPE,
                env=bare.environment,
                timeout=60,
                check=False,
            )
        assert done.returncode == 1, words
        assert b"No space left on device" in done.stderr
        assert done.stderr.count(b"\n") == 1


@pytest.mark.real
def test_a_reader_that_has_gone_away_ends_it_silently_with_141(cluster: Cluster) -> None:
    cluster("put", "long", "-", stdin=bytes(1 << 20))
    for words in (["get", "long"], ["ring", "show"], ["get", "--help"], ["keys"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [*cluster.command, *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=cluster.environment,
            timeout=60,
            check=False,
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, b""), words
