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
    a line for each row, joined by the fields of `LINE_FIELDS`."""

    ROWS: ClassVar[str] = ""
    LINE_FIELDS: ClassVar[tuple[str, ...]] = ("schema_version",)
    COLUMNS: ClassVar[tuple[str, ...]] = ()  # of table and plain, if not all fields of a row

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
            "unlinked: only this command does; unreachable: only that agent does"
        ),
    ]
    share: Annotated[float, Meta(description="of all places on the ring, 0 to 1")]


class NodesDocument(Document, frozen=True, kw_only=True):
    """`node ls`."""

    ROWS: ClassVar[str] = "nodes"

    nodes: list[NodeRow]


class RingNodeRow(NodeRow, frozen=True, kw_only=True):
    """A member of the ring and how much of it it holds."""

    places: Annotated[int, Meta(description="preference lists that name it")]
    first_places: Annotated[int, Meta(description="preference lists that begin with it")]


class RingStatusDocument(Document, frozen=True, kw_only=True):
    """`ring status`."""

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
    requests_by_kind: list[CountRow]
    errors_by_kind: list[CountRow]


class StatsDocument(Document, frozen=True, kw_only=True):
    """`stats`."""

    ROWS: ClassVar[str] = "nodes"
    COLUMNS: ClassVar[tuple[str, ...]] = (
        *("name", "state", "gets", "puts", "errors", "in_flight", "commits", "keys"),
        *("store_bytes", "cpu_s", "stalls"),
    )

    nodes: list[StatsRow]


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
    "health": HealthDocument,
    "stats": StatsDocument,
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
        dot=f"{version.actor:016x}:{version.counter}",
        written_at=_moment(version.wall_ms),
        op_id=version.op_id.hex(),
        value=text_of(version.value),
    )


def _moment(wall_ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(wall_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):  # a coordinator's clock may be anything
        return f"{wall_ms}ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
