"""Hints: for whom this node keeps a copy that they should have (Dynamo §4.6).

A hint is only a marker (target, key): the copy itself lies among the ordinary records, changes
through the one door, and answers reads. So any number of writes to a key that is owed make one
hint, and its delivery is a Merge of what the copy is by then. There are two kinds:

- a **stand-in's**: this node is no owner of the key, it took the place of one that was down. The
  copy counted towards W, so it is data: it goes only when no marker holds it any more;
- an **owner's**: the record is this node's own, and the marker says who has missed it: an owner for
  whom nobody stood in, or a straggler. Losing the marker loses no write.

Added markers are part of the batch that makes the copy durable, and a marker is removed only when
its target has acknowledged, durably, just the copy that is here now (`core.delivery`).

The committed markers are in the store; here are their number for each target, and those that are
on their way to the disk.
"""

from __future__ import annotations

from dynagent.core.ports import Batch, NodeId, Reader, Token

DURABLE = 0  # the batch number of what needs no waiting


class Hints:
    """The markers that this node keeps."""

    def __init__(self, reader: Reader) -> None:
        self.counts: dict[NodeId, int] = {}  # by target, those on their way to the disk included
        self._reader = reader
        # (target, key) → is it kept, and since which batch
        self._overlay: dict[tuple[NodeId, bytes], tuple[bool, int]] = {}
        self._recount()

    @property
    def is_dirty(self) -> bool:
        """Is anything not yet committed?"""
        return bool(self._overlay)

    def is_kept(self, target: NodeId, token: Token, key: bytes) -> bool:
        overlaid = self._overlay.get((target, key))
        if overlaid is not None:
            return overlaid[0]
        return target in self.counts and self._reader.has_hint(target, token, key)

    def targets(self, token: Token, key: bytes) -> list[NodeId]:
        """Who is owed this key; raises `CorruptRecord` if the engine cannot tell."""
        return [target for target in sorted(self.counts) if self.is_kept(target, token, key)]

    def add(self, batch: Batch, target: NodeId, token: Token, key: bytes) -> int:
        """Keeps a marker; returns the batch that makes it durable."""
        if self.is_kept(target, token, key):
            return self._overlay.get((target, key), (True, DURABLE))[1]
        self._note(batch, target, token, key, is_kept=True)
        self.counts[target] = self.counts.get(target, 0) + 1
        return batch.number

    def remove(self, batch: Batch, target: NodeId, token: Token, key: bytes) -> None:
        if self.is_kept(target, token, key):
            self._note(batch, target, token, key, is_kept=False)
            self.counts[target] -= 1
            if not self.counts[target]:
                del self.counts[target]

    def page(self, target: NodeId, after: bytes, count: int) -> list[tuple[Token, bytes]]:
        """The committed markers of a target behind a place (token and key), in that order.

        Raises `CorruptRecord` if the engine cannot read them.
        """
        return self._reader.hints(target, after, count)

    def on_committed(self, batch: Batch) -> None:
        for target, _token, key, _is_kept in batch.hints:
            overlaid = self._overlay.get((target, key))
            if overlaid is not None and overlaid[1] == batch.number:
                del self._overlay[target, key]

    def on_refused(self) -> None:
        """Nothing that was on its way has come to the disk."""
        self._overlay.clear()
        self._recount()

    def _note(
        self, batch: Batch, target: NodeId, token: Token, key: bytes, *, is_kept: bool
    ) -> None:
        batch.hints.append((target, token, key, is_kept))
        self._overlay[target, key] = (is_kept, batch.number)

    def _recount(self) -> None:
        counts = self._reader.hint_counts()
        self.counts = {target: count for target, count in counts.items() if count}
