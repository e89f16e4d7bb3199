"""The walk of SQLite's log before SQLite opens it: was its tail torn, or is it damaged?

SQLite reads its log up to the first frame that does not verify and forgets the rest. That is right
for the tail of a commit that never returned, and silently drops acknowledged commits where a bit
has flipped. This module reads `store.sqlite-wal` by its documented format
(https://sqlite.org/fileformat2.html#the_write_ahead_log), without the library, and refuses a log
that is damaged. Decision 0005 has the argument and the enumeration; in short:

    header   magic, format, page size, checkpoint number, 2 salts, 2 checksums           32 bytes
    frame    page number, database size (0: not a commit), 2 salts, 2 checksums, page    24 + page

A frame verifies if its salts are those of the header and its checksums continue those of the frame
before it. A later frame is judged by the *stored* checksums of the one before, so it can be known
to be good although that one is bad. Each commit is fsynced before the next one is written, and a
disk tears whole sectors. Hence a bad frame is damage, not a tear, if

- a later commit holds a good frame: that was written after this one was on the disk;
- the index of the log (`store.sqlite-shm`), which SQLite updates after the fsync, knew a later one;
- its checksum would hold if one word of the frame were another: a tear is not that small;
- one of its salts is right: both lie in one sector, and an older frame shares neither.

What is left is a tear: SQLite drops it, and `sqlite_file` starts a new log before anything else is
written, so that no rest of it ever stands behind a later commit.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path

from dynagent.errors import DataDirError
from dynagent.store.files import damaged, reason

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682  # its lowest bit: the checksums read big-endian words
_FORMAT = 3_007_000
_WORD = 0xFFFFFFFF
# Of the index, twice: 3 words, flags, page size, frames, pages, 2 checksums of the last frame, 2
# salts as they stand in the log, 2 checksums of these 40 bytes. In the order of the machine.
_INDEX = struct.Struct("=3I2BHII8x8s2I")

_Sums = tuple[int, int]


def log_path(path: Path) -> Path:
    """Where SQLite keeps the log of the database at `path`."""
    return path.with_name(path.name + "-wal")


def find_logs(path: Path) -> list[Path]:
    """It, if it is there."""
    log = log_path(path)
    return [log] if log.exists() else []


def check_log(path: Path) -> None:
    """Returns if SQLite will find every acknowledged commit in the log of the store at `path`.

    There may be no log. Reads only; raises `DataDirError`, which names file and offset, if the log
    is damaged or cannot be read.
    """
    log = log_path(path)
    try:
        with log.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _HEADER.size:
                return  # created or emptied, and not written since
            if size > _HEADER.size and (not path.exists() or path.stat().st_size == 0):
                # SQLite would delete the log of an empty database.
                raise damaged(path, 0, "it is gone or empty, but its log is there")
            walk = _Walk(log, size, file.read(_HEADER.size), _read_index(path))
            walk.run(file.read)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise DataDirError(f"{log}: cannot read it: {reason(exc)}") from exc


class _Walk:
    """One pass over the frames, one frame at a time."""

    def __init__(self, log: Path, size: int, header: bytes, index: bytes) -> None:
        self._log = log
        magic, format_, page_bytes, _, _, _, *sums = _HEADER.unpack(header)
        self._salts = header[16:24]
        self._sums: _Sums = (sums[0], sums[1])
        self._order = ">" if magic & 1 else "<"
        self._frame_bytes = _FRAME.size + page_bytes
        self._slots = (size - _HEADER.size) // self._frame_bytes
        self._frames_known = _frames_known(index, self._salts)
        whole = (
            magic | 1 == _MAGIC | 1
            and format_ == _FORMAT
            and self._checksum(header[:24], (0, 0)) == self._sums
        )
        # SQLite syncs the header before it writes the first frame, and it lies in one sector: it
        # cannot be torn, except that a new file may have its size before its content.
        if not whole and (any(header) or size > _HEADER.size):
            raise damaged(log, 0, "the header of the log does not match its checksum")

    def run(self, read: Callable[[int], bytes]) -> None:
        """Reads all frames; raises `DataDirError` at the first evidence of damage."""
        before = self._sums  # as stored in the frame before, be that one good or bad
        committed = 0  # frames up to the last good commit of the unbroken beginning
        bad: int | None = None
        commit_since_bad = False
        for number in range(self._slots):
            frame = read(self._frame_bytes)
            _, size_after, _, _, *sums = _FRAME.unpack_from(frame)
            ours = frame[8:16] == self._salts
            content = frame[:8] + frame[_FRAME.size :]
            computed = self._checksum(content, before) if ours else None
            good = computed == (sums[0], sums[1])
            if bad is None and good:
                committed = number + 1 if size_after else committed
            elif bad is None:
                bad = number
                self._judge(number, frame, computed)
            elif good and commit_since_bad:
                raise self._damaged(bad, "a later commit stands whole behind it")
            commit_since_bad |= bad is not None and ours and size_after > 0
            before = (sums[0], sums[1])
        if committed < self._frames_known:
            raise self._damaged(committed, f"{self._frames_known} frames were committed")

    def _judge(self, number: int, frame: bytes, computed: _Sums | None) -> None:
        """Raises if the first bad frame, seen alone, cannot be the work of a power cut."""
        if computed is None:
            if frame[8:12] == self._salts[:4] or frame[12:16] == self._salts[4:]:
                raise self._damaged(number, "one of its salts is wrong and the other right")
            return  # of the log before this one: here the commits end
        _, _, _, _, *stored = _FRAME.unpack_from(frame)
        pairs = (self._frame_bytes - 16) // 8
        off = ((stored[0] - computed[0]) & _WORD, (stored[1] - computed[1]) & _WORD)
        if 0 in off or _is_one_word(off, pairs):
            raise self._damaged(number, "a single word of it is wrong")

    def _damaged(self, number: int, what: str) -> DataDirError:
        return damaged(self._log, _HEADER.size + number * self._frame_bytes, what)

    def _checksum(self, data: bytes, sums: _Sums) -> _Sums:
        # About 50 µs for a frame of 4 KiB, so 50 ms for the log of the default checkpoint interval,
        # and only after a crash: a clean stop leaves no log.
        one, two = sums
        words = iter(struct.unpack(f"{self._order}{len(data) // 4}I", data))
        for even, odd in zip(words, words, strict=True):
            one = (one + even + two) & _WORD
            two = (two + odd + one) & _WORD
        return one, two


def _is_one_word(off: _Sums, pairs: int) -> bool:
    """Whether changing one word of a frame can shift its checksums by `off`.

    The checksum is linear: a word that is d too large makes the two sums of its own step too large
    by (d, d) if it is the even word, by (0, d) if it is the odd one, and every later step takes
    (a, b) to (a + b, a + 2b). So the steps are undone, from the last one back, until such a pair
    appears.
    """
    one, two = off
    for _ in range(pairs):
        if one in (0, two):
            return True
        one, two = (2 * one - two) & _WORD, (two - one) & _WORD
    return False


def _read_index(path: Path) -> bytes:
    try:
        with path.with_name(path.name + "-shm").open("rb") as file:
            return file.read(2 * _INDEX.size)
    except FileNotFoundError:
        return b""


def _frames_known(index: bytes, salts: bytes) -> int:
    """How many frames of the log with these salts were committed, as far as its index knows.

    SQLite maps the index and never syncs it: after a power cut it may be of any age or torn. A copy
    that verifies is true nevertheless, because it is written after the fsync of what it speaks of.
    """
    known = 0
    for at in range(0, len(index) - _INDEX.size + 1, _INDEX.size):
        copy = index[at : at + _INDEX.size]
        *_, frames, _, index_salts, one, two = _INDEX.unpack(copy)
        words = struct.unpack("=10I", copy[:40])
        sums = (0, 0)
        for even, odd in zip(words[::2], words[1::2], strict=True):
            first = (sums[0] + even + sums[1]) & _WORD
            sums = (first, (sums[1] + odd + first) & _WORD)
        if index_salts == salts and sums == (one, two):
            known = max(known, frames)
    return known
