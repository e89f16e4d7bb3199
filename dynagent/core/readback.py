"""A get that repairs before it answers: what it returns is durable at W owners by then.

An ordinary get answers at R and repairs behind its answer. If it has met a write that only one
owner holds (its coordinator died, say), the next get may miss that write again. This one does not
answer before W owners have on disk what it returns, so every later read of N−W+1 owners sees it:
reads do not go back (the read of Attiya, Bar-Noy, Dolev 1995, which writes back what it found).

    READING   as any get; but R copies must count, it is never `partial`
       ├────▶ fewer than R can: QuorumNotMet
       ├────▶ W owners hold just what it has merged, or nobody holds anything: GetReply, and the
       │      ordinary repair behind it
       └────▶ fewer do: WRITING
    WRITING   the merged record goes into our own copy, and as a Merge to the owners that were
       │      behind; others are asked where that cannot make W, or one fails, or it takes long
       ├────▶ W owners have it on disk: GetReply
       └────▶ fewer than W still can, or the deadline: QuorumNotMet, although there is a value. It
              is definite (a read changes nothing that was not acknowledged or under way before);
              who can do without the promise asks without repair

What holds:

- An owner counts once: with a copy that was equal when it answered, or its acknowledgement of a
  Merge; we ourselves with an equal copy, or by our own fsync. A stand-in never counts, so a node
  that is no owner cannot coordinate such a get.
- What is answered is what had been merged when writing began; our own copy may have more by then,
  and that goes along in the Merge.
- Writing has a number of its own: an answer to the read never counts as one to the Merge.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.aim import Aim
from dynagent.core.coordinator import Coordinator
from dynagent.core.entry import Record, encode_entry
from dynagent.core.get import GetOperation
from dynagent.core.messages import Error, Get, GetReply, MergeAck, Message
from dynagent.core.ports import LinkId, NodeId, Token
from dynagent.core.quorum import DONE, MISSED, GetQuorum, JointQuorum, PutQuorum
from dynagent.core.trace import merge_words, reply_words
from dynagent.errors import Overloaded, QuorumNotMet, StaleBarrier


class RepairingGet(GetOperation):
    """One get with `repair`; raises `QuorumNotMet` on creation if too few owners are up."""

    __slots__ = ("anew", "barrier", "held", "record", "reply")

    def __init__(
        self,
        coordinator: Coordinator,
        link: LinkId,
        request_id: int,
        now: float,
        deadline: float,
        get: Get,
        aim: Aim,
        token: Token,
    ) -> None:
        w, up = coordinator.ring.w, coordinator.up.union(coordinator.joining(aim))
        for owners in aim.lists:
            if coordinator.node_id not in aim.readers or len(up.intersection(owners)) < w:
                raise coordinator.too_few(owners, "W", w, len(up.intersection(owners)))
        super().__init__(coordinator, link, request_id, now, deadline, get, aim, token)
        self.held: PutQuorum | None = None  # who has it on disk, from the moment writing begins
        self.reply: GetReply | None = None  # to be given then
        self.record: Record | None = None  # what is written
        self.barrier = 0  # under which it was read
        self.anew: set[NodeId] = set()  # to whom it was sent a second time, read again

    def _on_read(self, now: float) -> None:
        w, merged = self.coordinator.ring.w, self.tally.record()
        holders = [node for node in self.tally.holders(merged) if node in self.owners]
        reply = self._reply()
        in_each = [sum([node in list_ for node in holders]) for list_ in self.aim.lists]
        if not merged.value.clock or min(in_each) >= w:
            reply.held = len(holders)
            self.answer(reply)
            return
        self.reply = reply
        self._write(now, merged, holders)

    def _write(self, now: float, merged: Record, holders: list[NodeId]) -> None:
        coordinator, replica = self.coordinator, self.coordinator.replica
        own = coordinator.node_id
        number = replica.batch_of(self.get.key)
        if own not in holders:
            try:
                replica.check_room(now)
                number = replica.merge([(self.get.key, merged)], barrier=self.tally.barrier)
            except StaleBarrier:
                self._read_again(now)
                return
            except Overloaded as refusal:
                self.fail(refusal)
                self.finish()
                return
        newest = replica.newest(self.get.key, self.token)
        if not newest.unknown and not newest.value.clock:
            # What we had read has been deleted, and purged: but not yet on the disk, from which it
            # would be read again at once, and again.
            if not replica.when_durable(number, (None, self.number)):
                self._read_again(now)
            return
        self.record, self.barrier = newest, replica.barriers.read_under(self.token)
        if newest.unknown:
            self.record, self.barrier = merged, self.tally.barrier
        rest = [node for node in self.aim.owners if node != own and node not in holders]
        behind = [node for node in rest if node in self.tally.counted or self.aim.is_joint]
        others = [node for node in rest if node not in behind]
        asked = {*holders, *behind} if newest.unknown else {*holders, *behind, own}
        w = coordinator.ring.w
        if self.aim.is_joint:
            self.held = JointQuorum(sorted(asked), w, self.aim.lists, {})
        else:
            self.held = PutQuorum(sorted(asked), w, others)
        for node in holders:
            self.held.add_result(node)
        self.due = min(now + limits.PUT_HEDGE_S, self.deadline)
        coordinator.renumber(self)  # what still answers the read must not count here
        coordinator.repaired += len(behind)
        self._send(now, [node for node in behind if node in coordinator.up])
        joining = coordinator.joining(self.aim)
        for node in behind:
            if node in joining:
                coordinator.ask_later(now, self, node)
            elif node not in coordinator.up:
                self.held.add_failure(node)
        if own in self.held.waiting and not replica.when_durable(number, (None, self.number)):
            self.held.add_result(own)
        self._conclude_write(now)

    def _send(self, now: float, targets: list[NodeId]) -> None:
        coordinator, record = self.coordinator, self.record
        assert record is not None
        if not targets:
            return
        if self.trace is not None:
            words = merge_words(coordinator.in_order(targets), has_news=True)
            self.tell(now, coordinator.node_id, f"repairs before it answers: {words}")
        entry = encode_entry(self.get.key, record)
        merge = coordinator.make_merge(self.aim.stamp, [entry], [self.barrier])
        coordinator.send(now, targets, self.number, self.budget_ms(now), merge)

    def _send_anew(self, now: float, source: NodeId) -> None:
        """`source` has purged tombstones since our copy was read: reads it again, once."""
        replica = self.coordinator.replica
        newest = replica.newest(self.get.key, self.token)
        if source in self.anew or newest.unknown or not newest.value.clock:
            self.on_failure(now, source)
            return
        self.anew.add(source)
        self.record, self.barrier = newest, replica.barriers.read_under(self.token)
        self._send(now, [source])

    def _read_again(self, now: float) -> None:
        """Tombstones have been purged here since the first copy was read: all of it is too old."""
        coordinator = self.coordinator
        own, *others = coordinator.owners_up(self.owners)
        self.tally = GetQuorum([own], self.tally.needed, others)
        self.reply = None
        coordinator.renumber(self)  # what still answers the first read must not count here
        self.start(now)

    # --- what the coordinator feeds; a get's own until writing has begun -------------------------

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if self.held is None:
            super().on_reply(now, source, message)
            return
        if isinstance(message, Error) and message.error == StaleBarrier.code:
            self._send_anew(now, source)
            return
        if not isinstance(message, MergeAck):
            if not self.answered and self.coordinator.is_put_off(source, message):
                self.coordinator.ask_later(now, self, source)
            else:
                self.on_failure(now, source)
            return
        if self.trace is not None:
            self.tell(now, source, reply_words(message))
        self.held.add_result(source)
        self._conclude_write(now)

    def on_failure(self, now: float, source: NodeId) -> None:
        if self.held is None:
            super().on_failure(now, source)
            return
        if self.trace is not None and source in self.held.waiting:
            self.tell_failure(now, source)
        self.held.add_failure(source)
        self._conclude_write(now)

    def ask_again(self, now: float, node: NodeId) -> None:
        if self.held is None:
            super().ask_again(now, node)
        elif not self.answered and node in self.coordinator.joining(self.aim):
            self.coordinator.ask_later(now, self, node)
        elif self.answered or node not in self.coordinator.up:
            self.on_failure(now, node)
        elif node in self.held.waiting:
            self._send(now, [node])

    def on_durable(self, now: float) -> None:
        if self.held is not None:
            self.held.add_result(self.coordinator.node_id)
            self._conclude_write(now)
        elif self.reply is not None and not self.answered:
            self._read_again(now)

    def on_hedge(self, now: float) -> None:
        if self.held is None:
            super().on_hedge(now)
        elif not self.answered:
            self._send(now, self.held.hedge(self.coordinator.up))
            self._conclude_write(now)

    def on_deadline(self, now: float) -> None:
        if self.held is None:
            super().on_deadline(now)
        elif not self.answered:
            if self.trace is not None:
                self.tell(now, self.coordinator.node_id, "has no more time")
            self._miss_write()

    def _repair(self) -> None:
        if self.held is None:
            super()._repair()

    # --- the outcome -----------------------------------------------------------------------------

    def _conclude_write(self, now: float) -> None:
        held = self.held
        assert held is not None and self.reply is not None
        if not held.replied:
            self._send(now, held.take_targets(self.coordinator.up))
        outcome = held.take_reply()
        if outcome == DONE:
            self.reply.held = len(held.counted)
            self.answer(self.reply)
        elif outcome == MISSED:
            self._miss_write()
        if held.is_complete:
            self.finish()

    def _miss_write(self) -> None:
        held, names = self.held, self.coordinator.names
        assert held is not None
        missing = [node for node in self.aim.owners if node not in held.counted]
        self.fail(
            QuorumNotMet(
                f"the value was read, but only {held.reached} of W={held.needed} owners have "
                f"it on disk; not: {names(missing)}. It can be had without repair"
            )
        )
