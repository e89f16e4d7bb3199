"""The node's disk as the rest of the node sees it: one `Store`, several engines.

The core reads through `Reader`; the agent's commit thread makes a `Batch` durable through `write`.
Two threads touch a store: whatever reads, and `count`, is called on the event-loop thread, at any
time, also while `write` runs on the commit thread. A reader sees a batch whole or not at all, and
surely once its `write` has returned.

A store knows bytes only. What a record means, and its checksum, belong to `core`.
"""

from pathlib import Path
from typing import Protocol

from dynagent.core.ports import Batch, Reader
from dynagent.store.identity import IdentityFile


class Store(Reader, Protocol):
    """A durable, ordered map of records, and named rows, with atomic batches."""

    name: str  # of the engine, as the identity file records it

    def write(self, batch: Batch) -> None:
        """Makes `batch` durable, all or nothing; returns only when it is fsynced.

        Called on the commit thread, one at a time. Raises `DiskFull` if there is no room: then
        nothing of the batch is there, and later writes may succeed. Raises `StoreFailed` if the
        engine reports any other error: the batch may then be there or not after a restart, but
        never in part; and every later write raises `StoreFailed` without touching the disk, because
        a second fsync may report success for pages that the first one lost.
        """

    @property
    def is_log_long(self) -> bool:
        """Whether `fold_log` should be called."""

    def fold_log(self) -> None:
        """On the commit thread, between two writes: work on what is durable that nobody waits for
        (a checkpoint). As a step of its own it may delay the next write, but not the answer to the
        last one. Raises `StoreFailed`."""

    def count(self) -> int:
        """How many records there are: an estimate, and cheap (a millisecond or two)."""

    def snapshot(self, path: Path) -> None:
        """A consistent copy of the store at `path`, which must not exist yet.

        May run on a thread of its own beside reads and writes. Raises `Refused` if `path` exists,
        `DynagentError` if the copy fails; then nothing is left at `path`.
        """

    def close(self) -> None:
        """Releases the files. No other call may be running; a second close does nothing."""


class Directory(Protocol):
    """An open data directory as the agent uses it: who this store is, and the engine."""

    path: Path
    identity_file: IdentityFile
    store: Store

    def disk_bytes(self) -> int:
        """What the records take on the disk, logs included; files that cannot be read count 0."""

    def close(self, clean: bool) -> None:
        """`clean`: all that was submitted is committed, so the next run may trust this one."""
