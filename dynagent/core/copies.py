"""What peers ask of our copies: to merge records into them, and to read them."""

from __future__ import annotations

from collections.abc import Callable

from dynagent.core.aim import NOT_YET, TAKEN, judge_merge, judge_read
from dynagent.core.coordinator import Coordinator
from dynagent.core.entry import decode_entry, encode_clock, encode_entry, flatten
from dynagent.core.messages import (
    STATE_ABSENT,
    STATE_PRESENT,
    STATE_UNREADABLE,
    WANT_VALUE,
    Merge,
    MergeAck,
    Message,
    Read,
    ReadReply,
    RingIs,
)
from dynagent.core.ports import Effects, LinkId, NodeId, PartitionId, Token
from dynagent.core.put import op_state
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring, Stamp, token_of
from dynagent.errors import BadRequest, NotReady, NotYetOwner


class Copies:
    """The node's handlers of `Merge` and `Read`. `coordinator` is None before the bootstrap.

    Each carries the stamp of a partition, and is taken only as `core.aim` says. Whoever asks with
    the stamp that the partition has under our own ring is taken without a further look, where we
    own it and it does not move: that is all but always.
    """

    def __init__(self, replica: Replica, effects: Effects) -> None:
        self.coordinator: Coordinator | None = None
        # Whether this node has fenced the old owners of a partition that it is to own: asked in
        # the first phase of its move only (`core.transfer`).
        self.has_fenced: Callable[[PartitionId], bool] = lambda _partition: False
        self._replica = replica
        self._effects = effects
        self._ring: Ring | None = None  # of what follows
        self._own = NodeId("")
        self._shift = 32
        self._usual: list[Stamp | None] = []  # of each partition: the stamp that needs no look

    def on_merge(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        """Acknowledged when durable; for the ids in `also` at once with it."""
        assert isinstance(message, Merge)
        replica = self._replica
        if self.coordinator is None:
            raise NotReady("this agent belongs to no cluster yet")
        replica.check_room(now)
        entries = [decode_entry(entry) for entry in message.entries]
        if message.barriers and len(message.barriers) != len(entries):
            raise BadRequest("a Merge whose entries and barriers differ in number")
        tokens = [token_of(key) for key, _ in entries]
        if not self._takes(self.coordinator.ring, message, tokens):
            self._refer(link, request_id, message.also)
            return
        if message.hint_for:
            replica.check_hint_room(entries)
        number = replica.merge(
            entries, barrier=message.barrier, barriers=message.barriers, tokens=tokens
        )
        if message.hint_for:
            for (key, _), token in zip(entries, tokens, strict=True):
                owed = replica.owe([NodeId(message.hint_for)], key, token)
                number = max(number, owed)
        if replica.when_durable(number, (link, request_id)):
            for also in message.also:
                replica.when_durable(number, (link, also))
        else:
            self._effects.answer(link, request_id, MergeAck(message.also))

    def on_read(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        """One answer for `key`, and one for each of `keys` under its id in `also`."""
        assert isinstance(message, Read)
        answer = self._effects.answer
        if self.coordinator is None:
            raise NotReady("this agent belongs to no cluster yet")
        if len(message.also) != len(message.keys):
            raise BadRequest("a Read whose further ids and keys differ in number")
        ring = self.coordinator.ring
        answer(link, request_id, self._reply(ring, message, message.key))
        for also, key in zip(message.also, message.keys, strict=True):
            answer(link, also, self._reply(ring, message, key))

    # --- under which stamp ----------------------------------------------------------------------

    def _takes(self, ring: Ring, merge: Merge, tokens: list[Token]) -> bool:
        """Whether all these copies are taken; raises `NotYetOwner`."""
        if ring is not self._ring:
            self._learn(ring)
        stamp, usual, shift = (merge.stamp_change, merge.stamp_phase), self._usual, self._shift
        for token in tokens:
            partition = PartitionId(int.from_bytes(token[:4], "big") >> shift)
            if usual[partition] != stamp or merge.hint_for:
                verdict = judge_merge(
                    ring,
                    self._own,
                    partition,
                    stamp,
                    minimum=self._replica.stamps.minimum(partition),
                    has_fenced=self.has_fenced(partition),
                    hint_for=NodeId(merge.hint_for) if merge.hint_for else None,
                )
                if verdict == NOT_YET:
                    raise NotYetOwner(f"partition {partition} is not ready to be written here")
                if verdict != TAKEN:
                    return False
                if merge.hint_for and self._replica.barriers.is_foreign(partition):
                    raise NotReady(f"partition {partition} is still foreign to this agent")
        return True

    def _tells(self, ring: Ring, read: Read, token: Token) -> bool:
        """Whether our copy is told."""
        if ring is not self._ring:
            self._learn(ring)
        stamp = (read.stamp_change, read.stamp_phase)
        partition = PartitionId(int.from_bytes(token[:4], "big") >> self._shift)
        if self._usual[partition] == stamp:
            return True
        minimum = self._replica.stamps.minimum(partition)
        return judge_read(ring, self._own, partition, stamp, minimum=minimum)

    def _learn(self, ring: Ring) -> None:
        assert self.coordinator is not None
        self._own = own = self.coordinator.node_id
        self._shift = 33 - ring.partitions.bit_length()
        self._usual = [
            stamp if own in owners and not ring.removed else None
            for stamp, owners in zip(ring.stamps, ring.lists, strict=True)
        ]
        for partition in ring.moves:
            self._usual[partition] = None
        self._ring = ring

    def _refer(self, link: LinkId, request_id: int, also: list[int]) -> None:
        """One of us two lacks entries of the ring log: says how many we have."""
        assert self._ring is not None
        for id_ in (request_id, *also):
            self._effects.answer(link, id_, RingIs(self._ring.epoch))

    def _reply(self, ring: Ring, read: Read, key: bytes) -> ReadReply | RingIs:
        token = self._replica.token_of(key)
        if not self._tells(ring, read, token):
            return RingIs(ring.epoch)
        record = self._replica.read(key, token)
        op = op_state(record, read.op_id)
        value = record.value
        if record.unknown:
            return ReadReply(STATE_UNREADABLE, b"", [], [], None, op)
        if not value.clock:
            return ReadReply(STATE_ABSENT, b"", [], [], None, op)
        entry = encode_entry(key, record) if read.want == WANT_VALUE else None
        clock, dots = encode_clock(value.clock), flatten(value.dots())
        barriers = self._replica.barriers
        barrier = barriers.read_under(token) if barriers.has_moved else 0
        return ReadReply(STATE_PRESENT, record.digest, clock, dots, entry, op, [], barrier)
