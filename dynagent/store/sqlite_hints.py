"""The table of hints in the SQLite file: its schema, what reads it, what changes it.

A row says that a record, which lies in the table of records, is owed to another node. The primary
key is the whole row, so (token, key) order of one target is the order of the table itself.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import chain

from dynagent.core.ports import NodeId, Token
from dynagent.errors import CorruptRecord

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS hint(target TEXT, token BLOB, key BLOB,"
    " PRIMARY KEY(target, token, key)) WITHOUT ROWID"
)
_ROWS_MAX = 256  # of one statement, as of records: 3 variables a row stay below 999


# Rows of NULL fill a batch up to a power of two. No column of a primary key can be NULL here: they
# are ignored when adding, and equal to nothing when removing.
_SIZES = [1 << bits for bits in range(_ROWS_MAX.bit_length())]
_ADD = {
    size: f"INSERT OR IGNORE INTO hint VALUES {','.join(['(?,?,?)'] * size)}" for size in _SIZES
}
# Each row is a way of its own down the tree; for `IN (VALUES …)` SQLite walks the whole table.
_SAME = "(target = ? AND token = ? AND key = ?)"
_REMOVE = {size: f"DELETE FROM hint WHERE {' OR '.join([_SAME] * size)}" for size in _SIZES}
_READ = (
    "SELECT token, key FROM hint WHERE target = ? AND (token, key) > (?, ?)"
    " ORDER BY token, key LIMIT ?"
)
_HAS = "SELECT 1 FROM hint WHERE target = ? AND token = ? AND key = ?"
_COUNTS = "SELECT target, count(*) FROM hint GROUP BY target"
_SAMPLE = (
    "SELECT total(length(target) + length(token) + length(key)) / count(*)"
    " FROM (SELECT * FROM hint LIMIT 64)"
)
_ROW_OVERHEAD_BYTES = 8  # of the header of a row and its pointer

_Row = tuple[NodeId, Token, bytes]


def write_hints(
    writer: sqlite3.Connection, hints: Iterable[tuple[NodeId, Token, bytes, bool]]
) -> None:
    """Adds and removes, within the transaction that is open."""
    owed = {(target, token, key): owed for target, token, key, owed in hints}  # the last one counts
    for statements, wanted in ((_ADD, True), (_REMOVE, False)):
        for rows in _chunks(sorted(row for row in owed if owed[row] is wanted)):
            size = 1 << (len(rows) - 1).bit_length()
            values: list[str | bytes | None] = list(chain.from_iterable(rows))
            values += [None] * (3 * (size - len(rows)))
            writer.execute(statements[size], values)


def read_hints(
    reader: sqlite3.Connection, target: NodeId, after: bytes, count: int
) -> list[tuple[Token, bytes]]:
    """Raises `CorruptRecord` where a row is damaged, or out of order: who goes on behind such a one
    might go around for ever."""
    rows = reader.execute(_READ, (target, after[:16], after[16:], count)).fetchall()
    before = (after[:16], after[16:])
    for place in rows:
        token, key = place
        # A flipped bit in a row's header changes the type of a column, not only its bytes.
        is_whole = type(token) is bytes and len(token) == 16 and type(key) is bytes
        if not is_whole or place <= before:
            raise CorruptRecord(f"one behind {after.hex() or 'the start'} is damaged")
        before = place
    return rows


def has_hint(reader: sqlite3.Connection, target: NodeId, token: Token, key: bytes) -> bool:
    return reader.execute(_HAS, (target, token, key)).fetchone() is not None


def hint_counts(reader: sqlite3.Connection) -> dict[NodeId, int]:
    counts = dict(reader.execute(_COUNTS).fetchall())
    if not all(type(target) is str for target in counts):
        raise CorruptRecord("the target of a hint is damaged")
    return counts


def hint_bytes(reader: sqlite3.Connection) -> float:
    """What the hints take, about: all are counted (7 ms for a million), and some measured."""
    count = reader.execute("SELECT count(*) FROM hint").fetchone()[0]
    mean = reader.execute(_SAMPLE).fetchone()[0] or 0.0
    return float(count * (mean + _ROW_OVERHEAD_BYTES))


def _chunks(rows: list[_Row]) -> Iterator[list[_Row]]:
    for start in range(0, len(rows), _ROWS_MAX):
        yield rows[start : start + _ROWS_MAX]
