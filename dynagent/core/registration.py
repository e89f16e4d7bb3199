"""May this start of this store serve? The voters of the ring say so (design §6, "Identity").

A store that was copied, put back from a backup, or has lost what it acknowledged must not speak for
the node whose id it carries: it would count for R with old copies, and for W twice. No store can
see that by itself. So each start draws a **nonce**, durable in the identity file before anything
else happens, and has it recorded by voters (`core.registrar`) before it serves:

    STARTING ──a majority of the voters has recorded this start──▶ REGISTERED
        └────────one of them knows a start that is not ours──┐         │
                                                             ▼         │ (found later)
                                                          REFUSED ◀────┘

A voter keeps run number and nonce of one start for each node: the last that it has recorded. A
start shows the nonces of the last runs of its store, and a voter takes it only if what it keeps is
among them, at that run, or older than all. Example: the store of n1 has made runs 1 and 2 with the
nonces a and b, its copy was made after a. Its next start shows [a, b, c], one of the copy [a, d].
Who keeps (2, b) or (3, c) refuses [a, d], and [a, d, e, f] too. Were it for the run number alone,
equal or lower, the copy would get in by being started until its number is the highest.

A copy of a store that is *running* has the same past, and is its next start as far as that goes.
So a voter that has a link to another start of the node keeps this one waiting (DOUBLE_UP): it is a
copy, or that link is about to break. (Each says its nonce in its Hello.) And a running node that
hears by gossip of a later run of its own asks the voters again, who refuse it by now: one of the
two goes on.

The node counts itself if it is a voter, for else three nodes of which one is dead could not have a
second one restarted. That alone would let copies in that start in the same moment, each with a
voter of its own; so beyond the majority **all** voters are waited for, up to
`limits.REGISTRATION_PATIENCE_S`. What is left: two copies that start while a cut lies between them
and each is on the side of as many voters as it needs; and a store put back while all those voters
are away that knew of its later starts. Both are found when these meet: a refusal always counts.

Until it is registered a node answers no one out of its store, takes no copies (not even for others:
they would go with the store), neither votes nor hands over anything; requests of clients it passes
on. In a ring that names no voters there is nobody to ask: every start counts as registered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.messages import (
    Error,
    Facts,
    Get,
    Gossip,
    HintOrder,
    Inspect,
    Install,
    Invite,
    LogReply,
    LogRequest,
    MergeAck,
    Message,
    Ping,
    PingFor,
    Put,
    Register,
    RingIs,
    RingRequest,
    Roots,
    StartRefused,
    StatusRequest,
)
from dynagent.core.ports import NodeId
from dynagent.core.question import ask
from dynagent.core.ring import Ring

STARTING, REGISTERED, REFUSED = "starting", "registered", "refused"
OTHER_START, REMOVED, DOUBLE_UP = 1, 2, 3  # why: the kinds of a StartRefused

# What a node answers before it is registered, and if it is refused: nothing that speaks for its
# store. (Inspect and Roots tell people what lies there.)
WITHOUT_STORE: frozenset[type[Message]] = frozenset(
    {
        *(Get, Put),  # which are passed on
        *(Facts, Gossip, Ping, PingFor, Register, RingRequest),
        *(LogReply, LogRequest),  # it may have to learn a newer ring first
        *(HintOrder, Inspect, Install, Invite, Roots, StatusRequest),
    }
)


class Registration:
    """This start of this node. `on_registered` is called once; `on_refused` ends everything."""

    def __init__(
        self,
        *,
        coordinator: Coordinator,
        starts: Sequence[bytes],
        address: Callable[[], str],
        on_registered: Callable[[float], None],
        on_refused: Callable[[StartRefused], None],
        on_double: Callable[[str], None],
    ) -> None:
        """`starts`: the nonces of the last runs of this store, this one's at the end; `address`:
        where this node is reached. `on_double` is told the address of another node of this id."""
        self.state = STARTING
        self.due = 0.0  # when `on_tick` is
        self._coordinator = coordinator
        self._node_id = coordinator.node_id
        self._ring = coordinator.ring
        self._starts = starts
        self._address = address
        self._on_registered = on_registered
        self._on_refused = on_refused
        self._on_double = on_double
        self._asked: set[NodeId] = set()
        self._recorded: set[NodeId] = set()  # who has this start on the disk
        self._held_by: set[NodeId] = set()  # who has a link to another start of this node
        self._reasons: dict[NodeId, str] = {}  # why another one has not, for people
        self._patient_until = inf  # from the first tick on
        if not self._others():
            self.state, self.due = REGISTERED, inf

    # --- what the node feeds ---------------------------------------------------------------------

    def on_link_up(self, now: float, node: NodeId) -> None:
        if node in self._missing():
            self._ask(now, node)

    def on_ring(self, now: float, ring: Ring) -> None:
        """Other voters get to know of this start too; before, it was the old ones that did. Who is
        asked no more keeps nobody waiting."""
        self._ring = ring
        self._held_by.intersection_update(self._others())
        if ring.member(self._node_id) is None or self._node_id in ring.removed:
            self._refuse(StartRefused(REMOVED, 0, "", ring.epoch))
            return
        self._look(now)
        self.due = min(self.due, now)

    def on_tick(self, now: float) -> None:
        if now < self.due:
            return
        if self._patient_until == inf:
            self._patient_until = now + limits.REGISTRATION_PATIENCE_S
        self._look(now)
        for node in self._missing():
            self._ask(now, node)
        is_complete = self.state == REFUSED or not self._missing()
        rest_s = limits.REGISTRATION_HELD_S if self._held_by else limits.REGISTRATION_RETRY_S
        self.due = inf if is_complete else now + rest_s

    def doubt(self, now: float) -> None:
        """Somebody tells of a later run of this node: do the voters know one?"""
        if self.state == REGISTERED and self._others():
            self._recorded.clear()
            self.due = now

    @property
    def is_known_to_all(self) -> bool:
        """All voters have this start on record."""
        return self.state == REGISTERED and not self._missing()

    # --- asking ----------------------------------------------------------------------------------

    def _ask(self, now: float, node: NodeId) -> None:
        if self.state == REFUSED or node in self._asked:
            return
        run, epoch = self._coordinator.replica.run, self._ring.epoch
        register = Register(self._node_id, run, list(self._starts), self._address(), epoch)
        deadline = now + limits.REGISTRATION_ANSWER_S
        if ask(self._coordinator, now, node, register, self._on_answer, deadline=deadline):
            self._asked.add(node)
        elif not self._is_linked(node):
            self._held_by.discard(node)  # it cannot say what it sees now, as if it did not answer

    def _on_answer(self, now: float, node: NodeId, answer: Message | None) -> None:
        self._asked.discard(node)
        self._held_by.discard(node)
        match answer:
            case MergeAck():
                self._recorded.add(node)
                self._look(now)
            case StartRefused(kind=kind) if kind == DOUBLE_UP:
                self._held_by.add(node)
                self._reasons[node] = f"another agent with this node id is up at {answer.address}"
                self.due = min(self.due, now + limits.REGISTRATION_HELD_S)
                self._on_double(answer.address)
            case StartRefused():
                self._refuse(answer)
            case RingIs():
                self._reasons[node] = f"its ring is of epoch {answer.epoch}, not {self._ring.epoch}"
            case Error():  # the bootstrap has not come to it yet, or its disk is full
                self._reasons[node] = answer.text
                if self.state == STARTING:
                    self.due = min(self.due, now + limits.REGISTRATION_HELD_S)
            case _:
                self._reasons[node] = "no answer in time"

    # --- what it comes to ------------------------------------------------------------------------

    def _others(self) -> tuple[NodeId, ...]:
        """Who is to record this start. Beside a lone voter, which asks nobody, stand the members
        that do not vote: better than nobody."""
        ring = self._ring
        if not ring.voters:
            return ()
        voters = tuple(node for node in ring.voters if node != self._node_id)
        return voters or tuple(m.id for m in ring.members if m.id != self._node_id)

    def _missing(self) -> list[NodeId]:
        return [node for node in self._others() if node not in self._recorded]

    def _votes(self) -> tuple[int, int]:
        """How many of the voters have it, this node counted, and how many must."""
        voters = self._ring.voters
        return sum(v in self._recorded or v == self._node_id for v in voters), len(voters) // 2 + 1

    def _look(self, now: float) -> None:
        if self.state != STARTING:
            return
        has, needs = self._votes()
        is_enough = has >= needs and not self._held_by
        if is_enough and (not self._missing() or now >= self._patient_until):
            self.state = REGISTERED
            self._on_registered(now)

    def _refuse(self, refusal: StartRefused) -> None:
        if self.state != REFUSED:
            self.state, self.due = REFUSED, inf
            self._on_refused(refusal)

    # --- for people ------------------------------------------------------------------------------

    def document(self) -> dict[str, object]:
        """For the status of the node, see inspect.py."""
        has, needs = self._votes()
        missing = {node: self._reason(node) for node in self._missing()}
        return {"state": self.state, "recorded": has, "needed": needs, "missing": missing}

    def reason(self) -> str:
        """Why this node does not serve; empty if it does."""
        if self.state == REGISTERED:
            return ""
        if self.state == REFUSED:
            return "this store must not serve: its start was refused; see the agent's log"
        has, needs = self._votes()
        names = {member.id: member.name for member in self._ring.members}
        missing = [f"{names.get(node, node)} ({self._reason(node)})" for node in self._missing()]
        return (
            f"this agent is starting: {has} of the {needs} voters needed have recorded that;"
            f" not yet: {', '.join(missing)}"
        )

    def _reason(self, node: NodeId) -> str:
        return self._reasons.get(node, "no answer yet") if self._is_linked(node) else "unreachable"

    def _is_linked(self, node: NodeId) -> bool:
        peer = self._coordinator.peers.get(node)
        return peer is not None and peer.is_linked
