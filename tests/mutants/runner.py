"""Makes a patched copy of `dynagent/` and lets the general simulation loose on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mutants.table import Mutant

ROOT = Path(__file__).resolve().parents[2]
_VIOLATION = re.compile(r"^VIOLATION in seed (\d+): (\w+)", re.MULTILINE)


class PatchFailed(Exception):
    """A patch does not apply exactly once: the source has moved on, move the mutant with it."""


def apply(mutant: Mutant, package: Path) -> None:
    """Patches the copy of `dynagent/` at `package`; raises `PatchFailed`."""
    for patch in mutant.patches:
        path = package / patch.file
        source = path.read_text()
        if (count := source.count(patch.old)) != 1:
            raise PatchFailed(f"{mutant.name}: {patch.file} has {count} times {patch.old!r}")
        path.write_text(source.replace(patch.old, patch.new))


@contextmanager
def patched(mutant: Mutant) -> Iterator[Path]:
    """A directory with a patched copy of the package, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        package = Path(directory) / "dynagent"
        shutil.copytree(
            ROOT / "dynagent", package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
        apply(mutant, package)
        yield Path(directory)


def simulate(
    directory: Path,
    seeds: str,
    *,
    level: int = 1,
    rings: str = "",
    stop_at_first: bool,
    cpu_seconds: float,
) -> dict[int, str]:
    """Runs `tests.sim` with the package in `directory`; returns the first checker of each seed
    with a violation. Raises `RuntimeError` if the simulation itself did not run."""
    command = [sys.executable, "-m", "tests.sim", "--level", str(level), "--seeds", seeds]
    command += ["--cpu-seconds", str(cpu_seconds)]
    command += ["--stop-at-first"] if stop_at_first else []
    command += ["--rings", rings] if rings else []
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    killed: dict[int, str] = {}
    for seed, checker in _VIOLATION.findall(done.stdout):
        killed.setdefault(int(seed), checker)
    if not killed and done.returncode and "BELOW ITS FLOOR" not in done.stdout:
        raise RuntimeError(done.stdout + done.stderr)
    return killed
