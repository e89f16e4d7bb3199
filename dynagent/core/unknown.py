"""What this node does not know any more of its own copies, and wants healed (design §3).

    unreadable   a copy that fails its checksum: neither a value nor its absence
    flagged      a copy that was unreadable once, and has been merged into since: what it lost is
                 still lost
    hollow       a partition of which records may be missing, and nobody can say which: a page of
                 the engine was lost, or its file was rebuilt. "No record" is no answer there either

All three count neither for R nor as a source, until this node has merged what N−W+1 *other* owners
hold (`core.heal`). Whoever meets such a copy (a read, a merge, a walk, a scrub) notes it here.

Keys are noted in memory, a bounded number of them; past that only their partition. What is on the
disk is one named row, written with the batch that changes it: the partitions with such copies
(**suspect**), and the hollow ones. After a restart the suspect ones are scrubbed first, which finds
their copies again. So the work survives, and costs one small row for each partition that rots, not
a row for each key.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.hints import bitmap, partitions_of
from dynagent.core.ports import Batch, PartitionId, Reader, Token
from dynagent.core.ring import Ring
from dynagent.errors import CorruptRecord, ProtocolError, Unhealthy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROW = "unknown"  # the named row: [bitmap of suspect partitions, bitmap of hollow ones]


class Unknown:
    """Copies and partitions that wait to be healed."""

    def __init__(self, reader: Reader) -> None:
        self.keys: dict[bytes, Token] = {}  # the oldest first
        self.hollow: set[PartitionId] = set()
        self.unscanned: set[PartitionId] = set()  # suspect, and their keys are not all in `keys`
        self.suspect: set[PartitionId] = set()
        self.met = 0  # copies since the start
        self.healed = 0  # likewise
        self.clashes = 0  # dots that had two values, likewise
        self.clashed: deque[bytes] = deque(maxlen=limits.HEAL_KEYS_TOLD)  # the last such keys
        self._counts: Counter[PartitionId] = Counter()  # of `keys`
        self._reader = reader
        self._shift = 0
        self._changed_in = 0  # the batch of the newest row
        self._is_unwritten = False  # it was refused

    def serve(self, ring: Ring) -> None:
        """Learns the partitions, and what the run before has left."""
        self._shift = 33 - ring.partitions.bit_length()
        self._load()

    def partition_of(self, token: Token) -> PartitionId:
        return PartitionId(int.from_bytes(token[:4], "big") >> self._shift)

    def is_hollow(self, token: Token) -> bool:
        """Might a record that is not there have been lost?"""
        return self.partition_of(token) in self.hollow

    def check_whole(self, partition: int) -> None:
        """Raises `Unhealthy` if records of it may be missing here: a page of what is left would
        pass for all that this node has acknowledged."""
        if partition in self.hollow:
            raise Unhealthy(
                f"records of partition {partition} are missing on this agent, and being healed "
                f"from the other owners; see: dynctl doctor"
            )

    @property
    def is_empty(self) -> bool:
        return not self.keys and not self.hollow and not self.unscanned

    # --- what is met -----------------------------------------------------------------------------

    def meet(self, batch: Batch, token: Token, key: bytes) -> bool:
        """A copy is unreadable or flagged; True if that is news. `batch`: the open one."""
        if not self._shift or key in self.keys:
            return False
        partition = self.partition_of(token)
        if len(self.keys) >= limits.HEAL_KEYS_MAX:
            self.unscanned.add(partition)
        else:
            self.met += 1
            self.keys[key] = token
            self._counts[partition] += 1
        if partition not in self.suspect:
            self.suspect.add(partition)
            self._changed_in = batch.number
        return True

    def meet_clash(self, key: bytes, dots: int) -> None:
        """So many dots had two values: a cloned store, or a bug (design §5). Both are kept."""
        self.clashes += dots
        if key not in self.clashed:
            self.clashed.append(key)

    def meet_hollow(self, batch: Batch, partitions: Iterable[PartitionId]) -> None:
        """Records of these partitions may be missing."""
        for partition in partitions:
            if partition not in self.hollow:
                self.hollow.add(partition)
                self._changed_in = batch.number

    # --- what is known again ---------------------------------------------------------------------

    def on_healed(self, batch: Batch, key: bytes) -> None:
        """The copy is whole again, or gone, and that is durable."""
        token = self.keys.pop(key, None)
        if token is not None:
            self.healed += 1
            partition = self.partition_of(token)
            self._counts[partition] -= 1
            self._settle(batch, partition)

    def postpone(self, key: bytes) -> None:
        """That key is the last one now."""
        if (token := self.keys.pop(key, None)) is not None:
            self.keys[key] = token

    def on_scanned(self, batch: Batch, partition: PartitionId) -> None:
        """All of a partition has been looked at; what was met there is noted."""
        self.unscanned.discard(partition)
        self._settle(batch, partition)

    def on_filled(self, batch: Batch, partition: PartitionId) -> None:
        """Nothing is missing in a hollow partition any more."""
        self.hollow.discard(partition)
        self._changed_in = batch.number

    def waiting_in(self, partition: PartitionId) -> int:
        """Keys there that wait."""
        return self._counts[partition]

    def _settle(self, batch: Batch, partition: PartitionId) -> None:
        is_over = not self._counts[partition] and partition not in self.unscanned
        if is_over and partition in self.suspect:
            self.suspect.discard(partition)
            self._changed_in = batch.number

    # --- group commit ----------------------------------------------------------------------------

    def has_news(self, batch: Batch) -> bool:
        """Would `seal` add a row?"""
        return self._changed_in == batch.number

    def seal(self, batch: Batch) -> None:
        """The batch is about to be written: adds the row, if it has changed."""
        if self._changed_in == batch.number or self._is_unwritten:
            self._is_unwritten = False
            batch.meta.append((ROW, encode_row(self.suspect, self.hollow)))

    def on_refused(self) -> None:
        """Nothing that was on its way has come to the disk: what is known stays known here, and is
        written along with whatever is written next."""
        self._changed_in = 0
        self._is_unwritten = True

    def _load(self) -> None:
        try:
            row = self._reader.get_meta(ROW)
            suspect, hollow = decode_row(row)
        except CorruptRecord:
            # Which partitions it named is lost too: all are looked at again.
            count = 1 << (32 - self._shift)
            suspect, hollow = set(map(PartitionId, range(count))), set()
        self.suspect, self.hollow = suspect, hollow
        self.unscanned = set(suspect)

    def document(self) -> dict[str, object]:
        """For the status of this node."""
        return {
            "waiting": len(self.keys),
            "met": self.met,
            "healed": self.healed,
            "suspect": len(self.suspect),
            "hollow": len(self.hollow),
            "clashes": self.clashes,
            "clashed": list(self.clashed),
            "keys": list(self.keys)[: limits.HEAL_KEYS_TOLD],
        }


def encode_row(suspect: set[PartitionId], hollow: set[PartitionId]) -> bytes:
    return encode([bitmap(suspect), bitmap(hollow)])


def decode_row(row: bytes | None) -> tuple[set[PartitionId], set[PartitionId]]:
    """Suspect and hollow partitions; raises `CorruptRecord`."""
    if row is None:
        return set(), set()
    try:
        fields: Any = decode(row)
        suspect, hollow, *_newer = fields
        return partitions_of(suspect), partitions_of(hollow)
    except (ProtocolError, TypeError, ValueError, IndexError) as exc:
        raise CorruptRecord(f"the row of unknown partitions is damaged: {exc}") from exc
