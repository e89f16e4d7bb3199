"""The proposer: has one content after the other decided as the next entry of the ring log.

    judge ──▶ prepare ──▶ accept ──▶ decided: told to all, and durable here; judge again
      ▲          │           │
      └──────────┴───────────┴── a ballot was overtaken: after a random rest, a newer one
                                 the entry is decided already: learn it first

To *judge* is to see whether the content is in the log by now (then it is decided), whether it still
fits the ring (else it is refused, with the words of `fold`), and whether it may be voted on. So of
two operators who propose at once one wins; the other's content is judged on the ring that the first
has made. A promise may bring to light an entry that others have accepted: that one is proposed in
place of our own, and ours comes after it.

Each ballot has a number (round, random number of this start of the agent): not even the same node
uses one again after a crash. After being overtaken a proposer rests for a random time, twice as
long each time, so two do not duel for ever.

What time cuts short is indefinite only if our own content went out in a ballot whose index nobody
knows the entry of: somebody may find it there and have it decided later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from dynagent import limits
from dynagent.core.acceptor import NEVER, Number, Standing, choose, is_granted, is_majority
from dynagent.core.coordinator import Coordinator
from dynagent.core.messages import Ballot, Error, LogReply, Message, Vote
from dynagent.core.ports import Dice, NodeId
from dynagent.core.question import ask
from dynagent.core.ringentry import (
    ChangeEntry,
    Content,
    Entry,
    PolicyEntry,
    VotersEntry,
    decode_log_entry,
    encode_log_entry,
    fold,
)
from dynagent.errors import (
    DynagentError,
    NotReady,
    Overloaded,
    QuorumNotMet,
    Refused,
    TooLarge,
    WriteOutcomeUnknown,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynagent.core.ringlog import RingLog

OnDone = Callable[[float, DynagentError | None], None]


class _Proposal:
    """A content on its way."""

    __slots__ = ("content", "deadline", "entry", "on_done", "planned_on", "sent_at")

    def __init__(self, entry: Entry, on_done: OnDone, *, planned_on: int, deadline: float) -> None:
        self.content = entry.content
        self.entry = encode_log_entry(entry)
        self.on_done = on_done
        self.planned_on = planned_on
        self.deadline = deadline
        self.sent_at = 0  # the last index at which it went out to be accepted


class Proposer:
    """One node's proposals, one at a time."""

    def __init__(self, log: RingLog, coordinator: Coordinator, dice: Dice) -> None:
        self.due = inf
        self._log = log
        self._coordinator = coordinator
        self._dice = dice
        self._salt = 0  # what tells our ballots from all others: drawn when it is first needed
        self._queue: deque[_Proposal] = deque()  # the first one is under way
        self._index = 0  # of the entry voted on; 0: no ballot is under way
        self._number: Number = NEVER
        self._seen = 0  # the highest round that we have met
        self._entry = b""  # what voters are asked to accept; b"": they are asked to promise
        self._votes: dict[NodeId, Standing] = {}
        self._asked: set[NodeId] = set()  # who has not answered yet
        self._overtaken = 0  # ballots in a row
        self._again_at = inf  # a new ballot, or whom to ask again

    def propose(
        self, now: float, content: Content, on_done: OnDone, planned_on: int, deadline: float
    ) -> None:
        """See `RingLog.propose`."""
        wall_ms = max(0, self._coordinator.wall_ms())
        entry = Entry(content=content, proposer=self._coordinator.node_id, wall_ms=wall_ms)
        proposal = _Proposal(entry, on_done, planned_on=planned_on, deadline=deadline)
        if len(self._queue) >= limits.PROPOSALS_WAITING_MAX:
            on_done(now, Overloaded("too many entries of the ring log are proposed here at once"))
        elif len(proposal.entry) > limits.ENTRY_BYTES_MAX:
            size, most = len(proposal.entry), limits.ENTRY_BYTES_MAX
            on_done(now, TooLarge(f"the entry has {size:,} bytes; the limit is {most:,}"))
        else:
            self._queue.append(proposal)
            if len(self._queue) == 1:
                self._start(now)
            self._wake()

    @property
    def count(self) -> int:
        """Proposals under way."""
        return len(self._queue)

    def on_ring(self, now: float) -> None:
        """The log has gone on, durably."""
        self._stop()
        self._start(now)
        self._wake()

    def on_tick(self, now: float) -> None:
        if now < self.due:
            return
        while late := next((one for one in self._queue if one.deadline <= now), None):
            error = self._too_late(late)
            if late is self._queue[0]:
                self._stop()
            self._queue.remove(late)
            late.on_done(now, error)
            self._start(now)
        if self._again_at <= now:
            if self._index:
                self._ask_all(now)
            else:
                self._start(now)
        self._wake()

    def _wake(self) -> None:
        self.due = min([self._again_at, *(one.deadline for one in self._queue)])

    # --- judging ---------------------------------------------------------------------------------

    def _start(self, now: float) -> None:
        """Begins a ballot for the first content that has not been judged to need none."""
        if self._index:
            return
        self._again_at = inf
        while self._queue and not self._index:
            if self._log.ring is not self._log.durable:
                return  # it goes on in `on_ring`
            proposal = self._queue[0]
            try:
                is_decided = self._judge(proposal)
            except DynagentError as error:
                self._end(now, error)
                continue
            if is_decided:
                self._end(now, None)
            else:
                self._prepare(now)

    def _end(self, now: float, error: DynagentError | None) -> None:
        self._overtaken = 0
        self._queue.popleft().on_done(now, error)

    def _judge(self, proposal: _Proposal) -> bool:
        """Whether it is decided; raises `Refused` or `NotReady` if it cannot be."""
        log, ring, content = self._log, self._log.durable, proposal.content
        if proposal.planned_on > ring.epoch:
            raise NotReady(
                f"the ring of this agent is of epoch {ring.epoch}, and this was planned on"
                f" {proposal.planned_on}; ask another agent"
            )
        if proposal.sent_at and not log.rows.reaches(proposal.sent_at - 1):
            raise self._unknown(proposal)  # the log has gone on so far that nobody keeps it
        since = list(log.rows.after(proposal.planned_on))
        for index, data in since:
            if data == proposal.entry or _is_same(content, decode_log_entry(data).content):
                return True
            proposal.sent_at = 0 if proposal.sent_at == index else proposal.sent_at
        fold(ring, decode_log_entry(proposal.entry))
        if isinstance(content, ChangeEntry) and proposal.planned_on:
            self._check_plan(proposal.planned_on, [decode_log_entry(data) for _, data in since])
        if not ring.voters:
            raise Refused("this ring has no voters: nothing can be decided")
        own = self._coordinator.node_id
        if ring.member(own) is None or own in ring.removed:
            raise Refused("this agent is no member of the ring any more; ask another one")
        return False

    def _check_plan(self, planned_on: int, since: list[Entry]) -> None:
        """Raises `Refused` if members or lists are no more as they were when a change was made."""
        is_known = self._log.rows.reaches(planned_on)
        if is_known and all(isinstance(one.content, VotersEntry | PolicyEntry) for one in since):
            return
        raise Refused(
            f"the ring has changed since this was planned (epoch {planned_on}; now"
            f" {self._log.durable.epoch}); look at it, and plan again"
        )

    def _too_late(self, proposal: _Proposal) -> DynagentError:
        voters = self._log.durable.voters
        answered = len(self._votes)
        if proposal.sent_at > self._log.durable.epoch:
            return self._unknown(proposal)
        return QuorumNotMet(
            f"{answered} of {len(voters)} voters of the ring log have answered in time; a majority"
            f" must; they are: {self._coordinator.names(voters)}"
        )

    def _unknown(self, proposal: _Proposal) -> DynagentError:
        return WriteOutcomeUnknown(
            f"whether it is entry {proposal.sent_at} of the ring log was not known in time: it may"
            " be decided yet; see: dynctl ring history"
        )

    # --- a ballot --------------------------------------------------------------------------------

    def _prepare(self, now: float) -> None:
        self._salt = self._salt or self._dice.getrandbits(62) + 1
        self._index = self._log.durable.epoch + 1
        self._seen += 1
        self._number = (self._seen, self._salt)
        self._begin(now, b"")

    def _begin(self, now: float, entry: bytes) -> None:
        self._entry = entry
        self._votes, self._asked = {}, set()
        self._ask_all(now)

    def _stop(self) -> None:
        """Answers to the ballot that was under way find nobody."""
        self._index, self._number = 0, NEVER
        self._votes, self._asked = {}, set()
        self._again_at = inf

    def _ask_all(self, now: float) -> None:
        """All voters that have not answered; ourselves last, for that may end the ballot."""
        self._again_at = now + limits.BALLOT_RESEND_S
        own = self._coordinator.node_id
        ballot = Ballot(self._index, *self._number, self._entry)
        key = (self._index, self._number, self._entry)

        def on_answer(now: float, voter: NodeId, reply: Message | None) -> None:
            if key == (self._index, self._number, self._entry):
                self._on_answer(now, voter, reply)

        deadline = min(self._queue[0].deadline, now + limits.BALLOT_ANSWER_S)
        for voter in self._log.durable.voters:
            if voter in self._asked or voter in self._votes or voter == own:
                continue
            if ask(self._coordinator, now, voter, ballot, on_answer, deadline=deadline):
                self._asked.add(voter)
        if own in self._log.durable.voters and own not in self._asked and own not in self._votes:
            self._asked.add(own)
            try:
                self._log.vote(now, ballot, lambda now, reply: on_answer(now, own, reply))
            except DynagentError as error:
                on_answer(now, own, Error(error.code, error.message))

    def _on_answer(self, now: float, voter: NodeId, reply: Message | None) -> None:
        """A voter has answered the ballot that is under way, or will not."""
        self._asked.discard(voter)
        if isinstance(reply, LogReply):
            self._log.take_from(now, voter, reply)
        elif isinstance(reply, Vote):
            promised = (reply.round, reply.proposer)
            accepted = (reply.accepted_round, reply.accepted_proposer)
            standing = Standing(promised, accepted, reply.entry)
            if is_granted(standing, self._number, self._entry):
                self._votes[voter] = standing
                if is_majority(self._votes, self._log.durable.voters):
                    self._on_majority(now)
            elif promised > self._number:
                self._on_overtaken(now, reply.round)
        self._wake()

    def _on_majority(self, now: float) -> None:
        proposal, index = self._queue[0], self._index
        if self._entry:
            entry = self._entry
            self._stop()
            self._log.decide(now, index, entry)
            return
        entry = choose(self._votes.values(), proposal.entry)
        if entry == proposal.entry:
            proposal.sent_at = index
        self._begin(now, entry)

    def _on_overtaken(self, now: float, round_: int) -> None:
        self._seen = max(self._seen, round_)
        self._stop()
        self._overtaken += 1
        most_s = min(
            limits.BALLOT_BACKOFF_S * 2.0 ** min(self._overtaken, 16), limits.BALLOT_BACKOFF_S_MAX
        )
        self._again_at = now + most_s * (1 + self._dice.getrandbits(10)) / 1024


def _is_same(ours: Content, other: Content) -> bool:
    """The same request of an operator, proposed twice."""
    own_id = getattr(ours, "id", None)
    return own_id is not None and type(ours) is type(other) and own_id == getattr(other, "id", None)
