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
was never there, and the partition is whole. While too few can list one, the next has its turn.

What holds:

- A copy is known again only by what N−W+1 *other* owners had on disk after it was met. A mere merge
  never clears the flag (`Replica`).
- What has been merged into the copy meanwhile stays, and is healed along with it.
- If nobody has anything, the row goes.
- The copies of a member that was removed are declared lost: while the ring still names it, all the
  others that are left suffice. Else its removal, which waits for this copy, would never end.
- With N=1, or W=1, there are too few others for any proof: it stays unknown, and the status, the
  log and `dynctl doctor` say so.
- Nor is there any where more than W−2 of the others do not know either: they wait for each other
  (**stuck**). What they have lost is for a person to declare lost: `dynagent store accept`.

All of it is background work (design §8), a bounded number of keys at once. When the ring changes,
all that is under way begins anew: others are the owners to be asked.
"""

from __future__ import annotations

from math import inf

from dynagent import limits
from dynagent.core.admission import Gate
from dynagent.core.coordinator import Coordinator, Operation
from dynagent.core.entry import Record, decode_entry
from dynagent.core.filling import Filling
from dynagent.core.messages import (
    STATE_ABSENT,
    STATE_UNREADABLE,
    WANT_VALUE,
    Message,
    Read,
    ReadReply,
)
from dynagent.core.ports import LinkId, NodeId, PartitionId, Token
from dynagent.core.ring import Ring
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
        self.stuck_keys: set[bytes] = set()  # too many of the others do not know either
        self.stuck: set[PartitionId] = set()  # likewise, of the hollow ones
        self._filling: Filling | None = None
        self._begun: dict[PartitionId, Filling] = {}  # others: how far each has come
        self._tried: set[PartitionId] = set()  # in this round
        self._due = 0.0
        self._pause_s = 0.0

    def wake(self, now: float) -> None:
        """A peer has come up: what has failed may succeed."""
        self._failed.clear()
        self._tried.clear()
        self._pause_s = 0.0
        self._due = now

    def on_ring(self, now: float, ring: Ring) -> None:
        for operation in list(self._under_way.values()):
            operation.finish()
        self._under_way.clear()
        self.stuck_keys.clear()
        self.stuck.clear()
        if self._filling is not None:
            self._filling.stop()
        self._filling = None
        self._begun.clear()
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
            if self._filling is not None and self._filling.is_listed:
                self.set_aside(now, self._filling)  # its keys are among those
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
        self.stuck_keys.discard(operation.key)
        self.coordinator.replica.on_healed(operation.key)
        self._pause_s = 0.0
        self.go_on(now)

    def on_failure(self, now: float, operation: HealOperation) -> None:
        operation.finish()
        self._under_way.pop(operation.key, None)
        self._fail(operation.key)
        others, needed = self.quorum(self.coordinator.aim_of(operation.token).readers)
        if len(others) - operation.unsure < needed <= len(others):
            self.stuck_keys.add(operation.key)
        else:
            self.stuck_keys.discard(operation.key)
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
        """Goes on with the hollow partition that is being filled, or with the next."""
        if self._filling is None and self._unknown.hollow:
            left = self._unknown.hollow - self._tried
            if not left:
                self._tried.clear()
                self.pause(now)
                return
            partition = min(left)
            if not self.coordinator.ring.owns(self.coordinator.node_id, partition):
                self.on_filled(now, partition)  # what it kept for others there is for them to miss
                return
            self._filling = self._begun.pop(partition, None) or Filling(self, partition)
        if self._filling is not None:
            self._filling.on_tick(now)

    def set_aside(self, now: float, filling: Filling) -> None:
        """Nobody is left to be asked for it now: the next one has its turn."""
        partition = filling.partition
        self._filling = None
        self._begun[partition] = filling
        self._tried.add(partition)
        if filling.is_stuck:
            self.stuck.add(partition)
        else:
            self.stuck.discard(partition)
        self._due = now

    def on_filled(self, now: float, partition: PartitionId) -> None:
        self._filling = None
        self.stuck.discard(partition)
        self.coordinator.replica.on_filled(partition)
        self.coordinator.effects.note("partition.healed", partition=partition)
        self._due = now

    def document(self) -> dict[str, object]:
        """For the status of this node."""
        unknown = self._unknown
        return {
            **unknown.document(),
            "under_way": len(self._under_way),
            "failures": self.failures,
            "provable": self.coordinator.ring.w > 1,
            "stuck_keys": sorted(self.stuck_keys & unknown.keys.keys())[: limits.HEAL_KEYS_TOLD],
            "stuck_partitions": sorted(self.stuck & unknown.hollow)[: limits.HEAL_KEYS_TOLD],
        }


class HealOperation(Operation):
    """The other owners' copies of one key; it stands in the table so that answers find it."""

    __slots__ = (
        *("barrier", "counted", "found", "healer", "key", "needed", "token", "unsure", "waiting"),
    )

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
        self.unsure = 0  # who have answered that they do not know either
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
            self.unsure += isinstance(message, ReadReply)
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
