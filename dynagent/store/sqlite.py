"""The default engine: one SQLite file in WAL mode, fsynced at every commit (design §11).

`record.id` is the top 63 bits of the token and the table's own rowid: there is no index beside the
table, and a partition is one contiguous range. `record.key` is the token's last 9 bytes followed by
the key, so that (id, key) order is exactly (token, key) order and the token can be read back.

Negative ids are the numbered rows of the trees' journal, row n at -1 - n with an empty key: so they
are part of the one statement that writes the records (a named row would need a second one, and
BEGIN and COMMIT around both).

Two keys on one id are next to impossible with 63 bits, but must not lose data. The first one has
the row in `record`, the others are rows of `overflow`. An id with such rows is *crowded*; the set
of crowded ids is kept in memory (it is practically always empty), and only their reads and writes
look at `overflow`. A collision makes the upsert write NULL into a NOT NULL column, which undoes the
whole statement; the batch is then written again, row by row, in a transaction.

Two connections: the writer belongs to the commit thread; the reader is used inline on the
event-loop thread, where a get costs about 6 µs. No read transaction outlives a page of a scan, so
the log can always be checkpointed. How the file is opened and set up: `sqlite_file`. Hints have a
table of their own: `sqlite_hints`.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

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
from dynagent.store import sqlite_hints
from dynagent.store.files import fsync_path
from dynagent.store.sqlite_file import (
    LOG_PAGES,
    PAGE_BYTES,
    Connect,
    copy_file,
    open_reader,
    open_writer,
)
from dynagent.store.sqlite_log import check_log

# 3 variables a row stay below 999, the limit of the oldest builds.
ROWS_MAX = 256
# A cached statement keeps its last bound values alive. Statements come in 9 sizes (powers of two),
# so this bounds what they keep to 9 MiB and one record.
_CHUNK_BYTES_MAX = 1 * limits.MIB
# Of a page of a scan. Most who scan look at a leaf, or a page of 64 records, and go: so the first
# page is small, and each that follows twice as large. (To read 512 rows for 64 cost half as much as
# all else that is done for them.)
_SCAN_ROWS = 512
_SCAN_BYTES = 1 * limits.MIB
_SCAN_FIRST_PART = 6  # of both
_EXACT_COUNT_PAGES = 1_000  # counting walks every page: half a millisecond for these


def _upsert(rows: int) -> str:
    # NULL rows fill a batch up to a power of two, and one for the sums: 9 statement texts serve all
    # sizes. (One text for each of 256 sizes was no faster and held 45 MB.)
    values = ",".join(["(?,?,?)"] * rows)
    return (
        f"INSERT INTO record(id, key, value) SELECT * FROM (VALUES {values})"
        " WHERE column1 IS NOT NULL ON CONFLICT(id)"
        " DO UPDATE SET value = CASE WHEN key = excluded.key THEN excluded.value END"
    )


_UPSERTS = {1 << bits: _upsert((1 << bits) + 1) for bits in range(ROWS_MAX.bit_length())}
_PUT_META = (
    "INSERT INTO meta(name, value) VALUES (?,?)"
    " ON CONFLICT(name) DO UPDATE SET value = excluded.value"
)
_GET = "SELECT value FROM record WHERE id = ? AND key = ?"
# One statement, thus one snapshot: a key may move between the tables from one batch to the next.
_GET_CROWDED = f"{_GET} UNION ALL SELECT value FROM overflow WHERE id = ? AND key = ?"
# Reading 8 records at once costs 3 µs each, one by one 6: after each commit every page must be
# fetched anew, and one statement takes one lock. (As one select with a list of ids it was 5.)
_AHEAD_MIN = 2
_AHEAD_MAX = 256  # a turn of bulk puts has as many
_AHEAD_BYTES_MAX = limits.MIB // 2  # what is larger is read when its turn comes


def _select(rows: int) -> str:
    # A row for each place, in their order: x'' where there is no record, NULL where only `get` can
    # tell, for the row is another key's, or damaged.
    places = ",".join(["(?,?)"] * rows)
    return (
        "SELECT CASE WHEN key = column2 THEN value WHEN id IS NULL THEN x'' END"
        f" FROM (VALUES {places}) LEFT JOIN record ON id = column1"
    )


_AHEAD = {1 << bits: _select(1 << bits) for bits in range(_AHEAD_MAX.bit_length())}
_FROM = "WHERE id >= ?1 AND (id > ?1 OR key >= ?2)"
# Without an upper bound: SQLite would take a row out of order for the end, see `_read_page`.
_SCAN = f"SELECT id, key, value FROM record {_FROM} ORDER BY id LIMIT {_SCAN_ROWS}"
_SCAN_CROWDED = (
    f"SELECT id, key, value FROM record {_FROM} UNION ALL SELECT id, key, value FROM overflow"
    f" {_FROM} ORDER BY 1, 2 LIMIT {_SCAN_ROWS}"
)
_KEYLESS = "typeof(key) <> 'blob' OR length(key) < 9"
_SUMS = "SELECT id, key, value FROM record WHERE id < 0"
_SUMS_BYTES = "SELECT total(length(value)) FROM record WHERE id < 0"
_SAMPLE = (
    "SELECT count(*), total(length(key) + length(value))"
    " FROM (SELECT key, value FROM record WHERE id >= ? ORDER BY id LIMIT 4)"
)

_Row = tuple[int, bytes, bytes]  # id, the token's last 9 bytes and the key, stored form


def _id_of(token: Token) -> int:
    return int.from_bytes(token[:8], "big") >> 1


class SqliteStore:
    """A `Store` in one SQLite file.

    `synchronous`: SQLite's word; only FULL keeps the promise of `Store.write`, the others are for
    tests and measurements. `connect` is the seam where tests inject faults. Raises `DataDirError`
    if the file cannot be opened, is not ours, or its log is damaged.
    """

    name = "sqlite"

    def __init__(
        self,
        path: Path,
        *,
        synchronous: str = "FULL",
        page_bytes: int = PAGE_BYTES,
        connect: Connect = sqlite3.connect,
    ) -> None:
        assert synchronous in {"FULL", "NORMAL", "OFF"}
        self._path = path
        self._connect = connect
        self._failed: str | None = None
        self._logged = 0  # rows since the log was folded
        self._logged_max = LOG_PAGES
        check_log(path)  # before SQLite sees the log: it forgets what it cannot read
        try:
            with ExitStack() as undo:
                self._writer = open_writer(
                    path, connect, synchronous=synchronous, page_bytes=page_bytes
                )
                undo.callback(self._writer.close)
                self._reader = open_reader(path, connect)
                undo.callback(self._reader.close)
                self._crowded = self._read_crowded()
                fsync_path(path.parent)  # the names of the file and its log
                undo.pop_all()
        except (sqlite3.Error, OSError) as exc:
            raise DataDirError(f"{path}: cannot open the store: {exc}{_remedy(exc)}") from exc

    # --- reading: the event-loop thread ----------------------------------------------------------

    def read_ahead(self, places: Sequence[tuple[Token, bytes]]) -> Sequence[bytes | None]:
        if len(places) < _AHEAD_MIN:
            return ()
        places = places[:_AHEAD_MAX]
        wanted: list[int | bytes | None] = []
        for token, key in places:
            wanted += (_id_of(token), token[7:] + key)
        size = 1 << (len(places) - 1).bit_length()
        wanted += [None] * (2 * (size - len(places)))
        ahead: list[bytes | None] = []
        left = _AHEAD_BYTES_MAX
        try:
            rows = self._reader.execute(_AHEAD[size], wanted)
            for _, (stored,) in zip(places, rows, strict=False):  # no row of the padding is made
                if type(stored) is not bytes:
                    stored = None
                ahead.append(stored)
                left -= len(stored or b"")
                if left < 0:
                    break
            rows.close()
        except sqlite3.Error:
            return ()  # `get` says which one cannot be read
        if self._crowded:
            ahead = [
                None if id_ in self._crowded else stored
                for id_, stored in zip(wanted[::2], ahead, strict=False)
            ]
        return ahead

    def get(self, token: Token, key: bytes) -> bytes | None:
        place = (_id_of(token), token[7:] + key)
        try:
            row = self._reader.execute(_GET, place).fetchone()
            if row is None:
                if place[0] not in self._crowded:
                    return None
                row = self._reader.execute(_GET_CROWDED, (*place, *place)).fetchone()
        except sqlite3.Error as exc:
            raise CorruptRecord(f"{self._path}: cannot read key {key[:64]!r}: {exc}") from exc
        if row is None:
            return None
        stored = row[0]
        # A flipped bit in a row's header changes the type of a column, not only its bytes.
        if type(stored) is not bytes:
            raise CorruptRecord(f"{self._path}: the value of key {key[:64]!r} is not a blob")
        return stored

    def get_meta(self, name: str) -> bytes | None:
        try:
            row = self._reader.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        except sqlite3.Error as exc:
            raise CorruptRecord(f"{self._path}: cannot read row {name!r}: {exc}") from exc
        if row is None:
            return None
        value = row[0]
        if type(value) is not bytes:
            raise CorruptRecord(f"{self._path}: the value of row {name!r} is not a blob")
        return value

    def sums(self) -> list[tuple[int, bytes]]:
        try:
            rows = self._reader.execute(_SUMS).fetchall()
        except sqlite3.Error as exc:
            raise CorruptRecord(f"{self._path}: cannot read the sums of the trees: {exc}") from exc
        for id_, key, value in rows:
            if key != b"" or type(value) is not bytes:
                raise CorruptRecord(f"{self._path}: row {id_} is damaged")
        return [(-1 - id_, value) for id_, _, value in rows]

    def scan(self, first: Token, last: Token) -> Iterator[tuple[Token, bytes, bytes]]:
        """As `Reader.scan`; each page of it is a snapshot of its own, taken when it is reached."""
        id_, floor = _id_of(first), first[7:]
        last_id, last_tail = _id_of(last), last[7:]
        rows, size = _SCAN_ROWS // _SCAN_FIRST_PART, _SCAN_BYTES // _SCAN_FIRST_PART
        while True:
            page = self._read_page(id_, floor, last_id, rows=rows, size=size)
            rows, size = min(2 * rows, _SCAN_ROWS), min(2 * size, _SCAN_BYTES)
            for id_, place, stored in page:
                tail = place[:9]
                if id_ == last_id and tail > last_tail:
                    return
                if len(tail) < 9:  # the row is so damaged that its key is unknown
                    tail, stored = (id_ << 1 & 0xFF).to_bytes(1, "big") + bytes(8), b""
                yield Token((id_ << 1).to_bytes(8, "big")[:7] + tail), place[9:], stored
            if not page:
                return
            id_, floor = page[-1][0], page[-1][1] + b"\0"  # the least that sorts after it

    def hints(self, target: NodeId, after: bytes, count: int) -> list[tuple[Token, bytes]]:
        try:
            return sqlite_hints.read_hints(self._reader, target, after, count)
        except (sqlite3.Error, CorruptRecord) as exc:
            raise CorruptRecord(f"{self._path}: cannot read the hints for {target}: {exc}") from exc

    def has_hint(self, target: NodeId, token: Token, key: bytes) -> bool:
        try:
            return sqlite_hints.has_hint(self._reader, target, token, key)
        except sqlite3.Error as exc:
            raise CorruptRecord(f"{self._path}: cannot read the hints for {target}: {exc}") from exc

    def hint_counts(self) -> dict[NodeId, int]:
        try:
            return sqlite_hints.hint_counts(self._reader)
        except (sqlite3.Error, CorruptRecord) as exc:
            raise CorruptRecord(f"{self._path}: cannot count the hints: {exc}") from exc

    def count(self) -> int:
        """Exact for a small file, otherwise from its size and the size of sampled rows."""
        try:
            return self._count()
        except sqlite3.Error as exc:
            raise CorruptRecord(f"{self._path}: cannot count the records: {exc}") from exc

    # --- writing: the commit thread --------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        if self._failed is not None:
            raise StoreFailed(f"{self._path}: an earlier write failed ({self._failed}); restart")
        try:
            self._write(batch)
            self._logged += len(batch.records) + len(batch.hints) + 1
        except (sqlite3.Error, MemoryError) as exc:  # SQLITE_NOMEM arrives as MemoryError
            if getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL and self._roll_back():
                raise DiskFull(f"{self._path}: no room for batch {batch.number}") from exc
            self._failed = str(exc) or type(exc).__name__
            raise StoreFailed(
                f"{self._path}: batch {batch.number} failed: {self._failed}"
                f"{_remedy(exc) or '; check the disk and its free space, then restart'}"
            ) from exc

    @property
    def is_log_long(self) -> bool:
        return self._logged >= self._logged_max and self._failed is None

    def fold_log(self) -> None:
        """The checkpoint. What a row takes in the log (pages, shared by neighbours) is learnt from
        the last one."""
        try:
            _, pages, _ = self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                self._logged = 0  # no room to fold into: the log is whole, and is tried again
                return
            self._failed = str(exc)
            raise StoreFailed(f"{self._path}: the log cannot be folded: {exc}") from exc
        rows = self._logged * LOG_PAGES // max(1, pages)
        self._logged_max = min(max(rows, LOG_PAGES // 16), 4 * LOG_PAGES)
        self._logged = 0

    def snapshot(self, path: Path) -> None:
        if path.exists():
            raise Refused(f"{path} exists; name a file that does not")
        partial = path.with_name(path.name + ".partial")
        try:
            partial.unlink(missing_ok=True)
            copy_file(self._path, partial, self._connect)
            fsync_path(partial)
            partial.rename(path)
            fsync_path(path.parent)
        except (sqlite3.Error, OSError) as exc:
            partial.unlink(missing_ok=True)
            raise DynagentError(f"snapshot of {self._path} to {path} failed: {exc}") from exc

    def close(self) -> None:
        self._reader.close()
        # The writer last: whoever closes last checkpoints. After a failed write that is safe too:
        # it copies only commits whose fsync succeeded, and if it fails the log stays.
        self._writer.close()

    # --- helpers ---------------------------------------------------------------------------------

    def _write(self, batch: Batch) -> None:
        rows: list[_Row] = [(-1 - number, b"", row) for number, row in batch.sums]
        gone: list[tuple[int, bytes]] = []
        stored_bytes = sum(len(row) for _, row in batch.sums)
        for token, key, stored in batch.records:
            id_ = int.from_bytes(token[:8], "big") >> 1
            if stored:
                rows.append((id_, token[7:] + key, stored))
                stored_bytes += len(stored)
            else:
                gone.append((id_, token[7:] + key))
        rows.sort()  # neighbours share the way down the tree: 7 to 15 % of a put
        is_small = stored_bytes <= _CHUNK_BYTES_MAX or len(batch.records) == 1
        fits_one = len(rows) <= ROWS_MAX + 1 and is_small
        only_rows = not (gone or batch.meta or batch.hints or batch.strays)
        alone = fits_one and only_rows and not self._touches_crowded(rows)
        # One statement that commits by itself: SQLite is entered once, and the GIL let go once, for
        # the whole batch and its fsync. BEGIN and COMMIT around it cost 10 % more in batches of 16,
        # 20 % from 64 on (a statement journal, which a lone statement does not need).
        if alone and (not rows or self._try_upsert(rows)):
            return
        self._write_in_transaction(rows, gone, batch)

    def _write_in_transaction(
        self, rows: list[_Row], gone: list[tuple[int, bytes]], batch: Batch
    ) -> None:
        writer = self._writer
        writer.execute("BEGIN IMMEDIATE")
        if batch.strays:
            keyless = [(_id_of(token),) for token, key in batch.strays if not key]
            writer.executemany(f"DELETE FROM record WHERE id = ? AND ({_KEYLESS})", keyless)
            gone += [(_id_of(token), token[7:] + key) for token, key in batch.strays if key]
        if gone:
            writer.executemany("DELETE FROM record WHERE id = ? AND key = ?", gone)
            crowded = [place for place in gone if place[0] in self._crowded]
            writer.executemany("DELETE FROM overflow WHERE id = ? AND key = ?", crowded)
        for chunk in _chunks(rows):
            if self._touches_crowded(chunk) or not self._try_upsert(chunk):
                for row in chunk:
                    self._put_colliding(row)
        if batch.hints:
            sqlite_hints.write_hints(writer, batch.hints)
        if batch.meta:
            writer.executemany(_PUT_META, batch.meta)
        writer.execute("COMMIT")

    def _roll_back(self) -> bool:
        """After a full disk: the batch leaves no trace. False if that cannot be said."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        return True

    def _try_upsert(self, rows: list[_Row]) -> bool:
        """Writes all rows, or none and returns False if two keys meet on one id."""
        size = 1 << max(0, len(rows) - 2).bit_length()
        values: list[int | bytes | None] = list(chain.from_iterable(rows))
        values += [None] * (3 * (size + 1 - len(rows)))
        try:
            self._writer.execute(_UPSERTS[size], values)
        except sqlite3.IntegrityError:
            return False
        return True

    def _put_colliding(self, row: _Row) -> None:
        id_, place, stored = row
        if id_ < 0:  # what has come in the place of a numbered row is damage
            self._writer.execute("REPLACE INTO record(id, key, value) VALUES (?,?,?)", row)
            return
        if id_ in self._crowded:
            # A key that has its row in overflow stays there, even when the row in record is free.
            changed = self._writer.execute(
                "UPDATE overflow SET value = ? WHERE id = ? AND key = ?", (stored, id_, place)
            )
            if changed.rowcount:
                return
        if not self._try_upsert([row]):
            self._crowded.add(id_)  # before the commit: the reader must not miss what it sees
            self._writer.execute("INSERT INTO overflow(id, key, value) VALUES (?,?,?)", row)

    def _touches_crowded(self, rows: list[_Row]) -> bool:
        return bool(self._crowded) and any(row[0] in self._crowded for row in rows)

    def _read_page(
        self, id_: int, floor: bytes, last_id: int, *, rows: int, size: int
    ) -> list[_Row]:
        """Some rows from a place on, so many or of so many bytes at most. A flipped bit in a row's
        number may put it out of order: then what stands behind it is not found by its number, so
        one row more is looked at, and the whole page is refused. Nor is it always the rows from
        that place on that SQLite finds there: what stands before it is damage too, for a scan that
        took it would go around for ever."""
        page: list[_Row] = []
        left = size
        before, key_before = -1, b""
        statement = _SCAN_CROWDED if self._crowded else _SCAN
        try:
            cursor = self._reader.execute(statement, (id_, floor))
            try:
                for row in cursor:
                    at = row[0]
                    # A flipped bit in a row's header changes the type of a column.
                    key = row[1] if type(row[1]) is bytes else b""
                    is_next = at > before or (at == before and self._may_share(at, key_before, key))
                    if at < id_ or not is_next:
                        raise CorruptRecord(
                            f"{self._path}: row {at} is out of order behind row {max(id_, before)}"
                        )
                    if before > last_id:
                        break
                    before, key_before = at, key
                    if at > last_id:
                        continue
                    stored = row[2] if type(row[2]) is bytes else b""
                    page.append((at, key, stored))
                    left -= len(stored)
                    if left <= 0 or len(page) == rows:
                        break
            finally:
                cursor.close()  # ends the read transaction
        except sqlite3.Error as exc:
            raise CorruptRecord(
                f"{self._path}: cannot read the records from row {id_} on: {exc}"
            ) from exc
        return page

    def _may_share(self, id_: int, first: bytes, second: bytes) -> bool:
        """May these keys have the same number, in this order?"""
        return id_ in self._crowded and first < second

    def _count(self) -> int:
        pages = self._ask("PRAGMA page_count") - self._ask("PRAGMA freelist_count")
        if pages <= _EXACT_COUNT_PAGES:
            return self._ask("SELECT count(*) FROM record WHERE id >= 0") + self._ask(
                "SELECT count(*) FROM overflow"
            )
        rows, size = 0, 0.0
        for id_ in range(0, 1 << 63, 1 << 57):  # 64 places around the ring
            sample = self._reader.execute(_SAMPLE, (id_,)).fetchone()
            rows, size = rows + sample[0], size + sample[1]
        # Pages filled in random order are four fifths full (200,000 records of 1 KiB: 0.79).
        filled = 0.8 * pages * self._ask("PRAGMA page_size")
        others = sqlite_hints.hint_bytes(self._reader) + self._ask(_SUMS_BYTES)
        taken = max(0.0, filled - others)
        return int(taken * rows / size) if rows else 0

    def _ask(self, query: str) -> int:
        return int(self._reader.execute(query).fetchone()[0])

    def _read_crowded(self) -> set[int]:
        return {id_ for (id_,) in self._reader.execute("SELECT DISTINCT id FROM overflow")}


def _remedy(exc: BaseException) -> str:
    """What to do about a file whose structure is damaged; nothing is known of other errors."""
    codes = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    if (getattr(exc, "sqlite_errorcode", 0) & 0xFF) not in codes:
        return ""
    return "; dynagent store rebuild keeps what can be read, and the cluster heals the rest"


def _chunks(rows: list[_Row]) -> Iterator[list[_Row]]:
    chunk: list[_Row] = []
    size = 0
    for row in rows:
        if chunk and (len(chunk) == ROWS_MAX or size + len(row[2]) > _CHUNK_BYTES_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += len(row[2])
    if chunk:
        yield chunk
