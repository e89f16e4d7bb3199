"""A get at its coordinator (Dynamo §4.5, §5): own copy plus the digests of R−1 other owners.

The value travels only where digests differ. An owner that fails is replaced by the next; when the
answer is late the remaining ones are asked too, and the first R to answer decide.

While an owner is down its stand-in is asked as well, last. Its copy adds versions, but counts
towards R only if it holds the key. A get that is not strict is answered with what it has if R
cannot be reached or half of its time is over: `partial`, unless nobody counts.

When everybody asked has answered, owners whose copies were behind are sent what this get has merged
(**read repair**, `_repair`). It goes through our own copy first, so only an owner repairs.

All answers that count are given under one stamp (`core.aim`): a get whose partition gets another
one meanwhile starts over. A get
that shall repair before it answers is `RepairingGet` in readback.py.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.aim import Aim
from dynagent.core.coordinator import Coordinator, Request
from dynagent.core.entry import encode_context, encode_entry
from dynagent.core.messages import (
    STATE_ABSENT,
    WANT_DIGEST,
    WANT_VALUE,
    Get,
    GetReply,
    Message,
    ReadReply,
)
from dynagent.core.ports import LinkId, NodeId, Token
from dynagent.core.quorum import DONE, MISSED, GetQuorum
from dynagent.core.siblings import Siblings
from dynagent.core.trace import copy_words, reply_words
from dynagent.core.version import Version
from dynagent.errors import Overloaded, ProtocolError, QuorumNotMet, StaleBarrier


class GetOperation(Request):
    """One get. Raises `QuorumNotMet` on creation if it is strict and too few owners are up."""

    __slots__ = ("get", "is_late", "may_be_partial", "owners", "tally", "token")

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
        r = coordinator.needed("R", get.r, coordinator.ring.r)
        own, *others = self._targets(coordinator, get, aim, r)
        gate, due = coordinator.admission.gets, coordinator.hedge_at(now)
        super().__init__(coordinator, link, request_id, deadline, gate=gate, due=due)
        self.get = get
        self.aim = aim
        self.owners = aim.readers
        self.token = token
        self.is_late = False  # the hedge has been made
        self.may_be_partial = not (get.strict or get.repair)  # answered with fewer than R copies
        self.tally = GetQuorum([own], r, others)

    def _targets(self, coordinator: Coordinator, get: Get, aim: Aim, r: int) -> list[NodeId]:
        """Whom to ask: ourselves, then the other owners that are up, then who stands in."""
        owners = aim.readers
        nodes = coordinator.owners_up(owners)
        if len(nodes) < len(owners):
            if get.strict and len(nodes) < r:
                raise coordinator.too_few(owners, "R", r, len(nodes))
            if not get.strict:
                own = coordinator.node_id
                nodes += coordinator.stand_ins(aim, owners)
                nodes = [own, *[node for node in nodes if node != own]]
        return nodes

    def start(self, now: float) -> None:
        coordinator = self.coordinator
        own = coordinator.replica.read(self.get.key, self.token)
        if self.trace is not None:
            owners = coordinator.in_order(self.owners)
            self.tell(now, coordinator.node_id, f"takes the get: R={self.tally.needed} of {owners}")
            self.tell(now, coordinator.node_id, copy_words(own.value, unreadable=own.unknown))
        try:
            # Until the last owner has answered: some small frames may ask for many large copies.
            coordinator.grow(self, sum([len(sibling.data) for sibling in own.value.siblings]))
        except Overloaded as exc:
            self.fail(exc)
            self.finish()
            return
        if coordinator.node_id not in self.owners and not own.value.clock:
            self.tally.add_failure(coordinator.node_id)  # a stand-in that has never heard of it
        else:
            barriers = coordinator.replica.barriers
            barrier = barriers.read_under(self.token) if barriers.has_moved else 0
            self.tally.add_own(coordinator.node_id, own, barrier)
        self._conclude(now)

    def _ask(self, now: float, targets: list[NodeId], want: int) -> None:
        self.ask_read(now, targets, self.get.key, want)

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if self.trace is not None:
            self.tell(now, source, reply_words(message, is_same=self.tally.has_digest_of(message)))
        if not isinstance(message, ReadReply):
            if not self.answered and self.coordinator.is_put_off(source, message):
                self.coordinator.ask_later(now, self, source)
            else:
                self.on_failure(now, source)
            return
        self.coordinator.note_read(now - self.asked_at)
        try:
            if message.entry is not None and message.entry[:1] != [self.get.key]:
                raise ProtocolError("the record of another key")
            if message.state == STATE_ABSENT and source not in self.owners:
                self.tally.add_failure(source)
                fetch = False
            else:
                fetch = self.tally.add_result(source, message)
        except ProtocolError as exc:
            self.coordinator.effects.note("peer.malformed", peer=source, reason=exc.message)
            self.on_failure(now, source)
            return
        if fetch and self.answered:
            self.tally.add_failure(source)  # differs, but too late for this answer
        elif fetch:
            self._ask(now, [source], WANT_VALUE)
        self._conclude(now)

    def on_failure(self, now: float, source: NodeId) -> None:
        if self.trace is not None and source in self.tally.waiting:
            self.tell_failure(now, source)
        self.tally.add_failure(source)
        self._conclude(now)

    def ask_again(self, now: float, node: NodeId) -> None:
        if self.answered or node not in self.coordinator.up:
            self.on_failure(now, node)
        elif node in self.tally.waiting:
            self._ask(now, [node], WANT_VALUE if node in self.tally.fetching else WANT_DIGEST)

    def on_ring(self, now: float) -> None:
        self.coordinator.start_over(now, self, self.get)

    def on_hedge(self, now: float) -> None:
        if self.answered:
            return
        if self.is_late:
            if self.tally.counted and self.may_be_partial:
                self.tally.replied = True
                self.answer(self._reply(partial=True))
            return
        self.is_late = True
        if targets := self.tally.hedge(self.coordinator.up):
            if self.trace is not None:
                self.tell(now, self.coordinator.node_id, "waits no longer: asks the other owners")
            self._ask(now, targets, WANT_DIGEST)
        if self.may_be_partial:
            self.wake_at(now, now + (self.deadline - now) / 2)

    def on_deadline(self, now: float) -> None:
        if not self.answered:
            if self.trace is not None:
                self.tell(now, self.coordinator.node_id, "has no more time")
            self._miss()
        else:
            self._repair()

    def _conclude(self, now: float) -> None:
        tally = self.tally
        if not self.answered:
            if targets := tally.take_targets(self.coordinator.up):
                self._ask(now, targets, WANT_DIGEST)
            outcome = tally.take_reply()
            if outcome == DONE:
                self._on_read(now)
            elif outcome == MISSED:
                self._miss()
        if tally.is_complete and self.answered:
            self._repair()
            self.finish()

    def _on_read(self, now: float) -> None:
        """R copies are here."""
        self.answer(self._reply())

    def _repair(self) -> None:
        """Sends what has been merged to the owners that had less, ourselves first."""
        behind, coordinator = self.tally.behind(), self.coordinator
        if not behind or coordinator.node_id not in self.owners:
            return
        replica = coordinator.replica
        merged = self.tally.record()
        try:
            replica.check_room(self.asked_at)
            replica.merge([(self.get.key, merged)], barrier=self.tally.barrier)
        except (Overloaded, StaleBarrier):
            return  # another read will find them again
        own = coordinator.node_id
        targets = [node for node in behind if node in self.owners and node != own]
        targets = [node for node in targets if node in coordinator.up]
        coordinator.repaired += len(targets)
        record = replica.newest(self.get.key, self.token)
        if targets and record.value.clock and not record.unknown:
            barrier = replica.barriers.read_under(self.token)
            entry = encode_entry(self.get.key, record)
            merge = coordinator.make_merge(self.aim.stamp, [entry], [barrier])
            number = coordinator.take_number()
            coordinator.effects.send(targets, number, limits.REPAIR_BUDGET_MS, merge)

    def _reply(self, *, partial: bool = False) -> GetReply:
        merged = self.tally.merged
        return GetReply(
            encode_context(merged.clock, key=self.get.key),
            _distinct_writes(merged),
            partial,
            len(self.tally.counted),
        )

    def _miss(self) -> None:
        tally = self.tally
        if tally.counted and self.may_be_partial:
            self.answer(self._reply(partial=True))
            return
        names = self.coordinator.names
        silent = [node for node in self.owners if node not in tally.counted]
        self.fail(
            QuorumNotMet(
                f"{len(tally.counted)} of R={tally.needed} owners answered; not: {names(silent)}"
            )
        )


def _distinct_writes(value: Siblings) -> list[bytes]:
    """The siblings for a client: a write that was minted twice by a retry is one value (§3)."""
    if len(value.siblings) < 2:
        return [sibling.data for sibling in value.siblings]
    writes: dict[tuple[bytes, bytes], bytes] = {}
    for sibling in value.siblings:
        version = Version(sibling.data)
        writes[version.op_id, version.value] = sibling.data
    return list(writes.values())
