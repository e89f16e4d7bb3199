"""A node's disk: what it has made durable survives everything; what is under way is up to the dice.

One batch at a time is written. It becomes durable, and visible to readers, all at once, and only
some time later does the node learn of it. A power cut in between decides by dice whether the batch
is there; a killed process leaves its batch to the operating system, which may still write it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

from dynagent.core.entry import Record, decode_stored
from dynagent.core.ports import Batch, NodeId, Reader, Token
from dynagent.core.ring import Ring, token_of
from dynagent.core.siblings import Clock, join
from dynagent.core.tombstones import TOMBSTONES
from dynagent.errors import CorruptRecord
from dynagent.store.memory import MemoryStore
from dynagent.testing.copies import NO_COPY, Copy
from dynagent.testing.debts import Debts, owed_targets
from dynagent.testing.ledger import Ledger
from dynagent.testing.rings import VOTE_ROW, Rings
from dynagent.testing.world import Stream, World

LANDS_AFTER_KILL = 0.7
LANDS_AFTER_POWER_CUT = 0.5
SLOWEST_S = 3.0  # of one batch: a run must come to its end


class Disk:
    """The store of one node, and the batch that is on its way there."""

    def __init__(
        self, *, world: World, ledger: Ledger, node: NodeId, rings: Rings, batch_s: float
    ) -> None:
        self.on_job_row: Callable[[NodeId, bytes], None] = lambda node, row: None
        self.on_vote_row: Callable[[bytes], None] = lambda row: None
        self.on_landed: Callable[[int], None] = lambda batch: None
        self.debts = Debts(world=world, ledger=ledger, node=node, ring=rings.present)
        self.store = MemoryStore()
        self.slowness = 1.0
        self.is_busy = False
        self.is_full = False
        self._world = world
        self._ledger = ledger
        self._node = node
        self._rings = rings
        self._cluster_id = rings.present.cluster_id
        self._batch_s = batch_s
        self._dice: Stream = world.stream(f"disk {node}")
        self.purging: dict[int, set[bytes]] = {}  # by batch: tombstones that go in it
        self._under_way: tuple[Batch, Ring, list[tuple[bytes, Record]]] | None = None
        self._gathered_under: Ring | None = None  # while the batch before was under way
        self.taken: dict[bytes, Clock] = {}  # of all that has ever been on its way here
        self._versions: dict[bytes, tuple[bytes, float]] = {}  # digest, and since when
        self._generation = 0

    def submit(
        self, batch: Batch, ring: Ring, done: Callable[[Batch], None], refused: Callable[[], None]
    ) -> None:
        """Makes `batch`, which was made under that ring, durable, then calls `done`; or `refused`
        if there is no room for it, and nothing of it is there. Neither, if the node has died
        meanwhile."""
        assert not self.is_busy
        self.is_busy = True
        records = []
        for _token, key, stored in batch.records:
            if not stored:
                continue
            record = decode_stored(stored, cluster_id=self._cluster_id, key=key)
            self._ledger.see(key, [s.data for s in record.value.siblings], record.value.clock)
            records.append((key, record))
            self.taken[key] = join(self.taken.get(key, {}), record.value.clock)
        self._under_way = (batch, ring, records)
        delay_s = min(SLOWEST_S, self._batch_s * self.slowness * (0.5 + self._dice.random()))
        self._world.after(delay_s, self._written, self._generation, done, refused)

    def _written(
        self, generation: int, done: Callable[[Batch], None], refused: Callable[[], None]
    ) -> None:
        if generation == self._generation and self._under_way is not None:
            batch = self._under_way[0]
            if self.is_full:
                self._under_way = None
                self.is_busy = False
                self.debts.forget()
                self.purging.clear()
                self._world.fault("disk_full", f"{self._node[:2]} batch {batch.number}")
                refused()
                return
            self._land()
            # The commit thread's news waits for the event loop's next turn.
            turn_s = self._dice.random() * 0.001
            self._world.after(turn_s, self._report, generation, batch, done)

    def _land(self) -> None:
        assert self._under_way is not None
        batch, ring, records = self._under_way
        self._under_way = None
        self.store.write(batch)
        self.on_landed(batch.number)
        self._world.log(f"{self._node[:2]} disk: batch {batch.number} is durable")
        for target, token, key, is_owed in hints_of(batch):
            if is_owed:
                self._world.faults["hint"] += 1
            else:
                # It may have been turned while the batch before was under way, under that one's
                # ring: the target owned the key no more, and does again (seed 2457, where a change
                # was taken back and the next one began). A new owner copies from the old ones.
                rings = [one for one in (self._gathered_under, ring) if one is not None]
                lists = [one.all_owners(one.partition_of(token)) for one in rings]
                owners = next((owners for owners in lists if target not in owners), lists[-1])
                self._ledger.on_hint_removed(self._node, target, key, owners=owners)
        self._gathered_under = ring
        digests = {key: record.digest for key, record in records}
        for _token, key, _stored in batch.records:
            self._note_version(key, digests.get(key, b""))
        purged = self.purging.pop(batch.number, set())
        for key in sorted(purged):
            self._ledger.on_purged(self._node, key)
        delivered = {key for _, _, key, is_owed in hints_of(batch) if not is_owed}
        for token, key, stored in batch.records:
            if not stored and key not in purged:
                partition = ring.partition_of(token)
                if key not in delivered and not ring.owns(self._node, partition):
                    self._ledger.on_handed_over(self._node, key, ring.lists[partition])
                owes = owes_any(self.store, token, key)
                self._ledger.on_dropped(self._node, key, owes=owes)
        anew = may_be_anew(batch, ring, self._node)
        for key, record in records:
            self._rings.on_record(self._node, key)
            self._ledger.on_durable(self._node, key, record, may_be_anew=key in anew)
        self.debts.on_landed(self.store, batch, ring)
        for name, row in batch.meta:
            self._rings.on_row(self._node, name, row, ring)
            if name.startswith("job/"):
                self.on_job_row(self._node, row)
            elif name == VOTE_ROW:
                self.on_vote_row(row)

    def _report(self, generation: int, batch: Batch, done: Callable[[Batch], None]) -> None:
        if generation == self._generation:
            self.is_busy = False
            done(batch)

    def stop(self, *, lands: float) -> None:
        """The process is gone; what was under way lands with that probability."""
        if self._under_way is not None and self._dice.random() < lands:
            self._land()
        self.debts.forget()
        self.purging.clear()
        self._under_way = None
        self.is_busy = False
        self._generation += 1

    def copy(self) -> MemoryStore:
        """All that is durable now."""
        return deepcopy(self.store)

    def put_back(self, store: MemoryStore) -> None:
        """What is durable becomes what was so once; the node is dead."""
        assert not self.is_busy
        self.store = store

    def version(self, key: bytes) -> tuple[bytes, float]:
        """The digest of the copy that is durable (b"": none), and since when it is that."""
        return self._versions.get(key, (b"", 0.0))

    def _note_version(self, key: bytes, digest: bytes) -> None:
        if self.version(key)[0] != digest:
            self._versions[key] = (digest, self._world.now)

    def lose(self, keys: Sequence[bytes]) -> None:
        """Those records are gone, without a trace but in the sums of the trees."""
        batch = Batch(0)
        for key in keys:
            if self.version(key)[0]:
                batch.records.append((token_of(key), key, b""))
                self._note_version(key, b"")
                self._ledger.on_lost(self._node, key)
        self.store.write(batch)

    def lose_sums(self) -> None:
        """The journal of the sums is gone; the node is dead."""
        batch = Batch(0)
        batch.sums.append((0, b""))
        self.store.write(batch)

    def copy_of(self, token: Token, key: bytes) -> Copy:
        """What a good copy here holds; nothing if it is none, or flagged unknown."""
        stored = self.store.get(token, key)
        if stored is None:
            return NO_COPY
        try:
            record = decode_stored(stored, cluster_id=self._cluster_id, key=key)
        except CorruptRecord:
            return NO_COPY
        return NO_COPY if record.unknown else (record.value.clock, frozenset(record.value.dots()))

    def rot(self, token: Token, key: bytes) -> bool:
        """Flips one bit of a stored record; False if there is none."""
        stored = self.store.get(token, key)
        if stored is None:
            return False
        damaged = bytearray(stored)
        place = self._dice.randrange(8 * len(stored))
        damaged[place // 8] ^= 1 << place % 8
        batch = Batch(0)
        batch.records.append((token, key, bytes(damaged)))
        self.store.write(batch)
        self._ledger.on_rot(self._node, key)
        return True

    def lose_row(self, token: Token, key: bytes) -> bool:
        """A row vanishes, and nobody is told; False if there is none."""
        if self.store.get(token, key) is None or self._under_way is not None:
            return False
        batch = Batch(0)
        batch.strays.append((token, key))
        self.store.write(batch)
        self._note_version(key, b"")
        self._ledger.on_row_lost(self._node, key)
        return True

    def misplace(self, token: Token, key: bytes, elsewhere: Token) -> bool:
        """A row moves to another token, and nobody is told; False if there is none."""
        stored = self.store.get(token, key)
        if stored is None or not self.lose_row(token, key):
            return False
        batch = Batch(0)
        batch.records.append((elsewhere, key, stored))
        self.store.write(batch)
        return True


def may_be_anew(batch: Batch, ring: Ring, node: NodeId) -> set[bytes]:
    """Keys whose copy `node` may have dropped in this batch, and been given again in it: it has
    settled a hint of them, and does not own them."""
    settled = {key for _, _, key, is_owed in hints_of(batch) if not is_owed}
    return {key for key in settled if not ring.owns(node, ring.partition_of(token_of(key)))}


def owes_any(store: Reader, token: Token, key: bytes) -> bool:
    """Is that key owed to anybody?"""
    return any(store.has_hint(target, token, key) for target in owed_targets(store))


def hints_of(batch: Batch) -> list[tuple[NodeId, Token, bytes, bool]]:
    """Those among its markers that are hints."""
    return [hint for hint in batch.hints if hint[0] != TOMBSTONES]
