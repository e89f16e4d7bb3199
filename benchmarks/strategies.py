"""The three ways to place partitions that Dynamo §6.2 compares, simulated, and our own beside them.

Each gives its load balancing efficiency: the mean load of the nodes divided by the load of the
busiest, when every key is asked for equally often. Loads are computed, not sampled: the load of a
node is the part of the ring that it holds a copy of.

Everything is drawn from the name, the size and the number of a run, so figures are the same on
every machine.
"""

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from math import fsum
from random import Random

from dynagent.core.claim import plan
from dynagent.core.ports import NodeId
from dynagent.core.ring import Member

NODES = 30  # as in Figure 8
N = 3
PARTITIONS_2 = 1_024  # strategy 2's Q, which the paper does not tell; see docs/placement.md


def efficiency(loads: Sequence[float]) -> float:
    return fsum(loads) / len(loads) / max(loads)


def strategy_1(size: int, dice: Random, *, nodes: int = NODES) -> float:
    """`size` tokens at random places; between two of them lies a partition."""
    tokens = sorted((dice.random(), node) for node in islice(cycle(range(nodes)), size))
    loads = [0.0] * nodes
    before = tokens[-1][0] - 1.0
    for (token, _), owners in zip(tokens, _walk([node for _, node in tokens]), strict=True):
        for node in owners:
            loads[node] += token - before
        before = token
    return efficiency(loads)


def strategy_2(
    size: int, dice: Random, *, nodes: int = NODES, partitions: int = PARTITIONS_2
) -> float:
    """`size` tokens at random places; partitions are equal, and each belongs to the first N
    distinct nodes met from its end on."""
    tokens = sorted(
        (dice.random() * partitions, node) for node in islice(cycle(range(nodes)), size)
    )
    owners = _walk([node for _, node in tokens])
    loads = [0] * nodes
    at = 0
    for partition in range(partitions):
        while at < size and tokens[at][0] < partition + 1:
            at += 1
        for node in owners[at % size]:
            loads[node] += 1
    return efficiency(loads)


def strategy_3(size: int, dice: Random, *, nodes: int = NODES) -> float:
    """`size` equal partitions, dealt out at random, to each node as many."""
    dealt = list(islice(cycle(range(nodes)), size))
    dice.shuffle(dealt)
    loads = [0] * nodes
    for owners in _walk(dealt):
        for node in owners:
            loads[node] += 1
    return efficiency(loads)


def claim(size: int, *, nodes: int = NODES) -> float:
    """`size` equal partitions, placed as this product does it."""
    members = [
        Member(
            id=NodeId(f"{node:016x}"),
            name=f"n{node}",
            address="",
            zone="",
            host=f"host-{node}",
            capacity=1,
        )
        for node in range(nodes)
    ]
    loads = dict.fromkeys((member.id for member in members), 0)
    for owners in plan(members=members, partitions=size, n=N).lists:
        for owner in owners:
            loads[owner] += 1
    return efficiency(list(loads.values()))


def bound(size: int, *, nodes: int = NODES) -> float:
    """The best that can be: places are whole, so somebody has ⌈Q·N/S⌉ of them."""
    return size * N / nodes / -(-size * N // nodes)


def mean(strategy: Callable[..., float], size: int, *, nodes: int = NODES) -> float:
    """Of as many runs as keep its standard error under 0.006 (small sizes scatter most)."""
    runs = max(25, 30_000 // size)
    name = strategy.__name__
    return (
        fsum(strategy(size, Random(f"{name} {size} {run}"), nodes=nodes) for run in range(runs))
        / runs
    )


def _walk(owner_of: Sequence[int]) -> list[list[int]]:
    """For each place on the ring, the first N distinct owners met from there on."""
    twice = [*owner_of, *owner_of]
    met = []
    for start in range(len(owner_of)):
        owners: list[int] = []
        at = start
        while len(owners) < N:
            owner = twice[at]
            if owner not in owners:
                owners.append(owner)
            at += 1
        met.append(owners)
    return met
