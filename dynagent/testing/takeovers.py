"""Have new owners what they must have, when the log lets them be read?

    owners_hold_all   when a partition is read from another list than before, any R of that list
                      hold every write of it that was acknowledged, with W or more

That is what fences and copying are for (design §6). What comes of it if they are not enough is a
stale read, and only while one more owner is away and a former one has not pushed yet what it holds:
in one run of thousands. This shows in any run in which an old owner has missed a write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dynagent.core.ports import NodeId
from dynagent.core.ring import Ring, token_of
from dynagent.core.siblings import Clock
from dynagent.testing.copies import Copy
from dynagent.testing.history import PUT, History, Operation
from dynagent.testing.ledger import Ledger, covers, is_covered
from dynagent.testing.world import World


class Takeovers:
    """Judges each ring when it is seen first."""

    def __init__(
        self,
        *,
        world: World,
        history: History,
        ledger: Ledger,
        keys: Sequence[bytes],
        copy_of: Callable[[NodeId, bytes], Copy],
    ) -> None:
        """`copy_of`: what the disk of a node holds of a key."""
        self._world = world
        self._history = history
        self._ledger = ledger
        self._keys = keys
        self._copy_of = copy_of

    def on_ring(self, before: Ring, ring: Ring) -> None:
        """`ring` follows `before`."""
        for key in self._keys:
            partition = ring.partition_of(token_of(key))
            readers = ring.read_list(partition)
            # Of a key that was damaged a copy does not count, or is gone with its disk.
            is_same = set(readers) == set(before.read_list(partition))
            if not is_same and key not in self._ledger.ever_rotten:
                self._judge(key, ring, readers)

    def _judge(self, key: bytes, ring: Ring, readers: Sequence[NodeId]) -> None:
        copies = {node: self._copy_of(node, key) for node in readers}
        for write in self._acknowledged(key, ring.w):
            lacking = [node[:2] for node, copy in copies.items() if not _tells_of(copy, write)]
            self._world.verdicts.check(
                "owners_hold_all",
                len(lacking) < min(ring.r, len(readers)),
                f"epoch {ring.epoch}: {', '.join(lacking)} of {[node[:2] for node in readers]}",
                f"lack {write.kind} {write.number} of {key!r}",
            )

    def _acknowledged(self, key: bytes, w: int) -> Iterator[Operation]:
        """Those of which only owners count; not what is gone with a tombstone."""
        purged = self._ledger.purged(key)
        for write in self._history.operations.values():
            is_promised = write.is_write and write.is_ok and write.strict and write.w >= w
            if write.key == key and is_promised and not covers(purged, _claim(write)):
                yield write


def _claim(write: Operation) -> Clock:
    """What a copy that has it has seen. (Nothing, of a put that a retry found superseded: it was
    told no dot.)"""
    if write.kind == PUT:
        return dict([write.reply_dot]) if write.reply_dot is not None else {}
    return write.clock


def _tells_of(copy: Copy, write: Operation) -> bool:
    """Has it seen that write; and of a delete, not the values any more that went by it?"""
    clock, dots = copy
    if not covers(clock, _claim(write)):
        return False
    return write.kind == PUT or not any(is_covered(dot, write.clock) for dot in dots)
