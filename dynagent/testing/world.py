"""The second world's clock, dice and diary: one heap of events in virtual time (design §10).

Everything that happens in a simulation is an event on this heap. A run is a function of its seed:
two events of one instant happen in the order in which they were scheduled, and every concern has a
random stream of its own, named and derived from the seed, so that one more draw in one place does
not reshuffle all the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from math import inf
from random import Random

Stream = Random  # one concern's dice; only this module of the second world names the generator


class Verdicts:
    """What the checkers have decided: how often each one looked, and what it found wrong."""

    def __init__(self) -> None:
        self.evaluations: Counter[str] = Counter()
        self.violations: list[str] = []

    def check(self, checker: str, holds: bool, *what: object) -> None:
        """Counts an evaluation of `checker`; unless `holds`, `what` becomes a violation."""
        self.evaluations[checker] += 1
        if not holds:
            self.violations.append(f"{checker}: " + " ".join(str(part) for part in what))


class World:
    """Virtual time in seconds, the event heap, the dice, and the trace (None: not kept)."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.seed = seed
        self.now = 0.0
        self.leapt = 0.0  # of this time, how much has been leapt over
        self.events = 0
        self.messages = 0
        self.trace: list[str] | None = [] if keep_trace else None
        self.faults: Counter[str] = Counter()  # injected so far, by kind
        self.verdicts = Verdicts()
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._scheduled = 0
        self._order = 0

    def stream(self, name: str) -> Random:
        """The dice of one concern."""
        digest = blake2b(f"{self.seed}/{name}".encode(), digest_size=8).digest()
        return Random(int.from_bytes(digest, "big"))

    def order(self) -> int:
        """A number higher than all before it: which of two things of one instant came first."""
        self._order += 1
        return self._order

    def after(self, delay_s: float, action: Callable[..., None], *arguments: object) -> None:
        """Calls `action` that much later."""
        self._scheduled += 1
        heappush(self._heap, (self.now + delay_s, self._scheduled, action, arguments))

    @property
    def next_at(self) -> float:
        """When the next event is due; infinity if there is none."""
        return self._heap[0][0] if self._heap else inf

    def run(self, *, until: float, unless: Callable[[], bool] | None = None) -> None:
        """Lets the world go on to a virtual time, or until `unless` holds. What is leapt over does
        not count."""
        heap = self._heap
        before = self.leapt
        while heap and heap[0][0] <= until + self.leapt - before:
            self.now, _, action, arguments = heappop(heap)
            self.events += 1
            action(*arguments)
            if unless is not None and unless():
                return
        self.now = max(self.now, until + self.leapt - before)

    def leap(self, seconds: float) -> None:
        """So much time passes in which nothing happens: whatever was to happen does so later."""
        self.now += seconds
        self.leapt += seconds
        self._heap[:] = [
            (at + seconds, number, action, arguments)
            for at, number, action, arguments in self._heap
        ]  # in the same order

    def fault(self, kind: str, what: str) -> None:
        """A fault has been injected."""
        self.faults[kind] += 1
        if self.trace is not None:
            self.log(f"*** {kind} {what}".rstrip())

    def log(self, line: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now:11.6f} {line}")
