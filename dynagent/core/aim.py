"""At whom the requests for a partition aim, and who takes them: the rules of a change of owners.

A *value* for each partition of each ring, and pure functions: with the fold of the entries
(`core.ringentry`), the minimum stamps (`core.stamps`) and the tallies (`core.quorum`) this is all
that a change rests on, and what its exhaustive model runs (tests/core/change_model.py).

While a partition moves from a list L to a list L' (design §6):

    phase 0   a put needs W in L and W in L'; a get reads R of L; L coordinates
    phase 1   a put still needs both; a get reads R of L'; L' coordinates
    settled   L' is the list

Each request is made under one stamp. Whoever learns of another one for its partition while a
request is under way aims it again, from the start, under the new one: acknowledgements under two
stamps are never added up (decision 0020 tells what that rests on).

Who is asked takes a request under its own stamp, or under an older one that it has not been fenced
at; never under one that it does not know. Besides, a copy is taken

    by an owner       and by a new one only after its fence: it must know what it may merge
    by a stand-in     for an owner, as a hint

but by nobody who has given up the partition, and by no member that was removed: that one's copies
are declared lost, so its acknowledgement would be worth nothing.
"""

from __future__ import annotations

from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.preference import fallbacks
from dynagent.core.ring import JOINT_OLD, Ring, Stamp
from dynagent.core.stamps import is_taken


class Aim:
    """What a coordinator must know of one partition under one ring. Never changed."""

    __slots__ = ("is_joint", "lists", "owners", "partition", "readers", "stamp")

    def __init__(self, ring: Ring, partition: PartitionId) -> None:
        self.partition = partition
        self.stamp = ring.stamps[partition]
        self.lists = ring.write_lists(partition)  # in each of these a put needs W
        self.is_joint = len(self.lists) > 1
        self.owners = ring.all_owners(partition)  # everybody that a put goes to
        self.readers = ring.read_list(partition)  # of these a get needs R; they coordinate
        if ring.removed:  # members, so that the lists can name them, and no more
            self.readers = tuple(node for node in self.readers if node not in ring.removed)


# --- who takes what ------------------------------------------------------------------------------

TAKEN, NOT_YET, NOT_HERE = 0, 1, 2


def judge_merge(
    ring: Ring,
    node: NodeId,
    partition: PartitionId,
    stamp: Stamp,
    *,
    minimum: Stamp,
    has_fenced: bool,
    hint_for: NodeId | None = None,
) -> int:
    """Whether a node with that ring takes a copy under that stamp. NOT_YET: it will.

    `minimum`: below it the node takes nothing. `has_fenced`: it has had the replies to its fences,
    if it is a new owner. `hint_for`: it is to keep the copy for that owner.
    """
    if not is_taken(stamp, minimum=minimum, known=ring.stamps[partition]) or node in ring.removed:
        return NOT_HERE
    if hint_for is not None:
        is_owed = ring.owns(hint_for, partition)
        return TAKEN if is_owed and node in fallbacks(ring, partition) else NOT_HERE
    if not ring.owns(node, partition):
        return NOT_HERE
    if not has_fenced and is_new(ring, node, partition):
        return NOT_YET
    return TAKEN


def judge_read(
    ring: Ring, node: NodeId, partition: PartitionId, stamp: Stamp, *, minimum: Stamp
) -> bool:
    """Whether a node with that ring tells what it holds under that stamp."""
    known = ring.stamps[partition]
    return is_taken(stamp, minimum=minimum, known=known) and node not in ring.removed


def is_new(ring: Ring, node: NodeId, partition: PartitionId) -> bool:
    """Whether it is an owner to be, which may lack what the old ones hold."""
    move = ring.moves.get(partition)
    return move is not None and move.phase == JOINT_OLD and node not in ring.lists[partition]
