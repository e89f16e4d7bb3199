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

from collections.abc import Callable, Collection, Sequence
from heapq import heapify, heappop, heappush
from math import inf

from dynagent import limits
from dynagent.core.admission import MEMORY, TABLE, Admission, Gate
from dynagent.core.budget import Budget
from dynagent.core.crowd import record_bytes_max
from dynagent.core.messages import Error, GetReply, Merge, Message, PutReply, Read
from dynagent.core.peer import Peer
from dynagent.core.ports import Effects, LinkId, NodeId, Token
from dynagent.core.preference import active, next_stand_in
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring
from dynagent.core.trace import Trace, outcome_words, request_words
from dynagent.errors import BadRequest, DynagentError, Overloaded, QuorumNotMet, TooLarge

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

    def on_deadline(self, now: float) -> None:
        """Time is up: answer, if that has not happened."""

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

    def ask_read(
        self, now: float, targets: list[NodeId], key: bytes, want: int, op_id: bytes = b""
    ) -> None:
        """Asks owners what they hold."""
        coordinator = self.coordinator
        if self.trace is not None:
            asked = request_words(coordinator.in_order(targets), want, op_id=op_id)
            self.tell(now, coordinator.node_id, asked)
        self.asked_at = now
        read = Read(coordinator.ring.epoch, SETTLED, key, want, op_id)
        coordinator.send(now, targets, self.number, self.budget_ms(now), read)

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
        self.up: set[NodeId] = {node_id}  # by the detector's verdicts; ourselves always
        self.now = 0.0  # of the call under way: what every operation begins and answers at
        self.operations: dict[int, Operation] = {}
        self._shift = 33 - ring.partitions.bit_length()
        self._names = {member.id: member.name for member in ring.members}
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
        deadlines = self._deadlines
        while deadlines and deadlines[0][1] not in self.operations:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else inf

    def on_tick(self, now: float) -> None:
        self.now = now
        while self.due <= now:
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
            operation.on_failure(now, node)

    def send(
        self, now: float, targets: list[NodeId], number: int, budget_ms: int, message: Message
    ) -> None:
        """A data request, whose answers the failure detector expects."""
        for target in targets:
            self.peers[target].expect(now)
        self.effects.send(targets, number, budget_ms, message)

    def make_merge(
        self, entries: list[list[object]], barriers: Sequence[int], hint_for: NodeId | str = ""
    ) -> Merge:
        """Whole records, each with the barrier under which it was read (`Barriers.read_under`, in
        the same call as the record itself)."""
        least = min(barriers, default=0)
        each = [] if least == max(barriers, default=0) else list(barriers)
        return Merge(self.ring.epoch, SETTLED, least, entries, [], hint_for, each)

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

    def owners_of(self, token: Token) -> tuple[NodeId, ...]:
        """The preference list of a token: what `ring.partition_of` says, without its arithmetic."""
        return self.ring.lists[int.from_bytes(token[:4], "big") >> self._shift]

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

    def stand_ins(self, owners: tuple[NodeId, ...], token: Token) -> dict[NodeId, NodeId]:
        """Who takes the place of which owner that is down: {stand-in: owner}, ourselves first."""
        if self.up.issuperset(owners):
            return {}
        places = active(self.ring, self.ring.partition_of(token), self.up.__contains__)
        pairs = [(at.node, at.owner) for at in places if at.node is not None and at.is_hinted]
        pairs.sort(key=lambda pair: pair[0] != self.node_id)
        return dict(pairs)

    def next_stand_in(
        self, token: Token, *, asked: Collection[NodeId], counting: Collection[NodeId]
    ) -> NodeId | None:
        """As `preference.next_stand_in`; not ourselves, who take part already."""
        return next_stand_in(
            self.ring,
            self.ring.partition_of(token),
            self.up.__contains__,
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
