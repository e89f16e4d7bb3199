"""The stored forms that were read or written of late, so that the engine is not asked again.

An engine's own page cache does not do: SQLite's reader forgets its pages at each foreign commit.
Under puts that was a sixth of their cost (decision 0008). Stored forms and not records are kept:
bytes take a quarter of the memory, and the garbage collector never walks them. Their checksum has
been verified when they came from the engine.

Two generations stand in for an exact order of use. A form that is kept, or found in the old one,
joins the young one; when as much has joined that as half of the room, it becomes the old one, and
what the old one held is forgotten. A form that joins again is counted again: that ends a generation
sooner, and spares every commit the question what was there before.

A large cache is cut into parts by the keys' checksums (not by `hash`, which differs from process to
process), each with generations of its own: to forget half a GiB at once, or to enlarge a table of a
million places, would hold the event loop up for 50 ms. The parts begin at different points of a
generation, or they would all end it within the same few thousand keys.
"""

from __future__ import annotations

from zlib import crc32

from dynagent import limits

_OBJECTS_BYTES = 200  # two bytes objects and their place in the table
_PART_BYTES = 16 * limits.MIB  # 18,000 small forms are forgotten at once: 2 ms


class StoredCache:
    """Stored forms by key, at most about `bytes_max` of memory (a part may go over it by a form in
    each generation); 0 keeps nothing."""

    __slots__ = ("_bytes", "_half", "_old", "_parts", "_young", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        assert bytes_max >= 0
        self.bytes_max = bytes_max
        self._parts = max(1, bytes_max // _PART_BYTES)
        self._half = bytes_max // self._parts // 2  # of a part
        self.clear()

    def __contains__(self, key: bytes) -> bool:
        part = crc32(key) % self._parts
        return key in self._young[part] or key in self._old[part]

    def get(self, key: bytes) -> bytes | None:
        """The committed form, b"" where there is no record; None if we do not know."""
        part = crc32(key) % self._parts
        stored = self._young[part].get(key)
        if stored is None and (stored := self._old[part].get(key)) is not None:
            self._join(part, key, stored)
        return stored

    def keep(self, key: bytes, stored: bytes) -> None:
        """This is the committed form now."""
        self._join(crc32(key) % self._parts, key, stored)

    def forget(self, key: bytes) -> None:
        """The next reader shall ask the engine."""
        part = crc32(key) % self._parts
        self._young[part].pop(key, None)
        self._old[part].pop(key, None)

    def clear(self) -> None:
        """All readers shall. Takes 0.2 s for each GiB: only after a loss."""
        parts = range(self._parts)
        self._young: list[dict[bytes, bytes]] = [{} for _ in parts]
        # A key that is young as well is out of date here.
        self._old: list[dict[bytes, bytes]] = [{} for _ in parts]
        # That have joined the young one.
        self._bytes = [self._half * part // self._parts for part in parts]

    def _join(self, part: int, key: bytes, stored: bytes) -> None:
        young = self._young[part]
        young[key] = stored
        joined = self._bytes[part] + _OBJECTS_BYTES + len(key) + len(stored)
        if joined > self._half:
            self._old[part] = young if self._half else {}
            self._young[part] = {}
            joined = 0
        self._bytes[part] = joined
