"""The members: `node ls` and `health`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from dynctl.observe import Observation, Seen, by_name, liveness
from dynctl.quorums import failing
from dynctl.views.base import Document, moment


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the ring."""

    name: str
    id: str
    address: str
    zone: str
    host: str
    capacity: int
    state: Annotated[
        str,
        Meta(
            description="joining, leaving or removed, as the ring has it; else serving, starting, "
            "draining or fresh, in its own words; else unknown"
        ),
    ]
    liveness: Annotated[
        str,
        Meta(
            description="up; down: neither the agent that answered nor this command reaches it; "
            "unlinked: only this command does; unreachable: only that agent does; suspect, dead, "
            "gray: this command does, but that agent has no answer to its pings, for long, or "
            "to its data requests"
        ),
    ]
    share: Annotated[float, Meta(description="of all places on the ring, 0 to 1")]


class ToldNodeRow(NodeRow, frozen=True, kw_only=True):
    """A member of the ring, and what gossip has told the agent that answered about it: still there
    when the node is not. null: nothing yet, or that agent is of an older release."""

    release: Annotated[str | None, Meta(description="that it runs")]
    epoch: Annotated[int | None, Meta(description="of the ring that it has")]
    run: Annotated[int | None, Meta(description="how often it has been started")]
    started_at: Annotated[str | None, Meta(description="by its own clock; information only")]
    draining: bool | None
    keys: Annotated[int | None, Meta(description="records of its partitions, tombstones too")]
    stored_bytes: int | None
    requests_per_s: Annotated[int | None, Meta(description="gets and puts, also passed on ones")]
    in_flight: Annotated[int | None, Meta(description="operations under way")]
    hints: Annotated[int | None, Meta(description="keys of which it keeps a copy for another")]
    background_share: Annotated[
        float | None, Meta(description="of background work that its clients leave room for, 0 to 1")
    ]
    told_s: Annotated[
        float | None,
        Meta(
            description="since that agent was told; it says nothing about liveness, as a node "
            "whose load does not change says nothing"
        ),
    ]


class RingNodeRow(NodeRow, frozen=True, kw_only=True):
    """A member of the ring and how much of it it holds."""

    places: Annotated[int, Meta(description="preference lists that name it")]
    first_places: Annotated[int, Meta(description="preference lists that begin with it")]
    next_places: Annotated[int, Meta(description="when the change under way is settled")]
    voter: Annotated[bool, Meta(description="it decides changes of the ring, with others")]


class NodesDocument(Document, frozen=True, kw_only=True):
    """`node ls`."""

    ROWS: ClassVar[str] = "nodes"
    TABLE_OMITS: ClassVar[tuple[str, ...]] = (
        *("id", "epoch", "run", "started_at", "draining", "stored_bytes", "in_flight", "hints"),
        *("requests_per_s", "background_share", "told_s"),
    )

    nodes: list[ToldNodeRow]


class HealthRow(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the ring as it answered itself."""

    name: str
    address: str
    healthy: bool
    problem: Annotated[str, Meta(description="empty if healthy")]


class HealthDocument(Document, frozen=True, kw_only=True):
    """`health`."""

    ROWS: ClassVar[str] = "nodes"

    LINE_FIELDS: ClassVar[tuple[str, ...]] = ("schema_version", "quorums")

    healthy: Annotated[bool, Meta(description="all agents are, and quorums")]
    quorums: Annotated[
        str,
        Meta(
            description="healthy: every request would reach R or W owners now; degraded: sloppy "
            "ones would, with stand-ins, but not all strict ones; unavailable: some of neither"
        ),
    ]
    partitions: int
    strict_fails: Annotated[int, Meta(description="partitions for which a strict request would")]
    sloppy_fails: Annotated[int, Meta(description="partitions for which any request would")]
    nodes: list[HealthRow]


def health_document(seen: Observation) -> HealthDocument:
    rows = health_rows(seen)
    strict_fails, sloppy_fails = failing(seen)
    return HealthDocument(
        healthy=all(row.healthy for row in rows) and not strict_fails,
        quorums="unavailable" if sloppy_fails else "degraded" if strict_fails else "healthy",
        partitions=seen.ring.partitions,
        strict_fails=strict_fails,
        sloppy_fails=sloppy_fails,
        nodes=rows,
    )


def quorum_words(document: HealthDocument) -> str:
    """What becomes of requests now, in a clause."""
    of = f"of {document.partitions} partitions"
    if document.sloppy_fails:
        return f"unavailable: requests for {document.sloppy_fails} {of} fail"
    if document.strict_fails:
        return f"degraded: strict requests for {document.strict_fails} {of} fail, others pass"
    return "all requests pass"


def health_rows(seen: Observation) -> list[HealthRow]:
    return [
        HealthRow(
            name=one.member.name,
            address=one.member.address,
            healthy=not one.problem,
            problem=one.problem,
        )
        for one in by_name(seen)
    ]


def node_rows(seen: Observation) -> list[RingNodeRow]:
    """All members by name, with what each holds of the ring."""
    ring = seen.ring
    places = Counter(owner for owners in ring.lists for owner in owners)
    first = Counter(owners[0] for owners in ring.lists)
    coming = Counter(places)
    for partition, move in ring.moves.items():
        coming.subtract(ring.lists[partition])
        coming.update(move.owners)
    return [
        RingNodeRow(
            name=one.member.name,
            id=one.member.id,
            address=one.member.address,
            zone=one.member.zone,
            host=one.member.host,
            capacity=one.member.capacity,
            state=_state(seen, one),
            liveness=liveness(
                linked=one.member.id in seen.up,
                answered=one.status is not None,
                suspected=seen.suspected.get(one.member.id, ""),
            ),
            share=round(places[one.member.id] / (ring.n * ring.partitions), 4),
            places=places[one.member.id],
            first_places=first[one.member.id],
            next_places=coming[one.member.id],
            voter=one.member.id in ring.voters,
        )
        for one in by_name(seen)
    ]


def _state(seen: Observation, one: Seen) -> str:
    ring, node = seen.ring, one.member.id
    if node in ring.removed:
        return "removed"
    if node in ring.leaving:
        return "leaving"
    if ring.change is not None and node in ring.change.joined:
        return "joining"
    return str(one.status["state"]) if one.status is not None else "unknown"


def told_node_rows(seen: Observation) -> list[ToldNodeRow]:
    """Without the places, with what gossip tells."""
    return [
        ToldNodeRow(
            **{name: getattr(row, name) for name in NodeRow.__struct_fields__},
            **_told(seen.facts.get(row.id, {})),
        )
        for row in node_rows(seen)
    ]


def _told(fact: dict[str, Any]) -> dict[str, Any]:
    started_ms, permille = fact.get("started_ms"), fact.get("background_permille")
    names = ("release", "epoch", "run", "draining", "keys", "stored_bytes", "requests_per_s")
    return {
        **{name: fact.get(name) for name in (*names, "in_flight", "hints")},
        "started_at": None if started_ms is None else moment(started_ms),
        "background_share": None if permille is None else permille / 1000,
        "told_s": fact.get("age_s"),
    }
