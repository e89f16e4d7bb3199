"""The min-cost flow behind `claim.plan`: the engine. Its networks are in `claim_networks`.

`Flow` sends units from sources to nodes along the cheapest ways there are. It is the primal-dual
method: a shortest-path search gives every vertex a potential (its distance from the sources), and
then all units that can go along arcs of reduced cost 0 go at once, level by level as in Dinic's
algorithm. Costs are tiny integers, so the search needs buckets (Dial) and no heap.

The invariant that makes the result optimal: every arc v → w of the residual graph has
cost + potential[v] − potential[w] ≥ 0. `claim.certify` checks just that, on its own.

`fill` is called twice. First each node takes up to its floor, then up to its ceiling, and what lies
in a node is never taken out again. So the floors are reached without arcs of negative cost; the
sink has a potential of its own, raised from search to search (a first draft without it moved 515
places where 500 are enough).
"""

from collections.abc import Iterator, Sequence

_FAR = 1 << 60

# From vertex, to vertex, the partition whose place changes hands.
Arc = tuple[int, int, int]


class Flow:
    """The engine. A network adds `arcs` (the residual graph) and `shift` (send one unit).

    Vertices are numbers; those from `first_node` on are nodes, from which a unit reaches the sink.
    """

    def __init__(self, *, vertices: int, first_node: int, sources: Sequence[int]) -> None:
        self.potential = [0] * vertices
        self.sink_potential = 0
        self.need = [0] * first_node  # units that a source has still to send
        self.load = [0] * (vertices - first_node)  # units that a node has taken
        self._first_node = first_node
        self._sources = sources  # in the order in which they are served

    def arcs(self, vertex: int) -> Iterator[tuple[int, int, int]]:
        """The residual arcs out of a vertex: (to, cost, partition), best liked first."""
        raise NotImplementedError

    def shift(self, source: int, target: int, partition: int) -> None:
        """One unit crosses an arc."""
        raise NotImplementedError

    def fill(self, limits: Sequence[int]) -> None:
        """Sends units at least cost until nothing is left or every node is at its limit."""
        while any(self.need):
            open_to_sink = [
                self.potential[node]
                for node in range(self._first_node, len(self.potential))
                if self.load[node - self._first_node] < limits[node - self._first_node]
            ]
            if not open_to_sink:
                return
            self.sink_potential = min(open_to_sink)
            self._raise_potentials(limits)
            while (levels := self._levels(limits)) is not None:
                self._send_all(levels, limits)

    def take(self, path: Sequence[Arc]) -> None:
        """One unit goes from the source at the path's start into the node at its end."""
        self.need[path[0][0]] -= 1
        self.load[path[-1][1] - self._first_node] += 1
        for source, target, partition in path:
            self.shift(source, target, partition)

    def _raise_potentials(self, limits: Sequence[int]) -> None:
        """Adds the shortest distances by reduced cost, as far as the sink is."""
        potential, first_node = self.potential, self._first_node
        buckets: list[list[int]] = [[v for v in self._sources if self.need[v]]]
        distance = [_FAR] * len(potential)
        for vertex in buckets[0]:
            distance[vertex] = 0
        nearest = _FAR  # distance of the sink
        here = 0
        while here < nearest and here < len(buckets):
            bucket = buckets[here]
            for vertex in bucket:  # grows while we go through it
                if distance[vertex] != here:
                    continue  # found again at a shorter distance
                base = here + potential[vertex]
                node = vertex - first_node
                if node >= 0 and self.load[node] < limits[node]:
                    nearest = min(nearest, base - self.sink_potential)
                for target, cost, _ in self.arcs(vertex):
                    reached = base + cost - potential[target]
                    if reached < distance[target]:
                        distance[target] = reached
                        while len(buckets) <= reached:
                            buckets.append([])
                        buckets[reached].append(target)
            here += 1
        # The rules leave room for all units (see the essay in claim): the sink can be reached.
        assert nearest < _FAR
        self.potential = [p + min(d, nearest) for p, d in zip(potential, distance, strict=True)]
        self.sink_potential += nearest

    def _levels(self, limits: Sequence[int]) -> list[int] | None:
        """Steps from the sources along arcs of reduced cost 0; None if no open node is reached."""
        potential = self.potential
        levels = [-1] * len(potential)
        front = [v for v in self._sources if self.need[v]]
        for vertex in front:
            levels[vertex] = 0
        reached = False
        step = 0
        while front and not reached:
            step += 1
            behind, front = front, []
            for vertex in behind:
                here = potential[vertex]
                reached = reached or self._is_open(vertex, limits)
                for target, cost, _ in self.arcs(vertex):
                    if levels[target] < 0 and here + cost == potential[target]:
                        levels[target] = step
                        front.append(target)
        return levels if reached else None

    def _send_all(self, levels: Sequence[int], limits: Sequence[int]) -> None:
        """Sends units that rise one level with every arc, until none is left that can."""
        dead = bytearray(len(levels))
        for source in self._sources:
            while (
                self.need[source]
                and levels[source] == 0
                and (path := self._path(source, levels, limits, dead)) is not None
            ):
                self.take(path)

    def _path(
        self, source: int, levels: Sequence[int], limits: Sequence[int], dead: bytearray
    ) -> list[Arc] | None:
        """A way from `source` to an open node, by depth-first search; marks dead ends."""
        potential = self.potential
        path: list[Arc] = []
        vertex = source
        pending = [self.arcs(vertex)]
        while not self._is_open(vertex, limits):
            here, level = potential[vertex], levels[vertex] + 1
            for target, cost, partition in pending[-1]:
                if (
                    levels[target] == level
                    and not dead[target]
                    and here + cost == potential[target]
                ):
                    path.append((vertex, target, partition))
                    pending.append(self.arcs(target))
                    vertex = target
                    break
            else:
                dead[vertex] = 1
                pending.pop()
                if not path:
                    return None
                vertex = path.pop()[0]
        return path

    def _is_open(self, vertex: int, limits: Sequence[int]) -> bool:
        """Whether a unit at this vertex may drop into the sink at reduced cost 0."""
        node = vertex - self._first_node
        return (
            node >= 0
            and self.load[node] < limits[node]
            and self.potential[vertex] == self.sink_potential
        )
