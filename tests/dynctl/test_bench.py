"""`dynctl bench`: real loads, short ones, and what it refuses."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest

from tests.dynctl.conftest import Cluster, Dynctl, Here
from tests.dynctl.schemas import problems
from tests.dynctl.test_bulk import start

_SMALL = ["--connections", "6", "--keys", "50", "--value-size", "100", "--warmup", "0"]


def _bench(cluster: Cluster, *words: str) -> dict[str, Any]:
    done = cluster("bench", *words, *_SMALL, "-o", "json")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.real
@pytest.mark.parametrize(
    "words",
    [
        ["put"],
        ["put", "--mode", "overwrite", "--in-flight", "4"],
        ["put", "--mode", "blind", "--prefix", "blind/", "--cleanup"],
        ["get", "--distribution", "zipfian"],
        ["mixed", "--read-share", "B"],
        ["mixed", "--rate", "2000"],
    ],
    ids=" ".join,
)
def test_a_load_is_recorded_as_its_schema_says(
    cluster: Cluster, here: Here, words: list[str]
) -> None:
    found = _bench(cluster, *words, "--ops", "400")
    assert problems(found, json.loads(here("schema", "bench")[1])) == ""
    assert (found["operations"], found["errors"], found["lost"]) == (400, [], [])
    assert (found["missing"], found["unsent"], found["after_end"]) == (0, 0, 0)
    assert sum(found["answered_per_second"]) == 400
    assert found["loop"] == ("open" if "--rate" in words else "closed")
    for row in found["latencies"]:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["p999_ms"]
        assert row["p999_ms"] <= row["max_ms"]
    kinds = ["get", "put", "all"] if words[0] == "mixed" else [words[0]]
    assert [row["operation"] for row in found["latencies"]] == kinds
    assert found["agents_cpu_us"] > 0, found["agents_cpu_unknown"]
    assert found["generator_cpu_us"] > 0


@pytest.mark.real
def test_a_load_of_some_seconds_counts_them(cluster: Cluster) -> None:
    found = _bench(cluster, "get", "--duration", "1.2s")
    assert found["duration_s"] == pytest.approx(1.2)
    assert len(found["answered_per_second"]) == 2
    assert sum(found["answered_per_second"]) + found["after_end"] == found["operations"]


@pytest.mark.real
def test_keys_that_nobody_wrote_are_told_as_missing(cluster: Cluster) -> None:
    found = _bench(cluster, "get", "--ops", "20", "--no-preload", "--prefix", "nobody/")
    assert (found["missing"], found["operations"]) == (20, 20)


@pytest.mark.real
def test_a_context_load_leaves_one_value_each_and_cleanup_none(cluster: Cluster) -> None:
    words = ["put", "--ops", "100", "--prefix", "mine/", "--connections", "1"]
    _bench(cluster, *words)
    assert len(cluster("get", "mine/7").stdout) == 100
    _bench(cluster, *words, "--cleanup")
    cluster.fails(3, "get", "mine/7")


@pytest.mark.real
def test_the_table_has_a_plot_and_the_others_have_none(cluster: Cluster) -> None:
    table = cluster("bench", "mixed", "--ops", "300", *_SMALL, "-o", "table").stdout.decode()
    assert all(word in table for word in ("P99.9", "█", "p50", "closed loop", "one core", "errors"))
    assert "\x1b" not in table
    plain = cluster("bench", "mixed", "--ops", "300", *_SMALL).stdout.decode()
    assert "█" not in plain
    assert "workload\tmixed\n" in plain


@pytest.mark.real
def test_requests_that_fail_are_counted_and_told(cluster: Cluster) -> None:
    words = ["bench", "put", "--ops", "30", "--no-preload", *_SMALL, "-w", "9", "-o", "json"]
    done = cluster(*words, status=1)
    found = json.loads(done.stdout)
    assert (found["operations"], found["latencies"]) == (0, [])
    assert found["errors"] == [{"name": "BadRequest", "count": 30}]
    warning, failure = done.stderr.decode().splitlines()
    assert warning.startswith("dynctl: bench: warning: 30 requests failed, the first with: ")
    assert failure == "dynctl: bench: nothing was answered; see: dynctl health"


@pytest.mark.real
def test_an_interrupt_tells_what_has_been_measured(cluster: Cluster) -> None:
    words = ["put", "--duration", "60s", "--verbose", *_SMALL, "-o", "json"]
    with start(cluster, "bench", *words) as process:
        assert process.stderr is not None and process.stdout is not None
        assert any(b"measuring" in line for line in process.stderr)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        found = json.loads(process.stdout.read())
        assert found["operations"] > 0 and found["duration_s"] < 30
        assert b"interrupted; these are the figures until then" in process.stderr.read()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["write"], "choose put, get or mixed"),
        (["put", "--read-share", "A"], "leave it out"),
        (["mixed", "--read-share", "1.5"], "A, B or C"),
        (["mixed", "--read-share", "-1"], "A, B or C"),
        (["mixed", "--read-share", "."], "A, B or C"),
        (["put", "--mode", "fast"], "context or overwrite or blind"),
        (["put", "--distribution", "pareto"], "uniform or zipfian"),
        (["put", "--value-size", "1TiB"], "write 100, 1k or 1KiB"),
        (["put", "--value-size", "k"], "write 100, 1k or 1KiB"),
        (["put", "--value-size", "9MiB"], "8,388,608"),
        (["put", "--keys", "0"], "1..10000000"),
        (["put", "--connections", "0"], "1..4096"),
        (["put", "--in-flight", "no"], "1..1000"),
        (["put", "--ops", "5", "--duration", "5s"], "leave one out"),
        (["put", "--duration", "0"], "over 0"),
        (["put", "--warmup", "1h"], "not a duration"),
        (["put", "--rate", "0"], "1..1000000"),
        (["put", "--prefix", "p" * 1_100], "1,024"),
        (["put", "-o", "xml"], "table, plain, json, jsonl"),
        (["put", "-w", "17"], "1..16"),
        ([], "missing argument"),
    ],
    ids=lambda words: " ".join(words)[:40] if isinstance(words, list) else "",
)
def test_a_load_that_makes_no_sense_is_refused(here: Here, words: list[str], told: str) -> None:
    status, out, line = here("bench", *words)
    assert (status, out) == (2, "")
    assert told in line
    assert line.count("\n") == 1


def test_a_load_of_nothing_names_the_remedies(bare: Dynctl) -> None:
    assert "dynctl up" in bare.fails(7, "bench", "get")
