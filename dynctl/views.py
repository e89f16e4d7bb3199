"""The records that verbs print, as typed values: `dynctl schema` is made from these classes.

A document has `schema_version`; fields are only ever added. Bytes that are not UTF-8 are
`{"base64": …}`; tokens and 64-bit counters are strings, because JSON readers round them. What a
mechanism that does not exist yet would tell is null, false or 0, as its field says.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from dynagent.client.requests import Result
from dynagent.core.version import Version

SCHEMA_VERSION = 1


class Base64(msgspec.Struct, frozen=True):
    """Bytes that are not UTF-8."""

    base64: str


Text = str | Base64


def text_of(data: bytes) -> Text:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Base64(base64.b64encode(data).decode())


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What a verb prints. `ROWS` names the field that is its list, if it is one: then jsonl prints
    a line for each row, joined by the fields of `LINE_FIELDS`. `TABLE_OMITS`: columns of rows that
    would make a table too wide to read; every other form has them."""

    ROWS: ClassVar[str] = ""
    LINE_FIELDS: ClassVar[tuple[str, ...]] = ("schema_version",)
    COLUMNS: ClassVar[tuple[str, ...]] = ()  # of table and plain, if not all fields of a row
    TABLE_OMITS: ClassVar[tuple[str, ...]] = ()  # of table only

    schema_version: int = SCHEMA_VERSION


class Sibling(msgspec.Struct, frozen=True, kw_only=True):
    """One concurrent value."""

    dot: Annotated[str, Meta(description="actor:counter, the identity of this write")]
    written_at: Annotated[str, Meta(description="clock of its coordinator; information only")]
    op_id: Annotated[str, Meta(description="of the put that wrote it, 32 hex digits")]
    value: Text


class SiblingsDocument(Document, frozen=True, kw_only=True):
    """`get --all`: every concurrent value of a key."""

    ROWS: ClassVar[str] = "siblings"
    LINE_FIELDS: ClassVar[tuple[str, ...]] = ("schema_version", "key", "context", "partial")

    key: Text
    status: Annotated[str, Meta(description="ok: one value; conflict: several")]
    context: Annotated[str, Meta(description="base64url; a put with it supersedes all of these")]
    partial: Annotated[bool, Meta(description="fewer than R owners answered")]
    siblings: list[Sibling]


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the ring."""

    name: str
    id: str
    address: str
    zone: str
    host: str
    capacity: int
    state: Annotated[str, Meta(description="serving or draining, in its own words; else unknown")]
    liveness: Annotated[
        str,
        Meta(
            description="up; down: neither the agent that answered nor this command reaches it; "
            "unlinked: only this command does; unreachable: only that agent does; suspect, dead, "
            "gray: this command does, but that agent has no answer to its pings, for long, or "
            "to its data requests"
        ),
    ]
    share: Annotated[float, Meta(description="of all places on the ring, 0 to 1")]


class NodesDocument(Document, frozen=True, kw_only=True):
    """`node ls`."""

    ROWS: ClassVar[str] = "nodes"
    TABLE_OMITS: ClassVar[tuple[str, ...]] = ("id",)

    nodes: list[NodeRow]


class RingNodeRow(NodeRow, frozen=True, kw_only=True):
    """A member of the ring and how much of it it holds."""

    places: Annotated[int, Meta(description="preference lists that name it")]
    first_places: Annotated[int, Meta(description="preference lists that begin with it")]


class RingStatusDocument(Document, frozen=True, kw_only=True):
    """`ring status`."""

    TABLE_OMITS: ClassVar[tuple[str, ...]] = ("id", "zone", "host", "capacity")

    cluster_id: str
    epoch: int
    n: int
    r: int
    w: int
    partitions: int
    nodes: list[RingNodeRow]
    unsettled: Annotated[bool, Meta(description="a change of the ring is under way")]
    hints: Annotated[int, Meta(description="entries kept for nodes that were down")]
    oldest_unverified_s: Annotated[
        float | None,
        Meta(description="age of the longest unverified replica; null: not measured"),
    ]


class PartitionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A partition and its preference list."""

    partition: int
    first_token: Annotated[str, Meta(description="128 bits, 32 hex digits")]
    owners: Annotated[list[str], Meta(description="names, in order of preference")]


class RingDocument(Document, frozen=True, kw_only=True):
    """`ring show`."""

    ROWS: ClassVar[str] = "partitions"

    cluster_id: str
    epoch: int
    partitions: list[PartitionRow]


class HealthRow(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the ring as it answered itself."""

    name: str
    address: str
    healthy: bool
    problem: Annotated[str, Meta(description="empty if healthy")]


class HealthDocument(Document, frozen=True, kw_only=True):
    """`health`."""

    ROWS: ClassVar[str] = "nodes"

    healthy: bool
    nodes: list[HealthRow]


class CountRow(msgspec.Struct, frozen=True, kw_only=True):
    """How often something of a kind happened."""

    kind: str
    count: int


class StatsRow(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent has counted since its start. null: it does not tell (another version)."""

    name: str
    id: str
    address: str
    http: Annotated[str | None, Meta(description="where it serves /metrics; empty: nowhere")]
    version: str | None
    state: str
    epoch: int
    run: Annotated[int, Meta(description="how often it has been started")]
    uptime_s: float | None
    cpu_s: Annotated[float | None, Meta(description="user and system time of the process")]
    gets: Annotated[int, Meta(description="that clients and other agents asked of it")]
    puts: Annotated[int, Meta(description="deletes are puts too")]
    errors: int
    in_flight: Annotated[int, Meta(description="operations under way")]
    refused: Annotated[int | None, Meta(description="gets and puts, as Overloaded; by reason below")]
    connections: Annotated[int | None, Meta(description="accepted ones")]
    peers_up: int
    peers_known: int
    partitions_below_quorum: int | None
    batch_records: Annotated[int | None, Meta(description="waiting for the next commit")]
    batch_bytes: int | None
    commits: int | None
    committed_records: int | None
    commit_s: Annotated[float | None, Meta(description="write and fsync of all commits together")]
    commit_s_max: float | None
    keys: Annotated[int | None, Meta(description="in the store; an estimate")]
    store_bytes: int | None
    stalls: Annotated[int | None, Meta(description="turns of the event loop that were too long")]
    stall_s: float | None
    stall_s_max: float | None
    background_share: Annotated[
        float | None, Meta(description="of background_bytes_per_s that hints and repair may use")
    ]
    background_bytes: Annotated[int | None, Meta(description="that they have moved")]
    foreground_p99_s: Annotated[
        float | None, Meta(description="of the last minute's answers; null: there were none")
    ]
    requests_by_kind: list[CountRow]
    errors_by_kind: list[CountRow]
    refused_by_reason: list[CountRow]


class StatsDocument(Document, frozen=True, kw_only=True):
    """`stats`."""

    ROWS: ClassVar[str] = "nodes"
    COLUMNS: ClassVar[tuple[str, ...]] = (
        *("name", "state", "gets", "puts", "errors", "in_flight", "commits", "keys"),
        *("store_bytes", "cpu_s", "stalls"),
    )
    TABLE_OMITS: ClassVar[tuple[str, ...]] = ("in_flight", "stalls")

    nodes: list[StatsRow]


class HintRow(msgspec.Struct, frozen=True, kw_only=True):
    """Keys of which a node keeps a copy for another one."""

    node: Annotated[str, Meta(description="who keeps them")]
    target: Annotated[str, Meta(description="whom they are for")]
    hints: Annotated[int, Meta(description="keys")]
    state: Annotated[str, Meta(description="waiting (for the target), delivering or paused")]


class HintsDocument(Document, frozen=True, kw_only=True):
    """`hints ls`."""

    ROWS: ClassVar[str] = "hints"

    hints: list[HintRow]


class BootstrapDocument(Document, frozen=True, kw_only=True):
    """`bootstrap`."""

    cluster_id: str
    epoch: int
    n: int
    r: int
    w: int
    partitions: int
    members: list[str]
    resumed: Annotated[bool, Meta(description="some agents had this ring already")]


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A key that has a value."""

    key: Text
    siblings: Annotated[
        int,
        Meta(description="concurrent writes left; a get shows one that was sent twice only once"),
    ]


class KeysDocument(Document, frozen=True, kw_only=True):
    """`keys`."""

    ROWS: ClassVar[str] = "keys"

    prefix: Annotated[Text | None, Meta(description="null: that of the resume token, or none")]
    keys: list[KeyRow]
    complete: Annotated[bool, Meta(description="nothing is left to be listed")]
    resume: Annotated[str | None, Meta(description="for --resume: lists what is left")]


class CopyRow(msgspec.Struct, frozen=True, kw_only=True):
    """An owner of the key, and its own copy. Null where it does not answer, or holds none."""

    place: Annotated[int, Meta(description="in the preference list, from 1")]
    name: str
    id: str
    address: str
    liveness: Annotated[
        str,
        Meta(
            description="as in node ls, with the links of the agent that answered: up, down, "
            "unlinked, unreachable, suspect, dead or gray"
        ),
    ]
    state: Annotated[str, Meta(description="present, tombstone, absent, unreadable, unreachable")]
    siblings: int | None
    value_bytes: Annotated[int | None, Meta(description="of all its values together")]
    stored_bytes: Annotated[int | None, Meta(description="of the record on its disk")]
    digest: Annotated[str | None, Meta(description="64 hex digits; equal on equal copies")]
    dots: Annotated[list[str] | None, Meta(description="actor:counter of each value")]
    clock: Annotated[list[str] | None, Meta(description="actor:counter, all that it has seen")]
    pending: Annotated[bool | None, Meta(description="a newer copy waits for its fsync")]
    writable: Annotated[bool | None, Meta(description="it takes writes now")]
    problem: Annotated[str, Meta(description="why it is unreachable; else empty")]


class ExplainDocument(Document, frozen=True, kw_only=True):
    """`explain`."""

    TABLE_OMITS: ClassVar[tuple[str, ...]] = (
        *("id", "address", "stored_bytes", "digest", "dots", "pending", "writable"),
    )

    key: Text
    token: Annotated[str, Meta(description="128 bits, 32 hex digits")]
    partition: int
    epoch: int
    n: int
    r: int
    w: int
    agent: Annotated[str, Meta(description="the agent that answered")]
    agree: Annotated[bool, Meta(description="all owners answered, and their copies are equal")]
    r_passes: Annotated[bool, Meta(description="R owners are up, and can read their copies")]
    w_passes: Annotated[bool, Meta(description="W owners are up, and take writes")]
    owners: Annotated[list[CopyRow], Meta(description="in order of preference")]


class PutRecord(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A line of `mput` and `mdelete`, for a line of the input."""

    key: Annotated[Text | None, Meta(description="null if the input line does not tell it")]
    status: Annotated[str, Meta(description="ok, unknown (it may still appear) or failed")]
    context: Annotated[
        str | None, Meta(description="base64url, for the next put; none while siblings are left")
    ] = None
    error: Annotated[str | None, Meta(description="why it is not ok, and the remedy")] = None
    op_id: Annotated[
        str | None, Meta(description="of an unknown one: the line may be repeated with it, safely")
    ] = None


class GetRecord(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A line of `mget`, for a line of the input."""

    key: Annotated[Text | None, Meta(description="null if the input line does not tell it")]
    status: Annotated[str, Meta(description="ok, not_found, conflict or failed")]
    value: Annotated[Text | None, Meta(description="of a key that is ok")] = None
    context: Annotated[
        str | None, Meta(description="base64url; a put with it supersedes what was read")
    ] = None
    siblings: Annotated[
        list[Sibling] | None, Meta(description="all values of a key in conflict")
    ] = None
    partial: Annotated[bool, Meta(description="fewer than R owners answered")] = False
    error: Annotated[str | None, Meta(description="why it failed, and the remedy")] = None


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


class DemoStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the tour."""

    step: int
    title: str
    ok: bool
    seconds: float
    problem: Annotated[str, Meta(description="what was expected and what was seen; empty if ok")]


class DemoDocument(Document, frozen=True, kw_only=True):
    """`demo`."""

    ROWS: ClassVar[str] = "steps"

    ok: Annotated[bool, Meta(description="every step held")]
    directory: Annotated[str, Meta(description="what was kept for inspection; else empty")]
    steps: list[DemoStep]


# What verbs print line by line, with no document around it.
LINES: dict[str, type[msgspec.Struct]] = {
    "mput": PutRecord,
    "mget": GetRecord,
    "mdelete": PutRecord,
}

DOCUMENTS: dict[str, type[Document]] = {
    "get": SiblingsDocument,
    "bootstrap": BootstrapDocument,
    "ring status": RingStatusDocument,
    "ring show": RingDocument,
    "node ls": NodesDocument,
    "hints ls": HintsDocument,
    "health": HealthDocument,
    "stats": StatsDocument,
    "bench": BenchDocument,
    "demo": DemoDocument,
    "keys": KeysDocument,
    "explain": ExplainDocument,
}


def siblings_view(key: bytes, result: Result) -> SiblingsDocument:
    from dynctl.streams import encode_base64url

    return SiblingsDocument(
        key=text_of(key),
        status="conflict" if len(result.versions) > 1 else "ok",
        context=encode_base64url(result.context),
        partial=result.partial,
        siblings=[sibling_view(version) for version in result.versions],
    )


def sibling_view(version: Version) -> Sibling:
    return Sibling(
        dot=dot_text(version.actor, version.counter),
        written_at=_moment(version.wall_ms),
        op_id=version.op_id.hex(),
        value=text_of(version.value),
    )


def dot_text(actor: int, counter: int) -> str:
    """A dot, or an entry of a clock, as people see it."""
    return f"{actor:016x}:{counter}"


def _moment(wall_ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(wall_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):  # a coordinator's clock may be anything
        return f"{wall_ms}ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
