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

While a partition moves (design §6) a request goes to the owners of two lists, N places in each; an
owner of both has one place that counts in both, and so has its stand-in. The rule about hosts holds
within each list.

Example with N=3: owners a, b, c of partition 5, d, a, e of partition 6. With b down the places are
(a, a), (b, d), (c, c). Where all nodes are owners there is no stand-in, and b's place has None:
the coordinator itself keeps the hint, and counts once.

Pure functions of the ring; who is up is the caller's belief. Both walks cost some ten
microseconds for each hundred members, and are taken only while an owner is down.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
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


def fallbacks(ring: Ring, partition: PartitionId) -> tuple[NodeId, ...]:
    """Who may stand in for an owner, in order: N other nodes with capacity, if there are so many.

    First one node of each host that has no owner of the partition, then all the rest.
    """
    host_of = {member.id: member.host for member in ring.members}
    used = {host_of[owner] for owner in ring.all_owners(partition)}
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
    """The active preference list: the owners' places, in order, with who fills each now.

    No node fills two places. `is_up` is asked at most once about each node.
    """
    owners = ring.all_owners(partition)
    up = {owner: is_up(owner) for owner in owners}
    if all(up.values()):
        return tuple(Place(owner, owner) for owner in up)
    hosts = _Hosts(ring, partition)
    for owner, owner_is_up in up.items():
        if owner_is_up:
            hosts.take(owner, owner)
    waiting = [node for node in fallbacks(ring, partition) if is_up(node)]
    places: list[Place] = []
    for owner, owner_is_up in up.items():
        node: NodeId | None = owner
        if not owner_is_up:
            node = next((node for node in waiting if hosts.has_room(owner, node)), None)
            if node is not None:
                waiting.remove(node)
                hosts.take(owner, node)
        places.append(Place(owner, node))
    return tuple(places)


def next_stand_in(
    ring: Ring,
    partition: PartitionId,
    is_up: Callable[[NodeId], bool],
    owner: NodeId,
    *,
    asked: Collection[NodeId],
    counting: Mapping[NodeId, NodeId],
) -> NodeId | None:
    """Who takes an owner's place when it, or its stand-in, has failed: the next fallback that is up
    and has not been asked, on a host of none that may still count. None: nobody is left.

    `counting`: {node: in whose place it counts}.
    """
    hosts = _Hosts(ring, partition)
    for node, place in counting.items():
        hosts.take(place, node)
    for node in fallbacks(ring, partition):
        if node not in asked and hosts.has_room(owner, node) and is_up(node):
            return node
    return None


class _Hosts:
    """The hosts in use in each of the lists: one machine must not count twice in a list."""

    def __init__(self, ring: Ring, partition: PartitionId) -> None:
        self._lists = ring.write_lists(partition)
        self._host_of = host_of = {member.id: member.host for member in ring.members}
        self._used: list[set[str]] = [set() for _ in self._lists]
        self._may_share = [len({host_of[at] for at in list_}) < len(list_) for list_ in self._lists]

    def take(self, owner: NodeId, node: NodeId) -> None:
        """`node` fills the owner's place in all lists that have it."""
        for list_, used in zip(self._lists, self._used, strict=True):
            if owner in list_:
                used.add(self._host_of[node])

    def has_room(self, owner: NodeId, node: NodeId) -> bool:
        host = self._host_of[node]
        return all(
            may_share or host not in used or owner not in list_
            for list_, used, may_share in zip(self._lists, self._used, self._may_share, strict=True)
        )


def _walk(ring: Ring, partition: PartitionId) -> Iterator[NodeId]:
    """Clockwise from the partition: each node with capacity that is not an owner of it, once. Who
    is leaving gets no more to keep; nor does who joins, for an abort would throw out both."""
    left = {member.id for member in ring.members if member.capacity > 0}
    left.difference_update(ring.all_owners(partition), ring.leaving, ring.removed)
    if ring.change is not None:
        left.difference_update(ring.change.joined)
    following = chain(ring.lists[partition + 1 :], ring.lists[:partition])
    for node in chain.from_iterable(following):
        if not left:
            return
        if node in left:
            left.remove(node)
            yield node
    yield from sorted(left)
