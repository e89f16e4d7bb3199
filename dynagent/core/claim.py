"""claim.plan: which nodes own which partition (Dynamo §6.2, strategy 3, and §4.3).

Dynamo's third strategy cuts the ring into Q equal partitions and gives each node Q/S of them. The
paper leaves open how. Here a plan is the exact optimum of four wishes, in this order:

1. *Rules.* Every list names N distinct nodes on distinct hosts, in as many zones as there can be
   (`claim_rules`). Where that is impossible there is no plan, but an error that says why.
2. *Balance.* A node has a fair share t of the N·Q places: weighted max-min by capacity, under the
   limits of its host and zone. It gets ⌊t⌋ or ⌈t⌉ places, never anything else.
3. *Least movement.* Among all such placements it is one with the fewest places that are new to
   their holder: each of them is a partition that has to be copied.
4. *Order.* Each seat of the lists is balanced as well: of its q places a node has the first in
   ⌊q/N⌋ or ⌈q/N⌉, so that coordinating is spread as evenly as storing; then the second (who steps
   in when the first is down), and so on. As few as possible change their first.

**Why balance can always be had.** Give each partition the fraction t(n)/Q of node n. That is a flow
in the network partition → zone → host → node → sink, within all limits and within ⌊t⌋..⌈t⌉ at each
node. All limits are whole numbers, so a flow in whole numbers exists too, and that is a placement.
The same argument, with q/N for t, holds for the seats.

**How.** A min-cost flow (`claim_flow`): cost 0 for a kept place and 1 for a new one. It starts from
all that can be kept, fills every node to its floor, and then the rest to the ceilings.

**Proof.** The flow leaves a potential at each vertex: the plan's certificate. A placement with the
given balance can be turned into any other along cycles of the residual graph; if no arc v → w of
that graph has cost + potential(v) − potential(w) < 0, no cycle has a negative cost, and nothing
moves less. `certify` checks every arc with its own few lines and does not need to know how the
plan was found. (The simple count Σ max(0, ⌊t⌋ − places held) is printed beside it: it is a lower
bound that can often, not always, be reached: in one change of twenty it cannot.)

**Spread.** Many placements are optimal. Where the flow starts depends on the order in which
partitions are served and in which each likes its nodes; both are drawn from a hash of the member
list. From what it finds, `claim_spread` walks on to other optimal placements until no two nodes
share many more partitions than others do: else one partner would take over all work of a dead node.

Example: Q=8, N=3 and nodes a, b, c, d of capacity 1 give t = 24/4 = 6 places for each. When e
joins, t = 4.8: each may have 4 or 5. The fewest that can move are 4, one from each of the four to
e, which leaves 5, 5, 5, 5 and 4; nothing moves between a, b, c and d.

All of this is a pure function of its arguments: no clock, no dice, and no iteration over a set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b

from dynagent.core.claim_networks import Places, Seats
from dynagent.core.claim_rules import Rules, fault, rules
from dynagent.core.claim_spread import spread
from dynagent.core.ports import NodeId
from dynagent.core.ring import Member
from dynagent.errors import BadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A potential for each vertex of the flow network. Only differences matter."""

    partitions: tuple[int, ...]
    zones: tuple[tuple[int, ...], ...]  # of each partition: its zones, in the order of their names
    nodes: tuple[int, ...]  # in the order of their ids, those with capacity
    sink: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A placement, what it costs to get there, and the proof that nothing is cheaper."""

    lists: tuple[tuple[NodeId, ...], ...]  # N owners of each partition, in order of preference
    moved: int  # places that are new to their holder
    bound: int  # the simple lower bound of `moved`: Σ max(0, ⌊t⌋ − places held)
    first_moved: int  # partitions whose first owner changes
    shares: dict[NodeId, Fraction]  # t: the fair number of places, of each node with capacity
    certificate: Certificate


def plan(
    *,
    members: Sequence[Member],
    partitions: int,
    n: int,
    old: Sequence[tuple[NodeId, ...]] = (),
    allow_colocated: bool = False,
) -> Plan:
    """The best placement of `partitions` × `n` places on `members`, coming from `old`.

    `old` is empty (bootstrap) or has a list for each partition; it may name nodes that are gone
    and be of another n. `partitions` and `n` are ≥ 1; what a ring allows of them is the ring's own
    check. With `allow_colocated`, copies may share a host where hosts are too few.

    Raises `PlanInfeasible` if the rules cannot be kept, `BadRequest` if `old` is of another Q.
    """
    if old and len(old) != partitions:
        raise BadRequest(f"{len(old)} old lists for {partitions} partitions")
    terms = rules(members, partitions=partitions, n=n, allow_colocated=allow_colocated)
    before = _numbered(old, terms, partitions)
    visit, likes = _salted(terms.nodes, partitions)
    places = Places(rules=terms, n=n, old=before, visit=visit, likes=likes)
    places.keep(terms.low)
    places.fill(terms.low)
    places.fill(terms.high)
    held = [list(nodes) for nodes in places.held]
    spread(held, rules=terms, old=before, visit=visit)
    owners = [[node for node in liked if node in held[p]] for p, liked in enumerate(likes)]
    seated = _seat(owners, n=n, nodes=len(terms.nodes), old=before, visit=visit)
    lists = tuple(tuple(terms.nodes[node] for node in seats) for seats in seated)
    moved, bound, first_moved = _movement(lists, old, terms)
    base, zones = places.potential, len(terms.zone_max)
    middle = partitions * (1 + zones)
    return Plan(
        lists=lists,
        moved=moved,
        bound=bound,
        first_moved=first_moved,
        shares=dict(zip(terms.nodes, terms.shares, strict=True)),
        certificate=Certificate(
            partitions=tuple(base[:partitions]),
            zones=tuple(tuple(base[at : at + zones]) for at in range(partitions, middle, zones)),
            nodes=tuple(base[middle:]),
            sink=places.sink_potential,
        ),
    )


def certify(
    plan: Plan,
    *,
    members: Sequence[Member],
    partitions: int,
    n: int,
    old: Sequence[tuple[NodeId, ...]],
    allow_colocated: bool = False,
) -> None:
    """Proves that `plan` keeps the rules, is balanced, and that no such placement moves less.

    Looks only at the lists and the potentials, not at how they came about. The arguments are those
    of `plan`. Raises `ValueError`, naming the rule or the arc that is violated.
    """
    terms = rules(members, partitions=partitions, n=n, allow_colocated=allow_colocated)
    _check_rules(plan, terms, partitions=partitions, n=n)
    moved = _movement(plan.lists, old, terms)
    if moved != (plan.moved, plan.bound, plan.first_moved):
        raise ValueError(f"moved, bound and first moved are {moved}, not as the plan says")
    proof, zones = plan.certificate, len(terms.zone_max)
    if (len(proof.partitions), len(proof.zones), len(proof.nodes)) != (
        partitions,
        partitions,
        len(terms.nodes),
    ) or any(len(row) != zones for row in proof.zones):
        raise ValueError("the certificate is for another network")
    _check_arcs(plan, terms, _numbered(old, terms, partitions))


def _numbered(
    lists: Sequence[tuple[NodeId, ...]], terms: Rules, partitions: int
) -> list[tuple[int, ...]]:
    """Lists of node numbers; −1 holds the seat of a node that has no place any more."""
    number = {node: i for i, node in enumerate(terms.nodes)}
    return [
        tuple(number.get(node, -1) for node in (lists[p] if lists else ()))
        for p in range(partitions)
    ]


def _salted(nodes: Sequence[NodeId], partitions: int) -> tuple[list[int], list[list[int]]]:
    """The order in which partitions are served, and the order in which each likes the nodes."""
    salt = blake2b("\n".join(nodes).encode(), digest_size=16).digest()

    def draw(thing: str) -> int:
        return int.from_bytes(blake2b(thing.encode(), key=salt, digest_size=8).digest(), "big")

    ranks = [draw(f"node {node}") for node in nodes]
    mixers = [draw(f"partition {p}") | 1 for p in range(partitions)]
    visit = sorted(range(partitions), key=mixers.__getitem__)
    # An odd factor permutes the 64-bit numbers: a shuffle for each partition without Q·S hashes.
    mask = (1 << 64) - 1
    likes = []
    for mixer in mixers:
        mixed = [rank * mixer & mask for rank in ranks]
        likes.append(sorted(range(len(nodes)), key=mixed.__getitem__))
    return visit, likes


def _seat(
    owners: Sequence[Sequence[int]],
    *,
    n: int,
    nodes: int,
    old: Sequence[tuple[int, ...]],
    visit: Sequence[int],
) -> list[list[int]]:
    """Puts the owners of each partition in order: one balanced choice after the other."""
    left = [list(choices) for choices in owners]
    seated: list[list[int]] = [[] for _ in owners]
    for seat in range(n):
        places = [0] * nodes
        for choices in left:
            for node in choices:
                places[node] += 1
        flow = Seats(
            nodes=nodes,
            choices=left,
            costs=[
                [0 if node in was[seat : seat + 1] else 1 for node in choices]
                for choices, was in zip(left, old, strict=True)
            ],
            visit=visit,
        )
        low = [count // (n - seat) for count in places]
        flow.keep(low)
        flow.fill(low)
        flow.fill([-(-count // (n - seat)) for count in places])
        for choices, order, node in zip(left, seated, flow.chosen, strict=True):
            choices.remove(node)
            order.append(node)
    return seated


def _movement(
    lists: Sequence[tuple[NodeId, ...]], old: Sequence[tuple[NodeId, ...]], terms: Rules
) -> tuple[int, int, int]:
    """Places that are new to their holder, the simple bound of that, and firsts that change."""
    before: Sequence[tuple[NodeId, ...]] = old or [()] * len(lists)
    held = dict.fromkeys(terms.nodes, 0)
    for was in before:
        for node in was:
            if node in held:
                held[node] += 1
    pairs = list(zip(lists, before, strict=True))
    return (
        sum(node not in was for owners, was in pairs for node in owners),
        sum(max(0, low - held[node]) for node, low in zip(terms.nodes, terms.low, strict=True)),
        sum(owners[:1] != was[:1] for owners, was in pairs),
    )


def _check_rules(plan: Plan, terms: Rules, *, partitions: int, n: int) -> None:
    number = {node: i for i, node in enumerate(terms.nodes)}
    if len(plan.lists) != partitions or plan.shares != dict(
        zip(terms.nodes, terms.shares, strict=True)
    ):
        raise ValueError("the plan is for another Q or other shares")
    load, first = [0] * len(number), [0] * len(number)
    for p, owners in enumerate(plan.lists):
        if len(set(owners)) != n or len(owners) != n or any(node not in number for node in owners):
            raise ValueError(f"partition {p} has not {n} distinct nodes with capacity: {owners}")
        if why := fault(terms, [number[node] for node in owners]):
            raise ValueError(f"partition {p} {why}: {owners}")
        first[number[owners[0]]] += 1
        for node in owners:
            load[number[node]] += 1
    for node, share in plan.shares.items():
        here = load[number[node]]
        if abs(here - share) >= 1:
            raise ValueError(f"{node} has {here} places, its fair share is {share}")
        if abs(n * first[number[node]] - here) >= n:
            raise ValueError(f"{node} is first of {first[number[node]]} of {here} places, N={n}")


def _check_arcs(plan: Plan, terms: Rules, old: Sequence[tuple[int, ...]]) -> None:
    """Every arc of the residual graph has a reduced cost ≥ 0."""
    potential = plan.certificate
    number = {node: i for i, node in enumerate(terms.nodes)}
    load = [0] * len(number)

    def arc(name: str, tail: int, cost: int, head: int) -> None:
        if cost + tail - head < 0:
            raise ValueError(f"not optimal: arc {name} has reduced cost {cost + tail - head}")

    for p, owners in enumerate(plan.lists):
        held = [number[node] for node in owners]
        hosts = [terms.host[node] for node in held]
        zones = [terms.zone[node] for node in held]
        for zone, at in enumerate(potential.zones[p]):
            if zones.count(zone) < terms.zone_max[zone]:
                arc(f"partition {p} → its zone {zone}", potential.partitions[p], 0, at)
            if zones.count(zone) > terms.zone_min[zone]:
                arc(f"partition {p} ← its zone {zone}", at, 0, potential.partitions[p])
        price = [0 if node in old[p] else 1 for node in range(len(number))]
        for node in held:
            load[node] += 1
            back = potential.zones[p][terms.zone[node]]
            arc(f"partition {p} ← {terms.nodes[node]}", potential.nodes[node], -price[node], back)
        for node in range(len(number)):
            if node in held:
                continue
            name, head = terms.nodes[node], potential.nodes[node]
            if hosts.count(terms.host[node]) < terms.host_max[terms.host[node]]:
                arc(
                    f"partition {p} → {name}",
                    potential.zones[p][terms.zone[node]],
                    price[node],
                    head,
                )
            for other in held:
                if terms.host[other] == terms.host[node]:
                    swap = price[node] - price[other]
                    arc(
                        f"partition {p}: {terms.nodes[other]} → {name}",
                        potential.nodes[other],
                        swap,
                        head,
                    )
    for node, (low, high) in enumerate(zip(terms.low, terms.high, strict=True)):
        if load[node] < high:
            arc(f"{terms.nodes[node]} → sink", potential.nodes[node], 0, potential.sink)
        if load[node] > low:
            arc(f"{terms.nodes[node]} ← sink", potential.sink, 0, potential.nodes[node])
