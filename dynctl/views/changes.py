"""Changes of the ring: `join`, `leave`, `replace`, `remove`, `node set`, `ring apply`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from dynagent.client.changes import ChangePlan, name_of
from dynagent.client.forecast import Cost, Risk
from dynagent.core.ports import NodeId, PartitionId
from dynctl.observe import natural
from dynctl.views.base import Document

PLANNED, DECIDED, SETTLED = "planned", "decided", "settled"


class ShareRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a node holds before and after the change."""

    name: str
    id: str
    address: str
    capacity: int
    role: Annotated[str, Meta(description="joins, leaves, removed or stays")]
    before: Annotated[int, Meta(description="places: preference lists that name it")]
    after: int
    gains: Annotated[int, Meta(description="places that it has to copy")]
    bytes: Annotated[int | None, Meta(description="that these have, at a guess; null: unknown")]


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the change, and in how many partitions strict requests fail, or would if one more
    node died."""

    step: Annotated[
        str,
        Meta(
            description="now; copying: W of the old and W of the new owners, R of the old; "
            "switching: R of the new; settled"
        ),
    ]
    writes_fail: Annotated[int, Meta(description="partitions: fewer than W owners are up")]
    reads_fail: Annotated[int, Meta(description="partitions: fewer than R owners are up")]
    writes_at_risk: Annotated[int, Meta(description="partitions that would fall below W")]
    reads_at_risk: Annotated[int, Meta(description="partitions that would fall below R")]
    worst: Annotated[str, Meta(description="whose death would hit most of them; empty: nobody's")]
    partitions: Annotated[list[int], Meta(description="that are at risk, or fail")]


class ChangeDocument(Document, frozen=True, kw_only=True):
    """A change of the ring: what it will do, or has begun to do."""

    TABLE_OMITS: ClassVar[tuple[str, ...]] = ("id", "partitions")

    id: Annotated[str, Meta(description="32 hex digits; the same one proposed twice is one")]
    verb: str
    change: Annotated[str, Meta(description="the verb and whom it is about")]
    state: Annotated[
        str,
        Meta(
            description="planned: nothing was done; decided: it is under way; settled: it has ended"
        ),
    ]
    cluster_id: str
    epoch: Annotated[int, Meta(description="of the ring that it was planned for")]
    moved: Annotated[
        int,
        Meta(
            description="places that are new to their holder; no balanced placement moves fewer: "
            "that is certified"
        ),
    ]
    bound: Annotated[int, Meta(description="a simple lower bound of moved")]
    partitions: Annotated[int, Meta(description="that get another set of owners")]
    keys: Annotated[int | None, Meta(description="to copy, at a guess; null: unknown")]
    bytes: Annotated[int | None, Meta(description="to copy, at a guess; null: unknown")]
    seconds: Annotated[
        float | None,
        Meta(description="that takes at what background work is allowed now; null: unknown"),
    ]
    notes: Annotated[list[str], Meta(description="what else is to be known")]
    nodes: list[ShareRow]
    steps: list[StepRow]


def change_document(
    plan: ChangePlan, cost: Cost, risks: list[Risk], *, notes: tuple[str, ...], state: str
) -> ChangeDocument:
    return ChangeDocument(
        id=plan.entry.id.hex(),
        verb=plan.entry.verb.partition(" ")[0],
        change=plan.entry.verb,
        state=state,
        cluster_id=plan.ring.cluster_id.hex(),
        epoch=plan.ring.epoch,
        moved=plan.moved,
        bound=plan.bound,
        partitions=len(plan.after.moves),
        keys=cost.keys,
        bytes=cost.bytes,
        seconds=None if cost.seconds is None else round(cost.seconds, 1),
        notes=list(notes),
        nodes=_share_rows(plan, cost),
        steps=[_step_row(plan, risk) for risk in risks],
    )


def _share_rows(plan: ChangePlan, cost: Cost) -> list[ShareRow]:
    places, gains = plan.places, plan.gains
    rows = [
        ShareRow(
            name=member.name,
            id=member.id,
            address=member.address,
            capacity=member.capacity,
            role=_role(plan, member.id),
            before=places[member.id][0],
            after=places[member.id][1],
            gains=gains[member.id],
            bytes=0 if not gains[member.id] else cost.bytes_of.get(member.id),
        )
        for member in plan.entry.members
    ]
    return sorted(rows, key=lambda row: natural(row.name))


def _role(plan: ChangePlan, node: NodeId) -> str:
    if node in plan.entry.removed:
        return "removed"
    if node in plan.entry.leaving:
        return "leaves"
    return "stays" if plan.ring.member(node) is not None else "joins"


def _step_row(plan: ChangePlan, risk: Risk) -> StepRow:
    concerned: set[PartitionId] = {*risk.writes_fail, *risk.reads_fail}
    concerned.update(risk.writes_fragile, risk.reads_fragile)
    return StepRow(
        step=risk.step,
        writes_fail=len(risk.writes_fail),
        reads_fail=len(risk.reads_fail),
        writes_at_risk=len(risk.writes_fragile),
        reads_at_risk=len(risk.reads_fragile),
        worst=_name(plan, risk.worst) if risk.worst is not None else "",
        partitions=sorted(concerned),
    )


def _name(plan: ChangePlan, node: NodeId) -> str:
    found = {member.id: member.name for member in plan.entry.members}
    return found.get(node) or name_of(plan.ring, node)


# --- in words ------------------------------------------------------------------------------------


def summary(document: ChangeDocument) -> str:
    """What a person is asked to agree to, a few lines."""
    told = [_headline(document)]
    for row in document.nodes:
        if row.before != row.after or row.role != "stays":
            told.append(f"  {row.name:12} {row.role:8} {row.before:6,} → {row.after:,} places")
    for step in document.steps:
        if failing := max(step.writes_fail, step.reads_fail):
            told.append(f"  {step.step}: strict requests for {failing:,} partitions fail")
        if risky := max(step.writes_at_risk, step.reads_at_risk):
            told.append(
                f"  {step.step}: if {step.worst} died as well, for up to {risky:,} partitions"
            )
    told += [f"  note: {note}" for note in document.notes]
    return "\n".join(told)


def _headline(document: ChangeDocument) -> str:
    if not document.partitions:
        return f"{document.change}: nothing has to be copied"
    size = "" if document.bytes is None else f", about {in_units(document.bytes)}"
    lasts = "" if document.seconds is None else f", {document.seconds:,.0f} s or more"
    return (
        f"{document.change}: {document.moved:,} places move (the fewest that can){size}{lasts}, "
        f"on epoch {document.epoch}"
    )


def in_units(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
