"""The checker of the Merkle trees: what a node says of its leaves is what its disk holds.

It knows the form of a tree from docs/trees.md alone, and none of the product's sums:

- trees_are_current: right after a start, after a refused batch, after any other while something is
  unknown, and when all is quiet, every leaf that is known has the count and the sum of the records
  of its range on the disk. One with a record that has rotted is not looked at, nor one whose row
  has vanished behind the node's back, until a scrub has had the time to find that: its sum may be
  of what was there before. The root is the hash of hashes of the leaves; b"" if one is unknown;
- trees_are_known: when all is quiet, no leaf is unknown but those with such a record.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
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
    verdicts: Verdicts,
    forest: Forest,
    reader: Reader,
    ring: Ring,
    node: NodeId,
    *,
    is_quiet: bool,
    lost: Collection[Token] = (),
) -> None:
    """Judges the trees of one node, which has no batch under way. `lost`: where rows have vanished
    or moved elsewhere, and no scrub need have found it yet."""
    leaves = 256 if ring.partitions <= 2_048 else 16
    found, rotten = _read_disk(reader, ring, leaves)
    stale = rotten | {_place_of(token, ring, leaves) for token in lost}
    faults: list[tuple[str, str]] = []
    for number, owners in enumerate(ring.lists):
        if node not in owners:
            continue
        partition = PartitionId(number)
        said = _what_it_says(forest, partition, leaves)
        for leaf, state in enumerate(said):
            if state == (0, 0) and (number, leaf) not in found:
                continue  # most of them
            place = number, leaf
            held = found.get(place, (0, 0))
            if (state is None) != (not forest.is_known(partition, leaf)):
                faults.append(("trees_are_current", f"{node} is of two minds about leaf {place}"))
            elif place not in rotten and state is None and is_quiet:
                faults.append(("trees_are_known", f"{node} does not know leaf {place}"))
            elif place not in stale and state not in (None, held):
                what = f"{node} says of leaf {place} {state}, its disk holds {held}"
                faults.append(("trees_are_current", what))
        if forest.root(partition) != root_of(said):
            faults.append(("trees_are_current", f"{node} has a wrong root of {partition}"))
    verdicts.evaluations["trees_are_current"] += len(found)
    verdicts.evaluations["trees_are_known"] += is_quiet
    for name, what in faults:
        verdicts.check(name, False, what)


def _what_it_says(
    forest: Forest, partition: PartitionId, leaves: int
) -> list[tuple[int, int] | None]:
    """Count and sum of each leaf; None: unknown. What is passed over here for empty, and is not,
    shows in the root."""
    said: list[tuple[int, int] | None] = [(0, 0)] * leaves
    leaf = 0
    while (leaf := forest.first_used(partition, leaf)) < leaves:
        said[leaf] = forest.leaf(partition, leaf)
        leaf += 1
    return said


def root_of(leaves: Sequence[tuple[int, int] | None]) -> bytes:
    """The root of a tree, of what its leaves say."""
    if None in leaves:
        return b""
    level = [_leaf_hash(leaf) for leaf in leaves if leaf is not None]
    while len(level) > 1:
        level = [_node_hash(*level[at : at + 16]) for at in range(0, len(level), 16)]
    return level[0]


@lru_cache(maxsize=256)  # most leaves are empty
def _leaf_hash(leaf: tuple[int, int]) -> bytes:
    entry = leaf[0].to_bytes(8, "big") + leaf[1].to_bytes(32, "big")
    return blake2b(entry, digest_size=32, person=b"dyn-leaf").digest()


@lru_cache(maxsize=256)  # likewise
def _node_hash(*children: bytes) -> bytes:
    return blake2b(b"".join(children), digest_size=32, person=b"dyn-node").digest()


def _place_of(token: Token, ring: Ring, leaves: int) -> Place:
    return divmod(int.from_bytes(token, "big") * ring.partitions * leaves >> 128, leaves)


def _read_disk(
    reader: Reader, ring: Ring, leaves: int
) -> tuple[dict[Place, tuple[int, int]], set[Place]]:
    """Count and sum of each leaf that has records; and those with an unreadable one."""
    key = blake2b(ring.cluster_id, digest_size=32, person=b"dyn-tree").digest()
    found: dict[Place, tuple[int, int]] = {}
    rotten: set[Place] = set()
    for token, name, stored in reader.scan(FIRST, LAST):
        place = _place_of(token, ring, leaves)
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
