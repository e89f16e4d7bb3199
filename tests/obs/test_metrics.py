"""The table of metrics, and the text made from it."""

from __future__ import annotations

import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from dynagent.core.inspect import status_fields
from dynagent.core.messages import catalogue
from dynagent.errors import BY_CODE
from dynagent.obs.exposition import metrics_of
from dynagent.obs.histogram import Histogram
from dynagent.obs.metrics import COUNTER, HISTOGRAM, METRICS, split_counters
from tests.core.harness import IDS, Cluster, make_ring


def status() -> dict[str, Any]:
    """Of a node in a harness: what the agent's shell would add is not there."""
    return status_fields(Cluster(make_ring(3)).nodes[IDS[0]])


def samples(text: bytes) -> list[tuple[str, dict[str, str], float]]:
    families = text_string_to_metric_families(text.decode())
    return [(s.name, s.labels, s.value) for family in families for s in family.samples]


def test_names_follow_the_rules_of_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"dynagent_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == COUNTER)
        assert not re.search(r"_(ms|millis|kib|mib)(_|$)", metric.name)
        assert metric.kind != HISTOGRAM or metric.name.endswith("_seconds")
        assert metric.help.endswith(".")


def test_a_histogram_counts_at_the_bound_below_it_and_beyond_the_last() -> None:
    histogram = Histogram((0.1, 1.0))
    for lasted_s in (0.05, 0.1, 0.2, 5.0):
        histogram.observe(lasted_s)
    found = samples(metrics_of([("n1", {**status(), "commits": histogram.document()})]))
    buckets = {
        labels["le"]: v for name, labels, v in found if name.endswith("duration_seconds_bucket")
    }
    assert buckets == {"0.1": 2, "1.0": 3, "+Inf": 4}
    [total] = [v for name, _, v in found if name == "dynagent_commit_duration_seconds_sum"]
    assert total == 5.35
    assert (histogram.count, histogram.max_s) == (4, 5.0)


def test_errors_and_requests_are_told_apart_by_name() -> None:
    counters = {"Get": 3, "QuorumNotMet": 2, "StatusRequest": 1, "Overloaded": 1}
    requests, errors = split_counters({"counters": counters})
    assert requests == {"Get": 3, "StatusRequest": 1}
    assert errors == {"QuorumNotMet": 2, "Overloaded": 1}


def test_no_error_is_called_like_a_message() -> None:
    assert not {cls.__name__ for cls in catalogue()} & {cls.__name__ for cls in BY_CODE.values()}


def test_several_agents_share_a_family_and_differ_by_a_label() -> None:
    text = metrics_of([("n1", status()), ('n"2\n', status())])
    found = [labels["node"] for name, labels, _ in samples(text) if name == "dynagent_serving"]
    assert found == ["n1", 'n"2\n']
    assert text.count(b"# TYPE dynagent_serving gauge\n") == 1


def test_what_an_agent_does_not_tell_is_left_out() -> None:
    old = status()
    for name in ("members", "below_quorum", "batch"):
        del old[name]
    names = {name for name, _, _ in samples(metrics_of([("old", old)]))}
    assert "dynagent_serving" in names
    assert not names & {"dynagent_cpu_seconds_total", "dynagent_batch_records"}
