"""get, put and delete against a real cluster: bytes, siblings, contexts, exit statuses."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tests.dynctl.conftest import Cluster

pytestmark = pytest.mark.real

ALL_BYTES = bytes(range(256))


@pytest.mark.parametrize("value", [b"", ALL_BYTES, os.urandom(1 << 20), b"\n", b"no newline"])
def test_a_value_comes_back_byte_for_byte(cluster: Cluster, key: str, value: bytes) -> None:
    assert cluster("put", key, "-", stdin=value).stdout == b""
    got = cluster("get", key)
    assert (got.stdout, got.stderr) == (value, b"")


def test_get_into_a_file_equals_what_put_took_from_one(
    cluster: Cluster, key: str, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(ALL_BYTES)
    cluster("put", key, f"@{tmp_path / 'in'}")
    cluster("get", key, "--out", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == ALL_BYTES
    assert cluster("get", key).stdout == ALL_BYTES


def test_keys_and_values_of_any_bytes_pass_through_argv(cluster: Cluster) -> None:
    cluster("put", b"\xff\x80 key", b"\xfe\xc0")
    assert cluster("get", b"\xff\x80 key").stdout == b"\xfe\xc0"


def test_the_long_way_through_typer_gives_the_same(cluster: Cluster) -> None:
    cluster("put", "-w2", b"\xfflong", b"\xfe")  # a cluster of short options: for Typer
    assert cluster("get", "-r2", b"\xfflong").stdout == b"\xfe"
    assert "not found" in cluster.fails(3, "get", "-r2", "no such key")


def test_literals_may_begin_with_dash_or_at(cluster: Cluster, key: str) -> None:
    for value in ("-", "-x", "@file", "--value"):
        cluster("put", key, "--value", value)
        assert cluster("get", key).stdout == value.encode()
    cluster("put", "--", "-k", "-v")
    assert cluster("get", "--", "-k").stdout == b"-v"


def test_a_put_without_a_value_does_not_read_stdin(cluster: Cluster, key: str) -> None:
    line = cluster.fails(2, "put", key, stdin=b"the input of a loop")
    assert "- for stdin" in line


def test_out_replaces_a_file_whole_and_keeps_its_mode(
    cluster: Cluster, key: str, tmp_path: Path
) -> None:
    target = tmp_path / "value"
    target.write_bytes(b"old")
    target.chmod(0o640)
    cluster("put", key, "new")
    cluster("get", key, "--out", str(target))
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("value")] == ["value"]


def test_out_leaves_the_old_file_if_there_is_no_value(
    cluster: Cluster, key: str, tmp_path: Path
) -> None:
    (tmp_path / "value").write_bytes(b"old")
    cluster.fails(3, "get", key, "--out", str(tmp_path / "value"))
    assert (tmp_path / "value").read_bytes() == b"old"


def test_out_into_a_missing_directory_is_one_clear_line(cluster: Cluster, key: str) -> None:
    cluster("put", key, "v")
    line = cluster.fails(1, "get", key, "--out", "/no/such/dir/file")
    assert "/no/such/dir/file: No such file or directory" in line


def test_a_missing_key_exits_3(cluster: Cluster, key: str) -> None:
    assert cluster.fails(3, "get", key) == f'dynctl: get: key "{key}" not found\n'


def test_a_deleted_key_is_not_found_and_deleting_again_succeeds(cluster: Cluster, key: str) -> None:
    cluster("put", key, "v")
    cluster("delete", key)
    cluster.fails(3, "get", key)
    done = cluster("delete", key)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_put_overwrites_what_is_visible(cluster: Cluster, key: str) -> None:
    cluster("put", key, "one")
    cluster("put", key, "two")
    assert cluster("get", key).stdout == b"two"


def test_siblings_print_nothing_and_exit_4_with_the_remedy(cluster: Cluster, key: str) -> None:
    for value in ("one", "two", "three"):
        cluster("put", key, value, "--blind")
    line = cluster.fails(4, "get", key)
    assert "3 concurrent values" in line
    assert "--all" in line


def test_all_shows_every_sibling_and_their_context_resolves_them(
    cluster: Cluster, key: str
) -> None:
    for value in ("one", b"\xff\x00"):
        cluster("put", key, value if isinstance(value, str) else "-", "--blind", stdin=b"\xff\x00")
    document = json.loads(cluster("get", key, "--all", "-o", "json").stdout)
    assert document["status"] == "conflict"
    values = [sibling["value"] for sibling in document["siblings"]]
    assert sorted(values, key=str) == ["one", {"base64": "/wA="}]
    lines = cluster("get", key, "--all").stdout.splitlines()
    assert [json.loads(line)["value"] for line in lines] == values
    context = cluster("get", key, "--all", "--print-context").stdout.decode().strip()
    assert context == document["context"]
    cluster("put", key, "merged", "--context", context)
    assert cluster("get", key).stdout == b"merged"


def test_a_stale_context_makes_a_sibling(cluster: Cluster, key: str) -> None:
    cluster("put", key, "one")
    context = cluster("get", key, "--print-context").stdout.decode().strip()
    cluster("put", key, "two")
    cluster("put", key, "three", "--context", context)
    cluster.fails(4, "get", key)


def test_put_prints_the_context_for_the_next_put(cluster: Cluster, key: str) -> None:
    context = cluster("put", key, "one", "--print-context").stdout.decode().strip()
    cluster("put", key, "two", "--context", context)
    assert cluster("get", key).stdout == b"two"


def test_put_warns_where_siblings_leave_no_context(cluster: Cluster, key: str) -> None:
    cluster("put", key, "one", "--blind")
    done = cluster("put", key, "two", "--blind", "--print-context")
    assert done.stdout == b""
    assert b"warning: no context" in done.stderr


def test_print_context_writes_the_value_only_where_out_says(
    cluster: Cluster, key: str, tmp_path: Path
) -> None:
    cluster("put", key, "v")
    done = cluster("get", key, "--print-context", "--out", str(tmp_path / "v"))
    assert (tmp_path / "v").read_bytes() == b"v"
    cluster("delete", key, "--context", done.stdout.decode().strip())
    cluster.fails(3, "get", key)


def test_a_repeated_put_has_no_second_effect(cluster: Cluster, key: str) -> None:
    told = cluster("put", key, "one", "--blind", "-v").stderr.decode()
    op_id = told.split("op-id ")[1].strip()
    cluster("put", key, "one", "--blind", "--op-id", op_id)
    assert cluster("get", key).stdout == b"one"


def test_verbose_tells_which_agent_answered(cluster: Cluster, key: str) -> None:
    told = cluster("put", key, "v", "-v", "--endpoint", cluster.endpoints[1]).stderr.decode()
    assert f"{cluster.endpoints[1]} answered" in told
    told = cluster("get", key, "-v", "--endpoint", cluster.endpoints[2]).stderr.decode()
    assert f"{cluster.endpoints[2]} answered" in told


def test_each_quorum_up_to_n_works_and_strict_too(cluster: Cluster, key: str) -> None:
    for quorum in ("1", "2", "3"):
        cluster("put", key, quorum, "-w", quorum, "-r", quorum, "--strict")
        assert cluster("get", key, "-r", "3", "--strict").stdout == quorum.encode()


def test_get_repairs_before_it_answers(cluster: Cluster, key: str) -> None:
    cluster("put", key, "v")
    done = cluster("get", key, "--repair", "-v")
    assert done.stdout == b"v"
    assert b"have it on disk" in done.stderr
    cluster("get", f"{key}/none", "--repair", status=3)


def test_plain_escapes_what_would_break_its_lines(cluster: Cluster, key: str) -> None:
    cluster("put", key, "tab\tline\nend\\")
    plain = cluster("get", key, "--all", "-o", "plain").stdout.decode()
    assert plain.endswith("\ttab\\tline\\nend\\\\\n")
    assert plain.count("\n") == 1
