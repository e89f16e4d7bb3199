"""The minimum stamp of each partition: below it this node takes and tells nothing (design §6).

What nodes ask each other about a partition carries the stamp of the ring under which they ask: the
change that concerned it last, and its phase (`core.ring`). A coordinator that was paused, or cut
off, may ask under an old one for as long as it likes, and count what old owners answer. So before
the owners of a partition change, enough of them are **fenced**: each raises its minimum, for good,
and answers only when that and all that it had accepted before are on its disk. From then on the old
coordinator cannot find W of the old owners any more (or R, for the second fence).

    minimum ≤ stamp ≤ that of our own ring    taken; a lower stamp than our ring's may do no harm
                                              before the fence
    stamp < minimum                           refused, with our epoch: the sender looks for the ring
    stamp > that of our ring                  refused too: we may own more, or less, than we know

What holds:

- A minimum only grows, and outlives the partition's data: a node that gives a partition up, and is
  given it again, still knows what it once refused.
- **A fence never runs ahead of the log**: it is raised only to a stamp of a ring that this node
  has. Otherwise a change that is never decided would leave a partition without owners that answer.
- Until the batch of a fence is durable it is refused already what it will refuse: that errs to the
  careful side if the batch is lost.

Example. Partition 5 is settled at (1, 2), and moves by entry 7. A new owner fences two of the three
old ones at (7, 0). A put that started under (1, 2) has one acknowledgement; the other two refuse
it, so it never has W=2 under that stamp, and aims again.

The rows are named `stamps/0`, `stamps/1`, …, each for 64 partitions. A ring that never changed has
none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynagent.core.encoding import decode, encode
from dynagent.core.ports import Batch, PartitionId, Reader
from dynagent.core.ring import Ring, Stamp
from dynagent.errors import CorruptRecord, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROW = "stamps/"
_ROW_PARTITIONS = 64  # a row of some 300 bytes
_NONE: Stamp = (0, 0)  # below every stamp


def is_taken(stamp: Stamp, *, minimum: Stamp, known: Stamp) -> bool:
    """Whether a request under `stamp` may be taken; `known`: the stamp of our own ring."""
    return minimum <= stamp <= known


class Stamps:
    """What this node refuses, and what it knows."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: tuple[Stamp, ...] = ()
        self._minimums: list[Stamp] = []
        # What batches that are not yet durable raise: number → partition → the minimum then.
        self._pending: dict[int, dict[PartitionId, Stamp]] = {}
        self._durable: dict[PartitionId, Stamp] = {}  # of those that were ever raised

    def serve(self, ring: Ring) -> None:
        """Learns the ring; the first time also what was raised; raises `CorruptRecord`. To be
        called for every ring, when it is durable here."""
        self._known = ring.stamps
        if self._minimums:
            return
        for first in range(0, ring.partitions, _ROW_PARTITIONS):
            row = self._reader.get_meta(f"{ROW}{first // _ROW_PARTITIONS}")
            for place, minimum in enumerate(decode_row(row)):
                if minimum != _NONE:
                    self._durable[PartitionId(first + place)] = minimum
        self._go_back()

    def check(self, partition: PartitionId, stamp: Stamp) -> bool:
        """Whether a request under that stamp may be taken here."""
        return is_taken(stamp, minimum=self._minimums[partition], known=self._known[partition])

    def minimum(self, partition: PartitionId) -> Stamp:
        """What is refused below, what is on its way to the disk included."""
        return self._minimums[partition]

    def fenced(self, partition: PartitionId) -> Stamp:
        """What is refused below for good: durably."""
        return self._durable.get(partition, _NONE)

    def raise_to(self, batch: Batch, partition: PartitionId, stamp: Stamp) -> None:
        """From now on, and durably with the batch, refuses what is below. The stamp is one of a
        ring that this node has; the minimum stays if it is higher."""
        assert stamp <= self._known[partition]
        minimum = max(stamp, self._minimums[partition])
        self._pending.setdefault(batch.number, {})[partition] = minimum
        self._minimums[partition] = minimum

    # --- group commit ----------------------------------------------------------------------------

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
            minimums = self._minimums[first : first + _ROW_PARTITIONS]
            batch.meta.append((f"{ROW}{row}", _encode_row(minimums)))

    def on_committed(self, batch: Batch) -> None:
        self._durable.update(self._pending.pop(batch.number, {}))

    def on_refused(self) -> None:
        """Nothing that was on its way has come to the disk."""
        if self._pending:
            self._pending.clear()
            self._go_back()

    def _go_back(self) -> None:
        """What is durable is all there is."""
        self._minimums = [_NONE] * len(self._known)
        for partition, minimum in self._durable.items():
            self._minimums[partition] = minimum


# --- the rows ------------------------------------------------------------------------------------


def row_names(partitions: int) -> list[str]:
    """All named rows of a ring of so many partitions."""
    return [f"{ROW}{first // _ROW_PARTITIONS}" for first in range(0, partitions, _ROW_PARTITIONS)]


def rows_at(ring: Ring, kept: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    """The rows of a node that refuses whatever is older than that ring, or than its own rows that
    it has `kept`: for a store that may have lost some. (Whoever forgets its minimum, and goes on
    under its name, helps old coordinators to stale reads.)"""
    rows = []
    for name, first in zip(
        row_names(ring.partitions), range(0, ring.partitions, _ROW_PARTITIONS), strict=True
    ):
        minimums = list(ring.stamps[first : first + _ROW_PARTITIONS])
        for place, own in enumerate(decode_row(kept.get(name))):
            minimums[place] = max(minimums[place], own)
        rows.append((name, _encode_row(minimums)))
    return rows


def _encode_row(minimums: Sequence[Stamp]) -> bytes:
    """Changes, then phases."""
    return encode([[change for change, _ in minimums], [phase for _, phase in minimums]])


def decode_row(row: bytes | None) -> list[Stamp]:
    """The minimums of 64 partitions; raises `CorruptRecord`."""
    if row is None:
        return []
    try:
        fields: Any = decode(row)
        changes, phases, *_newer = fields
        return [(int(change), int(phase)) for change, phase in zip(changes, phases, strict=True)]
    except (ProtocolError, TypeError, ValueError) as exc:
        raise CorruptRecord(f"a row of minimum stamps is damaged: {exc}") from exc
