"""The rules of purging are safe in every order, and none of their clauses is too much.

`python -m tests.core.purge_model --barriers 2`, or with three owners, searches further: there
nothing is found either (decision 0015 has the figures).
"""

from __future__ import annotations

import pytest

from tests.core.purge_model import Rules, search


def test_no_order_of_anything_brings_a_deleted_value_back() -> None:
    outcome = search(owners=2, barriers=1)
    print(f"{outcome.states:,} states")
    assert (outcome.violation, outcome.way) == ("", [])
    assert outcome.states > 10_000


FORGOTTEN = {
    "what was read before the purge is taken": Rules(must_refuse=lambda _least, _under: False),
    "to close refuses nothing": Rules(least_after_close=lambda least, _barrier: least),
    "content carries the barrier of its sending": Rules(sends_under_present=True),
    "the fallback is not asked": Rules(asks_fallback=False),
    "a fallback moves while it holds a hint": Rules(
        may_move=lambda barrier, to, *, owns, holds: barrier == to - 1
    ),
    "a fallback that has moved takes older hints": Rules(
        least_after_move=lambda least, _to, *, owns: least
    ),
    "an owner refuses older merges as soon as it has moved": Rules(
        least_after_move=lambda _least, to, *, owns: to
    ),
    "it does not matter when a tombstone has last changed": Rules(
        is_settled=lambda *, is_tombstone, since, barrier: is_tombstone
    ),
    "a change does not say under which barrier": Rules(since_after=lambda _barrier: 0),
    "the owners close before all have moved": Rules(may_close=lambda _standings, _barrier: True),
    "not all owners hold it": Rules(may_purge=lambda _settled: True),
}


@pytest.mark.parametrize("forgotten", FORGOTTEN)
def test_without_any_one_clause_it_comes_back_or_is_stuck(forgotten: str) -> None:
    outcome = search(owners=2, barriers=1, rules=FORGOTTEN[forgotten])
    assert outcome.violation in ("resurrected", "stuck"), f"{outcome.states:,} states"
    print(outcome.violation, *outcome.way, sep="\n  ")
