"""A put that looks before it writes (design §3): an overwrite, or a retry.

An overwrite has no context: it supersedes what R nodes hold, so it asks for their clocks. A retry
must not write a second time: it asks, by the op-id, how far earlier attempts have got.

    LOOKING   own copy, then as many others as R needs: clocks and op-id, no values. One that fails
       │      is replaced by the next; a late answer makes us ask all of them (`on_hedge`)
       ├────▶ fewer than R can still answer, or the deadline: a strict put is QuorumNotMet, nothing
       │      was written; a sloppy one goes on with what it has, in good time (`_go_on`)
       ├────▶ the write is in our own copy: `_complete` it
       ├────▶ it is at another owner only: FETCHING
       ├────▶ nobody knows it, but one may have forgotten it: WriteOutcomeUnknown
       └────▶ nobody knows it, or this is a first attempt: `_mint`, over the clocks if an overwrite
    FETCHING  an owner that knows it is asked for its record; if it fails, another one that does
       ├────▶ the record has come and is merged into our copy: `_complete`
       └────▶ no such owner is left, no room here, or the deadline: WriteOutcomeUnknown
    WRITING   `_mint` and `_complete`: the rest is put.py's

What holds:

- A retry asks N−W+1 owners, or R if that is more: it meets every write that reached this W.
- Known means present or superseded. Of a superseded write the record is completed that superseded
  it: a success, and it brings nothing back.
- Unknown at R owners, a write never reached W, so it is minted; unless a record there has reached
  its bound of superseded op-ids (`limits.OP_IDS_KEPT`). Then this attempt applies nothing.
- A retry that could not ask that many may be a second effect, so it supersedes nothing but what
  its client has seen: at worst its value stands there twice, which a get shows as one.
- Until `_mint` or the merge of a fetched record, this attempt has changed nothing anywhere.
- Time passes while we look. Who is up, whether there is room and what our own copy holds is asked
  once more before the write; and that has a new number, at which no answer to the look arrives.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.entry import Record, decode_clock, decode_entry
from dynagent.core.messages import (
    MODE_OVERWRITE,
    OP_FORGOTTEN,
    OP_PRESENT,
    OP_SUPERSEDED,
    STATE_ABSENT,
    STATE_PRESENT,
    STATE_UNREADABLE,
    WANT_DIGEST,
    WANT_VALUE,
    Message,
    ReadReply,
)
from dynagent.core.ports import NodeId
from dynagent.core.put import PutOperation, op_state
from dynagent.core.quorum import DONE, MISSED, ContextQuorum
from dynagent.core.siblings import Clock, join
from dynagent.core.trace import copy_words
from dynagent.errors import Overloaded, ProtocolError, QuorumNotMet, StaleBarrier


class LookingPut(PutOperation):
    """One overwrite or retry; raises on creation what `PutOperation` does."""

    __slots__ = ("fetching", "is_late", "look", "op_id")

    def _check(self, coordinator: Coordinator, now: float) -> float:
        super()._check(coordinator, now)
        put = self.put
        aim, own = self.aim, coordinator.node_id
        nodes = self.asked
        if aim.is_joint:  # it looks at those of whom a get would need R
            nodes = [node for node in nodes if node in aim.readers or node == own]
            nodes += [node for node, owner in self.stand_ins.items() if owner in aim.readers]
            nodes = list(dict.fromkeys(nodes))
        r = coordinator.needed("R", put.r, coordinator.ring.r)
        if put.attempt > 1:  # it must meet every write that reached this W, whatever its R
            r = max(r, coordinator.ring.n - self.w + 1)
        if put.strict and len(nodes) < r:
            raise coordinator.too_few(aim.readers, "R", r, len(nodes))
        self.look = ContextQuorum(nodes[:1], r, nodes[1:])
        self.asked = []  # for W owners again, before it mints: time will have passed
        self.op_id = put.op_id if put.attempt > 1 else b""  # whose write is looked for
        self.is_late = False  # the hedge has been made
        self.fetching: NodeId | None = None  # the owner asked for the record with the found write
        return coordinator.hedge_at(now)

    # --- what the coordinator feeds; ours until the write has begun ------------------------------

    def start(self, now: float) -> None:
        own = self.coordinator.replica.newest(self.put.key, self.token)
        if self.trace is not None:
            self._tell_look(now, own)
        self._add_look(
            self.coordinator.node_id,
            state=STATE_UNREADABLE
            if own.unknown
            else STATE_PRESENT
            if own.value.clock
            else STATE_ABSENT,
            clock=own.value.clock,
            op=op_state(own, self.op_id),
        )
        self._conclude_look(now)

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if self.tally is not None:
            super().on_reply(now, source, message)
            return
        if self.trace is not None:
            self._tell_reply(now, source, message)
        match message:
            case ReadReply() if message.entry is not None:
                self._take_over(now, source, message.entry, message.barrier)
            case ReadReply():
                self._on_look(now, source, message)
            case _ if not self.answered and self.coordinator.is_put_off(source, message):
                self.coordinator.ask_later(now, self, source)
            case _:
                self.on_failure(now, source)

    def ask_again(self, now: float, node: NodeId) -> None:
        if self.tally is not None:
            super().ask_again(now, node)
        elif node not in self.coordinator.up:
            self.on_failure(now, node)
        elif node == self.fetching:
            self._ask(now, [node], WANT_VALUE)
        elif node in self.look.waiting:
            self._ask(now, [node], WANT_DIGEST)

    def on_failure(self, now: float, source: NodeId) -> None:
        if self.tally is not None:
            super().on_failure(now, source)
            return
        if self.trace is not None and (source in self.look.waiting or source == self.fetching):
            self.tell_failure(now, source)
        if not self.look.replied:
            self.look.add_failure(source)
            self._conclude_look(now)
        elif not self.answered and source == self.fetching:
            del self.look.op_states[source]
            self._fetch(now)

    def on_hedge(self, now: float) -> None:
        look = self.look
        if self.tally is not None:
            super().on_hedge(now)
        elif not look.replied:
            if self.is_late:
                self._go_on(now)
                return
            self.is_late = True
            if more := look.hedge(self.coordinator.up):
                if self.trace is not None:
                    own = self.coordinator.node_id
                    self.tell(now, own, "waits no longer: asks the other owners")
                self._ask(now, more, WANT_DIGEST)
            if not self.put.strict:  # leave half of what is left for the write
                self.wake_at(now, now + (self.deadline - now) / 2)

    def on_deadline(self, now: float) -> None:
        if self.answered or self.tally is not None:
            super().on_deadline(now)
            return
        if self.trace is not None:
            self.tell(now, self.coordinator.node_id, "has no more time")
        if not self.look.replied:
            self._miss_look()
        else:
            self._unknown("the owner at which the write was found did not answer in time")

    # --- looking ---------------------------------------------------------------------------------

    def _ask(self, now: float, targets: list[NodeId], want: int) -> None:
        self.ask_read(now, targets, self.put.key, want, self.op_id)

    def _on_look(self, now: float, source: NodeId, reply: ReadReply) -> None:
        self.coordinator.note_read(now - self.asked_at)
        try:
            clock = decode_clock(reply.clock)
        except ProtocolError as exc:
            self.coordinator.effects.note("peer.malformed", peer=source, reason=exc.message)
            self.on_failure(now, source)
            return
        self._add_look(source, state=reply.state, clock=clock, op=reply.op)
        self._conclude_look(now)

    def _add_look(self, node: NodeId, *, state: int, clock: Clock, op: int) -> None:
        if state == STATE_ABSENT and node in self.stand_ins:
            self.look.add_failure(node)  # it says nothing about what the owner holds
        else:
            self.look.add_result(node, state=state, clock=clock, op_state=op)

    def _conclude_look(self, now: float) -> None:
        if not self.look.replied and (targets := self.look.take_targets(self.coordinator.up)):
            self._ask(now, targets, WANT_DIGEST)
        outcome = self.look.take_reply()
        if outcome == MISSED and not self.put.strict:
            self._go_on(now)
        elif outcome == MISSED:
            self._miss_look()
            self.finish()
        elif outcome == DONE:
            self._act_on_look(now)

    def _go_on(self, now: float) -> None:
        """A sloppy put: what has answered must do."""
        self.look.replied = True
        self.is_careful = self.put.attempt > 1
        self._act_on_look(now)

    def _act_on_look(self, now: float) -> None:
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
            if self.put.mode == MODE_OVERWRITE and not self.is_careful:
                self.context = join(self.context, self.look.clock)
            self._mint(now)

    def _found_at(self) -> NodeId | None:
        """Who knows this retry's write: ourselves if we do."""
        states = self.look.op_states
        found = [node for node in states if states[node] in (OP_PRESENT, OP_SUPERSEDED)]
        if not found:
            return None
        return self.coordinator.node_id if self.coordinator.node_id in found else min(found)

    def _fetch(self, now: float) -> None:
        """Asks for the found write, at an owner that has not failed since it said so."""
        while (found := self._found_at()) is not None and found not in self.coordinator.up:
            del self.look.op_states[found]
        self.fetching = found
        if found is not None:
            self._ask(now, [found], WANT_VALUE)
        else:
            self._unknown("the owners at which the write was found have failed")
            self.finish()

    def _miss_look(self) -> None:
        look, names = self.look, self.coordinator.names
        silent = [node for node in self.aim.readers if node not in look.counted]
        self.fail(
            QuorumNotMet(
                f"nothing was written: {len(look.counted)} of R={look.needed} owners answered the "
                f"read before it; not: {names(silent)}"
            )
        )

    def _take_over(self, now: float, source: NodeId, entry: list[object], barrier: int) -> None:
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
            self.coordinator.replica.merge([(key, record)], barrier=barrier)
        except StaleBarrier:  # it has purged since: by now it reads under a later one
            self._ask(now, [source], WANT_VALUE)
            return
        except Overloaded as refusal:
            self._unknown(refusal.message)
            self.finish()
            return
        self._complete(now)

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

    def _replicate(self, now: float, record: Record, number: int) -> None:
        self.due = min(now + limits.PUT_HEDGE_S, self.deadline)
        self.coordinator.renumber(self)  # what still answers the look must not count here
        super()._replicate(now, record, number)

    def _tell_look(self, now: float, own: Record) -> None:
        coordinator, attempt = self.coordinator, self.put.attempt
        retry = f", attempt {attempt}" if attempt > 1 else ""
        self._tell_start(now, f"{retry}: reads R={self.look.needed} first, ")
        self.tell(now, coordinator.node_id, copy_words(own.value, unreadable=own.unknown))
