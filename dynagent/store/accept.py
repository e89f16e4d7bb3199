"""Declares lost what a stopped agent's store has lost: `dynagent store accept`.

A copy that cannot be read, or a partition in which records are missing, does not count until N−W+1
other owners have said what they hold (decision 0014). Where too many of those do not know either,
they wait for each other for good; with W=1 no number of them is a proof. Then a person says here
that nothing better will come:

    an unreadable copy   goes as if it had never come
    a flagged one        is what is left of it
    a hollow partition   has the records that it has

What other owners still hold comes back by comparison. An acknowledged write is lost if none of them
holds it, and can be missed by a read until it has come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dynagent.core.entry import Record
from dynagent.core.ports import Dice, Token
from dynagent.core.ring import token_of
from dynagent.core.salvage import FIRST, Gap, salvage
from dynagent.core.siblings import EMPTY
from dynagent.errors import BadRequest, DataDirError
from dynagent.store.datadir import DataDir
from dynagent.store.door import commit, open_replica
from dynagent.store.examine import read_ring, verify

_CHUNK = 1_000


class Accepted(NamedTuple):
    """What counts again: the copy of a key, or a partition."""

    kind: str
    key: bytes = b""
    partition: int | None = None


def accept(
    path: Path, *, keys: Sequence[bytes] = (), partitions: Sequence[int] = (), dice: Dice
) -> Iterator[Accepted]:
    """Of these keys and partitions, of all if none is named; each is told when it is on the disk.

    Raises `Refused` if an agent uses the directory, `ConfigError` if it has never been in a
    cluster, `BadRequest` for a partition that there is not, `DataDirError` if a range cannot be
    read.
    """
    data_dir = DataDir.open_stopped(path, dice=dice)
    try:
        work = _Work(data_dir, dice, frozenset(keys), frozenset(partitions))
        yield from work.copies()
        yield from work.hollow()
    finally:
        data_dir.close(clean=False)


class _Work:
    def __init__(
        self, data_dir: DataDir, dice: Dice, keys: frozenset[bytes], partitions: frozenset[int]
    ) -> None:
        self._path = data_dir.path
        self._store = data_dir.store
        self._replica = open_replica(data_dir, dice)
        self._cluster_id = data_dir.identity_file.value.cluster_id
        self._keys = keys
        self._partitions = partitions
        ring = read_ring(self._store)
        count = ring.partitions if ring is not None else 0
        for partition in sorted(partitions):
            if not 0 <= partition < count:
                raise BadRequest(f"partition {partition} is none of this store's {count}")

    def copies(self) -> Iterator[Accepted]:
        """Unreadable and flagged ones, so many at once."""
        first = FIRST
        while chunk := list(islice(self._unknown_from(first), _CHUNK)):
            for token, key in chunk:
                self._replica.heal(key, token, Record(EMPTY))
                self._replica.on_healed(key)
            commit(self._replica, self._store)
            for token, key in chunk:
                yield Accepted("copy", key, self._replica.unknown.partition_of(token))
            first = chunk[-1][0]

    def hollow(self) -> Iterator[Accepted]:
        partitions = self._replica.unknown.hollow
        for partition in sorted(partitions & self._partitions if self._is_some else partitions):
            self._replica.on_filled(partition)
            commit(self._replica, self._store)
            yield Accepted("partition", partition=partition)

    @property
    def _is_some(self) -> bool:
        return bool(self._keys or self._partitions)

    def _is_meant(self, token: Token, key: bytes) -> bool:
        if not self._is_some or key in self._keys:
            return True
        return self._replica.unknown.partition_of(token) in self._partitions

    def _unknown_from(self, first: Token) -> Iterator[tuple[Token, bytes]]:
        for row in salvage(self._store.scan, first):
            if isinstance(row, Gap):
                raise DataDirError(
                    f"a range of {self._path} cannot be read ({row.reason}); first: "
                    f"dynagent store rebuild {self._path} --yes"
                )
            token, key, stored = row
            if not key or token != token_of(key) or not self._is_meant(token, key):
                continue  # what is misplaced the agent's scrub removes
            if verify(stored, cluster_id=self._cluster_id, key=key):
                yield token, key
