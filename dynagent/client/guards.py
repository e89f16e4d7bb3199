"""What keeps a change from being proposed although it can be planned: who is up decides.

A change never loses a write, whoever is down: it waits. So a guard that is wrong costs time only,
and one that is missing leaves a change that does not end. These refuse what would wait for somebody
who is known to be down, and what an operator surely does not mean.

    voters    a majority of them decides each step
    targets   who gets partitions has to fetch them
    sources   of each partition that moves, so many owners must be asked that every acknowledged
              put and every acknowledged get has met one of them: N − min(R, W) + 1 (design §6)
    leavers   have to hand over, and to deliver their hints
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dynagent.client.changes import ChangePlan, name_of
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Ring
from dynagent.errors import Refused

_NAMED = 3


def check_possible(plan: ChangePlan, up: Collection[NodeId]) -> None:
    """Raises `Refused` if the change would wait for nodes that are not `up` (fresh ones count as
    they are), saying whom to start or what to do instead."""
    _check_voters(plan.ring, up)
    _check_leavers(plan, up)
    _check_targets(plan, up)
    _check_sources(plan, up)


def check_forced(
    ring: Ring, gone: Sequence[NodeId], up: Collection[NodeId], *, force: bool
) -> None:
    """For what declares copies lost: raises `Refused` unless it is `force`d, and names the gentler
    way."""
    if force:
        return
    alive = [node for node in gone if node in up]
    if alive:
        told = _names(ring, alive)
        raise Refused(
            f"{told} is up: dynctl leave {told.replace(',', '')} gives up what it holds and loses "
            f"nothing; say --force to declare its copies lost"
        )
    raise Refused(
        f"the copies of {_names(ring, gone)} would be declared lost, with each write that only "
        "they have; start it again if that can be, else say --force"
    )


def losses(plan: ChangePlan) -> str:
    """Which writes a removal may lose, in words; empty if none. One that was acknowledged is at W
    owners at least: it is lost only where so many of them are removed."""
    ring, removed = plan.ring, set(plan.entry.removed)
    bare = sum(len(removed.intersection(owners)) >= ring.w for owners in ring.lists)
    if not bare:
        return ""
    return (
        f"of {bare} partitions {ring.w} or more owners are removed: writes that only they had "
        "acknowledged are lost"
    )


def _check_voters(ring: Ring, up: Collection[NodeId]) -> None:
    down = [node for node in ring.voters if node not in up]
    if 2 * len(down) >= len(ring.voters) > 0:
        raise Refused(
            f"{len(down)} of {len(ring.voters)} voters are down ({_names(ring, down)}), and a "
            f"change of the ring needs more than half; start {name_of(ring, down[0])}, or, if they "
            f"are gone for good, see: dynctl ring force --help"
        )


def _check_leavers(plan: ChangePlan, up: Collection[NodeId]) -> None:
    for node in plan.entry.leaving:
        if node not in up and node not in plan.ring.leaving:
            name = name_of(plan.ring, node)
            raise Refused(
                f"{name} is down and cannot hand over what it holds; start {name}, or, if it is "
                f"gone for good: dynctl remove {name} --force"
            )


def _check_targets(plan: ChangePlan, up: Collection[NodeId]) -> None:
    for node, gains in sorted(plan.gains.items()):
        if node not in up:
            name = name_of(plan.after, node)
            raise Refused(
                f"{name} is down and would have to copy {gains} partitions; start {name}, or, if "
                f"it is gone for good, first: dynctl remove {name} --force"
            )


def _check_sources(plan: ChangePlan, up: Collection[NodeId]) -> None:
    ring, removed = plan.ring, plan.entry.removed
    need = ring.n - min(ring.r, ring.w) + 1
    missing: set[NodeId] = set()
    short: list[PartitionId] = []
    for partition in plan.after.moves:
        sources = [node for node in ring.lists[partition] if node not in removed]
        away = [node for node in sources if node not in up]
        if len(sources) - len(away) < min(need, len(sources)) or len(sources) == len(away):
            short.append(partition)
            missing.update(away)
    if not short:
        return
    where = f"{len(short)} partitions (the first is {short[0]})"
    if not missing:
        raise Refused(f"{where} would lose their last copies; keep one of their owners")
    raise Refused(
        f"{where} have fewer than {need} owners up to copy from, and a write could be lost; "
        f"start {_names(ring, sorted(missing))}"
    )


def _names(ring: Ring, nodes: Sequence[NodeId]) -> str:
    names = sorted(name_of(ring, node) for node in nodes)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
