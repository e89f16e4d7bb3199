"""What is wrong with the store of a stopped agent: `dynagent store check`.

Everything that a start, a read or a scrub would find, in one pass and without another agent:

    identity     a copy of the identity is damaged (one of two costs nothing, both a new identity)
    store        an agent would refuse to start on it: log, binding or engine
    structure    the engine's own check of its file (SQLite)
    range        nothing can be read between two tokens
    record       a record does not match its checksum, or its digest its content
    row          a row so damaged that its key is unknown
    misplaced    a record under the token of another key (a misdirected write)
    unknown      a record or a partition that lost its past and waits to be healed
    tree         the sums of a leaf are not those of its records (a lost row, or one too many)

Each finding is one `Finding`. Nothing is changed but the engine's log, which goes into its tables
as at every start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from dynagent.core.entry import decode_stored
from dynagent.core.logrows import RING_ROW
from dynagent.core.ports import Dice
from dynagent.core.ring import Ring, token_of
from dynagent.core.ringcodec import decode_ring
from dynagent.core.salvage import Gap, salvage
from dynagent.errors import CorruptRecord, DataDirError, ProtocolError
from dynagent.store import identity
from dynagent.store.datadir import ENGINES, DataDir
from dynagent.store.files import reason
from dynagent.store.protocol import Store

_HEALS = "start the agent: it is healed from the other owners"
_REBUILD = "dynagent store rebuild DIR"
_STRUCTURE_ROWS = 20  # of SQLite's own check: one damaged page gives hundreds


class Finding(NamedTuple):
    """One thing that is wrong. `key`: of a record; `partition`: where, if that is known."""

    kind: str
    what: str
    remedy: str
    key: bytes = b""
    partition: int | None = None


class Examined(NamedTuple):
    """How much there was to look at."""

    records: int
    value_bytes: int


def examine(path: Path, *, dice: Dice) -> Iterator[Finding | Examined]:
    """All findings, then one `Examined`. Raises `Refused` if an agent uses the directory, and
    `DataDirError` if there is none."""
    yield from _identity(path)
    try:
        data_dir = DataDir.open_stopped(path, dice=dice)
    except DataDirError as exc:
        if not (path / identity.FILE_NAME).exists():
            raise
        yield Finding("store", exc.message, _REBUILD)
        yield Examined(0, 0)
        return
    try:
        store = data_dir.store
        if store.name == "sqlite":
            yield from _structure(path / ENGINES["sqlite"].file_name)
        yield from _records(data_dir)
    finally:
        data_dir.close(clean=False)


def _identity(path: Path) -> Iterator[Finding]:
    file = path / identity.FILE_NAME
    try:
        bad = identity.bad_slots(file)
    except OSError as exc:
        yield Finding("identity", f"{file}: cannot read it: {reason(exc)}", "check the disk")
        return
    if len(bad) == 1:
        yield Finding(
            "identity",
            f"{file}: copy {bad[0] + 1} of the two is damaged",
            "start the agent: it writes both anew",
        )


def _structure(file: Path) -> Iterator[Finding]:
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    try:
        for (line,) in connection.execute(f"PRAGMA integrity_check({_STRUCTURE_ROWS})"):
            if line != "ok":
                yield Finding("structure", f"{file}: {' '.join(line.split())}", _REBUILD)
    except sqlite3.Error as exc:
        yield Finding("structure", f"{file}: {exc}", _REBUILD)
    finally:
        connection.close()


def _records(data_dir: DataDir) -> Iterator[Finding | Examined]:
    store = data_dir.store
    cluster_id = data_dir.identity_file.value.cluster_id
    ring = read_ring(store)
    records = value_bytes = 0
    for row in salvage(store.scan):
        if isinstance(row, Gap):
            what = f"nothing can be read from {row.first.hex()} to {row.last.hex()}: {row.reason}"
            yield Finding("range", what, _REBUILD, partition=_place(ring, row.first))
            continue
        token, key, stored = row
        records += 1
        value_bytes += len(stored)
        partition = _place(ring, token)
        if not key:
            yield Finding("row", f"a row at {token.hex()} has lost its key", _HEALS, b"", partition)
        elif token != token_of(key):
            what = f"it lies at {token.hex()}, but belongs to {token_of(key).hex()}"
            yield Finding("misplaced", what, _HEALS, key, partition)
        elif problem := verify(stored, cluster_id=cluster_id, key=key):
            kind, what = problem
            yield Finding(kind, what, _HEALS, key, partition)
    yield Examined(records, value_bytes)


def verify(stored: bytes, *, cluster_id: bytes, key: bytes) -> tuple[str, str] | None:
    """(kind, what) is wrong with a stored record, or None."""
    try:
        record = decode_stored(stored, cluster_id=cluster_id, key=key)
    except CorruptRecord as exc:
        return "record", exc.message
    if record.digest != blake2b(record.content, digest_size=32).digest():
        return "record", "its digest is not that of its content"
    if record.unknown:
        return "unknown", "it lost its past, and waits to be healed from the other owners"
    return None


def read_ring(store: Store) -> Ring | None:
    """The ring that the store has, None if it has none that can be read."""
    try:
        encoded = store.get_meta(RING_ROW)
        return decode_ring(encoded) if encoded else None
    except (CorruptRecord, ProtocolError):
        return None


def _place(ring: Ring | None, token: bytes) -> int | None:
    return ring.partition_of(token) if ring is not None else None  # type: ignore[arg-type]
