"""What one seed makes of its world: size, traffic, and which faults are on (a *swarm*).

Uniform chaos finds few bugs: if everything always fails a little, nothing ever fails in the one
pattern that matters. So each seed switches some kinds of fault off and turns others up (Groce et
al., *Swarm testing*, 2012). The kinds that a *nemesis* (swarm.py) injects one at a time have a
weight; those that colour every message or client have a probability.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dynagent import limits
from dynagent.testing.world import World

# The weight of a kind when it is on. Power cuts and restarts come often enough that most seeds
# that have them see a node come back with a shorter memory several times.
NEMESES = {
    "kill": 3.0,
    "power_cut": 3.0,
    "power_cut_all": 1.0,
    "clean_stop": 2.0,
    "cut_pair": 2.0,
    "cut_one_way": 2.0,
    "cut_node": 2.0,
    "cut_halves": 1.0,
    "slow_disk": 2.0,
    "clock_jump": 0.5,
    "rot": 2.0,
}

CHANGING = 0.4  # share of seeds in which operators change the ring
HANG_S_MAX = 10.4  # see hangs.py
UP_AGAIN_S = 10.0


@dataclass(slots=True, kw_only=True)
class Profile:
    """The conditions of one run. Times in seconds, probabilities in 0..1."""

    nodes: int = 3
    keys: int = 2
    clients: int = 4
    operations: int = 80  # after which the first phase ends
    think_s: float = 0.1
    budget_ms: int = 800
    patience: float = 1.1  # × budget until a client tries again; below 1 is a retry storm
    writes: float = 0.6
    odd_quorum: float = 0.1  # probability of an r or w other than the default
    delay_s: float = 0.002
    tail: float = 0.0  # probability of a message that takes up to `tail_s`
    tail_s: float = 0.3
    is_ordered: bool = True  # messages of one connection and direction stay in order
    loss: float = 0.0
    duplication: float = 0.0
    disk_s: float = 0.002
    gather_s: float = 0.0
    power_cut_at_ack: float = 0.0  # probability for each MergeAck and PutReply
    skew_ms: int = 0  # wall clocks are off by up to that much
    calm_s: float = 0.8  # mean time between two nemeses
    nemeses: dict[str, float] = field(default_factory=dict)
    fills_s: float = 0.0  # mean time between two times that a disk is full; 0: never
    sloppy: float = 0.0  # share of operations that are not strict
    lists_s: float = 0.0  # mean time between two listings of all keys; 0: never
    hangs_s: float = 0.0  # mean time between two nodes that hang (hangs.py); 0: never
    probe_interval_s: float = 1.0
    siblings_max: int = limits.SIBLINGS_DEFAULT_MAX
    blind: float = 0.0  # share of writes that become blind puts
    repairs: float = 0.0  # share of gets that repair before they answer
    nodes_per_machine: int = 1  # more: they share a host, and lose their power together
    shapes_s: float = 0.0  # mean time between two partitions of shapes.py; 0: never
    hint_bytes_max: int = limits.HINT_BYTES_DEFAULT_MAX
    owner_hints_max: int = limits.OWNER_HINTS_DEFAULT_MAX
    tombstone_rest_s: float = 0.0  # until a tombstone may be purged; 0: never
    antientropy_s: float = 0.0  # between two rounds; 0: none, a repair at the end
    jobs_s: float = 0.0  # mean time between two jobs; 0: none but those at the end
    loses: bool = False  # at the end a node loses the records of a partition
    scrub_interval_s: float = 0.0  # of a pass; 0: only at the end
    lost_rows: int = 0  # at the end: rows that vanish or move elsewhere, of distinct keys
    deletes: float = 0.0  # share of writes that become deletes
    held: float = 0.0  # probability of a Merge that arrives once more, much later
    weeks_s: float = 0.0  # mean time between two nodes that are away for weeks; 0: never
    pauses_s: float = 0.0  # mean time between two nodes whose hints an operator pauses; 0: never
    changes_s: float = 0.0  # mean time between two things an operator does to the ring; 0: none
    operators: int = 1
    spares: int = 0  # agents that belong to nothing at first
    is_quiet: bool = False  # nothing goes wrong: no request may fail because the ring changes

    @property
    def longest_delay_s(self) -> float:
        """The most by which the network and a router on the way prolong a request's life."""
        # A request to a stopped process waits, and then has all of its budget.
        hang_s = 2 * HANG_S_MAX if self.hangs_s else 0.0
        return 2 * (1.5 * self.delay_s + self.tail_s) + hang_s + 0.1


def draw(world: World) -> Profile:
    """The profile of the world's seed."""
    dice = world.stream("profile")

    def maybe(chance: float, low: float, high: float, off: float = 0.0) -> float:
        on, amount = dice.random() < chance, dice.uniform(low, high)
        return amount if on else off

    profile = Profile(
        nodes=dice.choice((3, 3, 5)),
        keys=dice.choice((1, 2, 2, 3)),
        clients=dice.randint(2, 5),
        operations=dice.randint(66, 100),
        think_s=dice.choice((0.02, 0.1, 0.25)),
        budget_ms=dice.choice((300, 800, 1500)),
        patience=maybe(0.35, 0.05, 0.6, off=1.1),
        writes=dice.uniform(0.4, 0.75),
        odd_quorum=maybe(0.5, 0.05, 0.4),
        delay_s=dice.choice((0.0005, 0.002, 0.01)),
        tail=maybe(0.5, 0.01, 0.2),
        tail_s=dice.uniform(0.05, 0.6),
        is_ordered=dice.random() < 0.5,
        loss=maybe(0.35, 0.005, 0.12),
        duplication=maybe(0.5, 0.02, 0.25),
        disk_s=dice.choice((0.0005, 0.002, 0.02, 0.1)),
        gather_s=dice.choice((0.0, 0.0, 0.003)),
        power_cut_at_ack=maybe(0.4, 0.01, 0.08),
        skew_ms=dice.choice((0, 0, 1_000, 3_600_000)),
        calm_s=dice.choice((0.15, 0.4, 1.0)),
    )
    # From its own stream: a new kind of fault must not reshuffle every known seed.
    fills = world.stream("full disk profile")
    if fills.random() < 0.2:
        profile.fills_s = fills.choice((0.3, 1.0, 3.0))
    profile.lists_s = world.stream("listings profile").choice((0.2, 0.5, 1.5))
    profile.sloppy = world.stream("sloppy profile").choice((0.0, 0.0, 0.3, 1.0))
    hangs = world.stream("hangs profile")
    profile.probe_interval_s = hangs.choice((1.0, 2.0, 3.0))
    if hangs.random() < 0.4:
        profile.hangs_s = hangs.choice((0.3, 1.0, 3.0))
    crowds = world.stream("crowds profile")
    if crowds.random() < 0.35:
        profile.siblings_max = crowds.choice((1, 2, 3, 5))
        profile.blind = crowds.choice((0.0, 0.4, 0.9))
    profile.repairs = world.stream("repairs profile").choice((0.0, 0.0, 0.3, 1.0))
    machines = world.stream("machines profile")
    if machines.random() < 0.15:
        profile.nodes, profile.nodes_per_machine = 6, 2
        profile.sloppy = machines.choice((0.3, 1.0, 1.0))  # only stand-ins can share a machine
    shapes = world.stream("shapes profile")
    if shapes.random() < 0.25:
        profile.shapes_s = shapes.choice((0.5, 1.5, 3.0))
    bounds = world.stream("bounds profile")
    if bounds.random() < 0.4:  # room for one or two copies: a sibling is 90 bytes
        profile.hint_bytes_max = bounds.choice((0, 150, 300))
    if bounds.random() < 0.4:
        profile.owner_hints_max = bounds.choice((0, 0, 1, 2))
    repairs = world.stream("antientropy profile")
    if repairs.random() < 0.3:
        profile.antientropy_s = repairs.choice((0.3, 1.0, 3.0))
    if repairs.random() < 0.25:
        profile.jobs_s = repairs.choice((0.5, 2.0, 5.0))
    profile.loses = repairs.random() < 0.8
    rows = world.stream("rows profile")
    profile.scrub_interval_s = rows.choice((0.0, 0.0, 4.0, 20.0))
    profile.lost_rows = rows.choice((0, 0, 1, 2))
    purges = world.stream("purges profile")
    if purges.random() < 0.3:
        # Tombstones must have time to become old: more keys, and fewer writes to each.
        profile.tombstone_rest_s = purges.choice((0.05, 0.2, 0.6))
        profile.keys = purges.randint(2, 6)
        profile.think_s = purges.choice((0.1, 0.25, 0.5))
        profile.deletes = purges.choice((0.3, 0.6))
        profile.held = purges.choice((0.0, 0.05, 0.3))
        profile.pauses_s = purges.choice((0.0, 0.5, 2.0))
        if profile.pauses_s:  # there must be stand-ins whose hints become old
            profile.sloppy, profile.nodes = 1.0, max(5, profile.nodes)
        if not profile.hangs_s:
            profile.weeks_s = purges.choice((0.0, 1.0, 4.0))
    rings = world.stream("changes profile")
    if rings.random() < CHANGING:
        profile.changes_s = rings.choice((0.3, 1.0, 2.5))
        profile.operators = rings.choice((1, 1, 2))
        profile.spares = rings.choice((1, 2, 3))
        profile.is_quiet = rings.random() < 0.2
        if profile.nodes_per_machine == 1:
            profile.nodes = rings.choice((3, 3, 4, 5))
        if profile.is_quiet:
            return _quiet(profile)
    for kind, weight in NEMESES.items():
        weight *= maybe(0.5, 0.3, 2.0)
        if weight:
            profile.nemeses[kind] = weight
    return profile


def _quiet(profile: Profile) -> Profile:
    """The same traffic and the same operators, and nothing that goes wrong: what is refused, or
    comes too late, is so because the ring changes."""
    return Profile(
        nodes=profile.nodes,
        keys=profile.keys,
        clients=profile.clients,
        operations=profile.operations,
        think_s=profile.think_s,
        budget_ms=1_500,
        writes=profile.writes,
        delay_s=profile.delay_s,
        is_ordered=profile.is_ordered,
        disk_s=min(profile.disk_s, 0.02),
        gather_s=profile.gather_s,
        lists_s=profile.lists_s,
        repairs=profile.repairs,
        antientropy_s=profile.antientropy_s,
        changes_s=profile.changes_s,
        operators=profile.operators,
        spares=profile.spares,
        is_quiet=True,
    )
