"""Which rings there have been, and their judge (design §6).

It looks at a node's ring after each event that may have changed it, and knows them all:

    one_ring         whoever has a ring of some epoch has the same one, byte for byte; and whoever
                     keeps the entry of some index, the same one
    epoch_grows      a node's epoch never falls, across its deaths too
    fences_grow      the minimum stamps on a disk never fall, across deaths too
    fences_follow    and none is over that of a ring which the node had
    copied_first     the log decides phase 1 of a partition when each of its new owners has written
                     down that it has copied it
    newcomers_wait   who is new among the owners of a partition writes nothing of its own there
                     before the log has decided that it may (phase 1)
    kept_as_planned  a record comes to no disk but of who is or was an owner or a fallback of its
                     partition, in any ring that there has been

`present` is the newest ring that anybody has. What was decided is counted by kind, for the totals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dynagent.core.encoding import decode
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.preference import fallbacks
from dynagent.core.ring import JOINT_NEW, JOINT_OLD, SETTLED, Owners, Ring, token_of
from dynagent.core.ringcodec import encode_ring
from dynagent.core.ringentry import (
    ChangeEntry,
    Content,
    PhaseEntry,
    RetireEntry,
    decode_log_entry,
)
from dynagent.testing.ledger import Lists
from dynagent.testing.world import World

STAMPS_ROW, PARTITIONS_IN_ROW = "stamps/", 64  # of core/stamps.py
ENTRY_ROW, VOTE_ROW = "ringlog/", "ringlog/vote"  # of core/logrows.py and core/acceptor.py
TRANSFER_ROW = "transfer/"  # of core/gained.py


class Host(Protocol):
    """A node as the judge sees it."""

    id: NodeId

    @property
    def ring(self) -> Ring | None:
        """That its present life has; None while it is dead, or belongs to no cluster."""


class Rings:
    """All of them, and who has which."""

    def __init__(self, world: World, first: Ring) -> None:
        self.present = first
        self._world = world
        self._seen: dict[tuple[int, int], bytes] = {}  # by lineage and epoch
        self._entries: dict[int, bytes] = {}  # of the log, by index
        self.tenures: list[tuple[float, Ring]] = []  # since when which was the newest
        self.retired: set[NodeId] = set()  # leavers that are members no longer
        self._minimums: dict[tuple[NodeId, int], tuple[int, int]] = {}  # on the disks
        self._copied: set[tuple[NodeId, int, int]] = set()  # who has, which, for which change
        # Of each node: the rings that it has had, each with when it was first seen (order).
        self._had: dict[NodeId, list[tuple[int, Ring]]] = {}
        self._owners: list[set[NodeId]] = [set() for _ in first.lists]  # at any time
        self._keepers: list[set[NodeId]] = [set() for _ in first.lists]  # fallbacks too
        self.on_newest: Callable[[Ring, Ring], None] = lambda before, ring: None
        self._note(first)

    @property
    def epochs(self) -> int:
        """How many there have been."""
        return len(self._seen)

    @property
    def is_settled(self) -> bool:
        return self.present.change is None

    def forget(self, node: NodeId) -> None:
        """Its store is put back from a backup: it knows less than it knew."""
        self._had.pop(node, None)
        for at in [at for at in self._minimums if at[0] == node]:
            del self._minimums[at]

    def partition_of(self, key: bytes) -> PartitionId:
        return self.present.partition_of(token_of(key))

    def owners_of(self, key: bytes) -> Owners:
        """By the newest ring."""
        return self.present.lists[self.partition_of(key)]

    def lists_of(self, key: bytes) -> list[tuple[float, Lists]]:
        """Where a put of it needs W by the newest ring, and since when that is so."""
        partition = self.partition_of(key)
        return [(since, ring.write_lists(partition)) for since, ring in self.tenures]

    def look(self, host: Host) -> None:
        """Something has happened at a node that may have changed its ring."""
        ring = host.ring
        had = self._had.setdefault(host.id, [])
        last = had[-1][1] if had else None
        if ring is None or ring is last:
            return
        had.append((self._world.order(), ring))
        if last is not None:
            self._world.verdicts.check(
                "epoch_grows",
                _age(ring) >= _age(last),
                f"{host.id[:2]} had the ring of epoch {last.epoch}, and has that of {ring.epoch}",
            )
        encoded = encode_ring(ring)
        known = self._seen.setdefault(_age(ring), encoded)
        self._world.verdicts.check(
            "one_ring",
            known == encoded,
            f"{host.id[:2]} has another ring of epoch {ring.epoch} than was seen before",
        )
        if _age(ring) > _age(self.present):
            self._world.log(f"{host.id[:2]} is the first with the ring of epoch {ring.epoch}")
            before, self.present = self.present, ring
            self._check_copied(before, ring)
            self._note(ring)
            self.on_newest(before, ring)

    def minimum(self, node: NodeId, partition: int) -> tuple[int, int]:
        """The stamp below which its disk says that it refuses what concerns a partition."""
        return self._minimums.get((node, partition), (0, 0))

    def on_row(self, node: NodeId, name: str, row: bytes, ring: Ring) -> None:
        """A named row has come to the disk of `node`, which had that ring when it made it."""
        if name.startswith(ENTRY_ROW) and name != VOTE_ROW:
            self._on_entry(node, row)
        elif name.startswith(STAMPS_ROW):
            self._on_stamps(node, name, row, ring)
        elif name.startswith(TRANSFER_ROW) and row:
            stamp, _fenced, _done, is_copied, *_ = _decode(row)
            if is_copied:
                assert isinstance(stamp, list)
                self._copied.add((node, int(name.removeprefix(TRANSFER_ROW)), stamp[0]))

    def _check_copied(self, before: Ring, ring: Ring) -> None:
        for partition, move in ring.moves.items():
            old = before.moves.get(partition)
            if move.phase != JOINT_NEW or (old is not None and old.phase == JOINT_NEW):
                continue
            assert ring.change is not None
            for node in ring.new_owners(partition):
                is_copied = (node, partition, ring.change.index) in self._copied
                what = f"partition {partition} enters phase 1, and {node[:2]} has not copied it"
                self._check("copied_first", is_copied, what)

    def _on_stamps(self, node: NodeId, name: str, row: bytes, ring: Ring) -> None:
        first = PARTITIONS_IN_ROW * int(name.removeprefix(STAMPS_ROW))
        changes, phases, *_ = _decode(row)
        assert isinstance(changes, list)
        assert isinstance(phases, list)
        for number, minimum in enumerate(zip(changes, phases, strict=True), first):
            what = f"{node[:2]} refuses partition {number} below {minimum}"
            before = self.minimum(node, number)
            self._check("fences_grow", minimum >= before, f"{what}, and did so below {before}")
            stamp = ring.stamps[number]
            self._check("fences_follow", minimum <= stamp, f"{what}; its ring is at {stamp}")
            self._minimums[node, number] = minimum

    def on_write(self, host: Host, key: bytes) -> None:
        """A node mints a dot, or deletes."""
        partition, node, ring = self.partition_of(key), host.id, host.ring
        assert ring is not None
        move = ring.moves.get(partition)
        is_new = move is not None and move.phase == JOINT_OLD and node in ring.new_owners(partition)
        self._check("newcomers_wait", not is_new, f"{node[:2]} writes {key!r} in phase 0")

    def _check(self, checker: str, holds: bool, what: str) -> None:
        self._world.verdicts.check(checker, holds, what)

    def _on_entry(self, node: NodeId, row: bytes) -> None:
        index, _before, entry, *_ = _decode(row)
        assert isinstance(index, int)
        assert isinstance(entry, bytes)
        known = self._entries.get(index)
        self._world.verdicts.check(
            "one_ring",
            known in (None, entry),
            f"{node[:2]} has another entry {index} than was seen before",
        )
        if known is None:
            self._entries[index] = entry
            content = decode_log_entry(entry).content
            if isinstance(content, RetireEntry):
                self.retired.update(content.nodes)
            self._world.fault(_kind_of(content), f"is entry {index}")

    def since(self, node: NodeId, order: int) -> list[Ring]:
        """The rings that a node has had from then on."""
        had = self._had.get(node, [])
        first = max((at for at, (since, _) in enumerate(had) if since <= order), default=0)
        return [ring for _, ring in had[first:]]

    def on_record(self, node: NodeId, key: bytes) -> None:
        """A record has come to the disk of `node`."""
        partition = self.partition_of(key)
        self._world.verdicts.check(
            "kept_as_planned",
            node in self._keepers[partition],
            f"{node} keeps {key!r} of partition {partition}, which it never was to own or keep",
        )

    def was_owner(self, node: NodeId, key: bytes) -> bool:
        """Whether it is or has ever been an owner of that key, by any ring."""
        return node in self._owners[self.partition_of(key)]

    def _note(self, ring: Ring) -> None:
        self._seen.setdefault(_age(ring), encode_ring(ring))
        self.tenures.append((self._world.now, ring))
        for number in range(ring.partitions):
            partition = PartitionId(number)
            owners = ring.all_owners(partition)
            self._owners[number].update(owners)
            self._keepers[number].update(owners, fallbacks(ring, partition))


def _kind_of(content: Content) -> str:
    """As it is counted."""
    if isinstance(content, ChangeEntry):
        return f"change_{content.verb.split()[0]}"
    if isinstance(content, PhaseEntry):
        return "settled" if content.phase == SETTLED else "phase_1"
    return type(content).__name__.removesuffix("Entry").lower()


def _decode(row: bytes) -> list[object]:
    found = decode(row)
    assert isinstance(found, list)
    return found


def _age(ring: Ring) -> tuple[int, int]:
    return ring.lineage, ring.epoch
