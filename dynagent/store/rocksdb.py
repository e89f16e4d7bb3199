"""The engine of the extra `[rocksdb]`: RocksDB through rocksdict, for write-heavy nodes.

One key space: `r` ‖ token ‖ key for records, `m` ‖ name for meta rows, `h` ‖ target ‖ 0 ‖ token ‖
key for hints, `s` ‖ number (4 bytes) for sums, so byte order is that of (token, key). A batch is
one `WriteBatch`, written without sync and then made durable by `flush_wal(True)`: a synced write
would hold the GIL during the fsync, and with it the event loop.

In between, the batch is in RocksDB's memory, but not yet on the disk. So readers never look at the
database itself, but at a view of it that the commit thread makes after the sync (2 to 5 µs): a
snapshot for single keys and an iterator for ranges, because the iterators of rocksdict's snapshots
(0.3.29) are not of the snapshot. Until the next commit the view keeps tables from being deleted
that a compaction has replaced.

A write that meets a full disk may leave RocksDB with half a batch in its log and no way back but a
restart. So a batch is refused while it could still be taken: what a flush and its compaction may
need is kept in reserve. Only somebody else who takes that last room too stops the agent.

RocksDB raises plain `Exception` for everything; it is translated here. The log is walked before
RocksDB opens it (`rocksdb_log`); a whole one is then opened so that RocksDB must find no fault in
it, a torn one so that it stops at the tear. Either way its content moves to tables at once, and a
new log begins.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rocksdict import (
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    RdictIter,
    Snapshot,
    WriteBatch,
)

from dynagent import limits
from dynagent.core.ports import Batch, NodeId, Token
from dynagent.errors import (
    CorruptRecord,
    DataDirError,
    DiskFull,
    DynagentError,
    Refused,
    StoreFailed,
)
from dynagent.store.files import fsync_path
from dynagent.store.rocksdb_log import check_logs
from dynagent.store.seen import SeenFile, read_seen

OpenDb = Callable[[str, Options], Rdict]  # Rdict, or a test's that injects faults

# Logs hold what is not yet in tables: this bounds them, and the walk after a crash: 1 to 2 s.
_WRITE_BUFFER_BYTES = 16 * limits.MIB
_RESERVE_BYTES = 3 * _WRITE_BUFFER_BYTES  # one flush, and a compaction of two tables with it
_CACHE_BYTES = 16 * limits.MIB
# A directory without any of these never became a store: its first start met a full disk, say.
_MADE_FIRST = ("CURRENT", "MANIFEST-*", "*.sst", "*.log")
_BLOOM_BITS = 10  # a key: a miss of 1 % reads a block in vain
# Of the write buffer, for a filter over it: bulk puts of new keys take 5 to 14 % less CPU, bulk
# gets 18 (docs/benchmarks.md); the sorted list is cold memory all the way down.
_MEMORY_BLOOM_SHARE = 0.1
# Of a page of a scan; the first one is small, as in SQLite's.
_SCAN_ROWS = 512
_SCAN_BYTES = 1 * limits.MIB
_SCAN_FIRST_PART = 6  # of both
_EXACT_COUNT_ROWS = 6_000  # 2 ms
_NOT_FOUND = "key not found"
_RECORD, _META, _HINT, _SUMS = b"r", b"m", b"h", b"s"


class _View(NamedTuple):
    """All synced batches and nothing else; replaced as a whole, so that readers never go back."""

    snapshot: Snapshot
    cursor: RdictIter  # each use seeks anew and ends before the next begins: one thread reads


class RocksStore:
    """A `Store` in one RocksDB directory.

    `sync`: False breaks the promise of `Store.write`, for tests that show what it is worth.
    `open_db` is the seam where tests inject faults. Raises `DataDirError` if the directory cannot
    be opened, is not a database, or its log is damaged.
    """

    name = "rocksdb"
    is_log_long = False

    def __init__(self, path: Path, *, sync: bool = True, open_db: OpenDb = Rdict) -> None:
        self._path = path
        self._sync = sync
        self._failed: str | None = None
        self._closed = False
        seen_path = path.with_name(path.name + ".seen")
        try:
            new = not any(any(path.glob(made)) for made in _MADE_FIRST)
            seen = read_seen(seen_path)
            torn = check_logs(path, seen).torn
            with ExitStack() as undo:
                self._db = open_db(str(path), _options(new=new, torn=torn))
                undo.callback(self._close_db)
                found = self._db.latest_sequence_number()
                if found < seen:
                    raise DataDirError(
                        f"{path}: ends at commit {found}, but {seen} were synced, so acknowledged"
                        " writes are missing; dynagent store rebuild keeps what can be read, and"
                        " the cluster heals the rest; or move the directory away and start as a new"
                        " node, which the cluster refills"
                    )
                self._seen = SeenFile(seen_path)
                undo.callback(self._seen.close)
                fsync_path(path)
                fsync_path(path.parent)
                self._view: _View | None = self._make_view()
                undo.pop_all()
        except DynagentError:
            raise
        except Exception as exc:
            raise DataDirError(
                f"{path}: cannot open the store: {exc}; if it is damaged, dynagent store rebuild"
                " keeps what can be read, and the cluster heals the rest"
            ) from exc

    # --- reading: the event-loop thread ----------------------------------------------------------

    def get(self, token: Token, key: bytes) -> bytes | None:
        try:
            stored: bytes = self._committed().snapshot[_RECORD + token + key]
        except Exception as exc:
            if exc.args == (_NOT_FOUND,):
                return None
            raise CorruptRecord(f"{self._path}: cannot read key {key[:64]!r}: {exc}") from exc
        return stored

    def read_ahead(self, places: Sequence[tuple[Token, bytes]]) -> Sequence[bytes | None]:
        return ()  # nothing to gain: a get costs 3 µs

    def get_meta(self, name: str) -> bytes | None:
        try:
            value: bytes = self._committed().snapshot[_META + name.encode()]
        except Exception as exc:
            if exc.args == (_NOT_FOUND,):
                return None
            raise CorruptRecord(f"{self._path}: cannot read row {name!r}: {exc}") from exc
        return value

    def sums(self) -> list[tuple[int, bytes]]:
        rows: list[tuple[int, bytes]] = []
        try:
            cursor = self._committed().cursor
            for key in _keys(cursor, _SUMS, _SUMS):
                rows.append((int.from_bytes(key[1:], "big"), cursor.value()))
        except Exception as exc:
            raise CorruptRecord(f"{self._path}: cannot read the sums of the trees: {exc}") from exc
        return rows

    def scan(self, first: Token, last: Token) -> Iterator[tuple[Token, bytes, bytes]]:
        """As `Reader.scan`; each page of it is a snapshot of its own, taken when it is reached."""
        place = _RECORD + first
        rows, size = _SCAN_ROWS // _SCAN_FIRST_PART, _SCAN_BYTES // _SCAN_FIRST_PART
        while True:
            page = self._read_page(place, last, rows=rows, size=size)
            rows, size = min(2 * rows, _SCAN_ROWS), min(2 * size, _SCAN_BYTES)
            for place, stored in page:
                yield Token(place[1:17]), place[17:], stored
            if not page:
                return
            place += b"\0"  # the least that sorts after it

    def hints(self, target: NodeId, after: bytes, count: int) -> list[tuple[Token, bytes]]:
        prefix = _hint_prefix(target)
        start = prefix + after + b"\0" if after else prefix
        try:
            keys = _keys(self._committed().cursor, prefix, start)
            places = [key[len(prefix) :] for key in islice(keys, count)]
        except Exception as exc:
            raise CorruptRecord(f"{self._path}: cannot read the hints for {target}: {exc}") from exc
        return [(Token(place[:16]), place[16:]) for place in places]

    def has_hint(self, target: NodeId, token: Token, key: bytes) -> bool:
        try:
            self._committed().snapshot[_hint_prefix(target) + token + key]
        except Exception as exc:
            if exc.args == (_NOT_FOUND,):
                return False
            raise CorruptRecord(f"{self._path}: cannot read the hints for {target}: {exc}") from exc
        return True

    def hint_counts(self) -> dict[NodeId, int]:
        try:
            keys = _keys(self._committed().cursor, _HINT, _HINT)
            counts = Counter(key[1 : key.index(b"\0")] for key in keys)
        except Exception as exc:
            raise CorruptRecord(f"{self._path}: cannot count the hints: {exc}") from exc
        return {NodeId(target.decode()): count for target, count in counts.items()}

    def count(self) -> int:
        """Exact for a small store, otherwise RocksDB's estimate, in which updates count anew until
        they are compacted, and hints from the 6,000th on."""
        try:
            cursor = self._committed().cursor
            rows = sum(1 for _ in islice(_keys(cursor, _RECORD, _RECORD), _EXACT_COUNT_ROWS))
            if rows < _EXACT_COUNT_ROWS:
                return rows
            hints = sum(1 for _ in islice(_keys(cursor, _HINT, _HINT), _EXACT_COUNT_ROWS))
            estimate = self._db.property_int_value("rocksdb.estimate-num-keys") or 0
            return max(rows, estimate - hints)
        except Exception as exc:
            raise CorruptRecord(f"{self._path}: cannot count the records: {exc}") from exc

    # --- writing: the commit thread --------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        if self._failed is not None:
            raise StoreFailed(f"{self._path}: an earlier write failed ({self._failed}); restart")
        if (room := self._room()) < _RESERVE_BYTES:
            raise DiskFull(
                f"{self._path}: no room for batch {batch.number}: {room:,} bytes are free, and"
                f" {_RESERVE_BYTES:,} are kept in reserve"
            )
        changes = WriteBatch(raw_mode=True)
        for token, key, stored in batch.records:
            if stored:
                changes.put(_RECORD + token + key, stored)
            else:
                changes.delete(_RECORD + token + key)
        for token, key in batch.strays:
            changes.delete(_RECORD + token + key)
        for target, token, key, owed in batch.hints:
            if owed:
                changes.put(_hint_prefix(target) + token + key, b"")
            else:
                changes.delete(_hint_prefix(target) + token + key)
        for name, value in batch.meta:
            changes.put(_META + name.encode(), value)
        for number, value in batch.sums:
            changes.put(_SUMS + number.to_bytes(4, "big"), value)
        try:
            self._db.write(changes)
            self._db.flush_wal(self._sync)
            self._seen.write(self._db.latest_sequence_number())
            self._view = self._make_view()
        except Exception as exc:
            self._failed = str(exc) or type(exc).__name__
            raise StoreFailed(
                f"{self._path}: batch {batch.number} failed: {self._failed}; check the disk and"
                " its free space, then restart; if the store is damaged, dynagent store rebuild"
                " keeps what can be read, and the cluster heals the rest"
            ) from exc

    def fold_log(self) -> None:
        """The engine does it on threads of its own."""

    def snapshot(self, path: Path) -> None:
        if path.exists():
            raise Refused(f"{path} exists; name a directory that does not")
        partial = path.with_name(path.name + ".partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            Checkpoint(self._db).create_checkpoint(str(partial))
            partial.rename(path)
            fsync_path(path.parent)
        except Exception as exc:
            shutil.rmtree(partial, ignore_errors=True)
            raise DynagentError(f"snapshot of {self._path} to {path} failed: {exc}") from exc

    def close(self) -> None:
        """Writes what is only in the log to tables, so that the next start has no log to walk."""
        if self._closed:
            return
        self._closed = True
        try:
            try:
                self._close_db()
            finally:
                self._seen.close()
        except Exception as exc:
            if self._failed is None:
                raise StoreFailed(
                    f"{self._path}: cannot close the store: {exc}; if it is damaged, dynagent store"
                    " rebuild keeps what can be read, and the cluster heals the rest"
                ) from exc

    # --- helpers ---------------------------------------------------------------------------------

    def _close_db(self) -> None:
        self._view = None  # it keeps the database open
        self._db.close()

    def _room(self) -> int:
        """The bytes that we may still write on the disk (2 µs)."""
        disk = os.statvfs(self._path)
        return disk.f_bavail * disk.f_frsize

    def _make_view(self) -> _View:
        return _View(self._db.snapshot(), self._db.iter())

    def _committed(self) -> _View:
        assert self._view is not None
        return self._view

    def _read_page(
        self, place: bytes, last: Token, *, rows: int, size: int
    ) -> list[tuple[bytes, bytes]]:
        """Some records from a place on, so many or of so many bytes at most."""
        page: list[tuple[bytes, bytes]] = []
        left = size
        try:
            cursor = self._committed().cursor
            cursor.seek(place)
            while len(page) < rows and left > 0 and cursor.valid():
                key: bytes = cursor.key()
                if key[:1] != _RECORD or key[1:17] > last:
                    break
                page.append((key, cursor.value()))
                left -= len(page[-1][1])
                cursor.next()
            cursor.status()  # an iterator that met damage only says that it is at its end
        except Exception as exc:
            raise CorruptRecord(
                f"{self._path}: cannot read the records from {place[1:17].hex()} on: {exc}"
            ) from exc
        return page


def _hint_prefix(target: NodeId) -> bytes:
    return b"%b%b\0" % (_HINT, target.encode())


def _keys(cursor: RdictIter, prefix: bytes, start: bytes) -> Iterator[bytes]:
    """The keys with `prefix` from `start` on, to be taken before the cursor is used again."""
    cursor.seek(start)
    while cursor.valid():
        key: bytes = cursor.key()
        if not key.startswith(prefix):
            break
        yield key
        cursor.next()
    cursor.status()


def _options(*, new: bool, torn: bool) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(new)  # never beside the rest of an old one
    modes = DBRecoveryMode
    options.set_wal_recovery_mode(modes.point_in_time() if torn else modes.absolute_consistency())
    options.set_recycle_log_file_num(0)  # the walk counts on it
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_memtable_prefix_bloom_ratio(_MEMORY_BLOOM_SHARE)
    options.set_memtable_whole_key_filtering(True)  # there are no prefixes
    tables = BlockBasedOptions()
    tables.set_bloom_filter(_BLOOM_BITS, False)
    tables.set_block_cache(Cache(_CACHE_BYTES))
    options.set_block_based_table_factory(tables)
    # Its own diary, the file LOG: one old one is enough.
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 * limits.MIB)
    return options
