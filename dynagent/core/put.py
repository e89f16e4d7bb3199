"""A put or delete at its coordinator (Dynamo §4.4, §4.5), from the write on.

A first attempt with a context, or blind, writes at once: all of it is here. An overwrite or a retry
looks at the other copies first (`LookingPut` in look.py) and then goes on here.

    creation ──▶ refused: a definite error
    `_mint`
       ├────▶ no room, too many siblings (crowd.py), or too few nodes up by now: a definite error
       ├────▶ another attempt has written it here before: `_complete` mints nothing
       └────▶ own copy minted
    WRITING   `_replicate`: the record goes as a Merge to the other nodes of the active preference
       │      list; who fails, or is late, is replaced by the next stand-in (`_replace`)
       ├────▶ W nodes have it on disk: PutReply
       └────▶ fewer than W still can, or the deadline: WriteOutcomeUnknown
    ANSWERED  in the table until every node asked has answered or failed, or the deadline. Then an
              owner that has it neither on disk nor at a stand-in is owed it: a hint here (`_owe`)

What holds:

- Until `Replica.write` nothing has changed anywhere, so every failure is definite. After it a
  missed W is not: the write may still appear.
- A node counts once, and only when the write is on its disk; so do we (`on_durable`).
- Only owners count for a strict put. No two nodes that count share a host, unless owners do.
- If we are a stand-in ourselves, the hint is in the same batch as our copy.
- The whole record travels: every sibling that its clock claims.
- With it goes the purge barrier under which it was read (core.tombstones). Who has purged since
  refuses it; then our copy is read again, and sent again (`_send_anew`).
- The reply has a context only where it claims no sibling that this writer has not seen.

Example, W=2: A mints, and sends its record to B and C. B acknowledges before A's own fsync: 1 of 2.
The fsync: 2 of 2, PutReply. The link to C breaks: nobody is waited for, the operation is gone.
"""

from __future__ import annotations

from contextlib import suppress

from dynagent import limits
from dynagent.core.aim import Aim
from dynagent.core.coordinator import Coordinator, Request
from dynagent.core.crowd import check_crowd
from dynagent.core.entry import ABSENT, Record, decode_context, encode_context, encode_entry
from dynagent.core.hints import DURABLE
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_CONTEXT,
    MODE_OVERWRITE,
    OP_FORGOTTEN,
    OP_NOT_ASKED,
    OP_PRESENT,
    OP_SUPERSEDED,
    OP_UNKNOWN,
    Error,
    Merge,
    MergeAck,
    Message,
    Put,
    PutReply,
    ReadReply,
)
from dynagent.core.ports import LinkId, NodeId, Token
from dynagent.core.quorum import DONE, MISSED, JointQuorum, PutQuorum
from dynagent.core.siblings import Clock, join
from dynagent.core.trace import merge_words, reply_words
from dynagent.errors import (
    BadRequest,
    NotReady,
    Overloaded,
    QuorumNotMet,
    StaleBarrier,
    TooLarge,
    TooManySiblings,
    WriteOutcomeUnknown,
)


class PutOperation(Request):
    """One put or delete; raises `BadRequest`, `TooLarge`, `QuorumNotMet` or `Overloaded` on
    creation, when nothing has been done."""

    __slots__ = (
        "anew",
        "asked",
        "barrier",
        "context",
        "is_careful",
        "put",
        "record",
        "reply",
        "stand_ins",
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
        aim: Aim,
        token: Token,
    ) -> None:
        self.put = put
        self.aim = aim
        self.token = token
        due = self._check(coordinator, now)
        size = len(put.value) if put.value is not None else 0
        gate = coordinator.admission.puts
        super().__init__(coordinator, link, request_id, deadline, gate=gate, size=size, due=due)
        self.is_careful = False  # an overwrite that must not supersede even our own copy
        self.tally: PutQuorum | None = None  # from the moment at which the write has begun
        self.reply: PutReply | None = None
        self.barrier = 0  # under which `record` was read
        self.anew: tuple[NodeId, ...] = ()  # to whom it was sent a second time, read again

    def _check(self, coordinator: Coordinator, now: float) -> float:
        """Refuses what no owner would take, and what too few nodes are up for; says when to wake
        the operation before its deadline."""
        put = self.put
        if put.mode not in (MODE_CONTEXT, MODE_OVERWRITE, MODE_BLIND):
            raise BadRequest(f"unknown put mode {put.mode}")
        if len(put.op_id) != limits.OP_ID_BYTES or put.attempt < 1:
            raise BadRequest(
                f"a put needs an op-id of {limits.OP_ID_BYTES} bytes and an attempt ≥ 1"
            )
        if put.value is not None and len(put.value) > coordinator.value_bytes_max:
            raise TooLarge(
                f"the value has {len(put.value):,} bytes; "
                f"the limit of this cluster is {coordinator.value_bytes_max:,}"
            )
        if put.meta:
            _check_meta(put.meta)
        self.w = coordinator.needed("W", put.w, coordinator.ring.w)
        self._find_targets(coordinator)
        self.context: Clock = decode_context(put.context, key=put.key)
        return now + limits.PUT_HEDGE_S

    def _find_targets(self, coordinator: Coordinator) -> None:
        """The nodes to write to: `asked`, ourselves first, and in whose place each of `stand_ins`
        is among them. Raises `QuorumNotMet` if they are too few."""
        aim = self.aim
        self.asked = coordinator.owners_up(aim.owners)
        self.stand_ins: dict[NodeId, NodeId] = {}  # → the owner
        if len(self.asked) < len(aim.owners):
            self._find_others(coordinator)
        if aim.is_joint:
            reachable = JointQuorum(self.asked, self.w, aim.lists, self.stand_ins)
            for owners, count in zip(aim.lists, reachable.in_each(self.asked), strict=True):
                if count < self.w:
                    raise coordinator.too_few(owners, "W", self.w, count)
        elif len(self.asked) < self.w:
            raise coordinator.too_few(aim.owners, "W", self.w, len(self.asked))
        if self.asked[0] != coordinator.node_id:
            raise NotReady("an owner of this key is up again, and takes it from here")

    def _find_others(self, coordinator: Coordinator) -> None:
        """Some owners are not up: in whose place whom, and for whom to wait."""
        aim, own = self.aim, coordinator.node_id
        if aim.is_joint:
            self.asked += coordinator.joining(aim)
        if not self.put.strict and len(self.asked) < len(aim.owners):
            self.stand_ins = coordinator.stand_ins(aim, aim.owners)
            self.stand_ins = {
                node: owner for node, owner in self.stand_ins.items() if owner not in self.asked
            }
            self.asked += self.stand_ins
            self.asked.sort(key=lambda node: node != own)

    # --- what the coordinator feeds --------------------------------------------------------------

    def start(self, now: float) -> None:
        if self.trace is not None:
            self._tell_start(now)
        self._mint(now)

    @property
    def may_have_effect(self) -> bool:
        return self.tally is not None

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        assert self.tally is not None
        if self.trace is not None:
            self._tell_reply(now, source, message)
        kind = type(message)
        if kind is MergeAck:
            self.tally.add_result(source)
            self._conclude_write()
        elif isinstance(message, Error) and message.error == StaleBarrier.code:
            self._send_anew(now, source)
        elif kind is ReadReply:
            pass  # a straggler of the look; the write is under way
        elif self.answered or source in self.stand_ins:
            self.on_failure(now, source)
        elif self.coordinator.is_put_off(source, message):
            self.coordinator.ask_later(now, self, source)
        else:
            self.on_failure(now, source)

    def on_failure(self, now: float, source: NodeId) -> None:
        assert self.tally is not None
        if self.trace is not None and source in self.tally.waiting:
            self.tell_failure(now, source)
        if source in self.tally.waiting:
            self.tally.add_failure(source)
            self._replace(now, source)
        self._conclude_write()

    def ask_again(self, now: float, node: NodeId) -> None:
        assert self.tally is not None
        if self.answered:
            self.on_failure(now, node)
        elif node not in self.tally.waiting:
            return
        elif node in self.coordinator.up:
            self._send(now, [node])
        else:
            self.coordinator.ask_later(now, self, node)

    def on_ring(self, now: float) -> None:
        """Aims again. What has been written under the old stamp is written once more: who has it
        says so, and counts under the new one."""
        coordinator = self.coordinator
        if self.tally is None:
            coordinator.start_over(now, self, self.put)
            return
        own = coordinator.node_id
        is_refused = own in self.tally.failed  # our copy, by a full disk: it is nowhere here
        self.aim = coordinator.aim_of(self.token)
        if self.trace is not None:
            epoch = coordinator.ring.epoch
            self.tell(now, own, f"has the ring of epoch {epoch}: aims again")
        with suppress(QuorumNotMet, NotReady):
            self._find_targets(coordinator)
        self.anew = ()
        self.due = min(now + limits.PUT_HEDGE_S, self.deadline)
        coordinator.renumber(self)  # acknowledgements under the old stamp must not count here
        number = coordinator.replica.batch_of(self.put.key)
        self._spread(now, number, is_refused=is_refused)

    def on_hedge(self, now: float) -> None:
        """W is late: whoever hangs gets a stand-in as well; the first W count."""
        if self.tally is not None and not self.answered:
            for node in sorted(self.tally.waiting):
                self._replace(now, node)

    def on_durable(self, now: float) -> None:
        assert self.tally is not None
        if self.trace is not None:
            self.tell(now, self.coordinator.node_id, "has its own copy on disk")
        self.tally.add_result(self.coordinator.node_id)
        self._conclude_write()

    def on_deadline(self, now: float) -> None:
        self._owe()
        if self.answered:
            return
        if self.trace is not None:
            self.tell(now, self.coordinator.node_id, "has no more time")
        self._miss()

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
        if put.mode == MODE_OVERWRITE and not self.is_careful:
            context = join(context, old.value.clock)
        try:
            check_crowd(
                put,
                old,
                context,
                siblings_max=coordinator.siblings_max,
                bytes_max=coordinator.record_bytes_max,
            )
            if not self.asked:
                self._find_targets(coordinator)
            replica.check_room(now)
            if coordinator.node_id in self.stand_ins and put.value is not None:
                replica.hints.check_room(len(put.value))
        except (TooLarge, TooManySiblings, QuorumNotMet, NotReady, Overloaded) as refusal:
            self.fail(refusal)
            self.finish()
            return
        record, number = replica.write(put, self.token, old, context, coordinator.wall_ms())
        if self.trace is not None and record.value.clock:
            self.tell(now, coordinator.node_id, "writes its own copy")
        self._replicate(now, record, number)

    def _complete(self, now: float) -> None:
        """Our own copy holds the write that this retry repeats: bring it to W."""
        replica = self.coordinator.replica
        if self.trace is not None:
            self.tell(now, self.coordinator.node_id, "holds this write: completes it")
        record = replica.newest(self.put.key, self.token)
        with suppress(QuorumNotMet, NotReady):  # it is written: whoever is there may still do
            self._find_targets(self.coordinator)
        self._replicate(now, record, replica.batch_of(self.put.key))

    def _replicate(self, now: float, record: Record, number: int) -> None:
        self.record = record
        barriers = self.coordinator.replica.barriers
        self.barrier = barriers.read_under(self.token) if barriers.has_moved else 0
        self.reply = self._reply_of(record)
        self._spread(now, number)

    def _spread(self, now: float, number: int, *, is_refused: bool = False) -> None:
        """Sends the record to all others, and waits for our own copy, which batch `number` has;
        or not, if our disk has refused it."""
        coordinator, asked, aim, record = self.coordinator, self.asked, self.aim, self.record
        own = coordinator.node_id
        if aim.is_joint:
            self.tally = JointQuorum(asked, self.w, aim.lists, self.stand_ins)
        else:
            self.tally = PutQuorum(asked, self.w)
        if is_refused:
            self.tally.add_failure(own)
        elif len(asked) < len(aim.owners) or self.stand_ins:
            number = max(number, self._owe_at_once(record))
        if not is_refused and not coordinator.replica.when_durable(number, (None, self.number)):
            self.tally.add_result(own)
            if self.trace is not None and record.value.clock:
                self.tell(now, own, "has its own copy on disk")
        if not record.value.clock:
            self.tally = PutQuorum([], 0)  # a delete that met nothing: there is nothing to say
        others = [node for node in asked if node != own]
        if self.trace is not None:
            words = merge_words(coordinator.in_order(others), has_news=bool(record.value.clock))
            self.tell(now, own, words)
        if others and record.value.clock:
            if self.stand_ins or aim.is_joint:
                others = self._send_to_some(now, others)
            self._send(now, others)
        self._conclude_write()

    def _send_to_some(self, now: float, others: list[NodeId]) -> list[NodeId]:
        """Sends what goes as a hint, and puts off what goes to members whose link is not up yet;
        returns the rest."""
        for node, owner in self.stand_ins.items():
            if node != self.coordinator.node_id:
                self._send(now, [node], hint_for=owner)
        others = [node for node in others if node not in self.stand_ins]
        for node in others:
            if node not in self.coordinator.up:
                self.coordinator.ask_later(now, self, node)
        return [node for node in others if node in self.coordinator.up]

    def _send(self, now: float, targets: list[NodeId], hint_for: str = "") -> None:
        coordinator = self.coordinator
        entry = encode_entry(self.put.key, self.record)
        merge = Merge(*self.aim.stamp, self.barrier, [entry], [], hint_for)
        coordinator.send(now, targets, self.number, self.budget_ms(now), merge)

    def _send_anew(self, now: float, source: NodeId) -> None:
        """`source` has purged tombstones since our copy was read: reads it again, once."""
        replica, tally = self.coordinator.replica, self.tally
        assert tally is not None
        newest = replica.newest(self.put.key, self.token)
        if newest is ABSENT and self.coordinator.node_id in self.aim.owners:
            # Purged: so all owners, this one too, have had on disk what superseded our write.
            tally.add_result(source)
            self._conclude_write()
        elif source in self.anew or newest.unknown or not newest.value.clock:
            self.on_failure(now, source)
        else:
            self.anew += (source,)
            self.record, self.barrier = newest, replica.barriers.read_under(self.token)
            self._send(now, [source], hint_for=self.stand_ins.get(source, ""))

    # --- those who are not there -----------------------------------------------------------------

    def _replace(self, now: float, node: NodeId) -> None:
        """Asks the next stand-in for the place of one that has failed or hangs."""
        tally, coordinator = self.tally, self.coordinator
        assert tally is not None
        if tally.replied or self.put.strict:
            return
        owner = self.stand_ins.get(node, node)
        counting = {at: self.stand_ins.get(at, at) for at in (*tally.counted, *tally.waiting)}
        next_ = coordinator.next_stand_in(
            self.aim, owner, asked=(*counting, *tally.failed), counting=counting
        )
        if next_ is None:
            return
        self.stand_ins[next_] = owner
        tally.waiting.add(next_)
        if self.trace is not None:
            names = coordinator.names
            words = f"asks {names([next_])} to stand in for {names([owner])}"
            self.tell(now, coordinator.node_id, words)
        self._send(now, [next_], hint_for=owner)

    def _owe_at_once(self, record: Record) -> int:
        """Hints in the batch of our own copy: for the owner in whose place we stand, and for those
        for whom nobody does."""
        coordinator = self.coordinator
        if not record.value.clock or coordinator.node_id not in self.asked:
            return DURABLE
        own = coordinator.node_id
        places = {self.stand_ins.get(node, node) for node in self.asked if node != own}
        owed = [owner for owner in self.aim.owners if owner not in places and owner != own]
        return coordinator.replica.owe(owed, self.put.key, self.token)

    def _owe(self) -> None:
        """Nobody will answer any more: hints for the owners that may not have this write."""
        tally, coordinator = self.tally, self.coordinator
        if tally is None or not tally.needed or coordinator.node_id not in tally.counted:
            return  # nothing was written, or not here
        if len(tally.counted) == len(self.aim.owners) and not self.stand_ins:
            return
        places = {self.stand_ins.get(node, node) for node in tally.counted}
        missed = [owner for owner in self.aim.owners if owner not in places]
        if missed:
            coordinator.replica.owe(missed, self.put.key, self.token)

    def finish(self) -> None:
        tally = self.tally
        if tally is None or len(tally.counted) < len(self.aim.owners) or self.stand_ins:
            self._owe()
        super().finish()

    def _reply_of(self, record: Record) -> PutReply:
        """A context only where it claims no sibling that this writer has not seen."""
        siblings = record.value.siblings
        own = [sibling for sibling in siblings if sibling.op_id == self.put.op_id]
        alone = len(own) == len(siblings)
        clock, encoded = record.value.clock, record.clock_bytes
        context = encode_context(clock, key=self.put.key, encoded=encoded) if alone else b""
        dot = own[0].actor.to_bytes(8, "big") + own[0].counter.to_bytes(8, "big") if own else b""
        return PutReply(context, len(siblings), dot)

    def _conclude_write(self) -> None:
        assert self.tally is not None and self.reply is not None
        tally = self.tally
        if not tally.replied:
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
        silent = [node for node in (*self.aim.owners, *self.stand_ins) if node not in tally.counted]
        why = ", ".join(
            f"{names([node])} {_reason(node in up, node in tally.waiting)}" for node in silent
        )
        of = " of one of its two lists of owners" if self.aim.is_joint else ""
        self._unknown(f"{tally.reached} of {tally.needed}{of} acknowledged ({why})")

    def _unknown(self, why: str) -> None:
        self.fail(WriteOutcomeUnknown(why))

    # --- telling ---------------------------------------------------------------------------------

    def _tell_start(self, now: float, first: str = ": ") -> None:
        """`first`: what it does before it writes, if anything."""
        coordinator = self.coordinator
        verb = "delete" if self.put.value is None else "put"
        owners = coordinator.in_order(self.aim.owners)
        self.tell(now, coordinator.node_id, f"takes the {verb}{first}W={self.w} of {owners}")
        for node, owner in self.stand_ins.items():
            self.tell(now, node, f"stands in for {coordinator.names([owner])}, which is down")

    def _tell_reply(self, now: float, source: NodeId, message: Message) -> None:
        is_ack = isinstance(message, MergeAck)
        self.tell(now, source, "has it on disk" if is_ack else reply_words(message))


def _reason(is_up: bool, is_waiting: bool) -> str:
    if not is_up:
        return "unreachable"
    return "timed out" if is_waiting else "failed"


def _check_meta(meta: dict[bytes, bytes]) -> None:
    meta_bytes = sum(len(name) + len(value) for name, value in meta.items())
    if meta_bytes > limits.META_BYTES_MAX:
        raise TooLarge(
            f"the headers have {meta_bytes:,} bytes; the limit is {limits.META_BYTES_MAX:,}"
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
