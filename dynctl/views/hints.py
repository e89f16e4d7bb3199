"""What is kept for nodes that were away: `hints ls`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from dynctl.observe import Observation, by_name
from dynctl.views.base import Document


class HintRow(msgspec.Struct, frozen=True, kw_only=True):
    """Keys of which a node keeps a copy for another one."""

    node: Annotated[str, Meta(description="who keeps them")]
    target: Annotated[str, Meta(description="whom they are for")]
    hints: Annotated[int, Meta(description="keys")]
    state: Annotated[str, Meta(description="waiting (for the target), delivering or paused")]
    dirty: Annotated[
        int,
        Meta(
            description="partitions in which the target has missed more than is noted key by key; "
            "all that is there is handed over"
        ),
    ]


class HintsDocument(Document, frozen=True, kw_only=True):
    """`hints ls`."""

    ROWS: ClassVar[str] = "hints"

    hints: list[HintRow]


def hint_rows(seen: Observation) -> list[HintRow]:
    """Who keeps hints for whom, by name."""
    names = {one.member.id: one.member.name for one in seen.members}
    rows = []
    for one in by_name(seen):
        status = one.status or {}
        delivery = status.get("delivery", {})
        hints, dirty = status.get("hints", {}), status.get("dirty", {})
        for target in {**hints, **dirty}:
            state = "waiting"
            if delivery.get("is_paused") or target in delivery.get("paused", ()):
                state = "paused"
            elif target in delivery.get("under_way", ()):
                state = "delivering"
            name = names.get(target, target)
            rows.append(
                HintRow(
                    node=one.member.name,
                    target=name,
                    hints=hints.get(target, 0),
                    dirty=dirty.get(target, 0),
                    state=state,
                )
            )
    return sorted(rows, key=lambda row: (row.node, row.target))
