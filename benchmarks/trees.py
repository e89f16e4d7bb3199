"""What Merkle trees that are always current cost: each put, a root, a start, a rebuild.

    python -m benchmarks.trees

Puts of 1 KiB through three nodes in one process (as `benchmarks.guard`, over memory), with trees
and without; batches in SQLite with a row of the journal and without; then single steps with 256
partitions of 256 leaves, all of them in use. Both sides of a comparison run in turn, and the least
of many rounds counts: others share the machine. About a minute.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import thread_time

from benchmarks import guard
from benchmarks.store import KEYS, VALUES
from dynagent.core.entry import Record, encode_stored
from dynagent.core.merkle import Forest
from dynagent.core.ports import Batch, NodeId, PartitionId
from dynagent.core.ring import Member, Ring, token_of
from dynagent.core.siblings import Siblings
from dynagent.core.sums import shape_of
from dynagent.store.memory import MemoryStore
from dynagent.store.sqlite import SqliteStore

ROUNDS = 150
BATCH_SIZES = (1, 4, 16, 64, 256)
PARTITIONS = 256
NODE = NodeId("a" * 16)
DICE = random.Random(1)


def least(rounds: int, *works: Callable[[], float]) -> list[float]:
    """The least of what each says that it has taken, in seconds; they run in turn."""
    best = [1e9] * len(works)
    for _ in range(rounds):
        for place, work in enumerate(works):
            best[place] = min(best[place], work())
    return best


# --- puts ----------------------------------------------------------------------------------------


def without_trees(cluster: guard.Cluster) -> guard.Cluster:
    for host in cluster.hosts:
        host.node.replica.forest.apply = _nothing  # type: ignore[method-assign]
    return cluster


def _nothing(batch: Batch, changes: object) -> None:
    pass


def measure_puts() -> None:
    with_trees, without = guard.Cluster(), without_trees(guard.Cluster())
    figures = guard.figures_of(with_trees), guard.figures_of(without)
    for name in ("put_context", "put_overwrite"):
        calls = [guard.count_calls(works[name]) for works in figures]
        seconds = least(ROUNDS, *(works[name] for works in figures))
        print(
            f"{name:14} {seconds[1] * 1e6:6.1f} µs without trees, {seconds[0] * 1e6:6.1f} with"
            f" ({seconds[0] / seconds[1]:.3f}); {calls[1]:.0f} and {calls[0]:.0f} calls"
            f" ({calls[0] / calls[1]:.3f})"
        )


# --- the store -----------------------------------------------------------------------------------


def measure_batches(directory: Path) -> None:
    """CPU of the writing thread, without the fsync: that waits, it does not work."""
    for size in BATCH_SIZES:
        kinds = ("records", "sums", "meta")
        works = [_batches(directory / f"{kind}{size}", kind, size) for kind in kinds]
        seconds = least(30 + 1_500 // size, *works)
        plain, sums, named = (1e6 * second / size for second in seconds)
        print(
            f"SQLite, batch of {size:3}: {plain:5.1f} µs a record; with a row of the journal"
            f" {sums:5.1f} ({sums / plain:.3f}), were it a named row {named:5.1f}"
            f" ({named / plain:.3f})"
        )


def _batches(path: Path, kind: str, size: int) -> Callable[[], float]:
    store = SqliteStore(path, synchronous="OFF")
    first = Batch(0)
    first.records = [(*place, VALUES[at % 64]) for at, place in enumerate(KEYS)]
    store.write(first)
    shape = shape_of(PARTITIONS)
    entries = sequence = 0

    def write() -> float:
        nonlocal entries, sequence
        if entries >= shape.entries:
            entries, sequence = 0, sequence + 1
        entries += size
        row = bytes(12 + 44 * entries)
        batch = Batch(1)
        batch.records = [(*place, DICE.choice(VALUES)) for place in DICE.sample(KEYS, size)]
        if kind == "sums":
            batch.sums = [(1 + sequence % shape.slots, row)]
        elif kind == "meta":
            batch.meta = [(f"sums{sequence % shape.slots}", row)]
        begun = thread_time()
        store.write(batch)
        return thread_time() - begun

    return write


# --- single steps --------------------------------------------------------------------------------


def full_forest(store: MemoryStore) -> Forest:
    """A record or two in every leaf, written in batches of 64."""
    member = Member(id=NODE, name="n", address="", zone="", host="h", capacity=1)
    lists = ((NODE,),) * PARTITIONS
    ring = Ring(
        epoch=1, cluster_id=b"trees" * 3 + b"!", n=1, r=1, w=1, members=(member,), lists=lists
    )
    forest = Forest(store)
    forest.serve(ring, NODE)
    record = Record(Siblings({1: 1}, ()))
    for start in range(0, 2 * PARTITIONS * forest.leaves, 64):
        batch = Batch(1)
        keys = [b"user:%018d" % number for number in range(start, start + 64)]
        for key in keys:
            stored = encode_stored(record, cluster_id=ring.cluster_id, key=key)
            batch.records.append((token_of(key), key, stored))
        forest.apply(batch, [(token_of(key), key, None, record.digest) for key in keys])
        store.write(batch)
        forest.on_committed()
    return forest


def measure_steps() -> None:
    store = MemoryStore()
    forest = full_forest(store)
    partition = PartitionId(7)
    key = next(key for key in (b"%d" % n for n in range(100_000)) if token_of(key)[0] == partition)
    digests = [b"1" * 32, b"2" * 32]

    def change() -> float:
        begun = thread_time()
        forest.apply(Batch(1), [(token_of(key), key, *digests)])
        return thread_time() - begun

    def root_after_a_change() -> float:
        digests.reverse()
        change()
        begun = thread_time()
        forest.root(partition)
        return thread_time() - begun

    def root_of_all() -> float:
        forest._groups.clear()
        begun = thread_time()
        forest.root(partition)
        return thread_time() - begun

    def load() -> float:
        begun = thread_time()
        forest.on_refused()
        return thread_time() - begun

    def rebuild() -> float:
        begun = thread_time()
        for leaf in range(forest.leaves):
            forest.rebuild(partition, leaf)
        return (thread_time() - begun) / forest.leaves

    rows = dict(store.sums())
    sizes = sum(map(len, rows.values()))
    tables = sum(sys.getsizeof(table) for table in forest._tables.values())
    for name, work, rounds in (
        ("a change", change, 500),
        ("a root after it", root_after_a_change, 200),
        ("a root, all made anew", root_of_all, 100),
        ("a rebuild of a leaf", rebuild, 20),
        ("all sums, at a start", load, 10),
    ):
        print(f"{name:22} {least(rounds, work)[0] * 1e6:8.1f} µs")
    print(f"{PARTITIONS} × {forest.leaves} leaves: {tables:,} bytes of sums in memory,", end=" ")
    print(f"{sizes:,} in {len(rows)} rows of the journal")


def main(arguments: Sequence[str]) -> int:
    assert not arguments, __doc__
    measure_puts()
    with tempfile.TemporaryDirectory() as directory:
        measure_batches(Path(directory))
    measure_steps()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
