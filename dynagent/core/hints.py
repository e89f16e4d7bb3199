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

**The ring changes**: a partition that this node gains has its own copies from then on, and one that
it gives up, others'. So both figures are kept for each partition, and what is told is the sum over
those where it means something. What lies in a partition that was given up counted as ours before,
and nobody knows how much it is: it is **former** until it has been dropped, and is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.ports import Batch, NodeId, PartitionId, Reader, Token
from dynagent.core.tombstones import TOMBSTONES
from dynagent.errors import CorruptRecord, Overloaded, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DURABLE = 0  # the batch number of what needs no waiting
# The named row: [bytes of copies, owners' markers, [[target, bitmap], …], bitmap of the former
# partitions, [[partition, bytes of copies, markers], …]]
ROW = "hints"


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
        # By partition: bytes of copies that are here for others, and markers of its keys.
        self._bytes: dict[PartitionId, int] = {}
        self._markers: dict[PartitionId, int] = {}
        self.former: set[PartitionId] = set()  # given up, and not yet dropped
        self._given_up: dict[PartitionId, int] = {}  # → the batch whose row says that it is former
        self._is_unwritten = False  # the newest row was refused
        self._recount()

    def serve(self, batch: Batch, owned: frozenset[PartitionId], *, partitions: int) -> None:
        """Learns what this node owns; nothing is merged or owed before that. `batch`: the open
        one."""
        self.shift = 33 - partitions.bit_length()
        self._own(batch, owned, set())

    def on_ring(self, batch: Batch, owned: frozenset[PartitionId]) -> None:
        """It owns others from now on, in a ring of as many partitions."""
        if owned != self.mine:
            before = self.own
            self._own(batch, owned, set(self.owned - owned))
            if self.own != before:  # the row says it too
                self._changed_in = batch.number

    def note_former(self, batch: Batch, partitions: Iterable[PartitionId]) -> None:
        """They were given up at the end of the run before, which did not write that down. Or some
        of what lies there is explained by no hint any more: it is dropped as a former owner's."""
        if news := set(partitions).difference(self.former):
            self._own(batch, self.owned, news)

    def on_dropped(self, batch: Batch, partition: PartitionId) -> None:
        """Nothing is left here of a partition that was given up."""
        if partition in self.former:
            self.former.discard(partition)
            self._given_up.pop(partition, None)
            self._changed_in = batch.number

    def _own(self, batch: Batch, owned: frozenset[PartitionId], given_up: set[PartitionId]) -> None:
        self.mine = owned
        self._given_up.update(dict.fromkeys(given_up, batch.number))
        if self._sort():
            self._changed_in = batch.number

    def _sort(self) -> bool:
        """Counts as what we own now says; True if the row is another by that."""
        owned = self.owned
        former = self.former.union(self._given_up) - owned
        uncounted = owned | former
        is_news = former != self.former or not uncounted.isdisjoint(self._bytes)
        self.former = former
        self._bytes = {at: size for at, size in self._bytes.items() if at not in uncounted}
        self._sum_up()
        return is_news

    def _sum_up(self) -> None:
        self.copy_bytes = sum(self._bytes.values())
        mine = self.mine
        self.own = sum(count for at, count in self._markers.items() if mine is None or at in mine)

    @property
    def owned(self) -> frozenset[PartitionId]:
        return self.mine if self.mine is not None else frozenset()

    def owns(self, token: Token) -> bool:
        mine = self.mine
        return mine is None or int.from_bytes(token[:4], "big") >> self.shift in mine

    def is_guest(self, token: Token) -> bool:
        """Is a copy here for others only? Not one in a partition that has been given up, and is
        dropped as a whole."""
        return not self.owns(token) and self._partition_of(token) not in self.former

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
            self._bytes.clear()
            self._markers.clear()
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
        partition = self._partition_of(token)
        before = self._markers.get(partition, 0)
        count = max(0, before + (1 if is_kept else -1))
        self._markers[partition] = count
        if self.owns(token):
            self.own += count - before
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

    def turn(
        self, batch: Batch, target: NodeId, others: Iterable[NodeId], partition: PartitionId
    ) -> None:
        """A partition that is dirty for `target` is so for the others instead."""
        for other in others:
            self._mark(batch, other, partition, batch.number)
        self._owed_in.pop((target, partition), None)
        self.dirty[target].discard(partition)
        if not self.dirty[target]:
            del self.dirty[target]
        self._changed_in = batch.number

    # --- copies that are here for others ---------------------------------------------------------

    def check_room(self, size: int, copies: int = 1) -> None:
        """Raises `Overloaded` if so many bytes more are too many."""
        if size and self.copy_bytes + size > self.bytes_max:
            self.refused += copies
            raise Overloaded(
                f"this agent keeps {self.copy_bytes:,} bytes for nodes that are away, and may keep "
                f"{self.bytes_max:,} (hint_bytes_max); see: dynctl hints ls"
            )

    def resize(self, batch: Batch, token: Token, by: int) -> None:
        """A copy of a key that we do not own has grown, or shrunk."""
        partition = self._partition_of(token)
        if by and partition not in self.former:
            before = self._bytes.get(partition, 0)
            self._bytes[partition] = size = max(0, before + by)
            self.copy_bytes += size - before
            self._changed_in = batch.number

    # --- group commit ----------------------------------------------------------------------------

    def seal(self, batch: Batch) -> None:
        """The batch is about to be written: adds the row, if it has changed."""
        if self._changed_in == batch.number or self._is_unwritten:
            self._is_unwritten = False
            marks = [[target, bitmap(self.dirty[target])] for target in sorted(self.dirty)]
            tallies = [
                [at, self._bytes.get(at, 0), self._markers.get(at, 0)]
                for at in sorted({*self._bytes, *self._markers})
            ]
            row = [self.copy_bytes, self.own, marks, bitmap(self.former), tallies]
            batch.meta.append((ROW, encode(row)))

    def has_news(self, batch: Batch) -> bool:
        """Would `seal` add a row?"""
        return self._changed_in == batch.number

    def on_committed(self, batch: Batch) -> None:
        self.committed = batch.number
        for target, _token, key, _is_kept in batch.hints:
            overlaid = self._overlay.get((target, key))
            if overlaid is not None and overlaid[1] == batch.number:
                del self._overlay[target, key]
        if self._given_up:
            self._given_up = {at: in_ for at, in_ in self._given_up.items() if in_ > batch.number}
        if self._marking:
            self._marking = {at: in_ for at, in_ in self._marking.items() if in_ > batch.number}

    def on_refused(self) -> None:
        """Nothing that was on its way has come to the disk."""
        self._overlay.clear()
        self._marking.clear()
        self._changed_in = DURABLE
        self._recount()
        self._is_unwritten = self._sort()  # as the ring says, whatever the row does

    def _recount(self) -> None:
        counts = self._reader.hint_counts()
        counts.pop(TOMBSTONES, None)  # markers too, but nobody is owed them
        self.counts = {target: count for target, count in counts.items() if count}
        row = self._reader.get_meta(ROW)
        _, _, self.dirty = decode_row(row)
        self.former, self._bytes, self._markers = decode_tallies(row)
        if not self.counts:
            self._bytes, self._markers = {}, {}
        self._sum_up()


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


def decode_tallies(
    row: bytes | None,
) -> tuple[set[PartitionId], dict[PartitionId, int], dict[PartitionId, int]]:
    """The rest of it: former partitions; bytes of copies and markers of each. `CorruptRecord`."""
    if row is None:
        return set(), {}, {}
    try:
        figures: Any = decode(row)
        _, _, _, former, tallies, *_newer = figures
        sizes = {PartitionId(at): int(size) for at, size, _ in tallies if size}
        markers = {PartitionId(at): int(count) for at, _, count in tallies if count}
        return partitions_of(former), sizes, markers
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
