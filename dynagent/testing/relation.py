"""Who has superseded whom: the relation on which the judges of a history rest.

A write w **supersedes** an earlier write v if w took effect and

- w carried a context and its client had v in hand with it; or
- w was an overwrite, v was invoked before w could no longer take effect, and w's clock covers v.

A write that is nowhere must have been superseded by one that is there, or by a chain of such, or by
a delete. What a client had in hand is known without looking at any clock of the product, so a clock
that claims too much is found out.
"""

from __future__ import annotations

from dynagent.core.messages import MODE_BLIND, MODE_CONTEXT
from dynagent.testing.history import DELETE, GET, PUT, History, Operation
from dynagent.testing.ledger import Ledger, Sighting, is_covered


class Relation:
    """All operations on one key."""

    def __init__(self, key: bytes, history: History, ledger: Ledger) -> None:
        self._ledger = ledger
        self.sightings = ledger.sightings.get(key, {})
        self.operations = history.of_key(key)
        self.gets = [op for op in self.operations if op.kind == GET and op.is_ok]
        self.puts = [op for op in self.operations if op.kind == PUT]
        self.writers = {put.number: put for put in self.puts}
        self.acked = [op for op in self.operations if op.is_write and op.is_ok]
        effective = [op for op in self.operations if self.took_effect(op) is not None]
        self._supersedes = {
            put.number: [w for w in effective if self._superseded_by(put, w)] for put in self.puts
        }

    def dots(self, operation: Operation) -> list[Sighting]:
        return self._ledger.minted.get(operation.number, [])

    def took_effect(self, operation: Operation) -> int | None:
        """Since when (order) this write may have superseded others; None: it never has."""
        if operation.kind == PUT and (dots := self.dots(operation)):
            return dots[0].order
        is_applied = operation.is_ok or operation.number in self._ledger.applied
        return operation.invoked_order if operation.kind == DELETE and is_applied else None

    def _superseded_by(self, put: Operation, write: Operation) -> bool:
        if put is write or write.mode == MODE_BLIND:
            return False
        if write.mode == MODE_CONTEXT:
            return put.number in write.hand
        if put.invoked >= write.ended:
            return False
        if write.kind == DELETE:
            # Each attempt may have deleted what it saw; only the last one tells what that was.
            is_told = write.reply_clock is not None and len(write.attempts) == 1
            clocks = [write.reply_clock or {}] if is_told else []
        else:
            clocks = [sighting.clock for sighting in self.dots(write)]
        dots = [sighting.dot for sighting in self.dots(put)]
        if put.reply_dot is not None:  # superseded in the batch that minted it: never seen
            dots.append(put.reply_dot)
        return not clocks or any(is_covered(dot, clock) for dot in dots for clock in clocks)

    def is_explained(self, put: Operation, before_order: int) -> bool:
        """May `put` have been superseded by then?"""
        for write in self._supersedes[put.number]:
            since = self.took_effect(write)
            if since is not None and since < before_order:
                return True
        return False

    def leads_to(self, put: Operation, left: set[int], before_order: int = 1 << 62) -> bool:
        """Is it left, or was it superseded by a chain of writes up to one that is, or a delete?"""
        seen = {put.number}
        todo = [put]
        while todo:
            write = todo.pop()
            if write.kind == DELETE or write.number in left:
                return True
            for heir in self._supersedes[write.number]:
                since = self.took_effect(heir)
                if heir.number not in seen and since is not None and since < before_order:
                    seen.add(heir.number)
                    todo.append(heir)
        return False
