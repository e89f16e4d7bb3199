"""The journal of the trees' sums: what is read after any crash is what the batches had left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent.core.ports import Batch, PartitionId
from dynagent.core.ring import token_of
from dynagent.core.sums import ENTRY, UNKNOWN, Shape, Sums, shape_of
from dynagent.errors import CorruptRecord
from dynagent.store.memory import MemoryStore

PARTITIONS, LEAVES = 8, 16
ALL = tuple(PartitionId(at) for at in range(PARTITIONS))
CLUSTER_ID = b"c" * 16
SHORT = Shape(slots=4, entries=3)


class Kept:
    """Sums on a store; `change` writes a batch that gives leaves new entries."""

    def __init__(self, shape: Shape = SHORT, store: MemoryStore | None = None) -> None:
        self.store = store if store is not None else MemoryStore()
        self.shape = shape
        self.sums = self.load()
        self._count = 0

    def load(self, owned: tuple[PartitionId, ...] = ALL) -> Sums:
        sums = Sums(self.store, self.shape)
        sums.load(cluster_id=CLUSTER_ID, partitions=PARTITIONS, leaves=LEAVES, owned=owned)
        return sums

    def take(self, *places: int) -> Batch:
        batch = Batch(1)
        for place in places:
            self._count += 1
            table = self.sums.tables[PartitionId(place // LEAVES)]
            at = ENTRY * (place % LEAVES)
            table[at : at + ENTRY] = self._count.to_bytes(ENTRY, "big")
            self.sums.changed[place] = None
        # A store with an entry is not empty.
        batch.records.append((token_of(b"key"), b"key", b"stored"))
        self.sums.seal(batch)
        return batch

    def change(self, *places: int) -> None:
        self.store.write(self.take(*places))

    def crash(self) -> None:
        """What is read then is what was in memory."""
        before = tables(self.sums)
        self.sums = self.load()
        assert tables(self.sums) == before


def tables(sums: Sums) -> dict[int, bytes]:
    return {partition: bytes(table) for partition, table in sums.tables.items()}


def unknown(sums: Sums) -> set[int]:
    """The places of unknown leaves."""
    return {
        LEAVES * partition + leaf
        for partition, table in sums.tables.items()
        for leaf in range(LEAVES)
        if table[ENTRY * leaf : ENTRY * (leaf + 1)] == UNKNOWN
    }


def test_a_new_store_has_empty_leaves_and_writes_nothing_by_itself() -> None:
    kept = Kept()
    assert not unknown(kept.sums)
    batch = Batch(1)
    kept.sums.seal(batch)
    assert [number for number, _ in batch.sums] == [0]
    kept.store.write(batch)
    kept.crash()


Places = st.lists(st.integers(0, PARTITIONS * LEAVES - 1), max_size=6, unique=True)
Step = st.one_of(Places, st.sampled_from(["crash", "refuse"]))


@settings(max_examples=300, deadline=None)
@given(
    shape=st.builds(Shape, st.integers(2, 5), st.integers(1, 4)),
    steps=st.lists(Step, max_size=60),
)
def test_after_a_crash_the_sums_are_what_the_last_batch_left(
    shape: Shape, steps: list[list[int] | str]
) -> None:
    kept = Kept(shape)
    for step in steps:
        if step == "crash":
            kept.crash()
        elif step == "refuse":
            before = tables(kept.sums)
            kept.take(1, 2, 17)
            kept.sums.reload()
            assert tables(kept.sums) == before
        else:
            assert not isinstance(step, str)
            kept.change(*step)
    kept.crash()


def test_no_slot_is_overwritten_before_what_stands_in_it_is_folded() -> None:
    """The shape of a real ring, every partition changing all the time, and one at a time."""
    for spread in (1, 7, 100):
        kept = Kept(shape_of(PARTITIONS))
        for turn in range(700):
            first = turn * 37
            kept.change(*{(first + 5 * at) % (PARTITIONS * LEAVES) for at in range(spread)})
            if turn % 50 == 0:
                kept.crash()
        kept.crash()


def test_a_change_costs_its_entry_and_a_share_of_a_fold() -> None:
    kept = Kept(shape_of(PARTITIONS))
    rows = folds = 0
    for turn in range(20_000):
        batch = kept.take(turn * 37 % (PARTITIONS * LEAVES))
        kept.store.write(batch)
        rows += len(batch.sums)
        folds += sum(number > kept.shape.slots for number, _ in batch.sums)
    assert rows - folds == 20_000 + 1  # and the head
    assert folds <= 20_000 / (64 * kept.shape.slots / 2) * PARTITIONS + PARTITIONS


def _flip(row: bytes) -> bytes:
    return row[:-1] + bytes([row[-1] ^ 1])


def _cut(row: bytes) -> bytes:
    return row[:-7]


def _lose(row: bytes) -> bytes:
    return b""


# A lost fold looks like one of a partition that has always been empty: that the scrub must find.
@pytest.mark.parametrize(
    ("number", "damage"),
    [(n, damage) for n in range(13) for damage in (_flip, _cut, _lose)[: 3 if n < 5 else 2]],
)
def test_damage_makes_leaves_unknown_and_never_wrong(
    number: int, damage: Callable[[bytes], bytes]
) -> None:
    kept = Kept()
    for turn in range(60):
        kept.change(*{(turn * 37 + at) % (PARTITIONS * LEAVES) for at in range(3)})
    before = tables(kept.sums)
    rows = dict(kept.store.sums())
    assert number in rows
    batch = Batch(2)
    batch.sums.append((number, damage(rows[number])))
    kept.store.write(batch)
    kept.sums = kept.load()
    lost = unknown(kept.sums)
    assert lost
    assert number <= 4 or {place // LEAVES for place in lost} == {number - 5}
    for place in set(range(PARTITIONS * LEAVES)) - lost:
        at = ENTRY * (place % LEAVES)
        now = kept.sums.tables[PartitionId(place // LEAVES)]
        assert now[at : at + ENTRY] == before[place // LEAVES][at : at + ENTRY]
    kept.change(3)
    kept.crash()
    assert unknown(kept.sums) == lost - {3}
    for turn in range(200):
        kept.change(turn * 37 % (PARTITIONS * LEAVES))
    kept.crash()


def test_the_rows_of_an_old_journal_are_not_believed_again_once_they_were_not() -> None:
    """The damage was one of reading; what is written meanwhile must not meet the old sums."""
    kept = Kept()
    for place in range(40):
        kept.change(place)
    reader = Unreadable(kept.store)
    sums = Sums(reader, kept.shape)
    sums.load(cluster_id=CLUSTER_ID, partitions=PARTITIONS, leaves=LEAVES, owned=ALL)
    assert len(unknown(sums)) == PARTITIONS * LEAVES
    batch = Batch(3)
    sums.seal(batch)
    kept.store.write(batch)
    assert len(unknown(kept.load())) == PARTITIONS * LEAVES


class Unreadable:
    """A store whose journal cannot be read now."""

    def __init__(self, store: MemoryStore) -> None:
        self.get, self.read_ahead, self.get_meta = store.get, store.read_ahead, store.get_meta
        self.scan = store.scan
        self.hints, self.has_hint, self.hint_counts = store.hints, store.has_hint, store.hint_counts

    def sums(self) -> list[tuple[int, bytes]]:
        raise CorruptRecord("a bad sector")


def test_a_store_of_before_there_were_trees_has_only_unknown_leaves() -> None:
    store = MemoryStore()
    batch = Batch(1)
    batch.records.append((token_of(b"key"), b"key", b"stored"))
    store.write(batch)
    kept = Kept(store=store)
    assert len(unknown(kept.sums)) == PARTITIONS * LEAVES
    kept.change(5)
    kept.crash()
    assert len(unknown(kept.sums)) == PARTITIONS * LEAVES - 1


USED = PartitionId(token_of(b"key")[0] >> 5)  # where the one record lies
UNUSED = PartitionId((USED + 1) % PARTITIONS)


@pytest.mark.parametrize("partition", [USED, UNUSED])
@pytest.mark.parametrize("runs_on", [False, True])
def test_a_partition_that_comes_back_is_unknown_or_empty(
    partition: PartitionId, runs_on: bool
) -> None:
    """What it left in fold and slots is of then."""
    kept = Kept()
    places = range(LEAVES * partition, LEAVES * (partition + 1))
    others = tuple(at for at in ALL if at != partition)
    elsewhere = LEAVES * others[-1]

    def own(*owned: PartitionId) -> None:
        if runs_on:
            kept.sums.reassign(set(owned))
        else:
            kept.sums = kept.load(owned)

    kept.change(*places)
    own(*others)
    assert partition not in kept.sums.tables
    kept.change(elsewhere)
    own(*ALL)
    assert unknown(kept.sums) == (set(places) if partition == USED else set())
    assert partition == USED or not any(kept.sums.tables[partition])
    kept.change(places[3])
    kept.crash()
    assert unknown(kept.sums) == (set(places) - {places[3]} if partition == USED else set())


def test_a_partition_that_went_and_came_back_between_two_batches_is_as_it_was_left_or_begun() -> (
    None
):
    """And a crash in between finds what the disk has."""
    kept = Kept()
    kept.change(LEAVES * USED + 1, LEAVES * UNUSED + 1)
    before = tables(kept.sums)
    kept.sums.reassign(set(ALL) - {USED, UNUSED})
    kept.sums.reassign(set(ALL))
    assert tables(kept.load()) == before
    assert unknown(kept.sums) == set(range(LEAVES * USED, LEAVES * (USED + 1)))
    kept.change(LEAVES * UNUSED + 2)
    kept.crash()


def test_another_number_of_partitions_makes_all_leaves_unknown() -> None:
    kept = Kept()
    kept.change(1, 2, 3)
    sums = Sums(kept.store, kept.shape)
    owned = {PartitionId(at) for at in range(16)}
    sums.load(cluster_id=CLUSTER_ID, partitions=16, leaves=LEAVES, owned=owned)
    assert len(unknown(sums)) == 16 * LEAVES


def test_rows_of_another_cluster_are_not_believed() -> None:
    kept = Kept()
    kept.change(1, 2, 3)
    sums = Sums(kept.store, kept.shape)
    sums.load(cluster_id=b"d" * 16, partitions=PARTITIONS, leaves=LEAVES, owned=ALL)
    assert len(unknown(sums)) == PARTITIONS * LEAVES
