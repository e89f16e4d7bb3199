"""The walk of RocksDB's logs before RocksDB opens them: was the tail torn, or is it damaged?

As `sqlite_log`, for the other engine, and without its library: RocksDB too takes a flipped bit for
the end of the log. A log is a file `NNNNNN.log` of blocks of 32 KiB; a write batch is one record,
cut into fragments that do not cross a block
(https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format):

    fragment   masked CRC-32C of type and payload, payload bytes, type: 7 bytes; payload
    type       1 full, 2 first, 3 middle, 4 last
    payload    of the first: sequence number, count of operations, operations

Each batch is synced before the next one is written, and `rocksdb` lets no log be recycled, so what
the disk did not write of a log is missing or zero, in whole sectors. Hence a bad fragment is
damage, not a tear, if

- a later record, of a higher sequence number, is whole, here or in a later log;
- the file of the last seen sequence number (`seen`) knows that a later one was synced;
- its checksum would hold if one byte of it, or of its header, were another;
- no sector of what follows is missing or zero.

The manifest, the list of the tables, has the same form and is synced record by record; RocksDB
drops its last record too if a flipped length makes it reach beyond the end of the file.

Decision 0005 has the argument and the enumeration.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dynagent.errors import DataDirError
from dynagent.store.crc32c import crc32c, is_one_byte
from dynagent.store.files import damaged, reason

_BLOCK = 32 << 10
_SECTOR = 512
_HEADER = struct.Struct("<IHB")
_BATCH = struct.Struct("<QI")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_MASK = 0xA282EAD8
_SEQUENCE_MAX = (1 << 56) - 1


class Tail(NamedTuple):
    """How the logs end: `sequence` is the last one in them, 0 if they hold none."""

    sequence: int
    torn: bool


class _Bad(NamedTuple):
    log: Path
    offset: int


def find_logs(path: Path) -> list[Path]:
    """The logs in the directory of a store, oldest first."""
    return sorted(
        (log for log in path.glob("*.log") if log.stem.isdigit()), key=lambda log: int(log.stem)
    )


def check_logs(path: Path, seen: int) -> Tail:
    """How the logs of the store at `path` end; `seen` is a sequence number that was synced.

    Reads only; raises `DataDirError`, which names file and offset, if a log is damaged or cannot be
    read. There may be no logs.
    """
    try:
        _check_manifest(path)
        return _check_logs(path, seen)
    except OSError as exc:
        raise DataDirError(f"{path}: cannot read {exc.filename}: {reason(exc)}") from exc


def _check_manifest(path: Path) -> None:
    current = path / "CURRENT"
    if not current.exists():
        return  # a new store, or RocksDB says it
    manifest = path / current.read_bytes().decode(errors="replace").strip("\0\n/ ")
    if not manifest.is_file():
        return
    walk = _Walk(manifest.read_bytes(), sequences=False)
    if walk.bad is not None and (why := walk.find_damage()):
        raise damaged(manifest, walk.bad, why)


def _check_logs(path: Path, seen: int) -> Tail:
    sequence = 0
    bad: _Bad | None = None
    for log in find_logs(path):
        walk = _Walk(log.read_bytes(), sequences=True)
        if bad is not None and walk.sequence > sequence:
            raise damaged(*bad, f"commits that are later than it stand in {log.name}")
        sequence = max(sequence, walk.sequence)
        if bad is None and walk.bad is not None:
            bad = _Bad(log, walk.bad)
            if why := walk.find_damage():
                raise damaged(*bad, why)
    if bad is not None and sequence < seen:
        raise damaged(*bad, f"commits up to number {seen} were synced, it ends at {sequence}")
    return Tail(sequence, bad is not None)


class _Walk:
    """One log, read up to its first bad fragment, whose offset is `bad`.

    `sequences`: records begin with sequence number and count; those of the manifest do not.
    """

    def __init__(self, data: bytes, *, sequences: bool) -> None:
        self._data = data
        self._sequences = sequences
        self.sequence = 0
        self.bad: int | None = None
        head = b""  # the first bytes of the record under way: sequence number and count
        begun: int | None = None  # where it begins
        for at, end in self._fragments():
            kind = data[at + 6] if end is not None else 0
            if end is None or (kind in (_FULL, _FIRST)) != (begun is None):
                self.bad = at
                return
            begun = at if begun is None else begun
            head += data[at + _HEADER.size : end][: _BATCH.size - len(head)]
            if kind in (_FULL, _LAST):
                if self._sequences and len(head) < _BATCH.size:
                    self.bad = begun
                    return
                if self._sequences:
                    first, count = _BATCH.unpack(head)
                    self.sequence = max(self.sequence, first + count - 1)
                head, begun = b"", None
        if begun is not None:
            self.bad = len(data)

    def find_damage(self) -> str | None:
        """Why the bad fragment cannot be the work of a power cut, or None."""
        at = self.bad
        assert at is not None
        if self._has_later_record(at):
            return "a later record stands whole behind it"
        if self._is_one_byte_off(at):
            return "a single byte of it is wrong"
        if not self._has_unwritten_sector(at):
            return "no part of it is missing"
        return None

    def _fragments(self) -> Iterator[tuple[int, int | None]]:
        """(offset, end) of each fragment; end is None for a bad one, and that is the last."""
        at = 0
        while True:
            left = _BLOCK - at % _BLOCK
            if left < _HEADER.size:  # no header fits: padding, which nobody reads
                at += left
            if at >= len(self._data):
                return
            end = self._end_of(at)
            yield at, end
            if end is None:
                return
            at = end

    def _end_of(self, at: int) -> int | None:
        """Where the fragment at an offset ends, or None if there is no good one."""
        if at + _HEADER.size > len(self._data):
            return None
        stored, size, kind = _HEADER.unpack_from(self._data, at)
        end: int = at + _HEADER.size + size
        if not _FULL <= kind <= _LAST or end > min(self._block_end(at), len(self._data)):
            return None
        return end if _mask(crc32c(self._data[at + 6 : end])) == stored else None

    def _block_end(self, at: int) -> int:
        return at - at % _BLOCK + _BLOCK

    def _has_later_record(self, bad: int) -> bool:
        # The bad fragment may have lost its length, so every place may be the next one. A sequence
        # number that could follow is so rare that next to no checksum is computed in vain.
        data = self._data
        for at in range(bad + 1, len(data) - _HEADER.size - _BATCH.size + 1):
            if data[at + 6] in (_FULL, _FIRST):
                first, _ = _BATCH.unpack_from(data, at + _HEADER.size)
                later = not self._sequences or self.sequence < first <= _SEQUENCE_MAX
                if later and self._end_of(at):
                    return True
        return False

    def _is_one_byte_off(self, at: int) -> bool:
        data = self._data
        if at + _HEADER.size > len(data):
            return False
        stored, size, _ = _HEADER.unpack_from(data, at)
        end_max = min(self._block_end(at), len(data))
        end = at + _HEADER.size + size
        if end <= end_max:
            computed = crc32c(data[at + 6 : end])
            wrong = (_mask(computed) ^ stored).to_bytes(4, "big")
            if wrong.count(0) == 3 or is_one_byte(computed ^ _unmask(stored), end - at - 6):
                return True
        # Or one byte of the length: the checksum of the right length holds as it stands.
        sizes = {size & 0xFF00 | low for low in range(256)} | {
            size & 0xFF | high << 8 for high in range(256)
        }
        expected, checksum, done = _unmask(stored), 0, at + 6
        for end in sorted(at + _HEADER.size + other for other in sizes):
            if end > end_max:
                break
            checksum, done = crc32c(data[done:end], checksum), end
            if checksum == expected:
                return True
        return False

    def _has_unwritten_sector(self, at: int) -> bool:
        data = self._data
        if at + _HEADER.size > len(data):
            return True  # cut within a header, or between two fragments of one record
        size = _HEADER.unpack_from(data, at)[1]
        end = at + _HEADER.size + size
        if end > self._block_end(at):
            return False  # no length is that large, and a missing part makes it smaller
        if end > len(data):
            return True
        while at < len(data):
            sector_end = at - at % _SECTOR + _SECTOR
            if not any(data[at:sector_end]):
                return True
            at = sector_end
        return False


def _mask(checksum: int) -> int:
    """As RocksDB stores it, so that a checksum of data with checksums in it is no special case."""
    return ((checksum >> 15 | checksum << 17) + _MASK) & 0xFFFFFFFF


def _unmask(stored: int) -> int:
    rotated = stored - _MASK & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
