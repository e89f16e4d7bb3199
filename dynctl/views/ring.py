"""The ring: `bootstrap`, `ring status` and `ring show`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from dynctl.observe import Observation
from dynctl.views.base import Document
from dynctl.views.nodes import RingNodeRow


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
    unsettled: Annotated[bool, Meta(description="a change of the ring is under way")]
    hints: Annotated[int, Meta(description="entries kept for nodes that were down")]
    oldest_unverified_s: Annotated[
        float | None,
        Meta(
            description="since when the partition waits that was compared between two owners, and "
            "found or made equal, longest ago (of the agents that answer); null: nobody tells"
        ),
    ]


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


class RingDocument(Document, frozen=True, kw_only=True):
    """`ring show`."""

    ROWS: ClassVar[str] = "partitions"

    cluster_id: str
    epoch: int
    partitions: list[PartitionRow]
