"""The ring log on the disk: the newest ring, and the last entries that it is made of.

    ring            the ring, encoded: what all entries so far have made of the first one
    ringlog/<k>     [index, epoch of the ring onto which it folds, the entry, …] of the last entry
                    whose index is k modulo `limits.LOG_KEPT`

Both are written in one batch, so the log never ends before the ring or behind it. A row per entry
in a circle of rows keeps the log bounded without deleting; the ring is the checkpoint of whatever
came before. Who lacks an entry that is kept no longer is given the ring itself.

Entries are read when somebody asks for them: of those that are kept only the indexes stay in
memory, and they too are read first when they are needed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.ports import Reader
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring
from dynagent.core.ringcodec import encode_ring
from dynagent.errors import ProtocolError

RING_ROW = "ring"
_ROW = "ringlog/"

_Row = tuple[int, int, bytes]  # index, the epoch before it, entry


def row_names() -> list[str]:
    """All rows of entries that there can be."""
    return [_name(index) for index in range(limits.LOG_KEPT)]


class LogRows:
    """The rows of one node. Only what is durable can be read."""

    def __init__(self, replica: Replica, reader: Reader, ring: Ring) -> None:
        self._replica = replica
        self._reader = reader
        self._epoch = ring.epoch  # of the durable ring
        self._chain: list[tuple[int, int]] | None = None  # (index, epoch before it), of all kept
        self._under_way: list[tuple[int, list[_Row], int]] = []  # batch, what it adds, its epoch

    def write(self, ring: Ring, rows: list[_Row]) -> int:
        """The entries and what they make of the ring, in the open batch. Returns its number."""
        for index, before, entry in rows:
            self._replica.keep_row(_name(index), encode([index, before, entry]))
        batch = self._replica.keep_row(RING_ROW, encode_ring(ring))
        self._under_way.append((batch, rows, ring.epoch))
        return batch

    def on_committed(self, batch: int) -> None:
        while self._under_way and self._under_way[0][0] <= batch:
            _, rows, self._epoch = self._under_way.pop(0)
            if not rows:
                self._chain = None  # a ring, in place of entries that nobody keeps
            elif self._chain is not None:
                chain = self._chain + [row[:2] for row in rows]
                self._chain = chain[-limits.LOG_KEPT :]

    def on_refused(self) -> None:
        """Nothing that was under way has come to the disk."""
        self._under_way.clear()

    def reaches(self, after: int) -> bool:
        """Whether all entries behind that one are kept."""
        chain = self._kept()
        return after >= (chain[0][1] if chain else self._epoch)

    def after(self, index: int) -> Iterator[tuple[int, bytes]]:
        """Index and bytes of the entries behind that one that are kept, in order."""
        chain = self._kept()
        for at, _ in chain[bisect_right(chain, (index, index)) :]:
            if (row := self._read(at)) is None:
                return  # it has rotted since it was met
            yield at, row[2]

    def _kept(self) -> list[tuple[int, int]]:
        """Goes back from the newest entry: an index tells of the one before it, which is another
        number where the log was forced (`ringentry.ForcedEntry`)."""
        if self._chain is None:
            chain: list[tuple[int, int]] = []
            at = self._epoch
            while len(chain) < limits.LOG_KEPT and (row := self._read(at)) is not None:
                chain.append(row[:2])
                at = row[1]
            self._chain = chain[::-1]
        return self._chain

    def _read(self, index: int) -> _Row | None:
        data = self._reader.get_meta(_name(index))
        if data is None:
            return None
        try:
            match decode(data):
                case [int(at), int(before), bytes(entry), *_] if at == index > before:
                    return at, before, entry
        except ProtocolError:
            pass  # rotten: as if it were kept no longer
        return None


def _name(index: int) -> str:
    return f"{_ROW}{index % limits.LOG_KEPT}"
