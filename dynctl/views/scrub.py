"""What a scrub has found: `scrub`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from dynctl.observe import Observation, by_name
from dynctl.views.base import Document
from dynctl.views.jobs import Part

FOUND = ("unreadable", "lost", "phantom", "misplaced", "ranges")


class ScrubRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one agent has read of its own records, and found."""

    node: str
    done: Annotated[int, Meta(description="partitions")]
    all: Annotated[int, Meta(description="partitions that it has to read")]
    keys: Annotated[int, Meta(description="records that are good")]
    unreadable: Annotated[int, Meta(description="copies that failed their checksum, or had before")]
    lost: Annotated[int, Meta(description="records that the trees count and the disk has not")]
    phantom: Annotated[int, Meta(description="records on the disk that the trees do not count")]
    misplaced: Annotated[int, Meta(description="rows where their key does not belong: removed")]
    ranges: Annotated[int, Meta(description="leaves that the engine cannot read")]
    problem: Annotated[str, Meta(description="why it does not go on; empty: nothing")]


class ScrubDocument(Document, frozen=True, kw_only=True):
    """`scrub`."""

    ROWS: ClassVar[str] = "nodes"
    LINE_FIELDS: ClassVar[tuple[str, ...]] = ("schema_version", "job", "state")

    job: str
    state: Annotated[str, Meta(description="done, incomplete or cancelled")]
    nodes: list[ScrubRow]

    @property
    def found(self) -> int:
        return sum(getattr(row, name) for row in self.nodes for name in FOUND)


def scrub_document(
    seen: Observation, job: str, state: str, parts: dict[str, Part]
) -> ScrubDocument:
    """From what each agent (by node id) tells of its part."""
    rows = []
    for one in by_name(seen):
        part = parts.get(one.member.id)
        for told in part["labels"].values() if part is not None else ():
            rows.append(
                ScrubRow(
                    node=one.member.name,
                    done=told["done"],
                    all=told["done"] + told["left"],
                    problem=told["problem"],
                    **{name: int(told.get(name, 0)) for name in ("keys", *FOUND)},
                )
            )
    return ScrubDocument(job=job, state=state, nodes=rows)
