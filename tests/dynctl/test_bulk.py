"""mput, mget and mdelete: shapes, order, bad lines, pipes, interrupts, a killed agent."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pexpect  # type: ignore[import-untyped]
import pytest

from dynctl import lines
from dynctl.jsonlines import Reader
from tests.dynctl.conftest import Cluster, Dynctl, Here, free_port, start_cluster
from tests.dynctl.schemas import problems
from tests.dynctl.test_up import pid_of

Record = dict[str, Any]


def jsonl(items: Iterable[object]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def bulk(
    dynctl: Dynctl, verb: str, *words: str, stdin: bytes, status: int = 0
) -> tuple[list[Record], str]:
    """(records, stderr)"""
    done = dynctl(verb, *words, stdin=stdin, status=status)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def encoded(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


# --- what goes in comes out ----------------------------------------------------------------------


@pytest.mark.real
def test_many_records_come_back_in_their_order(cluster: Cluster, key: str) -> None:
    sent = [{"key": f"{key}/{n}", "value": f"value {n}" * (n % 7)} for n in range(3_000)]
    records, told = bulk(cluster, "mput", stdin=jsonl(sent))
    assert told == ""
    assert [(record["key"], record["status"]) for record in records] == [
        (item["key"], "ok") for item in sent
    ]
    records, told = bulk(cluster, "mget", stdin=jsonl({"key": item["key"]} for item in sent))
    assert told == ""
    assert [(r["key"], r["status"], r["value"]) for r in records] == [
        (item["key"], "ok", item["value"]) for item in sent
    ]


@pytest.mark.real
def test_bytes_that_are_no_text_are_base64_both_ways(cluster: Cluster) -> None:
    key, value = b"\xff\x80 bulk", bytes(range(256))
    bulk(cluster, "mput", stdin=jsonl([{"key": encoded(key), "value": encoded(value)}]))
    assert cluster("get", key).stdout == value
    ((record,), _) = bulk(cluster, "mget", stdin=jsonl([{"key": encoded(key)}]))
    assert (record["key"], record["value"]) == (encoded(key), encoded(value))


@pytest.mark.real
def test_text_given_as_base64_is_shown_as_text(cluster: Cluster, key: str) -> None:
    line = {"key": encoded(key.encode()), "value": encoded("é\0".encode())}
    ((put,), _) = bulk(cluster, "mput", stdin=jsonl([line]))
    ((got,), _) = bulk(cluster, "mget", stdin=jsonl([key]))
    assert (put["key"], got["key"], got["value"]) == (key, key, "é\0")


@pytest.mark.real
def test_a_context_supersedes_what_was_read_and_blind_does_not(cluster: Cluster, key: str) -> None:
    line = {"key": key, "value": "one", "mode": "blind"}
    bulk(cluster, "mput", stdin=jsonl([line, {**line, "value": "two"}]))
    ((conflict,), told) = bulk(cluster, "mget", stdin=jsonl([key]))
    assert (conflict["status"], told) == ("conflict", "")
    assert {sibling["value"] for sibling in conflict["siblings"]} == {"one", "two"}
    line = {"key": key, "value": "both", "context": conflict["context"], "mode": "context"}
    ((resolved,), _) = bulk(cluster, "mput", stdin=jsonl([line]))
    ((got,), _) = bulk(cluster, "mget", stdin=jsonl([key]))
    assert (got["value"], got["context"]) == ("both", resolved["context"])


@pytest.mark.real
def test_what_mget_prints_mdelete_takes(cluster: Cluster, key: str) -> None:
    keys = [f"{key}/{number}" for number in range(20)]
    bulk(cluster, "mput", stdin=jsonl({"key": key, "value": "v"} for key in keys))
    read = cluster("mget", stdin=jsonl(keys)).stdout
    cluster("put", keys[0], "newer", "--blind")
    records, _ = bulk(cluster, "mdelete", stdin=read)
    assert [(record["key"], record["status"]) for record in records] == [(k, "ok") for k in keys]
    records, told = bulk(cluster, "mget", stdin=jsonl(keys))
    assert [record["status"] for record in records] == ["ok"] + ["not_found"] * 19
    assert (records[0]["value"], told) == ("newer", "")
    bulk(cluster, "mdelete", stdin=jsonl(keys))
    assert bulk(cluster, "mget", stdin=jsonl(keys[:1]))[0][0]["status"] == "not_found"


@pytest.mark.real
def test_what_keys_prints_mget_and_mdelete_take(cluster: Cluster, key: str) -> None:
    cluster("put", f"{key} a", "1")
    cluster("put", f"{key} b", "2")
    listed = cluster("keys", "--prefix", key, "-o", "jsonl").stdout
    records, _ = bulk(cluster, "mget", stdin=listed)
    assert sorted(record["value"] for record in records) == ["1", "2"]
    bulk(cluster, "mdelete", stdin=listed)
    assert cluster("keys", "--prefix", key).stdout == b""


def test_mdelete_never_deletes_what_mget_could_not_read(cluster: Cluster, key: str) -> None:
    read = cluster("mget", stdin=jsonl([key])).stdout
    cluster("put", key, "newer")
    failed = jsonl([{"key": key, "status": "failed", "error": "timed out"}])
    records, _ = bulk(cluster, "mdelete", stdin=read + failed, status=11)
    assert [record["status"] for record in records] == ["ok", "failed"]
    assert "line 2: its status is failed" in records[1]["error"]
    assert cluster("get", key).stdout == b"newer"


@pytest.mark.real
def test_lines_of_one_key_take_effect_in_their_order(cluster: Cluster, key: str) -> None:
    sent = [{"key": key, "value": str(number)} for number in range(300)]
    records, _ = bulk(cluster, "mput", stdin=jsonl(sent))
    assert all(record["context"] for record in records)  # never a second sibling
    assert cluster("get", key).stdout == b"299"


@pytest.mark.real
def test_an_op_id_repeats_a_line_without_a_second_effect(cluster: Cluster, key: str) -> None:
    line = {"key": key, "value": "once", "mode": "blind", "op_id": os.urandom(16).hex()}
    bulk(cluster, "mput", stdin=jsonl([line]))
    bulk(cluster, "mput", stdin=jsonl([line]))
    assert bulk(cluster, "mget", stdin=jsonl([key]))[0][0]["status"] == "ok"


@pytest.mark.real
def test_records_are_what_their_schemas_say(cluster: Cluster, here: Here, key: str) -> None:
    given: list[Record] = [{"key": key, "value": "v", "mode": "blind"}, {"key": key}]
    given += [{"key": encoded(b"\xff"), "value": encoded(b"\xff"), "mode": "blind"}] * 2
    keys = jsonl([key, {"key": encoded(b"\xff")}, "missing", ""])
    for verb, stdin in (("mput", jsonl(given) + b"no json\n"), ("mget", keys), ("mdelete", keys)):
        status, out, _ = here("schema", verb)
        assert status == 0
        records, _ = bulk(cluster, verb, stdin=stdin, status=11)
        assert {record["status"] for record in records} > {"failed"}
        for record in records:
            assert problems(record, json.loads(out)) == ""


# --- what is wrong -------------------------------------------------------------------------------

_PUT_LINES = [
    (b"not json", "line 2: not JSON"),
    (b"[1]", "line 2: expected `object`"),
    (b'"k"', "line 2: expected `object`"),
    (b'{"value": "v"}', "missing required field `key`"),
    (b'{"key": "k"}', "missing required field `value`"),
    (b'{"key": "k", "value": null}', "at `$.value`; write a value as a string"),
    (b'{"key": "k", "value": {"a": 1}}', "at `$.value`; write a value as a string"),
    (b'{"key": "k", "value": {"base64": "!"}}', "invalid base64"),
    (b'{"key": "k", "status": "conflict"}', "several concurrent values; choose one with"),
    (b'{"key": 5, "value": "v"}', "at `$.key`"),
    (b'{"key": "", "value": "v"}', "the key is empty"),
    (b'{"key": "%s", "value": "v"}' % (b"k" * 1025), "1,025 bytes; the limit is 1,024"),
    (b'{"key": "k", "value": "v", "contxt": "C"}', "unknown field `contxt`"),
    (b'{"key": "k", "value": "v", "context": ""}', "context is empty"),
    (b'{"key": "k", "value": "v", "context": "!"}', "context is not base64url"),
    (b'{"key": "k", "value": "v", "mode": "odd"}', "'odd'"),
    (b'{"key": "k", "value": "v", "mode": "context"}', "there is no context"),
    (b'{"key": "k", "value": "v", "mode": "blind", "context": "AAAA"}', "contradict"),
    (b'{"key": "k", "value": "v", "op_id": "12"}', "op_id '12' is not 32 hex digits"),
    (b'{"key": {"base64": "%"}, "value": "v"}', "base64"),
    (b'{"key": {"base16": "00"}, "value": "v"}', "base16"),
    (b'{"key": "\xff", "value": "v"}', "line 2: not UTF-8"),
    (b'{"key": "\\ud800", "value": "v"}', "line 2: not JSON"),
    (b'{"key": "k", "value": "v"} {}', "line 2: not JSON"),
    (b"{" * 5_000, "line 2: "),
]


@pytest.mark.parametrize(("line", "said"), _PUT_LINES, ids=lambda value: repr(value)[:50])
def test_a_line_that_is_no_good_is_named_with_its_reason(line: bytes, said: str) -> None:
    request = Reader("mput", r=0, w=0, strict=False).read(2, line)
    assert request is not None and request.error is not None and request.message is None
    assert request.error.message.startswith("line 2: ")
    assert said in request.error.message


def test_a_bare_word_is_told_to_be_put_in_quotes() -> None:
    request = Reader("mget", r=0, strict=False).read(3, b"k")
    assert request is not None and request.error is not None
    assert request.error.message.startswith("line 3: not JSON: invalid character")
    assert request.error.message.endswith("; write a key in double quotes")


def test_a_line_without_json_around_its_key_is_for_mget_and_mdelete_only() -> None:
    for verb in ("mget", "mdelete"):
        request = Reader(verb, r=0, strict=False).read(1, b'"k"')
        assert request is not None and request.message is not None and request.message.key == b"k"


@pytest.mark.real
def test_bad_lines_fail_at_their_place_and_the_others_go_on(cluster: Cluster, key: str) -> None:
    good = jsonl([{"key": key, "value": "v"}])
    given = good + b"no json\n\n" + good + jsonl([{"key": key}]) + good.rstrip()
    records, told = bulk(cluster, "mput", stdin=given, status=11)
    assert [record["status"] for record in records] == ["ok", "failed", "ok", "failed", "ok"]
    assert [record["key"] for record in records] == [key, None, key, key, key]
    assert "line 2: not JSON" in records[1]["error"] and "line 5: " in records[3]["error"]
    assert told == "dynctl: mput: 3 ok, 2 failed; see the records that are not ok\n"


@pytest.mark.real
def test_a_value_over_the_limit_fails_alone(cluster: Cluster, key: str) -> None:
    lines = [{"key": key, "value": "v" * size} for size in (1, (1 << 20) + 1, (8 << 20) + 1, 2)]
    records, _ = bulk(cluster, "mput", stdin=jsonl(lines), status=11)
    assert [record["status"] for record in records] == ["ok", "failed", "failed", "ok"]
    assert "1,048,577 bytes" in records[1]["error"] and "8,388,608" in records[2]["error"]


@pytest.mark.real
def test_a_line_longer_than_any_value_costs_no_memory_and_no_other_line(
    cluster: Cluster, key: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    del capfd
    monkeypatch.setattr(lines, "LINE_BYTES_MAX", 1_000)
    reader, writer = os.pipe()
    os.write(writer, b"x" * 3_000 + b"\n" + b"y" * 1_000 + b"\n" + b"z" * 1_001)
    os.close(writer)
    monkeypatch.setattr(lines, "STDIN", reader)
    found = list(lines.Lines())
    os.close(reader)
    assert found == [(1, None), (2, b"y" * 1_000), (3, None)]


@pytest.mark.real
def test_a_key_with_too_many_siblings_fails_its_own_records_only(
    cluster: Cluster, key: str
) -> None:
    blind = [{"key": key, "value": f"{n}", "mode": "blind"} for n in range(258)]
    more = [{"key": f"{key}/other", "value": "v"}]
    records, _ = bulk(cluster, "mput", stdin=jsonl([*blind, *more]), status=11)
    assert [record["status"] for record in records] == ["ok"] * 256 + ["failed"] * 2 + ["ok"]
    assert f"key '{key[:64]}' has 256 concurrent values" in records[-2]["error"]
    refused = cluster("put", key, "v", "--blind", status=10)
    assert b"dynctl resolve" in refused.stderr
    [row, *_] = sorted(
        json.loads(cluster("stats", "-o", "json").stdout)["nodes"],
        key=lambda row: -row["most_siblings"],
    )
    assert (row["most_siblings"], row["most_siblings_key"]) == (256, key)
    assert b"256 concurrent values" in cluster("get", key, status=4).stderr
    cluster("put", key, "settled")
    assert cluster("get", key).stdout == b"settled"


@pytest.mark.real
def test_missing_keys_and_conflicts_are_answers(cluster: Cluster, key: str) -> None:
    records, told = bulk(cluster, "mget", stdin=jsonl([key]))
    assert records == [{"key": key, "status": "not_found"}]
    assert told == ""


@pytest.mark.real
def test_no_lines_give_no_records(cluster: Cluster) -> None:
    for verb in ("mput", "mget", "mdelete"):
        done = cluster(verb, stdin=b"\n\n")
        assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mput", "--in-flight", "0"], "1..8192"),
        (["mget", "--in-flight", "many"], "1..8192"),
        (["mget", "-w", "2"], "no such option"),
        (["mput", "-r", "0"], "-r '0'"),
        (["mdelete", "key"], "unexpected extra argument"),
        (["mget", "--timeout", "0"], "--timeout 0"),
        (["schema", "mput", "-o", "json"], "lines only"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_exits_2(here: Here, words: list[str], said: str) -> None:
    status, out, line = here(*words)
    assert (status, out) == (2, ""), line
    assert said in line and line.count("\n") == 1


def test_where_nobody_is_it_exits_7_before_any_record(bare: Dynctl) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    for verb in ("mput", "mget", "mdelete"):
        line = bare.fails(7, verb, "--endpoint", endpoint, stdin=jsonl(["k"]))
        assert f"{endpoint}: Connection refused" in line


def test_a_closed_stdin_is_one_clear_line(bare: Dynctl) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *bare.command, "mget", "--endpoint", "127.0.0.1:1"],
        capture_output=True,
        env=bare.environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == b"dynctl: mget: stdin: Bad file descriptor\n"


# --- how it runs ---------------------------------------------------------------------------------


def start(dynctl: Dynctl, *words: str, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*dynctl.command, *words],
        stdin=subprocess.PIPE,
        stdout=more.get("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        env=dynctl.environment,
        cwd=dynctl.home,
        bufsize=0,  # what readline has not returned is left for communicate
    )


@pytest.mark.real
def test_a_line_is_answered_while_the_next_is_not_there_yet(cluster: Cluster, key: str) -> None:
    with start(cluster, "mget") as process:
        assert process.stdin is not None and process.stdout is not None
        for _ in range(3):
            process.stdin.write(jsonl([key]))
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["status"] == "not_found"
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.real
def test_an_interrupt_ends_what_is_under_way_and_tells_how_far_it_got(
    cluster: Cluster, key: str
) -> None:
    with start(cluster, "mput") as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(jsonl({"key": key, "value": "v"} for _ in range(5)))
        process.stdin.flush()
        first = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b"dynctl: mput: interrupted: 5 ok\n"
        assert process.stdout.read() == b"" and len(first) == 5


@pytest.mark.real
def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    found = start_cluster(tmp_path, 1)
    try:
        pid = pid_of(found, "local-1")
        with start(found, "mput") as process:
            assert process.stdin is not None and process.stdout is not None
            assert process.stderr is not None
            line = jsonl([{"key": "k", "value": "v"}])
            process.stdin.write(line)
            process.stdin.flush()
            process.stdout.readline()
            os.kill(pid, signal.SIGSTOP)
            try:
                process.stdin.write(line)
                process.stdin.close()
                while process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    time.sleep(0.05)
            finally:
                os.kill(pid, signal.SIGCONT)
            assert process.returncode == 130
            assert process.stderr.read().startswith(b"dynctl: mput: interrupted: 1 ok")
    finally:
        found("down", "--dir", str(found.directory), "--purge")


@pytest.mark.real
def test_a_reader_that_has_gone_away_ends_it_silently(cluster: Cluster, key: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with start(cluster, "mget", stdout=writer) as process:
        os.close(writer)
        _, told = process.communicate(jsonl([key]), timeout=60)
        assert (process.returncode, told) == (141, b"")


@pytest.mark.real
def test_verbose_tells_who_answered(cluster: Cluster, key: str) -> None:
    stdin = jsonl(f"{key}/{number}" for number in range(200))
    _, told = bulk(cluster, "mget", "-v", stdin=stdin)
    assert told.startswith("dynctl: mget: replies: ")
    assert all(endpoint in told for endpoint in cluster.endpoints)


@pytest.mark.real
def test_progress_is_shown_on_a_terminal_only(cluster: Cluster, key: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(jsonl({"key": key, "value": "v"} for _ in range(100)))
    command = f"{' '.join(cluster.command)} mput < {tmp_path / 'in'} > {tmp_path / 'out'}"
    shown, status = pexpect.run(
        f"sh -c '{command}'",
        env=cluster.environment | {"TERM": "xterm-256color"},
        withexitstatus=True,
        timeout=60,
    )
    assert status == 0 and b"mput" in shown
    assert len((tmp_path / "out").read_bytes().splitlines()) == 100


@pytest.mark.real
def test_an_agent_killed_in_the_middle_of_an_mput_loses_nothing(tmp_path: Path) -> None:
    found = start_cluster(tmp_path, 3)
    try:
        sent = [{"key": f"key {number}", "value": f"value {number}"} for number in range(6_000)]
        pid = pid_of(found, "local-2")
        with start(found, "mput") as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(jsonl(sent[:2_000]))
            process.stdin.flush()
            answered = [process.stdout.readline() for _ in range(500)]
            os.kill(pid, signal.SIGKILL)
            out, told = process.communicate(jsonl(sent[2_000:]), timeout=60)
            assert (process.returncode, told) == (0, b"")
        records = [json.loads(line) for line in [*answered, *out.splitlines()]]
        assert [(record["key"], record["status"]) for record in records] == [
            (item["key"], "ok") for item in sent
        ]
        got, _ = bulk(found, "mget", stdin=jsonl({"key": item["key"]} for item in sent))
        assert [(r["key"], r["value"]) for r in got] == [(i["key"], i["value"]) for i in sent]
    finally:
        found("down", "--dir", str(found.directory), "--purge")
