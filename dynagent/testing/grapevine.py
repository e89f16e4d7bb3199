"""What every node has said about itself, what the others believe, and whether that is true.

The judge of gossip. It looks at a node's table after each event that may have changed it, and knows
what each subject has asserted, life after life:

    facts_are_own       nobody holds a fact that its subject did not assert, byte for byte
    facts_grow          the editions of a node's assertions rise, across its lives too; and what one
                        life of a node believes of another never gets older
    gossip_converges    when all is well, everybody knows what anybody said 2 (S − 1) rounds ago: by
                        then each has asked each
    newcomer_learns     a node that starts knows all after its first round, and whom it has asked
                        knows of its start
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dynagent.core.facts import Edition, Fact
from dynagent.core.gossip import Gossiper
from dynagent.core.ports import NodeId
from dynagent.testing.world import World

TRIPS_S = 0.5  # timers are late, four messages are under way


class Host(Protocol):
    """A node as the judge sees it; `gossiper` is None while it is dead, `life` is 0."""

    id: NodeId
    life: int
    asked: list[NodeId]  # by gossip, in this life

    @property
    def gossiper(self) -> Gossiper | None: ...


class Grapevine:
    """All assertions, and all beliefs."""

    def __init__(self, world: World, *, interval_s: float) -> None:
        self._world = world
        self._interval_s = interval_s
        self._asserted: dict[NodeId, list[tuple[float, Fact]]] = {}
        self._known: dict[NodeId, set[bytes]] = {}  # asserted, as bytes
        self._believed: dict[tuple[NodeId, int], dict[NodeId, Fact]] = {}

    def look(self, host: Host) -> None:
        """Something has happened at a node that may have changed what it says or believes."""
        if host.gossiper is None:
            return
        if (own := host.gossiper.own) is not None:
            self._hear(host, own)
        believed = self._believed.setdefault((host.id, host.life), {})
        for node, fact in host.gossiper.facts.items():
            before = believed.get(node)
            if fact is before:
                continue
            believed[node] = fact
            self._check(
                "facts_are_own",
                fact.sealed in self._known.get(node, ()),
                f"{host.id[:2]} believes of {node[:2]} what it has not said: {fact}",
            )
            if before is not None:
                self._check(
                    "facts_grow",
                    fact.edition > before.edition,
                    f"{host.id[:2]} had {before.edition} of {node[:2]}, and has {fact.edition}",
                )

    def _hear(self, host: Host, own: Fact) -> None:
        said = self._asserted.setdefault(host.id, [])
        last = said[-1][1] if said else None
        if own is last:
            return
        said.append((self._world.now, own))
        self._known.setdefault(host.id, set()).add(own.sealed)
        if last is not None:
            self._check(
                "facts_grow",
                own.edition > last.edition,
                f"{host.id[:2]} says {own.edition} after {last.edition}",
            )

    # --- when all is well ------------------------------------------------------------------------

    def judge_convergence(self, hosts: Sequence[Host]) -> None:
        """All have been up, linked and undisturbed for as long as it takes."""
        for subject in hosts:
            settled = self._settled(subject, len(hosts))
            for observer in hosts:
                edition = _edition_at(observer, subject.id)
                self._check(
                    "gossip_converges",
                    edition >= settled,
                    f"{observer.id[:2]} has {edition} of {subject.id[:2]}, not yet {settled}",
                )

    def judge_newcomer(self, newcomer: Host, others: Sequence[Host]) -> None:
        """It has started and has had the answer to its first question; the others were left in
        peace before."""
        for other in others:
            edition, settled = (
                _edition_at(newcomer, other.id),
                self._settled(other, len(others) + 1),
            )
            self._check(
                "newcomer_learns",
                edition >= settled,
                f"{newcomer.id[:2]} has asked {newcomer.asked[:1]}, and has {edition} of "
                f"{other.id[:2]}, not {settled}",
            )
            if other.id in newcomer.asked[:1]:
                run = self._asserted[newcomer.id][-1][1].edition[0]
                self._check(
                    "newcomer_learns",
                    _edition_at(other, newcomer.id)[0] == run,
                    f"{other.id[:2]} was asked by {newcomer.id[:2]}, and does not know its {run}",
                )

    def _settled(self, subject: Host, hosts: int) -> Edition:
        """What it had said long enough ago."""
        rounds = 2 * (hosts - 1)
        since = self._world.now - rounds * (self._interval_s + TRIPS_S / 2) - TRIPS_S
        said = [fact.edition for at, fact in self._asserted[subject.id] if at <= since]
        return said[-1] if said else (0, 0)

    def _check(self, checker: str, holds: bool, what: str) -> None:
        self._world.verdicts.check(checker, holds, what)


def _edition_at(host: Host, node: NodeId) -> Edition:
    fact = host.gossiper.facts.get(node) if host.gossiper is not None else None
    return fact.edition if fact is not None else (0, 0)
