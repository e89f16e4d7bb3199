"""What a cluster holds after faults: lost writes, replicas that differ, hints, who sees whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dynagent.client.blocking import Client
from dynagent.client.bootstrap import status_of
from dynagent.core.messages import STATE_ABSENT, Get, GetReply, Inspect, InspectReply
from dynagent.core.ring import token_of
from dynagent.core.version import Version
from dynctl.load.driver import Answer
from tests.real.cluster import RealAgent, RealCluster
from tests.real.drive import drive


def missing(cluster: RealCluster, expected: Mapping[bytes, bytes]) -> set[bytes]:
    """The keys that do not hold their value, by a get of each; what a single agent does not show is
    asked again of any. Raises `DynagentError` if nobody can tell."""
    found: set[bytes] = set()

    def on_reply(key: bytes, reply: Answer, _seconds: float) -> None:
        siblings = reply.siblings if isinstance(reply, GetReply) else []
        if expected[key] not in [Version(data).value for data in siblings]:
            found.add(key)

    requests = ((key, Get(key)) for key in sorted(expected))
    drive(cluster.addresses, requests, on_reply, connections=12)
    with cluster.client() as client:
        return {
            key
            for key in sorted(found)
            if expected[key] not in [version.value for version in client.get(key).versions]
        }


def copies(cluster: RealCluster, keys: Iterable[bytes]) -> dict[bytes, dict[str, bytes]]:
    """key → owner's name → digest of its committed copy (empty: none), without any repair.

    An owner that answers anything else raises `AssertionError`.
    """
    ring = cluster.ring()
    name_of = {member.id: member.name for member in ring.members}
    held: dict[bytes, dict[str, bytes]] = {key: {} for key in keys}
    asked: dict[str, list[bytes]] = {agent.name: [] for agent in cluster.agents}
    for key in held:
        for owner in ring.lists[ring.partition_of(token_of(key))]:
            asked[name_of[owner]].append(key)
    for agent in cluster.agents:

        def on_reply(key: bytes, reply: Answer, _s: float, name: str = agent.name) -> None:
            assert isinstance(reply, InspectReply), f"{name} of {key!r}: {reply}"
            held[key][name] = b"" if reply.state == STATE_ABSENT else reply.digest or b"unreadable"

        drive([agent.address], ((key, Inspect(key)) for key in asked[agent.name]), on_reply)
    return held


def unequal(cluster: RealCluster, keys: Iterable[bytes]) -> list[bytes]:
    """The keys of which not all owners hold the same."""
    return [key for key, held in copies(cluster, keys).items() if len(set(held.values())) > 1]


def present(cluster: RealCluster, keys: Iterable[bytes]) -> list[bytes]:
    """The keys of which some owner holds anything."""
    return [key for key, held in copies(cluster, keys).items() if any(held.values())]


def status(agent: RealAgent) -> dict[str, Any]:
    """Its status document; raises `DynagentError` if it does not answer."""
    with Client([], learn_ring=False, timeout_s=2.0) as client:
        return status_of(client, agent.address)


def hints_of(agent: RealAgent) -> int:
    """Hints that this agent keeps for others."""
    return sum(status(agent).get("hints", {}).values())


def hints_left(cluster: RealCluster) -> int:
    return sum(hints_of(agent) for agent in cluster.agents if agent.process is not None)


def node_id(agent: RealAgent) -> str:
    found = status(agent)["node_id"]
    assert isinstance(found, str)
    return found


def sees(agent: RealAgent, node: str) -> bool:
    """Whether it believes that the node with this id is up."""
    return node in status(agent)["up"]
