"""What one node owes others, as its disk knows it: told by what it notes, checked by what arrives.

A hint names a key; a dirty partition names none. So it is noted here for which keys the core has
kept either, and what its own copy was when that became durable. When all is quiet the target must
hold that (`owed_arrives`), whatever has become of hint and mark on the way. And after every batch
the figures of the bounds are counted anew (`hints_are_counted`).
"""

from __future__ import annotations

from collections.abc import Iterable

from dynagent.core.entry import decode_stored
from dynagent.core.hints import DURABLE, ROW, decode_row, decode_tallies
from dynagent.core.ports import Batch, NodeId, PartitionId, Reader, Token
from dynagent.core.ring import Ring, token_of
from dynagent.core.tombstones import TOMBSTONES
from dynagent.store.memory import MemoryStore
from dynagent.testing.ledger import Ledger
from dynagent.testing.world import World


def owed_targets(store: Reader) -> list[NodeId]:
    """Who is owed anything. (The markers of tombstones lie among the hints.)"""
    return [target for target in store.hint_counts() if target != TOMBSTONES]


class Debts:
    """The debts of one node, over all of its lives."""

    def __init__(self, *, world: World, ledger: Ledger, node: NodeId, ring: Ring) -> None:
        self._world = world
        self._ledger = ledger
        self._node = node
        self._ring = ring  # that the node had when it made the last batch
        self._waiting: list[tuple[int, NodeId, bytes]] = []  # for that batch
        self._marks: set[tuple[NodeId, PartitionId]] = set()

    def owe(self, targets: Iterable[NodeId], key: bytes, number: int) -> None:
        """The core keeps hints, durable with that batch."""
        self._waiting += [(number, target, key) for target in targets]
        if number == DURABLE:
            self._enter(DURABLE)

    def on_landed(self, store: MemoryStore, batch: Batch, ring: Ring) -> None:
        """A batch is durable, made under that ring; the ledger knows its records."""
        self._ring = ring
        self._enter(batch.number)
        rows = [value for name, value in batch.meta if name == ROW]
        for row in rows:
            marks = {(node, at) for node, places in decode_row(row)[2].items() for at in places}
            self._world.faults["dirty"] += len(marks - self._marks)
            self._world.faults["walked"] += len(self._marks - marks)
            self._marks = marks
        if rows or batch.hints:
            self._recount(store)

    def forget(self) -> None:
        """What was on its way is lost: a death, or a full disk."""
        self._waiting.clear()

    def _enter(self, number: int) -> None:
        for at, target, key in self._waiting:
            if at <= number:
                self._ledger.on_owed(self._node, target, key)
        self._waiting = [debt for debt in self._waiting if debt[0] > number]

    def _recount(self, store: MemoryStore) -> None:
        """What lies in a partition that was given up counted as its own before: it is left out.
        Once the ring has changed, hints may have been turned, for their targets own the keys no
        longer: then copies lie here that nothing counts, until they are handed over."""
        former = decode_tallies(store.get_meta(ROW))[0]
        copies = sum(
            len(decode_stored(stored, cluster_id=self._ring.cluster_id, key=key).content)
            for token, key, stored in store.scan(Token(bytes(16)), Token(b"\xff" * 16))
            if not self._owns(key) and self._ring.partition_of(token) not in former
        )
        least = copies if self._ring.epoch == 1 else 0
        targets = owed_targets(store)
        own = sum(
            self._owns(key) for target in targets for _, key in store.hints(target, b"", 1_000)
        )
        told = decode_row(store.get_meta(ROW))[:2]
        if not targets:
            told = (0, 0)  # whatever they were: both begin anew
        self._world.verdicts.check(
            "hints_are_counted",
            least <= told[0] <= copies and told[1] == own,
            f"{self._node} counts {told} bytes and markers: {(copies, own)}",
        )

    def _owns(self, key: bytes) -> bool:
        return self._ring.owns(self._node, self._ring.partition_of(token_of(key)))
