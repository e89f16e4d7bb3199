"""Random histories of rings: members that join, leave and are lost, partitions that move, phase by
phase, and changes that are taken back; each entry folds onto the ring before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import JOINT_NEW, JOINT_OLD, SETTLED, Member, Owners, Ring
from dynagent.core.ringentry import (
    AbortEntry,
    ChangeEntry,
    Content,
    PhaseEntry,
    PolicyEntry,
    RetireEntry,
)


def next_content(dice: Random, ring: Ring, spare: Sequence[Member]) -> Content:
    """Some entry that fits; `spare` are nodes that may join."""
    if ring.change is not None:
        choices: list[Callable[[], Content]] = [lambda: _phase(dice, ring)] * 4
        if any(move.phase == JOINT_OLD for move in ring.change.moves) and not ring.removed:
            choices.append(lambda: AbortEntry(index=_index(ring), id=bytes(16)))
    else:
        choices = [lambda: _change(dice, ring, spare)] * 4
        owners = {node for owned in ring.lists for node in owned}
        if done := tuple(node for node in ring.leaving if node not in owners):
            choices += [lambda: RetireEntry(nodes=done)] * 4
    choices.append(lambda: _policy(dice))
    return dice.choice(choices)()


def _index(ring: Ring) -> int:
    assert ring.change is not None
    return ring.change.index


def _policy(dice: Random) -> Content:
    return PolicyEntry(id=dice.randbytes(16), name="p", value=str(dice.random()))


def _phase(dice: Random, ring: Ring) -> Content:
    """Some of the moves that are in one phase take the next step."""
    assert ring.change is not None
    phase = dice.choice([move.phase for move in ring.change.moves])
    able = [move.partition for move in ring.change.moves if move.phase == phase]
    chosen = sorted(dice.sample(able, dice.randint(1, len(able))))
    to = JOINT_NEW if phase == JOINT_OLD else SETTLED
    return PhaseEntry(index=ring.change.index, phase=to, partitions=tuple(chosen))


def _change(dice: Random, ring: Ring, spare: Sequence[Member]) -> Content:
    members = list(ring.members)
    if spare and dice.random() < 0.5:
        members.append(dice.choice(spare))
    if dice.random() < 0.2:
        place = dice.randrange(len(members))
        members[place] = replace(members[place], address=f"h:{dice.randint(2, 99)}")
    members.sort(key=lambda member: member.id)
    leaving, removed = set(ring.leaving), set(ring.removed)
    able = [m.id for m in members if m.capacity and m.id not in leaving | removed]
    if len(able) > ring.n and dice.random() < 0.5:
        goes = dice.choice([node for node in able if ring.member(node) is not None])
        (leaving if dice.random() < 0.6 else removed).add(goes)
        able.remove(goes)
        leaving -= removed
    moves = []
    for number, owners in enumerate(ring.lists):
        must = not set(able).issuperset(owners)
        if must or dice.random() < 0.4:
            moves.append((PartitionId(number), _owners(dice, able, owners, ring.n)))
    return ChangeEntry(
        id=dice.randbytes(16),
        verb="ring",
        members=tuple(members),
        leaving=tuple(sorted(leaving)),
        removed=tuple(sorted(removed)),
        moves=tuple(moves),
    )


def _owners(dice: Random, able: Sequence[NodeId], owners: Owners, n: int) -> Owners:
    """Others, and most of the same."""
    kept = [node for node in owners if node in able and dice.random() < 0.6]
    others = [node for node in able if node not in kept]
    dice.shuffle(others)
    return tuple([*kept, *others][:n])
