"""What every file of the data directory needs: to be on the disk, under its name."""

import os
from pathlib import Path


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
