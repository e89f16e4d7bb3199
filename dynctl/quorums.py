"""Would requests pass now? The rules of the coordinator, with what each agent believes.

A request is coordinated by an owner, as that one sees the cluster; where no owner is up, by who
stands in. So a partition passes if one of those that answer would reach enough nodes: an agent that
is cut off makes no partition fail as long as others serve it. R and W of the ring are meant; a
request may ask for less.
"""

from __future__ import annotations

from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.preference import active
from dynagent.core.ring import Ring
from dynctl.observe import Observation


def failing(seen: Observation) -> tuple[int, int]:
    """How many partitions would fail a strict get or put now, and how many even a sloppy one."""
    views = {
        one.member.id: frozenset(one.status["up"])
        for one in seen.members
        if one.status is not None and _serves(seen, one.status)
    }
    strict = sloppy = 0
    for at in map(PartitionId, range(seen.ring.partitions)):
        owners = seen.ring.lists[at]
        if not any(reaches(seen.ring, at, view) for view in _of(owners, views)):
            strict += 1
            sloppy += not any(_stands(seen.ring, at, node, view) for node, view in views.items())
    return strict, sloppy


def reaches(ring: Ring, partition: PartitionId, up: frozenset[NodeId]) -> bool:
    """Do enough owners take part, as one of them sees it? While it moves: of both lists."""
    able = up.difference(ring.removed)
    lists = ring.write_lists(partition)
    return (
        all(len(able.intersection(owners)) >= ring.w for owners in lists)
        and len(able.intersection(ring.read_list(partition))) >= ring.r
    )


def _of(
    owners: tuple[NodeId, ...], views: dict[NodeId, frozenset[NodeId]]
) -> list[frozenset[NodeId]]:
    return [views[owner] for owner in owners if owner in views]


def _serves(seen: Observation, status: dict[str, object]) -> bool:
    return status["state"] == "serving" and status["cluster_id"] == seen.ring.cluster_id


def _stands(ring: Ring, partition: PartitionId, node: NodeId, up: frozenset[NodeId]) -> bool:
    """Would a sloppy request that `node` coordinates reach enough?"""
    nodes = {place.node for place in active(ring, partition, up.__contains__)} - {None}
    is_owner = node in ring.lists[partition]
    coordinates = is_owner or (node in nodes and up.isdisjoint(ring.lists[partition]))
    return coordinates and len(nodes) >= max(ring.r, ring.w)
