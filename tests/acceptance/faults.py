"""It keeps working while parts of it fail: an agent down or hung, the network cut in every shape, a
node away for minutes, carts as in the paper, and three times the load that it can take.

Every part runs, whatever became of the others; the first failure of each is told at the end.
"""

from __future__ import annotations

from tests.acceptance import faults_away, faults_carts, faults_cuts, faults_down, faults_overload
from tests.acceptance.points import Parts, Say, run_parts

PARTS: Parts = {
    "down": faults_down.run,
    "cuts": faults_cuts.run,
    "away": faults_away.run,
    "carts": faults_carts.run,
    "overload": faults_overload.run,
}


def run(share: float, say: Say, parts: tuple[str, ...] = tuple(PARTS)) -> dict[str, object]:
    """The figures of these parts; raises `Failed` with all that do not hold."""
    return run_parts(PARTS, parts, share, say)
