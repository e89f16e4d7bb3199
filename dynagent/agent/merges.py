"""Merges on their way out: those of one turn to the same owners leave as one frame.

A put alone is a frame to each owner. Under load a turn has twenty, and a frame of its own for each
cost a tenth of a put: a header, a check, a dispatch at either end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dynagent import limits
from dynagent.core.messages import Merge
from dynagent.core.ports import NodeId
from dynagent.wire.codec import encode_frame

Write = Callable[[NodeId, bytes], None]


class Merges:
    """Gathers the merges of a turn. `write` queues a frame to a peer."""

    __slots__ = ("_groups", "_write")

    def __init__(self, write: Write) -> None:
        self._write = write
        self._groups: dict[tuple[object, ...], _Group] = {}

    def add(self, targets: Sequence[NodeId], request_id: int, budget_ms: int, merge: Merge) -> None:
        """As `Effects.send`; it leaves at the next `flush`, or before it is too large."""
        key = (*targets, merge.stamp_change, merge.stamp_phase, merge.barrier)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(targets, request_id, budget_ms, merge)
        else:
            group.add(request_id, budget_ms, merge)
        if group.is_full:
            del self._groups[key]
            self._send(group)

    def flush(self) -> None:
        """Everything leaves."""
        if self._groups:
            groups, self._groups = self._groups, {}
            for group in groups.values():
                self._send(group)

    def _send(self, group: _Group) -> None:
        frame = encode_frame(group.merge, request_id=group.request_id, budget_ms=group.budget_ms)
        for target in group.targets:
            self._write(target, frame)


class _Group:
    """The first merge, into which the others are packed."""

    __slots__ = ("_bytes", "budget_ms", "merge", "request_id", "targets")

    def __init__(
        self, targets: Sequence[NodeId], request_id: int, budget_ms: int, merge: Merge
    ) -> None:
        self.targets = targets
        self.request_id = request_id
        self.budget_ms = budget_ms
        self.merge = Merge(
            merge.stamp_change, merge.stamp_phase, merge.barrier, list(merge.entries), []
        )
        self._bytes = _size(merge)

    def add(self, request_id: int, budget_ms: int, merge: Merge) -> None:
        self.budget_ms = max(self.budget_ms, budget_ms)
        self.merge.also.append(request_id)
        self.merge.entries += merge.entries
        self._bytes += _size(merge)

    @property
    def is_full(self) -> bool:
        return self._bytes >= limits.MERGES_BYTES_MAX or len(self.merge.also) >= limits.ACKS_MAX - 1


def _size(merge: Merge) -> int:
    return sum([len(entry[1]) for entry in merge.entries if isinstance(entry[1], bytes)])
