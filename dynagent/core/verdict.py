"""What has come of each partition of an exchange, and when it is done with.

A partition is **open** while something of it is: a node to be compared, a leaf to be listed, a key
at rest, a record on its way. When the last of it is closed its verdict is told, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from dynagent.core.ports import PartitionId

# What is counted of a partition, and summed up in reports.
FIGURES = ("keys", "differing", "sent", "fetched", "healed", "changed", "unreadable", "bytes")


class Verdict:
    """One partition, compared with one peer."""

    __slots__ = (
        "bytes",
        "changed",
        "differing",
        "fetched",
        "healed",
        "is_later",
        "keys",
        "partition",
        "sent",
        "unreadable",
    )

    def __init__(self, partition: PartitionId) -> None:
        self.partition = partition
        self.keys = 0  # compared: what our tree counts there
        self.differing = 0  # keys that differed twice
        self.sent = 0  # records to the peer
        self.fetched = 0  # records from it
        self.healed = 0  # keys that are equal now
        self.changed = 0  # keys that differed once: they are being written
        self.unreadable = 0  # keys of which one of us has no sound copy
        self.bytes = 0  # of hashes, keys, versions and records, either way
        self.is_later = False  # it differs, and is under comparison with another owner

    @property
    def is_verified(self) -> bool:
        """Are all keys equal, but those that are being written?"""
        return not self.is_later and not self.unreadable and self.healed == self.differing


class Progress:
    """The verdicts of one exchange that have not been told yet, and what is open of each."""

    def __init__(
        self,
        partitions: Iterable[PartitionId],
        count: Callable[[PartitionId], int],
        on_verdict: Callable[[float, Verdict], None],
    ) -> None:
        self.verdicts = {partition: Verdict(partition) for partition in partitions}
        self.spent_bytes = 0  # not yet charged to the background budget
        self.spent_records = 0
        self._open = Counter(dict.fromkeys(self.verdicts, 1))  # its root
        self._count = count
        self._on_verdict = on_verdict

    def of(self, partition: int) -> Verdict:
        return self.verdicts[PartitionId(partition)]

    def open(self, partition: int, count: int = 1) -> None:
        self._open[PartitionId(partition)] += count

    def close(self, now: float, partition: int, count: int = 1) -> None:
        """So much of it is done with."""
        at = PartitionId(partition)
        self._open[at] -= count
        assert self._open[at] >= 0
        if not self._open[at]:
            verdict = self.verdicts.pop(at)
            verdict.keys = self._count(at)
            self._on_verdict(now, verdict)

    def spend(self, partition: int, size: int, records: int = 0, *, charged: int = 0) -> None:
        """So many bytes went over the wire; `charged` is what they cost the budget, if more."""
        self.of(partition).bytes += size
        self.spent_bytes += max(size, charged)
        self.spent_records += records
