"""Unknown leaves are rebuilt in small steps, under the budget; what cannot be read waits."""

from __future__ import annotations

from math import inf

from dynagent import limits
from dynagent.core.budget import Budget
from dynagent.core.entry import Record, encode_stored
from dynagent.core.merkle import Forest
from dynagent.core.ports import Batch
from dynagent.core.rebuild import Rebuilder
from dynagent.core.ring import token_of
from dynagent.core.siblings import Siblings
from dynagent.store.memory import MemoryStore
from tests.core.harness import CLUSTER_ID, IDS, make_ring

RECORD = Record(Siblings({1: 1}, ()))
KEYS = [b"key %d" % number for number in range(500)]


def stored(key: bytes) -> bytes:
    return encode_stored(RECORD, cluster_id=CLUSTER_ID, key=key)


def write(store: MemoryStore, rows: dict[bytes, bytes]) -> None:
    batch = Batch(1)
    batch.records.extend((token_of(key), key, row) for key, row in rows.items())
    store.write(batch)


def old_store() -> tuple[MemoryStore, Forest]:
    """Of before there were trees."""
    store = MemoryStore()
    write(store, {key: stored(key) for key in KEYS})
    forest = Forest(store)
    forest.serve(make_ring(3), IDS[0])
    return store, forest


def budget() -> Budget:
    return Budget(threshold_s=1.0, bytes_per_s_max=limits.BACKGROUND_BYTES_PER_S_DEFAULT)


def test_all_leaves_are_rebuilt_a_little_at_a_time() -> None:
    _, forest = old_store()
    rebuilder = Rebuilder(forest, budget())
    assert len(forest.unknown) == 8 * 256
    now = most = 0.0
    while (due := rebuilder.due) < inf:
        now = max(now, due)
        before = rebuilder.rebuilt
        rebuilder.on_tick(now)
        most = max(most, rebuilder.rebuilt - before)
    assert forest.records == len(KEYS)
    assert rebuilder.rebuilt == 8 * 256
    assert most <= limits.TREE_REBUILD_RECORDS
    assert now >= (8 * 256 + len(KEYS)) / limits.TREE_REBUILD_RECORDS * limits.TREE_TURN_S - 0.1


def test_nothing_happens_before_it_is_due() -> None:
    _, forest = old_store()
    rebuilder = Rebuilder(forest, budget())
    rebuilder.on_tick(1.0)
    before = rebuilder.rebuilt
    rebuilder.on_tick(1.0 + limits.TREE_TURN_S / 2)
    assert rebuilder.rebuilt == before > 0


def test_a_leaf_that_cannot_be_read_is_tried_again_after_a_rest_and_writes_nothing() -> None:
    store, forest = old_store()
    write(store, {KEYS[0]: b"rot"})
    rebuilder = Rebuilder(forest, budget())
    now = 0.0
    while len(forest.unknown) > 1:
        now = max(now, rebuilder.due)
        rebuilder.on_tick(now)
    forest.apply(Batch(1), [])
    forest.on_committed()
    while (due := rebuilder.due) < now + limits.TREE_REST_S / 2:
        rebuilder.on_tick(due)
    assert due <= now + limits.TREE_REST_S
    assert not forest.has_news
    write(store, {KEYS[0]: stored(KEYS[0])})
    rebuilder.on_tick(due)
    assert not forest.unknown
    assert rebuilder.due == inf
    assert forest.has_news
