"""The full-size points of the issues, and the same code at a fiftieth of the size for CI.

python -m tests.acceptance quorum              full size; writes docs/acceptance/quorum.json
python -m tests.acceptance quorum --share 0.02 CI's size; writes nothing
python -m tests.acceptance faults --part cuts  one part of the faults; writes faults-cuts.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from dynagent.main import modules
from dynagent.memory import usable_bytes
from tests.acceptance import (
    durability,
    everyday,
    faults,
    placement,
    quorum,
    repair,
    ring,
    rot,
    speed,
)

ROOT = Path(__file__).resolve().parents[2]
POINTS: dict[str, Callable[[float, Callable[[str], None]], dict[str, object]]] = {
    "durability": durability.run,
    "everyday": everyday.run,
    "faults": faults.run,
    "placement": placement.run,
    "quorum": quorum.run,
    "rot": rot.run,
    "repair": repair.run,
    "ring": ring.run,
    "speed": speed.run,
}
CONFIG = "defaults of dynagent run; N=3 R=2 W=2, 256 partitions, sqlite, fsync"
CONFIGS = {"rot": "defaults of dynagent run but for the engine; N=3 R=2 W=2, 64 partitions, fsync"}
# Of points that may be run part by part.
PARTS: dict[str, tuple[Callable[..., dict[str, object]], Collection[str]]] = {
    "faults": (faults.run, faults.PARTS),
    "repair": (repair.run, repair.PARTS),
    "ring": (ring.run, ring.PARTS),
    "rot": (rot.run, rot.PARTS),
    "speed": (speed.run, speed.PARTS),
}


def main() -> int:
    """Runs one set of points; exit status 1 if one does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance", description="see the docs")
    parser.add_argument("points", choices=sorted(POINTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the full size, e.g. 0.02")
    parser.add_argument("--part", help="only this one, of points that have parts")
    options = parser.parse_args()
    run = POINTS[options.points]
    if options.part is not None:
        if options.points not in PARTS:
            parser.error(f"only these have parts: {', '.join(PARTS)}")
        of_parts, parts = PARTS[options.points]
        if options.part not in parts:
            parser.error(f"the parts of {options.points} are: {', '.join(parts)}")
        run = partial(of_parts, parts=(options.part,))
    try:
        figures = run(options.share, lambda line: print(line, flush=True))
    except AssertionError as failure:
        print(f"acceptance {options.points}: FAILED: {failure}")
        return 1
    print(f"acceptance {options.points}: all points hold")
    if options.share == 1.0:
        name = f"{options.points}-{options.part}" if options.part else options.points
        path = ROOT / "docs" / "acceptance" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"points": name, **_circumstances(options.points), "figures": figures}
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")
    return 0


def _circumstances(points: str) -> dict[str, object]:
    """When, of what, on what, and how agents were configured if there were any."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    circumstances: dict[str, object] = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "cores": os.cpu_count(),
            "memory_bytes": usable_bytes(),
            "modules": modules(),
        },
    }
    if points != "placement":
        circumstances["config"] = CONFIGS.get(points, CONFIG)
    return circumstances


if __name__ == "__main__":
    sys.exit(main())
