"""The two networks that `claim_flow` fills: who holds a partition, and who takes which seat.

A network is its residual graph: the arcs out of a vertex as they are now, and what changes when a
unit crosses one. Both fold vertices that would only make the graph larger. A host's room in a
partition is a counter, and a node may pass a partition straight to a neighbour on the same host.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

from dynagent.core.claim_flow import Flow
from dynagent.core.claim_rules import Rules


class Places(Flow):
    """Which nodes hold which partition: partition → its part in a zone → node → sink.

    A unit is a place. A kept place costs 0 and a new one 1, so the cost is what has to move. A
    zone's minimum is a source at the zone's own vertex; the partition sends the rest.
    """

    def __init__(
        self,
        *,
        rules: Rules,
        n: int,
        old: Sequence[Sequence[int]],
        visit: Sequence[int],
        likes: Sequence[Sequence[int]],
    ) -> None:
        """`old`: node numbers by partition. `visit`: partitions as they are served. `likes`: each
        partition's order of the nodes."""
        self._rules = rules
        self._zones = zones = len(rules.zone_max)
        self._partitions = partitions = len(old)
        first_node = partitions * (1 + zones)
        super().__init__(
            vertices=first_node + len(rules.nodes),
            first_node=first_node,
            sources=list(chain.from_iterable((p, *self._zone_vertices(p)) for p in visit)),
        )
        for p in range(partitions):
            self.need[p] = n - sum(rules.zone_min)
            self.need[partitions + p * zones : partitions + (p + 1) * zones] = rules.zone_min
        # Dictionaries without values: sets that are gone through in a fixed order.
        self.held: list[dict[int, None]] = [{} for _ in range(partitions)]
        self._holds: list[dict[int, None]] = [{} for _ in rules.nodes]
        self._on_host: list[dict[int, int]] = [{} for _ in range(partitions)]
        self._sent = [0] * first_node  # units from a partition to its zone vertex
        self._old = [frozenset(nodes) - {-1} for nodes in old]
        self._in_zone: list[list[int]] = [
            [node for node in liked if rules.zone[node] == zone]
            for liked in likes
            for zone in range(zones)
        ]
        self._neighbours = [
            [m for m, there in enumerate(rules.host) if there == host and m != node]
            for node, host in enumerate(rules.host)
        ]

    def keep(self, limits: Sequence[int]) -> None:
        """Leaves old places where they are, as far as the rules let it, at cost 0.

        Greedy: where that was not clever, the flow takes a place back at no loss.
        """
        for p in (source for source in self._sources if source < self._partitions):
            for node in sorted(self._old[p]):
                zone = self._zone_vertices(p)[self._rules.zone[node]]
                if self.load[node] < limits[node] and self._has_host_room(p, node):
                    target = self._first_node + node
                    if self.need[zone]:
                        self.take([(zone, target, p)])
                    elif self.need[p] and self._has_zone_room(zone):
                        self.take([(p, zone, p), (zone, target, p)])

    def arcs(self, vertex: int) -> Iterator[tuple[int, int, int]]:
        if vertex < self._partitions:
            return self._arcs_of_partition(vertex)
        if vertex < self._first_node:
            return self._arcs_of_zone(vertex)
        return self._arcs_of_node(vertex)

    def _arcs_of_partition(self, vertex: int) -> Iterator[tuple[int, int, int]]:
        for zone in self._zone_vertices(vertex):
            if self._has_zone_room(zone):
                yield zone, 0, vertex

    def _arcs_of_zone(self, vertex: int) -> Iterator[tuple[int, int, int]]:
        p = (vertex - self._partitions) // self._zones
        held, old, on_host = self.held[p], self._old[p], self._on_host[p]
        first_node, host, host_max = self._first_node, self._rules.host, self._rules.host_max
        for node in self._in_zone[vertex - self._partitions]:
            there = host[node]
            # `_has_host_room`, spelled out: this loop is most of the time of a plan.
            if on_host.get(there, 0) < host_max[there] and node not in held:
                yield first_node + node, 0 if node in old else 1, p
        if self._sent[vertex]:
            yield p, 0, p

    def _arcs_of_node(self, vertex: int) -> Iterator[tuple[int, int, int]]:
        """To give a place up: back to the zone, or over to a node of the same host."""
        node = vertex - self._first_node
        zone = self._rules.zone[node]
        for p in self._holds[node]:
            old = self._old[p]
            saved = 0 if node in old else 1
            yield self._partitions + p * self._zones + zone, -saved, p
            for other in self._neighbours[node]:
                if other not in self.held[p]:
                    yield self._first_node + other, (0 if other in old else 1) - saved, p

    def shift(self, source: int, target: int, partition: int) -> None:
        if source < self._partitions:
            self._sent[target] += 1
        elif target < self._partitions:
            self._sent[source] -= 1
        if source >= self._first_node:
            self._move(partition, source - self._first_node, leaves=True)
        if target >= self._first_node:
            self._move(partition, target - self._first_node, leaves=False)

    def _move(self, partition: int, node: int, *, leaves: bool) -> None:
        host, on_host = self._rules.host[node], self._on_host[partition]
        if leaves:
            del self.held[partition][node], self._holds[node][partition]
            on_host[host] -= 1
        else:
            self.held[partition][node] = self._holds[node][partition] = None
            on_host[host] = on_host.get(host, 0) + 1

    def _has_zone_room(self, vertex: int) -> bool:
        zone = (vertex - self._partitions) % self._zones
        return self._sent[vertex] < self._rules.zone_max[zone] - self._rules.zone_min[zone]

    def _has_host_room(self, partition: int, node: int) -> bool:
        host = self._rules.host[node]
        return self._on_host[partition].get(host, 0) < self._rules.host_max[host]

    def _zone_vertices(self, partition: int) -> range:
        first = self._partitions + partition * self._zones
        return range(first, first + self._zones)


class Seats(Flow):
    """Which of its owners takes one given seat of a partition's list: partition → node → sink."""

    def __init__(
        self,
        *,
        nodes: int,
        choices: Sequence[Sequence[int]],
        costs: Sequence[Sequence[int]],
        visit: Sequence[int],
    ) -> None:
        """`choices`: the nodes that each partition may choose from, best liked first, and their
        costs, 0 to keep what was."""
        super().__init__(
            vertices=len(choices) + nodes, first_node=len(choices), sources=list(visit)
        )
        self.need = [1] * len(choices)
        self.chosen = [-1] * len(choices)
        self._chosen_by: list[dict[int, None]] = [{} for _ in range(nodes)]
        self._costs = [
            dict(zip(nodes_, prices, strict=True))
            for nodes_, prices in zip(choices, costs, strict=True)
        ]

    def keep(self, limits: Sequence[int]) -> None:
        """Lets who had the seat keep it, at cost 0."""
        for p in self._sources:
            for node, cost in self._costs[p].items():
                if cost == 0 and self.load[node] < limits[node] and self.need[p]:
                    self.take([(p, self._first_node + node, p)])

    def arcs(self, vertex: int) -> Iterator[tuple[int, int, int]]:
        first_node = self._first_node
        if vertex < first_node:
            for node, cost in self._costs[vertex].items():
                if node != self.chosen[vertex]:
                    yield first_node + node, cost, vertex
        else:
            here = vertex - first_node
            for p in self._chosen_by[here]:
                costs = self._costs[p]
                saved = costs[here]
                for node, cost in costs.items():
                    if node != here:
                        yield first_node + node, cost - saved, p

    def shift(self, source: int, target: int, partition: int) -> None:
        if source >= self._first_node:
            del self._chosen_by[source - self._first_node][partition]
        node = target - self._first_node
        self._chosen_by[node][partition] = None
        self.chosen[partition] = node
