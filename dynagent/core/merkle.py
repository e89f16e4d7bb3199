"""The forest: one Merkle tree for each partition that this node owns, always current (design §7).

A **leaf** covers a range of tokens: the bits behind the partition's own are its number. It holds
how many records this node has there, and the sum, mod 2^256, of a keyed hash of each:

    record    BLAKE2b-256(key ‖ digest of the record, key = tree key)
    tree key  BLAKE2b-256(cluster id, person = "dyn-tree")
    leaf      BLAKE2b-256(count, 8 bytes ‖ sum, 32 bytes, person = "dyn-leaf")
    inner     BLAKE2b-256(its 16 children, one after the other, person = "dyn-node")

A sum has no order, so a change costs two hashes and no look at its neighbours: the old record's is
subtracted, the new one's is added. It is keyed so that nobody who does not know the cluster id can
choose records whose sum is another's. Tombstones are records like any other. What is local to a
copy (mark, op-ids, `since`, the flag of an unknown past) is not in its digest, so replicas that
hold the same have the same root.

Changes are applied when their batch is taken: from then on the sums are what the disk will hold
when that batch is durable. If it is refused they are what the disk holds (`on_refused`).

A leaf is **unknown** when the record that was replaced there could not be read (or was not counted:
then the sums are wrong): nobody can say what to subtract. Its hash is b"", as is everything above
it, and b"" equals nothing. It is rebuilt from its range on the disk (`rebuild`; `core.rebuild` does
so under the background budget), as soon as all of that can be read. A record that rots without
being touched changes no leaf: the scrub finds it, by comparing `recompute` with `leaf`.

When the ring changes, a partition that this node gains (as soon as it moves here) starts with a
tree of nothing, if it holds nothing of it, else with one that is unknown; one that is given up has
none.

The sums themselves, and how they outlive this process: `core.sums`. They are kept as they are
hashed, 40 bytes a leaf: 2.5 MiB for 256 partitions of 256 leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from struct import Struct

from dynagent import limits
from dynagent.core.entry import decode_stored
from dynagent.core.ports import Batch, NodeId, PartitionId, Reader, Token
from dynagent.core.ring import Ring, token_of
from dynagent.core.sums import ENTRY, UNKNOWN, UNKNOWN_COUNT, Shape, Sums
from dynagent.errors import CorruptRecord

ARITY = 16
_MODULUS = 1 << 256
_ONE = 1 << 256  # record more, of an entry as a number
_COUNT_BITS = -_ONE
_LEAST_UNKNOWN = UNKNOWN_COUNT * _ONE
_COUNTS = Struct(">Q32x")  # of each leaf of a table

UNREADABLE_DIGEST = b""  # of a record that was there and could not be read

# A record that changes: its place, and its digest before and after; None where there is none.
Change = tuple[Token, bytes, bytes | None, bytes | None]


def leaves_of(partitions: int) -> int:
    """Leaves of each tree, in a ring of so many partitions: a power of `ARITY`."""
    return 256 if partitions <= limits.TREE_PARTITIONS_LARGE else 16


def tree_key(cluster_id: bytes) -> bytes:
    return blake2b(cluster_id, digest_size=32, person=b"dyn-tree").digest()


class Forest:
    """The trees of one node. Before it serves a ring there are none."""

    def __init__(self, reader: Reader, shape: Shape | None = None) -> None:
        self.leaves = 0  # of each tree
        self.levels = 0  # below the root, down to the leaves
        self.unknown: set[tuple[PartitionId, int]] = set()
        self._reader = reader
        self._sums = Sums(reader, shape)
        self._cluster_id = b""
        self._keyed = blake2b(digest_size=32)
        self._bits = 0  # of a token: the partition's and the leaf's
        self._leaf_bits = 0
        self._tables: dict[PartitionId, bytearray] = {}  # of what we own
        self._counts: dict[PartitionId, int] = {}  # records in leaves that are known
        # The hash of each `ARITY` leaves; None: to be made anew.
        self._groups: dict[PartitionId, list[bytes | None]] = {}
        self._under_way: Batch | None = None

    def serve(self, ring: Ring, node_id: NodeId) -> None:
        """Learns what this node owns, and how its trees stand."""
        self.leaves = leaves_of(ring.partitions)
        self.levels = 2 if self.leaves > ARITY else 1
        self._leaf_bits = self.leaves.bit_length() - 1
        self._bits = ring.partitions.bit_length() - 1 + self._leaf_bits
        self._cluster_id = ring.cluster_id
        self._keyed = blake2b(key=tree_key(ring.cluster_id), digest_size=32)
        self._sums.load(
            cluster_id=ring.cluster_id,
            partitions=ring.partitions,
            leaves=self.leaves,
            owned=ring.owned_by(node_id),
        )
        self._tables = self._sums.tables
        self._count()

    def on_ring(self, owned: frozenset[PartitionId]) -> None:
        """This node owns others from now on, in a ring of as many partitions."""
        assert self._under_way is None  # a ring is learnt with the batch that brought it
        gained, lost = self._sums.reassign(owned)
        for partition in lost:
            self._groups.pop(partition, None)
            del self._counts[partition]
            self.unknown = {place for place in self.unknown if place[0] != partition}
        for partition in gained:
            self._count_table(partition)

    @property
    def given_up(self) -> set[PartitionId]:
        """Partitions that had a tree when the run before this one ended, and have none now."""
        return self._sums.given_up

    # --- the trees -------------------------------------------------------------------------------

    @property
    def partitions(self) -> list[PartitionId]:
        """Those that have a tree here, in order."""
        return sorted(self._tables)

    def root(self, partition: PartitionId) -> bytes:
        """32 bytes; b"" if a leaf is unknown. The partition must be one of ours, here and below."""
        groups = self._group_hashes(partition)
        return groups[0] if self.levels == 1 else inner_hash(groups)

    def stale(self, partition: PartitionId) -> int:
        """What `root` would have to make anew: groups of 16 leaves, each about 20 µs."""
        groups = self._groups.get(partition)
        return groups.count(None) if groups is not None else self.leaves // ARITY

    def children(self, partition: PartitionId, level: int, index: int) -> list[bytes]:
        """The hashes of the 16 nodes below one. `level` 0 is the root, its index 0; the children of
        the last level but one, `levels` - 1, are leaves."""
        if level < self.levels - 1:
            return self._group_hashes(partition)
        first = ARITY * index
        return [self._leaf_hash(partition, leaf) for leaf in range(first, first + ARITY)]

    def leaf_of(self, token: Token) -> int:
        """The leaf of a token, within its partition."""
        return self._place_of(token) & (self.leaves - 1)

    def leaf_range(self, partition: PartitionId, leaf: int) -> tuple[Token, Token]:
        """The first and the last token of a leaf."""
        place = partition << self._leaf_bits | leaf
        rest = 128 - self._bits
        first, last = place << rest, (place + 1 << rest) - 1
        return Token(first.to_bytes(16, "big")), Token(last.to_bytes(16, "big"))

    def leaf(self, partition: PartitionId, leaf: int) -> tuple[int, int] | None:
        """How many records are there, and their sum; None if that is unknown."""
        entry = int.from_bytes(self._entry(partition, leaf), "big")
        count, total = divmod(entry, _MODULUS)
        return None if count == UNKNOWN_COUNT else (count, total)

    def first_used(self, partition: PartitionId, leaf: int) -> int:
        """The first leaf from that one on which is not known to be empty; `leaves` if all are."""
        table, end = self._tables[partition], ENTRY * self.leaves
        group = ARITY * ENTRY
        at = ENTRY * leaf
        while at < end and table.startswith(_EMPTY_LEAF, at):
            at += group if table.startswith(_EMPTY_GROUP, at) else ENTRY
        return min(at, end) // ENTRY

    def is_known(self, partition: PartitionId, leaf: int) -> bool:
        return (partition, leaf) not in self.unknown

    def counts(self, partition: PartitionId) -> int:
        """The records of a partition, tombstones too; without those of unknown leaves."""
        return self._counts[partition]

    @property
    def size(self) -> int:
        """The leaves of all trees here."""
        return self.leaves * len(self._tables)

    @property
    def records(self) -> int:
        """Those of all partitions, likewise."""
        return sum(self._counts.values())

    def _place_of(self, token: Token) -> int:
        """The number of a leaf among those of the whole ring."""
        return int.from_bytes(token[:4], "big") >> (32 - self._bits)

    def _entry(self, partition: PartitionId, leaf: int) -> bytes:
        return bytes(self._tables[partition][ENTRY * leaf : ENTRY * (leaf + 1)])

    def _leaf_hash(self, partition: PartitionId, leaf: int) -> bytes:
        return _hash_of(self._entry(partition, leaf))

    def _group_hashes(self, partition: PartitionId) -> list[bytes]:
        groups = self._groups.setdefault(partition, [None] * (self.leaves // ARITY))
        hashes: list[bytes] = []
        for index, group in enumerate(groups):
            if group is None:
                group = groups[index] = self._group_hash(partition, index)
            hashes.append(group)
        return hashes

    def _group_hash(self, partition: PartitionId, index: int) -> bytes:
        at = ARITY * ENTRY * index
        if self._tables[partition].startswith(_EMPTY_GROUP, at):
            return _EMPTY_GROUP_HASH
        return inner_hash(self.children(partition, self.levels - 1, index))

    # --- changes ---------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Would a batch have something to write, although no record has changed?"""
        return bool(self._sums.changed)

    def apply(self, batch: Batch, changes: Iterable[Change]) -> None:
        """A batch is taken; `changes` are those of its records."""
        self._under_way = batch
        tables, groups, counts, copy = self._tables, self._groups, self._counts, self._keyed.copy
        changed, from_bytes = self._sums.changed, int.from_bytes
        shift, leaf_bits, mask = 32 - self._bits, self._leaf_bits, self.leaves - 1
        for token, key, old, new in changes:
            place = from_bytes(token[:4], "big") >> shift
            partition: PartitionId = place >> leaf_bits  # type: ignore[assignment]  # a call less
            table = tables.get(partition)
            if table is None or old == new:
                continue
            begin = ENTRY * (place & mask)
            entry = from_bytes(table[begin : begin + ENTRY], "big")
            if entry >= _LEAST_UNKNOWN:
                continue
            total = 0
            if new is not None:
                hashed = copy()
                hashed.update(key + new)
                total = from_bytes(hashed.digest(), "big")
            if old is not None:
                if not old or entry < _ONE:  # it cannot be read; or a leaf of none had it
                    self._set(partition, place & mask, None)
                    continue
                hashed = copy()
                hashed.update(key + old)
                total -= from_bytes(hashed.digest(), "big")
            if old is None or new is None:
                growth = 1 if old is None else -1
                counts[partition] += growth
                entry += growth * _ONE
            total = (entry + total) % _MODULUS
            entry = (entry & _COUNT_BITS) | total
            table[begin : begin + ENTRY] = entry.to_bytes(ENTRY, "big")
            changed[place] = None
            if partition in groups:
                groups[partition][(place & mask) // ARITY] = None
        self._sums.seal(batch)

    def on_committed(self) -> None:
        self._under_way = None

    def on_refused(self) -> None:
        """Nothing of the batch under way has come to the disk."""
        self._under_way = None
        self._sums.reload()
        self._count()

    def _set(self, partition: PartitionId, leaf: int, state: tuple[int, int] | None) -> None:
        """`state`: count and sum; None: unknown."""
        table, at = self._tables[partition], ENTRY * leaf
        before = int.from_bytes(table[at : at + 8], "big")
        if before == UNKNOWN_COUNT:
            self.unknown.discard((partition, leaf))
            before = 0
        if state is None:
            self.unknown.add((partition, leaf))
            table[at : at + ENTRY] = UNKNOWN
        else:
            table[at : at + ENTRY] = (state[0] << 256 | state[1]).to_bytes(ENTRY, "big")
        self._counts[partition] += (state[0] if state is not None else 0) - before
        self._sums.changed[partition << self._leaf_bits | leaf] = None
        if (groups := self._groups.get(partition)) is not None:
            groups[leaf // ARITY] = None

    # --- what the disk says ----------------------------------------------------------------------

    def recompute(self, partition: PartitionId, leaf: int) -> tuple[int, int] | None:
        """What `leaf` should say: from the records on the disk, those of the batch under way as it
        will leave them. None if one cannot be read. A leaf has 15 records of each million, in a
        ring of 256 partitions: no more than a few milliseconds of them."""
        first, last = self.leaf_range(partition, leaf)
        records = self._under_way.records if self._under_way is not None else []
        newer = {key: stored for token, key, stored in records if first <= token <= last}
        count = total = 0
        try:
            for token, key, stored in self._reader.scan(first, last):
                # What lies where its key does not belong is no copy: `core.scrub` removes it.
                if key not in newer and token == token_of(key):
                    if not stored:
                        return None
                    newer[key] = stored
            for key, stored in newer.items():
                if stored:
                    record = decode_stored(stored, cluster_id=self._cluster_id, key=key)
                    total += self.record_hash(key, record.digest)
                    count += 1
        except CorruptRecord:
            return None
        return count, total % _MODULUS

    def rebuild(self, partition: PartitionId, leaf: int) -> bool:
        """Takes what the disk says for what is so; False if not all of it can be read: then the
        leaf is unknown."""
        state = self.recompute(partition, leaf)
        if state != self.leaf(partition, leaf):
            self._set(partition, leaf, state)
        return state is not None

    def record_hash(self, key: bytes, digest: bytes) -> int:
        """What a record adds to the sum of its leaf."""
        hashed = self._keyed.copy()
        hashed.update(key + digest)
        return int.from_bytes(hashed.digest(), "big")

    def _count(self) -> None:
        """The sums have been read anew."""
        self._groups = {}
        self._counts = {}
        self.unknown = set()
        for partition in self._tables:
            self._count_table(partition)

    def _count_table(self, partition: PartitionId) -> None:
        counts = [count for (count,) in _COUNTS.iter_unpack(self._tables[partition])]
        if UNKNOWN_COUNT in counts:
            lost = [leaf for leaf, count in enumerate(counts) if count == UNKNOWN_COUNT]
            self.unknown.update((partition, leaf) for leaf in lost)
            counts = [count for count in counts if count != UNKNOWN_COUNT]
        self._counts[partition] = sum(counts)


def leaf_hash(count: int, total: int) -> bytes:
    """Of a leaf with so many records, whose hashes have that sum."""
    return _hash_of((count << 256 | total % _MODULUS).to_bytes(ENTRY, "big"))


def _hash_of(entry: bytes) -> bytes:
    return b"" if entry == UNKNOWN else blake2b(entry, digest_size=32, person=b"dyn-leaf").digest()


def inner_hash(children: list[bytes]) -> bytes:
    """Of the node above these; b"" if one of them is not known."""
    if b"" in children:
        return b""
    return blake2b(b"".join(children), digest_size=32, person=b"dyn-node").digest()


_EMPTY_LEAF = bytes(ENTRY)
_EMPTY_GROUP = bytes(ARITY * ENTRY)
_EMPTY_GROUP_HASH = inner_hash([_hash_of(_EMPTY_LEAF)] * ARITY)
