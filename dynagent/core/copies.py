"""What peers ask of our copies: to merge records into them, and to read them."""

from __future__ import annotations

from dynagent.core.coordinator import Coordinator
from dynagent.core.entry import Record, decode_entry, encode_clock, encode_entry, flatten
from dynagent.core.messages import (
    STATE_ABSENT,
    STATE_PRESENT,
    STATE_UNREADABLE,
    WANT_VALUE,
    Error,
    Merge,
    MergeAck,
    Message,
    Read,
    ReadReply,
)
from dynagent.core.ports import Effects, LinkId, NodeId
from dynagent.core.preference import fallbacks
from dynagent.core.put import op_state
from dynagent.core.replica import Replica
from dynagent.core.ring import token_of
from dynagent.errors import BadRequest, DynagentError, NotReady, Refused


class Copies:
    """The node's handlers of `Merge` and `Read`. `coordinator` is None before the bootstrap."""

    def __init__(self, replica: Replica, effects: Effects) -> None:
        self.coordinator: Coordinator | None = None
        self._replica = replica
        self._effects = effects

    def on_merge(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        """Acknowledged when durable; for the ids in `also` at once with it."""
        assert isinstance(message, Merge)
        replica = self._replica
        try:
            if self.coordinator is None:
                raise NotReady("this agent belongs to no cluster yet")
            replica.check_room(now)
            entries = [decode_entry(entry) for entry in message.entries]
            if message.barriers and len(message.barriers) != len(entries):
                raise BadRequest("a Merge whose entries and barriers differ in number")
            if message.hint_for:
                self._check_hint(self.coordinator, NodeId(message.hint_for), entries)
                replica.check_hint_room(entries)
            number = replica.merge(entries, barrier=message.barrier, barriers=message.barriers)
            if message.hint_for:
                for key, _ in entries:
                    owed = replica.owe([NodeId(message.hint_for)], key, token_of(key))
                    number = max(number, owed)
        except DynagentError as refusal:
            self._refuse(link, message.also, refusal)
            raise
        if replica.when_durable(number, (link, request_id)):
            for also in message.also:
                replica.when_durable(number, (link, also))
        else:
            self._effects.answer(link, request_id, MergeAck(message.also))

    def _check_hint(
        self, coordinator: Coordinator, owner: NodeId, entries: list[tuple[bytes, Record]]
    ) -> None:
        """May we keep these for that owner? Only a fallback may: whoever else held a copy would not
        be asked before its tombstone is purged."""
        own, ring = coordinator.node_id, coordinator.ring
        for key, _ in entries:
            partition = ring.partition_of(token_of(key))
            if owner not in ring.lists[partition] or own not in fallbacks(ring, partition):
                raise Refused(f"{owner} is owed no copy of {key[:64]!r} by this node")

    def on_read(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        """One answer for `key`, and one for each of `keys` under its id in `also`."""
        assert isinstance(message, Read)
        answer = self._effects.answer
        try:
            if self.coordinator is None:
                raise NotReady("this agent belongs to no cluster yet")
            if len(message.also) != len(message.keys):
                raise BadRequest("a Read whose further ids and keys differ in number")
        except DynagentError as refusal:
            self._refuse(link, message.also, refusal)
            raise
        answer(link, request_id, self._reply(message, message.key))
        for also, key in zip(message.also, message.keys, strict=True):
            answer(link, also, self._reply(message, key))

    def _refuse(self, link: LinkId, also: list[int], refusal: DynagentError) -> None:
        """The same refusal for the other requests of a frame; the node answers the first."""
        for request_id in also:
            self._effects.answer(link, request_id, Error(refusal.code, refusal.message))

    def _reply(self, read: Read, key: bytes) -> ReadReply:
        token = token_of(key)
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
