"""Partitions on their way to new owners: `transfers`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from dynagent.core.ring import JOINT_NEW, JOINT_OLD
from dynctl.observe import Observation, Seen, by_name
from dynctl.views.base import Document


class TransferRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one node gains by the change under way."""

    node: str
    gains: Annotated[int, Meta(description="partitions that are not settled yet")]
    copying: Annotated[int, Meta(description="of these: it copies them, or has yet to begin")]
    ready: Annotated[int, Meta(description="copied; the next entry of the log is awaited")]
    switching: Annotated[int, Meta(description="it is read for them; soon it owns them alone")]
    records: Annotated[int | None, Meta(description="copied so far; null: it does not answer")]
    records_total: Annotated[int | None, Meta(description="that its sources have told of so far")]
    bytes: Annotated[int | None, Meta(description="copied so far")]
    bytes_per_s: Annotated[int | None, Meta(description="of late")]
    eta_s: Annotated[float | None, Meta(description="until all is copied; null: nothing moves now")]
    sources: Annotated[list[str], Meta(description="that it copies from now")]
    problem: Annotated[str, Meta(description="why it does not go on; empty: it does")]


class TransfersDocument(Document, frozen=True, kw_only=True):
    """`transfers`."""

    ROWS: ClassVar[str] = "transfers"
    LINE_FIELDS: ClassVar[tuple[str, ...]] = ("schema_version", "change_id")
    TABLE_OMITS: ClassVar[tuple[str, ...]] = ("records_total",)

    change: Annotated[str, Meta(description="what is under way; empty: nothing")]
    change_id: Annotated[str, Meta(description="32 hex digits; empty: none is under way")]
    leaving: Annotated[list[str], Meta(description="that have yet to go")]
    transfers: list[TransferRow]


def transfers_document(seen: Observation) -> TransfersDocument:
    ring, change = seen.ring, seen.ring.change
    gaining = {node for p in ring.moves for node in ring.new_owners(p)}
    members = by_name(seen)
    return TransfersDocument(
        change=change.verb if change is not None else "",
        change_id=change.id.hex() if change is not None else "",
        leaving=[one.member.name for one in members if one.member.id in ring.leaving],
        transfers=[_row(seen, one) for one in members if one.member.id in gaining],
    )


def _row(seen: Observation, one: Seen) -> TransferRow:
    ring, node = seen.ring, one.member.id
    phases = [move.phase for p, move in ring.moves.items() if node in ring.new_owners(p)]
    told: dict[str, Any] = {}
    if one.status is not None and ring.change is not None:
        told = one.status.get("transfers", {})
        if told.get("index") != ring.change.index:  # of another change, or not begun yet
            told = {}
    ready = min(told.get("partitions", {}).get("ready", 0), phases.count(JOINT_OLD))
    names: dict[str, str] = {each.member.id: each.member.name for each in seen.members}
    return TransferRow(
        node=one.member.name,
        gains=len(phases),
        copying=phases.count(JOINT_OLD) - ready,
        ready=ready,
        switching=phases.count(JOINT_NEW),
        records=told.get("records"),
        records_total=told.get("records_total"),
        bytes=told.get("bytes"),
        bytes_per_s=told.get("bytes_per_s"),
        eta_s=told.get("eta_s"),
        sources=[names.get(source, source) for source in told.get("sources", ())],
        problem="; ".join(told.get("problems", ())) if one.status is not None else one.problem,
    )
