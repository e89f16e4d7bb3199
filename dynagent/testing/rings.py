"""Which rings there have been, and their judge (design §6).

It looks at a node's ring after each event that may have changed it, and knows them all:

    one_ring         whoever has a ring of some epoch has the same one, byte for byte
    epoch_grows      a node's epoch never falls, across its deaths too
    kept_as_planned  a record comes to no disk but of who is or was an owner or a fallback of its
                     partition, in any ring that there has been

`present` is the newest ring that anybody has. What was decided is counted by kind, for the totals.
"""

from __future__ import annotations

from typing import Protocol

from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.preference import fallbacks
from dynagent.core.ring import JOINT_NEW, Owners, Ring, token_of
from dynagent.core.ringcodec import encode_ring
from dynagent.testing.world import World


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
        self._last: dict[NodeId, Ring] = {}  # that each node had when it was looked at
        self._owners: list[set[NodeId]] = [set() for _ in first.lists]  # at any time
        self._keepers: list[set[NodeId]] = [set() for _ in first.lists]  # fallbacks too
        self._note(first)

    @property
    def epochs(self) -> int:
        """How many there have been."""
        return len(self._seen)

    @property
    def is_settled(self) -> bool:
        return self.present.change is None

    def partition_of(self, key: bytes) -> PartitionId:
        return self.present.partition_of(token_of(key))

    def owners_of(self, key: bytes) -> Owners:
        """By the newest ring."""
        return self.present.lists[self.partition_of(key)]

    def look(self, host: Host) -> None:
        """Something has happened at a node that may have changed its ring."""
        ring = host.ring
        last = self._last.get(host.id)
        if ring is None or ring is last:
            return
        self._last[host.id] = ring
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
            self._count(self.present, ring)
            self.present = ring
            self._note(ring)

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
        for number in range(ring.partitions):
            partition = PartitionId(number)
            owners = ring.all_owners(partition)
            self._owners[number].update(owners)
            self._keepers[number].update(owners, fallbacks(ring, partition))

    def _count(self, before: Ring, after: Ring) -> None:
        """What has been decided meanwhile, as far as two rings can tell."""
        faults = self._world.faults
        old, new = before.change, after.change
        if new is not None and (old is None or old.index != new.index):
            faults["change"] += 1
            faults[f"change_{new.verb}"] += 1
        if old is not None and new is not None and old.index == new.index:
            moved = {move.partition: move.phase for move in old.moves}
            entered = [m for m in new.moves if m.phase == JOINT_NEW and moved[m.partition] == 0]
            faults["phase_1"] += bool(entered)
        if old is not None and (new is None or new.index != old.index):
            given_up = any(after.changed[move.partition] != old.index for move in old.moves)
            faults["aborted" if given_up else "settled"] += 1
        faults["voters"] += before.voters != after.voters
        faults["policy"] += before.policies != after.policies
        gone = {m.id for m in before.members}.difference(m.id for m in after.members)
        faults["retired"] += len(gone.intersection(before.leaving))


def _age(ring: Ring) -> tuple[int, int]:
    return ring.lineage, ring.epoch
