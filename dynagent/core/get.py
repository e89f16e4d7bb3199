"""A get at its coordinator (Dynamo §4.5, §5): own copy plus the digests of R−1 other owners.

The value travels only where digests differ. An owner that fails is replaced by the next; when the
answer is late the remaining owners are asked too, and the first R to answer decide.
"""

from __future__ import annotations

from dynagent.core.coordinator import Coordinator, Operation
from dynagent.core.entry import encode_context
from dynagent.core.messages import WANT_DIGEST, WANT_VALUE, Get, GetReply, Message, ReadReply
from dynagent.core.ports import LinkId, NodeId, Token
from dynagent.core.quorum import DONE, MISSED, GetQuorum
from dynagent.core.siblings import Siblings
from dynagent.core.trace import copy_words, reply_words
from dynagent.core.version import Version
from dynagent.errors import Overloaded, ProtocolError, QuorumNotMet


class GetOperation(Operation):
    """One get. Raises `QuorumNotMet` on creation if too few owners are up."""

    __slots__ = ("get", "owners", "tally")

    def __init__(
        self,
        coordinator: Coordinator,
        link: LinkId,
        request_id: int,
        now: float,
        deadline: float,
        get: Get,
        owners: tuple[NodeId, ...],
    ) -> None:
        r = coordinator.needed("R", get.r, coordinator.ring.r)
        own, *others = coordinator.reachable(owners, "R", r)
        super().__init__(coordinator, link, request_id, deadline, due=coordinator.hedge_at(now))
        self.get = get
        self.owners = owners
        self.tally = GetQuorum([own], r, others)

    def start(self, now: float, token: Token) -> None:
        coordinator = self.coordinator
        own = coordinator.replica.read(self.get.key, token)
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
        self.tally.add_own(coordinator.node_id, own)
        self._conclude(now)

    def _ask(self, now: float, targets: list[NodeId], want: int) -> None:
        self.ask_read(now, targets, self.get.key, want)

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if self.trace is not None:
            self.tell(now, source, reply_words(message, is_same=self.tally.has_digest_of(message)))
        if not isinstance(message, ReadReply):
            self.on_failure(now, source)
            return
        self.coordinator.note_read(now - self.asked_at)
        try:
            if message.entry is not None and message.entry[:1] != [self.get.key]:
                raise ProtocolError("the record of another key")
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

    def on_hedge(self, now: float) -> None:
        if not self.answered and (targets := self.tally.hedge(self.coordinator.up)):
            if self.trace is not None:
                self.tell(now, self.coordinator.node_id, "waits no longer: asks the other owners")
            self._ask(now, targets, WANT_DIGEST)

    def on_deadline(self, now: float) -> None:
        if not self.answered:
            if self.trace is not None:
                self.tell(now, self.coordinator.node_id, "has no more time")
            self._miss()

    def _conclude(self, now: float) -> None:
        tally = self.tally
        if not self.answered:
            if targets := tally.take_targets(self.coordinator.up):
                self._ask(now, targets, WANT_DIGEST)
            outcome = tally.take_reply()
            if outcome == DONE:
                self.answer(self._reply())
            elif outcome == MISSED:
                self._miss()
        if tally.is_complete:
            self.finish()

    def _reply(self) -> GetReply:
        merged = self.tally.merged
        return GetReply(
            encode_context(merged.clock, key=self.get.key),
            _distinct_writes(merged),
            False,
            len(self.tally.counted),
        )

    def _miss(self) -> None:
        tally = self.tally
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
