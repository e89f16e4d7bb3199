"""Listing keys: every form, cut short and gone on, and with agents down."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynagent.client.blocking import Client
from dynctl.streams import show_line
from tests.dynctl.conftest import Cluster, start_cluster
from tests.real.cluster import WAIT_S_MAX

pytestmark = pytest.mark.real


def _put(cluster: Cluster, *keys: bytes) -> None:
    with Client(cluster.endpoints) as client:
        for key in keys:
            client.put(key, b"v", blind=True)


def _token(told: bytes) -> str:
    (line,) = [line for line in told.decode().splitlines() if "--resume " in line]
    assert line.startswith("dynctl: keys: to list what is left: --resume ")
    return line.rpartition(" ")[2]


ODD = [b"tab\t", b"two\nlines", b"back\\slash", b"\xff\xfe", "é ü".encode(), b"\x1b[31m", b"\0nul"]


@pytest.fixture
def prefix(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    """Of this test's own keys, among all those of the shared cluster."""
    found = f"{request.node.name}/"
    _put(cluster, *(found.encode() + end for end in (*ODD, b"plain", b"deleted")))
    cluster("delete", f"{found}deleted")
    _put(cluster, found.encode() + b"plain")  # a second, concurrent value
    return found


def test_plain_lines_can_be_turned_back_into_keys(cluster: Cluster, prefix: str) -> None:
    lines = cluster("keys", "--prefix", prefix).stdout.decode().splitlines()
    told = {line.removeprefix(prefix) for line in lines}
    assert len(lines) == len(ODD) + 1
    assert told == {
        *("tab\\t", "two\\nlines", "back\\\\slash", "\\xff\\xfe", "é ü", "\\x1b[31m", "\\x00nul"),
        "plain",
    }
    back = subprocess.run(["printf", "%b", lines[0]], capture_output=True, check=True).stdout
    assert show_line(back) == lines[0]


def test_nul_separates_the_bytes_of_keys_as_they_are(cluster: Cluster, prefix: str) -> None:
    out = cluster("keys", "-0", "--prefix", prefix).stdout
    keys = [prefix.encode() + end for end in (*ODD, b"plain") if b"\0" not in end]
    found = out.split(b"\0")
    assert out.endswith(b"\0")
    assert set(keys) < set(found)
    assert prefix.encode() + b"deleted" not in found


def test_records_have_bytes_and_siblings(cluster: Cluster, prefix: str) -> None:
    document = json.loads(cluster("keys", "--prefix", prefix, "-o", "json").stdout)
    assert (document["prefix"], document["complete"], document["resume"]) == (prefix, True, None)
    rows = {json.dumps(row["key"]): row["siblings"] for row in document["keys"]}
    assert rows[json.dumps(prefix + "plain")] == 2
    assert set(rows.values()) == {1, 2}
    assert sum("base64" in key for key in rows) == 1
    lines = cluster("keys", "--prefix", prefix, "-o", "jsonl").stdout.splitlines()
    assert [json.loads(line)["key"] for line in lines] == [row["key"] for row in document["keys"]]
    table = cluster("keys", "--prefix", prefix, "-o", "table").stdout.decode().splitlines()
    assert table[0] == "SIBLINGS  KEY"
    assert f"2         {prefix}plain" in table


def test_nothing_found_is_no_failure(cluster: Cluster) -> None:
    for form, shown in (("plain", b""), ("jsonl", b""), ("table", b"SIBLINGS  KEY\n")):
        done = cluster("keys", "--prefix", "no such", "-o", form)
        assert (done.stdout, done.stderr) == (shown, b"")
    document = json.loads(cluster("keys", "--prefix", "no such", "-o", "json").stdout)
    assert (document["keys"], document["complete"]) == ([], True)


def test_a_limit_tells_how_to_go_on_until_nothing_is_left(cluster: Cluster, prefix: str) -> None:
    whole = cluster("keys", "--prefix", prefix).stdout
    done = cluster("keys", "--prefix", prefix, "--limit", "3")
    parts = [done.stdout]
    while b"--resume" in done.stderr:
        assert parts[-1].count(b"\n") <= 3
        done = cluster("keys", "--resume", _token(done.stderr), "--limit", "3")
        parts.append(done.stdout)
    assert b"".join(parts) == whole


def test_a_token_of_another_prefix_or_cut_is_refused(cluster: Cluster, prefix: str) -> None:
    token = _token(cluster("keys", "--prefix", prefix, "--limit", "1").stderr)
    assert "another prefix" in cluster.fails(2, "keys", "--resume", token, "--prefix", "other")
    assert "resume token" in cluster.fails(2, "keys", "--resume", token[:-4])


def test_a_prefix_need_not_be_text(cluster: Cluster) -> None:
    _put(cluster, b"\xfe\xfdkey")
    assert cluster("keys", "--prefix", b"\xfe\xfd").stdout == b"\\xfe\\xfdkey\n"


def test_verbose_counts(cluster: Cluster, prefix: str) -> None:
    done = cluster("keys", "--prefix", prefix, "-v")
    assert done.stderr == b"dynctl: keys: %d keys\n" % done.stdout.count(b"\n")


@pytest.mark.parametrize("form", ["plain", "json"])
def test_an_interrupted_listing_tells_how_to_go_on(cluster: Cluster, form: str) -> None:
    prefix = f"interrupted {form}/"
    _put(cluster, *(prefix.encode() + b"%d" % number for number in range(200)))
    with subprocess.Popen(
        [*cluster.command, "keys", "--prefix", prefix, "--rate", "40", "-o", form],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cluster.environment,
    ) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 1)  # it has begun
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=WAIT_S_MAX)
    assert process.returncode == 130
    assert told.count(b"\n") == 1
    out = (first + rest).decode()
    if form == "json":
        document = json.loads(out)
        assert document["complete"] is False
        assert document["resume"] == _token(told)
        found = [row["key"] for row in document["keys"]]
    else:
        found = out.splitlines()
    left = cluster("keys", "--resume", _token(told)).stdout.decode().splitlines()
    assert 0 < len(found) < 200
    assert set(found) | set(left) == {f"{prefix}{number}" for number in range(200)}


# --- agents down ---------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of this test's own, which it may harm."""
    found = start_cluster(tmp_path, 3)
    yield found
    found("down", "--dir", str(found.directory), "--purge")


def _pids(cluster: Cluster) -> list[int]:
    told = cluster("up", "--dir", str(cluster.directory)).stderr.decode()
    return [int(number) for number in re.findall(r"\(pid (\d+)\)", told)]


def test_with_agents_down_what_can_be_listed_is_and_the_rest_is_named(own: Cluster) -> None:
    _put(own, *(b"k%d" % number for number in range(20)))
    pids = _pids(own)
    os.kill(pids[1], signal.SIGKILL)
    done = own("keys")
    assert (done.stdout.count(b"\n"), done.stderr) == (20, b"")
    explained = json.loads(own("explain", "k1", "-o", "json").stdout)
    states = {owner["name"]: owner["state"] for owner in explained["owners"]}
    assert states == {"local-1": "present", "local-2": "unreachable", "local-3": "present"}
    assert (explained["agree"], explained["r_passes"], explained["w_passes"]) == (False, True, True)

    os.kill(pids[2], signal.SIGKILL)
    done = own("keys", "-o", "json", status=5)
    document = json.loads(done.stdout)
    assert (document["keys"], document["complete"]) == ([], False)
    assert b"dynctl: keys: quorum not met: fewer than the 2 owners needed" in done.stderr
    assert b"partitions 0-255 (" in done.stderr
    assert b"local-2: Connection refused" in done.stderr
    done = own("explain", "k1", "-o", "json", status=5)
    assert (
        b"quorum not met: 1 of the 2 owners needed (R=2) could answer a get of this key now"
        in done.stderr
    )
    explained = json.loads(done.stdout)
    assert (explained["r_passes"], explained["w_passes"]) == (False, False)

    own("up", "--dir", str(own.directory))
    own("wait", "ready")
    done = own("keys", "--resume", document["resume"])
    assert done.stdout.count(b"\n") == 20
