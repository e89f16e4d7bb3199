"""What is wrong with a cluster, and the command that puts it right: `doctor`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from dynagent.core.ports import NodeId
from dynctl.observe import Observation, Seen, by_name
from dynctl.views.base import Document
from dynctl.views.hints import hint_rows
from dynctl.views.nodes import health_document, quorum_words
from dynctl.views.transfers import transfers_document

ACT, WAIT = "act", "wait"
_UNVERIFIED_S_MIN = 3_600.0  # younger than that is no finding, whatever the interval
_KEYS_NAMED = 3


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be."""

    severity: Annotated[
        str, Meta(description="act: somebody must; wait: it gets well by itself, or with another")
    ]
    finding: Annotated[
        str,
        Meta(
            description="agent_down, quorum_lost, voters_lost, change_waits, not_told, starting, "
            "store_lost, leaver_waits, disk_full, unreadable, unprovable, hollow, store_damaged, "
            "clash, hints, hints_paused, dirty, unverified, trees_unknown or purge_blocked"
        ),
    ]
    node: Annotated[str, Meta(description="whose; empty: of the cluster")]
    what: str
    remedy: Annotated[str, Meta(description="the command, or what to wait for")]


class DoctorDocument(Document, frozen=True, kw_only=True):
    """`doctor`."""

    ROWS: ClassVar[str] = "findings"

    findings: list[Finding]


def doctor_document(seen: Observation) -> DoctorDocument:
    """All findings, those that need action first."""
    found = [*_of_cluster(seen)]
    for one in by_name(seen):
        found += _of_node(seen, one)
    return DoctorDocument(findings=sorted(found, key=lambda row: row.severity != ACT))


def _of_cluster(seen: Observation) -> Iterator[Finding]:
    health = health_document(seen)
    if health.strict_fails:
        yield _act("quorum_lost", "", quorum_words(health), "start the agents that are down")
    yield from _of_ring(seen)
    down = {one.member.name for one in seen.members if one.status is None}
    for row in hint_rows(seen):
        if row.state == "paused":
            what = f"{row.hints:,} hints for {row.target} are paused"
            yield _act("hints_paused", row.node, what, f"dynctl hints resume {row.target}")
        elif row.hints:
            when = f"start {row.target}" if row.target in down else "nothing: they are delivered"
            yield _wait("hints", row.node, f"{row.hints:,} hints for {row.target}", when)
        if row.dirty:
            what = f"{row.dirty:,} partitions are dirty for {row.target}"
            when = f"start {row.target}" if row.target in down else "nothing: they are handed over"
            yield _wait("dirty", row.node, what, when)


def _of_ring(seen: Observation) -> Iterator[Finding]:
    """Of the change under way, and of who decides."""
    ring, change = seen.ring, seen.ring.change
    silent = {one.member.id: one.member.name for one in seen.members if one.status is None}
    away = sorted(silent[node] for node in ring.voters if node in silent)
    if 2 * len(away) >= len(ring.voters) > 0:
        what = f"{len(away)} of {len(ring.voters)} voters do not answer: {', '.join(away)}"
        yield _act(
            "voters_lost",
            "",
            f"{what}; the ring cannot change",
            f"start {away[0]}; if they are gone for good, see: dynctl ring force --help",
        )
    if change is not None:
        told = f"the {change.verb} of entry {change.index}"
        for row in transfers_document(seen).transfers:
            if row.node in silent.values():
                what = f"{told} waits for it: it gains {row.gains:,} partitions and is down"
                yield _act(
                    "change_waits", row.node, what, f"start {row.node}, or: dynctl ring abort"
                )
            elif row.problem:
                what = f"{told}: {row.problem}"
                yield _wait("change_waits", row.node, what, "nothing: it tries again")
    for one in seen.members:
        if one.member.id in ring.leaving and change is None:
            yield _leaver(seen, one)


def _leaver(seen: Observation, one: Seen) -> Finding:
    """It owns nothing any more; what keeps it?"""
    name = one.member.name
    what = "it left, owns nothing any more, and has yet to go"
    if one.status is None:
        remedy = f"start {name}, or, if it is gone for good: dynctl remove {name} --force"
        return _act("leaver_waits", name, f"{what}: it is down", remedy)
    targets = sorted({row.target for row in hint_rows(seen) if row.node == name})
    if targets:
        told = ", ".join(targets)
        return _wait("leaver_waits", name, f"{what}: it keeps hints for {told}", f"start {told}")
    return _wait("leaver_waits", name, what, "nothing: it goes by itself")


def _of_node(seen: Observation, one: Seen) -> Iterator[Finding]:
    name = one.member.name
    if one.status is None:
        start = f"dynctl up {name} if dynctl up made it, else dynagent run with its --data-dir"
        yield _act(
            "agent_down", name, one.problem, f"start it: {start}; its log says why it stopped"
        )
        return
    if one.problem:
        if finding := _of_start(seen, one, one.status):
            yield finding
            return
        yield _of_links(seen, one)
    status = one.status
    if status.get("disk_full"):
        yield _act("disk_full", name, "its disk is full", "free some space; it goes on by itself")
    yield from _of_copies(name, status)
    yield from _of_comparing(seen, name, status)


def _of_links(seen: Observation, one: Seen) -> Finding:
    """It serves, and does not use all others, or is not the member that it should be."""
    name, apart = one.member.name, ", ".join(one.apart)
    down = {other.member.name for other in seen.members if other.status is None}
    if not apart:
        return _act("agent_down", name, one.problem, "dynctl health")
    if down.issuperset(one.apart):
        return _wait("agent_down", name, one.problem, f"start {apart}")
    return _act("agent_down", name, one.problem, f"look at the network between {name} and {apart}")


def _of_start(seen: Observation, one: Seen, status: dict[str, Any]) -> Finding | None:
    """Does it not serve because it cannot yet, or is not what the ring takes it for?"""
    name, address, state = one.member.name, one.member.address, status["state"]
    if state == "fresh" and status["node_id"] != one.member.id:
        what = f"its store is lost: a new, empty one ({status['node_id']}) is at {address}"
        return _act("store_lost", name, what, f"dynctl replace {name} {address} --force")
    if state == "fresh":
        what = "it is a member and has not heard of it"
        return _act("not_told", name, what, f"dynctl join {address}")
    if state != "starting":
        return None
    start = status["registration"]
    names = {member.id: member.name for member in seen.ring.members}
    missing = {names.get(node, node): why for node, why in start["missing"].items()}
    told = ", ".join(f"{other} ({why})" for other, why in sorted(missing.items()))
    what = f"{start['recorded']} of the {start['needed']} voters needed have recorded its start"
    away = sorted(other for other, why in missing.items() if why == "unreachable")
    remedy = f"start {away[0]}" if away else "nothing: it asks again"
    return _act("starting", name, f"{what}; not yet: {told}", remedy)


def _of_copies(name: str, status: dict[str, Any]) -> Iterator[Finding]:
    unknown: dict[str, Any] = status.get("unknown", {})
    provable = unknown.get("provable", True)
    no_proof = "with W=1 no other owner can prove what was lost"
    if waiting := unknown.get("waiting", 0):
        keys = [key.decode(errors="backslashreplace") for key in unknown["keys"][:_KEYS_NAMED]]
        more = ", …" if waiting > len(keys) else ""
        what = f"{waiting:,} copies are unreadable or unknown: {', '.join(keys)}{more}"
        if provable:
            yield _wait("unreadable", name, what, "nothing: they are healed from the other owners")
        else:
            yield _act("unprovable", name, f"{what}; {no_proof}", _accept(name))
    if damaged := status.get("scrub", {}).get("damaged"):
        yield _act(
            "store_damaged",
            name,
            f"ranges of partitions {', '.join(map(str, damaged))} cannot be read from its disk",
            f"stop {name}; dynagent store rebuild DIR --yes; start it",
        )
    if hollow := unknown.get("hollow", 0):
        what = f"records of {hollow:,} partitions are missing"
        if provable:
            yield _wait("hollow", name, what, "nothing: they come back from the other owners")
        else:
            yield _act("unprovable", name, f"{what}; {no_proof}", _accept(name))
    keys, partitions = unknown.get("stuck_keys", []), unknown.get("stuck_partitions", [])
    if keys or partitions:
        told = [f"key {key.decode(errors='backslashreplace')}" for key in keys[:_KEYS_NAMED]]
        told += [f"partition {partition}" for partition in partitions[:_KEYS_NAMED]]
        more = ", …" if len(told) < len(keys) + len(partitions) else ""
        yield _act(
            "unprovable",
            name,
            f"too many of the other owners do not know either what they held of: "
            f"{', '.join(told)}{more}; so all of them wait for each other",
            f"on one of them: {_accept(name, keys, partitions)}",
        )
    if clashes := unknown.get("clashes", 0):
        keys = [key.decode(errors="backslashreplace") for key in unknown["clashed"][:_KEYS_NAMED]]
        yield _act(
            "clash",
            name,
            f"{clashes:,} dots had two values (a cloned store?); both were kept: {', '.join(keys)}",
            f"stop the clone; then dynctl resolve {keys[0] if keys else 'KEY'}",
        )


def _accept(name: str, keys: Sequence[bytes] = (), partitions: Sequence[int] = ()) -> str:
    """How to declare lost what nobody can prove: of these, or of all if it is too much to name."""
    words = [f"--key {shlex.quote(key.decode())}" for key in keys if _is_text(key)]
    words += [f"--partition {partition}" for partition in partitions]
    if len(words) > _KEYS_NAMED or len(words) < len(keys) + len(partitions):
        words = []
    command = " ".join(["dynagent store accept DIR", *words, "--yes"])
    return f"stop {name}; declare what is lost to be lost: {command}; start it"


def _is_text(key: bytes) -> bool:
    try:
        return key.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _of_comparing(seen: Observation, name: str, status: dict[str, Any]) -> Iterator[Finding]:
    antientropy = status.get("antientropy", {})
    interval_s = antientropy.get("interval_s", 0)
    oldest_s = antientropy.get("oldest_unverified_s", 0.0)
    if oldest_s > max(_UNVERIFIED_S_MIN, 4 * interval_s):
        what = f"a partition was last compared with another owner {oldest_s:,.0f} s ago"
        yield _act("unverified", name, what, f"dynctl repair {name}")
    if leaves := status.get("trees", {}).get("unknown", 0):
        what = f"{leaves:,} leaves of its trees are unknown"
        yield _wait("trees_unknown", name, what, "nothing: they are rebuilt")
    blocked: dict[str, dict[str, int]] = status.get("tombstones", {}).get("blocked", {})
    names = {member.id: member.name for member in seen.ring.members}
    named = {names.get(NodeId(node), node): reasons for node, reasons in blocked.items()}
    for node, reasons in sorted(named.items()):
        told = ", ".join(f"{reason} ({count:,})" for reason, count in sorted(reasons.items()))
        what = f"{node} holds back the purging of tombstones: {told}"
        yield _wait("purge_blocked", name, what, f"start {node}, if it is down")


def _act(finding: str, node: str, what: str, remedy: str) -> Finding:
    return Finding(severity=ACT, finding=finding, node=node, what=what, remedy=remedy)


def _wait(finding: str, node: str, what: str, remedy: str) -> Finding:
    return Finding(severity=WAIT, finding=finding, node=node, what=what, remedy=remedy)
