"""Failure points: before and after each durable step, by name, and what strikes there.

Uniform kills find no durability bug, because the dangerous instants are short (design §10). So each
step that must be ordered with another one is a point that the world counts; a seed arms a few of
them, and then a process is killed, or the power cut, exactly there.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from dynagent.testing.level2.disk import Gone
from dynagent.testing.world import Stream, World

# Point → how often a run passes it, about: an armed point strikes once or twice in a run.
POINTS = {
    "submit.before": 80,
    "submit.after": 80,
    "write.before": 130,
    "write.after": 130,
    "fsync.before": 150,
    "fsync.after": 150,
    "identity.before": 60,
    "identity.after": 60,
    "start.before": 25,
    "start.after": 25,
    "adoption.before": 8,
    "adoption.after": 8,
    "ack.before": 80,
    "ack.after": 80,
}
STRIKES = ("kill", "power_cut", "power_cut_all")


class Victim(Protocol):
    """A host, as a strike sees it."""

    place: str

    def die(self, *, power: bool) -> None: ...


class Points:
    """Counts the points that are passed, and strikes at those that the seed has armed."""

    def __init__(self, world: World, armed: dict[str, float]) -> None:
        self.passed: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.victims: list[Victim] = []
        self.is_over = False
        self._world = world
        self._armed = armed  # point → strikes a run, about
        self._dice: Stream = world.stream("points")

    def on(self, victim: Victim, point: str) -> None:
        """`victim` passes a point; raises `Gone` if it does not survive that."""
        self.passed[point] += 1
        chance = self._armed.get(point, 0.0) / POINTS[point]
        if not chance or self.is_over or self._dice.random() >= chance:
            return
        strike = self._dice.choices(STRIKES, (2, 3, 1))[0]
        self.struck[point] += 1
        self._world.fault(f"{strike}@{point}", victim.place)
        hit = self.victims if strike == "power_cut_all" else [victim]
        for one in hit:
            one.die(power=strike != "kill")
        raise Gone
