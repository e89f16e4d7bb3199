"""Deleted keys that still leave a tombstone, and what keeps them: `tombstones`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dynctl.observe import Observation, by_name
from dynctl.views.base import Document

_REASONS = {
    "away": "it does not answer",
    "holds": "it keeps hints there",
    "differs": "its copies differ",
}


class NodeTombstonesRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one agent holds."""

    node: str
    tombstones: Annotated[int | None, Meta(description="null: it does not answer")]
    partitions: Annotated[int | None, Meta(description="that have any")]
    purged: Annotated[int | None, Meta(description="dropped there since it started")]


class BlockedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A node without which tombstones cannot go."""

    blocked_by: Annotated[str, Meta(description="the node")]
    reason: Annotated[
        str,
        Meta(
            description="away (it does not answer), holds (hints of these partitions, which must "
            "be delivered first) or differs (it has another version: repair will make it equal)"
        ),
    ]
    partitions: int


class PartitionTombstonesRow(msgspec.Struct, frozen=True, kw_only=True):
    """The tombstones of one partition."""

    partition: int
    tombstones: Annotated[int, Meta(description="at the owner that has most")]
    barrier: Annotated[int, Meta(description="the lowest at which an owner stands")]
    blocked: Annotated[str, Meta(description="why they stay for now, and who it is; empty: soon")]


class TombstonesDocument(Document, frozen=True, kw_only=True):
    """`tombstones`."""

    tombstones: Annotated[int, Meta(description="copies, on all agents that answer")]
    nodes: list[NodeTombstonesRow]
    blocked: list[BlockedRow]
    partitions: Annotated[list[PartitionTombstonesRow], Meta(description="with --by-partition")]


def tombstones_document(seen: Observation) -> TombstonesDocument:
    names: dict[str, str] = {one.member.id: one.member.name for one in seen.members}
    blocked: Counter[tuple[str, str]] = Counter()
    rows: list[NodeTombstonesRow] = []
    places: dict[int, list[list[Any]]] = {}
    for one in by_name(seen):
        told = (one.status or {}).get("tombstones", {})
        rows.append(
            NodeTombstonesRow(
                node=one.member.name,
                tombstones=told.get("count"),
                partitions=told.get("partitions"),
                purged=told.get("purged"),
            )
        )
        for node, reasons in told.get("blocked", {}).items():
            for reason, count in reasons.items():
                blocked[names.get(node, node), reason] += count
        for place in told.get("by_partition", ()):
            places.setdefault(place[0], []).append(place)
    return TombstonesDocument(
        tombstones=sum(row.tombstones or 0 for row in rows),
        nodes=rows,
        blocked=[
            BlockedRow(blocked_by=node, reason=reason, partitions=count)
            for (node, reason), count in sorted(blocked.items())
        ],
        partitions=[_partition(at, places[at], names) for at in sorted(places)],
    )


def _partition(at: int, places: list[list[Any]], names: dict[str, str]) -> PartitionTombstonesRow:
    """From what its owners say: [partition, count, barrier, reason, nodes]."""
    why = {
        f"{', '.join(names.get(node, node) for node in nodes)}: {_REASONS.get(reason, reason)}"
        for _, _, _, reason, nodes in places
        if reason
    }
    return PartitionTombstonesRow(
        partition=at,
        tombstones=max(place[1] for place in places),
        barrier=min(place[2] for place in places),
        blocked="; ".join(sorted(why)),
    )
