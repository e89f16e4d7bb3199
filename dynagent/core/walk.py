"""A walk through a dirty partition: all of this node's records there, handed over page by page.

Past their bound owners' hints are no longer kept one by one: of each target only the partition is
noted in which it has missed something (`core.hints`). Its delivery is a walk. Merkle repair will
compare first and send less; a walk compares nothing, so it needs nobody's help.

    dirty ──▶ page of records ──▶ Merge ──ack──▶ next page … end ──▶ cleared, or walked again
                    ▲               └─failure, no answer─▶ pause     if more is owed by now
                    └──────────────────────────────────────┘

What holds:

- The mark goes only after the target has acknowledged, durably, every record that was committed
  here when the walk began. Whatever is owed in a later batch keeps the mark, and is walked again.
- An unreadable copy is no source: it gets a hint of its own, in the batch that clears the mark.
- A crash of this node forgets the walk, not the mark: it begins anew.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.entry import encode_entry
from dynagent.core.listing import partition_range
from dynagent.core.ports import NodeId, PartitionId, Token
from dynagent.core.replica import Replica


class Walk:
    """One walk for one target: `page`, then `advance` when it is durable there; `finish`."""

    __slots__ = ("_after", "_replica", "_since", "_up_to", "partition", "target", "unreadable")

    def __init__(self, replica: Replica, target: NodeId, partition: PartitionId) -> None:
        self.target = target
        self.partition = partition
        self.unreadable: dict[bytes, Token] = {}
        self._replica = replica
        self._since = replica.hints.committed
        self._after = b""  # the place up to which the target has everything
        self._up_to = b""  # the end of the page under way

    def page(self, partitions: int, room: int) -> tuple[list[list[object]], list[int]]:
        """The entries of the next Merge and their barriers; none at the end. Raises `CorruptRecord`
        if the engine cannot read on."""
        first, last = partition_range(partitions, self.partition)
        entries: list[list[object]] = []
        barrier = self._replica.barriers.read_under(first)  # all of it is read in this call
        size = 0
        for token, key, record in self._replica.survey.scan(first, last, self._after):
            if record.unknown:
                self.unreadable[key] = token
            elif record.value.clock:
                entries.append(encode_entry(key, record))
                size += len(record.content)
            self._up_to = token + key
            if size >= room or len(entries) >= limits.HINT_PAGE_ROWS:
                break
        return entries, [barrier] * len(entries)

    def advance(self) -> None:
        self._after = self._up_to

    def finish(self) -> bool:
        """The target has it all; False if more is owed there by now."""
        rows = [(token, key) for key, token in self.unreadable.items()]
        return self._replica.settle_partition(self.target, self.partition, rows, since=self._since)
