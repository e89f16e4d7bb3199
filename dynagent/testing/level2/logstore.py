"""A store engine for the simulated disk: one append-only log, one write and one fsync a batch.

A batch is a header (magic, sequence number, length, checksum over all of it), then records, meta
rows and hint rows one after the other. Where each newest record lies is kept in memory; what a get
returns is read from the file, so rot is seen.

Opening walks the log. It ends at the first batch that is not whole: that is the tail which a power
cut tore, and it is cut off. But if a later batch stands whole behind a bad one, then something was
lost that had been acknowledged, and the store refuses to open (design §3, as `store.sqlite_log`).
Before it looks, it makes durable what a dead process may have left in the cache, and lets the cache
go: it must serve nothing that the disk does not hold.
"""

from __future__ import annotations

import errno
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

from dynagent.core.ports import Batch, NodeId, Token
from dynagent.errors import DataDirError, DiskFull, Refused, StoreFailed
from dynagent.store.markers import Hint, Markers
from dynagent.testing.level2.disk import SimDisk
from dynagent.testing.world import World

FILE_NAME = "store.log"
_MAGIC = b"\x93log"
_HEADER = struct.Struct(">4sQII16s")  # magic, sequence, payload bytes, rows, checksum
_ROW = struct.Struct(">16sHI")  # token, key bytes, stored bytes
# In the place of the token; no key has such a one: blake2b would have to be unlucky.
_META_ROW = Token(b"\xff" * 8 + b"meta row")  # name, value
_HINT_ROW = Token(b"\xff" * 8 + b"hint row")  # target ‖ 0 ‖ token ‖ key; owed or b""
_SUMS_ROW = Token(b"\xff" * 8 + b"sums row")  # number (4 bytes), value
_OWED = b"owed"

Place = tuple[int, int]  # offset and size of a stored form in the file


class LogStore:
    """A `Store` on a `SimDisk`."""

    name = "log"
    is_log_long = False

    def __init__(self, disk: SimDisk, file: str = FILE_NAME) -> None:
        self._disk = disk
        self._file = file
        self._failed = ""
        self._records: dict[tuple[Token, bytes], Place] = {}
        self._meta: dict[str, Place] = {}
        self._sums: dict[int, Place] = {}
        self._markers = Markers()
        self._sorted: list[tuple[Token, bytes]] | None = None
        self._sequence = 0
        self._end = 0
        try:
            self._recover()
        except OSError as exc:
            raise DataDirError(f"{file}: cannot open it: {exc.strerror}") from exc

    @classmethod
    def load(cls, path: Path) -> LogStore:
        """The store that `snapshot` wrote to `path`."""
        disk = SimDisk(World(0).stream("copy"))
        disk.create(FILE_NAME)
        disk.write(FILE_NAME, 0, path.read_bytes())
        return cls(disk)

    # --- reading ---------------------------------------------------------------------------------

    def get(self, token: Token, key: bytes) -> bytes | None:
        place = self._records.get((token, key))
        return None if place is None else self._disk.read(self._file, *place)

    def read_ahead(self, places: Sequence[tuple[Token, bytes]]) -> Sequence[bytes | None]:
        return [self.get(*place) or b"" for place in places]

    def get_meta(self, name: str) -> bytes | None:
        place = self._meta.get(name)
        return None if place is None else self._disk.read(self._file, *place)

    def sums(self) -> list[tuple[int, bytes]]:
        return [
            (number, self._disk.read(self._file, *place)) for number, place in self._sums.items()
        ]

    def scan(self, first: Token, last: Token) -> Iterator[tuple[Token, bytes, bytes]]:
        if self._sorted is None:
            self._sorted = sorted(self._records)
        order = self._sorted  # a write beside this scan replaces the list, it never changes it
        for position in range(bisect_left(order, (first, b"")), len(order)):
            token, key = order[position]
            if token > last:
                return
            stored = self.get(token, key)
            if stored is not None:
                yield token, key, stored

    def hints(self, target: NodeId, after: bytes, count: int) -> list[tuple[Token, bytes]]:
        return self._markers.read(target, after, count)

    def has_hint(self, target: NodeId, token: Token, key: bytes) -> bool:
        return self._markers.has(target, token, key)

    def hint_counts(self) -> dict[NodeId, int]:
        return self._markers.counts()

    def count(self) -> int:
        return len(self._records)

    def places(self) -> list[tuple[bytes, Place]]:
        """Key and place of the newest stored forms but for the last batch's: rot there would look
        like a torn tail."""
        found = self._records.items()
        return sorted((key, place) for (_, key), place in found if place[0] < self._last_begin)

    # --- writing ---------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        if self._failed:
            raise StoreFailed(f"{self._file}: an earlier write failed ({self._failed}); restart")
        rows = [(token, key, stored) for token, key, stored in batch.records]
        rows += [(token, key, b"") for token, key in batch.strays]
        rows += [(_META_ROW, name.encode(), stored) for name, stored in batch.meta]
        rows += [(_SUMS_ROW, number.to_bytes(4, "big"), row) for number, row in batch.sums]
        for target, token, key, owed in batch.hints:
            place = b"%b\0%b%b" % (target.encode(), token, key)
            rows.append((_HINT_ROW, place, _OWED if owed else b""))
        data = _encode(self._sequence + 1, rows)
        try:
            self._append(data)
        except OSError as exc:
            self._failed = exc.strerror or str(exc)
            raise StoreFailed(f"{self._file}: batch {batch.number} failed: {exc.strerror}") from exc
        self._take(data, self._end)

    def _append(self, data: bytes) -> None:
        try:
            self._disk.write(self._file, self._end, data)
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
            self._disk.truncate(self._file, self._end)
            raise DiskFull(f"{self._file}: no room for {len(data)} bytes") from exc
        self._disk.fsync(self._file)

    def fold_log(self) -> None:
        """It is never folded."""

    def snapshot(self, path: Path) -> None:
        if path.exists():
            raise Refused(f"{path} exists; name a file that does not")
        path.write_bytes(self._disk.read(self._file, 0, self._end))

    def close(self) -> None:
        pass

    # --- the log ---------------------------------------------------------------------------------

    def _recover(self) -> None:
        disk, file = self._disk, self._file
        if not disk.exists(file):
            disk.create(file)
            disk.sync_names()
        disk.fsync(file)
        disk.evict(file)
        data = disk.read(file, 0, disk.size(file))
        self._last_begin = 0
        while (size := _whole_batch(data, self._end, self._sequence + 1)) > 0:
            self._take(data[self._end : self._end + size], self._end)
        at = self._end
        while (at := data.find(_MAGIC, at + 1)) >= 0:
            if _whole_batch(data, at, None):
                raise DataDirError(
                    f"{file}: damaged at byte {self._end}: a later batch stands whole behind it;"
                    " move the data directory away and start as a new node"
                )
        if self._end < len(data):
            disk.truncate(file, self._end)

    def _take(self, data: bytes, begin: int) -> None:
        """A batch is durable: from here on it is what readers see."""
        found: dict[tuple[Token, bytes], Place] = {}
        meta: dict[str, Place] = {}
        sums: dict[int, Place] = {}
        hints: list[Hint] = []
        gone: list[tuple[Token, bytes]] = []
        at = _HEADER.size
        while at < len(data):
            token, key_bytes, stored_bytes = _ROW.unpack_from(data, at)
            key_at = at + _ROW.size
            at = key_at + key_bytes + stored_bytes
            key = data[key_at : key_at + key_bytes]
            place = (begin + key_at + key_bytes, stored_bytes)
            if token == _META_ROW:
                meta[key.decode()] = place
            elif token == _SUMS_ROW:
                sums[int.from_bytes(key, "big")] = place
            elif token == _HINT_ROW:
                target, _, owed_place = key.partition(b"\0")
                owed_token = Token(owed_place[:16])
                owed = stored_bytes > 0
                hints.append((NodeId(target.decode()), owed_token, owed_place[16:], owed))
            elif stored_bytes:
                found[Token(token), key] = place
            else:
                gone.append((Token(token), key))
        self._records.update(found)  # one step of the interpreter, for readers on other threads
        for lost in gone:
            self._records.pop(lost, None)
        self._meta.update(meta)
        self._sums.update(sums)
        self._markers.apply(hints)
        self._sorted = None
        self._sequence += 1
        self._last_begin = begin
        self._end = begin + len(data)


def _encode(sequence: int, rows: list[tuple[Token, bytes, bytes]]) -> bytes:
    parts: list[bytes] = []
    for token, key, stored in rows:
        parts += (_ROW.pack(token, len(key), len(stored)), key, stored)
    payload = b"".join(parts)
    checksum = _checksum(sequence, len(rows), payload)
    return _HEADER.pack(_MAGIC, sequence, len(payload), len(rows), checksum) + payload


def _checksum(sequence: int, rows: int, payload: bytes) -> bytes:
    return blake2b(payload, digest_size=16, key=b"%d/%d" % (sequence, rows)).digest()


def _whole_batch(data: bytes, at: int, sequence: int | None) -> int:
    """The size of the good batch at this place (of that sequence number); 0 if there is none."""
    if len(data) - at < _HEADER.size:
        return 0
    magic, found, size, rows, checksum = _HEADER.unpack_from(data, at)
    payload = data[at + _HEADER.size : at + _HEADER.size + size]
    is_good = (
        magic == _MAGIC
        and len(payload) == size
        and (sequence is None or found == sequence)
        and checksum == _checksum(found, rows, payload)
    )
    return _HEADER.size + size if is_good else 0
