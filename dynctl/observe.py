"""How the cluster is, seen from outside: the ring of the first agent that answers, and each member
asked directly, all at once, so that one that hangs costs its own time-out only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dynagent.client.blocking import Client
from dynagent.client.bootstrap import status_of
from dynagent.core.messages import RingReply, RingRequest
from dynagent.core.ring import Member, Ring, decode_ring
from dynagent.errors import BadRequest, DynagentError, NotReady, ProtocolError, Unreachable
from dynagent.obs.metrics import peers_known, peers_up, split_counters
from dynctl.views import CountRow, HealthRow, HintRow, NodeRow, RingNodeRow, StatsRow

ASKED_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A member, and what it said of itself; `status` None and the `problem` if it said nothing."""

    member: Member
    status: dict[str, Any] | None
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The cluster at one moment. `agent` gave the ring, and uses the members in `up`; `suspected`
    are those that it has a link to and does not use, with their state."""

    agent: str
    ring: Ring
    up: frozenset[str]
    suspected: dict[str, str]
    members: tuple[Seen, ...]


def observe(endpoints: Sequence[str], *, timeout_s: float) -> Observation:
    """Asks everybody. Raises `Unreachable` if no endpoint answers, `NotReady` if none of them has
    a cluster."""
    with Client(endpoints, timeout_s=timeout_s, learn_ring=False) as client:
        agent, ring = first_ring(client, endpoints)
        status = status_of(client, agent)
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            members = tuple(pool.map(lambda member: _look(client, ring, member), ring.members))
    return Observation(
        agent=agent,
        ring=ring,
        up=frozenset(status["up"]),
        suspected=suspected(status),
        members=members,
    )


def choose(members: Sequence[Seen], node: str | None) -> list[Seen]:
    """All of them, or the one that is named; raises `BadRequest` if there is none such."""
    if node is None:
        return list(members)
    found = [one for one in members if node in (one.member.name, one.member.id, one.member.address)]
    if not found:
        names = ", ".join(one.member.name for one in members)
        raise BadRequest(f"no node is called {node!r}; choose one of {names}")
    return found


def hint_rows(seen: Observation) -> list[HintRow]:
    """Who keeps hints for whom, by name."""
    names = {one.member.id: one.member.name for one in seen.members}
    rows = []
    for one in by_name(seen):
        status = one.status or {}
        delivery = status.get("delivery", {})
        for target, count in status.get("hints", {}).items():
            state = "waiting"
            if delivery.get("is_paused") or target in delivery.get("paused", ()):
                state = "paused"
            elif target in delivery.get("under_way", ()):
                state = "delivering"
            name = names.get(target, target)
            rows.append(HintRow(node=one.member.name, target=name, hints=count, state=state))
    return sorted(rows, key=lambda row: (row.node, row.target))


def suspected(status: dict[str, Any]) -> dict[str, str]:
    """The members that an agent has a link to and does not use: id → suspect, dead or gray."""
    peers: dict[str, dict[str, Any]] = status.get("peers", {})
    return {
        node: peer["state"]
        for node, peer in peers.items()
        if peer["linked"] and node not in status["up"]
    }


def first_ring(client: Client, endpoints: Sequence[str]) -> tuple[str, Ring]:
    """The first agent that has a ring, and that ring. Raises like `observe`."""
    failures: list[DynagentError] = []
    for endpoint in endpoints:
        try:
            reply = client.ask(endpoint, RingRequest())
            if not isinstance(reply, RingReply):
                raise ProtocolError(f"{endpoint}: {type(reply).__name__} is not a ring")
            return endpoint, decode_ring(reply.ring)
        except NotReady as exc:
            failures.append(NotReady(f"{endpoint}: {exc.message}"))
        except DynagentError as exc:
            failures.append(exc)
    for failure in failures:
        if isinstance(failure, NotReady):
            raise failure
    raise Unreachable(", ".join(failure.message for failure in failures))


def _look(client: Client, ring: Ring, member: Member) -> Seen:
    try:
        status = status_of(client, member.address)
    except DynagentError as exc:
        reason = exc.message.removeprefix(f"{member.address}: ")
        return Seen(member=member, status=None, problem=f"down ({member.address}: {reason})")
    return Seen(member=member, status=status, problem=_problem(ring, member, status))


def _problem(ring: Ring, member: Member, status: dict[str, Any]) -> str:
    if status["node_id"] != member.id:
        return f"replaced: another agent ({status['node_id']}) answers at {member.address}"
    if status["state"] != "serving":
        return f"not serving but {status['state']}"
    if status["cluster_id"] != ring.cluster_id:
        return f"of another cluster ({status['cluster_id'].hex()})"
    if status["epoch"] != ring.epoch:
        return f"at epoch {status['epoch']} of the ring, not {ring.epoch}"
    doubted = suspected(status)
    unused = sorted(
        (other.name, other.id) for other in ring.members if other.id not in status["up"]
    )
    missing = [name for name, node in unused if node not in doubted]
    suspects = [f"{name} ({doubted[node]})" for name, node in unused if node in doubted]
    problems = [f"not linked with {', '.join(missing)}"] if missing else []
    problems += [f"suspicious of {', '.join(suspects)}"] if suspects else []
    return "; ".join(problems)


# --- records -------------------------------------------------------------------------------------


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
    return [
        RingNodeRow(
            name=one.member.name,
            id=one.member.id,
            address=one.member.address,
            zone=one.member.zone,
            host=one.member.host,
            capacity=one.member.capacity,
            state=one.status["state"] if one.status is not None else "unknown",
            liveness=liveness(
                linked=one.member.id in seen.up,
                answered=one.status is not None,
                suspected=seen.suspected.get(one.member.id, ""),
            ),
            share=round(places[one.member.id] / (ring.n * ring.partitions), 4),
            places=places[one.member.id],
            first_places=first[one.member.id],
        )
        for one in by_name(seen)
    ]


def plain_node_rows(seen: Observation) -> list[NodeRow]:
    """The same without the places."""
    return [
        NodeRow(**{name: getattr(row, name) for name in NodeRow.__struct_fields__})
        for row in node_rows(seen)
    ]


def stats_rows(answered: Sequence[Seen]) -> list[StatsRow]:
    """What those that answered have counted."""
    return [_stats_row(one.member, one.status) for one in answered if one.status is not None]


def _stats_row(member: Member, status: dict[str, Any]) -> StatsRow:
    requests, errors = split_counters(status)
    batch, store = status.get("batch", {}), status.get("store", {})
    commits, stalls = status.get("commits", {}), status.get("stalls", {})
    background = status.get("background", {})
    refused: dict[str, int] | None = status.get("admission", {}).get("refused")
    return StatsRow(
        name=member.name,
        id=member.id,
        address=member.address,
        http=status.get("http"),
        version=status.get("version"),
        state=status["state"],
        epoch=status["epoch"],
        run=status["run"],
        uptime_s=_rounded(status, "uptime_s"),
        cpu_s=_rounded(status, "cpu_s"),
        gets=requests.get("Get", 0),
        puts=requests.get("Put", 0),
        errors=sum(errors.values()),
        in_flight=status["in_flight"],
        refused=sum(refused.values()) if refused is not None else None,
        connections=status.get("connections"),
        peers_up=peers_up(status),
        peers_known=peers_known(status),
        partitions_below_quorum=status.get("below_quorum"),
        batch_records=batch.get("records"),
        batch_bytes=batch.get("bytes"),
        commits=sum(commits["counts"]) if commits else None,
        committed_records=commits.get("records"),
        commit_s=_rounded(commits, "sum_s"),
        commit_s_max=_rounded(commits, "max_s"),
        keys=store.get("keys"),
        store_bytes=store.get("bytes"),
        stalls=sum(stalls["counts"]) if stalls else None,
        stall_s=_rounded(stalls, "sum_s"),
        stall_s_max=_rounded(stalls, "max_s"),
        background_share=_rounded(background, "share"),
        background_bytes=background.get("bytes"),
        foreground_p99_s=_rounded(background, "foreground_p99_s"),
        requests_by_kind=_counts(requests),
        errors_by_kind=_counts(errors),
        refused_by_reason=_counts(refused or {}),
    )


def _rounded(fields: dict[str, Any], name: str) -> float | None:
    found = fields.get(name)
    return None if found is None else round(found, 6)


def _counts(counters: dict[str, int]) -> list[CountRow]:
    return [CountRow(kind=kind, count=count) for kind, count in sorted(counters.items())]


def liveness(*, linked: bool, answered: bool, suspected: str = "") -> str:
    """`linked`: the agent that was asked uses it; `answered`: to this command itself; `suspected`:
    what that agent thinks of it, if it has a link and does not use it."""
    if answered:
        return "up" if linked else suspected or "unlinked"
    return "unreachable" if linked else "down"


def by_name(seen: Observation) -> list[Seen]:
    """Members in the order that people expect: local-2 before local-10."""
    return sorted(seen.members, key=lambda one: _natural(one.member.name))


def _natural(name: str) -> tuple[str, int, str]:
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return stem, int(digits[-18:] or 0), name
