"""The ring changes under load, and no write is lost.

grow          3 → 5 → 8 → 4 agents by `dynctl`, under a mixed strict load, one kill -9 in each
join          one agent joins three with a million keys: bytes moved, rate, foreground; an abort
availability  a strict probe through joins and leaves in which nothing else goes wrong

Every part runs, whatever became of the others; the first failure of each is told at the end.
"""

from __future__ import annotations

from tests.acceptance import ring_available, ring_grow, ring_join
from tests.acceptance.points import Parts, Say, run_parts

PARTS: Parts = {
    "grow": ring_grow.run,
    "join": ring_join.run,
    "availability": ring_available.run,
}


def run(share: float, say: Say, parts: tuple[str, ...] = tuple(PARTS)) -> dict[str, object]:
    """The figures of these parts; raises `Failed` with all that do not hold."""
    return run_parts(PARTS, parts, share, say)
