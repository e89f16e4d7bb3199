"""Upkeep of the voters: who votes follows who is a member.

`choose_voters` says who should vote: an odd number, at most seven, spread over zones and hosts.
Where the ring names others, and no change is under way, the lowest live member proposes them.
Beside those that vote already only members come in question that are up, and have all entries on
their disk (their fact of gossip has our epoch): a majority must be able to decide the next entry.

Others may see another member as the lowest, and propose too: one of them wins, and the other's is
refused (`ringentry.fold`). It rests `VOTERS_REST_S` before each try, in which nodes come up, catch
up, and hear of each other. Where the right ones vote nothing of this takes any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.facts import Fact
from dynagent.core.ports import NodeId
from dynagent.core.ring import Ring
from dynagent.core.ringentry import VotersEntry
from dynagent.core.ringlog import RingLog
from dynagent.core.voters import choose_voters
from dynagent.errors import DynagentError


class Electors:
    """One node's watch over who votes. `facts`: what gossip knows of each member."""

    def __init__(
        self, log: RingLog, coordinator: Coordinator, facts: Mapping[NodeId, Fact]
    ) -> None:
        self.due = inf
        self._log = log
        self._coordinator = coordinator
        self._facts = facts
        self._is_proposing = False
        self.on_ring(0.0, log.durable)

    def on_ring(self, now: float, ring: Ring) -> None:
        """The node has turned to this ring."""
        gone = (*ring.leaving, *ring.removed)
        should = choose_voters(ring.members, present=ring.voters, staying_out=gone)
        is_right = not ring.voters or not should or should == ring.voters
        self.due = inf if is_right or ring.change is not None else now + limits.VOTERS_REST_S

    def on_tick(self, now: float) -> None:
        if now < self.due:
            return
        self.due = now + limits.VOTERS_REST_S
        ring, up = self._log.durable, self._coordinator.up
        gone = (*ring.leaving, *ring.removed)
        staying = [member for member in ring.members if member.id not in gone]
        if self._is_proposing or not self._is_lowest([member.id for member in staying]):
            return
        able = [
            member
            for member in staying
            if member.id in ring.voters or (member.id in up and self._has_all(member.id, ring))
        ]
        voters = choose_voters(able, present=ring.voters)
        if voters and voters != ring.voters:
            self._is_proposing = True
            self._log.propose(now, VotersEntry(voters=voters), self._on_done)

    def _is_lowest(self, staying: list[NodeId]) -> bool:
        up = self._coordinator.up
        return (
            min((node for node in staying if node in up), default="") == self._coordinator.node_id
        )

    def _has_all(self, node: NodeId, ring: Ring) -> bool:
        if node == self._coordinator.node_id:
            return True
        fact = self._facts.get(node)
        return fact is not None and fact.portrait.epoch >= ring.epoch

    def _on_done(self, now: float, error: DynagentError | None) -> None:
        self._is_proposing = False
