"""Every mutant still applies, and still dies on the first seed that is known to kill it.

The full hunt, with general seeds behind the known ones, is `python -m tests.mutants`.
"""

from __future__ import annotations

import pytest

from tests.mutants.everything import ALL
from tests.mutants.runner import PatchFailed, patched, simulate
from tests.mutants.table import Mutant, Patch


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_known_seed_kills(mutant: Mutant) -> None:
    seed = mutant.seeds[0]
    with patched(mutant) as directory:
        killed = simulate(
            directory,
            f"{seed}:{seed + 1}",
            level=mutant.level,
            stop_at_first=True,
            cpu_seconds=60.0,
        )
    assert list(killed) == [seed]


def test_a_patch_that_no_longer_applies_is_an_error() -> None:
    patch = Patch(file="core/put.py", old="no such text", new="")
    with pytest.raises(PatchFailed), patched(Mutant(name="M0", what="nothing", patches=(patch,))):
        pass


def test_the_names_are_unique() -> None:
    assert len({mutant.name for mutant in ALL}) == len(ALL)
