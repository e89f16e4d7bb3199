"""The last sequence number that was synced, in a file that is itself synced only at the end.

One small write to the page cache after each commit (1 µs beside the 200 of the fsync). After a
crash of the process the number is exact; after a power cut it may be of any age. Whatever it says
is true, because it is written after the fsync of what it speaks of: an engine that ends before it
has lost commits. SQLite keeps such a file itself, the index of its log.
"""

import os
import struct
from pathlib import Path
from zlib import crc32

_RECORD = struct.Struct("<QI")  # the number and its checksum: in one sector, so never half-written


def read_seen(path: Path) -> int:
    """The number in the file, 0 if it is absent, empty or torn."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return 0
    if len(data) != _RECORD.size:
        return 0
    number, checksum = _RECORD.unpack(data)
    return int(number) if crc32(data[:8]) == checksum else 0


class SeenFile:
    """The file of one open store; raises `OSError` where the system does."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)

    def write(self, number: int) -> None:
        data = number.to_bytes(8, "little")
        os.pwrite(self._file, data + crc32(data).to_bytes(4, "little"), 0)

    def close(self) -> None:
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)
