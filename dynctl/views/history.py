"""The ring log for people, and what two agents' rings differ in: `ring history`, `ring diff`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import JOINT_NEW, Ring
from dynagent.core.ringentry import (
    AbortEntry,
    ChangeEntry,
    Content,
    Entry,
    ForcedEntry,
    PhaseEntry,
    PolicyEntry,
    RetireEntry,
    VotersEntry,
)
from dynctl.views.base import Document, moment

Names = dict[NodeId, str]


class EntryRow(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the ring log."""

    entry: Annotated[int, Meta(description="its number: the epoch of the ring that it made")]
    at: Annotated[str, Meta(description="by the clock of who proposed it; information only")]
    proposer: str
    kind: Annotated[str, Meta(description="change, phase, abort, voters, policy, retire or forced")]
    id: Annotated[str, Meta(description="32 hex digits of what an operator asked for; or empty")]
    what: str


class HistoryDocument(Document, frozen=True, kw_only=True):
    """`ring history`."""

    ROWS: ClassVar[str] = "entries"

    entries: list[EntryRow]


def history_document(ring: Ring, log: Sequence[tuple[int, Entry]]) -> HistoryDocument:
    """Newest first. Names are those of members now and of all that the log speaks of."""
    names: Names = {}
    for _, entry in log:
        if isinstance(entry.content, ChangeEntry):
            names.update((member.id, member.name) for member in entry.content.members)
    names.update((member.id, member.name) for member in ring.members)
    return HistoryDocument(entries=[_entry_row(index, e, names) for index, e in reversed(log)])


def _entry_row(index: int, entry: Entry, names: Names) -> EntryRow:
    content = entry.content
    return EntryRow(
        entry=index,
        at=moment(entry.wall_ms),
        proposer=names.get(entry.proposer, entry.proposer),
        kind=type(content).__name__.removesuffix("Entry").lower(),
        id=getattr(content, "id", b"").hex(),
        what=_words(content, names),
    )


def _words(content: Content, names: Names) -> str:
    match content:
        case ChangeEntry():
            told = [f"{content.verb}: the lists of {len(content.moves):,} partitions change"]
            told += [f"leaving {_named(content.leaving, names)}"] * bool(content.leaving)
            told += [f"removed {_named(content.removed, names)}"] * bool(content.removed)
            return "; ".join(told)
        case PhaseEntry():
            into = "are read from their new owners" if content.phase == JOINT_NEW else "are settled"
            return f"{len(content.partitions):,} partitions of entry {content.index} {into}"
        case AbortEntry():
            return f"entry {content.index} is taken back as far as it can be"
        case VotersEntry():
            return _named(content.voters, names)
        case PolicyEntry():
            return f"{content.name} = {content.value or '(default)'}"
        case RetireEntry():
            return f"{_named(content.nodes, names)} left"
        case ForcedEntry():
            return f"by force, on epoch {content.after}: {_named(content.voters, names)} vote"


def _named(nodes: Iterable[NodeId], names: Names) -> str:
    return ", ".join(sorted(names.get(node, node) for node in nodes))


# --- two rings -----------------------------------------------------------------------------------


class DifferenceRow(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the rings of two agents have differently."""

    what: Annotated[str, Meta(description="epoch, voters, member NAME, partition P, …")]
    left: Annotated[str, Meta(description="as the first agent has it; empty: not at all")]
    right: Annotated[str, Meta(description="as the second agent has it; empty: not at all")]


class DiffDocument(Document, frozen=True, kw_only=True):
    """`ring diff`."""

    ROWS: ClassVar[str] = "differences"

    differences: list[DifferenceRow]


def diff_document(left: Ring, right: Ring) -> DiffDocument:
    """Everything that differs, in the order of importance."""
    names: Names = {member.id: member.name for member in (*left.members, *right.members)}
    one, other = dict(_facts(left, names)), dict(_facts(right, names))
    return DiffDocument(
        differences=[
            DifferenceRow(what=what, left=one.get(what, ""), right=other.get(what, ""))
            for what in {**one, **other}
            if one.get(what) != other.get(what)
        ]
    )


def _facts(ring: Ring, names: Names) -> Iterator[tuple[str, str]]:
    """What a ring says, each under its name."""
    yield "cluster", ring.cluster_id.hex()
    yield "epoch", str(ring.epoch)
    yield "lineage", str(ring.lineage)
    yield "N, R, W", f"{ring.n}, {ring.r}, {ring.w}"
    change = ring.change
    yield "change", f"{change.verb}, entry {change.index}" if change is not None else "none"
    yield "voters", _named(ring.voters, names)
    yield "leaving", _named(ring.leaving, names)
    yield "removed", _named(ring.removed, names)
    for name, value in ring.policies:
        yield f"policy {name}", value
    for member in ring.members:
        place = f"capacity {member.capacity}, host {member.host}, zone {member.zone or '-'}"
        yield f"member {member.name}", f"{member.address}, {place}"
    for partition, owners in enumerate(ring.lists):
        told = ", ".join(names.get(node, node) for node in owners)
        move = ring.moves.get(PartitionId(partition))
        if move is not None:
            coming = ", ".join(names.get(node, node) for node in move.owners)
            told += f" → {coming} (phase {move.phase})"
        yield f"partition {partition}", told
