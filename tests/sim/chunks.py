"""What a worker process does: some seeds in a row. A module of its own, because a spawned process
never imports a `__main__`."""

from __future__ import annotations

import time

from tests.sim.levels import LEVELS
from tests.sim.totals import Totals

CHUNK = 10  # seeds that a worker runs before it reports

Chunk = tuple[int, int, int, bool]  # level, first seed, end, stop at the first violation


def run_chunk(chunk: Chunk) -> Totals:
    level, start, end, stops_at_first = chunk
    run, new_totals = LEVELS[level]()
    totals = new_totals()
    began = time.process_time()
    for seed in range(start, end):
        totals.add(run(seed))
        if totals.violations and stops_at_first:
            break
    totals.cpu_s = time.process_time() - began
    return totals
