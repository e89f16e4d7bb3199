"""How the cluster is, seen from outside: the ring of the first agent that answers, and each member
asked directly, all at once, so that one that hangs costs its own time-out only."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.client.bootstrap import status_of
from dynagent.core.messages import RingReply, RingRequest
from dynagent.core.ring import Member, Ring
from dynagent.core.ringcodec import decode_ring
from dynagent.errors import BadRequest, DynagentError, NotReady, Partial, ProtocolError, Unreachable
from dynctl import endpoints, options
from dynctl.faults import say

ASKED_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A member, and what it said of itself; `status` None and the `problem` if it said nothing.
    `apart`: whom it does not use, by name, if that is the problem."""

    member: Member
    status: dict[str, Any] | None
    problem: str
    apart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The cluster at one moment. `agent` gave the ring, and uses the members in `up`; `suspected`
    are those that it has a link to and does not use, with their state; `facts` is what gossip has
    told it of each, by id, if that was asked for."""

    agent: str
    ring: Ring
    up: frozenset[str]
    suspected: dict[str, str]
    members: tuple[Seen, ...]
    facts: dict[str, dict[str, Any]]


def observe(
    found: Sequence[str], *, timeout_s: float, facts: bool = False, tombstones: bool = False
) -> Observation:
    """Asks everybody; `tombstones`: by partition too. Raises `Unreachable` if no endpoint
    answers, `NotReady` if none of them has a cluster."""
    with Client(found, timeout_s=timeout_s, learn_ring=False) as client:
        agent, ring = first_ring(client, found)
        status = status_of(client, agent, facts=facts)
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            look = partial(_look, client, ring, tombstones)
            members = tuple(pool.map(look, ring.members))
    return Observation(
        agent=agent,
        ring=ring,
        up=frozenset(status["up"]),
        suspected=suspected(status),
        members=members,
        facts=status.get("facts", {}),
    )


def observed(
    verb: str,
    endpoint: list[str] | None,
    timeout: str | None,
    verbose: bool,
    *,
    facts: bool = False,
    tombstones: bool = False,
) -> Observation:
    """What a verb that reads begins with: `observe` with the options as they were given."""
    timeout_s = options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    found = endpoints.find(endpoint or [])
    seen = observe(found, timeout_s=timeout_s, facts=facts, tombstones=tombstones)
    if verbose:
        say(f"dynctl: {verb}: {seen.agent} answered")
    return seen


def choose(members: Sequence[Seen], node: str | None) -> list[Seen]:
    """All of them, or the one that is named; raises `BadRequest` if there is none such."""
    if node is None:
        return list(members)
    found = [one for one in members if node in (one.member.name, one.member.id, one.member.address)]
    if not found:
        names = ", ".join(one.member.name for one in members)
        raise BadRequest(f"no node is called {node!r}; choose one of {names}")
    return found


def answered(asked: Sequence[Seen]) -> list[Seen]:
    """Those that answered; raises `Unreachable` if nobody did."""
    found = [one for one in asked if one.status is not None]
    if not found:
        raise Unreachable(", ".join(_silent(asked)))
    return found


def check_all_answered(asked: Sequence[Seen]) -> None:
    """Raises `Partial`, or as `answered`, unless all have: the last thing that such a verb does."""
    found = answered(asked)
    if len(found) < len(asked):
        told = f"partial: {len(found)} of {len(asked)} agents answered: {', '.join(_silent(asked))}"
        raise Partial(f"{told}; see: dynctl health")


def _silent(asked: Sequence[Seen]) -> list[str]:
    return [f"{one.member.name} is {one.problem}" for one in asked if one.status is None]


def suspected(status: dict[str, Any]) -> dict[str, str]:
    """The members that an agent has a link to and does not use: id → suspect, dead or gray."""
    peers: dict[str, dict[str, Any]] = status.get("peers", {})
    return {
        node: peer["state"]
        for node, peer in peers.items()
        if peer["linked"] and node not in status["up"]
    }


def first_ring(client: Client, found: Sequence[str]) -> tuple[str, Ring]:
    """The first agent that has a ring, and that ring. Raises like `observe`."""
    failures: list[DynagentError] = []
    for endpoint in found:
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


def _look(client: Client, ring: Ring, tombstones: bool, member: Member) -> Seen:
    try:
        status = status_of(client, member.address, tombstones=tombstones)
    except DynagentError as exc:
        reason = exc.message.removeprefix(f"{member.address}: ")
        return Seen(member=member, status=None, problem=f"down ({member.address}: {reason})")
    if problem := _problem(ring, member, status):
        return Seen(member=member, status=status, problem=problem)
    unused = sorted((one.name, one.id) for one in ring.members if one.id not in status["up"])
    doubted = suspected(status)
    missing = [name for name, node in unused if node not in doubted]
    suspects = [f"{name} ({doubted[node]})" for name, node in unused if node in doubted]
    problems = [f"not linked with {', '.join(missing)}"] if missing else []
    problems += [f"suspicious of {', '.join(suspects)}"] if suspects else []
    apart = tuple(name for name, _ in unused)
    return Seen(member=member, status=status, problem="; ".join(problems), apart=apart)


def _problem(ring: Ring, member: Member, status: dict[str, Any]) -> str:
    """Why it does not serve as the member that it should be; empty if it does."""
    if status["node_id"] != member.id:
        return f"replaced: another agent ({status['node_id']}) answers at {member.address}"
    if status["state"] != "serving":
        return f"not serving but {status['state']}"
    if status["cluster_id"] != ring.cluster_id:
        return f"of another cluster ({status['cluster_id'].hex()})"
    # While the ring changes everybody is a moment behind somebody; and who is ahead of the agent
    # that gave us the ring is not behind.
    if status["epoch"] < ring.epoch and ring.change is None:
        return f"at epoch {status['epoch']} of the ring, not {ring.epoch}"
    return ""


def liveness(*, linked: bool, answered: bool, suspected: str = "") -> str:
    """`linked`: the agent that was asked uses it; `answered`: to this command itself; `suspected`:
    what that agent thinks of it, if it has a link and does not use it."""
    if answered:
        return "up" if linked else suspected or "unlinked"
    return "unreachable" if linked else "down"


def by_name(seen: Observation) -> list[Seen]:
    """Members in the order that people expect: local-2 before local-10."""
    return sorted(seen.members, key=lambda one: natural(one.member.name))


def natural(name: str) -> tuple[str, int, str]:
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return stem, int(digits[-18:] or 0), name
