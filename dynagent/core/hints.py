"""Hints: for whom this node keeps a copy that they should have (Dynamo §4.6).

A hint is only a marker (target, key): the copy itself lies among the ordinary records, changes
through the one door, and answers reads. So any number of writes to a key that is owed make one
hint, and its delivery is a Merge of what the copy is by then. There are two kinds:

- a **stand-in's**: this node is no owner of the key, it took the place of one that was down. The
  copy counted towards W, so it is data: it goes only when no marker holds it any more;
- an **owner's**: the record is this node's own, and the marker says who has missed it: an owner for
  whom nobody stood in, or a straggler. Losing the marker loses no write.

Both are bounded, each in its own way (design §5):

- the *bytes* of the copies that are here only for others. At the bound a stand-in refuses
  (`check_room`), and its coordinator asks the next one; what is kept stays;
- the *number* of owners' markers. Past it no key is marked any more but its whole partition: it is
  **dirty** for that target. Delivery walks it from end to end (`core.walk`) and clears the mark,
  unless another of its writes has been owed since the walk began.

Added markers are part of the batch that makes the copy durable, and a marker is removed only when
its target has acknowledged, durably, just the copy that is here now (`core.delivery`).

The committed markers are in the store; here are their number for each target, and those that are
on their way to the disk. The two figures and the dirty partitions are one named row, written with
the batch that changes them: they are right after every restart, and nothing is counted for them.
Only a copy that rots stays counted, at the most until no hint is left: then both begin at 0 again.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.ports import Batch, NodeId, PartitionId, Reader, Token
from dynagent.core.ring import Ring
from dynagent.core.tombstones import TOMBSTONES
from dynagent.errors import CorruptRecord, Overloaded, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DURABLE = 0  # the batch number of what needs no waiting
ROW = "hints"  # the named row: [bytes of copies, owners' markers, [[target, bitmap], …]]


class Hints:
    """The markers that this node keeps.

    `bytes_max`: of copies that are here for others; `own_max`: markers of an owner.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        bytes_max: int = limits.HINT_BYTES_DEFAULT_MAX,
        own_max: int = limits.OWNER_HINTS_DEFAULT_MAX,
    ) -> None:
        self.counts: dict[NodeId, int] = {}  # by target, those on their way to the disk included
        self.dirty: dict[NodeId, set[PartitionId]] = {}  # likewise
        self.copy_bytes = 0
        self.own = 0  # markers of records that are ours
        self.refused = 0  # copies, since the start: there was no room
        self.committed = DURABLE  # the newest batch that is
        self.bytes_max = bytes_max
        self._own_max = own_max
        self._reader = reader
        # (target, key) → is it kept, and since which batch
        self._overlay: dict[tuple[NodeId, bytes], tuple[bool, int]] = {}
        self._marking: dict[tuple[NodeId, PartitionId], int] = {}  # → the batch of the mark
        self._owed_in: dict[tuple[NodeId, PartitionId], int] = {}  # → the batch of its newest copy
        self._changed_in = DURABLE  # the batch of the newest row
        self.shift = 0
        self.mine: frozenset[PartitionId] | None = None  # before it serves: all
        self._recount()

    def serve(self, ring: Ring, node_id: NodeId) -> None:
        """Learns what this node owns; nothing is merged or owed before that."""
        self.shift = 33 - ring.partitions.bit_length()
        self.mine = frozenset(
            PartitionId(at) for at, owners in enumerate(ring.lists) if node_id in owners
        )

    @property
    def owned(self) -> frozenset[PartitionId]:
        return self.mine if self.mine is not None else frozenset()

    def owns(self, token: Token) -> bool:
        mine = self.mine
        return mine is None or int.from_bytes(token[:4], "big") >> self.shift in mine

    def _partition_of(self, token: Token) -> PartitionId:
        """As `Coordinator.owners_of`: what `ring.partition_of` says, without its arithmetic."""
        return PartitionId(int.from_bytes(token[:4], "big") >> self.shift)

    @property
    def targets(self) -> list[NodeId]:
        """Who is owed anything."""
        return sorted({*self.counts, *self.dirty})

    @property
    def is_dirty(self) -> bool:
        """Is anything not yet committed?"""
        return bool(self._overlay) or self._changed_in > self.committed

    # --- markers of keys -------------------------------------------------------------------------

    def is_kept(self, target: NodeId, token: Token, key: bytes) -> bool:
        overlaid = self._overlay.get((target, key))
        if overlaid is not None:
            return overlaid[0]
        return target in self.counts and self._reader.has_hint(target, token, key)

    def owed(self, token: Token, key: bytes) -> list[NodeId]:
        """Who is owed this key, or all of its partition; raises `CorruptRecord` if the engine
        cannot tell."""
        partition = self._partition_of(token)
        return [
            target
            for target in self.targets
            if partition in self.dirty.get(target, ()) or self.is_kept(target, token, key)
        ]

    def add(
        self, batch: Batch, target: NodeId, token: Token, key: bytes, *, copy_in: int = DURABLE
    ) -> int:
        """Keeps a marker, of the key or of its partition; returns the batch that makes it
        durable. `copy_in`: the batch that makes our copy durable."""
        if self.is_kept(target, token, key):
            return self._overlay.get((target, key), (True, DURABLE))[1]
        if self.owns(token):
            partition = self._partition_of(token)
            if self.own >= self._own_max or partition in self.dirty.get(target, ()):
                return self._mark(batch, target, partition, copy_in)
        return self.add_key(batch, target, token, key)

    def add_key(self, batch: Batch, target: NodeId, token: Token, key: bytes) -> int:
        """Keeps a marker of just this key, whatever the bound."""
        if not self.is_kept(target, token, key):
            self._note(batch, target, token, key, is_kept=True)
            self.counts[target] = self.counts.get(target, 0) + 1
        return batch.number

    def remove(self, batch: Batch, target: NodeId, token: Token, key: bytes) -> None:
        if self.is_kept(target, token, key):
            self._note(batch, target, token, key, is_kept=False)
            self.counts[target] -= 1
            if not self.counts[target]:
                del self.counts[target]
        if not self.counts:
            self.own = self.copy_bytes = 0

    def page(self, target: NodeId, after: bytes, count: int) -> list[tuple[Token, bytes]]:
        """The committed markers of a target behind a place (token and key), in that order.

        Raises `CorruptRecord` if the engine cannot read them.
        """
        return self._reader.hints(target, after, count)

    def _note(
        self, batch: Batch, target: NodeId, token: Token, key: bytes, *, is_kept: bool
    ) -> None:
        batch.hints.append((target, token, key, is_kept))
        self._overlay[target, key] = (is_kept, batch.number)
        if self.owns(token):
            self.own = max(0, self.own + (1 if is_kept else -1))
            self._changed_in = batch.number

    # --- marks of partitions ---------------------------------------------------------------------

    def _mark(self, batch: Batch, target: NodeId, partition: PartitionId, copy_in: int) -> int:
        """A copy in that partition is owed. One that is durable may have become so only in the
        newest batch: a walk that began before it may have missed it."""
        place = (target, partition)
        self._owed_in[place] = max(copy_in, self.committed)
        partitions = self.dirty.setdefault(target, set())
        if partition not in partitions:
            partitions.add(partition)
            self._marking[place] = self._changed_in = batch.number
        return self._marking.get(place, DURABLE)

    def clear(self, batch: Batch, target: NodeId, partition: PartitionId, *, since: int) -> bool:
        """The target has every write there that was durable in the batch `since`; False if more is
        owed by now, and the mark stays."""
        place = (target, partition)
        if partition not in self.dirty.get(target, ()):
            return True  # the batch of the mark was refused
        if self._owed_in.get(place, DURABLE) > since:
            return False
        self._owed_in.pop(place, None)
        self.dirty[target].discard(partition)
        if not self.dirty[target]:
            del self.dirty[target]
        self._changed_in = batch.number
        return True

    # --- copies that are here for others ---------------------------------------------------------

    def check_room(self, size: int, copies: int = 1) -> None:
        """Raises `Overloaded` if so many bytes more are too many."""
        if size and self.copy_bytes + size > self.bytes_max:
            self.refused += copies
            raise Overloaded(
                f"this agent keeps {self.copy_bytes:,} bytes for nodes that are away, and may keep "
                f"{self.bytes_max:,} (hint_bytes_max); see: dynctl hints ls"
            )

    def resize(self, batch: Batch, by: int) -> None:
        """A copy of a key that we do not own has grown, or shrunk."""
        if by:
            self.copy_bytes = max(0, self.copy_bytes + by)
            self._changed_in = batch.number

    # --- group commit ----------------------------------------------------------------------------

    def seal(self, batch: Batch) -> None:
        """The batch is about to be written: adds the row, if it has changed."""
        if self._changed_in == batch.number:
            marks = [[target, bitmap(self.dirty[target])] for target in sorted(self.dirty)]
            batch.meta.append((ROW, encode([self.copy_bytes, self.own, marks])))

    def has_news(self, batch: Batch) -> bool:
        """Would `seal` add a row?"""
        return self._changed_in == batch.number

    def on_committed(self, batch: Batch) -> None:
        self.committed = batch.number
        for target, _token, key, _is_kept in batch.hints:
            overlaid = self._overlay.get((target, key))
            if overlaid is not None and overlaid[1] == batch.number:
                del self._overlay[target, key]
        if self._marking:
            self._marking = {at: in_ for at, in_ in self._marking.items() if in_ > batch.number}

    def on_refused(self) -> None:
        """Nothing that was on its way has come to the disk."""
        self._overlay.clear()
        self._marking.clear()
        self._changed_in = DURABLE
        self._recount()

    def _recount(self) -> None:
        counts = self._reader.hint_counts()
        counts.pop(TOMBSTONES, None)  # markers too, but nobody is owed them
        self.counts = {target: count for target, count in counts.items() if count}
        copy_bytes, own, self.dirty = decode_row(self._reader.get_meta(ROW))
        self.copy_bytes, self.own = (copy_bytes, own) if self.counts else (0, 0)


def decode_row(row: bytes | None) -> tuple[int, int, dict[NodeId, set[PartitionId]]]:
    """The named row: bytes of copies, owners' markers, dirty partitions; raises `CorruptRecord`."""
    if row is None:
        return 0, 0, {}
    try:
        figures: Any = decode(row)
        copy_bytes, own, marks, *_newer = figures
        dirty = {NodeId(target): partitions_of(bits) for target, bits in marks}
        return int(copy_bytes), int(own), dirty
    except (ProtocolError, TypeError, ValueError) as exc:
        raise CorruptRecord(f"the row of dirty partitions is damaged: {exc}") from exc


def bitmap(partitions: set[PartitionId]) -> bytes:
    """One bit for each, of as many bytes as it takes."""
    bits = bytearray(max(partitions, default=-1) // 8 + 1)
    for partition in partitions:
        bits[partition // 8] |= 1 << partition % 8
    return bytes(bits)


def partitions_of(bits: bytes) -> set[PartitionId]:
    """What `bitmap` has written down."""
    return {PartitionId(at) for at in range(8 * len(bits)) if bits[at // 8] >> at % 8 & 1}
