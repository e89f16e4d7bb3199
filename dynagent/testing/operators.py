"""Operators: people, or their scripts, who change the ring while all else goes on and goes wrong.

One or two of them, each with its own dice. An operator asks some agent for the ring, plans on it
with the product's own planner (`client/changes.py`), proposes the plan, and invites who joins by
it, as `dynctl` does. What it does not hear of it proposes again, under the same id, somewhere else.
It may be late (another has changed the ring meanwhile), or ask an agent that has an old ring: then
it is refused, and looks again.

    join, leave, replace, set    planned changes of the members
    remove, replace a dead one   of a node that is gone for good: its copies are lost, and so it
                                 costs of the fault budget (swarm.py)
    abort                        of whatever is under way
    policy                       an entry that moves nothing

The judge: `changes_end`, when all is well every change ends; see also rings.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dynagent.client.changes import (
    ChangePlan,
    plan_join,
    plan_leave,
    plan_members,
    plan_remove,
    plan_replace,
)
from dynagent.core.messages import (
    Error,
    Install,
    Message,
    Propose,
    Proposed,
    RingReply,
    RingRequest,
)
from dynagent.core.ports import LinkId, NodeId
from dynagent.core.ring import Member, Ring
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.core.ringentry import (
    AbortEntry,
    Content,
    Entry,
    PolicyEntry,
    encode_log_entry,
)
from dynagent.errors import BY_CODE, BadRequest, PlanInfeasible, Refused
from dynagent.testing.network import Network
from dynagent.testing.profile import Profile
from dynagent.testing.rings import Rings
from dynagent.testing.world import Stream, World

if TYPE_CHECKING:
    from dynagent.testing.simnode import SimNode

END_S = 120.0  # of all changes, once nothing is broken any more
_BUDGET_MS = 1_500
_PATIENCE_S = 2.0
_TRIES_MAX = 6  # of one proposal
_AGAIN_S = 0.3
_WEIGHTS = {"join": 5, "leave": 3, "replace": 3, "lose": 3, "set": 1, "policy": 1}
_ABORT = 0.3  # probability, each time that a change is found under way

Then = Callable[[Message | None], None]


class Operators:
    """All of them, and the judge of what became of their changes."""

    def __init__(
        self,
        *,
        world: World,
        network: Network,
        rings: Rings,
        nodes: Sequence[SimNode],
        members: Sequence[Member],
        profile: Profile,
        may_lose: Callable[[SimNode], bool],
    ) -> None:
        """`members`: what each node says of itself. `may_lose`: whether the fault budget allows
        that the copies of a node are lost for good; if so it has taken note of it."""
        self.world = world
        self.network = network
        self.rings = rings
        self.nodes = {node.id: node for node in nodes}
        self.members = {member.id: member for member in members}
        self.may_lose = may_lose
        self.is_over = False
        self.is_quiet = profile.is_quiet
        self._operators = [
            _Operator(self, number, profile.changes_s) for number in range(1, profile.operators + 1)
        ]

    def begin(self) -> None:
        for operator in self._operators:
            operator.rest()

    def end(self) -> None:
        """Everything is mended: no more changes. What is under way goes on to its end."""
        self.is_over = True

    @property
    def are_done(self) -> bool:
        """No change is under way and nobody is leaving; all members have the same ring, and those
        that are gone for good are members no more."""
        ring = self.rings.present
        return (
            ring.change is None
            and not ring.leaving
            and not any(self.nodes[member.id].is_gone for member in ring.members)
            and all(self._has(member.id, ring) for member in ring.members)
        )

    def _has(self, node: NodeId, ring: Ring) -> bool:
        its = self.nodes[node].ring
        return its is not None and its.epoch == ring.epoch

    def judge(self) -> None:
        """All is well: every change comes to its end."""
        world = self.world
        world.run(until=world.now + END_S, unless=lambda: self.are_done)
        ring = self.rings.present
        world.verdicts.check(
            "changes_end",
            self.are_done,
            f"epoch {ring.epoch}: change {ring.change}, leaving {ring.leaving}, epochs",
            {node.id[:2]: node.ring.epoch for node in self.nodes.values() if node.ring is not None},
        )

    # --- what an operator may choose from --------------------------------------------------------

    def fresh(self, ring: Ring) -> list[Member]:
        """Agents that run, and belong to nothing yet."""
        known = {member.id for member in ring.members}
        return [
            self.members[node.id]
            for node in self.nodes.values()
            if node.life and node.is_fresh and node.id not in known
        ]

    def staying(self, ring: Ring) -> list[NodeId]:
        """Members that are neither leaving nor removed, nor gone for good."""
        gone = {*ring.leaving, *ring.removed}
        return [
            member.id
            for member in ring.members
            if member.id not in gone and not self.nodes[member.id].is_gone
        ]

    def lost(self, ring: Ring) -> list[NodeId]:
        """Members that are gone for good."""
        return [m.id for m in ring.members if self.nodes[m.id].is_gone and m.id not in ring.removed]

    def may_shrink(self) -> bool:
        """Whether one member may be gone for good: N others stay, also if what is under way is
        taken back, which throws out who joins by it (seed 5919); or there is a fresh agent to take
        its place, which nobody else uses up."""
        ring = self.rings.present
        if len(self._operators) == 1 and self.fresh(ring):
            return True
        staying = self.staying(ring)
        joined = ring.change.joined if ring.change is not None else ()
        return len(set(staying).difference(joined)) > ring.n


class _Operator:
    """One of them: at most one request under way."""

    def __init__(self, all_: Operators, number: int, changes_s: float) -> None:
        self.name = f"o{number}"
        self._all = all_
        self._world = all_.world
        self._number = number
        self._changes_s = changes_s
        self._dice: Stream = all_.world.stream(f"operator {number}")
        self._ids = 0
        self._link: LinkId | None = None
        self._then: Then = lambda reply: None

    def rest(self) -> None:
        self._world.after(self._dice.expovariate(1 / self._changes_s), self._begin)

    def _begin(self) -> None:
        if not self._all.is_over:
            self._ask(self._any_member(), RingRequest(), self._on_ring)
        elif self._number == 1 and not self._all.are_done:
            self._finish()

    def _finish(self) -> None:
        """All is well: who has been forgotten is invited; who is gone for good is removed."""
        ring = self._all.rings.present
        if lost := self._all.lost(ring):
            if ring.change is None:
                self._propose_plan(lambda: self._plan_without(lost, ring))
            elif not ring.removed:  # it may wait for who will never come
                self._propose(AbortEntry(index=ring.change.index, id=self._new_id()), ring)
            else:
                self.rest()
            return
        self._invite([m.id for m in ring.members if self._all.nodes[m.id].is_fresh])

    # --- deciding --------------------------------------------------------------------------------

    def _on_ring(self, reply: Message | None) -> None:
        if not isinstance(reply, RingReply):
            self.rest()
            return
        ring = decode_ring(reply.ring)
        if ring.change is not None:
            if self._dice.random() < _ABORT:
                self._propose(AbortEntry(index=ring.change.index, id=self._new_id()), ring)
            else:
                self.rest()
            return
        kinds, weights = zip(*_WEIGHTS.items(), strict=True)
        kind = self._dice.choices(kinds, weights)[0]
        if kind == "policy":
            value = str(self._dice.randrange(3) or "")
            entry = PolicyEntry(id=self._new_id(), name="simulated", value=value)
            self._propose(entry, ring)
        else:
            self._propose_plan(lambda: self._plan(kind, ring))

    def _plan(self, kind: str, ring: Ring) -> ChangePlan | None:
        """What it wants; None if there is nothing to choose from."""
        dice, all_ = self._dice, self._all
        fresh, staying, lost = all_.fresh(ring), all_.staying(ring), all_.lost(ring)
        if kind == "lose" and not lost and not all_.is_quiet:
            victim = all_.nodes[dice.choice(staying)]
            if all_.may_shrink() and all_.may_lose(victim):
                lost = [victim.id]
        if lost:  # who has lost a node sees to that first
            return self._plan_without(lost, ring)
        if kind == "join" and fresh:
            count = min(len(fresh), dice.choice((1, 1, 2)))
            return plan_join(ring, dice.sample(fresh, count), id=self._new_id())
        if kind == "leave" and len(staying) > ring.n:
            count = min(len(staying) - ring.n, dice.choice((1, 1, 2)))
            return plan_leave(ring, dice.sample(staying, count), id=self._new_id())
        if kind == "replace" and fresh:
            return plan_replace(ring, dice.choice(staying), dice.choice(fresh), id=self._new_id())
        if kind == "set":
            member = ring.member(dice.choice(staying))
            assert member is not None
            other = replace(member, capacity=dice.choice((1, 2, 3)))
            return plan_members(ring, [other], id=self._new_id())
        return None

    def _plan_without(self, lost: list[NodeId], ring: Ring) -> ChangePlan:
        """Without who is gone for good; where fewer than N are left a fresh agent must come."""
        fresh, may_remove = self._all.fresh(ring), len(self._all.staying(ring)) >= ring.n
        if fresh and not (may_remove and self._dice.random() < 0.5):
            new = self._dice.choice(fresh)
            return plan_replace(ring, lost[0], new, id=self._new_id(), removed=True)
        return plan_remove(ring, lost, id=self._new_id())

    def _propose_plan(self, plan: Callable[[], ChangePlan | None]) -> None:
        try:
            made = plan()
        except (Refused, PlanInfeasible, BadRequest) as exc:
            self._world.log(f"{self.name} cannot plan: {exc.message}")
            made = None
        if made is None:
            self.rest()
        else:
            self._propose(made.entry, made.ring)

    def _new_id(self) -> bytes:
        self._ids += 1
        return (b"operator %d/%d" % (self._number, self._ids)).ljust(16, b".")

    # --- proposing -------------------------------------------------------------------------------

    def _propose(self, content: Content, ring: Ring, tries: int = 1) -> None:
        entry = Entry(content=content, proposer=NodeId("operator"), wall_ms=0)
        self._world.log(f"{self.name} proposes {content} on epoch {ring.epoch}")

        def on_reply(reply: Message | None) -> None:
            if isinstance(reply, Proposed):
                self._on_decided(content)
            elif self._is_refusal(reply) or tries >= _TRIES_MAX:
                self._world.faults["proposal_refused"] += self._is_refusal(reply)
                # Who has proposed in vain may have been decided all the same.
                self._on_decided(content) if tries > 1 else self.rest()
            else:
                self._world.after(_AGAIN_S, self._propose, content, ring, tries + 1)

        message = Propose(encode_log_entry(entry), ring.epoch)
        self._ask(self._any_member(), message, on_reply)

    @staticmethod
    def _is_refusal(reply: Message | None) -> bool:
        return isinstance(reply, Error) and BY_CODE[reply.error] is Refused

    def _on_decided(self, content: Content) -> None:
        members = getattr(content, "members", ())
        self._invite([m.id for m in members if self._all.nodes[m.id].is_fresh])

    def _invite(self, nodes: list[NodeId], tries: int = 1) -> None:
        """Fresh agents learn that they are members now, one after the other, until they do."""
        ring = self._all.rings.present
        waiting = [
            node
            for node in nodes
            if self._all.nodes[node].is_fresh and ring.member(node) is not None
        ]
        if not waiting or (tries > 4 * _TRIES_MAX and not self._all.is_over):
            self.rest()
            return

        def on_reply(reply: Message | None) -> None:
            self._world.after(_AGAIN_S, self._invite, waiting, tries + 1)

        self._ask(waiting[tries % len(waiting)], Install(encode_ring(ring)), on_reply)

    # --- one request -----------------------------------------------------------------------------

    def _any_member(self) -> NodeId:
        ring = self._all.rings.present
        return self._dice.choice([m.id for m in ring.members if not self._all.nodes[m.id].is_gone])

    def _ask(self, agent: NodeId, message: Message, then: Then) -> None:
        self._then = then
        self._link = link = self._all.network.call(self, agent, _BUDGET_MS, message)
        self._world.after(_PATIENCE_S, self._end, link, None)

    def on_answer(self, link: LinkId, message: Message) -> None:
        self._end(link, message)

    def on_lost(self, link: LinkId) -> None:
        self._end(link, None)

    def _end(self, link: LinkId, reply: Message | None) -> None:
        if link == self._link:
            self._all.network.hang_up(link)
            self._link = None
            self._then(reply)
