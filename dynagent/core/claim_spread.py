"""Spreads company: no two nodes of a placement shall share many more partitions than others do.

When a node dies, the nodes that it shares partitions with serve its share and copy it anew. If one
partner has most of its partitions, that one carries the load alone, and the death of those two
leaves many partitions with one copy. Two nodes of t and u places may expect to share
e = t·u·(N−1) / (N·Q − (T+U)/2) of them. T and U are the places of all that cannot be in a list with
the one and with the other: itself, and its host or zone. (S equal nodes: Q·N·(N−1) / (S·(S−1)).)

**Exchanges.** Of all the placements that are balanced and move as little as can be, the flow
(`claim_flow`) finds one. `spread` walks from it to others of them, step by step. One step:

    in partition q, node a takes the place of e;      in partition p, node d takes the place of a.

Mostly d is e, and all loads stay; else e must have a place above its floor, and d one below its
ceiling. Both lists must keep the rules, and the places that are new to their holder must not become
more. So what is optimal stays so, and the potentials that prove it prove the result as well.

**Which.** A place is crowded if its node shares more than one and a half times the expected with a
partner (one is always allowed). Each crowded place (q, e) is offered to nodes that take a place
(p, a) new to them anyway: after a single join, those are the places of the joiner, and a step says
"take this one from e instead". A place that is new itself may also be given back to who had it, for
another one anywhere. A step is taken if it lowers the sum of squares of what the pairs share. That
sum is a whole number and falls with each step, so the walk ends; the search is bounded besides.

**What comes of it.** Growing from 3 to 103 nodes one by one with Q=1024, two nodes may expect to
share 0.58 partitions at the end. Without these steps some two share 5; with them, none share 2. At
each size on the way no two share more than 3 times the expected (docs/placement.md).
"""

from collections import Counter, deque
from collections.abc import Sequence

from dynagent.core.claim_rules import Rules

_ROUNDS = 4  # through all crowded places; nearly all steps are found in the first two
_TRIES = 100  # new places that a crowded one is offered for; a single join has fewer at most sizes
# Exchanges looked at in one plan. With 120,000 the pairs became no more even (3 to 103 nodes, Q of
# 128 to 1,024); with 200,000 a plan took seconds where capacities and zones are mixed.
_LOOKS = 80_000
_LOOKS_PER_PARTITION = 200  # if that is less


def spread(
    held: list[list[int]], *, rules: Rules, old: Sequence[Sequence[int]], visit: Sequence[int]
) -> None:
    """Exchanges places in `held`, the node numbers that hold each partition.

    `old`: who held them before. `visit`: the order in which partitions are looked at.
    """
    if len(held[0]) == 1:
        return  # N=1: nobody shares anything
    walk = _Walk(held, rules, old, visit)
    for _ in range(_ROUNDS):
        crowded = [(q, node) for q in visit for node in held[q] if walk.excess(q, node) > 0]
        crowded.sort(key=lambda place: -walk.excess(*place))  # the worst first
        if not sum(walk.relieve(q, node) for q, node in crowded):
            return


class _Walk:
    def __init__(
        self,
        held: list[list[int]],
        rules: Rules,
        old: Sequence[Sequence[int]],
        visit: Sequence[int],
    ) -> None:
        nodes = range(len(rules.nodes))
        self._held, self._rules, self._old = held, rules, old
        self._visit = visit
        self._looks = min(_LOOKS, _LOOKS_PER_PARTITION * len(held))
        self._low, self._high = rules.low, rules.high
        self._load = [0] * len(nodes)
        self._shared = [[0] * len(nodes) for _ in nodes]
        for owners in held:
            for node in owners:
                self._load[node] += 1
                for other in owners:
                    self._shared[node][other] += node != other
        self._allowed = _allowed(self._load, rules, n=len(held[0]))
        # May name places that are not new any more: they are dropped when their turn comes.
        self._new = deque((p, node) for p in visit for node in held[p] if node not in old[p])

    def excess(self, q: int, node: int) -> int:
        """By how much a place is crowded: the worst of its pairs, over what is allowed."""
        shared, allowed = self._shared[node], self._allowed[node]
        return max(
            (shared[other] - allowed[other] for other in self._held[q] if other != node), default=0
        )

    def relieve(self, q: int, node: int) -> bool:
        """Gives a crowded place away, if there is a step down; whether there was."""
        if self._looks <= 0 or node not in self._held[q] or self.excess(q, node) <= 0:
            return False  # the time is up, or a step before this one has done it
        return self._offer(q, node) or (node not in self._old[q] and self._give_back(q, node))

    def _offer(self, q: int, e: int) -> bool:
        """Offers the place to those who take a new one anyway, in exchange for that."""
        for _ in range(min(_TRIES, len(self._new))):
            p, a = self._new.popleft()
            if a in self._held[p] and a not in self._old[p]:
                self._new.append((p, a))
                if any(self._step(q, e, p, a, d) for d in (e, *self._old[p])):
                    return True
        return False

    def _give_back(self, p: int, a: int) -> bool:
        """Gives a new place back to who had it, and takes another one instead."""
        former = [d for d in self._old[p] if d >= 0 and d not in self._held[p]]
        for q in self._visit:
            if a not in self._held[q]:
                for e in tuple(self._held[q]):
                    if any(self._step(q, e, p, a, d) for d in former):
                        return True
        return False

    def _step(self, q: int, e: int, p: int, a: int, d: int) -> bool:
        """In q, a takes the place of e, in p, d that of a: if that is allowed and a step down."""
        self._looks -= 1
        if self._looks < 0 or p == q or d < 0:
            return False
        if d != e and (self._load[e] == self._low[e] or self._load[d] == self._high[d]):
            return False
        was, of = self._old[q], self._old[p]
        if (a not in was) + (d not in of) != (e not in was) + (a not in of):
            return False
        if not (self._fits(q, e, a) and self._fits(p, a, d)):
            return False
        if self._replace(q, e, a) + self._replace(p, a, d) < 0:
            self._new.extend(((q, a), (p, d)))
            return True
        self._replace(p, d, a)
        self._replace(q, a, e)
        return False

    def _fits(self, p: int, leaver: int, taker: int) -> bool:
        """Whether the list of `p` keeps the rules when one takes the place of the other."""
        rules, owners = self._rules, self._held[p]
        if taker in owners:
            return False
        rest = [node for node in owners if node != leaver]
        host = rules.host[taker]
        if sum(rules.host[node] == host for node in rest) >= rules.host_max[host]:
            return False
        source, target = rules.zone[leaver], rules.zone[taker]
        if source == target:
            return True
        zones = [rules.zone[node] for node in rest]
        return (
            zones.count(target) < rules.zone_max[target]
            and zones.count(source) >= rules.zone_min[source]
        )

    def _replace(self, p: int, leaver: int, taker: int) -> int:
        """Returns by how much the sum of squares has grown."""
        owners, shared = self._held[p], self._shared
        owners.remove(leaver)
        grown = 0
        for other in owners:
            grown += 2 * (shared[taker][other] - shared[leaver][other] + 1)
            shared[leaver][other] -= 1
            shared[other][leaver] -= 1
            shared[taker][other] += 1
            shared[other][taker] += 1
        owners.append(taker)
        self._load[leaver] -= 1
        self._load[taker] += 1
        return grown


def _allowed(loads: Sequence[int], rules: Rules, *, n: int) -> list[list[int]]:
    """One and a half times what each two nodes may expect to share, and at least one."""
    apart = Counter[tuple[str, int]]()  # places of a group of which a list has at most one
    groups = []
    for node, load in enumerate(loads):
        host, zone = rules.host[node], rules.zone[node]
        if rules.zone_max[zone] == 1:
            groups.append(("zone", zone))
        else:
            groups.append(("host", host) if rules.host_max[host] == 1 else ("node", node))
        apart[groups[-1]] += load
    whole = [(load, apart[group]) for load, group in zip(loads, groups, strict=True)]
    twice = 2 * sum(loads)
    return [
        [max(1, 3 * (n - 1) * t * u // (twice - group - other)) for u, other in whole]
        for t, group in whole
    ]
