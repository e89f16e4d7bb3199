"""What a planned change will cost, and what it puts at risk on its way.

**Cost.** A partition is as large as the average of those that answer: nobody is asked for more. A
target copies one partition after the other within its background budget (Dynamo §6.5), and so do
the sources that it copies from; the slowest of all of them says how long it takes. It is a guess:
the budget shrinks when clients wait.

**Risk.** In each step a put needs W of every write list and a get R of the read list (`core.ring`).
A partition *fails* in a step if too few of these are up as it is; it is *fragile* if it would fail
when one more node died. Only owners are counted, as for a strict request: sloppy ones pass with
stand-ins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from dynagent.client.changes import ChangePlan
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import JOINT_NEW, JOINT_OLD, Owners, Ring


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a node told of itself; None: unknown."""

    keys: int | None
    bytes: int | None
    bytes_per_s: float | None  # its background budget allows


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What has to be copied, by whom, and how long that takes; None: nobody knows."""

    keys: int | None
    bytes: int | None
    bytes_of: dict[NodeId, int]  # of each node that gets something
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """One step of the change, and which partitions fail in it or would."""

    step: str  # now, copying, switching or settled
    writes_fail: tuple[PartitionId, ...]
    reads_fail: tuple[PartitionId, ...]
    writes_fragile: tuple[PartitionId, ...]
    reads_fragile: tuple[PartitionId, ...]
    worst: NodeId | None  # whose death most partitions would fail by, if any would


def cost(plan: ChangePlan, loads: Mapping[NodeId, Load]) -> Cost:
    """`loads`: of the nodes that answered, by id; those of fresh ones tell their budgets."""
    gains = plan.gains
    keys, size = _average(plan, loads, "keys"), _average(plan, loads, "bytes")
    if size is None:
        return Cost(
            keys=None if gains else 0,
            bytes=None if gains else 0,
            bytes_of={},
            seconds=None if gains else 0.0,
        )
    bytes_of = {node: round(count * size) for node, count in sorted(gains.items())}
    sent = Counter(node for p in plan.after.moves for node in _sources(plan, p))
    total = sum(sent.values())
    moved = sum(bytes_of.values())
    waits = [_seconds(bytes_of[node], loads.get(node)) for node in bytes_of]
    waits += [_seconds(moved * sent[node] / total, loads.get(node)) for node in sorted(sent)]
    known = [wait for wait in waits if wait is not None]
    return Cost(
        keys=round(plan.moved * keys) if keys is not None else None,
        bytes=moved,
        bytes_of=bytes_of,
        seconds=max(known, default=0.0) if len(known) == len(waits) else None,
    )


def risks(plan: ChangePlan, up: Collection[NodeId]) -> list[Risk]:
    """One of each step; only `now` and `settled` if nothing moves. `up`: also fresh nodes."""
    counted = frozenset(up).difference(plan.entry.removed)
    found = [_risk("now", plan.ring, frozenset(up))]
    change = plan.after.change
    if change is not None:
        for step, phase in (("copying", JOINT_OLD), ("switching", JOINT_NEW)):
            moves = tuple(replace(move, phase=phase) for move in change.moves)
            joint = replace(plan.after, change=replace(change, moves=moves))
            found.append(_risk(step, joint, counted))
    settled = replace(plan.after, lists=plan.lists, change=None)
    return [*found, _risk("settled", settled, counted)]


def _average(plan: ChangePlan, loads: Mapping[NodeId, Load], what: str) -> float | None:
    """Of a place, over the nodes that told."""
    places = total = 0
    for node, (held, _) in plan.places.items():
        told = getattr(loads[node], what) if node in loads else None
        if held and told is not None:
            places += held
            total += told
    return total / places if places else None


def _sources(plan: ChangePlan, partition: PartitionId) -> Owners:
    """Who may be copied from: the owners so far, but for those whose copies are lost."""
    owners = plan.ring.lists[partition]
    return tuple(node for node in owners if node not in plan.entry.removed)


def _seconds(size: float, load: Load | None) -> float | None:
    rate = load.bytes_per_s if load is not None else None
    return size / rate if rate else None


def _risk(step: str, ring: Ring, up: frozenset[NodeId]) -> Risk:
    writes_fail, reads_fail, writes_fragile, reads_fragile = [], [], [], []
    blamed: Counter[NodeId] = Counter()
    for partition in map(PartitionId, range(ring.partitions)):
        spare, vital = _margin(ring.write_lists(partition), up, ring.w)
        if spare < 0:
            writes_fail.append(partition)
        elif vital:
            writes_fragile.append(partition)
        also_spare, also_vital = _margin([ring.read_list(partition)], up, ring.r)
        if also_spare < 0:
            reads_fail.append(partition)
        elif also_vital:
            reads_fragile.append(partition)
        blamed.update(vital | also_vital)
    return Risk(
        step=step,
        writes_fail=tuple(writes_fail),
        reads_fail=tuple(reads_fail),
        writes_fragile=tuple(writes_fragile),
        reads_fragile=tuple(reads_fragile),
        worst=min(blamed, key=lambda node: (-blamed[node], node)) if blamed else None,
    )


def _margin(
    lists: Iterable[Owners], up: frozenset[NodeId], need: int
) -> tuple[int, frozenset[NodeId]]:
    """How many more than needed are up in the worst of these lists, and whose death it would not
    survive."""
    least, vital = len(up), frozenset[NodeId]()
    for owners in lists:
        here = up.intersection(owners)
        least = min(least, len(here) - need)
        if len(here) == need:
            vital |= here
    return least, vital
