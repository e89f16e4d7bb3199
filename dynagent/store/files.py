"""What every file of the data directory needs: to be on the disk, under its name."""

import os
from pathlib import Path

from dynagent.errors import DataDirError


def fsync_path(path: Path) -> None:
    """Fsyncs a file, or a directory: a new or renamed file has its name only after that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reason(exc: OSError) -> str:
    """The system's words for an error, without the path that our own message names already."""
    return exc.strerror or str(exc)


def damaged(file: Path, offset: int, what: str) -> DataDirError:
    """The refusal of a file that is not as it was last written."""
    return DataDirError(
        f"{file}: damaged at byte {offset} ({what}), so acknowledged writes may be missing;"
        " nothing was changed; move the data directory away and start as a new node, which the"
        " cluster refills"
    )
