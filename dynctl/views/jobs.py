"""Jobs of the whole cluster (`repair`, `verify`, `jobs status`, …), `jobs ls` and `recheck`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from dynctl.observe import Observation, by_name
from dynctl.views.base import Document, Text, moment, text_of

# What an agent tells of its part of a job: a map of core.jobs.
Part = dict[str, Any]
_FIGURES = ("keys", "differing", "sent", "fetched", "healed", "changed", "unreadable", "bytes")


class PairRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one agent has compared with one other."""

    node: Annotated[str, Meta(description="the agent that compares")]
    peer: Annotated[str, Meta(description="whom it compares with; empty: itself alone")]
    done: Annotated[int, Meta(description="partitions")]
    all: Annotated[int, Meta(description="partitions that there are to do")]
    keys: Annotated[int, Meta(description="compared: all of these partitions")]
    differing: Annotated[int, Meta(description="keys of which the copies differed")]
    sent: Annotated[int, Meta(description="records from node to peer")]
    fetched: Annotated[int, Meta(description="records from peer to node")]
    healed: Annotated[int, Meta(description="keys that are equal now")]
    changed: Annotated[int, Meta(description="keys that were being written meanwhile")]
    unreadable: Annotated[int, Meta(description="keys of which a copy cannot be read")]
    bytes: Annotated[
        int, Meta(description="hashes, keys, versions and records that went either way")
    ]
    problem: Annotated[str, Meta(description="why it does not go on; empty: nothing")]


class JobDocument(Document, frozen=True, kw_only=True):
    """A job of the whole cluster."""

    TABLE_OMITS: ClassVar[tuple[str, ...]] = ("keys", "changed")

    id: str
    kind: Annotated[str, Meta(description="repair, verify, …")]
    node: Annotated[str, Meta(description="only what concerns this one; empty: all")]
    partitions: Annotated[list[int], Meta(description="only these; empty: all")]
    prefix: Annotated[Text, Meta(description="only keys that begin so")]
    preview: Annotated[bool, Meta(description="nothing is changed")]
    state: Annotated[
        str,
        Meta(
            description="running, done, incomplete (some of it could not be done) or cancelled, of "
            "all agents together"
        ),
    ]
    begun: str
    ended: Annotated[str | None, Meta(description="null: it is running")]
    done: Annotated[int, Meta(description="partitions, each with each pair of owners")]
    all: int
    keys: Annotated[int, Meta(description="compared, each with each pair of owners")]
    differing: int
    moved: Annotated[int, Meta(description="records sent and fetched")]
    healed: int
    unreadable: int
    bytes: int
    pairs: list[PairRow]
    silent: Annotated[list[str], Meta(description="agents that do not tell of their part")]


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """A job, in short."""

    id: str
    kind: str
    state: str
    begun: str
    ended: str | None
    done: int
    all: int
    differing: int
    healed: int


class JobsDocument(Document, frozen=True, kw_only=True):
    """`jobs ls`."""

    ROWS: ClassVar[str] = "jobs"

    jobs: list[JobRow]


class RootRow(msgspec.Struct, frozen=True, kw_only=True):
    """An owner's tree of a partition that is no longer as it was."""

    partition: int
    node: str
    then: Annotated[str, Meta(description="root in the report; empty: it was no owner")]
    now: Annotated[str, Meta(description="root now; empty: not known, or no owner any more")]
    records: Annotated[int, Meta(description="that it has there now, tombstones too")]


class RecheckDocument(Document, frozen=True, kw_only=True):
    """`recheck`."""

    taken: Annotated[str, Meta(description="when the report was")]
    epoch: Annotated[int, Meta(description="of the ring now")]
    checked: Annotated[int, Meta(description="partitions of the report")]
    same: Annotated[int, Meta(description="partitions in which every owner's root is as it was")]
    roots: list[RootRow]


def job_document(
    seen: Observation, parts: dict[str, Part | None], silent: list[str]
) -> JobDocument:
    """One job from what each agent (by node id) tells of it; None: it does not know the job."""
    names: dict[str, str] = {one.member.id: one.member.name for one in seen.members}
    told = {node: part for node, part in parts.items() if part is not None}
    first = min(told.values(), key=lambda part: int(part["begun_ms"]))
    pairs = [
        _pair_row(one.member.name, names.get(label, label), figures)
        for one in by_name(seen)
        if one.member.id in told
        for label, figures in told[one.member.id]["labels"].items()
    ]
    state = _state([part["state"] for part in told.values()], all_told=len(told) == len(parts))
    ended = [int(part["ended_ms"]) for part in told.values()]
    total = {name: sum(getattr(row, name) for row in pairs) for name in ("done", "all", *_FIGURES)}
    return JobDocument(
        id=first["id"],
        kind=first["kind"],
        node=names.get(first["node"], str(first["node"])),
        partitions=first["partitions"],
        prefix=text_of(first["prefix"]),
        preview=first["preview"] or first["kind"] == "verify",
        state=state,
        begun=moment(int(first["begun_ms"])),
        ended=None if state == "running" else moment(max(ended)),
        done=total["done"],
        all=total["all"],
        keys=total["keys"],
        differing=total["differing"],
        moved=total["sent"] + total["fetched"],
        healed=total["healed"],
        unreadable=total["unreadable"],
        bytes=total["bytes"],
        pairs=pairs,
        silent=silent,
    )


def job_row(job: JobDocument) -> JobRow:
    return JobRow(
        id=job.id,
        kind=job.kind,
        state=job.state,
        begun=job.begun,
        ended=job.ended,
        done=job.done,
        all=job.all,
        differing=job.differing,
        healed=job.healed,
    )


def _pair_row(node: str, peer: str, told: dict[str, Any]) -> PairRow:
    figures = {name: int(told.get(name, 0)) for name in _FIGURES}
    return PairRow(
        node=node,
        peer=peer,
        done=told["done"],
        all=told["done"] + told["left"],
        problem=told["problem"],
        **figures,
    )


def _state(states: list[str], *, all_told: bool) -> str:
    for state in ("running", "cancelled", "incomplete"):
        if state in states:
            return state
    return "done" if all_told else "incomplete"
