"""The rules of a placement: who may hold how much, and how many copies a zone or host may have.

`rules` turns a list of members into the numbers that the flow (`claim_flow`) and the checker
(`claim.certify`) both work with. What belongs here is arithmetic on capacities, hosts and zones;
partitions are only a factor, and nothing here knows who held what before.

**Hosts.** A list has at most one node of a host. Where the operator allows co-location and there
are fewer hosts than N, the limit is the smallest that makes room for N: with two hosts and N=3 it
is 2, so no list lies on one host only.

**Zones.** K is the smallest number with Σ min(K, room of the zone) ≥ N: the most even spread there
is. A list has at most min(K, room) nodes of a zone and at least min(K−1, room). With as many zones
as copies K=1 and all zones of a list differ; with fewer zones every list is in all of them.

**Shares.** t(n) is the weighted max-min fair share: water poured into vessels as wide as the
capacities, inside hosts, inside zones, each of which holds no more (a zone also no less) than its
limit times Q. Exact fractions, because the floor and ceiling of t are what a plan promises.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from dynagent.core.ports import NodeId
from dynagent.core.ring import Member
from dynagent.errors import PlanInfeasible


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """One placement problem. Nodes, hosts and zones are numbered in the order of their names."""

    nodes: tuple[NodeId, ...]  # those with capacity
    host: tuple[int, ...]  # of each node
    zone: tuple[int, ...]  # of each node
    host_max: tuple[int, ...]  # copies of one partition that a host may have
    zone_min: tuple[int, ...]  # ... that a zone must have
    zone_max: tuple[int, ...]  # ... that a zone may have
    shares: tuple[Fraction, ...]  # of each node: its fair number of places, t(n)

    @property
    def low(self) -> list[int]:
        return [floor(share) for share in self.shares]

    @property
    def high(self) -> list[int]:
        return [ceil(share) for share in self.shares]


def rules(members: Sequence[Member], *, partitions: int, n: int, allow_colocated: bool) -> Rules:
    """The rules for these members, in whatever order they come.

    Raises `PlanInfeasible` where there are too few nodes or hosts for N, or a host has two zones.
    """
    placed = sorted((m for m in members if m.capacity > 0), key=lambda member: member.id)
    zone_of = _zone_of_each_host(placed)
    hosts, zones = sorted(zone_of), sorted(set(zone_of.values()))
    _check_room(nodes=len(placed), hosts=len(hosts), n=n, allow_colocated=allow_colocated)
    residents = [sum(m.host == host for m in placed) for host in hosts]
    # With enough hosts this is 1 whether or not co-location is allowed.
    limit = _smallest_limit(residents, n)
    host_max = [min(limit, nodes) for nodes in residents]
    room = [
        sum(most for host, most in zip(hosts, host_max, strict=True) if zone_of[host] == zone)
        for zone in zones
    ]
    limit = _smallest_limit(room, n)
    zone_min = [min(limit - 1, nodes) for nodes in room]
    zone_max = [min(limit, nodes) for nodes in room]

    host_vessels: list[list[_Group]] = [[] for _ in zones]
    for host, most in zip(hosts, host_max, strict=True):
        inside = [_Node(m, partitions) for m in placed if m.host == host]
        vessel = _Group(inside, low=0, high=most * partitions)
        host_vessels[zones.index(zone_of[host])].append(vessel)
    whole = [
        _Group(inside, low=least * partitions, high=most * partitions)
        for inside, least, most in zip(host_vessels, zone_min, zone_max, strict=True)
    ]
    shares: dict[NodeId, Fraction] = {}
    _share_out(whole, Fraction(n * partitions), shares)
    return Rules(
        nodes=tuple(m.id for m in placed),
        host=tuple(hosts.index(m.host) for m in placed),
        zone=tuple(zones.index(m.zone) for m in placed),
        host_max=tuple(host_max),
        zone_min=tuple(zone_min),
        zone_max=tuple(zone_max),
        shares=tuple(shares[m.id] for m in placed),
    )


def fault(terms: Rules, owners: Sequence[int]) -> str:
    """What is wrong with a list of these nodes (by number), in words; empty if it keeps the rules.
    Whether they are N, and differ, is not looked at."""
    hosts = [terms.host[node] for node in owners]
    zones = [terms.zone[node] for node in owners]
    if any(hosts.count(host) > most for host, most in enumerate(terms.host_max)):
        return "has too many copies on one host"
    for zone, (least, most) in enumerate(zip(terms.zone_min, terms.zone_max, strict=True)):
        if not least <= zones.count(zone) <= most:
            return "is spread unevenly over the zones"
    return ""


def _zone_of_each_host(placed: Sequence[Member]) -> dict[str, str]:
    zone_of: dict[str, str] = {}
    for member in placed:
        zone = zone_of.setdefault(member.host, member.zone)
        if zone != member.zone:
            raise PlanInfeasible(
                f"host {member.host} is in zone {zone} and in zone {member.zone};"
                " give all its nodes one zone, or two hosts two names"
            )
    return zone_of


def _check_room(*, nodes: int, hosts: int, n: int, allow_colocated: bool) -> None:
    if nodes < n:
        have = "1 node holds" if nodes == 1 else f"{nodes} nodes hold"
        raise PlanInfeasible(f"{have} capacity, N={n} needs {n}; add a node")
    if hosts < n and not allow_colocated:
        have = "1 host holds" if hosts == 1 else f"{hosts} hosts hold"
        raise PlanInfeasible(
            f"{have} capacity, N={n} needs {n}; add a host or use --allow-colocated"
        )


def _smallest_limit(room: Sequence[int], n: int) -> int:
    """The smallest K with Σ min(K, room) ≥ n. The caller knows that Σ room ≥ n."""
    limit = 1
    while sum(min(limit, places) for places in room) < n:
        limit += 1
    return limit


class _Node:
    """A vessel as wide as the node's capacity that runs over at Q places."""

    __slots__ = ("bends", "capacity", "high", "id")

    def __init__(self, member: Member, partitions: int) -> None:
        self.id = member.id
        self.capacity = member.capacity
        self.high = Fraction(partitions)
        self.bends: list[Fraction] = [self.high / member.capacity]

    def at(self, level: Fraction) -> Fraction:
        return min(level * self.capacity, self.high)


class _Group:
    """Vessels inside one that holds at least `low` and at most `high`.

    `bends` are the levels at which the content stops being a straight line of the level.
    """

    __slots__ = ("bends", "high", "inside", "low")

    def __init__(self, inside: "Sequence[_Vessel]", *, low: int, high: int) -> None:
        self.inside = inside
        self.low, self.high = Fraction(low), Fraction(high)
        self.bends: list[Fraction] = sorted(
            {bend for vessel in inside for bend in vessel.bends}
            | {_level(inside, self.low), _level(inside, self.high)}
        )

    def at(self, level: Fraction) -> Fraction:
        return min(max(_content(self.inside, level), self.low), self.high)


_Vessel = _Node | _Group


def _content(vessels: Sequence[_Vessel], level: Fraction) -> Fraction:
    return sum((vessel.at(level) for vessel in vessels), Fraction(0))


def _level(vessels: Sequence[_Vessel], amount: Fraction) -> Fraction:
    """The lowest level at which the vessels together hold `amount`; exact."""
    bends = sorted({Fraction(0)}.union(*(vessel.bends for vessel in vessels)))
    above = bisect_left(bends, amount, key=lambda level: _content(vessels, level))
    if above == 0:
        return bends[0]
    # Above the last bend every vessel is full, and the limits were chosen to leave room for N.
    assert above < len(bends)
    left, right = bends[above - 1], bends[above]
    base, top = _content(vessels, left), _content(vessels, right)
    return left + (right - left) * (amount - base) / (top - base)


def _share_out(
    vessels: Sequence[_Vessel], amount: Fraction, shares: dict[NodeId, Fraction]
) -> None:
    """Pours `amount` into the vessels and writes down what each node got."""
    level = _level(vessels, amount)
    for vessel in vessels:
        if isinstance(vessel, _Node):
            shares[vessel.id] = vessel.at(level)
        else:
            # A zone or host at its limit has a level of its own inside.
            _share_out(vessel.inside, vessel.at(level), shares)
