"""What a load came to: `bench`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from dynctl.views.base import Document


class BenchLatency(msgspec.Struct, frozen=True, kw_only=True):
    """The latencies of one kind of operation that was answered, in milliseconds."""

    operation: Annotated[str, Meta(description="get, put, or all of a mixed load")]
    count: int
    per_s: Annotated[float, Meta(description="answered within the measurement, per second")]
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class BenchCount(msgspec.Struct, frozen=True, kw_only=True):
    """How often something happened."""

    name: Annotated[str, Meta(description="a class of errors, or the address of an agent")]
    count: int


class BenchDocument(Document, frozen=True, kw_only=True):
    """`bench`."""

    workload: Annotated[str, Meta(description="put, get or mixed")]
    loop: Annotated[
        str,
        Meta(
            description="closed: a request goes out when there is room; open: at its time, from "
            "which its latency counts"
        ),
    ]
    rate: Annotated[int | None, Meta(description="requests per second of an open loop")]
    connections: int
    in_flight: Annotated[int, Meta(description="requests under way, per connection")]
    value_bytes: int
    keys: int
    distribution: str
    read_share: float
    mode: Annotated[str, Meta(description="of puts: context, overwrite or blind")]
    seed: str
    duration_s: Annotated[float, Meta(description="of the measurement")]
    operations: Annotated[int, Meta(description="answered, errors not counted")]
    per_s: Annotated[float, Meta(description="answered within the measurement, per second")]
    agents: int
    agents_cpu_us: Annotated[
        float | None, Meta(description="CPU of all agents per operation; null: not known")
    ]
    agents_cpu_unknown: Annotated[str, Meta(description="why it is not known; else empty")]
    generator_cpu_us: Annotated[float, Meta(description="CPU of this command per request")]
    generator_busy: Annotated[
        float, Meta(description="share of one core; over 0.8 the figures are this command's own")
    ]
    missing: Annotated[int, Meta(description="gets that found no value")]
    siblings: Annotated[int, Meta(description="answers about keys with concurrent values")]
    after_end: Annotated[int, Meta(description="answered after the end; in the latencies only")]
    unsent: Annotated[int, Meta(description="due before the end of an open loop, never sent")]
    answered_per_second: list[int]
    latencies: list[BenchLatency]
    errors: Annotated[list[BenchCount], Meta(description="requests that failed, by class")]
    lost: Annotated[list[BenchCount], Meta(description="connections that broke, by agent")]
