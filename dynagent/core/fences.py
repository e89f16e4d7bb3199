"""How many must be fenced before the owners of a partition change: the counts of the rules, pure.

L is the list that the ring has for the partition, N its length. Nodes whose copies are declared
lost (`ring.removed`) can neither be fenced nor copied from, and what only they had is lost with
them: the rules go on with those of L that are left.
"""

from __future__ import annotations

from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import JOINT_OLD, Ring


def new_owners(ring: Ring) -> list[NodeId]:
    """All that have something to copy: the new owners of what is in phase 0."""
    found = {
        node
        for partition, move in ring.moves.items()
        if move.phase == JOINT_OLD
        for node in ring.new_owners(partition)
    }
    return sorted(found)


def old_owners(ring: Ring, partition: PartitionId) -> list[NodeId]:
    """Those of L that may be fenced, and copied from."""
    return [node for node in ring.lists[partition] if node not in ring.removed]


def writes_fenced(ring: Ring, partition: PartitionId) -> int:
    """How many of them each new owner must fence at (c, 0) and copy: N−W+1, so that any W that have
    acknowledged a write meet one of them."""
    return min(ring.n - ring.w + 1, len(old_owners(ring, partition)))


def reads_fenced(ring: Ring, partition: PartitionId) -> int:
    """How many of them must be fenced at (c, 1) before the partition settles: N−R+1, so that no R
    of L answer a read any more."""
    return min(ring.n - ring.r + 1, len(old_owners(ring, partition)))
