"""Damage on purpose, to the store of a stopped agent: `dynagent store damage`, for drills.

    flip       a bit of a file, at random or at an offset, or of a key's stored record: rot
    lose       rows vanish and nobody is told: a lost write, or a lost page
    misplace   a record moves to the token of no key: a misdirected write
    miss       records go as if they had never come: through the one door, so that trees agree, and
               the replica simply differs from the others

The first three go behind the agent's back, as a disk would: its trees still count what was there.
Each says exactly what it did, and draws from the dice it is given: the same seed does the same
damage to the same store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from dynagent.core.listing import partition_range
from dynagent.core.ports import Batch, PartitionId, Token
from dynagent.core.replica import Replica
from dynagent.core.ring import token_of
from dynagent.core.salvage import FIRST, LAST
from dynagent.errors import BadRequest
from dynagent.store import identity
from dynagent.store.datadir import ENGINES, DataDir
from dynagent.store.door import commit, open_replica
from dynagent.store.examine import read_ring

KINDS = ("flip", "lose", "misplace", "miss")
_CHUNK = 1_000

Place = tuple[Token, bytes]


class DrillDice(Protocol):
    """`random.Random`, seeded or not."""

    def getrandbits(self, k: int, /) -> int: ...

    def randrange(self, stop: int, /) -> int: ...


class Damage(NamedTuple):
    """One thing that was done. `file`, `offset` and `bit` of a flip, `key` of a record."""

    kind: str
    key: bytes = b""
    partition: int | None = None
    file: str = ""
    offset: int | None = None
    bit: int | None = None
    token: str = ""  # where a misplaced record lies now


# --- files ---------------------------------------------------------------------------------------


def files_of(path: Path) -> list[Path]:
    """What a flip at random may hit: all that the store needs; not the lock, an index that is made
    anew at each start, or an engine's diary."""
    found = [path / identity.FILE_NAME]
    for engine in ENGINES.values():
        file = path / engine.file_name
        found += sorted(file.iterdir()) if file.is_dir() else [file]
        found += [path / f"{file.name}-wal", path / f"{file.name}.seen"]
    skipped = ("LOG", "LOCK", "OPTIONS")
    return [one for one in found if one.is_file() and not one.name.startswith(skipped)]


def flip_anywhere(files: list[Path], dice: DrillDice) -> Damage:
    """Flips one bit of all the bits of these files."""
    sizes = [file.stat().st_size for file in files]
    at = dice.randrange(sum(sizes))
    for file, size in zip(files, sizes, strict=True):
        if at < size:
            return flip_at(file, at, dice.randrange(8))
        at -= size
    raise AssertionError("an offset beyond all files")


def flip_at(file: Path, offset: int, bit: int) -> Damage:
    """Flips that bit; raises `BadRequest` if the file has no such byte."""
    with file.open("r+b") as handle:
        handle.seek(offset)
        byte = handle.read(1)
        if not byte:
            raise BadRequest(f"{file} has no byte {offset}; it has {file.stat().st_size:,} bytes")
        handle.seek(offset)
        handle.write(bytes([byte[0] ^ 1 << bit]))
    return Damage("flip", file=str(file), offset=offset, bit=bit)


# --- records -------------------------------------------------------------------------------------


class Drill:
    """Damage to the records of an open data directory."""

    def __init__(self, data_dir: DataDir, dice: DrillDice) -> None:
        self._data_dir = data_dir
        self._store = data_dir.store
        self._dice = dice
        self._ring = read_ring(data_dir.store)

    def choose(
        self, *, keys: Sequence[bytes], partitions: Sequence[int], count: int | None
    ) -> list[Place]:
        """The records to be damaged: those keys, or `count` drawn from those partitions (from all
        if none is named), or all of those partitions. Raises `BadRequest` if there are not so many.
        """
        if keys:
            places = [(token_of(key), key) for key in keys]
            for token, key in places:
                if self._store.get(token, key) is None:
                    raise BadRequest(f"this store has no record of {key[:64]!r}")
            return places
        found: list[Place] = []
        for seen, place in enumerate(self._places(partitions), 1):
            if count is None or len(found) < count:
                found.append(place)
            elif (at := self._dice.randrange(seen)) < count:  # Vitter's reservoir: all as likely
                found[at] = place
        if count is not None and len(found) < count:
            raise BadRequest(f"there are {len(found):,} records there, not {count:,}")
        return sorted(found)

    def do(self, kind: str, places: list[Place]) -> Iterator[Damage]:
        """Damages these records, and says so of each when it is on the disk."""
        chunk_rows = _CHUNK if kind in ("lose", "miss") else 1
        replica = open_replica(self._data_dir, self._dice) if kind == "miss" else None
        for start in range(0, len(places), chunk_rows):
            chunk = places[start : start + chunk_rows]
            done = [Damage(kind, key=key, partition=self._partition(token)) for token, key in chunk]
            if replica is not None:
                self._miss(replica, chunk)
            elif kind == "lose":
                self._write([(*place, b"") for place in chunk])
            elif kind == "flip":
                done = [self._flip(*chunk[0], done[0])]
            else:
                done = [self._misplace(*chunk[0], done[0])]
            yield from done

    def _flip(self, token: Token, key: bytes, done: Damage) -> Damage:
        stored = bytearray(self._store.get(token, key) or b"")
        offset, bit = self._dice.randrange(len(stored)), self._dice.randrange(8)
        stored[offset] ^= 1 << bit
        self._write([(token, key, bytes(stored))])
        return done._replace(offset=offset, bit=bit)

    def _misplace(self, token: Token, key: bytes, done: Damage) -> Damage:
        stored = self._store.get(token, key)
        assert stored is not None
        wrong = Token(self._dice.getrandbits(128).to_bytes(16, "big"))
        self._write([(token, key, b""), (wrong, key, stored)])  # an engine knows no tokens
        return done._replace(token=wrong.hex())

    def _miss(self, replica: Replica, places: list[Place]) -> None:
        for token, key in places:
            replica.drop(key, token)
        commit(replica, self._store)

    def _places(self, partitions: Sequence[int]) -> Iterator[Place]:
        ranges = [self._range(partition) for partition in sorted(set(partitions))]
        for first, last in ranges or [(FIRST, LAST)]:
            for token, key, _stored in self._store.scan(first, last):
                if key:
                    yield token, key

    def _range(self, partition: int) -> tuple[Token, Token]:
        count = self._ring.partitions if self._ring is not None else 0
        if not 0 <= partition < count:
            raise BadRequest(f"partition {partition} is none of this store's {count}")
        return partition_range(count, PartitionId(partition))

    def _partition(self, token: Token) -> int | None:
        return self._ring.partition_of(token) if self._ring is not None else None

    def _write(self, records: list[tuple[Token, bytes, bytes]]) -> None:
        batch = Batch(1)
        batch.records.extend(records)
        self._store.write(batch)
