"""The tie between the identity file and the engine: is this the store that was last written?

The engine holds a row with the store id, the run and whether the run has stopped; the identity file
holds the same. The row is written first, at the start and at the clean stop of each run, so it is
never behind the identity, and after a crash in between one step ahead. Hence an engine that lacks
the row or has another id was swapped, one that is behind was rolled back or lost commits, and one
without a log, although its run did not end by closing it, lost that.

What a rollback within one run leaves is the walk's business (`sqlite_log`, `rocksdb_log`).

The row also says that its release keeps the sums of the trees (`core.sums`). After a run of one
that does not, whatever there is of their journal is out of date: it loses its head.
"""

from pathlib import Path
from typing import NamedTuple

from dynagent.core.encoding import decode, encode
from dynagent.core.ports import Batch
from dynagent.core.sums import HEAD
from dynagent.errors import CorruptRecord, ProtocolError, StoreLost
from dynagent.store.identity import Identity
from dynagent.store.protocol import Store

ROW = "store"  # the named row of the engine
_REMEDY = (
    "put the right one back; or dynagent store rebuild keeps what can be read, and the cluster"
    " heals the rest; or move the directory away and start as a new node, which the cluster refills"
)


class Mark(NamedTuple):
    """What the engine knows of the identity."""

    store_id: str  # 32 hex digits
    run: int
    stopped: bool  # nothing of this run was written after this mark


def write_mark(store: Store, mark: Mark) -> None:
    """Makes the mark durable; raises `StoreFailed`."""
    batch = Batch(0)
    batch.meta.append((ROW, encode([*mark, True])))
    if not _keeps_sums(store):
        batch.sums.append((HEAD, b""))
    store.write(batch)


def _keeps_sums(store: Store) -> bool:
    """Was the newest mark written by a release that does?"""
    fields = decode(store.get_meta(ROW) or encode([]))
    return type(fields) is list and fields[3:4] == [True]


def check_bound(file: Path, store: Store, identity: Identity, *, had_log: bool) -> str:
    """The store id if `store` is the one that the run in `identity` wrote, "" if it has none yet.

    `file` is the engine's, for the message; `had_log`: it had a log before it was opened. Raises
    `StoreLost` for any other store.
    """
    mark = _read_mark(file, store)
    if not identity.store_id:  # never started, or last by a release that knew no store ids
        return mark.store_id if mark else ""
    if mark is None or mark.store_id != identity.store_id:
        raise StoreLost(f"{file} is not the store of node {identity.node_id}; {_REMEDY}")
    # Tuples compare in order: run 3 started, run 3 stopped, run 4 started.
    if (mark.run, mark.stopped) < (identity.run, identity.clean_stop):
        raise StoreLost(
            f"{file} was rolled back or lost its end: it ends in run {mark.run} of node"
            f" {identity.node_id}, which was last in run {identity.run}; {_REMEDY}"
        )
    ended = identity.closing or mark.stopped or mark.run > identity.run
    if not ended and not had_log:
        raise StoreLost(
            f"{file} lost its log: node {identity.node_id} crashed in run {mark.run}, and what it"
            f" wrote last was there (did another program open it since?); {_REMEDY}"
        )
    return mark.store_id


def _read_mark(file: Path, store: Store) -> Mark | None:
    try:
        row = store.get_meta(ROW)
        if row is None:
            return None
        match decode(row):
            case [str(store_id), int(run), bool(stopped), *_]:
                return Mark(store_id, run, stopped)
            case _:
                raise CorruptRecord("an unknown form")
    except (CorruptRecord, ProtocolError) as exc:
        raise StoreLost(f"{file}: cannot read which store it is: {exc}; {_REMEDY}") from exc
