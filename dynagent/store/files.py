"""What every file of the data directory needs: to be on the disk, under its name."""

import os
from pathlib import Path
from typing import Protocol

from dynagent.errors import StoreLost


class Files(Protocol):
    """What the identity file asks of a file system; errors are `OSError`."""

    def read(self, path: Path) -> bytes:
        """The whole file."""

    def create(self, path: Path, data: bytes) -> None:
        """A durable new file: after a power cut it is there with all of `data`, or not at all."""

    def overwrite(self, path: Path, data: bytes, *, offset: int) -> None:
        """Writes into the file and fsyncs it; a power cut meanwhile may tear these bytes only."""


class OsFiles:
    """The real one."""

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def create(self, path: Path, data: bytes) -> None:
        new = path.with_name(path.name + ".new")
        with new.open("wb") as file:
            file.write(data)
        fsync_path(new)
        new.rename(path)
        fsync_path(path.parent)

    def overwrite(self, path: Path, data: bytes, *, offset: int) -> None:
        file = os.open(path, os.O_WRONLY)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(file, data[done:], offset + done)
            os.fsync(file)
        finally:
            os.close(file)


def fsync_path(path: Path) -> None:
    """Fsyncs a file, or a directory: a new or renamed file has its name only after that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def tree_bytes(path: Path) -> int:
    """The size of a file, or of all files below a directory. What goes away meanwhile counts 0."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(tree_bytes(child) for child in path.iterdir())
    except OSError:
        return 0


def reason(exc: OSError) -> str:
    """The system's words for an error, without the path that our own message names already."""
    return exc.strerror or str(exc)


def damaged(file: Path, offset: int, what: str) -> StoreLost:
    """The refusal of a file that is not as it was last written."""
    return StoreLost(
        f"{file}: damaged at byte {offset} ({what}), so acknowledged writes may be missing;"
        " nothing was changed; dynagent store rebuild keeps what can be read, and the cluster heals"
        " the rest; or move the data directory away and start as a new node, which it refills"
    )
