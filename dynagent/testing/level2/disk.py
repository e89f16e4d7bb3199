"""A simulated disk: files whose writes are durable only after an fsync, and the faults of both.

What a process reads is the page cache; what a power cut leaves is the platter. Between them stand
the writes that no fsync has covered. At a power cut each of them is kept, lost, or torn (a prefix,
or any subset of its 512-byte sectors), independently of the others: so they are reordered too. New
names reach the disk in order, as on a journalling file system.

A failed fsync is the nasty one: the kernel reports it once, marks the pages clean and forgets them.
They are still read, a second fsync succeeds, and a power cut brings the old bytes back.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from dynagent.testing.world import Stream

SECTOR_BYTES = 512


class Gone(BaseException):
    """The process of whoever sees this does not exist any more; nobody may handle it."""


def _pass(_point: str) -> None:
    pass


class _File:
    __slots__ = ("cache", "forgotten", "platter", "unsynced")

    def __init__(self) -> None:
        self.cache = bytearray()
        self.platter = bytearray()
        self.unsynced: list[tuple[int, bytes]] = []
        self.forgotten: list[tuple[int, bytes]] = []  # of a failed fsync: clean, but not written


class SimDisk:
    """The files of one host. `point` is told of each durable step, and may raise `Gone`."""

    def __init__(self, dice: Stream, *, point: Callable[[str], None] = _pass) -> None:
        self.point = point
        self.bytes_free: int | None = None  # None: enough
        self.fsyncs_to_fail = 0
        self.fsyncs_failed = 0
        self._dice = dice
        self._files: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}

    # --- files -----------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        return name in self._files

    def size(self, name: str) -> int:
        return len(self._files[name].cache)

    def create(self, name: str) -> None:
        self._files[name] = _File()

    def read(self, name: str, offset: int, size: int) -> bytes:
        return bytes(self._files[name].cache[offset : offset + size])

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Into the page cache. A full disk takes a part, and says ENOSPC."""
        self.point("write.before")
        file = self._files[name]
        grows = max(0, offset + len(data) - len(file.cache))
        short = self.bytes_free is not None and grows > self.bytes_free
        if short:
            data = data[: len(data) - (grows - (self.bytes_free or 0))]
            grows = self.bytes_free or 0
        if self.bytes_free is not None:
            self.bytes_free -= grows
        _put(file.cache, offset, data)
        file.unsynced.append((offset, data))
        if short:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.point("write.after")

    def fsync(self, name: str) -> None:
        self.point("fsync.before")
        file = self._files[name]
        if self.fsyncs_to_fail and file.unsynced:
            self.fsyncs_to_fail -= 1
            self.fsyncs_failed += 1
            for offset, data in file.unsynced:
                if self._dice.random() < 0.5:
                    file.forgotten.append((offset, data))
                else:
                    _put(file.platter, offset, data)
            file.unsynced.clear()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        for offset, data in file.unsynced:
            _put(file.platter, offset, data)
        file.unsynced.clear()
        self.point("fsync.after")

    def truncate(self, name: str, size: int) -> None:
        """Cuts a file off; durable at once, with what has not been synced before."""
        file = self._files[name]
        self.fsync(name)
        if self.bytes_free is not None:
            self.bytes_free += len(file.cache) - size
        del file.cache[size:]
        del file.platter[size:]

    def evict(self, name: str) -> None:
        """Drops clean pages from the cache (`POSIX_FADV_DONTNEED`): what is read next is true."""
        file = self._files[name]
        file.forgotten.clear()
        file.cache[:] = file.platter
        for offset, data in file.unsynced:
            _put(file.cache, offset, data)

    # --- names -----------------------------------------------------------------------------------

    def rename(self, old: str, new: str) -> None:
        self._files[new] = self._files.pop(old)

    def sync_names(self) -> None:
        """Fsync of the directory."""
        self._durable_names = dict(self._files)

    # --- faults ----------------------------------------------------------------------------------

    def cut_power(self) -> None:
        """The cache is gone; each unsynced write is kept, lost or torn by itself."""
        dice = self._dice
        if dice.random() < 0.5:
            self.sync_names()  # the journal may have been quicker
        self._files = dict(self._durable_names)
        for name in sorted(self._files):
            file = self._files[name]
            for offset, data in dice.sample(file.unsynced, len(file.unsynced)):
                self._land(file, offset, data)
            file.unsynced.clear()
            file.forgotten.clear()
            file.cache = bytearray(file.platter)

    def _land(self, file: _File, offset: int, data: bytes) -> None:
        dice = self._dice
        fate = dice.random()
        if fate < 0.25:
            return
        if fate < 0.5:
            _put(file.platter, offset, data)
        elif fate < 0.75:
            _put(file.platter, offset, data[: dice.randint(0, len(data))])
        else:
            at = offset
            while at < offset + len(data):
                end = min((at // SECTOR_BYTES + 1) * SECTOR_BYTES, offset + len(data))
                if dice.random() < 0.5:
                    _put(file.platter, at, data[at - offset : end - offset])
                at = end

    def rot(self, name: str, offset: int, size: int) -> None:
        """Flips one bit somewhere in these bytes, on the platter and in the cache."""
        file = self._files[name]
        place = self._dice.randrange(8 * size)
        for content in (file.platter, file.cache):
            content[offset + place // 8] ^= 1 << place % 8


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if data:
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data


class SimFiles:
    """`store.files.Files` on a simulated disk: under the identity file of the real agent."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk

    def read(self, path: Path) -> bytes:
        if not self._disk.exists(path.name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._disk.read(path.name, 0, self._disk.size(path.name))

    def create(self, path: Path, data: bytes) -> None:
        disk, new = self._disk, path.name + ".new"
        disk.create(new)
        disk.write(new, 0, data)
        disk.fsync(new)
        disk.rename(new, path.name)
        disk.sync_names()

    def overwrite(self, path: Path, data: bytes, *, offset: int) -> None:
        self._disk.point("identity.before")
        self._disk.write(path.name, offset, data)
        self._disk.fsync(path.name)
        self._disk.point("identity.after")
