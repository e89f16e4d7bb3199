"""The checker of the Merkle trees: what a node says of its leaves is what its disk holds.

It knows the form of a tree from docs/trees.md alone, and none of the product's sums:

- trees_are_current: right after a start, after a refused batch, and when all is quiet, every leaf
  that is known has the count and the sum of the records of its range on the disk. One with a record
  that has rotted is not looked at: its sum may be of what was there before;
- trees_are_known: when all is quiet, no leaf is unknown but those with such a record.
"""

from __future__ import annotations

from hashlib import blake2b

from dynagent.core.entry import decode_stored
from dynagent.core.merkle import Forest
from dynagent.core.ports import NodeId, PartitionId, Reader, Token
from dynagent.core.ring import Ring
from dynagent.errors import CorruptRecord
from dynagent.testing.world import Verdicts

FIRST, LAST = Token(bytes(16)), Token(b"\xff" * 16)

Place = tuple[int, int]  # partition, leaf


def check_trees(
    verdicts: Verdicts, forest: Forest, reader: Reader, ring: Ring, node: NodeId, *, is_quiet: bool
) -> None:
    """Judges the trees of one node, which has no batch under way."""
    leaves = 256 if ring.partitions <= 2_048 else 16
    found, rotten = _read_disk(reader, ring, leaves)
    for partition, owners in enumerate(ring.lists):
        if node not in owners:
            continue
        for leaf in range(leaves):
            place = partition, leaf
            if place in rotten:
                continue
            if not forest.is_known(PartitionId(partition), leaf):
                if is_quiet:
                    verdicts.check("trees_are_known", False, f"{node} does not know leaf {place}")
                continue
            said, held = forest.leaf(PartitionId(partition), leaf), found.get(place, (0, 0))
            if said != held:
                verdicts.check(
                    "trees_are_current",
                    False,
                    f"{node} says of leaf {place} {said}, its disk holds {held}",
                )
    verdicts.evaluations["trees_are_current"] += len(found)
    verdicts.evaluations["trees_are_known"] += is_quiet


def _read_disk(
    reader: Reader, ring: Ring, leaves: int
) -> tuple[dict[Place, tuple[int, int]], set[Place]]:
    """Count and sum of each leaf that has records; and those with an unreadable one."""
    key = blake2b(ring.cluster_id, digest_size=32, person=b"dyn-tree").digest()
    found: dict[Place, tuple[int, int]] = {}
    rotten: set[Place] = set()
    for token, name, stored in reader.scan(FIRST, LAST):
        place = divmod(int.from_bytes(token, "big") * ring.partitions * leaves >> 128, leaves)
        try:
            record = decode_stored(stored, cluster_id=ring.cluster_id, key=name)
        except CorruptRecord:
            rotten.add(place)
            continue
        digest = blake2b(record.content, digest_size=32).digest()
        hashed = blake2b(name + digest, digest_size=32, key=key).digest()
        count, total = found.get(place, (0, 0))
        found[place] = count + 1, (total + int.from_bytes(hashed, "big")) % 2**256
    return found, rotten
