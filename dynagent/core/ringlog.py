"""The ring log: how a cluster agrees on its next ring (design §6, decision 0018).

The ring of epoch e is what e entries have made of it (`core.ringentry`). Which entry comes next is
decided by single-decree Paxos among the voters that the ring of epoch e names; there is no leader:

    proposer, any node                 a majority of the voters
      │── Ballot (e+1, number) ───────────▶│  promise, on the disk          core.acceptor
      │◀── Vote: promised, what I accepted ─│
      │── Ballot (e+1, number, entry) ─────▶│  accept, on the disk
      │◀── Vote: accepted ──────────────────│  now it is decided
      │── LogReply: the entry ─────────────────────▶ all members          here

Two proposers get one winner: the loser learns the winner's entry and tries its own as the next one,
if it still fits the ring (`core.proposer`). Nobody waits for the log to serve data: a node serves
with the ring that it has.

**Learning.** A decided entry is folded, and written with its ring in one batch (`core.logrows`);
when that is durable the node turns to the new ring (`Node.on_ring`), once for all entries of a
batch. So a node never tells of a ring, votes on it or serves with it that a crash can take back.

**Spread.** Whoever has had an entry decided tells all members at once. Who was away learns that a
ring is newer from the facts of gossip, from a `RingIs` in place of an answer to whatever it asks,
or from a voter, and asks who said so (`learn_from`). Who meets somebody with an older ring sends
what that one lacks (`tell`). Entries go in pages; who lacks more than is kept gets the ring itself.

**What stops a node, and what it does not follow.** An entry of a kind that this release does not
know means that others now follow rules unknown to it: `failure` is set, and the shell stops the
node. A *forced* entry begins another lineage. It is taken only by who has no majority of the
present voters within reach, and whose own log has not gone on from the place where it was forced.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from dynagent import limits
from dynagent.core.acceptor import Acceptor
from dynagent.core.coordinator import Coordinator
from dynagent.core.hints import DURABLE
from dynagent.core.learner import Learner
from dynagent.core.messages import (
    Ballot,
    Error,
    LogReply,
    LogRequest,
    Message,
    Propose,
    Proposed,
    RingIs,
    Vote,
)
from dynagent.core.ports import Dice, LinkId, NodeId, Reader
from dynagent.core.proposer import OnDone, Proposer
from dynagent.core.question import ask
from dynagent.core.ring import Ring
from dynagent.core.ringentry import (
    Content,
    Entry,
    ForcedEntry,
    VotersEntry,
    decode_log_entry,
    encode_log_entry,
    fold,
)
from dynagent.errors import (
    BadRequest,
    DiskFull,
    DynagentError,
    ProtocolError,
    Refused,
)

Answer = Callable[[float, Message], None]


class RingLog:
    """One node's part in it."""

    def __init__(
        self,
        *,
        ring: Ring,
        coordinator: Coordinator,
        reader: Reader,
        dice: Dice,
        on_ring: Callable[[float, Ring], None],
    ) -> None:
        self.learner = Learner(coordinator, reader, ring)
        self.rows = self.learner.rows
        self.counts = {"voted": 0, "refused": 0}
        self._coordinator = coordinator
        self._node_id = coordinator.node_id
        self._effects = coordinator.effects
        self._replica = coordinator.replica
        self._on_ring = on_ring
        self._acceptor = Acceptor(coordinator.replica, reader)
        self._proposer = Proposer(self, coordinator, dice)
        self._waiting: list[tuple[int, Answer, Message]] = []  # batch, who gets which answer then
        self._ahead: dict[NodeId, int] = {}  # who has a newer ring, of which epoch
        self._asked: set[NodeId] = set()  # for entries
        self._telling: set[NodeId] = set()
        self._rest_until: dict[NodeId, float] = {}  # who is not told before then
        self._look_at = inf  # when to ask again
        self._note_at = 0.0  # a refusal is not worth a line in the log before
        self._acceptor.serve(ring.epoch + 1)
        if self._acceptor.sits_out:
            self._effects.note("ringlog.sits_out", entry=ring.epoch + 1)

    @property
    def ring(self) -> Ring:
        """The newest; its entries may be on their way to the disk."""
        return self.learner.newest

    @property
    def durable(self) -> Ring:
        """What the node serves with."""
        return self.learner.durable

    @property
    def failure(self) -> DynagentError | None:
        """Why this node cannot go on."""
        return self.learner.failure

    # --- what the node feeds ---------------------------------------------------------------------

    @property
    def due(self) -> float:
        return min(self._look_at, self._proposer.due)

    def on_tick(self, now: float) -> None:
        if self._look_at <= now:
            self._look(now)
        self._proposer.on_tick(now)

    def on_ring(self, now: float, ring: Ring) -> None:
        """The node has turned to it, at our word. Who is gone is not asked any more."""
        self._ahead = {node: epoch for node, epoch in self._ahead.items() if ring.counts(node)}
        self._rest_until = {n: until for n, until in self._rest_until.items() if until > now}

    def on_committed(self, now: float, batch: int) -> None:
        """A batch is durable: the node turns to its ring, and whoever waits for it is answered."""
        self._acceptor.on_committed(batch)
        turned = self.learner.on_committed(batch)
        if turned:
            self._on_ring(now, self.durable)
        if self._waiting:
            ready = [(answer, message) for at, answer, message in self._waiting if at <= batch]
            self._waiting = [waiting for waiting in self._waiting if waiting[0] > batch]
            for answer, message in ready:
                answer(now, message)
        if turned:
            self._proposer.on_ring(now)

    def on_refused(self, now: float) -> None:
        """The disk is full: nothing that was under way is there."""
        self.learner.on_refused()
        self._acceptor.serve(self.durable.epoch + 1)
        waiting, self._waiting = self._waiting, []
        error = DiskFull("the disk of this voter is full")
        for _, answer, _ in waiting:
            answer(now, Error(error.code, error.message))
        self._proposer.on_ring(now)

    def on_message(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        """Raises `DynagentError`."""

        def answer(now: float, reply: Message) -> None:
            self._effects.answer(link, request_id, reply)

        match message:
            case Propose():
                self._on_propose(now, budget_ms / 1000, message, answer)
            case Ballot():
                self.vote(now, message, answer)
            case LogRequest():
                answer(now, self.learner.page(message.after, only_entries=message.kept))
            case LogReply():
                batch = self.take(now, message)
                self._when_durable(now, batch, answer, RingIs(self.ring.epoch))
            case _:
                raise BadRequest(f"{type(message).__name__} is not a request")

    def on_ring_is(self, now: float, source: NodeId, epoch: int) -> None:
        """A reply, or a fact of gossip, says which ring `source` has."""
        if epoch > self.ring.epoch:
            self._ahead[source] = epoch
            self.learn_from(now, source)
        elif epoch < self.durable.epoch:
            self.tell(now, source, epoch)

    def document(self) -> dict[str, object]:
        """For the status of this node, see inspect.py."""
        return {
            "lineage": self.durable.lineage,
            "voters": list(self.durable.voters),
            "lacking": max(self._ahead.values(), default=self.ring.epoch) - self.durable.epoch,
            "proposals": self._proposer.count,
            "sits_out": self._acceptor.sits_out,
            "learnt": self.learner.learnt,
            **self.counts,
        }

    # --- what machines ask -----------------------------------------------------------------------

    def propose(
        self,
        now: float,
        content: Content,
        on_done: OnDone,
        *,
        epoch: int | None = None,
        budget_s: float = limits.PROPOSE_S,
    ) -> None:
        """Tries to have it decided. `on_done` is called once, maybe at once, with

            None                 it is decided, and `Node.ring` has folded it
            Refused              it does not fit the ring, any more; it never will be decided
            QuorumNotMet         nothing of it has gone out
            WriteOutcomeUnknown  it may be decided yet
            Overloaded           too many proposals wait here

        `epoch`: of the ring that it was planned on, if not the present one.
        """
        planned_on = self.durable.epoch if epoch is None else epoch
        self._proposer.propose(now, content, on_done, planned_on, now + budget_s)

    def learn_from(self, now: float, source: NodeId) -> None:
        """Asks for the entries that we lack."""
        if source in self._asked or len(self._asked) >= limits.LOG_ASKED_MAX:
            self._look_at = min(self._look_at, now + limits.LOG_REST_S)
            return
        request = LogRequest(self.ring.epoch)
        deadline = now + limits.LOG_ANSWER_S
        if ask(self._coordinator, now, source, request, self._on_page, deadline=deadline):
            self._asked.add(source)
        else:
            self._look_at = min(self._look_at, now + limits.LOG_REST_S)

    def tell(self, now: float, target: NodeId, epoch: int) -> None:
        """Sends the entries behind `epoch` to somebody who lacks them. Not twice in a moment: one
        that answers many requests with its old epoch is told once."""
        if target in self._telling or now < self._rest_until.get(target, 0.0):
            return
        deadline = now + limits.LOG_ANSWER_S
        page = self.learner.page(epoch)
        if ask(self._coordinator, now, target, page, self._on_told, deadline=deadline):
            self._telling.add(target)
            self._rest_until[target] = now + limits.LOG_REST_S

    # --- voting ----------------------------------------------------------------------------------

    def vote(self, now: float, ballot: Ballot, answer: Answer) -> None:
        """Answers a ballot once that is durable; raises `DynagentError`."""
        if ballot.index <= self.ring.epoch:  # decided: that comes before who may vote on it
            if ballot.index <= self.durable.epoch:
                answer(now, self.learner.page(ballot.index - 1))
            else:
                self._when_durable(now, self.learner.last_batch, answer, RingIs(self.ring.epoch))
            return
        if ballot.index > self.ring.epoch + 1:
            answer(now, RingIs(self.durable.epoch))
            return
        if self._node_id not in self.ring.voters:
            raise Refused(f"{self._node_id} does not vote on entry {ballot.index} of the ring log")
        if self._acceptor.sits_out >= ballot.index:
            raise Refused(f"{self._node_id} cannot know how it has voted before: it sits this out")
        if ballot.entry:
            _check_entry(ballot.entry)  # nobody votes for what it does not understand
        self._replica.check_room(now)
        batch = self._acceptor.take((ballot.round, ballot.proposer), ballot.entry)
        standing = self._acceptor.standing
        self.counts["voted"] += 1
        reply = Vote(*standing.promised, *standing.accepted, standing.entry)
        self._when_durable(now, batch, answer, reply)

    def _when_durable(self, now: float, batch: int, answer: Answer, message: Message) -> None:
        if batch == DURABLE:
            answer(now, message)
        else:
            self._waiting.append((batch, answer, message))

    # --- learning --------------------------------------------------------------------------------

    def decide(self, now: float, index: int, entry: bytes) -> None:
        """A majority of the voters has accepted it: it holds, for good."""
        page = LogReply(index, index, [entry])
        self._tell_all(now, page)
        self.take_from(now, self._node_id, page)

    def _tell_all(self, now: float, page: LogReply) -> None:
        deadline = now + limits.LOG_ANSWER_S
        for member in self.durable.members:
            if member.id != self._node_id:
                ask(self._coordinator, now, member.id, page, _ignore, deadline=deadline)

    def take(self, now: float, page: LogReply) -> int:
        """Learns what is new of it. Returns the batch that makes durable all that we know; raises
        as `Learner.take`."""
        before = self.ring.epoch
        try:
            self.learner.take(page)
        finally:
            if (epoch := self.ring.epoch) != before:
                self._acceptor.on_ring(epoch + 1)
                self._ahead = {node: at for node, at in self._ahead.items() if at > epoch}
        return self.learner.last_batch

    def _on_page(self, now: float, source: NodeId, reply: Message | None) -> None:
        """What we lacked, from who was asked for it."""
        self._asked.discard(source)
        before, rest_s = self.ring.epoch, limits.LOG_REST_S
        if isinstance(reply, LogReply):
            if not self.take_from(now, source, reply):
                rest_s = limits.LOG_REFUSED_S  # a majority may be lost in the end, see `check_lost`
            elif self.ring.epoch == before:
                self._ahead.pop(source, None)
            elif source in self._ahead:
                self.learn_from(now, source)
        if self._ahead:
            self._look_at = min(self._look_at, now + rest_s)

    def take_from(self, now: float, source: NodeId, page: LogReply) -> bool:
        """As `take`, from an answer. What is wrong with it goes to the log; then it is False."""
        try:
            self.take(now, page)
        except DynagentError as exc:
            self.counts["refused"] += 1
            if now >= self._note_at:
                self._note_at = now + limits.LOG_NOTE_S
                self._effects.note("ringlog.refused", peer=source, reason=exc.message)
            return False
        return True

    def _on_told(self, now: float, target: NodeId, reply: Message | None) -> None:
        self._telling.discard(target)
        if isinstance(reply, RingIs):
            self._rest_until.pop(target, None)
            self.on_ring_is(now, target, reply.epoch)

    def _look(self, now: float) -> None:
        """Asks those that have more, if there are any."""
        self._look_at = inf
        for node in sorted(self._ahead, key=self._ahead.__getitem__, reverse=True):
            self.learn_from(now, node)

    # --- proposals of clients --------------------------------------------------------------------

    def _on_propose(self, now: float, budget_s: float, message: Propose, answer: Answer) -> None:
        content = _check_entry(message.content).content
        if message.force:
            self._force(now, content, answer)
            return
        if isinstance(content, ForcedEntry):
            raise BadRequest("a forced entry is made by the agent: propose the voters, with force")

        def on_done(now: float, error: DynagentError | None) -> None:
            if error is None:
                answer(now, Proposed(self.durable.epoch))
            else:
                answer(now, Error(error.code, error.message))

        self.propose(now, content, on_done, epoch=message.epoch, budget_s=budget_s)

    def _force(self, now: float, content: Content, answer: Answer) -> None:
        """Decides alone who votes from now on: a majority of those who did is lost for good."""
        if not isinstance(content, VotersEntry):
            raise BadRequest("only voters can be forced; they decide everything else")
        if self.ring.lineage and content.voters == self.ring.voters:  # the answer was lost
            self._when_durable(now, self.learner.last_batch, answer, Proposed(self.ring.epoch))
            return
        if self.ring is not self.durable:
            raise Refused("an entry is on its way to the disk; look at the ring, and try again")
        self.learner.check_lost(self.ring)
        self._replica.check_room(now)
        entry = Entry(
            content=ForcedEntry(voters=content.voters, after=self.ring.epoch),
            proposer=self._node_id,
            wall_ms=max(0, self._coordinator.wall_ms()),
        )
        index = fold(self.ring, entry).epoch
        page = LogReply(index, index, [encode_log_entry(entry)])

        def on_durable(now: float, reply: Message) -> None:
            answer(now, reply)
            if isinstance(reply, Proposed):
                self._tell_all(now, page)

        self._when_durable(now, self.take(now, page), on_durable, Proposed(index))


def _check_entry(data: bytes) -> Entry:
    """Raises `BadRequest` for what this release does not know."""
    try:
        return decode_log_entry(data)
    except ProtocolError as exc:
        raise BadRequest(exc.message) from exc


def _ignore(now: float, source: NodeId, reply: Message | None) -> None:
    """What `Node.on_reply` does with every RingIs is all there is to do."""
