"""What one seed makes of a world of level 2: as in level 1 a *swarm*, each seed its own weather."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynagent.testing.level2.points import POINTS
from dynagent.testing.profile import Profile as Level1Profile
from dynagent.testing.world import World

# The weight of a kind of fault when it is on.
NEMESES = {
    "kill": 2.0,
    "power_cut": 2.0,
    "power_cut_all": 0.7,
    "clean_stop": 2.0,
    "stall": 2.0,
    "stall_one_way": 2.0,
    "stall_node": 1.5,
    "reset": 2.0,
    "half_open": 1.5,
    "slow_disk": 1.5,
    "pause": 1.0,
    "slow_reader": 1.5,
    "fsync_fails": 1.0,
    "disk_full": 1.0,
    "rot": 1.0,
    "clock_jump": 0.5,
}


@dataclass(slots=True, kw_only=True)
class Profile(Level1Profile):
    """The conditions of one run. Times in seconds, probabilities in 0..1."""

    cut: float = 0.0  # probability that a piece of a stream is cut in two, on the way or when read
    window_bytes: int = 65_536  # that a receiver takes before it has read
    turn_s: float = 0.0005  # the longest time between what wakes a turn and the turn
    refusals: float = 0.0  # probability that a connection is refused
    hostile: float = 0.0  # mean seconds between two frames of the hostile client; 0: it is absent
    timeout_s: float = 2.0  # of a client's request over all its attempts
    router: float = 0.3  # probability that a client knows no ring and asks any agent
    tasks: bool = False  # the clients are tasks that share one trio client
    cancels: float = 0.0  # probability that such a task is cancelled before it has its answer
    armed: dict[str, float] = field(default_factory=dict)  # failure point → strikes a run, about

    @property
    def longest_delay_s(self) -> float:
        """The most by which stalls prolong a request's life: one on each way."""
        return 2 * (STALL_S_MAX + self.tail_s + 1.5 * self.delay_s) + 0.1


STALL_S_MAX = 6.1  # longer than a connection may take to say Hello


def draw(world: World) -> Profile:
    """The profile of the world's seed."""
    dice = world.stream("profile")

    def maybe(chance: float, low: float, high: float) -> float:
        on, amount = dice.random() < chance, dice.uniform(low, high)
        return amount if on else 0.0

    profile = Profile(
        nodes=dice.choice((3, 3, 5)),
        keys=dice.choice((1, 1, 1, 2, 3)),  # gets and writes of one key are what is judged
        clients=dice.randint(2, 5),
        operations=dice.randint(60, 110),
        think_s=dice.choice((0.02, 0.1, 0.25)),
        writes=dice.uniform(0.4, 0.75),
        odd_quorum=maybe(0.5, 0.05, 0.4),
        delay_s=dice.choice((0.0003, 0.002, 0.01)),
        tail=maybe(0.5, 0.01, 0.2),
        tail_s=dice.uniform(0.05, 0.6),
        disk_s=dice.choice((0.0005, 0.002, 0.02, 0.1)),
        skew_ms=dice.choice((0, 0, 1_000, 3_600_000)),
        calm_s=dice.choice((0.15, 0.4, 1.0)),
        cut=maybe(0.7, 0.02, 0.6),
        window_bytes=dice.choice((300, 4_096, 65_536)),
        turn_s=dice.choice((0.0002, 0.001, 0.01)),
        refusals=maybe(0.3, 0.05, 0.4),
        hostile=maybe(0.6, 0.02, 0.3),
        timeout_s=dice.choice((0.6, 2.0, 4.0)),
        router=dice.choice((0.0, 0.3, 1.0)),
    )
    profile.sloppy = world.stream("sloppy profile").choice((0.0, 0.0, 0.3, 1.0))
    crowds = world.stream("crowds profile")
    if crowds.random() < 0.35:
        profile.siblings_max = crowds.choice((1, 2, 3, 5))
        profile.blind = crowds.choice((0.0, 0.4, 0.9))
    profile.repairs = world.stream("repairs profile").choice((0.0, 0.0, 0.3, 1.0))
    profile.probe_interval_s = world.stream("probes profile").choice((1.0, 3.0))
    repairs = world.stream("antientropy profile")
    if repairs.random() < 0.4:
        profile.antientropy_s = repairs.choice((0.3, 1.0, 3.0))
    for kind, weight in NEMESES.items():
        weight *= maybe(0.4, 0.3, 2.0)
        if weight:
            profile.nemeses[kind] = weight
    for point in dice.sample(sorted(POINTS), dice.randint(0, 6)):
        profile.armed[point] = dice.choice((1.0, 2.0))
    return profile
