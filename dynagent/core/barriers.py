"""The purge barriers of this node: some numbers for each partition, which outlive its data.

    barrier   where this node stands: it grows by one, when all that may hold content of the
              partition stand just before (`core.tombstones` tells why)
    least     what was read under less is refused; a stand-in raises it when it moves, an owner when
              all have moved
    placed    `Ring.placed` at its last move: under another ring that move is **void**, and nothing
              is purged before the next one; 0: it has taken the barrier from others

A partition is **foreign** to a node that has never moved there and does not own it, once the ring
has changed: others may refuse what it knows nothing of. Before it keeps anything there for others
it takes up where an owner stands (`core.newcomer`).

Both are written in the batch that changes them. Until that batch is durable there are two views:

- what is **read** now is read under the *committed* barrier: after a crash this node stands there
  again, and what it has sent under a higher one could then come back under it;
- what **changes** now changes under the *newest* one, and what is **refused** is what the newest
  `least` says: both err to the careful side if the batch is lost.

The rows are named `barriers/0`, `barriers/1`, …, each for 64 partitions, so that a move rewrites
little. Where nothing was ever purged there is no row, and `has_moved` spares the hot path the rest.
"""

from __future__ import annotations

from dynagent.core.encoding import decode, encode
from dynagent.core.listing import partition_range
from dynagent.core.ports import Batch, NodeId, PartitionId, Reader, Token
from dynagent.core.ring import FIRST, Ring
from dynagent.core.tombstones import (
    least_after_close,
    least_after_move,
    must_refuse,
    since_after,
)
from dynagent.errors import CorruptRecord, ProtocolError, StaleBarrier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROW = "barriers/"
_ROW_PARTITIONS = 64  # a row of some 300 bytes


def row_names(partitions: int) -> list[str]:
    """All named rows of a ring of so many partitions."""
    return [f"{ROW}{first // _ROW_PARTITIONS}" for first in range(0, partitions, _ROW_PARTITIONS)]


_Standing = tuple[int, int, int]  # barrier, least, placed
_NOWHERE: _Standing = (0, 0, 0)


class Barriers:
    """Where this node stands in each partition, and what it refuses there."""

    def __init__(self, reader: Reader) -> None:
        self.has_moved = False  # any barrier is over 0, here or on its way to the disk
        self.highest_least = 0  # what was read under no less is refused nowhere
        self._reader = reader
        self._shift = 32  # before it serves: one partition
        self._barriers = [0]
        self._leasts = [0]
        self._committed = [0]
        self._placed = [0]
        self._present = FIRST  # `Ring.placed` of our ring
        self._owned: frozenset[PartitionId] = frozenset()
        self._listed: frozenset[PartitionId] = frozenset()  # owned, and not only to be
        self._settled: set[PartitionId] = set()  # known not to be foreign, whatever the rows say
        # What batches that are not yet durable change: number → partition → what it is then.
        self._pending: dict[int, dict[PartitionId, _Standing]] = {}
        self._durable: dict[PartitionId, _Standing] = {}  # of those that have ever moved

    def serve(self, ring: Ring, node_id: NodeId, owned: frozenset[PartitionId]) -> None:
        """Learns what this node owns, and reads where it stands; raises `CorruptRecord`."""
        self._shift = 33 - ring.partitions.bit_length()
        self._barriers = [0] * ring.partitions
        self._learn(ring, node_id, owned)
        for first in range(0, ring.partitions, _ROW_PARTITIONS):
            row = self._reader.get_meta(f"{ROW}{first // _ROW_PARTITIONS}")
            for place, standing in enumerate(decode_row(row)):
                if standing != _NOWHERE:
                    self._durable[PartitionId(first + place)] = standing
        self._go_back()

    def on_ring(self, ring: Ring, node_id: NodeId, owned: frozenset[PartitionId]) -> None:
        """The ring is another; where this node stands, and what it refuses, stays so."""
        self._settled |= self._listed
        self._learn(ring, node_id, owned)

    def _learn(self, ring: Ring, node_id: NodeId, owned: frozenset[PartitionId]) -> None:
        self._owned = owned
        self._listed = frozenset(at for at in owned if node_id in ring.lists[at])
        self._present = ring.placed

    # --- what reading and changing ask -----------------------------------------------------------

    def partition_of(self, token: Token) -> PartitionId:
        """As `Coordinator.owners_of`: what `ring.partition_of` says, without its arithmetic."""
        return PartitionId(int.from_bytes(token[:4], "big") >> self._shift)

    def range_of(self, partition: PartitionId) -> tuple[Token, Token]:
        """The first and the last token of a partition."""
        return partition_range(len(self._barriers), partition)

    def read_under(self, token: Token) -> int:
        """The barrier that goes with whatever is read of our copy of that key *now*; it stays with
        that content, however much later it is sent. (0 unless `has_moved`: that may be asked first,
        to spare a call.)"""
        return self._committed[int.from_bytes(token[:4], "big") >> self._shift]

    def since(self, token: Token) -> int:
        """The barrier under which a copy changes that is changed now; 0 unless `has_moved`."""
        return since_after(self._barriers[int.from_bytes(token[:4], "big") >> self._shift])

    def check(self, token: Token, read_under: int) -> None:
        """Raises `StaleBarrier` for content that must not be merged here."""
        partition = int.from_bytes(token[:4], "big") >> self._shift
        least = self._leasts[partition]
        if must_refuse(least, read_under):
            raise StaleBarrier(
                f"read under barrier {read_under} of partition {partition}, which is at {least} "
                "here: it must be read again"
            )

    # --- what moving and purging ask -------------------------------------------------------------

    def standing(self, partition: PartitionId) -> int:
        """Where this node stands, for good: durably."""
        return self._committed[partition]

    def closed(self, partition: PartitionId) -> int:
        """What was read before that barrier is refused, durably."""
        return self._durable.get(partition, _NOWHERE)[1]

    def is_void(self, partition: PartitionId) -> bool:
        """It has not moved to where it stands under the present placement of members."""
        return self._durable.get(partition, _NOWHERE)[2] != self._present

    def newest(self, partition: PartitionId) -> int:
        """The same, moves on their way to the disk included."""
        return self._barriers[partition]

    def owns(self, partition: PartitionId) -> bool:
        return partition in self._owned

    def move(self, batch: Batch, partition: PartitionId, to: int) -> None:
        least = least_after_move(self._leasts[partition], to, owns=partition in self._owned)
        self._note(batch, partition, (to, least, self._present))

    def is_foreign(self, partition: PartitionId) -> bool:
        """Others may have moved there without this node, and refuse what it would take."""
        return (
            self._present != FIRST
            and partition not in self._owned
            and partition not in self._settled
            and not self._durable.get(partition, _NOWHERE)[2]
        )

    def settle(self, partition: PartitionId) -> None:
        """It is not foreign any more."""
        self._settled.add(partition)

    def close(self, batch: Batch, partition: PartitionId, barrier: int) -> None:
        """All that may hold copies stand at that barrier."""
        least = least_after_close(self._leasts[partition], barrier)
        if least != self._leasts[partition]:
            self._note(
                batch, partition, (self._barriers[partition], least, self._placed[partition])
            )

    def adopt(self, batch: Batch, partition: PartitionId, barrier: int, least: int) -> None:
        """A new owner stands where the owners stand that it has fenced, and refuses what they do:
        its own numbers are of a time when it had no part in this partition, or less. So does who
        holds nothing there (`core.newcomer`). It is no move: nothing is purged by that."""
        before = (self._barriers[partition], self._leasts[partition])
        standing = (max(before[0], barrier), max(before[1], least))
        if standing != before:
            self._note(batch, partition, (*standing, 0))

    def _note(self, batch: Batch, partition: PartitionId, standing: _Standing) -> None:
        self._pending.setdefault(batch.number, {})[partition] = standing
        self._take(partition, standing)

    def _take(self, partition: PartitionId, standing: _Standing) -> None:
        self._barriers[partition], self._leasts[partition], self._placed[partition] = standing
        self.has_moved = True
        self.highest_least = max(self.highest_least, standing[1])

    # --- group commit ----------------------------------------------------------------------------

    @property
    def newest_batch(self) -> int:
        """The batch that makes everything here durable; 0 if it is."""
        return max(self._pending, default=0)

    @property
    def is_dirty(self) -> bool:
        """Is anything not yet committed?"""
        return bool(self._pending)

    def has_news(self, batch: Batch) -> bool:
        return batch.number in self._pending

    def seal(self, batch: Batch) -> None:
        """The batch is about to be written: adds the rows that have changed."""
        changed = {at // _ROW_PARTITIONS for at in self._pending.get(batch.number, ())}
        for row in sorted(changed):
            first = row * _ROW_PARTITIONS
            barriers = self._barriers[first : first + _ROW_PARTITIONS]
            leasts = self._leasts[first : first + _ROW_PARTITIONS]
            placed = self._placed[first : first + _ROW_PARTITIONS]
            batch.meta.append((f"{ROW}{row}", encode([barriers, leasts, placed])))

    def on_committed(self, batch: Batch) -> None:
        for partition, standing in self._pending.pop(batch.number, {}).items():
            self._durable[partition] = standing
            self._committed[partition] = standing[0]

    def on_refused(self) -> None:
        """Nothing that was on its way has come to the disk."""
        if self._pending:
            self._pending.clear()
            self._go_back()

    def _go_back(self) -> None:
        """What is durable is all there is."""
        count = len(self._barriers)
        self._barriers, self._leasts, self._committed = [0] * count, [0] * count, [0] * count
        self._placed = [0] * count
        self.has_moved, self.highest_least = False, 0
        for partition, standing in self._durable.items():
            self._take(partition, standing)
            self._committed[partition] = standing[0]


def decode_row(row: bytes | None) -> list[_Standing]:
    """Barrier, least and placed of 64 partitions; raises `CorruptRecord`."""
    if row is None:
        return []
    try:
        fields: Any = decode(row)
        barriers, leasts, placed, *_newer = fields
        rows = zip(barriers, leasts, placed, strict=True)
        return [(int(barrier), int(least), int(under)) for barrier, least, under in rows]
    except (ProtocolError, TypeError, ValueError) as exc:
        raise CorruptRecord(f"a row of purge barriers is damaged: {exc}") from exc
