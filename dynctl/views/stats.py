"""What agents count: `stats`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from dynagent.core.ring import Member
from dynagent.obs.metrics import peers_known, peers_up, split_counters
from dynctl.observe import Seen
from dynctl.views.base import CountRow, Document, Text, text_of


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
    refused: Annotated[int | None, Meta(description="as Overloaded; see refused_by_reason")]
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
    keys: Annotated[int | None, Meta(description="records of its partitions, tombstones too")]
    store_bytes: int | None
    stalls: Annotated[int | None, Meta(description="turns of the event loop that were too long")]
    stall_s: float | None
    stall_s_max: float | None
    most_siblings: Annotated[
        int | None,
        Meta(description="concurrent values of the key with the most, of those changed since"),
    ]
    most_siblings_key: Annotated[Text | None, Meta(description="that key; null: there is none")]
    most_siblings_bytes: Annotated[
        int | None, Meta(description="of the largest record with several values")
    ]
    hints: Annotated[int | None, Meta(description="keys that it owes others")]
    hint_bytes: Annotated[
        int | None, Meta(description="of copies that it keeps only for others; see hint_bytes_max")
    ]
    hints_refused: Annotated[
        int | None, Meta(description="copies for others that it had no room for")
    ]
    dirty_partitions: Annotated[
        int | None, Meta(description="that it owes others whole, each counted for each of them")
    ]
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


def stats_rows(answered: Sequence[Seen]) -> list[StatsRow]:
    """What those that answered have counted."""
    return [_stats_row(one.member, one.status) for one in answered if one.status is not None]


def _stats_row(member: Member, status: dict[str, Any]) -> StatsRow:
    requests, errors = split_counters(status)
    batch, store = status.get("batch", {}), status.get("store", {})
    commits, stalls = status.get("commits", {}), status.get("stalls", {})
    background, siblings = status.get("background", {}), status.get("siblings", {})
    refused: dict[str, int] | None = status.get("admission", {}).get("refused")
    copies: dict[str, int] = status.get("hint_copies", {})
    return StatsRow(
        name=member.name,
        id=member.id,
        address=member.address,
        http=status.get("http"),
        version=status.get("version"),
        state=status["state"],
        epoch=status["epoch"],
        run=status["run"],
        uptime_s=_rounded(status, "uptime_s"),
        cpu_s=_rounded(status, "cpu_s"),
        gets=requests.get("Get", 0),
        puts=requests.get("Put", 0),
        errors=sum(errors.values()),
        in_flight=status["in_flight"],
        refused=sum(refused.values()) if refused is not None else None,
        connections=status.get("connections"),
        peers_up=peers_up(status),
        peers_known=peers_known(status),
        partitions_below_quorum=status.get("below_quorum"),
        batch_records=batch.get("records"),
        batch_bytes=batch.get("bytes"),
        commits=sum(commits["counts"]) if commits else None,
        committed_records=commits.get("records"),
        commit_s=_rounded(commits, "sum_s"),
        commit_s_max=_rounded(commits, "max_s"),
        keys=store.get("keys"),
        store_bytes=store.get("bytes"),
        stalls=sum(stalls["counts"]) if stalls else None,
        stall_s=_rounded(stalls, "sum_s"),
        stall_s_max=_rounded(stalls, "max_s"),
        most_siblings=siblings.get("most"),
        most_siblings_key=text_of(siblings["key"]) if siblings.get("key") else None,
        most_siblings_bytes=siblings.get("bytes"),
        hints=_total(status, "hints"),
        hint_bytes=copies.get("bytes"),
        hints_refused=copies.get("refused"),
        dirty_partitions=_total(status, "dirty"),
        background_share=_rounded(background, "share"),
        background_bytes=background.get("bytes"),
        foreground_p99_s=_rounded(background, "foreground_p99_s"),
        requests_by_kind=_counts(requests),
        errors_by_kind=_counts(errors),
        refused_by_reason=_counts(refused or {}),
    )


def _rounded(fields: dict[str, Any], name: str) -> float | None:
    found = fields.get(name)
    return None if found is None else round(found, 6)


def _total(status: dict[str, Any], name: str) -> int | None:
    found: dict[str, int] | None = status.get(name)
    return None if found is None else sum(found.values())


def _counts(counters: dict[str, int]) -> list[CountRow]:
    return [CountRow(kind=kind, count=count) for kind, count in sorted(counters.items())]
