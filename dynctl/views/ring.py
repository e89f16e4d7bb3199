"""The ring: `bootstrap`, `ring status` and `ring show`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from dynagent.core.ports import PartitionId
from dynagent.core.ring import JOINT_NEW, JOINT_OLD, Ring
from dynctl.observe import Observation, natural
from dynctl.views.base import Document
from dynctl.views.hints import hint_rows
from dynctl.views.nodes import RingNodeRow, node_rows


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
    unsettled: Annotated[
        bool, Meta(description="a change of the ring is under way, or a leaver has yet to go")
    ]
    hints: Annotated[int, Meta(description="entries kept for nodes that were down")]
    oldest_unverified_s: Annotated[
        float | None,
        Meta(
            description="since when the partition waits that was compared between two owners, and "
            "found or made equal, longest ago (of the agents that answer); null: nobody tells"
        ),
    ]
    change: Annotated[str, Meta(description="what is under way; empty: nothing")]
    change_id: Annotated[str, Meta(description="32 hex digits; empty: nothing is under way")]
    change_entry: Annotated[int | None, Meta(description="its number in the ring log")]
    copying: Annotated[
        int, Meta(description="partitions that their new owners copy, and old ones are read for")
    ]
    switching: Annotated[int, Meta(description="partitions that are read from their new owners")]
    voters: Annotated[list[str], Meta(description="more than half of them decide each change")]
    voters_up: Annotated[int, Meta(description="that answer this command")]


def ring_status_document(seen: Observation) -> RingStatusDocument:
    ring, change = seen.ring, seen.ring.change
    names: dict[str, str] = {one.member.id: one.member.name for one in seen.members}
    phases = [move.phase for move in ring.moves.values()]
    return RingStatusDocument(
        cluster_id=ring.cluster_id.hex(),
        epoch=ring.epoch,
        n=ring.n,
        r=ring.r,
        w=ring.w,
        partitions=ring.partitions,
        nodes=node_rows(seen),
        unsettled=change is not None or bool(ring.leaving),
        hints=sum(row.hints for row in hint_rows(seen)),
        oldest_unverified_s=oldest_unverified_s(seen),
        change=change.verb if change is not None else "",
        change_id=change.id.hex() if change is not None else "",
        change_entry=change.index if change is not None else None,
        copying=phases.count(JOINT_OLD),
        switching=phases.count(JOINT_NEW),
        voters=sorted((names[node] for node in ring.voters), key=natural),
        voters_up=sum(
            one.status is not None and one.member.id in ring.voters for one in seen.members
        ),
    )


def oldest_unverified_s(seen: Observation) -> float | None:
    """The worst that any agent tells."""
    told = [
        float(found)
        for one in seen.members
        if one.status is not None
        and (found := one.status.get("antientropy", {}).get("oldest_unverified_s")) is not None
    ]
    return round(max(told), 1) if told else None


class PartitionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A partition and its preference list."""

    partition: int
    first_token: Annotated[str, Meta(description="128 bits, 32 hex digits")]
    owners: Annotated[list[str], Meta(description="names, in order of preference")]
    next: Annotated[list[str], Meta(description="the owners that it moves to; none: it does not")]
    phase: Annotated[str, Meta(description="copying, switching (read from the next), or settled")]


class RingDocument(Document, frozen=True, kw_only=True):
    """`ring show`."""

    ROWS: ClassVar[str] = "partitions"

    cluster_id: str
    epoch: int
    partitions: list[PartitionRow]


PHASES = {JOINT_OLD: "copying", JOINT_NEW: "switching"}


def ring_document(ring: Ring, only: int) -> RingDocument:
    """All partitions, or only that one if it is ≥ 0."""
    names = {member.id: member.name for member in ring.members}
    width = 2**128 // ring.partitions
    rows = []
    for number, owners in enumerate(ring.lists):
        if only in (-1, number):
            move = ring.moves.get(PartitionId(number))
            row = PartitionRow(
                partition=number,
                first_token=f"{number * width:032x}",
                owners=[names[node] for node in owners],
                next=[names[node] for node in move.owners] if move is not None else [],
                phase=PHASES[move.phase] if move is not None else "settled",
            )
            rows.append(row)
    return RingDocument(cluster_id=ring.cluster_id.hex(), epoch=ring.epoch, partitions=rows)
