"""The forest: what a tree is made of, that it follows every change, and that replicas agree."""

from __future__ import annotations

from hashlib import blake2b
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent.core.entry import ABSENT, Record, decode_stored, encode_stored
from dynagent.core.merkle import UNREADABLE_DIGEST, Change, Forest, leaves_of
from dynagent.core.ports import Batch, PartitionId
from dynagent.core.ring import Ring, token_of
from dynagent.core.siblings import Siblings
from dynagent.store.memory import MemoryStore
from tests.core.harness import CLUSTER_ID, IDS, make_ring

RING = make_ring(3)
KEYS = [b"key %d" % number for number in range(40)]


def record_of(number: int) -> Record:
    """A tombstone, as good a record as any."""
    return Record(Siblings({1: number + 1}, ()))


class Owner:
    """A store and its forest; `change` is what a replica does with a batch."""

    def __init__(self, store: MemoryStore | None = None, ring: Ring = RING) -> None:
        self.store = store if store is not None else MemoryStore()
        self.ring = ring
        self.forest = Forest(self.store)
        self.forest.serve(ring, IDS[0])
        self.records: dict[bytes, Record] = {}
        self._under_way: Batch | None = None

    def take(self, changed: dict[bytes, Record | None]) -> Batch:
        batch = self._under_way = Batch(1)
        changes: list[Change] = []
        for key, record in changed.items():
            token, old = token_of(key), self.records.get(key, ABSENT)
            stored = b""
            if record is not None:
                stored = encode_stored(record, cluster_id=CLUSTER_ID, key=key)
            batch.records.append((token, key, stored))
            before = None if old is ABSENT else old.digest
            changes.append((token, key, before, None if record is None else record.digest))
        self.forest.apply(batch, changes)
        return batch

    def commit(self, batch: Batch) -> None:
        self.store.write(batch)
        for _, key, stored in batch.records:
            self.records.pop(key, None)
            if stored:
                record = decode_stored(stored, cluster_id=CLUSTER_ID, key=key)
                self.records[key] = record
        self.forest.on_committed()

    def change(self, changed: dict[bytes, Record | None]) -> None:
        self.commit(self.take(changed))

    def roots(self) -> list[bytes]:
        return [self.forest.root(partition) for partition in self.forest.partitions]

    def check(self) -> None:
        """Every leaf says what its range on the disk says, and the counts are those."""
        forest = self.forest
        assert not forest.unknown
        for partition in forest.partitions:
            for leaf in range(forest.leaves):
                assert forest.leaf(partition, leaf) == forest.recompute(partition, leaf)
        assert forest.records == len(self.records)


def test_a_root_is_what_the_documented_form_says() -> None:
    """Written without the module: hashes of hashes, from the records up."""
    owner = Owner()
    owner.change({key: record_of(1) for key in KEYS})
    key = blake2b(CLUSTER_ID, digest_size=32, person=b"dyn-tree").digest()
    for partition in range(8):
        leaves = [[0, 0] for _ in range(256)]
        for name in KEYS:
            number = int.from_bytes(token_of(name)[:4], "big")
            if number >> 29 == partition:
                digest = record_of(1).digest
                hashed = blake2b(name + digest, digest_size=32, key=key).digest()
                leaf = leaves[number >> 21 & 255]
                leaf[0] += 1
                leaf[1] = (leaf[1] + int.from_bytes(hashed, "big")) % 2**256
        level = [
            blake2b(
                count.to_bytes(8, "big") + total.to_bytes(32, "big"),
                digest_size=32,
                person=b"dyn-leaf",
            ).digest()
            for count, total in leaves
        ]
        while len(level) > 1:
            level = [
                blake2b(b"".join(level[at : at + 16]), digest_size=32, person=b"dyn-node").digest()
                for at in range(0, len(level), 16)
            ]
        assert owner.forest.root(PartitionId(partition)) == level[0]


@pytest.mark.parametrize(("partitions", "leaves", "levels"), [(8, 256, 2), (4096, 16, 1)])
def test_children_lead_from_the_root_to_the_leaf_that_differs(
    partitions: int, leaves: int, levels: int
) -> None:
    ring = Ring(
        epoch=1,
        cluster_id=CLUSTER_ID,
        n=3,
        r=2,
        w=2,
        members=RING.members,
        lists=(IDS[:3],) * partitions,
    )
    one, other = Owner(ring=ring), Owner(ring=ring)
    assert leaves_of(partitions) == one.forest.leaves == leaves
    assert one.forest.levels == levels
    other.change({b"key": record_of(1)})
    token = token_of(b"key")
    partition = ring.partition_of(token)
    index = 0
    for level in range(levels):
        pairs = zip(
            one.forest.children(partition, level, index),
            other.forest.children(partition, level, index),
            strict=True,
        )
        differing = [place for place, (ours, theirs) in enumerate(pairs) if ours != theirs]
        assert len(differing) == 1
        index = 16 * index + differing[0]
    assert index == other.forest.leaf_of(token)
    first, last = other.forest.leaf_range(partition, index)
    assert first <= token <= last
    assert [p for p in one.forest.partitions if one.forest.root(p) != other.forest.root(p)] == [
        partition
    ]


Changes = st.dictionaries(
    st.sampled_from(KEYS[:6]), st.one_of(st.none(), st.integers(0, 3)), max_size=6
)


@settings(max_examples=60, deadline=None)
@given(st.lists(Changes, max_size=8), st.randoms(use_true_random=False))
def test_whatever_the_order_of_changes_replicas_with_the_same_records_have_the_same_roots(
    batches: list[dict[bytes, int | None]], dice: Random
) -> None:
    one, other = Owner(), Owner()
    for changed in batches:
        one.change(
            {key: None if number is None else record_of(number) for key, number in changed.items()}
        )
    final = list(one.records.items())
    dice.shuffle(final)
    for key, record in final:
        other.change({key: record})
    assert one.roots() == other.roots()
    one.check()


def test_roots_follow_a_batch_when_it_is_taken_and_go_back_when_it_is_refused() -> None:
    owner = Owner()
    owner.change({KEYS[0]: record_of(0)})
    before = owner.roots()
    owner.take({KEYS[0]: record_of(1), KEYS[1]: record_of(0)})
    assert owner.roots() != before
    owner.forest.on_refused()
    for partition, leaf in sorted(owner.forest.unknown):
        owner.forest.rebuild(partition, leaf)
    assert owner.roots() == before
    owner.check()


def test_a_recomputed_leaf_counts_what_is_on_its_way_to_the_disk() -> None:
    owner = Owner()
    owner.change({KEYS[0]: record_of(0), KEYS[1]: record_of(0)})
    batch = owner.take({KEYS[0]: record_of(1), KEYS[1]: None, KEYS[2]: record_of(0)})
    places = [(RING.partition_of(token_of(k)), owner.forest.leaf_of(token_of(k))) for k in KEYS[:3]]
    for place in places:
        assert owner.forest.recompute(*place) == owner.forest.leaf(*place)
    owner.store.write(batch)  # durable, but not yet reported
    for place in places:
        assert owner.forest.recompute(*place) == owner.forest.leaf(*place)


def test_an_unreadable_record_makes_its_leaf_unknown_until_it_is_rebuilt() -> None:
    owner = Owner()
    owner.change({key: record_of(0) for key in KEYS})
    key, token = KEYS[0], token_of(KEYS[0])
    place = (RING.partition_of(token), owner.forest.leaf_of(token))
    batch = Batch(2)
    batch.records.append((token, key, b"rot"))
    owner.store.write(batch)
    owner.forest.apply(batch, [(token, key, UNREADABLE_DIGEST, record_of(1).digest)])
    assert owner.forest.unknown == {place}
    assert owner.forest.root(place[0]) == b""
    assert owner.forest.children(place[0], 0, 0).count(b"") == 1
    owner.forest.on_committed()
    assert not owner.forest.rebuild(*place)
    assert owner.forest.unknown == {place}
    assert owner.forest.counts(place[0]) == sum(
        RING.partition_of(token_of(k)) == place[0] for k in KEYS[1:]
    )
    healed = Batch(3)
    stored = encode_stored(record_of(1), cluster_id=CLUSTER_ID, key=key)
    healed.records.append((token, key, stored))
    owner.store.write(healed)
    assert owner.forest.rebuild(*place)
    owner.records[key] = record_of(1)
    owner.check()


def test_a_leaf_that_had_not_counted_what_is_replaced_is_unknown() -> None:
    """Its sums are wrong, however that came; that must not end the agent, nor go on."""
    owner = Owner()
    token = token_of(b"key")
    for after in (record_of(1).digest, None):
        owner.forest.apply(Batch(1), [(token, b"key", record_of(0).digest, after)])
        owner.forest.on_committed()
        assert len(owner.forest.unknown) == 1
        place = owner.forest.unknown.copy().pop()
        assert owner.forest.rebuild(*place)
    owner.check()


def test_partitions_of_others_have_no_tree() -> None:
    forest = Forest(MemoryStore())
    forest.serve(make_ring(2, others=1), IDS[2])
    assert forest.partitions == []
    token = token_of(b"key")
    forest.apply(Batch(1), [(token, b"key", None, record_of(0).digest)])
    assert forest.records == 0
    with pytest.raises(KeyError):
        forest.root(PartitionId(0))


def test_used_leaves_are_found_past_any_stretch_of_empty_ones() -> None:
    owner = Owner()
    owner.change({key: record_of(number) for number, key in enumerate(KEYS)})
    forest = owner.forest
    for partition in forest.partitions:
        used = [leaf for leaf in range(forest.leaves) if forest.leaf(partition, leaf) != (0, 0)]
        for start in range(forest.leaves + 1):
            expected = next((leaf for leaf in used if leaf >= start), forest.leaves)
            assert forest.first_used(partition, start) == expected
