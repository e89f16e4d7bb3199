"""The data directory of a simulated host: `store.datadir.DataDir` without a lock to take.

Its identity is the real `IdentityFile`, on the files of a `SimDisk`. The order of things is that of
the real directory: identity, then engine, then the new run's number; the clean stop comes last.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dynagent.core.ports import Dice
from dynagent.errors import DataDirError
from dynagent.store import identity
from dynagent.store.identity import IdentityFile, start_run, stop_clean
from dynagent.store.protocol import Store
from dynagent.testing.level2.disk import SimDisk, SimFiles
from dynagent.testing.level2.logstore import FILE_NAME, LogStore


class SimDataDir:
    """An open data directory (`store.protocol.Directory`)."""

    def __init__(
        self, path: Path, identity_file: IdentityFile, log: LogStore, disk: SimDisk
    ) -> None:
        self.path = path
        self.identity_file = identity_file
        self.log = log
        self._disk = disk
        self.store: Store = log
        self._is_open = True

    @classmethod
    def open(
        cls, disk: SimDisk, path: Path, *, dice: Dice, engine: Callable[[SimDisk], LogStore]
    ) -> SimDataDir:
        """Opens it and starts a new run; raises `DataDirError` or `StoreFailed`."""
        disk.point("start.before")
        if disk.exists(FILE_NAME) and not disk.exists(identity.FILE_NAME):
            raise DataDirError(f"{path}: the identity file is gone")
        file = IdentityFile.open_or_create(
            path, dice=dice, engine=LogStore.name, files=SimFiles(disk)
        )
        if file.value.run > 0 and not disk.exists(FILE_NAME):
            raise DataDirError(f"{path}: {FILE_NAME} of node {file.value.node_id} is gone")
        log = engine(disk)
        file.write(start_run(file.value, dice=dice))
        disk.point("start.after")
        return cls(path, file, log, disk)

    def disk_bytes(self) -> int:
        return self._disk.size(FILE_NAME)

    def close(self, clean: bool) -> None:
        if self._is_open:
            self._is_open = False
            self.store.close()
            if clean:
                self.identity_file.write(stop_clean(self.identity_file.value))

    def abandon(self) -> None:
        """The process is gone: what its code still does has no effect."""
        self._is_open = False
