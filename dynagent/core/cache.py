"""The stored forms that were read or written of late, so that the engine is not asked again.

An engine's own page cache does not do: SQLite's reader forgets its pages at each foreign commit.
Under puts that was a sixth of their cost (decision 0008). Stored forms and not records are kept:
bytes take a quarter of the memory, and the garbage collector never walks them. Their checksum has
been verified when they came from the engine.

Two generations stand in for an exact order of use. A form that is kept, or found in the old one,
joins the young one; when as much has joined that as half of the room, it becomes the old one, and
what the old one held is forgotten. A form that joins again is counted again: that ends a generation
sooner, and spares every commit the question what was there before.
"""

from __future__ import annotations

_OBJECTS_BYTES = 200  # two bytes objects and their place in the table


class StoredCache:
    """Stored forms by key, at most about `bytes_max` of memory; 0 keeps nothing."""

    __slots__ = ("_bytes", "_half", "_old", "_young", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._half = bytes_max // 2
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}  # a key that is young as well is out of date here
        self._bytes = 0  # that have joined the young one

    def __contains__(self, key: object) -> bool:
        return key in self._young or key in self._old

    def get(self, key: bytes) -> bytes | None:
        """The committed form, b"" where there is no record; None if we do not know."""
        stored = self._young.get(key)
        if stored is None and (stored := self._old.get(key)) is not None:
            self.keep(key, stored)
        return stored

    def keep(self, key: bytes, stored: bytes) -> None:
        """This is the committed form now."""
        self._young[key] = stored
        self._bytes += _OBJECTS_BYTES + len(key) + len(stored)
        if self._bytes > self._half:
            self._old = self._young if self._half else {}
            self._young = {}
            self._bytes = 0

    def forget(self, key: bytes) -> None:
        """The next reader shall ask the engine."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        """All readers shall."""
        self._old = {}
        self._young = {}
        self._bytes = 0
