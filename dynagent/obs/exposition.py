"""The metrics of `obs.metrics` as Prometheus text. Imported only by who needs it: prometheus-client
takes a tenth of a second to load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from dynagent.obs.metrics import COUNTER, HISTOGRAM, METRICS, Metric, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def own_metrics(read: Callable[[], Status]) -> Callable[[], bytes]:
    """What makes /metrics of the agent in this process, whose status `read` gives."""
    registry = CollectorRegistry()
    registry.register(_Statuses(lambda: [("", read())]))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return lambda: generate_latest(registry)


def metrics_of(statuses: Sequence[tuple[str, Status]]) -> bytes:
    """The metrics of several agents, each with its name as the label `node`."""
    return generate_latest(_Statuses(lambda: statuses))


class _Statuses(Collector):
    """Reads when it is asked, and never before."""

    def __init__(self, read: Callable[[], Sequence[tuple[str, Status]]]) -> None:
        self._read = read

    def describe(self) -> list[Family]:
        return [_family(metric, ()) for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        statuses = self._read()
        label = ("node",) if any(node for node, _ in statuses) else ()
        for metric in METRICS:
            family = _family(metric, label)
            for node, status in statuses:
                for labels, value in metric.read(status):
                    _add(family, (node, *labels) if label else labels, value)
            yield family


def _family(metric: Metric, label: tuple[str, ...]) -> Family:
    labels = [*label, *metric.labels]
    if metric.kind == COUNTER:
        return CounterMetricFamily(metric.name, metric.help, labels=labels)
    if metric.kind == HISTOGRAM:
        return HistogramMetricFamily(metric.name, metric.help, labels=labels)
    return GaugeMetricFamily(metric.name, metric.help, labels=labels)


def _add(family: Family, labels: tuple[str, ...], value: object) -> None:
    if isinstance(family, HistogramMetricFamily):
        assert isinstance(value, dict)
        bounds = [*map(str, value["bounds_s"]), "+Inf"]
        buckets = list(zip(bounds, accumulate(value["counts"]), strict=True))
        family.add_metric(labels, buckets, value["sum_s"])
    else:
        assert isinstance(value, int | float)
        family.add_metric(labels, value)
