"""Members, changes, and what pairs of nodes share: for the tests of placement at every size."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

from dynagent.core.ports import NodeId
from dynagent.core.ring import Member

Lists = tuple[tuple[NodeId, ...], ...]


def member(number: int, *, capacity: int = 1, zone: str = "", host: str = "") -> Member:
    return Member(
        id=NodeId(f"{number:016x}"),
        name=f"n{number}",
        address=f"10.0.0.{number}:7411",
        zone=zone,
        host=host or f"host-{number}",
        capacity=capacity,
    )


def random_members(dice: random.Random, numbers: Sequence[int], *, zones: int) -> list[Member]:
    """Nodes of capacity 1 to 4; some hosts have two; a host is in the zone of its number."""
    hosts = [number // dice.choice((1, 1, 2)) for number in numbers]
    return [
        member(
            number, capacity=dice.randint(1, 4), zone=f"zone-{host % zones}", host=f"host-{host}"
        )
        for number, host in zip(numbers, hosts, strict=True)
    ]


def changed(dice: random.Random, members: list[Member], fresh: int) -> list[Member]:
    """A random change: joins, leaves, a replacement, another capacity, or another zone."""
    kind = dice.choice(("join", "join", "leave", "replace", "capacity", "zone"))
    victim = dice.randrange(len(members))
    others = members[:victim] + members[victim + 1 :]
    zone, capacity = f"zone-{dice.randrange(4)}", dice.choice((0, 1, 1, 2, 5))
    match kind:
        case "join":
            joiners = [
                member(fresh + i, capacity=1 + capacity, zone=zone)
                for i in range(dice.randint(1, 3))
            ]
            return members + joiners
        case "leave":
            return others[dice.randint(0, 1) :]
        case "replace":
            return [*others, replace(members[victim], id=member(fresh).id, name=f"n{fresh}")]
        case "capacity":
            return [*others, replace(members[victim], capacity=capacity)]
        case _:
            moved = members[victim].host
            return [replace(m, zone=zone) if m.host == moved else m for m in members]


def company(lists: Lists) -> Counter[tuple[NodeId, ...]]:
    """How many partitions each two nodes share."""
    return Counter(pair for owners in lists for pair in combinations(sorted(owners), 2))


def expected_company(nodes: int, *, partitions: int, n: int = 3) -> Fraction:
    """How many each two of them share on average."""
    return Fraction(partitions * n * (n - 1), nodes * (nodes - 1))
