"""`dynctl scrub`, `doctor` and `export`, and one tree checked by hand."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynagent.core.ring import token_of
from tests.dynctl.conftest import ROOT, Cluster, start_cluster

KEYS = [f"care {number}" for number in range(300)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three agents with some keys, one of them deleted, one with two values."""
    found = start_cluster(tmp_path_factory.mktemp("care"), 3)
    lines = "".join(json.dumps({"key": key, "value": key * 3}) + "\n" for key in KEYS)
    found("mput", stdin=lines.encode())
    found("delete", KEYS[0])
    found("put", KEYS[1], "beside", "--blind")
    yield found
    found("down", "--dir", str(found.directory), "--purge")


def rows(stdout: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in stdout.splitlines()]


def store(*words: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "dynagent.main", "store", *words, "-o", "jsonl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done
    return rows(done.stdout)


def data_dirs(cluster: Cluster) -> list[Path]:
    found = sorted(path.parent for path in cluster.directory.rglob("identity"))
    assert len(found) == 3
    return found


def restart_after(cluster: Cluster, *words: str) -> list[dict[str, object]]:
    """Stops all, damages the store of the first, starts all again."""
    cluster("down", "--dir", str(cluster.directory))
    kind, *rest = words
    done = store("damage", str(data_dirs(cluster)[0]), kind, *rest, "--yes")
    cluster("up", "--dir", str(cluster.directory), "--port", "0", "--nodes", "3")
    return done


def wait_until_whole(cluster: Cluster) -> None:
    deadline = time.monotonic() + 40
    while rows(cluster("doctor", "-o", "jsonl", status=None).stdout):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_an_export_has_every_record_once_and_tells_of_the_cluster(filled: Cluster) -> None:
    header, *records = rows(filled("export").stdout)
    assert header["node"] is None
    assert (header["partitions"], header["n"], header["w"]) == (256, 3, 2)
    by_key = {str(row["key"]): row for row in records}
    assert set(by_key) == set(KEYS)
    assert len(records) == len(KEYS)
    places = [token_of(str(row["key"]).encode()) for row in records]
    assert places == sorted(places)
    assert by_key[KEYS[0]]["siblings"] == []
    assert by_key[KEYS[0]]["clock"]
    two = by_key[KEYS[1]]["siblings"]
    assert isinstance(two, list)
    assert sorted(one["value"] for one in two) == ["beside", KEYS[1] * 3]
    siblings, clock = by_key[KEYS[2]]["siblings"], by_key[KEYS[2]]["clock"]
    assert isinstance(siblings, list)
    assert isinstance(clock, dict)
    assert [one["value"] for one in siblings] == [KEYS[2] * 3]
    assert siblings[0]["dot"].partition(":")[0] in clock


def test_each_node_exports_the_same_where_all_are_equal(filled: Cluster) -> None:
    names = [str(row["name"]) for row in rows(filled("node", "ls", "-o", "jsonl").stdout)]
    exports = [rows(filled("export", "--node", name).stdout)[1:] for name in names]
    assert exports[0] == exports[1] == exports[2]


def test_one_tree_checked_by_hand(filled: Cluster, tmp_path: Path) -> None:
    """The script of docs/trees.md, which knows nothing of ours, finds the roots of the agents."""
    page = (ROOT / "docs" / "trees.md").read_text(encoding="utf-8")
    script = tmp_path / "root.py"
    code = page.partition("```python\n")[2].partition("```")[0]
    assert "dynagent" not in code
    assert len(code.splitlines()) <= 40
    script.write_text(code, encoding="utf-8")
    filled("verify", "--out", str(tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    fullest = max(report["partitions"], key=lambda row: row["owners"][0]["records"])
    number = str(fullest["partition"])
    assert fullest["owners"][0]["records"] > 1
    for owner in fullest["owners"]:
        exported = filled("export", "--node", owner["name"], "--partition", number).stdout
        done = subprocess.run(
            [sys.executable, "-I", str(script), report["cluster_id"], "256", number],
            input=exported,
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.decode().strip() == owner["root"]


def test_a_scrub_of_good_stores_finds_nothing(filled: Cluster) -> None:
    told = rows(filled("scrub", "-o", "jsonl").stdout)
    assert [row["state"] for row in told] == ["done"] * 3
    assert {row["keys"] for row in told} == {len(KEYS)}
    (one,) = rows(filled("scrub", str(told[1]["node"]), "--partition", "7", "-o", "jsonl").stdout)
    assert (one["node"], one["done"], one["all"]) == (told[1]["node"], 1, 1)
    assert filled("doctor").stdout == b""


def test_what_rotted_was_lost_or_misplaced_is_found_named_and_comes_back(filled: Cluster) -> None:
    before = rows(filled("export").stdout)[1:]
    rotten = restart_after(filled, "flip", "--key", KEYS[5], "--key", KEYS[6])
    assert len(rotten) == 2
    done = filled("scrub", "-o", "jsonl", status=12)
    assert sum(int(str(row["unreadable"])) for row in rows(done.stdout)) == 2
    assert b"2 records are not as they were written" in done.stderr
    wait_until_whole(filled)
    lost = restart_after(filled, "lose", "--count", "3", "--seed", "1")
    done = filled("scrub", "-o", "jsonl", status=12)
    assert sum(int(str(row["lost"])) for row in rows(done.stdout)) == len(lost) == 3
    wait_until_whole(filled)
    restart_after(filled, "misplace", "--key", KEYS[9])
    done = filled("scrub", "-o", "jsonl", status=12)
    assert sum(int(str(row["misplaced"])) for row in rows(done.stdout)) == 1
    wait_until_whole(filled)
    names = [str(row["name"]) for row in rows(filled("node", "ls", "-o", "jsonl").stdout)]
    for name in names:
        assert rows(filled("export", "--node", name).stdout)[1:] == before
    assert rows(filled("scrub", "-o", "jsonl").stdout)


def test_doctor_names_an_agent_that_is_down_and_who_waits_for_it(filled: Cluster) -> None:
    nodes = rows(filled("node", "ls", "-o", "jsonl").stdout)
    pids = {path.name: path for path in filled.directory.rglob("lock")}
    assert pids
    victim = data_dirs(filled)[2]
    pid = int((victim / "lock").read_text())
    subprocess.run(["kill", "-9", str(pid)], check=True)
    deadline = time.monotonic() + 20
    found: list[dict[str, object]] = []
    while not {"agent_down", "hints"} <= {str(row["finding"]) for row in found}:
        assert time.monotonic() < deadline, found
        filled("put", KEYS[20], "while one is away", status=None)
        found = rows(filled("doctor", "-o", "jsonl", status=None).stdout)
    done = filled("doctor", status=8)
    assert b"findings need action" in done.stderr
    down = [row for row in found if row["finding"] == "agent_down"]
    assert len({row["node"] for row in down} & {row["name"] for row in nodes}) >= 1
    assert all(row["remedy"] for row in found)
    filled("up", "--dir", str(filled.directory), "--port", "0", "--nodes", "3")
    wait_until_whole(filled)


def test_bad_input_is_told_in_one_line(filled: Cluster) -> None:
    assert "no node is called 'nobody'" in filled.fails(2, "scrub", "nobody")
    assert "--partition" in filled.fails(2, "scrub", "--partition", "256")
    assert "no node is called" in filled.fails(2, "export", "--node", "nobody")
    assert "--partition" in filled.fails(2, "export", "--partition", "x")


def test_bytes_that_are_no_text_are_exported_in_base64(filled: Cluster) -> None:
    filled("put", b"\xff\xfe", "-", stdin=b"\x00\xff")
    records = rows(filled("export").stdout)[1:]
    (row,) = [row for row in records if row["key"] == {"base64": "//4="}]
    siblings = row["siblings"]
    assert isinstance(siblings, list)
    assert base64.b64decode(siblings[0]["value"]["base64"]) == b"\x00\xff"
