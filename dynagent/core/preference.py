"""The preference list and those who stand in (Dynamo §4.3 and §4.6).

A partition has N owners, in order. When one is down, a *fallback* stands in for it, so that a put
still reaches N nodes: the sloppy quorum. The N nodes that a request is sent to are the partition's
*active preference list*.

Fallbacks are found by walking clockwise: through the owners of the following partitions, each node
with capacity once. Those on hosts that the partition does not use yet come first. So a node's
stand-ins differ from partition to partition, and the load of a dead node is spread. A node that
owns nothing anywhere (its capacity is tiny) is met by no walk and comes last. The first N are all
there are: whoever may hold a copy has a say in when its tombstone goes (`core.tombstones`), and in
a large cluster that must not be everybody. So a partition has 2N nodes that may serve it.

A stand-in never shares a host with another node of the active list, for two copies on one machine
would be counted as two. Only where the owners themselves do (`--allow-colocated`) may it.

Example with N=3: owners a, b, c of partition 5, d, a, e of partition 6. With b down the places are
(a, a), (b, d), (c, c). Where all nodes are owners there is no stand-in, and b's place has None:
the coordinator itself keeps the hint, and counts once.

Pure functions of the ring; who is up is the caller's belief. Both walks cost some ten
microseconds for each hundred members, and are taken only while an owner is down.
"""

from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import NamedTuple

from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Ring


class Place(NamedTuple):
    """One of the N places of an active preference list."""

    owner: NodeId
    node: NodeId | None  # the owner, or its stand-in while it is down; None: nobody can

    @property
    def is_hinted(self) -> bool:
        """Whether a write here needs a hint: it reaches not the owner but someone in its place."""
        return self.node != self.owner


def owners(ring: Ring, partition: PartitionId) -> tuple[NodeId, ...]:
    """The N owners of a partition, in order of preference."""
    return ring.lists[partition]


def fallbacks(ring: Ring, partition: PartitionId) -> tuple[NodeId, ...]:
    """Who may stand in for an owner, in order: N other nodes with capacity, if there are so many.

    First one node of each host that has no owner of the partition, then all the rest.
    """
    host_of = {member.id: member.host for member in ring.members}
    used = {host_of[owner] for owner in ring.lists[partition]}
    first: list[NodeId] = []
    rest: list[NodeId] = []
    for node in _walk(ring, partition):
        if host_of[node] in used:
            rest.append(node)
        else:
            used.add(host_of[node])
            first.append(node)
    return (*first, *rest)[: ring.n]


def active(
    ring: Ring, partition: PartitionId, is_up: Callable[[NodeId], bool]
) -> tuple[Place, ...]:
    """The active preference list: the owners' N places, in order, with who fills each now.

    No node fills two places. `is_up` is asked at most once about each node.
    """
    up = {owner: is_up(owner) for owner in ring.lists[partition]}
    if all(up.values()):
        return tuple(Place(owner, owner) for owner in up)
    host_of = {member.id: member.host for member in ring.members}
    may_share = len({host_of[owner] for owner in up}) < len(up)
    used = {host_of[owner] for owner, owner_is_up in up.items() if owner_is_up}
    waiting = iter(fallbacks(ring, partition))
    places: list[Place] = []
    for owner, owner_is_up in up.items():
        node: NodeId | None = owner
        if not owner_is_up:
            node = next(
                (n for n in waiting if (may_share or host_of[n] not in used) and is_up(n)), None
            )
            if node is not None:
                used.add(host_of[node])
        places.append(Place(owner, node))
    return tuple(places)


def next_stand_in(
    ring: Ring,
    partition: PartitionId,
    is_up: Callable[[NodeId], bool],
    *,
    asked: Collection[NodeId],
    counting: Collection[NodeId],
) -> NodeId | None:
    """Who takes the place of one that has failed: the next fallback that is up and has not been
    asked, on a host of none that may still count. None: nobody is left."""
    host_of = {member.id: member.host for member in ring.members}
    owners_ = ring.lists[partition]
    may_share = len({host_of[owner] for owner in owners_}) < len(owners_)
    used = {host_of[node] for node in counting}
    for node in fallbacks(ring, partition):
        if node not in asked and (may_share or host_of[node] not in used) and is_up(node):
            return node
    return None


def _walk(ring: Ring, partition: PartitionId) -> Iterator[NodeId]:
    """Clockwise from the partition: each node with capacity that is not an owner of it, once."""
    left = {member.id for member in ring.members if member.capacity > 0}
    left.difference_update(ring.lists[partition])
    following = chain(ring.lists[partition + 1 :], ring.lists[:partition])
    for node in chain.from_iterable(following):
        if not left:
            return
        if node in left:
            left.remove(node)
            yield node
    yield from sorted(left)
