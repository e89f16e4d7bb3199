"""`python -m tests.mutants [NAME…]`: does the general simulation catch every known mistake?

    python -m tests.mutants                all of them; known seeds first, then up to the budget
    python -m tests.mutants M5 A3          these
    python -m tests.mutants --rate 300     how many of 300 seeds kill each (for the docs)

Exit status 1 if a patch no longer applies or a mutant survives.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tests.mutants.everything import ALL
from tests.mutants.runner import PatchFailed, patched, simulate
from tests.mutants.table import Mutant

BUDGET_SEEDS = 1_500  # general seeds, after the known ones
BUDGET_CPU_S = 60.0  # per mutant: all of them must fit in five CPU-minutes when most die at once


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--rate", type=int, metavar="SEEDS", help="count the seeds that kill")
    arguments = parser.parse_args()
    chosen = [m for m in ALL if not arguments.names or m.name in arguments.names]
    survivors = 0
    for mutant in chosen:
        try:
            verdict = _rate(mutant, arguments.rate) if arguments.rate else _hunt(mutant)
        except PatchFailed as exc:
            verdict = ""
            print(exc)
        print(f"{mutant.name:4} {verdict or 'SURVIVES':60} {mutant.what}", flush=True)
        survivors += not verdict
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return 1 if survivors else 0


def _hunt(mutant: Mutant) -> str:
    """How it died; empty if it survives."""
    with patched(mutant) as directory:
        for seeds in (*(f"{seed}:{seed + 1}" for seed in mutant.seeds), f"0:{BUDGET_SEEDS}"):
            killed = simulate(
                directory,
                seeds,
                level=mutant.level,
                stop_at_first=True,
                cpu_seconds=BUDGET_CPU_S,
            )
            for seed, checker in killed.items():
                return f"killed by seed {seed}: {checker}"
    return ""


def _rate(mutant: Mutant, seeds: int) -> str:
    with patched(mutant) as directory:
        killed = simulate(
            directory, f"0:{seeds}", level=mutant.level, stop_at_first=False, cpu_seconds=1e9
        )
    if not killed:
        return ""
    checkers = ", ".join(
        f"{name} {count}" for name, count in Counter(killed.values()).most_common()
    )
    first = ", ".join(map(str, list(killed)[:3]))
    return f"{len(killed)} of {seeds} seeds, first {first}; by {checkers}"


if __name__ == "__main__":
    sys.exit(main())
