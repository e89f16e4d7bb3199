"""Is a run its seed? Each seed twice, in two processes that hash and collect differently."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def trace_of(level: int, seed: int, *, hash_seed: int) -> bytes:
    """Trace and figures of one seed, from a process of its own."""
    command = [sys.executable, "-m", "tests.sim", "--level", str(level), "--seed", str(seed)]
    done = subprocess.run(
        [*command, "--trace"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(hash_seed)},
        stdout=subprocess.PIPE,
        check=False,
    )
    return done.stdout


def first_difference(one: bytes, other: bytes) -> str:
    """The first line that is not the same; empty if all are."""
    lines = zip(one.splitlines(), other.splitlines(), strict=False)
    for number, (mine, theirs) in enumerate(lines, start=1):
        if mine != theirs:
            return f"line {number}: {mine.decode()!r} or {theirs.decode()!r}"
    return "" if one == other else "one is longer than the other"


def check_pairs(level: int, pairs: int) -> int:
    """Compares the traces of seeds 0 … pairs-1; returns the exit status."""
    differ = 0
    for seed in range(pairs):
        one, other = (trace_of(level, seed, hash_seed=100 + 2 * seed + odd) for odd in (0, 1))
        difference = first_difference(one, other) or ("" if one else "there is no trace")
        if difference:
            differ += 1
            print(f"seed {seed} is not one run: {difference}")
    print(f"pairs={pairs} differ={differ}")
    return 1 if differ else 0
