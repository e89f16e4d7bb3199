"""The shapes in which a network breaks: pure sets of one-way cuts between nodes.

A cut is a pair (source, target): what `source` sends does not reach `target`. A shape is a set of
cuts. The names are those of Jepsen's nemeses and of FoundationDB (swizzle-clog).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

Cut = tuple[str, str]
Shape = frozenset[Cut]


def between(some: Iterable[str], others: Iterable[str]) -> Shape:
    """Both ways between two groups."""
    others = list(others)
    return frozenset(
        pair
        for one in some
        for other in others
        if one != other
        for pair in ((one, other), (other, one))
    )


def one(nodes: Sequence[str], dice: random.Random) -> Shape:
    """One node alone."""
    alone = dice.choice(nodes)
    return between([alone], [node for node in nodes if node != alone])


def majority(nodes: Sequence[str], dice: random.Random) -> Shape:
    """A majority on one side, the rest (two of five) on the other."""
    mixed = dice.sample(nodes, len(nodes))
    half = len(nodes) // 2 + 1
    return between(mixed[:half], mixed[half:])


def minority_third(nodes: Sequence[str], dice: random.Random) -> Shape:
    """Nobody has a majority: three groups of about a third each (of five: two, two and one)."""
    mixed = dice.sample(nodes, len(nodes))
    third = -(-len(nodes) // 3)
    groups = [mixed[start : start + third] for start in range(0, len(mixed), third)]
    return frozenset().union(*(between(group, set(nodes) - set(group)) for group in groups))


def majorities_ring(nodes: Sequence[str], dice: random.Random) -> Shape:
    """Every node sees a majority, and no two the same one."""
    ring = dice.sample(nodes, len(nodes))
    reach = -(-(len(ring) // 2) // 2)  # so many neighbours on each side
    cuts: set[Cut] = set()
    for place, node in enumerate(ring):
        near = {ring[(place + step) % len(ring)] for step in range(-reach, reach + 1)}
        cuts |= between([node], set(ring) - near)
    return frozenset(cuts)


def one_way(nodes: Sequence[str], dice: random.Random) -> Shape:
    """What a minority sends is lost; what is sent to it arrives."""
    mixed = dice.sample(nodes, len(nodes))
    half = len(nodes) // 2 + 1
    return frozenset((source, target) for source in mixed[half:] for target in mixed[:half])


def partial(nodes: Sequence[str], dice: random.Random) -> Shape:
    """Two groups cut from each other, and one node that both see."""
    mixed = dice.sample(nodes, len(nodes))
    half = (len(nodes) - 1) // 2
    return between(mixed[:half], mixed[half:-1])


SHAPES: dict[str, Callable[[Sequence[str], random.Random], Shape]] = {
    "one": one,
    "majority": majority,
    "minority third": minority_third,
    "majorities ring": majorities_ring,
    "one way": one_way,
    "partial": partial,
}


def swizzle_clog(nodes: Sequence[str], dice: random.Random) -> list[Shape]:
    """Step by step: the nodes of a random subset (two or more) are cut off one by one, then brought
    back in another random order. The last shape is whole."""
    clogged = dice.sample(nodes, dice.randint(2, len(nodes) - 1))
    restored = dice.sample(clogged, len(clogged))
    groups = [clogged[:count] for count in range(1, len(clogged) + 1)]
    groups += [restored[count:] for count in range(1, len(restored) + 1)]
    return [frozenset().union(*(between([node], nodes) for node in group)) for group in groups]


def reachable(shape: Shape, nodes: Sequence[str], node: str) -> set[str]:
    """The nodes with which `node` can talk both ways, itself too."""
    return {n for n in nodes if (n, node) not in shape and (node, n) not in shape}


def component(shape: Shape, nodes: Sequence[str], node: str) -> set[str]:
    """Everybody whom a request may reach that begins at `node`, over any number of agents."""
    found, new = {node}, [node]
    while new:
        near = reachable(shape, nodes, new.pop()) - found
        found |= near
        new += sorted(near)
    return found
