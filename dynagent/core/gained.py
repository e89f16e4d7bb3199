"""A partition that this node gains (`core.transfer`): how far it is, and the row that keeps that.

The row is written when the partition has been adopted, after each pass, and when it is ready.
"""

from __future__ import annotations

from dynagent.core.copying import Figures, Pass
from dynagent.core.encoding import decode, encode
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Stamp
from dynagent.errors import CorruptRecord, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FENCING, ADOPTING, COPYING, SEALING, READY = "fencing", "adopting", "copying", "sealing", "ready"
ROW = "transfer/{}"


class Gained:
    """A partition in phase 0 of which this node is a new owner."""

    __slots__ = (
        *("done", "due", "excepted", "fenced", "figures", "needed", "partition", "pause_s"),
        *("problem", "records", "running", "stamp", "state"),
    )

    def __init__(self, partition: PartitionId, stamp: Stamp, needed: int) -> None:
        self.partition = partition
        self.stamp = stamp
        self.needed = needed  # N−W+1
        self.state = FENCING
        self.fenced: dict[NodeId, tuple[int, int]] = {}  # → its barrier and floor
        self.done: list[NodeId] = []  # passes that are over
        self.excepted: dict[NodeId, set[bytes]] = {}  # of these: keys of which it was not sure
        self.running: Pass | None = None
        self.figures = Figures()
        self.records = 0  # the most that a source has told
        self.due = 0.0
        self.pause_s = 0.0  # after the last failure
        self.problem = ""  # why it does not go on

    @property
    def is_copied(self) -> bool:
        """Have enough sources been sure of every key?"""
        if len(self.done) < self.needed:
            return False
        unsure = set().union(*self.excepted.values()) if self.excepted else set()
        return all(
            sum(key not in self.excepted.get(source, ()) for source in self.done) >= self.needed
            for key in unsure
        )

    def row(self) -> bytes:
        """What a crash must not lose."""
        sure = [node for node in self.done if not self.excepted.get(node)]
        fields = [
            list(self.stamp),
            [[node, *standing] for node, standing in self.fenced.items()],
            sure,
            self.state == SEALING,
            self.records,
            self.figures.records,
            self.figures.bytes,
        ]
        return encode(fields)

    def restore(self, row: bytes | None) -> None:
        """What a row says, if it is of the same stamp. Raises `CorruptRecord`."""
        if not row:
            return
        try:
            fields: Any = decode(row)
            stamp, fenced, done, is_ready, total, records, size, *_newer = fields
            if tuple(stamp) != self.stamp:
                return
            self.fenced = {NodeId(node): (int(one), int(other)) for node, one, other in fenced}
            self.done = [NodeId(node) for node in done]
            self.records = int(total)
            self.figures.records, self.figures.bytes = int(records), int(size)
            self.state = READY if is_ready else COPYING
        except (ProtocolError, TypeError, ValueError) as exc:
            raise CorruptRecord(f"the row of a transfer is damaged: {exc}") from exc
