"""Making one cluster of fresh agents: the explicit verb that DESIGN calls bootstrap (§6).

It asks each agent who it is, plans the first ring, and installs it everywhere. It can be repeated:
if some agents took the ring and others did not, the same call hands the same ring to the rest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynagent.client.blocking import Client
from dynagent.core import claim
from dynagent.core.inspect import decode_status
from dynagent.core.messages import Install, RingReply, RingRequest, StatusReply, StatusRequest
from dynagent.core.ports import NodeId
from dynagent.core.ring import Member, Ring, check_partitions, check_quorums
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.core.voters import choose_voters
from dynagent.errors import DynagentError, ProtocolError, Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrapped:
    """What came of it. `resumed`: some of the agents had this ring already."""

    ring: Ring
    resumed: bool


def status_of(
    client: Client, address: str, *, facts: bool = False, tombstones: bool = False
) -> dict[str, Any]:
    """The status document of one agent, with what it knows of all others if `facts`, and of each
    partition with `tombstones`; raises `Unreachable` or `ProtocolError`."""
    reply = client.ask(address, StatusRequest(facts, tombstones))
    if not isinstance(reply, StatusReply):
        raise ProtocolError(f"{address}: {type(reply).__name__} is not a status")
    return decode_status(reply.document)


def bootstrap(
    addresses: Sequence[str],
    *,
    n: int = 3,
    r: int = 2,
    w: int = 2,
    partitions: int = 256,
    allow_colocated: bool = False,
    timeout_s: float = 10.0,
) -> Bootstrapped:
    """Makes one cluster of the agents at these addresses.

    Raises `BadRequest` for impossible numbers, `PlanInfeasible` if the agents are on too few hosts,
    `Refused` if one belongs to a cluster already, `Unreachable` if one does not answer. Until the
    last check has passed nothing is changed anywhere.
    """
    check_quorums(n=n, r=r, w=w)
    check_partitions(partitions)
    with Client(addresses, timeout_s=timeout_s, learn_ring=False) as client:
        statuses = {address: status_of(client, address) for address in addresses}
        members = _members(statuses)
        taken = [address for address in addresses if statuses[address]["state"] != "fresh"]
        if taken:
            ring = _present_ring(client, taken[0])
            if {m.id for m in ring.members} != {m.id for m in members}:
                raise Refused(
                    f"{taken[0]} already belongs to cluster {ring.cluster_id.hex()} of "
                    f"{len(ring.members)} other agents; bootstrap takes fresh agents only"
                )
        else:
            plan = claim.plan(
                members=members, partitions=partitions, n=n, allow_colocated=allow_colocated
            )
            ring = Ring(
                epoch=1,
                cluster_id=os.urandom(16),
                n=n,
                r=r,
                w=w,
                members=members,
                lists=plan.lists,
                voters=choose_voters(members),
            )
        _install(client, [address for address in addresses if address not in taken], ring)
    return Bootstrapped(ring=ring, resumed=bool(taken))


def member_of(status: dict[str, Any]) -> Member:
    """The member that an agent with this status would be."""
    about = status["about"]
    return Member(
        id=NodeId(status["node_id"]),
        name=about["name"],
        address=about["address"],
        zone=about["zone"],
        host=about["host"],
        capacity=about["capacity"],
    )


def _members(statuses: dict[str, dict[str, Any]]) -> tuple[Member, ...]:
    members = []
    for address, status in statuses.items():
        members.append(member_of(status))
        for other in members[:-1]:
            if other.id == members[-1].id:
                raise Refused(f"{address} and {other.address} are the same agent")
            if other.name == members[-1].name:
                raise Refused(
                    f"two agents are named {other.name} ({other.address}, {address}); "
                    f"start one of them with another --name"
                )
    return tuple(sorted(members, key=lambda member: member.id))


def _present_ring(client: Client, address: str) -> Ring:
    reply = client.ask(address, RingRequest())
    if not isinstance(reply, RingReply):
        raise ProtocolError(f"{address}: {type(reply).__name__} is not a ring")
    return decode_ring(reply.ring)


def _install(client: Client, addresses: Sequence[str], ring: Ring) -> None:
    encoded = encode_ring(ring)
    for done, address in enumerate(addresses):
        try:
            client.ask(address, Install(encoded))
        except DynagentError as exc:
            left = len(addresses) - done
            raise type(exc)(
                f"{exc.message}; {left} of {len(ring.members)} agents have not taken the ring yet, "
                f"repeat the same command to finish"
            ) from exc
