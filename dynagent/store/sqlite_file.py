"""Opening, setting up and copying the SQLite file; `sqlite` has the store itself.

Only the writer checkpoints: two checkpointing connections can corrupt the log of SQLite < 3.51.3.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from dynagent import limits
from dynagent.errors import DataDirError
from dynagent.store import sqlite_hints

FORMAT = 1  # PRAGMA user_version
_APPLICATION_ID = 0x64796E61  # "dyna", for file(1)

# Measured over 10,000 records of 1 KiB (benchmarks/store.py), wall µs per put in batches of 64:
# page size 4096: 21, 8192: 25, 16384: 33. Each put dirties one page, and the log takes it whole.
PAGE_BYTES = 4096
# The writer goes through its cache page by page at each commit that splits one: with 16 MiB that
# was 6 µs of a put over a million keys. With less than this, ten thousand of 100 bytes do not fit.
_CACHE_KIB = 4 * limits.KIB
# From so many pages on the log is folded into the file, 5 ms for this many. Of a larger one commits
# that come meanwhile wait 60 ms (p99) instead of 15.
LOG_PAGES = 1_000
# A log that one burst made large is cut back to this when it starts anew.
_LOG_BYTES_KEPT = 64 * limits.MIB

_SCHEMA = (
    "CREATE TABLE record(id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB NOT NULL)",
    "CREATE TABLE overflow(id INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,"
    " PRIMARY KEY(id, key))",
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    sqlite_hints.SCHEMA,
    f"PRAGMA application_id={_APPLICATION_ID}",
    f"PRAGMA user_version={FORMAT}",
)

Connect = Callable[..., sqlite3.Connection]  # sqlite3.connect, or a test's that injects faults


def open_writer(
    path: Path, connect: Connect, *, synchronous: str, page_bytes: int
) -> sqlite3.Connection:
    """The one connection that writes; creates the file and its tables if they are not there.

    Raises `DataDirError` if the file is another program's, of an unknown format, in use, or on a
    file system without shared memory; `sqlite3.Error` if SQLite cannot open it.
    """
    writer = _open(path, connect)
    try:
        # The first two have effect in a new file only, and only before anything is written.
        _set(writer, page_size=page_bytes, auto_vacuum="INCREMENTAL", synchronous=synchronous)
        new = _is_new(path, writer)
        mode = writer.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise DataDirError(f"{path}: no WAL on this file system ({mode}); use a local disk")
        _set(
            writer,
            wal_autocheckpoint=4 * LOG_PAGES,  # within a commit: only if nobody has folded it
            journal_size_limit=_LOG_BYTES_KEPT,
            cache_size=-_CACHE_KIB,
            temp_store="MEMORY",  # statement journals; otherwise a temporary file for each
            secure_delete="OFF",  # some builds zero what they free
            fullfsync="ON",  # macOS: a plain fsync stops in the drive's cache
            checkpoint_fullfsync="ON",
        )
        if new:
            writer.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                writer.execute(statement)
            writer.execute("COMMIT")
        _start_new_log(path, writer)
        writer.execute(sqlite_hints.SCHEMA)  # for files of before; not into the old log
    except BaseException:
        writer.close()
        raise
    return writer


def open_reader(path: Path, connect: Connect) -> sqlite3.Connection:
    """A connection that can neither write nor checkpoint, to a file that a writer has open."""
    reader = _open(path, connect)
    try:
        _set(reader, query_only="ON", wal_autocheckpoint=0, cache_size=-_CACHE_KIB)
    except BaseException:
        reader.close()
        raise
    return reader


def copy_file(path: Path, target_path: Path, connect: Connect) -> None:
    """A consistent copy of a store that is in use."""
    # All pages in one step: in many, each commit in between would start the copy again. That
    # holds back the checkpoint meanwhile (0.25 s for 200 MiB), and the log grows instead.
    source = open_reader(path, connect)
    try:
        target = connect(target_path)
        try:
            source.backup(target)
        finally:
            target.close()
    finally:
        source.close()


def _open(path: Path, connect: Connect) -> sqlite3.Connection:
    # Opened on one thread and used on another, but never on two at once.
    return connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)


def _set(connection: sqlite3.Connection, **pragmas: int | str) -> None:
    for pragma, value in pragmas.items():
        connection.execute(f"PRAGMA {pragma}={value}").fetchall()


def _start_new_log(path: Path, writer: sqlite3.Connection) -> None:
    """Empties the log that a crash left.

    SQLite would go on in it and overwrite a torn tail in part. Its rest, standing behind later
    commits with the same salts, would look to the walk of `sqlite_log` like a damaged commit.
    """
    busy, _, _ = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise DataDirError(f"{path} is being read by another program; stop that one first")


def _is_new(path: Path, writer: sqlite3.Connection) -> bool:
    version = writer.execute("PRAGMA user_version").fetchone()[0]
    tables = writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version == 0 and tables == 0:
        return True
    if writer.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise DataDirError(f"{path} is the SQLite file of another program; move it away")
    if version != FORMAT:
        raise DataDirError(
            f"{path} has store format {version}, this agent knows {FORMAT}:"
            " start it with the release that wrote it"
        )
    return False
