"""What a worker process does: some seeds in a row. A module of its own, because a spawned process
never imports a `__main__`."""

from __future__ import annotations

import time

from tests.sim.levels import LEVELS, PROFILES
from tests.sim.totals import Totals

CHUNK = 10  # seeds that a worker runs before it reports

# Level, first seed, end, stop at the first violation, which rings: see `wants`.
Chunk = tuple[int, int, int, bool, str]


def run_chunk(chunk: Chunk) -> Totals:
    level, start, end, stops_at_first, rings = chunk
    run, new_totals = LEVELS[level]()
    totals = new_totals()
    began = time.process_time()
    for seed in range(start, end):
        if not wants(rings, level, seed):
            continue
        totals.add(run(seed))
        if totals.violations and stops_at_first:
            break
    totals.cpu_s = time.process_time() - began
    return totals


def wants(rings: str, level: int, seed: int) -> bool:
    """`rings`: only seeds whose operators change the ring ("changing"), or those in which nobody
    does ("settled"); "": all."""
    if not rings:
        return True
    profile = PROFILES[level]()[1](seed)
    return bool(getattr(profile, "changes_s", 0.0)) == (rings == "changing")
