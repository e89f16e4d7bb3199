"""The coordinator: runs gets and puts for keys of which this node is an owner.

It checks a request, finds the owners, and starts an **operation**: a small object in one table,
keyed by the number that is also the request id towards peers. Replies, failures of peers, commits
and deadlines find the operation by that number; there is no task, lock or wait per request. An
operation stays after its answer until every owner has answered or its deadline has passed, so that
a straggler's reply is still counted. `get.py` and `put.py` have the two kinds (`look.py` the puts
that look first), `router.py` the third: passing a request on to an owner.

Quorums are sloppy unless a request says `strict` (design §5): the place of an owner that is down is
taken by a stand-in, which keeps a hint and counts. What cannot reach enough nodes is refused before
anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import inf

from dynagent import limits
from dynagent.core.admission import MEMORY, TABLE, Admission, Gate
from dynagent.core.aim import Aim
from dynagent.core.budget import Budget
from dynagent.core.crowd import record_bytes_max
from dynagent.core.messages import Error, Get, GetReply, Merge, Message, Put, PutReply, Read, RingIs
from dynagent.core.peer import Peer
from dynagent.core.ports import Effects, LinkId, NodeId, PartitionId, Token
from dynagent.core.preference import active, next_stand_in
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring, Stamp
from dynagent.core.trace import Trace, outcome_words, request_words
from dynagent.errors import (
    BadRequest,
    DynagentError,
    NotReady,
    NotYetOwner,
    Overloaded,
    QuorumNotMet,
    TooLarge,
)

SETTLED = 2  # the phase of a stamp outside ring changes (design §6)
_STALE_DEADLINES_MAX = 1_024  # of finished operations, before the heap is made anew


class Operation:
    """One request under way. Subclasses override what concerns them."""

    __slots__ = (
        "answered",
        "asked_at",
        "begun",
        "coordinator",
        "deadline",
        "due",
        "gate",
        "link",
        "number",
        "request_id",
        "size",
        "trace",
    )

    def __init__(
        self,
        coordinator: Coordinator,
        link: LinkId,
        request_id: int,
        deadline: float,
        *,
        gate: Gate,
        size: int = 0,
        due: float | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.gate = gate
        self.link = link
        self.request_id = request_id
        self.deadline = deadline
        self.due = deadline if due is None or due > deadline else due  # when to wake it
        self.answered = False
        self.begun = coordinator.now
        self.asked_at = 0.0  # when the last Read went out
        self.trace: Trace | None = None  # until the answer, of a request that asked for it
        self.size = size  # bytes of user data that it keeps alive
        self.number = coordinator.admit(self)

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        """A peer answered our request of this number."""

    def on_failure(self, now: float, source: NodeId) -> None:
        """The link to a peer broke, or its answer was no answer."""

    def on_durable(self, now: float) -> None:
        """Our own copy of this operation's write is fsynced."""

    def on_hedge(self, now: float) -> None:
        """The answer is late, but there is time left."""

    def ask_again(self, now: float, node: NodeId) -> None:
        """A peer that had put us off may have caught up by now (`Coordinator.ask_later`)."""

    def on_deadline(self, now: float) -> None:
        """Time is up: answer, if that has not happened."""

    @property
    def may_have_effect(self) -> bool:
        """Has it been written anywhere what the client has asked for, or may it have been?"""
        return False

    def answer(self, message: Message) -> None:
        assert not self.answered
        self.answered = True
        if self.trace is not None:
            self._close_trace(message)
        gate = self.gate
        gate.under_way -= 1
        gate.answered += 1
        coordinator = self.coordinator
        coordinator.budget.note_foreground(coordinator.now, coordinator.now - self.begun)
        coordinator.effects.answer(self.link, self.request_id, message)

    def fail(self, error: DynagentError) -> None:
        self.coordinator.count_error(error)
        self.answer(Error(error.code, error.message))

    def tell(self, now: float, node: NodeId, what: str) -> None:
        """Adds to the trace, which is there. Whatever leads to the answer is told before it."""
        assert self.trace is not None
        self.trace.add(now, self.coordinator.names([node]), what)

    def tell_failure(self, now: float, node: NodeId) -> None:
        is_up = node in self.coordinator.up
        self.tell(now, node, "failed" if is_up else "failed: its link is down")

    def _close_trace(self, message: Message) -> None:
        assert self.trace is not None
        if isinstance(message, GetReply | PutReply | Error):
            own = self.coordinator.node_id
            self.trace.add_next(self.coordinator.names([own]), outcome_words(message))
            message.trace = self.trace.encode()
        self.trace = None

    def wake_at(self, now: float, at: float) -> None:
        """From `on_hedge`: calls it again then, or at the deadline if that comes first."""
        if now < at < self.deadline:
            self.due = at

    def finish(self) -> None:
        """Nothing more can come: leave the table."""
        self.coordinator.release(self)

    def budget_ms(self, now: float) -> int:
        """What is left until the deadline, for a peer."""
        return max(1, int((self.deadline - now) * 1000))


class Request(Operation):
    """A client's get or put, which aims at the owners of a partition."""

    __slots__ = ("aim",)

    aim: Aim  # by the ring that was there when it began, or was aimed again
    aims_again = True  # when the ring gives its partition another stamp

    def start(self, now: float) -> None:
        """It is in the table: the first step."""

    def on_ring(self, now: float) -> None:
        """The partition has got another stamp, and the client no answer: aim again."""

    def ask_read(
        self, now: float, targets: list[NodeId], key: bytes, want: int, op_id: bytes = b""
    ) -> None:
        """Asks owners what they hold."""
        coordinator = self.coordinator
        if self.trace is not None:
            asked = request_words(coordinator.in_order(targets), want, op_id=op_id)
            self.tell(now, coordinator.node_id, asked)
        self.asked_at = now
        read = Read(*self.aim.stamp, key, want, op_id)
        coordinator.send(now, targets, self.number, self.budget_ms(now), read)


class Coordinator:
    """The table of operations, and what they all need."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        ring: Ring,
        replica: Replica,
        effects: Effects,
        wall_ms: Callable[[], int],
        value_bytes_max: int,
        siblings_max: int,
        budget: Budget,
        admission: Admission,
        count_error: Callable[[DynagentError], None],
    ) -> None:
        self.peers: dict[NodeId, Peer] = {}  # the failure detector's
        self.node_id = node_id
        self.ring = ring
        self.replica = replica
        self.effects = effects
        self.wall_ms = wall_ms
        self.value_bytes_max = value_bytes_max
        self.siblings_max = siblings_max
        self.record_bytes_max = record_bytes_max(ring.n)
        self.budget = budget
        self.admission = admission
        self.count_error = count_error
        self.is_member = True  # False: it was removed, and only waits for what it has passed on
        self.up: set[NodeId] = {node_id}  # by the detector's verdicts; ourselves always
        self.now = 0.0  # of the call under way: what every operation begins and answers at
        self.operations: dict[int, Operation] = {}
        self._shift = 33 - ring.partitions.bit_length()
        self._aims: list[Aim | None] = [None] * ring.partitions  # made when first asked for
        self._coming: Ring | None = None  # a ring that is about to be ours
        self._later: list[tuple[float, int, NodeId]] = []  # a heap: when to ask whom again
        # Node.begin: starts a client's request; what was to be answered by another operation.
        self.begin: Callable[[float, LinkId, int, float, Get | Put], Request] | None = None
        self._names = {member.id: member.name for member in ring.members}  # of all there ever were
        self.repaired = 0  # owners that a get has found behind, and sent what they lacked
        self._bytes = 0  # that the operations keep alive
        self._last_number = 0
        self._read_s = 0.0  # the mean time of late: from asking an owner to its answer
        self._deadlines: list[tuple[float, int]] = []  # a heap; entries of finished ones are stale

    # --- the table -------------------------------------------------------------------------------

    def admit(self, operation: Operation) -> int:
        """Enters an operation; raises `Overloaded` if the table or its memory is full."""
        if len(self.operations) >= limits.REQUESTS_IN_FLIGHT_MAX:
            self.admission.refused[TABLE] += 1
            raise Overloaded(f"{len(self.operations)} requests are under way; try again later")
        if self._bytes + operation.size > limits.REQUEST_BYTES_IN_FLIGHT_MAX:
            raise self._no_memory()
        self._bytes += operation.size
        operation.gate.under_way += 1
        return self._enter(operation)

    def grow(self, operation: Operation, size: int) -> None:
        """An operation in the table keeps so many bytes more alive; raises `Overloaded`."""
        if self._bytes + size > limits.REQUEST_BYTES_IN_FLIGHT_MAX:
            raise self._no_memory()
        self._bytes += size
        operation.size += size

    def _no_memory(self) -> Overloaded:
        self.admission.refused[MEMORY] += 1
        return Overloaded(f"{self._bytes:,} bytes of requests are under way; try again later")

    def release(self, operation: Operation) -> None:
        """Removes an operation, if it is still there."""
        if self.operations.pop(operation.number, None) is not None:
            self._bytes -= operation.size
        if len(self._deadlines) > 2 * len(self.operations) + _STALE_DEADLINES_MAX:
            self._deadlines = [(op.due, number) for number, op in self.operations.items()]
            heapify(self._deadlines)

    def renumber(self, operation: Operation) -> None:
        """Gives an operation a new number: replies to its old one find nobody."""
        if self.operations.pop(operation.number, None) is not None:
            self._enter(operation)

    def _enter(self, operation: Operation) -> int:
        self._last_number = operation.number = number = self._last_number + 1
        self.operations[number] = operation
        heappush(self._deadlines, (operation.due, number))
        return number

    def take_number(self) -> int:
        """A request id that no operation has or gets."""
        self._last_number += 1
        return self._last_number

    @property
    def due(self) -> float:
        """When `on_tick` is; infinite if nothing is under way."""
        deadlines, later = self._deadlines, self._later
        while deadlines and deadlines[0][1] not in self.operations:
            heappop(deadlines)
        due = deadlines[0][0] if deadlines else inf
        return later[0][0] if later and later[0][0] < due else due

    def on_tick(self, now: float) -> None:
        self.now = now
        while self.due <= now:
            if self._later and self._later[0][0] <= now:
                _, number, node = heappop(self._later)
                if (operation := self.operations.get(number)) is not None:
                    operation.ask_again(now, node)
                continue
            _, number = heappop(self._deadlines)
            operation = self.operations[number]
            if operation.due < operation.deadline:
                operation.due = operation.deadline
                operation.on_hedge(now)  # may want to be woken once more before the deadline
                if number in self.operations:
                    heappush(self._deadlines, (operation.due, number))
            else:
                self.release(operation)
                operation.on_deadline(now)

    def on_peer_down(self, now: float, node: NodeId) -> None:
        self.now = now
        self.up.discard(node)
        for operation in list(self.operations.values()):
            if self._coming is None or not self._is_stale(operation, self._coming):
                operation.on_failure(now, node)

    def expect(self, ring: Ring) -> None:
        """`on_ring` is about to follow: requests that will aim again by that ring need not know
        whom it has no more."""
        self._coming = ring

    def _is_stale(self, operation: Operation, ring: Ring) -> bool:
        """Is it a client's request, not answered yet, whose partition has another stamp there?"""
        if not isinstance(operation, Request) or operation.answered or not operation.aims_again:
            return False
        return operation.aim.stamp != ring.stamps[operation.aim.partition]

    def on_ring(self, now: float, ring: Ring) -> None:
        """A newer ring is durable here, and the replica serves under it. What waited for members
        that are gone has failed: the detector follows before this."""
        self.now = now
        self.ring = ring
        self._coming = None
        self.record_bytes_max = record_bytes_max(ring.n)
        self._aims = [None] * ring.partitions
        self._names.update((member.id, member.name) for member in ring.members)
        for operation in list(self.operations.values()):
            if isinstance(operation, Request) and self._is_stale(operation, ring):
                operation.on_ring(now)

    def start_over(self, now: float, operation: Operation, request: Get | Put) -> None:
        """Runs a client's request anew, under the ring that we have by now. Whatever the operation
        has asked so far counts no more; it has written nothing."""
        assert self.begin is not None
        operation.answered = True
        operation.gate.under_way -= 1
        operation.finish()
        link, request_id = operation.link, operation.request_id
        try:
            anew = self.begin(now, link, request_id, operation.deadline, request)
        except DynagentError as error:
            self.count_error(error)
            self.effects.answer(link, request_id, Error(error.code, error.message))
            return
        anew.begun = operation.begun
        if (trace := operation.trace) is not None:
            anew.trace = trace
            anew.tell(now, self.node_id, f"has the ring of epoch {self.ring.epoch}: starts over")
        anew.start(now)

    def is_put_off(self, node: NodeId, message: Message) -> bool:
        """A peer's answer says no more than "not yet": one of us lacks entries of the ring log, or
        it is an owner to be; or it has only just joined, and begins."""
        if not isinstance(message, Error):
            return isinstance(message, RingIs)
        if message.error == NotReady.code:
            change = self.ring.change
            return change is not None and node in change.joined
        return message.error == NotYetOwner.code

    def ask_later(self, now: float, operation: Operation, node: NodeId) -> None:
        """That peer cannot take the request yet, for one of us two lacks entries of the ring log,
        or it fences the old owners: `operation.ask_again` in a little while, or a longer one."""
        pause_s = max(limits.RING_PAUSE_S, (now - operation.begun) / 4)
        heappush(self._later, (now + pause_s, operation.number, node))

    def send(
        self, now: float, targets: list[NodeId], number: int, budget_ms: int, message: Message
    ) -> None:
        """A data request, whose answers the failure detector expects. Who is no member any more is
        not sent anything: whoever waits for it has been told that it failed."""
        peers = self.peers
        try:
            for target in targets:
                peers[target].expect(now)
        except KeyError:
            targets = [target for target in targets if target in peers]
        self.effects.send(targets, number, budget_ms, message)

    def make_merge(
        self, stamp: Stamp, entries: list[list[object]], barriers: Sequence[int]
    ) -> Merge:
        """Whole records of partitions with that stamp, each with the barrier under which it was
        read (`Barriers.read_under`, in the same call as the record itself)."""
        least = min(barriers, default=0)
        each = [] if least == max(barriers, default=0) else list(barriers)
        return Merge(*stamp, least, entries, [], "", each)

    # --- how long an owner takes -----------------------------------------------------------------

    def hedge_at(self, now: float) -> float:
        """When a read that begins now waits no longer for those it has asked (decision 0006)."""
        return now + min(
            max(limits.HEDGE_S, limits.HEDGE_FACTOR * self._read_s), limits.HEDGE_S_MAX
        )

    def note_read(self, seconds: float) -> None:
        """An owner has answered a Read after that long; one that hangs answers none."""
        self._read_s += (seconds - self._read_s) / 16

    # --- what operations ask ---------------------------------------------------------------------

    def aim_of(self, token: Token) -> Aim:
        """At whom requests for a key aim. (Its partition is what `ring.partition_of` says, without
        the arithmetic.)"""
        partition = int.from_bytes(token[:4], "big") >> self._shift
        return self._aims[partition] or self._make_aim(partition)

    def _make_aim(self, partition: int) -> Aim:
        self._aims[partition] = aim = Aim(self.ring, PartitionId(partition))
        return aim

    def check_key(self, key: bytes) -> None:
        """Raises `BadRequest` or `TooLarge`."""
        if not key:
            raise BadRequest("the key is empty; a key is 1 to 1,024 bytes")
        if len(key) > limits.KEY_BYTES_MAX:
            raise TooLarge(f"the key has {len(key):,} bytes; the limit is {limits.KEY_BYTES_MAX:,}")

    def needed(self, name: str, asked: int, default: int) -> int:
        """The R or W of a request; raises `BadRequest` if it is over N."""
        if asked > self.ring.n:
            raise BadRequest(f"{name}={asked}, but every key has N={self.ring.n} owners")
        return asked or default

    def owners_up(self, owners: tuple[NodeId, ...]) -> list[NodeId]:
        """The owners that are up, ourselves first, the others in the order in which we ask them:
        from our own place in the list onward, so that each owner is asked as often as any other."""
        if self.node_id not in owners:
            return [node for node in owners if node in self.up]
        place = owners.index(self.node_id)
        up = [node for node in owners[place + 1 :] + owners[:place] if node in self.up]
        return [self.node_id, *up]

    def joining(self, aim: Aim) -> list[NodeId]:
        """Owners by the change under way whose link has not been up yet: it will be in a moment, or
        the change would not have begun with them."""
        joined = self.ring.change.joined if self.ring.change is not None else ()
        return [
            node
            for node in aim.owners
            if node in joined
            and node not in self.up
            and ((peer := self.peers.get(node)) is None or not peer.heard_at)
        ]

    def stand_ins(self, aim: Aim, owners: tuple[NodeId, ...]) -> dict[NodeId, NodeId]:
        """Who takes the place of which of these owners that is down: {stand-in: owner}, ourselves
        first."""
        if self.up.issuperset(owners):
            return {}
        places = active(self.ring, aim.partition, self.up.__contains__)
        hinted = [at for at in places if at.is_hinted and at.owner in owners]
        pairs = [(at.node, at.owner) for at in hinted if at.node is not None]
        pairs.sort(key=lambda pair: pair[0] != self.node_id)
        return dict(pairs)

    def next_stand_in(
        self,
        aim: Aim,
        owner: NodeId,
        *,
        asked: Collection[NodeId],
        counting: Mapping[NodeId, NodeId],
    ) -> NodeId | None:
        """As `preference.next_stand_in`; not ourselves, who take part already."""
        return next_stand_in(
            self.ring,
            aim.partition,
            self.up.__contains__,
            owner,
            asked={*asked, self.node_id},
            counting=counting,
        )

    def too_few(self, owners: tuple[NodeId, ...], name: str, needed: int, up: int) -> QuorumNotMet:
        """The error of a request that cannot reach enough nodes."""
        down = [node for node in owners if node not in self.up]
        return QuorumNotMet(
            f"{up} of the {needed} nodes needed ({name}={needed}) are up; "
            f"owners that are down: {self.names(down)}"
        )

    def in_order(self, nodes: Sequence[NodeId]) -> str:
        """`n3, n2` for people, in the order given."""
        return ", ".join([self._names.get(node, node) for node in nodes])

    def names(self, nodes: object) -> str:
        """`n2, n3` for people, in a fixed order."""
        return ", ".join(sorted(self._names.get(node, node) for node in nodes))  # type: ignore[attr-defined]
