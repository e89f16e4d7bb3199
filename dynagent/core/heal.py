"""Healing: a copy that this node does not know any more is made whole from the other owners.

What waits is in `core.unknown`. For each key as many other owners are asked for their copy as a
read must hear, so that none of the writes that this copy may have lost is missed:

    an owner         N−W+1 others: a write that was acknowledged with its help has W−1 more copies
    a stand-in       N−W+2 owners: it is none of them itself

    waiting ──▶ others asked ──enough readable──▶ merged, durable ──▶ healed
       ▲            │  "I have none" is an answer; "unreadable" and "unknown" are none
       │            └─too few are up, or have answered─▶ failed
       └── all have failed: pause, doubled each time; a peer that comes up ends it

A hollow partition is listed at those others first: whatever they hold of which this node has no
copy, or only an old one, waits like any other key. When all of that is healed, what is not there
was never there, and the partition is whole.

What holds:

- A copy is known again only by what N−W+1 *other* owners had on disk after it was met. A mere merge
  never clears the flag (`Replica`).
- What has been merged into the copy meanwhile stays, and is healed along with it.
- If nobody has anything, the row goes.
- The copies of a member that was removed are declared lost: while the ring still names it, all the
  others that are left suffice. Else its removal, which waits for this copy, would never end.
- With N=1, or W=1, there are too few others for any proof: it stays unknown, and the status, the
  log and `dynctl doctor` say so.

All of it is background work (design §8), a bounded number of keys at once. When the ring changes,
all that is under way begins anew: others are the owners to be asked.
"""

from __future__ import annotations

from math import inf

from dynagent import limits
from dynagent.core.admission import Gate
from dynagent.core.coordinator import Coordinator, Operation
from dynagent.core.entry import Record, decode_entry, unflatten
from dynagent.core.messages import (
    STATE_ABSENT,
    STATE_UNREADABLE,
    WANT_VALUE,
    List,
    ListReply,
    Message,
    Read,
    ReadReply,
)
from dynagent.core.ports import LinkId, NodeId, PartitionId, Token
from dynagent.core.ring import Ring, token_of
from dynagent.core.siblings import EMPTY
from dynagent.errors import Overloaded, ProtocolError, StaleBarrier

_NO_LINK = LinkId(-1)


class Healer:
    """Heals what waits. `wake` is to be called whenever a peer comes up."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.failures = 0  # attempts, since the start
        self._has_told = False  # that there is no proof
        self._unknown = coordinator.replica.unknown
        self._under_way: dict[bytes, HealOperation] = {}
        self._failed: dict[bytes, None] = {}  # in this round
        self._filling: Filling | None = None
        self._due = 0.0
        self._pause_s = 0.0

    def wake(self, now: float) -> None:
        """A peer has come up: what has failed may succeed."""
        self._failed.clear()
        self._pause_s = 0.0
        self._due = now

    def on_ring(self, now: float, ring: Ring) -> None:
        for operation in list(self._under_way.values()):
            operation.finish()
        self._under_way.clear()
        if self._filling is not None:
            self._filling.stop()
            self._filling = None
        self.wake(now)

    @property
    def due(self) -> float:
        """When `on_tick` is; infinite if nothing waits, or all of it for answers."""
        unknown = self._unknown
        waits = len(unknown.keys) > len(self._under_way) or (
            unknown.hollow and (self._filling is None or self._filling.can_go_on)
        )
        return self._due if waits and len(self._under_way) < limits.HEAL_AT_ONCE else inf

    def go_on(self, now: float) -> None:
        """There is something to do at once."""
        self._due = now
        self.on_tick(now)

    def on_tick(self, now: float) -> None:
        if now < self._due:
            return
        budget = self.coordinator.budget
        self._due = now + limits.HEAL_REST_S
        for key, token in list(self._unknown.keys.items())[: limits.HEAL_LOOK]:
            if len(self._under_way) >= limits.HEAL_AT_ONCE:
                return
            if key in self._under_way or key in self._failed:
                continue
            if not budget.grant(now, limits.BACKGROUND_GRANT_BYTES_MIN):
                self._due = budget.next_grant_at(now)
                return
            self._begin(now, key, token)
        if self._failed and not self._under_way:
            self.pause(now)
        self._fill(now)

    def _begin(self, now: float, key: bytes, token: Token) -> None:
        coordinator = self.coordinator
        others, needed = self.quorum(coordinator.aim_of(token).readers)
        if needed > len(others) and not self._has_told:
            self._has_told = True
            reason = f"to heal it takes {needed} other owners, and there are {len(others)}"
            coordinator.effects.note("record.unprovable", key=key, reason=reason)
        up = [node for node in others if node in coordinator.up]
        if len(up) < needed:
            self._fail(key)
            return
        try:
            operation = HealOperation(self, now, key, token, up, needed)
        except Overloaded:
            return  # the table of requests is full; the next tick finds this key again
        self._under_way[key] = operation
        operation.ask_all(now)

    def quorum(self, owners: tuple[NodeId, ...]) -> tuple[list[NodeId], int]:
        """The other owners, and how many of them must have answered."""
        ring, own = self.coordinator.ring, self.coordinator.node_id
        others = [node for node in owners if node != own]
        needed = ring.n - ring.w + (1 if own in owners else 2)
        if len(owners) < ring.n and others:  # copies were declared lost, and what only they had
            needed = min(needed, len(others))
        return others, needed

    # --- what operations report ------------------------------------------------------------------

    def on_enough(self, now: float, operation: HealOperation) -> None:
        """Enough others have answered: their copies become ours."""
        replica = self.coordinator.replica
        try:
            replica.check_room(now)
            if operation.found:
                replica.barriers.check(operation.token, operation.barrier)
        except (Overloaded, StaleBarrier):
            self.on_failure(now, operation)
            return
        size = sum(len(record.content) for record in operation.found)
        self.coordinator.budget.spend(now, size, max(1, len(operation.found)))
        merged = Record(EMPTY)
        for record in operation.found:
            op_ids = dict.fromkeys((*merged.op_ids, *record.op_ids))
            merged = Record(
                merged.value.merge(record.value),
                op_ids=tuple(op_ids)[-limits.OP_IDS_KEPT :],
            )
        number = replica.batch_of(operation.key)
        if replica.newest(operation.key, operation.token).unknown:  # not dropped meanwhile
            number = replica.heal(operation.key, operation.token, merged)
        if not replica.when_durable(number, (None, operation.number)):
            self._end(now, operation)

    def on_durable(self, now: float, operation: HealOperation) -> None:
        self.coordinator.effects.note(
            "record.healed", key=operation.key, owners=self.coordinator.names(operation.counted)
        )
        self._end(now, operation)

    def _end(self, now: float, operation: HealOperation) -> None:
        operation.finish()
        self._under_way.pop(operation.key, None)
        self.coordinator.replica.on_healed(operation.key)
        self._pause_s = 0.0
        self.go_on(now)

    def on_failure(self, now: float, operation: HealOperation) -> None:
        operation.finish()
        self._under_way.pop(operation.key, None)
        self._fail(operation.key)
        self._due = min(self._due, now)

    def _fail(self, key: bytes) -> None:
        """It is tried again when all others have been."""
        self.failures += 1
        self._failed[key] = None
        self._unknown.postpone(key)

    def pause(self, now: float) -> None:
        self._failed.clear()
        self._pause_s = min(2 * self._pause_s or limits.HEAL_REST_S, limits.HEAL_PAUSE_S_MAX)
        self._due = now + self._pause_s

    # --- hollow partitions -----------------------------------------------------------------------

    def _fill(self, now: float) -> None:
        """Goes on with the hollow partition that is being filled, or begins with the next."""
        if self._filling is None and self._unknown.hollow:
            partition = min(self._unknown.hollow)
            if not self.coordinator.ring.owns(self.coordinator.node_id, partition):
                self.on_filled(now, partition)  # what it kept for others there is for them to miss
                return
            self._filling = Filling(self, partition)
        if self._filling is not None:
            self._filling.on_tick(now)

    def on_filled(self, now: float, partition: PartitionId) -> None:
        self._filling = None
        self.coordinator.replica.on_filled(partition)
        self.coordinator.effects.note("partition.healed", partition=partition)
        self._due = now

    def document(self) -> dict[str, object]:
        """For the status of this node."""
        return {
            **self._unknown.document(),
            "under_way": len(self._under_way),
            "failures": self.failures,
            "provable": self.coordinator.ring.w > 1,
        }


class HealOperation(Operation):
    """The other owners' copies of one key; it stands in the table so that answers find it."""

    __slots__ = ("barrier", "counted", "found", "healer", "key", "needed", "token", "waiting")

    def __init__(
        self,
        healer: Healer,
        now: float,
        key: bytes,
        token: Token,
        asked: list[NodeId],
        needed: int,
    ) -> None:
        super().__init__(healer.coordinator, _NO_LINK, 0, now + limits.HEAL_READ_S, gate=Gate())
        self.answered = True  # no client waits, and no gate counts it
        self.healer = healer
        self.key = key
        self.token = token
        self.needed = needed
        self.waiting = set(asked)
        self.counted: list[NodeId] = []
        self.found: list[Record] = []  # what those hold who hold anything
        self.barrier = 1 << 62  # the least under which any of it was read

    def ask_all(self, now: float) -> None:
        coordinator = self.coordinator
        read = Read(*coordinator.aim_of(self.token).stamp, self.key, WANT_VALUE)
        targets = sorted(self.waiting)
        coordinator.send(now, targets, self.number, self.budget_ms(now), read)

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if source not in self.waiting or len(self.counted) >= self.needed:
            return
        if not isinstance(message, ReadReply) or message.state == STATE_UNREADABLE:
            self.on_failure(now, source)
            return
        if message.state != STATE_ABSENT:
            try:
                if message.entry is None:
                    raise ProtocolError("a copy without its record")
                key, record = decode_entry(message.entry)
                if key != self.key or record.digest != message.digest:
                    raise ProtocolError("the record of another key, or not what its digest says")
            except ProtocolError as exc:
                self.coordinator.effects.note("peer.malformed", peer=source, reason=exc.message)
                self.on_failure(now, source)
                return
            self.found.append(record)
            self.barrier = min(self.barrier, message.barrier)
        self.waiting.discard(source)
        self.counted.append(source)
        if len(self.counted) == self.needed:
            self.healer.on_enough(now, self)

    def on_failure(self, now: float, source: NodeId) -> None:
        if len(self.counted) >= self.needed:
            if source == self.coordinator.node_id:  # the disk is full
                self.healer.on_failure(now, self)
            return
        self.waiting.discard(source)
        if len(self.counted) + len(self.waiting) < self.needed:
            self.healer.on_failure(now, self)

    def on_durable(self, now: float) -> None:
        self.healer.on_durable(now, self)

    def on_deadline(self, now: float) -> None:
        self.healer.on_failure(now, self)


class Filling:
    """One pass through a hollow partition at as many other owners as a healed copy takes."""

    def __init__(self, healer: Healer, partition: PartitionId) -> None:
        self.partition = partition
        self._healer = healer
        self._coordinator = healer.coordinator
        self._unknown = healer.coordinator.replica.unknown
        owners = healer.coordinator.ring.read_list(partition)
        self._others, self._needed = healer.quorum(owners)
        self._listed: list[NodeId] = []  # who has been listed to the end
        self._refused: set[NodeId] = set()  # in this round
        self._after = b""
        self._operation: ListOperation | None = None

    @property
    def can_go_on(self) -> bool:
        """There is something to do now."""
        if self._operation is not None:
            return False
        if len(self._listed) >= self._needed:
            return not self._unknown.waiting_in(self.partition)
        return len(self._unknown.keys) < limits.HEAL_KEYS_MAX // 2

    def on_tick(self, now: float) -> None:
        if not self.can_go_on:
            return
        if len(self._listed) >= self._needed:
            self._healer.on_filled(now, self.partition)
            return
        up = [
            node
            for node in self._others
            if node in self._coordinator.up
            and node not in self._listed
            and node not in self._refused
        ]
        if not up:
            self._refused.clear()
            self._healer.pause(now)
            return
        self._operation = ListOperation(self, now, up[0])
        message = List(self.partition, self._after)
        budget_ms = self._operation.budget_ms(now)
        self._coordinator.send(now, [up[0]], self._operation.number, budget_ms, message)

    def stop(self) -> None:
        """The page under way finds nobody."""
        if self._operation is not None:
            self._operation.finish()

    def on_page(self, now: float, source: NodeId, page: ListReply) -> None:
        if page.unreadable:  # it may hold keys that it cannot name
            self.on_failure(now, source)
            return
        self._operation = None
        replica = self._coordinator.replica
        self._coordinator.budget.spend(now, 0, page.looked_at)
        for key, clock, _dots in page.rows:
            assert isinstance(key, bytes)
            own = replica.newest(key, token_of(key))
            its = dict(unflatten(clock))
            if own.unknown or any(n > own.value.clock.get(actor, 0) for actor, n in its.items()):
                replica.wants(key)
        self._after = page.position
        if not page.position:
            self._listed.append(source)
        self._healer.go_on(now)

    def on_failure(self, now: float, source: NodeId) -> None:
        self._operation = None
        self._refused.add(source)
        self._after = b""


class ListOperation(Operation):
    """One page of one owner's keys under way."""

    __slots__ = ("filling", "source")

    def __init__(self, filling: Filling, now: float, source: NodeId) -> None:
        coordinator = filling._coordinator
        super().__init__(coordinator, _NO_LINK, 0, now + limits.HEAL_READ_S, gate=Gate())
        self.answered = True  # no client waits, and no gate counts it
        self.filling = filling
        self.source = source

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if source != self.source:
            return
        self.finish()
        if isinstance(message, ListReply):
            self.filling.on_page(now, source, message)
        else:
            self.filling.on_failure(now, source)

    def on_failure(self, now: float, source: NodeId) -> None:
        if source == self.source:
            self.finish()
            self.filling.on_failure(now, source)

    def on_deadline(self, now: float) -> None:
        self.filling.on_failure(now, self.source)
