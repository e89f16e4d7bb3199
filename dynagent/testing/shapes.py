"""Partitions in shapes that cuts between halves and single nodes do not have.

    third        a third of the nodes (two of five) against the others
    majorities   each of five nodes reaches its two neighbours on a ring: everybody sees a
                 majority, and no two see the same one
    swizzle      nodes are cut off one after the other, then come back one by one in another order

They last up to seconds, so that detectors, stand-ins and hints have their say. One at a time,
beside what the nemesis does, which may heal one of their cuts early.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynagent.testing.network import Network, Pair, both_ways
from dynagent.testing.profile import Profile
from dynagent.testing.simnode import SimNode
from dynagent.testing.world import Stream, World


class Shapes:
    """One partition after the other, with calm between."""

    def __init__(
        self, *, world: World, network: Network, nodes: Sequence[SimNode], profile: Profile
    ) -> None:
        self._world = world
        self._network = network
        self._nodes = nodes
        self._profile = profile
        self._dice: Stream = world.stream("shapes")
        self._is_over = False
        self._kinds = {"third": self._third, "swizzle": self._swizzle}
        if len(nodes) >= 5:
            self._kinds["majorities"] = self._majorities

    def begin(self) -> None:
        if self._profile.shapes_s and not self._is_over:
            self._world.after(self._dice.expovariate(1 / self._profile.shapes_s), self._strike)

    def end(self) -> None:
        """No more of them; who heals the network heals their cuts."""
        self._is_over = True

    def _strike(self) -> None:
        if self._is_over:
            return
        kind = self._dice.choice(sorted(self._kinds))
        order = self._dice.sample(list(self._nodes), len(self._nodes))
        self._world.fault(kind, " ".join(node.id[:2] for node in order))
        ends_s = self._kinds[kind](order)
        self._world.after(ends_s, self.begin)

    def _third(self, order: list[SimNode]) -> float:
        size = -(-len(order) // 3)
        pairs = [(one.id, other.id) for one in order[:size] for other in order[size:]]
        return self._cut_for(self._dice.uniform(0.5, 4.0), both_ways(pairs))

    def _majorities(self, order: list[SimNode]) -> float:
        around = len(order)
        pairs = [
            (one.id, other.id)
            for i, one in enumerate(order)
            for j, other in enumerate(order[:i])
            if (i - j) % around not in (1, around - 1)
        ]
        return self._cut_for(self._dice.uniform(0.5, 4.0), both_ways(pairs))

    def _swizzle(self, order: list[SimNode]) -> float:
        chosen = order[: self._dice.randint(2, len(order))]
        step_s = self._dice.uniform(0.05, 0.8)
        for i, node in enumerate(chosen):
            self._world.after(i * step_s, self._cut, self._all_of(node))
        healed = self._dice.sample(chosen, len(chosen))
        for i, node in enumerate(healed, start=len(chosen)):
            self._world.after(i * step_s, self._heal, self._all_of(node))
        return 2 * len(chosen) * step_s

    def _all_of(self, node: SimNode) -> list[Pair]:
        return both_ways((node.id, other.id) for other in self._nodes if other is not node)

    def _cut_for(self, duration_s: float, pairs: list[Pair]) -> float:
        self._cut(pairs)
        self._world.after(duration_s, self._heal, pairs)
        return duration_s

    def _cut(self, pairs: list[Pair]) -> None:
        if not self._is_over:
            self._network.cut(pairs)

    def _heal(self, pairs: list[Pair]) -> None:
        if not self._is_over:
            self._network.heal(pairs)
