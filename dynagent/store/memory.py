"""The store of tests and of the simulator: a dict, and a sorted list of its keys for scans.

It lives as long as its object, so a simulated restart hands the same object to the next agent, and
a simulated power cut is the simulator's business, not this file's.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from dynagent.core.encoding import decode, encode
from dynagent.core.ports import Batch, NodeId, Token
from dynagent.errors import Refused
from dynagent.store.markers import Hint, Markers


class MemoryStore:
    """A `Store` in memory: a write is visible at once and nothing survives the process."""

    name = "memory"
    is_log_long = False

    def __init__(self) -> None:
        self._records: dict[tuple[Token, bytes], bytes] = {}
        self._meta: dict[str, bytes] = {}
        self._sums: dict[int, bytes] = {}
        self._markers = Markers()
        self._sorted: list[tuple[Token, bytes]] | None = []  # None: to be sorted by the next scan

    @classmethod
    def load(cls, path: Path) -> "MemoryStore":
        """The store that `snapshot` wrote to `path`."""
        records, meta, hints, sums = cast(
            tuple[list[tuple[Token, bytes, bytes]], dict[str, bytes], list[Hint], dict[int, bytes]],
            decode(path.read_bytes()),
        )
        store = cls()
        store._records = {(token, key): stored for token, key, stored in records}
        store._meta = meta
        store._sums = dict(sums)
        store._markers.apply(hints)
        store._sorted = None
        return store

    def get(self, token: Token, key: bytes) -> bytes | None:
        return self._records.get((token, key))

    def read_ahead(self, places: Sequence[tuple[Token, bytes]]) -> Sequence[bytes | None]:
        return [self._records.get(place, b"") for place in places]

    def get_meta(self, name: str) -> bytes | None:
        return self._meta.get(name)

    def sums(self) -> list[tuple[int, bytes]]:
        return list(self._sums.items())

    def scan(self, first: Token, last: Token) -> Iterator[tuple[Token, bytes, bytes]]:
        if self._sorted is None:
            self._sorted = sorted(self._records)
        order = self._sorted  # a write beside this scan replaces the list, it never changes it
        for position in range(bisect_left(order, (first, b"")), len(order)):
            place = order[position]
            if place[0] > last:
                return
            stored = self._records.get(place)
            if stored is not None:
                yield (*place, stored)

    def hints(self, target: NodeId, after: bytes, count: int) -> list[tuple[Token, bytes]]:
        return self._markers.read(target, after, count)

    def has_hint(self, target: NodeId, token: Token, key: bytes) -> bool:
        return self._markers.has(target, token, key)

    def hint_counts(self) -> dict[NodeId, int]:
        return self._markers.counts()

    def write(self, batch: Batch) -> None:
        kept = {(token, key): stored for token, key, stored in batch.records if stored}
        before = len(self._records)
        self._records.update(kept)  # one step of the interpreter: another thread sees all or none
        changed = len(self._records) != before
        gone = [(token, key) for token, key, stored in batch.records if not stored]
        for place in (*gone, *batch.strays):
            changed |= self._records.pop(place, None) is not None
        if changed:
            self._sorted = None
        self._meta.update(batch.meta)
        self._sums.update(batch.sums)
        if batch.hints:
            self._markers.apply(batch.hints)

    def count(self) -> int:
        return len(self._records)

    def fold_log(self) -> None:
        """It has none."""

    def snapshot(self, path: Path) -> None:
        if path.exists():
            raise Refused(f"{path} exists; name a file that does not")
        records = [[token, key, self._records[token, key]] for token, key in sorted(self._records)]
        hints = [list(hint) for hint in self._markers.rows()]
        path.write_bytes(encode([records, self._meta, hints, self.sums()]))

    def close(self) -> None:
        pass
