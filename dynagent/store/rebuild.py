"""A new engine from what can be read of a damaged one: `dynagent store rebuild`.

An agent refuses a store whose log or header is damaged, and cannot heal a file whose structure is:
its next write may fail. This sets the damaged engine aside and makes a new one of everything that
can still be read, under the same identity. What could not be read is unknown, not absent:

    every partition   hollow: "no record" is no answer until N−W+1 other owners have been listed
    a record          as it was; a rotten one waits to be healed like any other
    if the log was    every record is flagged unknown as well, since it may be an old version: none
    lost too          counts before it has been merged with N−W+1 others. So it is if the engine is
                      whole but not the one that the node wrote last (`binding`)

So the node never answers for what it has forgotten, and the cluster refills it by itself
(`core.heal`). It mints no dot under an old mark: the stop counts as unclean. The ring, if its row
is lost, comes from another agent (`--from`); who this node is stands in the identity file, without
which the member has to be replaced.

The damaged engine stays beside the new one, as `….damaged-1`, for whoever wants to look.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dynagent import limits
from dynagent.core import acceptor, barriers, stamps
from dynagent.core.entry import decode_stored, encode_stored
from dynagent.core.hints import ROW as HINTS_ROW
from dynagent.core.logrows import RING_ROW
from dynagent.core.logrows import row_names as log_row_names
from dynagent.core.ports import Batch, Dice, PartitionId
from dynagent.core.ring import Ring, token_of
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.core.salvage import Gap, salvage
from dynagent.core.scrub import ROW as SCRUB_ROW
from dynagent.core.unknown import ROW as UNKNOWN_ROW
from dynagent.core.unknown import encode_row
from dynagent.errors import (
    CorruptRecord,
    DataDirError,
    DynagentError,
    ProtocolError,
    StoreFailed,
    StoreLost,
)
from dynagent.store.binding import Mark, check_bound, write_mark
from dynagent.store.datadir import ENGINES, lock_stopped
from dynagent.store.files import fsync_path
from dynagent.store.identity import Identity, IdentityFile
from dynagent.store.protocol import Store

_CHUNK_ROWS = 1_000
_CHUNK_BYTES = 4 * limits.MIB
_SQLITE_PAGE = 4_096
_TARGETS_MAX = 1 << 20  # hints of one target, read at once


class Rebuilt(NamedTuple):
    """What was done. `gaps`: ranges that could not be read; `strays`: rows left behind."""

    kind: str
    records: int
    gaps: int
    strays: int
    log_lost: bool
    set_aside: str


def rebuild(path: Path, *, dice: Dice, ring: Ring | None = None) -> Rebuilt:
    """`ring`: that of another agent, for a store that has lost its own. Raises `Refused` if an
    agent uses the directory, `DataDirError` if that cannot be done."""
    lock = lock_stopped(path)
    try:
        identity_file = IdentityFile.open_or_create(path, dice=dice, engine="sqlite")
        value = identity_file.value
        if ring is not None and ring.cluster_id != value.cluster_id:
            raise DataDirError(f"{path} is of another cluster than the agent named by --from")
        engine = ENGINES[value.engine]
        file, new = path / engine.file_name, path / f"{engine.file_name}.rebuilt"
        aside = _set_aside(file)
        for stale in path.glob(f"{new.name}*"):
            _remove(stale)
        old, log_lost = _open_damaged(aside, value, needs_ring=ring is None)
        try:
            known = ring or _read_ring(aside, old)
            store = engine.open(new)
            try:
                done = _copy(old, store, known, flagged=log_lost)
                write_mark(store, Mark(value.store_id, value.run, stopped=True))
            finally:
                store.close()
        finally:
            _let_go(old)
        identity_file.write(replace(value, clean_stop=False, closing=True))
        _move_in(new, file)
        return done._replace(log_lost=log_lost, set_aside=str(aside))
    finally:
        os.close(lock)


# --- files ---------------------------------------------------------------------------------------


def _set_aside(file: Path) -> Path:
    """The damaged engine under its new name; one of an earlier try that was cut short."""
    number, last = 1, None
    while (aside := file.with_name(f"{file.name}.damaged-{number}")).exists():
        number, last = number + 1, aside
    if not file.exists():
        if last is None:
            raise DataDirError(
                f"{file} is gone, so there is nothing to rebuild from:"
                " the member has to be replaced"
            )
        return last
    for beside in ("-wal", "-shm", ".seen"):
        with suppress(FileNotFoundError):
            file.with_name(file.name + beside).rename(aside.with_name(aside.name + beside))
    file.rename(aside)
    fsync_path(file.parent)
    return aside


def _move_in(new: Path, file: Path) -> None:
    for beside in ("-wal", "-shm", ".seen"):
        with suppress(FileNotFoundError):
            new.with_name(new.name + beside).rename(file.with_name(file.name + beside))
    new.rename(file)
    fsync_path(file.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _remove(child)
        path.rmdir()
    else:
        path.unlink()


# --- opening what is damaged ---------------------------------------------------------------------


def _open_damaged(aside: Path, identity: Identity, *, needs_ring: bool) -> tuple[Store, bool]:
    """The damaged engine, opened by the first means that helps; has it lost its log?"""
    engine = identity.engine
    had_log = bool(ENGINES[engine].find_logs(aside))
    attempts: list[tuple[bool, Callable[[Path], None]]] = [(False, lambda _path: None)]
    if engine == "sqlite":
        attempts += [(True, _drop_sqlite_log), (True, _renew_first_page)]
    else:
        attempts += [(True, _drop_rocksdb_logs), (True, _repair_rocksdb)]
    problem = ""
    for log_lost, prepare in attempts:
        try:
            prepare(aside)
            store = ENGINES[engine].open(aside)
        except DynagentError as exc:
            problem = exc.message
            continue
        if not needs_ring or _can_tell_its_ring(store):
            return store, log_lost or _lacks_commits(aside, store, identity, had_log=had_log)
        problem = f"{aside}: its ring cannot be read; say --from HOST:PORT of another agent"
        _let_go(store)
    raise DataDirError(problem)


def _lacks_commits(aside: Path, store: Store, identity: Identity, *, had_log: bool) -> bool:
    """It opens; but is it what the node wrote last? An earlier try that was cut short may have put
    the log away as well."""
    if any(aside.parent.glob(f"{aside.name}.lost*")) or any(aside.glob("*.log-lost")):
        return True
    try:
        check_bound(aside, store, identity, had_log=had_log)
    except StoreLost:
        return True
    return False


def _let_go(store: Store) -> None:
    """An engine that flushes or compacts when it is closed may meet the very damage that it is
    rebuilt for: what could be read of it has been read."""
    with suppress(StoreFailed):
        store.close()


def _can_tell_its_ring(store: Store) -> bool:
    try:
        return store.get_meta(RING_ROW) is not None
    except CorruptRecord:
        return False


def _drop_sqlite_log(aside: Path) -> None:
    for beside in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            log = aside.with_name(aside.name + beside)
            log.rename(aside.with_name(f"{aside.name}.lost{beside}"))


def _renew_first_page(aside: Path) -> None:
    """SQLite's header and table of tables stand in the first page, and are the same in every store
    but for the file's size and its free pages, which a reader can do without."""
    model = aside.with_name(aside.name + ".model")
    ENGINES["sqlite"].open(model).close()
    page = bytearray(model.read_bytes()[:_SQLITE_PAGE])
    _remove(model)
    with aside.open("r+b") as file:
        first = file.read(_SQLITE_PAGE)
        aside.with_name(aside.name + ".page1").write_bytes(first)
        page[28:32] = (aside.stat().st_size // _SQLITE_PAGE).to_bytes(4, "big")
        page[32:40] = bytes(8)
        page[92:96] = page[24:28]
        file.seek(0)
        file.write(page)
    if not _is_sqlite(aside):
        raise DataDirError(f"{aside}: not to be opened even with a new first page")


def _is_sqlite(file: Path) -> bool:
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            connection.execute("SELECT count(*) FROM meta").fetchone()
        finally:
            connection.close()
    except sqlite3.Error:
        return False
    return True


def _drop_rocksdb_logs(aside: Path) -> None:
    with suppress(FileNotFoundError):
        aside.with_name(aside.name + ".seen").unlink()  # it knows of commits that were in there
    for log in aside.glob("*.log"):
        log.rename(log.with_suffix(".log-lost"))


def _repair_rocksdb(aside: Path) -> None:
    from rocksdict import Options, Rdict

    try:
        Rdict.repair(str(aside), Options(raw_mode=True))
    except Exception as exc:  # rocksdict raises no narrower one
        raise DataDirError(f"{aside}: RocksDB cannot repair it: {exc}") from exc


def _read_ring(aside: Path, store: Store) -> Ring:
    try:
        return decode_ring(store.get_meta(RING_ROW) or b"")
    except (CorruptRecord, ProtocolError) as exc:
        raise DataDirError(
            f"{aside}: its ring is damaged; say --from HOST:PORT of another agent"
        ) from exc


# --- copying -------------------------------------------------------------------------------------


def _copy(old: Store, new: Store, ring: Ring, *, flagged: bool) -> Rebuilt:
    records = gaps = strays = 0
    batch = Batch(1)
    size = 0
    for row in salvage(old.scan):
        if isinstance(row, Gap):
            gaps += 1
            continue
        token, key, stored = row
        if not key or token != token_of(key) or not stored:
            strays += 1
            continue
        records += 1
        size += len(stored)
        batch.records.append((token, key, _flagged(ring, key, stored) if flagged else stored))
        if len(batch.records) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
            new.write(batch)
            batch, size = Batch(batch.number + 1), 0
    batch.meta += _rows(old, [HINTS_ROW, SCRUB_ROW, *barriers.row_names(ring.partitions)])
    batch.meta += stamps.rows_at(ring, dict(_rows(old, stamps.row_names(ring.partitions))))
    batch.meta += _rows(old, log_row_names())
    batch.meta.append((RING_ROW, encode_ring(ring)))
    batch.meta += _votes(old, flagged=flagged)
    every = {PartitionId(number) for number in range(ring.partitions)}
    batch.meta.append((UNKNOWN_ROW, encode_row(every, every)))
    new.write(batch)
    with suppress(CorruptRecord):  # hints that cannot be read: the copies go home by comparison
        for target in old.hint_counts():
            hints = Batch(0)
            places = old.hints(target, b"", _TARGETS_MAX)
            hints.hints += [(target, token, key, True) for token, key in places]
            new.write(hints)
    return Rebuilt("rebuilt", records, gaps, strays, flagged, "")


def _votes(old: Store, *, flagged: bool) -> list[tuple[str, bytes]]:
    """How this node has voted on the ring log. If that cannot be known it votes no more."""
    if flagged:
        return [(acceptor.ROW, acceptor.LOST)]
    try:
        row = old.get_meta(acceptor.ROW)
    except CorruptRecord:
        return [(acceptor.ROW, acceptor.LOST)]
    return [(acceptor.ROW, row)] if row is not None else []


def _flagged(ring: Ring, key: bytes, stored: bytes) -> bytes:
    """The same copy, unknown: a newer one may have been in the log."""
    try:
        record = decode_stored(stored, cluster_id=ring.cluster_id, key=key)
    except CorruptRecord:
        return stored
    record.unknown = True
    return encode_stored(record, cluster_id=ring.cluster_id, key=key)


def _rows(old: Store, names: list[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        with suppress(CorruptRecord):
            if (row := old.get_meta(name)) is not None:
                yield name, row
