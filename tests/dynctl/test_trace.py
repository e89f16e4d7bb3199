"""--trace: on stderr, in columns, with every verb that has it, with errors too."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from dynagent.core.encoding import encode
from dynagent.core.messages import Error, GetReply, Hello, Message, PutReply
from dynagent.errors import WriteOutcomeUnknown
from dynagent.wire.codec import encode_frame
from tests.dynctl.conftest import Cluster, Dynctl, free_port
from tests.dynctl.test_bad_input import Listener

pytestmark = pytest.mark.real

_LINE = re.compile(r" *\d+\.\d{3} ms  \S+ +\S.*")


def lines(stderr: bytes) -> list[str]:
    found = stderr.decode().splitlines()
    told = [line for line in found if not line.startswith("dynctl: ")]
    assert all(_LINE.fullmatch(line) for line in told), found
    return told


def test_a_put_and_a_get_tell_who_did_what(cluster: Cluster, key: str) -> None:
    done = cluster("put", key, "v", "--trace")
    assert done.stdout == b""
    told = lines(done.stderr)
    assert "client   asks 127.0.0.1:" in told[0]
    assert sum("on disk" in line for line in told) == 2
    assert "client   has the answer of 127.0.0.1:" in told[-1]
    done = cluster("get", key, "--trace", "-r", "3")
    assert done.stdout == b"v"
    assert sum("has the same" in line for line in lines(done.stderr)) == 2


def test_words_stand_in_columns(cluster: Cluster, key: str) -> None:
    cluster("put", key, "v")
    told = lines(cluster("get", key, "--trace").stderr)
    assert len({line.index(" ms  ") for line in told}) == 1
    assert {line[14:23] for line in told} <= {"client   ", *(f"local-{n}  " for n in (1, 2, 3))}


def test_a_delete_and_all_values_tell_it_too(cluster: Cluster, key: str) -> None:
    cluster("put", key, "one", "--blind")
    cluster("put", key, "two", "--blind")
    done = cluster("get", key, "--all", "--trace", "-o", "jsonl")
    assert len(done.stdout.splitlines()) == 2
    assert any("answers: 2 values" in line for line in lines(done.stderr))
    assert any(
        "takes the delete" in line for line in lines(cluster("delete", key, "--trace").stderr)
    )


def test_a_key_that_is_not_there_is_told_after_its_trace(cluster: Cluster, key: str) -> None:
    done = cluster("get", key, "--trace", status=3)
    assert any("answers: no value" in line for line in lines(done.stderr))
    assert done.stderr.decode().splitlines()[-1] == f'dynctl: get: key "{key}" not found'


def test_the_long_way_through_typer_traces_alike(cluster: Cluster, key: str) -> None:
    cluster("put", key, "v")
    done = cluster("get", "-r2", key, "--trace")
    assert done.stdout == b"v"
    assert len(lines(done.stderr)) == 7


def test_an_endpoint_that_is_dead_is_in_the_trace(cluster: Cluster, key: str) -> None:
    cluster("put", key, "v")
    dead = f"127.0.0.1:{free_port()}"
    alive = ["--endpoint", dead, "--endpoint", cluster.endpoints[1]]
    told = lines(cluster("get", key, "--trace", *alive).stderr)
    assert told[0].endswith(f"asks {dead}")
    assert f"has no answer of {dead}: Unreachable" in told[1]
    done = cluster("get", key, "--trace", "--endpoint", dead, status=7)
    assert len(lines(done.stderr)) == 2
    assert done.stderr.decode().splitlines()[-1].startswith("dynctl: get: no agent reachable: ")


def test_a_refused_request_brings_its_trace(cluster: Cluster, key: str) -> None:
    done = cluster("put", key, "v", "-w", "9", "--trace", status=2)
    assert len(lines(done.stderr)) == 2


# --- agents that are none ------------------------------------------------------------------------


def says(reply: Message) -> bytes:
    hello = Hello(1, 1, 1, b"", "x" * 16, b"", [], 1 << 20, 0)
    frames = [encode_frame(m, request_id=n, budget_ms=0) for n, m in enumerate((hello, reply))]
    return b"".join(frames)


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener(b"")
    yield made
    made.close()


def test_a_malformed_trace_is_one_clear_error(bare: Dynctl, listener: Listener) -> None:
    listener.words = says(GetReply(b"", [], False, 2, encode([[0, "n"]])))
    done = bare("get", "k", "--trace", "--endpoint", listener.endpoint, status=1)
    assert done.stdout == b""
    assert done.stderr.decode().splitlines()[-1] == (
        f"dynctl: get: {listener.endpoint} sent a trace with a malformed event; "
        "is that address an agent of this version?"
    )
    assert bare("get", "k", "--endpoint", listener.endpoint, status=3).stdout == b""


def test_a_trace_cannot_command_the_terminal(bare: Dynctl, listener: Listener) -> None:
    words = encode([[0, "n\x1b[2J", "clears\nthe \x1b]0;screen\x07"]])
    listener.words = says(PutReply(b"", 1, b"", words))
    done = bare("put", "k", "v", "--trace", "--endpoint", listener.endpoint)
    assert b"\x1b" not in done.stderr and b"\x07" not in done.stderr
    assert len(lines(done.stderr)) == 3


def test_an_unknown_outcome_keeps_its_op_id_whatever_its_trace(
    bare: Dynctl, listener: Listener
) -> None:
    listener.words = says(Error(WriteOutcomeUnknown.code, "1 of 2 acknowledged", b"\xff"))
    where = ("--endpoint", listener.endpoint, "--timeout", "1s")
    done = bare("put", "k", "v", "--trace", *where, status=6)
    told = lines(done.stderr)
    assert "cannot read what" in told[1]
    assert "WriteOutcomeUnknown: 1 of 2 acknowledged" in told[2]
    assert told[3].endswith("attempt 2")
    assert "retry safely with --op-id " in done.stderr.decode().splitlines()[-1]
