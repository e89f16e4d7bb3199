"""A put or delete at its coordinator (Dynamo §4.4, §4.5), in up to three stages:

    LOOKING     overwrite and retries only: R owners are asked for their clocks and for the op-id
    FETCHING    a retry whose write was found at another owner only: its record is on the way
    WRITING     own copy minted (or the found write taken over), Merge sent to the other owners

A first attempt with a context, or blind, starts at WRITING. It answers at W durable copies, our own
included, and stays in the table for the stragglers.

Until WRITING nothing has changed anywhere, so every failure is definite. After it a missed W is
`WriteOutcomeUnknown`: the write may still appear.

**Retries** (design §3). Known op-id: that write is completed instead of minting again. Unknown at
R owners: it never reached W, so it is minted. Unknown, but a record has reached its bound of
superseded op-ids and may have forgotten it: outcome unknown, and this attempt applies nothing.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.coordinator import SETTLED, Coordinator, Operation
from dynagent.core.entry import (
    Record,
    decode_context,
    decode_entry,
    encode_context,
    encode_entry,
    unflatten,
)
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_CONTEXT,
    MODE_OVERWRITE,
    OP_FORGOTTEN,
    OP_NOT_ASKED,
    OP_PRESENT,
    OP_SUPERSEDED,
    OP_UNKNOWN,
    STATE_UNREADABLE,
    WANT_DIGEST,
    WANT_VALUE,
    Merge,
    MergeAck,
    Message,
    Put,
    PutReply,
    Read,
    ReadReply,
)
from dynagent.core.ports import LinkId, NodeId, Token
from dynagent.core.quorum import DONE, MISSED, ContextQuorum, PutQuorum
from dynagent.core.siblings import Clock, join
from dynagent.core.trace import copy_words, reply_words, request_words
from dynagent.errors import (
    BadRequest,
    Overloaded,
    ProtocolError,
    QuorumNotMet,
    TooLarge,
    WriteOutcomeUnknown,
)


class PutOperation(Operation):
    """One put or delete; raises `BadRequest`, `TooLarge`, `QuorumNotMet` or `Overloaded` on
    creation, when nothing has been done."""

    __slots__ = (
        "asked",
        "context",
        "fetching",
        "look",
        "owners",
        "put",
        "reply",
        "tally",
        "token",
        "w",
    )

    def __init__(
        self,
        coordinator: Coordinator,
        link: LinkId,
        request_id: int,
        now: float,
        deadline: float,
        put: Put,
        owners: tuple[NodeId, ...],
    ) -> None:
        _check(put, coordinator)
        self.w = coordinator.needed("W", put.w, coordinator.ring.w)
        self.asked = coordinator.reachable(owners, "W", self.w)
        self.context: Clock = decode_context(put.context, key=put.key)
        self.look: ContextQuorum | None = None
        due = deadline
        if put.mode == MODE_OVERWRITE or put.attempt > 1:
            r = coordinator.needed("R", put.r, coordinator.ring.r)
            if put.attempt > 1:  # it must meet every write that reached this W, whatever its R
                r = max(r, len(owners) - self.w + 1)
            own, *others = coordinator.reachable(owners, "R", r)
            self.look = ContextQuorum([own], r, others)
            due = now + limits.HEDGE_S
        size = len(put.value) if put.value is not None else 0
        super().__init__(coordinator, link, request_id, deadline, size=size, due=due)
        self.put = put
        self.owners = owners
        self.fetching: NodeId | None = None  # the owner asked for the record with the found write
        self.tally: PutQuorum | None = None
        self.reply: PutReply | None = None

    def start(self, now: float, token: Token) -> None:
        self.token = token
        if self.trace is not None:
            self._tell_start(now)
        if self.look is None:
            self._mint(now)
            return
        own = self.coordinator.replica.newest(self.put.key, token)
        if self.trace is not None:
            words = copy_words(own.value, unreadable=own.unknown)
            self.tell(now, self.coordinator.node_id, words)
        self.look.add_result(
            self.coordinator.node_id,
            state=STATE_UNREADABLE if own.unknown else 0,
            clock=own.value.clock,
            op_state=op_state(own, self._asked_op_id()),
        )
        self._conclude_look(now)

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if self.trace is not None:
            is_ack = isinstance(message, MergeAck)
            self.tell(now, source, "has it on disk" if is_ack else reply_words(message))
        match message:
            case MergeAck() if self.tally is not None:
                self.tally.add_result(source)
                self._conclude_write()
            case ReadReply() if self.tally is None and message.entry is not None:
                self._take_over(now, source, message.entry)
            case ReadReply() if self.look is not None and self.tally is None:
                self._on_look(now, source, message)
            case ReadReply():
                pass  # a straggler of the look; the write is under way
            case _:
                self.on_failure(now, source)

    def on_failure(self, now: float, source: NodeId) -> None:
        if self.trace is not None and self._waits_for(source):
            self.tell_failure(now, source)
        if self.tally is not None:
            self.tally.add_failure(source)
            self._conclude_write()
        elif self.look is not None and not self.look.replied:
            self.look.add_failure(source)
            self._conclude_look(now)
        elif self.look is not None and not self.answered and source == self.fetching:
            del self.look.op_states[source]
            self._fetch(now)

    def on_hedge(self, now: float) -> None:
        look = self.look
        if look is not None and not look.replied and (more := look.hedge(self.coordinator.up)):
            if self.trace is not None:
                self.tell(now, self.coordinator.node_id, "waits no longer: asks the other owners")
            self._ask(now, more, WANT_DIGEST)

    def on_durable(self, now: float) -> None:
        assert self.tally is not None
        if self.trace is not None:
            self.tell(now, self.coordinator.node_id, "has its own copy on disk")
        self.tally.add_result(self.coordinator.node_id)
        self._conclude_write()

    def on_deadline(self, now: float) -> None:
        if self.answered:
            return
        if self.trace is not None:
            self.tell(now, self.coordinator.node_id, "has no more time")
        if self.tally is not None:
            self._miss()
        elif self.look is not None and not self.look.replied:
            self._miss_look()
        else:
            self._unknown("the owner at which the write was found did not answer in time")

    # --- telling ---------------------------------------------------------------------------------

    def _tell_start(self, now: float) -> None:
        put, coordinator = self.put, self.coordinator
        verb = "delete" if put.value is None else "put"
        attempt = f", attempt {put.attempt}" if put.attempt > 1 else ""
        look = f"reads R={self.look.needed} first, " if self.look is not None else ""
        owners = coordinator.in_order(self.owners)
        words = f"takes the {verb}{attempt}: {look}W={self.w} of {owners}"
        self.tell(now, coordinator.node_id, words)

    def _tell_write(self, now: float, record: Record, others: list[NodeId]) -> None:
        coordinator = self.coordinator
        if not record.value.clock:
            words = "has nothing to delete"
        elif others:
            words = f"sends its copy to {coordinator.in_order(others)}"
        else:
            words = "sends its copy to nobody: no other owner is up"
        self.tell(now, coordinator.node_id, words)

    def _waits_for(self, node: NodeId) -> bool:
        if self.tally is not None:
            return node in self.tally.waiting
        return self.look is not None and (node in self.look.waiting or node == self.fetching)

    # --- looking ---------------------------------------------------------------------------------

    def _asked_op_id(self) -> bytes:
        return self.put.op_id if self.put.attempt > 1 else b""

    def _ask(self, now: float, targets: list[NodeId], want: int) -> None:
        coordinator = self.coordinator
        if self.trace is not None:
            names = coordinator.in_order(targets)
            asked = request_words(names, want, op_id=self._asked_op_id())
            self.tell(now, coordinator.node_id, asked)
        coordinator.effects.send(
            targets,
            self.number,
            self.budget_ms(now),
            Read(coordinator.ring.epoch, SETTLED, self.put.key, want, self._asked_op_id()),
        )

    def _on_look(self, now: float, source: NodeId, reply: ReadReply) -> None:
        assert self.look is not None
        try:
            clock = dict(unflatten(reply.clock))
        except ProtocolError as exc:
            self.coordinator.effects.note("peer.malformed", peer=source, reason=exc.message)
            self.on_failure(now, source)
            return
        self.look.add_result(source, state=reply.state, clock=clock, op_state=reply.op)
        self._conclude_look(now)

    def _conclude_look(self, now: float) -> None:
        assert self.look is not None
        if not self.look.replied and (targets := self.look.take_targets(self.coordinator.up)):
            self._ask(now, targets, WANT_DIGEST)
        outcome = self.look.take_reply()
        if outcome == MISSED:
            self._miss_look()
            self.finish()
        elif outcome == DONE:
            found = self._found_at()
            if found == self.coordinator.node_id:
                self._complete_own(now)
            elif found is not None:
                self._fetch(now)
            elif OP_FORGOTTEN in self.look.op_states.values():
                self._unknown(
                    f"no trace of this op-id, but the key has forgotten all but its newest "
                    f"{limits.OP_IDS_KEPT}; this attempt applied nothing"
                )
                self.finish()
            else:
                if self.put.mode == MODE_OVERWRITE:
                    self.context = join(self.context, self.look.clock)
                self._mint(now)

    def _found_at(self) -> NodeId | None:
        """Who knows this retry's write: ourselves if we do."""
        assert self.look is not None
        states = self.look.op_states
        found = [node for node in states if states[node] in (OP_PRESENT, OP_SUPERSEDED)]
        if not found:
            return None
        return self.coordinator.node_id if self.coordinator.node_id in found else min(found)

    def _fetch(self, now: float) -> None:
        """Asks for the found write, at an owner that has not failed since it said so."""
        assert self.look is not None
        while (found := self._found_at()) is not None and found not in self.coordinator.up:
            del self.look.op_states[found]
        self.fetching = found
        if found is not None:
            self._ask(now, [found], WANT_VALUE)
        else:
            self._unknown("the owners at which the write was found have failed")
            self.finish()

    def _miss_look(self) -> None:
        assert self.look is not None
        look, names = self.look, self.coordinator.names
        silent = [node for node in self.owners if node not in look.counted]
        self.fail(
            QuorumNotMet(
                f"nothing was written: {len(look.counted)} of R={look.needed} owners answered the "
                f"read before it; not: {names(silent)}"
            )
        )

    def _take_over(self, now: float, source: NodeId, entry: list[object]) -> None:
        """The record with the write that this retry repeats has come: from here it is a Merge."""
        try:
            key, record = decode_entry(entry)
        except ProtocolError as exc:
            self.coordinator.effects.note("peer.malformed", peer=source, reason=exc.message)
            self.on_failure(now, source)
            return
        try:
            if key != self.put.key:
                raise Overloaded(f"{self.coordinator.names([source])} sent another key's record")
            self.coordinator.replica.check_room(now)
        except Overloaded as refusal:
            self._unknown(refusal.message)
            self.finish()
            return
        self.coordinator.replica.merge([(key, record)])
        self._complete(now)

    # --- writing ---------------------------------------------------------------------------------

    def _mint(self, now: float) -> None:
        coordinator, put = self.coordinator, self.put
        replica = coordinator.replica
        old = replica.newest(put.key, self.token)
        if not old.unknown and op_state(old, put.op_id) in (OP_PRESENT, OP_SUPERSEDED):
            # Another attempt has overtaken this one here. To write again could now supersede
            # what others have written since that attempt was acknowledged.
            self._complete(now)
            return
        context = self.context
        if put.mode == MODE_OVERWRITE:
            context = join(context, old.value.clock)
        try:
            _check_room(put, old, context)
            if self.look is not None:  # time has passed since
                self.asked = coordinator.reachable(self.owners, "W", self.w)
            replica.check_room(now)
        except (TooLarge, QuorumNotMet, Overloaded) as refusal:
            self.fail(refusal)
            self.finish()
            return
        record, number = replica.write(put, self.token, old, context, coordinator.wall_ms())
        if self.trace is not None and record.value.clock:
            self.tell(now, coordinator.node_id, "writes its own copy")
        self._replicate(now, self.asked, record, number)

    def _complete_own(self, now: float) -> None:
        # The look may have waited for the others. What we held then can have rotted since, and what
        # has been merged into it afterwards does not make it the write again; or it was not yet
        # committed, and a full disk has refused it.
        own = self.coordinator.replica.newest(self.put.key, self.token)
        if own.unknown:
            self._unknown("this node's copy, which held the write, has become unreadable")
            self.finish()
        elif op_state(own, self.put.op_id) not in (OP_PRESENT, OP_SUPERSEDED):
            self._unknown("this node's copy held the write, and holds it no more")
            self.finish()
        else:
            self._complete(now)

    def _complete(self, now: float) -> None:
        """Our own copy holds the write that this retry repeats: bring it to W."""
        replica = self.coordinator.replica
        if self.trace is not None:
            self.tell(now, self.coordinator.node_id, "holds this write: completes it")
        record = replica.newest(self.put.key, self.token)
        asked = [node for node in self.owners if node in self.coordinator.up]
        self._replicate(now, asked, record, replica.batch_of(self.put.key))

    def _replicate(self, now: float, asked: list[NodeId], record: Record, number: int) -> None:
        coordinator = self.coordinator
        if self.look is not None:
            coordinator.renumber(self)  # what still answers the look must not count here
        self.reply = self._reply_of(record)
        self.tally = PutQuorum(asked, self.w)
        if not coordinator.replica.when_durable(number, (None, self.number)):
            self.tally.add_result(coordinator.node_id)
            if self.trace is not None and record.value.clock:
                self.tell(now, coordinator.node_id, "has its own copy on disk")
        if not record.value.clock:
            self.tally = PutQuorum([], 0)  # a delete that met nothing: there is nothing to say
        others = [node for node in asked if node != coordinator.node_id]
        if self.trace is not None:
            self._tell_write(now, record, others)
        if others and record.value.clock:
            coordinator.effects.send(
                others,
                self.number,
                self.budget_ms(now),
                Merge(
                    coordinator.ring.epoch,
                    SETTLED,
                    record.since,
                    [encode_entry(self.put.key, record)],
                ),
            )
        self._conclude_write()

    def _reply_of(self, record: Record) -> PutReply:
        """A context only where it claims no sibling that this writer has not seen."""
        siblings = record.value.siblings
        own = [sibling for sibling in siblings if sibling.op_id == self.put.op_id]
        alone = len(own) == len(siblings)
        context = encode_context(record.value.clock, key=self.put.key) if alone else b""
        dot = own[0].actor.to_bytes(8, "big") + own[0].counter.to_bytes(8, "big") if own else b""
        return PutReply(context, len(siblings), dot)

    def _conclude_write(self) -> None:
        assert self.tally is not None and self.reply is not None
        tally = self.tally
        outcome = tally.take_reply()
        if outcome == DONE:
            self.answer(self.reply)
        elif outcome == MISSED:
            self._miss()
        if tally.replied and not tally.waiting:
            self.finish()

    def _miss(self) -> None:
        assert self.tally is not None
        tally, names, up = self.tally, self.coordinator.names, self.coordinator.up
        silent = [node for node in self.owners if node not in tally.counted]
        why = ", ".join(
            f"{names([node])} {_reason(node in up, node in tally.waiting)}" for node in silent
        )
        self._unknown(f"{len(tally.counted)} of {tally.needed} acknowledged ({why})")

    def _unknown(self, why: str) -> None:
        self.fail(WriteOutcomeUnknown(why))


def _reason(is_up: bool, is_waiting: bool) -> str:
    if not is_up:
        return "unreachable"
    return "timed out" if is_waiting else "failed"


def _check(put: Put, coordinator: Coordinator) -> None:
    """Raises `BadRequest` or `TooLarge` for what no owner would take."""
    if put.mode not in (MODE_CONTEXT, MODE_OVERWRITE, MODE_BLIND):
        raise BadRequest(f"unknown put mode {put.mode}")
    if len(put.op_id) != limits.OP_ID_BYTES or put.attempt < 1:
        raise BadRequest(f"a put needs an op-id of {limits.OP_ID_BYTES} bytes and an attempt ≥ 1")
    if put.value is not None and len(put.value) > coordinator.value_bytes_max:
        raise TooLarge(
            f"the value has {len(put.value):,} bytes; "
            f"the limit of this cluster is {coordinator.value_bytes_max:,}"
        )
    if not put.meta:
        return
    meta_bytes = sum(len(name) + len(value) for name, value in put.meta.items())
    if meta_bytes > limits.META_BYTES_MAX:
        raise TooLarge(
            f"the headers have {meta_bytes:,} bytes; the limit is {limits.META_BYTES_MAX:,}"
        )


def _check_room(put: Put, old: Record, context: Clock) -> None:
    """Raises `TooLarge` if the siblings that would stay leave no room for this value."""
    if put.value is None or not old.value.siblings:
        return
    kept = [s for s in old.value.siblings if s.counter > context.get(s.actor, 0)]
    size = len(put.value) + sum(len(sibling.data) for sibling in kept)
    if size > limits.RECORD_BYTES_MAX:
        raise TooLarge(
            f"with {len(kept)} other siblings the key would hold {size:,} bytes; the limit is "
            f"{limits.RECORD_BYTES_MAX:,}. Read it and put one value with its context"
        )


def op_state(record: Record, op_id: bytes) -> int:
    """What a copy knows of a client's write (`OP_*`); `op_id` empty: not asked."""
    if not op_id:
        return OP_NOT_ASKED
    for sibling in record.value.siblings:
        if sibling.op_id == op_id:
            return OP_PRESENT
    if op_id in record.op_ids:
        return OP_SUPERSEDED
    return OP_FORGOTTEN if len(record.op_ids) >= limits.OP_IDS_KEPT else OP_UNKNOWN
