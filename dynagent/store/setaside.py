"""Setting a store aside: it is not the node any more that its identity names (design §6).

The engine moves into `set-aside-<node id>` inside the data directory (a rename of each file, on the
same file system), and a new identity takes the place of the old one; nothing is ever deleted.
The engine goes first and the identity last, by one atomic rename of the new file over the old, of
which a copy lies beside the engine by then. So after a crash in between the directory still has the
old identity and no engine, which is a lost store: it is set aside once more, to the same place.
"""

from __future__ import annotations

import os
from pathlib import Path

from dynagent.core.ports import Dice
from dynagent.errors import DataDirError
from dynagent.store import identity
from dynagent.store.datadir import ENGINES, lock_stopped
from dynagent.store.files import fsync_path, reason
from dynagent.store.identity import Identity, IdentityFile

PREFIX = "set-aside-"


def set_aside(path: Path, *, dice: Dice) -> tuple[Path, Identity]:
    """Where the store of a stopped agent lies now, and the identity that takes its place.

    Raises `DataDirError`, `Refused` if an agent uses the directory.
    """
    lock = lock_stopped(path)
    try:
        old = IdentityFile.open_or_create(path, dice=dice, engine="").value
        aside = path / f"{PREFIX}{old.node_id}"
        try:
            _move(path, aside)
        except OSError as exc:
            raise DataDirError(f"{path}: cannot set the store aside: {reason(exc)}") from exc
        return aside, identity.succeed(path, old, dice=dice)
    finally:
        os.close(lock)


def _move(path: Path, aside: Path) -> None:
    aside.mkdir(mode=0o700, exist_ok=True)
    for engine in ENGINES.values():
        for file in sorted(path.glob(f"{engine.file_name}*")):
            file.rename(aside / file.name)
    copy = aside / identity.FILE_NAME
    copy.write_bytes((path / identity.FILE_NAME).read_bytes())
    for changed in (copy, aside, path):
        fsync_path(changed)
