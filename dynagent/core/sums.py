"""The sums of the leaves of all trees, and their journal: right after every crash, at no rescan.

A leaf's entry is 40 bytes, as it is hashed: the count of its records (8) and their sum (32), big
endian. A count of 2^64 - 1 says that the leaf is unknown. The entries of a partition lie side by
side in one `bytearray`, its table.

**The journal** is a set of numbered rows, written in the batch of the records that they speak of:

    0               head: CBOR [format, Q, leaves, slots, bitmap of the partitions that are kept]
    1 .. slots      a slot: sequence number (8) ‖ for each entry: place (4) ‖ entry (40)
    slots + 1 + p   fold of partition p: sequence number (8) ‖ its table; no table: all unknown

Each row stands behind the CRC-32 of cluster id ‖ number (4) ‖ row. An empty row is none.

An entry is absolute: what the leaf is after the batch. A batch adds those that it changes to the
newest slot. That is rewritten with it, which costs no more than the page that is written anyway,
and is closed when it is long enough; then the next sequence number begins, in slot 1 + number mod
`slots`, where it overwrites the oldest. Before that each partition with entries in there is
*folded*: its whole table is written. Partitions that have changed stand in line, by their oldest
entry that is in no fold; those whose entry is older than half of the slots are folded at such a
pace that none is late. So a change costs 44 bytes in a slot, and now and then its share of a fold.

**At a start** the folds are read, and over them, in order, the slots from their sequence number on:
the last entry of a leaf is what it is. Nothing else is looked at. Where something is missing
nothing is guessed: a damaged fold makes its partition unknown (but for the leaves that have
entries), and a damaged or missing slot all of them; so does a head of another form, or none, unless
the store is empty. The first batch then writes down that they are unknown, whatever else is in it:
if the damage was one of reading only, the old rows must not be believed again.

A refused batch has changed nothing on the disk: everything is read anew.

**Other partitions** (`reassign`; at a start: those of the head are not those that are owned): the
next batch writes the new head. The tree of one that is gained begins with the next slot, whatever
older slots have of it, by a fold that says that it is empty, if nothing lies there, or unknown.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple
from zlib import crc32

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.listing import partition_range
from dynagent.core.ports import Batch, PartitionId, Reader, Token
from dynagent.errors import CorruptRecord, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ENTRY = 40
UNKNOWN_COUNT = (1 << 64) - 1
UNKNOWN = UNKNOWN_COUNT.to_bytes(8, "big") + bytes(32)
HEAD = 0  # the number of its row
_FORMAT = 1
_CRC, _SEQUENCE, _PLACE = 4, 8, 4
_FIRST, _LAST = Token(bytes(16)), Token(b"\xff" * 16)


class Shape(NamedTuple):
    """How long the journal is."""

    slots: int  # at least 2
    entries: int  # with which a slot is closed


def shape_of(partitions: int) -> Shape:
    """For a ring of so many partitions: a fold for every 128 changes or more."""
    return Shape(max(limits.TREE_SLOTS_MIN, partitions // 4), limits.TREE_SLOT_ENTRIES)


class Sums:
    """The tables of one node, and the rows that keep them."""

    def __init__(self, reader: Reader, shape: Shape | None = None) -> None:
        self.tables: dict[PartitionId, bytearray] = {}
        self.changed: dict[int, None] = {}  # places of leaves, since the newest row
        self.given_up: set[PartitionId] = set()  # of the head as read, and not owned any more
        self._reader = reader
        self._given_shape = shape
        self._shape = Shape(2, 1)
        self._cluster_id = b""
        self._partitions = 0
        self._leaves = 0
        self._leaf_bits = 0
        self._begin()

    def _begin(self) -> None:
        self.changed.clear()
        self._sequence = 0  # of the newest slot
        self._slot = b""  # its entries
        self._is_closed = True  # after a start always a new one
        self._folded: dict[PartitionId, int] = {}  # as read → the sequence number of its fold
        self._dirty: dict[PartitionId, int] = {}  # → that of its oldest entry since its fold
        self._due: dict[int, bytes] = {}  # rows that the next batch must write, whatever it is

    # --- what the disk says ----------------------------------------------------------------------

    def load(
        self, *, cluster_id: bytes, partitions: int, leaves: int, owned: Collection[PartitionId]
    ) -> None:
        """Fills the tables of the partitions that are `owned`, of `partitions` in all."""
        self._cluster_id, self._partitions, self._leaves = cluster_id, partitions, leaves
        self._leaf_bits = leaves.bit_length() - 1
        self._shape = self._given_shape or shape_of(partitions)
        self.tables = {partition: bytearray(ENTRY * leaves) for partition in sorted(owned)}
        self.reload()

    def reload(self) -> None:
        """The tables as the disk has them: nothing else has come there."""
        self._begin()
        for table in self.tables.values():
            table[:] = bytes(len(table))
        rows: dict[int, bytes] | None = None
        try:
            rows = {number: row for number, row in self._reader.sums() if row}
            kept = self._read_head(rows)
            self._read_folds(rows)
            self._read_slots(rows)
        except (CorruptRecord, ProtocolError):
            self._start_anew(is_new=rows == {} and self._is_store_empty())
            return
        self.given_up = kept - self.tables.keys()
        if kept != self.tables.keys():
            self._due[HEAD] = self._head()
            for partition in sorted(self.tables.keys() - kept):
                self._begin_tree(partition)

    def reassign(
        self, owned: Collection[PartitionId]
    ) -> tuple[list[PartitionId], list[PartitionId]]:
        """Others are owned from now on; returns those gained, and those given up. No batch is under
        way."""
        gained = sorted(owned - self.tables.keys())
        lost = sorted(self.tables.keys() - owned)
        for partition in lost:
            del self.tables[partition]
            self._folded.pop(partition, None)
            self._dirty.pop(partition, None)
            self._due.pop(self._fold_number(partition), None)
        for place in [at for at in self.changed if at >> self._leaf_bits not in self.tables]:
            del self.changed[place]
        for partition in gained:
            self.tables[partition] = bytearray(ENTRY * self._leaves)
            self._begin_tree(partition)
        if gained or lost:
            self._due[HEAD] = self._head()
            self._is_closed = True  # what older slots have of those gained counts no more
        return gained, lost

    def _begin_tree(self, partition: PartitionId) -> None:
        if self._is_empty(partition):
            number, since = self._fold_number(partition), self._sequence + 1
            row = since.to_bytes(_SEQUENCE, "big") + bytes(ENTRY * self._leaves)
            self.tables[partition][:] = bytes(ENTRY * self._leaves)
            self._due[number] = self._pack(number, row)
        else:
            self._forget(partition, since=self._sequence + 1)

    def _is_empty(self, partition: PartitionId) -> bool:
        try:
            first, last = partition_range(self._partitions, partition)
            return next(self._reader.scan(first, last), None) is None
        except CorruptRecord:
            return False

    def _read_head(self, rows: dict[int, bytes]) -> set[PartitionId]:
        """The partitions that the journal is of. Raises `CorruptRecord` or `ProtocolError` if it is
        none, or of another ring."""
        if HEAD not in rows:
            raise CorruptRecord("no journal of sums")
        head: Any = decode(self._unpack(HEAD, rows[HEAD]))
        expected = [_FORMAT, self._partitions, self._leaves, self._shape.slots]
        if type(head) is not list or head[:4] != expected or type(head[4]) is not bytes:
            raise CorruptRecord("the journal of sums is of another form")
        bits = int.from_bytes(head[4], "little")
        return {PartitionId(at) for at in range(self._partitions) if bits >> at & 1}

    def _read_folds(self, rows: dict[int, bytes]) -> None:
        for partition, table in self.tables.items():
            number = self._fold_number(partition)
            if number in rows:
                try:
                    row = self._unpack(number, rows[number])
                except CorruptRecord:
                    self._forget(partition, since=0)
                else:
                    table[:] = row[_SEQUENCE:] or UNKNOWN * self._leaves
                    self._folded[partition] = int.from_bytes(row[:_SEQUENCE], "big")

    def _read_slots(self, rows: dict[int, bytes]) -> None:
        slots = self._shape.slots
        found: dict[int, bytes] = {}
        for number in range(1, slots + 1):
            if number in rows:
                row = self._unpack(number, rows[number])
                found[int.from_bytes(row[:_SEQUENCE], "big")] = row
        last = max(found, default=0)
        if sorted(found) != list(range(max(1, last - slots + 1), last + 1)):
            raise CorruptRecord("slots of the journal of sums are missing")
        for sequence in sorted(found):
            self._replay(sequence, found[sequence])
        self._sequence = last

    def _replay(self, sequence: int, row: bytes) -> None:
        size, mask = _PLACE + ENTRY, self._leaves - 1
        for at in range(_SEQUENCE, len(row), size):
            place = int.from_bytes(row[at : at + _PLACE], "big")
            partition = PartitionId(place >> self._leaf_bits)
            table = self.tables.get(partition)
            if table is not None and sequence >= self._folded.get(partition, 0):
                begin = ENTRY * (place & mask)
                table[begin : begin + ENTRY] = row[at + _PLACE : at + size]
                # Those before a fold in the same slot are not told from those behind it.
                self._dirty.setdefault(partition, sequence)

    def _is_store_empty(self) -> bool:
        try:
            return next(self._reader.scan(_FIRST, _LAST), None) is None
        except CorruptRecord:
            return False

    def _start_anew(self, *, is_new: bool) -> None:
        """There is no journal to go by. The next batch overwrites whatever there is of one."""
        self._begin()
        self._due[HEAD] = self._head()
        if not is_new:
            self._due.update(dict.fromkeys(range(1, self._shape.slots + 1), b""))
            for partition in self.tables:
                self._forget(partition, since=0)

    def _forget(self, partition: PartitionId, *, since: int) -> None:
        """All of a partition is unknown, but for the entries since that sequence number; from the
        next batch on on the disk too."""
        self.tables[partition][:] = UNKNOWN * self._leaves
        number = self._fold_number(partition)
        self._due[number] = self._pack(number, since.to_bytes(_SEQUENCE, "big"))

    # --- what the disk is told -------------------------------------------------------------------

    def seal(self, batch: Batch) -> None:
        """The batch is about to be written: adds the rows of what has changed."""
        rows, self._due = self._due, {}
        if self.changed:
            self._add_slot(rows)
        batch.sums += rows.items()

    def _add_slot(self, rows: dict[int, bytes]) -> None:
        if self._is_closed:
            self._begin_slot(rows)
        tables, dirty, bits, mask = self.tables, self._dirty, self._leaf_bits, self._leaves - 1
        entries: list[bytes | bytearray] = [self._slot]
        for place in self.changed:
            partition: PartitionId = place >> bits  # type: ignore[assignment]  # a call less
            at = ENTRY * (place & mask)
            entries += (place.to_bytes(_PLACE, "big"), tables[partition][at : at + ENTRY])
            if partition not in dirty:
                dirty[partition] = self._sequence
        self._slot = b"".join(entries)
        self.changed.clear()
        number = 1 + self._sequence % self._shape.slots
        row = self._sequence.to_bytes(_SEQUENCE, "big") + self._slot
        rows[number] = self._pack(number, row)
        self._is_closed = len(self._slot) >= self._shape.entries * (_PLACE + ENTRY)

    def _begin_slot(self, rows: dict[int, bytes]) -> None:
        """Takes the oldest slot for the next sequence number; folds what stands in it alone, and of
        the others that are half way to it as many as will do."""
        self._sequence += 1
        self._slot = b""
        slots = self._shape.slots
        pace = 1 + 2 * len(self.tables) // slots
        while self._dirty:
            partition, since = next(iter(self._dirty.items()))
            age = self._sequence - since
            if age < slots and (pace <= 0 or age < slots // 2):
                break
            del self._dirty[partition]
            pace -= 1
            number = self._fold_number(partition)
            row = self._sequence.to_bytes(_SEQUENCE, "big") + self.tables[partition]
            rows[number] = self._pack(number, row)

    def _head(self) -> bytes:
        bits = sum(1 << partition for partition in self.tables)
        bitmap = bits.to_bytes(self._partitions // 8, "little")
        head = [_FORMAT, self._partitions, self._leaves, self._shape.slots, bitmap]
        return self._pack(HEAD, encode(head))

    def _fold_number(self, partition: PartitionId) -> int:
        return self._shape.slots + 1 + partition

    def _pack(self, number: int, row: bytes) -> bytes:
        return self._checksum(number, row) + row

    def _unpack(self, number: int, row: bytes) -> bytes:
        if row[:_CRC] != self._checksum(number, row[_CRC:]):
            raise CorruptRecord(f"row {number} of the journal of sums is damaged")
        return row[_CRC:]

    def _checksum(self, number: int, row: bytes) -> bytes:
        seed = crc32(self._cluster_id + number.to_bytes(4, "big"))
        return crc32(row, seed).to_bytes(_CRC, "big")
