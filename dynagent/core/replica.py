"""The replica: this node's own copies, and the one door through which they change.

`merge` takes whole records from others (replication, and later repair, hints, transfer: all the
same); `write` is the coordinator's own put, which mints the dot and merges in the same batch.
Nothing else changes a record.

**Group commit.** Changes gather in the open batch. The shell takes it (`take_batch`), makes it
durable, and reports back (`on_committed`); one batch is under way at a time, and what arrives
meanwhile is the next one. An acknowledgement waits for the batch that holds its change: each
change returns a batch number, and `when_durable` queues the answer behind it.

**Two views.** Read-modify-write sees the **overlay** first: records that are submitted but not yet
committed. Clients and peers that read see only what is committed (`read`, from the cache if it is
there). A change that adds nothing still waits for an overlaid copy that it rests on: a Merge sent
again must not be acknowledged while the first one is unsynced.

**Minting** (design §3). A dot is (actor, counter); a clock entry {A: n} claims all of A's dots, so
only a copy that surely held them may add to it. The right to go on is the record's local mark
(actor, last counter, run). It holds in the run that set it and in runs joined to it by clean stops,
while the clock shows no higher counter. Otherwise (record absent, unreadable, merged from others,
after a crash) a new random actor starts at 1.

**Unknown records.** A copy that fails its checksum is neither a value nor absent. Merging into it
keeps the new bytes but not the lost ones, so it stays marked unknown: it counts neither for R nor
as a source until it is healed from the other owners.

**A full disk** refuses a batch whole (any other failed write stops the agent). Then nothing that is
not committed will ever be: the overlay goes, everybody who waited is told, and the actors that had
minted in it are burnt, since others may hold their dots by now and this copy does not. For a second
changes are refused up front; the next batch after that finds out whether there is room again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dynagent import limits
from dynagent.core.barriers import Barriers
from dynagent.core.cache import StoredCache
from dynagent.core.crowd import Crowd
from dynagent.core.entry import (
    ABSENT,
    UNREADABLE,
    Record,
    check_stored,
    encode_sibling,
    encode_stored,
    read_stored,
)
from dynagent.core.hints import DURABLE, Hints
from dynagent.core.merkle import UNREADABLE_DIGEST, Change, Forest
from dynagent.core.messages import Put
from dynagent.core.op_ids import newest, superseded, with_superseded
from dynagent.core.ports import Batch, Dice, Effects, LinkId, NodeId, PartitionId, Reader, Token
from dynagent.core.ring import Ring, Stamp, token_of
from dynagent.core.siblings import Clock, Dot
from dynagent.core.stamps import Stamps
from dynagent.core.sums import Shape
from dynagent.core.survey import Survey
from dynagent.core.tombstones import Tombstones, is_settled, is_tombstone
from dynagent.core.unknown import Unknown
from dynagent.errors import CorruptRecord, DiskFull, Overloaded

# Whom to answer when a batch is durable: a link and its request, or None and our own operation.
Waiter = tuple[LinkId | None, int]


class Replica:
    """All copies that this node holds, committed and not yet committed."""

    def __init__(
        self,
        *,
        reader: Reader,
        effects: Effects,
        dice: Dice,
        cluster_id: bytes,
        run: int,
        clean_from_run: int,
        cache_bytes: int,
        hint_bytes_max: int = limits.HINT_BYTES_DEFAULT_MAX,
        owner_hints_max: int = limits.OWNER_HINTS_DEFAULT_MAX,
        tree_shape: Shape | None = None,
    ) -> None:
        self.cluster_id = cluster_id
        self.run = run
        self.clean_from_run = clean_from_run  # the first run joined to this one by clean stops
        self._reader = reader
        self._effects = effects
        self._dice = dice
        self.hints = Hints(reader, bytes_max=hint_bytes_max, own_max=owner_hints_max)
        self.forest = Forest(reader, tree_shape)
        self.barriers = Barriers(reader)
        self.stamps = Stamps(reader)
        self.tombstones = Tombstones(reader)
        self.unknown = Unknown(reader)
        self.crowd = Crowd()
        self._cache = StoredCache(cache_bytes)
        self._tokens: dict[bytes, Token] = {}  # of the keys that were read ahead last
        self._overlay: dict[bytes, tuple[Record, int]] = {}  # key → newest copy, its batch
        self.survey = Survey(
            reader, self._overlay, self.barriers, meet=self._meet, forget=self._cache.forget
        )
        self._parts = (self.hints, self.barriers, self.stamps, self.unknown)
        self._open = Batch(1)
        self._under_way = DURABLE  # the number of the batch that the shell has
        # With the digest of the copy that the batch before this one leaves, as `merkle.Change`.
        self._open_keys: dict[bytes, tuple[Token, bytes | None]] = {}
        self._strays: dict[tuple[Token, bytes], None] = {}  # rows to be removed, no copies
        self._open_bytes = 0
        self._waiters: dict[int, list[Waiter]] = {}
        self._full_until = 0.0  # the disk was full; until then changes are refused
        self._burnt: set[int] = set()  # actors of dots that went out, but not to our disk

    def serve(self, ring: Ring, node_id: NodeId) -> None:
        """Learns the ring and our place in it: before anything is read or changed."""
        self.cluster_id = self.survey.cluster_id = ring.cluster_id
        owned = ring.owned_by(node_id)
        self.hints.serve(self._open, owned, partitions=ring.partitions)
        self.forest.serve(ring, node_id)
        self.barriers.serve(ring, node_id, owned)
        self.stamps.serve(ring)
        self.tombstones.serve(ring, owned)
        self.unknown.serve(ring)
        if self.forest.given_up:
            self.hints.note_former(self._open, self.forest.given_up)

    def on_ring(self, ring: Ring, node_id: NodeId) -> None:
        """The ring has changed, and that is durable. A partition that this node gains, or gives up,
        keeps whatever it has here: it is counted elsewhere."""
        owned = ring.owned_by(node_id)
        self.stamps.serve(ring)
        self.barriers.on_ring(ring, node_id, owned)
        if owned != self.hints.owned:
            self.hints.on_ring(self._open, owned)
            self.forest.on_ring(owned)
            self.tombstones.on_ring(owned)

    # --- reading ---------------------------------------------------------------------------------

    def read(self, key: bytes, token: Token) -> Record:
        """The committed copy; `ABSENT`, or `UNREADABLE` if it fails its checksum."""
        try:
            stored = self._cache.get(key)
            if stored is None:
                stored = self._reader.get(token, key) or b""
                if stored:
                    check_stored(stored, cluster_id=self.cluster_id, key=key)
                self._cache.keep(key, stored)
            if not stored:
                return UNREADABLE if self._is_lost(token) else ABSENT
            record = read_stored(stored, key=key)
            if record.unknown:
                self.unknown.meet(self._open, token, key)
            return record
        except CorruptRecord as exc:
            self._meet(key, token, exc)
            self._cache.forget(key)
            return UNREADABLE

    def read_ahead(self, keys: Iterable[bytes]) -> None:
        """Looks for the committed copies of these in one visit to the engine, before they are read
        one by one; as many as it may be, and none that are at hand."""
        if self._cache.bytes_max < limits.READ_AHEAD_CACHE_BYTES_MIN:
            return
        missing = [key for key in dict.fromkeys(keys) if not self.is_at_hand(key)]
        self._tokens = tokens = {key: token_of(key) for key in missing}
        found = self._reader.read_ahead([(token, key) for key, token in tokens.items()])
        for key, stored in zip(tokens, found, strict=False):
            if stored is None:
                continue
            try:
                if stored:
                    check_stored(stored, cluster_id=self.cluster_id, key=key)
            except CorruptRecord:
                continue  # `read` says so
            self._cache.keep(key, stored)

    def token_of(self, key: bytes) -> Token:
        """That of the ring, without a hash for what was just read ahead."""
        return self._tokens.get(key) or token_of(key)

    def _is_lost(self, token: Token) -> bool:
        """There is no record: may there have been one?"""
        unknown = self.unknown
        return bool(unknown.hollow) and unknown.is_hollow(token)

    def _meet(self, key: bytes, token: Token, reason: CorruptRecord | None) -> None:
        if self.unknown.meet(self._open, token, key) and reason is not None:
            self._effects.note("record.unreadable", key=key, reason=reason.message)

    def is_at_hand(self, key: bytes) -> bool:
        """To read this copy costs no visit to the engine."""
        return key in self._overlay or key in self._cache

    def forget(self, key: bytes) -> None:
        """Reads the copy from the engine the next time, whatever the cache has."""
        self._cache.forget(key)

    def newest(self, key: bytes, token: Token) -> Record:
        """The copy that a change must start from: the overlaid one if there is one."""
        overlaid = self._overlay.get(key)
        return overlaid[0] if overlaid is not None else self.read(key, token)

    def batch_of(self, key: bytes) -> int:
        """The batch that makes the newest copy durable; `DURABLE` if it is."""
        overlaid = self._overlay.get(key)
        return overlaid[1] if overlaid is not None else DURABLE

    # --- changing --------------------------------------------------------------------------------

    def merge(
        self,
        entries: Sequence[tuple[bytes, Record]],
        *,
        barrier: int,
        barriers: Sequence[int] = (),
        tokens: Sequence[Token] = (),
    ) -> int:
        """Merges whole records; returns the number of the batch that makes all of it durable.

        `barrier`: under which they were read, wherever that was (`Barriers.read_under`), or the
        least of `barriers`, which has that of each. `tokens`: of the keys, if they are known.
        Raises `StaleBarrier` if one is too old: then none is merged, and all must be read again.
        """
        tokens = tokens or [token_of(key) for key, _ in entries]
        if barrier < self.barriers.highest_least:
            for place, token in enumerate(tokens):
                self.barriers.check(token, barriers[place] if barriers else barrier)
        if len(entries) > 1:
            self.read_ahead([key for key, _ in entries])
        wait_for = DURABLE
        for (key, incoming), token in zip(entries, tokens, strict=True):
            wait_for = max(wait_for, self._merge_one(key, token, incoming))
        return wait_for

    def _merge_one(self, key: bytes, token: Token, incoming: Record) -> int:
        old = self.newest(key, token)
        value = old.value.merge(incoming.value)
        content: bytes | None = None
        digest: bytes | None = None
        if value is incoming.value:  # the usual case: it has seen all that we have
            content, digest = incoming.content, incoming.digest
            gone = [sibling.op_id for sibling in old.value.siblings]
            op_ids = with_superseded(old.op_ids, gone)
            if op_ids != incoming.op_ids:
                op_ids = newest(old.op_ids, incoming.op_ids, gone)
        else:
            gone = superseded(value, old.value, incoming.value)
            op_ids = newest(old.op_ids, incoming.op_ids, gone)
            if clashes := old.value.clashes(incoming.value):
                self._on_clash(key, clashes)
        if op_ids == old.op_ids and value == old.value:
            return self.batch_of(key)
        since = self.barriers.since(token) if self.barriers.has_moved else 0
        new = Record(value, op_ids, old.mark, since, old.unknown, content, digest)
        return self._keep(key, token, old, new)

    def write(
        self, put: Put, token: Token, old: Record, context: Clock, wall_ms: int
    ) -> tuple[Record, int]:
        """The coordinator's own put or delete; returns the new copy and its batch number.

        `old` is what `newest` returned in this same call; `context` is what the put supersedes. A
        delete that meets nothing changes nothing.
        """
        mark = old.mark
        if put.value is None:
            value = old.value.delete(context)
            if not value.clock:
                return old, DURABLE
            gone = [*superseded(value, old.value), put.op_id]
        else:
            dot = self._mint(old, context)
            mark = (*dot, self.run)
            sibling = encode_sibling(
                dot=dot,
                wall_ms=wall_ms,
                content=put.content,
                expiry_ms=put.expiry_ms,
                op_id=put.op_id,
                meta=put.meta,
                value=put.value,
            )
            value = old.value.write(context, sibling)
            gone = superseded(value, old.value)
        op_ids = with_superseded(old.op_ids, gone)
        since = self.barriers.since(token) if self.barriers.has_moved else 0
        new = Record(value, op_ids, mark, since, old.unknown)
        return new, self._keep(put.key, token, old, new)

    def owe(self, targets: Iterable[NodeId], key: bytes, token: Token) -> int:
        """Keeps hints: those targets are to get our copy. Returns the batch that makes them, and
        the copy, durable. A copy that is gone again was delivered to all who were owed it."""
        wait_for = copy_in = self.batch_of(key)
        ours = self.newest(key, token)
        if not ours.value.clock and not ours.unknown:
            return wait_for
        for target in targets:
            number = self.hints.add(self._open, target, token, key, copy_in=copy_in)
            wait_for = max(wait_for, number)
        return wait_for

    def check_hint_room(self, entries: Sequence[tuple[bytes, Record]]) -> None:
        """Raises `Overloaded` if these copies are more than may be kept for others: all or none,
        for one frame has one answer."""
        growth = 0
        for key, incoming in entries:
            growth += max(0, _size(incoming) - _size(self.newest(key, token_of(key))))
        self.hints.check_room(growth, len(entries))

    def settle(self, target: NodeId, key: bytes, token: Token) -> None:
        """The hint has been delivered: just the copy that is here now is durable there."""
        self.hints.remove(self._open, target, token, key)

    def turn(self, target: NodeId, others: Iterable[NodeId], key: bytes, token: Token) -> None:
        """That target owns the key no longer: the others are owed it instead, in one batch."""
        copy_in = self.batch_of(key)
        for other in others:
            self.hints.add(self._open, other, token, key, copy_in=copy_in)
        self.hints.remove(self._open, target, token, key)
        if not self.hints.owns(token):
            self.hints.note_former(self._open, [self.barriers.partition_of(token)])

    def turn_partition(
        self, target: NodeId, others: Iterable[NodeId], partition: PartitionId
    ) -> None:
        """Likewise, of a partition that is dirty for it."""
        self.hints.turn(self._open, target, others, partition)
        if partition not in self.hints.owned:
            self.hints.note_former(self._open, [partition])

    def settle_partition(
        self,
        target: NodeId,
        partition: PartitionId,
        unreadable: list[tuple[Token, bytes]],
        *,
        since: int,
    ) -> bool:
        """A walk has handed over all of a dirty partition; the copies that it could not read are
        owed on, each by itself. False: more is owed by now, as `Hints.clear` says."""
        for token, key in unreadable:
            self.hints.add_key(self._open, target, token, key)
        return self.hints.clear(self._open, target, partition, since=since)

    def keep_row(self, name: str, row: bytes) -> int:
        """Writes a named row of the node itself with the open batch, whose number it returns; the
        last one of a name counts."""
        self._open.meta.append((name, row))
        return self._open.number

    def drop(self, key: bytes, token: Token) -> None:
        """Forgets a copy that was kept for others only. Its actor mark goes with it."""
        self._keep(key, token, self.newest(key, token), ABSENT)

    def drop_former(self, key: bytes, digest: bytes) -> bool:
        """Drops a copy in a partition that is not ours, and that all its owners have
        (`core.former`); False if it is another by now, is not on the disk, or a hint speaks of it.
        """
        token = token_of(key)
        if self.hints.owns(token) or self.batch_of(key) or self.hints.owed(token, key):
            return False
        old = self.newest(key, token)
        if old.unknown or old.digest != digest:
            return False
        self._keep(key, token, old, ABSENT)
        return True

    def on_dropped(self, partition: PartitionId) -> None:
        """Nothing is left here of a partition that was given up."""
        self.hints.on_dropped(self._open, partition)

    def purge(self, key: bytes, token: Token, digest: bytes, barrier: int) -> int:
        """Drops a tombstone that all owners hold; a copy that is not the one that was asked about
        stays. Returns the batch that makes durable what is here now."""
        old = self.newest(key, token)
        if old.digest == digest and self.is_settled(old, barrier):
            self.tombstones.purged += 1
            return self._keep(key, token, old, ABSENT)
        return self.batch_of(key)

    def unmark(self, key: bytes, token: Token, record: Record) -> None:
        """A marker says that this copy is a tombstone; it is none: it rotted, and was healed."""
        if not record.unknown and self.batch_of(key) == DURABLE:
            self.tombstones.note(self._open, token, key, was_there=True, is_there=False)

    def is_settled(self, record: Record, barrier: int) -> bool:
        """A copy of ours is a tombstone, and was that when we moved to `barrier`."""
        return is_settled(is_tombstone=is_tombstone(record), since=record.since, barrier=barrier)

    def move(self, partition: PartitionId, to: int) -> None:
        """Moves to a barrier, in the open batch."""
        self.barriers.move(self._open, partition, to)

    def adopt(self, partition: PartitionId, barrier: int, least: int) -> None:
        """A new owner takes over where the owners stand, in the open batch (`core.transfer`)."""
        self.barriers.adopt(self._open, partition, barrier, least)

    def close(self, partition: PartitionId, barrier: int) -> None:
        """Refuses what was read before that barrier, from now on and in the open batch."""
        self.barriers.close(self._open, partition, barrier)

    def fence(self, partition: PartitionId, stamp: Stamp) -> int:
        """Refuses requests below that stamp, which is one of a ring that this node has. Returns
        the batch that makes this, and all that was accepted before it, durable."""
        self.stamps.raise_to(self._open, partition, stamp)
        return self._open.number

    def heal(self, key: bytes, token: Token, others: Record) -> int:
        """Our copy, which is unreadable or flagged, has been merged with what N−W+1 other owners
        hold: it is known again, or gone if nobody has one. Returns the batch.

        Its mark is not proven by that: the next dot is minted by a new actor.
        """
        old = self.newest(key, token)
        if clashes := old.value.clashes(others.value):
            self._on_clash(key, clashes)
        value = old.value.merge(others.value)
        if not value.clock:
            return self._keep(key, token, old, ABSENT)
        gone = superseded(value, old.value, others.value)
        op_ids = newest(old.op_ids, others.op_ids, gone)
        since = self.barriers.since(token) if self.barriers.has_moved else 0
        return self._keep(key, token, old, Record(value, op_ids=op_ids, since=since))

    def on_healed(self, key: bytes) -> None:
        """What `heal` did is durable."""
        self.unknown.on_healed(self._open, key)

    def wants(self, key: bytes) -> None:
        """Others hold more of this key than we do, in a hollow partition: to be healed."""
        self.unknown.meet(self._open, token_of(key), key)

    def on_filled(self, partition: PartitionId) -> None:
        """Whatever others hold in that hollow partition is here, and durable."""
        self.unknown.on_filled(self._open, partition)

    def note_lost(self, partition: PartitionId) -> None:
        """Records of that partition are missing: from now on it is hollow. The cache may still have
        some of them, and would say that they are here."""
        self._cache.clear()
        self.unknown.meet_hollow(self._open, [partition])

    def remove_row(self, token: Token, key: bytes) -> None:
        """A row that lies where its key does not belong, or has lost its key (b""), goes with the
        open batch. It was no copy, so nothing else changes."""
        assert not key or token != token_of(key)
        self._strays[token, key] = None

    def note_scanned(self, partition: PartitionId) -> None:
        """All copies of that partition have been looked at."""
        self.unknown.on_scanned(self._open, partition)

    def _on_clash(self, key: bytes, dots: int) -> None:
        self.unknown.meet_clash(key, dots)
        self._effects.note("record.clash", key=key, dots=dots)

    def _mint(self, old: Record, context: Clock) -> Dot:
        actor, counter, run = old.mark
        seen = max(old.value.clock.get(actor, 0), context.get(actor, 0))
        is_current = self.clean_from_run <= run <= self.run and actor not in self._burnt
        if actor and is_current and seen <= counter:
            return actor, counter + 1
        return self._dice.getrandbits(63) + 1, 1

    def _keep(self, key: bytes, token: Token, old: Record, record: Record) -> int:
        number = self._open.number
        hints = self.hints
        mine = hints.mine  # as `Hints.owns`, without the call
        if mine is not None and int.from_bytes(token[:4], "big") >> hints.shift not in mine:
            hints.resize(self._open, token, _size(record) - _size(old))
        if not record.value.siblings or (old.value.clock and not old.value.siblings):
            # One that cannot be read is taken for what replaces it: it was counted once.
            was, is_ = is_tombstone(record if old is UNREADABLE else old), is_tombstone(record)
            self.tombstones.note(self._open, token, key, was_there=was, is_there=is_)
        if record.unknown:
            self.unknown.meet(self._open, token, key)
        self._overlay[key] = (record, number)
        if key not in self._open_keys:
            self._open_keys[key] = (token, _digest_before(old))
        self._open_bytes += len(record.content)
        count = len(record.value.siblings)
        if count > 1 or key in self.crowd.keys:
            self.crowd.note(key, count, len(record.content))
        return number

    # --- group commit ----------------------------------------------------------------------------

    def check_room(self, now: float) -> None:
        """Raises `Overloaded` or `DiskFull` if no change can be taken now."""
        if now < self._full_until:
            raise DiskFull("the agent's disk is full; free some space, and it goes on by itself")
        if (
            len(self._open_keys) >= limits.BATCH_RECORDS_MAX
            or self._open_bytes >= limits.BATCH_BYTES_MAX
        ):
            raise Overloaded("the agent's open batch is full; try again later")

    def is_full(self, now: float) -> bool:
        """Changes are refused, because the disk has no room."""
        return now < self._full_until

    @property
    def gathered(self) -> tuple[int, int]:
        """Records and bytes of the open batch."""
        return len(self._open_keys), self._open_bytes

    @property
    def is_dirty(self) -> bool:
        """Is anything not yet committed?"""
        if self._overlay or self._open.meta:
            return True
        return self.hints.is_dirty or self.barriers.is_dirty or self.stamps.is_dirty

    @property
    def newest_batch(self) -> int:
        """The batch that makes all durable that has been accepted here; `DURABLE` if it is."""
        return self._open.number if self._has_gathered else self._under_way

    @property
    def _has_gathered(self) -> bool:
        batch = self._open
        if self._open_keys or batch.hints or batch.meta or self._strays or self.forest.has_news:
            return True
        return any(part.has_news(batch) for part in self._parts)

    def when_durable(self, number: int, waiter: Waiter) -> bool:
        """Queues `waiter` behind a batch; False if there is nothing to wait for."""
        if number == DURABLE:
            return False
        self._waiters.setdefault(number, []).append(waiter)
        return True

    def take_batch(self) -> Batch | None:
        """Everything that has gathered, to be made durable; None if nothing has."""
        batch = self._open
        if not self._has_gathered:
            return None
        for part in self._parts:
            part.seal(batch)
        changes: list[Change] = []
        for key, (token, before) in self._open_keys.items():
            record = self._overlay[key][0]
            stored, after = b"", None
            if record is not ABSENT:
                stored = encode_stored(record, cluster_id=self.cluster_id, key=key)
                after = record.digest
            batch.records.append((token, key, stored))
            changes.append((token, key, before, after))
        self.forest.apply(batch, changes)
        batch.strays = list(self._strays)
        self._strays = {}
        self._under_way = batch.number
        self._open = Batch(batch.number + 1)
        self._open_keys = {}
        self._open_bytes = 0
        return batch

    def on_committed(self, batch: Batch) -> list[Waiter]:
        """The batch is durable: its records leave the overlay; returns whom to answer."""
        for _token, key, stored in batch.records:
            self._cache.keep(key, stored)
            overlaid = self._overlay.get(key)
            if overlaid is not None and overlaid[1] == batch.number:
                del self._overlay[key]
        self._under_way = DURABLE
        self.hints.on_committed(batch)
        self.forest.on_committed()
        self.barriers.on_committed(batch)
        self.stamps.on_committed(batch)
        return self._waiters.pop(batch.number, [])

    def give_up(self) -> list[Waiter]:
        """This node is no member any more: nothing is acknowledged; returns whom to tell."""
        waiters = [waiter for number in sorted(self._waiters) for waiter in self._waiters[number]]
        self._waiters.clear()
        return waiters

    def on_refused(self, now: float) -> list[Waiter]:
        """The disk had no room for the batch under way: returns whom to tell."""
        self._burnt.update(record.mark[0] for record, _ in self._overlay.values())
        waiters = self.give_up()
        self._overlay.clear()
        self.hints.on_refused()
        self.unknown.on_refused()
        self.forest.on_refused()
        self.barriers.on_refused()
        self.stamps.on_refused()
        self.tombstones.recount()
        self._under_way = DURABLE
        self._open = Batch(self._open.number + 1)
        self._open_keys = {}
        self._open_bytes = 0
        self._full_until = now + limits.DISK_FULL_PAUSE_S
        return waiters

    @property
    def has_burnt(self) -> bool:
        """Are there marks on the disk that must not outlive this run? Then no stop is clean."""
        return bool(self._burnt)


def _digest_before(old: Record) -> bytes | None:
    if old is UNREADABLE:
        return UNREADABLE_DIGEST
    return None if old is ABSENT else old.digest


def _size(record: Record) -> int:
    return len(record.content) if record.value.clock else 0
