"""Stores as a crash leaves them, and what becomes of them when bytes of their log are wrong.

A `Crashed` is a copy, taken while the store was open, of everything on the disk, with the state
after each batch and the place of each batch in the log. `outcome` opens one. Used by
`test_log_damage` with samples, and by the acceptance run with every byte.
"""

import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rocksdict import Options, Rdict

from dynagent.core.ports import NodeId, Token
from dynagent.errors import DataDirError
from dynagent.store.protocol import Store
from dynagent.store.rocksdb import RocksStore
from dynagent.store.rocksdb_log import find_logs
from dynagent.store.sqlite import SqliteStore
from dynagent.store.sqlite_log import log_path
from tests.store.conformance import OWNER, Record, contents, markers, token, write
from tests.store.faults import Faults

SECTOR = 512
State = tuple[list[Record], bytes | None, dict[NodeId, list[tuple[Token, bytes]]], dict[int, bytes]]
BATCHES = 6


@dataclass(frozen=True)
class Crashed:
    """`ends[i]`: where batch i ends in the log, `states[i]` what the store holds after it.

    `before`: the log's bytes before the last batch was written, zero where it was shorter.
    """

    directory: Path
    open: Callable[[Path], Store]
    log: Path
    data: bytes
    before: bytes
    ends: list[int]
    states: list[State]

    @property
    def last(self) -> range:
        """The bytes of the last batch."""
        return range(self.ends[-2], self.ends[-1])

    @property
    def last_three(self) -> range:
        return range(self.ends[-4], self.ends[-1])

    def outcome(self, log: bytes, scratch: Path) -> State | None:
        """What the store holds when opened with this log, None if it refuses.

        `scratch` is a copy of the directory or absent; it stays usable.
        """
        if not scratch.exists():
            shutil.copytree(self.directory, scratch)
        (scratch / self.log).write_bytes(log)
        try:
            store = self.open(scratch / "store")
        except DataDirError:
            return None  # and nothing was changed: the copy is good for the next one
        try:
            return state_of(store)
        finally:
            store.close()
            shutil.rmtree(scratch)

    def without_memory(self, target: Path) -> "Crashed":
        """After a power cut: without the files that are never synced and know the last commit."""
        shutil.copytree(self.directory, target)
        for name in ("store-shm", "store.seen"):
            (target / name).unlink(missing_ok=True)
        return Crashed(target, self.open, self.log, self.data, self.before, self.ends, self.states)


def state_of(store: Store) -> State:
    """All that a store holds, of what the tests put into it."""
    return contents(store), store.get_meta("ring"), markers(store), dict(store.sums())


def _batch(store: Store, number: int, value_bytes: int) -> State:
    """Alternates between the shapes of a write: alone, with a named row, with removal and hints.
    Each has a row of sums."""
    # Half of it zero: what a disk that did not write leaves, and here is not that.
    stored = b"%03d" % number * (value_bytes // 6) + b"\0" * (value_bytes // 2)
    rows: list[Record] = [(token(number), b"key", stored)]
    if number % 3 == 1:
        rows.append((token(number - 1), b"key", b""))
    meta = (("ring", b"%d" % number),) if number % 3 == 2 else ()
    hints = [(OWNER, token(at), b"key", at == number) for at in (number, max(0, number - 3))]
    hints = hints if number % 3 == 1 else []
    latest = token(0), b"latest", b"%d" % number
    sums = [(number % 3, b"sums %d" % number)]
    write(store, latest, *rows, meta=meta, hints=hints, sums=sums, number=number)
    return state_of(store)


def sqlite_new_log(directory: Path) -> Crashed:
    """A log that grows: what a tear leaves of it is missing or zero."""
    return _sqlite(directory, restarted=False)


def sqlite_restarted_log(directory: Path) -> Crashed:
    """A log that overwrites the one before it: what a tear leaves are frames of that one."""
    return _sqlite(directory, restarted=True)


def sqlite_large_pages(directory: Path) -> Crashed:
    """As the agent sets it up."""
    return _sqlite(directory, restarted=True, page_bytes=4096)


def _sqlite(directory: Path, *, restarted: bool, page_bytes: int = 512) -> Crashed:
    live, copy = directory / "live", directory / "crashed"
    live.mkdir(parents=True)
    path = live / "store"
    faults = Faults()
    # Pages are small, so that every byte of a commit can be tried.
    store = SqliteStore(path, page_bytes=page_bytes, synchronous="OFF", connect=faults.connect)
    if restarted:
        for number in range(20, 40):
            _batch(store, number, 150)
        faults.connections[0].execute("PRAGMA wal_checkpoint(FULL)").fetchall()
    ends, states, logs = [], [], []
    for number in range(1, BATCHES + 1):
        states.append(_batch(store, number, 150))
        frames = struct.unpack_from("=I", (live / "store-shm").read_bytes(), 16)[0]
        ends.append(32 + frames * (page_bytes + 24))
        logs.append(log_path(path).read_bytes())
    shutil.copytree(live, copy)
    store.close()
    data, before = logs[-1], logs[-2].ljust(len(logs[-1]), b"\0")
    assert restarted == (len(data) > ends[-1])

    def open_(path: Path) -> Store:
        return SqliteStore(path, page_bytes=page_bytes, synchronous="OFF")

    return Crashed(copy, open_, Path("store-wal"), data, before, ends, states)


def rocksdb_log(directory: Path) -> Crashed:
    """Batches of one fragment each, over several sectors."""
    return _rocksdb(directory, value_bytes=1_200)


def rocksdb_block_border(directory: Path) -> Crashed:
    """The last three batches lie about the border of two blocks, and one is cut by it."""
    return _rocksdb(directory, value_bytes=90, first_bytes=(32 << 10) - 600)


def _rocksdb(directory: Path, *, value_bytes: int, first_bytes: int = 0) -> Crashed:
    live, copy = directory / "live", directory / "crashed"
    live.mkdir(parents=True)
    store = _open_quiet(live / "store")
    if first_bytes:
        write(store, (token(99), b"large", b"\xa5" * first_bytes))
    (log,) = find_logs(live / "store")
    ends, states, logs = [], [], []
    for number in range(1, BATCHES + 1):
        states.append(_batch(store, number, value_bytes))
        ends.append(log.stat().st_size)
        logs.append(log.read_bytes())
    shutil.copytree(live, copy)
    store.close()
    data, before = logs[-1], logs[-2].ljust(len(logs[-1]), b"\0")
    return Crashed(copy, _open_quiet, log.relative_to(live), data, before, ends, states)


def _open_quiet(path: Path) -> RocksStore:
    """Without compactions in the background: under a copy that is being made, files would go."""

    def open_db(directory: str, options: Options) -> Rdict:
        options.set_disable_auto_compactions(True)
        return Rdict(directory, options)

    return RocksStore(path, sync=False, open_db=open_db)


CASES: dict[str, Callable[[Path], Crashed]] = {
    "sqlite, new log": sqlite_new_log,
    "sqlite, restarted log": sqlite_restarted_log,
    "rocksdb": rocksdb_log,
    "rocksdb, block border": rocksdb_block_border,
}


def flips(
    crashed: Crashed, places: Iterable[int], masks: Callable[[int], list[int]]
) -> Iterator[bytes]:
    """The log with each of `places` flipped by each of the masks."""
    for at in places:
        for mask in masks(at):
            damaged = bytearray(crashed.data)
            damaged[at] ^= mask
            yield bytes(damaged)


def tears(crashed: Crashed) -> Iterator[bytes]:
    """The log with any set of the last batch's sectors as they were before it, or cut at one.

    Of more than 10 sectors, only one or two at a time are old, or all up to one, or from one on.
    """
    first, end = crashed.last.start, crashed.last.stop
    sectors = [
        slice(max(at, first), min(at + SECTOR, end))
        for at in range(first - first % SECTOR, end, SECTOR)
    ]
    grows = len(crashed.before.rstrip(b"\0")) <= first
    for lost in _sets(len(sectors)):
        torn = bytearray(crashed.data)
        for number, sector in enumerate(sectors):
            if lost >> number & 1:
                torn[sector] = crashed.before[sector]
        yield bytes(torn)
        if grows:
            for sector in sectors[1:]:
                yield bytes(torn[: sector.start])


def _sets(size: int) -> Iterator[int]:
    if size <= 10:
        yield from range(1, 1 << size)
        return
    for one in range(size):
        yield (2 << one) - 1
        yield (1 << size) - (1 << one)
        for two in range(one, size):
            yield 1 << one | 1 << two
