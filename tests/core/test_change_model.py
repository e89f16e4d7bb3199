"""The rules of a change of owners are safe in every order, and none of them is too much.

`python -m tests.core.change_model` searches further; decision 0020 has the figures.
"""

from __future__ import annotations

import pytest

from tests.core.change_model import FORGOTTEN, REMOVAL, A, World, search

WORLDS = {
    "one change, taken back or not": (World(), 50_000),
    "a rots": (World(fault="rot", faulty=A), 100_000),
    "a is removed, its disk lost": (REMOVAL, 1_000),
}


@pytest.mark.parametrize("world", WORLDS)
def test_no_order_of_anything_makes_a_read_stale(world: str) -> None:
    what, floor = WORLDS[world]
    outcome = search(what, folds=True)
    print(f"{outcome.states:,} states")
    assert (outcome.violation, outcome.way) == ("", [])
    assert outcome.states > floor


@pytest.mark.parametrize(
    "forgotten", [name for name, (world, _) in FORGOTTEN.items() if world.changes == 1]
)
def test_without_any_one_rule_there_is_a_stale_read_or_no_answer(forgotten: str) -> None:
    world, rules = FORGOTTEN[forgotten]
    outcome = search(world, rules)
    assert outcome.violation in ("stale read", "unavailable"), f"{outcome.states:,} states"
    print(outcome.violation, *outcome.way, sep="\n  ")
