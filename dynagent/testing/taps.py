"""Taps on a node's replica: what it owes, purges and writes of its own, as it happens.

Its disk shows what came of that, and not why: which keys are owed behind a mark of a whole
partition, whether a record was purged or dropped, who has minted a dot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dynagent.core.entry import ABSENT, Record
from dynagent.core.messages import Put
from dynagent.core.ports import NodeId, Token
from dynagent.core.replica import Replica
from dynagent.core.siblings import Clock
from dynagent.testing.disk import Disk


def tap(replica: Replica, disk: Disk, on_write: Callable[[bytes], None]) -> None:
    """From now on the disk is told of debts and purges, and `on_write` of each key that this node
    coordinates a write of."""
    owe, purge, write = replica.owe, replica.purge, replica.write

    def owing(targets: Iterable[NodeId], key: bytes, token: Token) -> int:
        owed = list(targets)
        number = owe(owed, key, token)
        disk.debts.owe(owed, key, number)
        return number

    def purging(key: bytes, token: Token, digest: bytes, barrier: int) -> int:
        before = replica.newest(key, token)
        number = purge(key, token, digest, barrier)
        if replica.newest(key, token) is ABSENT and before is not ABSENT:
            disk.purging.setdefault(number, set()).add(key)
        return number

    def writing(
        put: Put, token: Token, old: Record, context: Clock, wall_ms: int
    ) -> tuple[Record, int]:
        on_write(put.key)
        return write(put, token, old, context, wall_ms)

    replica.owe = owing  # type: ignore[method-assign]
    replica.purge = purging  # type: ignore[method-assign]
    replica.write = writing  # type: ignore[method-assign]
