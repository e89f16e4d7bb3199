"""The stored forms that were read or written of late, so that the engine is not asked again.

An engine's own page cache does not do: SQLite's reader forgets its pages at each foreign commit.
Under puts that was a sixth of their cost (decision 0008). Stored forms and not records are kept:
bytes take a quarter of the memory, and the garbage collector never walks them. Their checksum has
been verified when they came from the engine.

Two generations stand in for an exact order of use. A form that is kept, or found in the old one,
joins the young one; when as much has joined that as half of the room, it becomes the old one, and
what the old one held is forgotten. A form that joins again is counted again: that ends a generation
sooner, and spares every commit the question what was there before.

A large cache is cut into shards by the keys' checksums (not by `hash`, which differs from process
to process), each with generations of its own: to forget half a GiB at once, or to enlarge a table
of a million places, would hold the event loop up for 50 ms.
"""

from __future__ import annotations

from zlib import crc32

from dynagent import limits

_OBJECTS_BYTES = 200  # two bytes objects and their place in the table
_SHARD_BYTES = 16 * limits.MIB  # 18,000 small forms are forgotten at once: 2 ms


class StoredCache:
    """Stored forms by key, at most about `bytes_max` of memory; 0 keeps nothing."""

    __slots__ = ("_bytes", "_half", "_old", "_shards", "_young", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._shards = max(1, bytes_max // _SHARD_BYTES)
        self._half = bytes_max // self._shards // 2  # of a shard
        self.clear()

    def __contains__(self, key: bytes) -> bool:
        shard = crc32(key) % self._shards
        return key in self._young[shard] or key in self._old[shard]

    def get(self, key: bytes) -> bytes | None:
        """The committed form, b"" where there is no record; None if we do not know."""
        shard = crc32(key) % self._shards
        stored = self._young[shard].get(key)
        if stored is None and (stored := self._old[shard].get(key)) is not None:
            self._join(shard, key, stored)
        return stored

    def keep(self, key: bytes, stored: bytes) -> None:
        """This is the committed form now."""
        self._join(crc32(key) % self._shards, key, stored)

    def forget(self, key: bytes) -> None:
        """The next reader shall ask the engine."""
        shard = crc32(key) % self._shards
        self._young[shard].pop(key, None)
        self._old[shard].pop(key, None)

    def clear(self) -> None:
        """All readers shall."""
        shards = range(self._shards)
        self._young: list[dict[bytes, bytes]] = [{} for _ in shards]
        # A key that is young as well is out of date here.
        self._old: list[dict[bytes, bytes]] = [{} for _ in shards]
        self._bytes = [0 for _ in shards]  # that have joined the young one

    def _join(self, shard: int, key: bytes, stored: bytes) -> None:
        young = self._young[shard]
        young[key] = stored
        joined = self._bytes[shard] + _OBJECTS_BYTES + len(key) + len(stored)
        if joined > self._half:
            self._old[shard] = young if self._half else {}
            self._young[shard] = {}
            joined = 0
        self._bytes[shard] = joined
