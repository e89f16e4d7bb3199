"""What every engine's tests share: how to open it, and tokens made to collide.

A further engine joins `ENGINES` and runs through all of `test_conformance.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynagent.core.ports import Batch, NodeId, Token
from dynagent.store.markers import Hint
from dynagent.store.memory import MemoryStore
from dynagent.store.protocol import Store
from dynagent.store.rocksdb import RocksStore
from dynagent.store.sqlite import SqliteStore
from dynagent.testing.level2.disk import SimDisk
from dynagent.testing.level2.logstore import LogStore
from dynagent.testing.world import World

FIRST = Token(b"\x00" * 16)
LAST = Token(b"\xff" * 16)

Record = tuple[Token, bytes, bytes]
OWNER, OTHER = NodeId("a" * 16), NodeId("b" * 16)


@dataclass(frozen=True)
class Engine:
    """`open` opens what is at a path, creating it if absent; `open_copy` opens a snapshot."""

    name: str
    open: Callable[[Path], Store]
    open_copy: Callable[[Path], Store]


def memory_engine() -> Engine:
    stores: dict[Path, MemoryStore] = {}  # the memory store outlives its close, as the disk does
    return Engine("memory", lambda path: stores.setdefault(path, MemoryStore()), MemoryStore.load)


def sqlite_engine() -> Engine:
    return Engine("sqlite", SqliteStore, SqliteStore)


def rocksdb_engine() -> Engine:
    return Engine("rocksdb", RocksStore, RocksStore)


def log_engine() -> Engine:
    disks: dict[Path, SimDisk] = {}
    dice = World(1).stream("disk")
    return Engine(
        "log", lambda path: LogStore(disks.setdefault(path, SimDisk(dice))), LogStore.load
    )


ENGINES: dict[str, Callable[[], Engine]] = {
    "log": log_engine,
    "memory": memory_engine,
    "rocksdb": rocksdb_engine,
    "sqlite": sqlite_engine,
}


def token(high: int, low: int = 0) -> Token:
    """A token of 63 and 65 bits. Those of one `high` collide in an engine that looks no further."""
    return Token((high << 65 | low).to_bytes(16, "big"))


def write(
    store: Store,
    *records: Record,
    meta: tuple[tuple[str, bytes], ...] = (),
    hints: Sequence[Hint] = (),
    sums: Sequence[tuple[int, bytes]] = (),
    number: int = 1,
) -> None:
    batch = Batch(number)
    batch.records.extend(records)
    batch.meta.extend(meta)
    batch.hints.extend(hints)
    batch.sums.extend(sums)
    store.write(batch)


def contents(store: Store) -> list[Record]:
    return list(store.scan(FIRST, LAST))


def markers(store: Store) -> dict[NodeId, list[tuple[Token, bytes]]]:
    """All hints of all targets; their number is what `hint_counts` says."""
    counts = store.hint_counts()
    found = {target: store.hints(target, b"", 1_000_000) for target in counts}
    assert counts == {target: len(places) for target, places in found.items()}
    return found
