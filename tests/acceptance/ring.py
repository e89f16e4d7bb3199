"""The ring changes under load, and no write is lost.

grow          3 → 5 → 8 → 4 agents by `dynctl`, under a mixed strict load, one kill -9 in each
join          one agent joins three with a million keys: bytes moved, rate, foreground; an abort
availability  a strict probe through joins and leaves in which nothing else goes wrong

Every part runs, whatever became of the others; the first failure of each is told at the end.
"""

from __future__ import annotations

from collections.abc import Callable

from dynagent.errors import DynagentError
from tests.acceptance import ring_available, ring_grow, ring_join
from tests.acceptance.points import Failed

Say = Callable[[str], None]
PARTS: dict[str, Callable[[float, Say], dict[str, object]]] = {
    "grow": ring_grow.run,
    "join": ring_join.run,
    "availability": ring_available.run,
}


def run(share: float, say: Say, parts: tuple[str, ...] = tuple(PARTS)) -> dict[str, object]:
    """The figures of these parts; raises `Failed` with all that do not hold."""
    figures: dict[str, object] = {}
    failures: list[str] = []
    for name in parts:
        try:
            figures[name] = PARTS[name](share, say)
        except (AssertionError, TimeoutError, ConnectionError, DynagentError) as exc:
            failures.append(f"{name}: {exc}")
            say(f"FAILED: {failures[-1]}")
    if failures:
        raise Failed("; ".join(failures))
    return figures
