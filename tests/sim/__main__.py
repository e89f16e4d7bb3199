"""`python -m tests.sim`: run simulations, one with its trace or many with their totals.

    python -m tests.sim --seed 17 --trace            one seed, event by event
    python -m tests.sim --seeds 0:2000 --jobs 2      many seeds; exit status 1 on a violation
    python -m tests.sim --seeds 0:99999 --cpu-seconds 360
    python -m tests.sim --rings changing --seeds 0:500   those in which the ring changes; or settled
    python -m tests.sim --level 2 …                  real agents, on simulated wires and disks
    python -m tests.sim --level 2 --pairs 20         each of 20 seeds in two processes: same trace?

Many seeds must also have been worth it: a run whose totals stay under a floor (`floors.py`) fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.sim.chunks import CHUNK, Chunk, run_chunk
from tests.sim.levels import LEVELS
from tests.sim.pairs import check_pairs
from tests.sim.shrink import keep, shrink_run
from tests.sim.totals import Totals


def main() -> int:
    arguments = _parse()
    if arguments.pairs is not None:
        return check_pairs(arguments.level, arguments.pairs)
    if arguments.seed is not None and arguments.shrink:
        return _shrink(arguments.level, arguments.seed, arguments.keep)
    if arguments.seed is not None:
        return _run_one(arguments.level, arguments.seed, with_trace=arguments.trace)
    return _run_many(arguments)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="run this one")
    which.add_argument("--seeds", metavar="A:B", help="run A, A+1, … B-1")
    which.add_argument("--pairs", type=int, help="run that many twice, and compare their traces")
    parser.add_argument("--level", type=int, choices=sorted(LEVELS), default=1)
    parser.add_argument("--trace", action="store_true", help="with --seed: print every event")
    parser.add_argument("--shrink", action="store_true", help="with --seed: make the failure small")
    parser.add_argument("--keep", metavar="NAME", help="with --shrink: keep it as a scenario")
    parser.add_argument("--rings", choices=("settled", "changing"), default="", help="only these")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--cpu-seconds", type=float, help="start no more seeds after that much")
    parser.add_argument(
        "--stop-at-first", action="store_true", help="stop at the first violation; judge no floors"
    )
    return parser.parse_args()


def _run_one(level: int, seed: int, *, with_trace: bool) -> int:
    run, new_totals = LEVELS[level]()
    report = run(seed, keep_trace=with_trace)
    for line in report.trace or ():
        print(line)
    totals = new_totals()
    totals.add(report)
    print(totals.line())
    for violation in report.violations:
        print(f"VIOLATION {violation}")
    return 1 if report.violations else 0


def _shrink(level: int, seed: int, name: str | None) -> int:
    found = shrink_run(level, seed)
    if found is None:
        print(f"seed {seed} violates nothing")
        return 0
    checker, profile = found
    print(f"{checker} is still violated by seed {seed} under {profile}")
    if name:
        print(f"kept: {keep(name, level=level, seed=seed, checker=checker, profile=profile)}")
    return 1


def _run_many(arguments: argparse.Namespace) -> int:
    first, _, end = arguments.seeds.partition(":")
    chunks = [
        (
            *(arguments.level, start, min(start + CHUNK, int(end))),
            *(arguments.stop_at_first, arguments.rings),
        )
        for start in range(int(first), int(end), CHUNK)
    ]
    totals = LEVELS[arguments.level]()[1]()
    level = f"--level {arguments.level} " if arguments.level > 1 else ""
    for part in _results(chunks, arguments.jobs):
        totals.merge(part)
        for seed, violation in part.violations:
            print(f"VIOLATION in seed {seed}: {violation}")
            print(f"  replay: python -m tests.sim {level}--seed {seed} --trace", flush=True)
        if part.violations and arguments.stop_at_first:
            return 1
        if arguments.cpu_seconds is not None and totals.cpu_s >= arguments.cpu_seconds:
            break
    print(totals.line())
    below = totals.below_floors(arguments.rings)
    for line in below:
        print(f"BELOW ITS FLOOR {line}")
    return 1 if totals.violations or (below and not arguments.stop_at_first) else 0


def _results(chunks: list[Chunk], jobs: int) -> Iterator[Totals]:
    if jobs == 1:
        yield from map(run_chunk, chunks)
        return
    # Not multiprocessing.Pool: that waits for ever for the chunk of a worker that died.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(run_chunk, chunks)
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
