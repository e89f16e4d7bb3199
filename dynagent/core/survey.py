"""Walks over the copies of this node as they lie on the disk: for listings, exchange and scrub.

A copy that cannot be read, or is flagged, is met here as anywhere else: it waits to be healed
(`core.unknown`). Nothing here fills the cache, and nothing changes a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from dynagent.core.barriers import Barriers
from dynagent.core.entry import ABSENT, UNREADABLE, Record, decode_stored, stored_digest
from dynagent.core.ports import PartitionId, Reader, Token
from dynagent.core.ring import token_of
from dynagent.errors import CorruptRecord

# A copy that is unreadable, and why; no reason: it is flagged unknown.
Meet = Callable[[bytes, Token, CorruptRecord | None], None]


class Survey:
    """Of one replica. `overlay`: its copies that are not committed yet; `forget`: what its cache
    has of a key."""

    def __init__(
        self,
        reader: Reader,
        overlay: Mapping[bytes, tuple[Record, int]],
        barriers: Barriers,
        *,
        meet: Meet,
        forget: Callable[[bytes], None],
    ) -> None:
        self.cluster_id = b""
        self._reader = reader
        self._overlay = overlay
        self._barriers = barriers
        self._meet = meet
        self._forget = forget

    def scan(
        self, first: Token, last: Token, after: bytes
    ) -> Iterator[tuple[Token, bytes, Record]]:
        """The copies that are committed in a range, behind a place (token and key); each as it is
        by now, `UNREADABLE` if it fails its checksum. Raises `CorruptRecord` if the engine cannot
        read on."""
        first = Token(after[: len(first)] or first)
        for token, key, stored in self._reader.scan(first, last):
            if token + key > after and key:  # a row that has lost its key is for the scrub
                overlaid = self._overlay.get(key)
                yield token, key, overlaid[0] if overlaid else self._decode(key, token, stored)

    def sound(
        self, first: Token, last: Token, after: bytes
    ) -> Iterator[tuple[Token, bytes, Record]]:
        """As `scan`, of a range of which others shall get everything. Raises `CorruptRecord` too if
        a row there has lost its key, or lies at a token that is not its key's: a copy is missing
        then, and nobody can say which."""
        first = max(first, Token(after[: len(first)]))
        for token, key, stored in self._reader.scan(first, last):
            if not key or token != token_of(key):
                raise CorruptRecord("a row there has lost its key, or its place")
            if token + key > after:
                overlaid = self._overlay.get(key)
                yield token, key, overlaid[0] if overlaid else self._decode(key, token, stored)

    def digests(
        self, first: Token, last: Token, after: bytes
    ) -> Iterator[tuple[bytes, bytes, int]]:
        """As `scan`, but only what is committed: (place, digest, bytes stored); the digest is b""
        if the copy is unreadable or flagged unknown. What lies where its key does not belong is
        passed over: no read finds it."""
        first = max(first, Token(after[: len(first)]))
        for token, key, stored in self._reader.scan(first, last):
            place = token + key
            if place > after and token == token_of(key):
                try:
                    digest = stored_digest(stored, cluster_id=self.cluster_id, key=key)
                    if not digest:
                        self._meet(key, token, None)
                except CorruptRecord as exc:
                    self._meet(key, token, exc)
                    digest = b""
                yield place, digest, len(stored)

    def verify(self, key: bytes, token: Token, stored: bytes) -> bool:
        """Is this copy, as the disk has just shown it, good? Otherwise it is noted."""
        record = self._decode(key, token, stored)
        if record is UNREADABLE:
            self._forget(key)  # the cache has what was meant to be there
        return not record.unknown

    def holding(self, partitions: Iterable[PartitionId]) -> set[PartitionId]:
        """Of which of these there is any copy, on the disk or on its way there; one that cannot be
        read is one."""
        of = self._barriers.partition_of
        copies = self._overlay.items()
        fresh = {of(token_of(key)) for key, (copy, _) in copies if copy is not ABSENT}
        return {at for at in partitions if at in fresh or self._holds_on_disk(at)}

    def _holds_on_disk(self, partition: PartitionId) -> bool:
        first, last = self._barriers.range_of(partition)
        try:
            rows = self._reader.scan(first, last)
            return any(not self._is_going(key) for _, key, _ in rows)
        except CorruptRecord:
            return True

    def _is_going(self, key: bytes) -> bool:
        overlaid = self._overlay.get(key)
        return overlaid is not None and overlaid[0] is ABSENT

    def _decode(self, key: bytes, token: Token, stored: bytes) -> Record:
        try:
            record = decode_stored(stored, cluster_id=self.cluster_id, key=key)
        except CorruptRecord as exc:
            self._meet(key, token, exc)
            return UNREADABLE
        if record.unknown:
            self._meet(key, token, None)
        return record
