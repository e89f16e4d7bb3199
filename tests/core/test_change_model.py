"""The rules of a change of owners are safe in every order, and none of them is too much.

`python -m tests.core.change_model` searches further; decision 0020 has the figures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.core.change_model import (
    FORGOTTEN,
    REMOVAL,
    WORLDS,
    A,
    Model,
    Rules,
    State,
    Step,
    World,
    search,
)

SEARCHED = {
    "one change, taken back or not": (World(), 50_000),
    "a rots": (World(fault="rot", faulty=A), 100_000),
    "a is removed, its disk lost": (REMOVAL, 1_000),
}


@pytest.mark.parametrize("world", SEARCHED)
def test_no_order_of_anything_makes_a_read_stale(world: str) -> None:
    what, floor = SEARCHED[world]
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


@pytest.mark.parametrize("world", WORLDS)
def test_seen_from_each_of_two_writes_every_step_is_one_that_it_may_make_alone(world: str) -> None:
    """So whatever two writes may meet, each may meet alone, and one writer stands for any number.

    Alone, nodes may have learnt of fewer rings: the next test shows that this takes nothing away.
    """
    two, one = model_of(world, writers=2), model_of(world, writers=1)
    for state, steps in walks(two):
        for write in (0, 1):
            alone = seen_from(state, write)
            may = [alone, *(after for _, after in one.steps(alone))]
            for what, after in steps:
                assert any(covers(it, seen_from(after, write)) for it in may), (what, state)


@pytest.mark.parametrize("world", WORLDS)
def test_who_has_learnt_of_fewer_rings_may_do_all_the_same(world: str) -> None:
    dice = random.Random(2)
    model = model_of(world, writers=1)
    for state, steps in walks(model):
        less = state._replace(known=tuple(dice.randint(0, epoch) for epoch in state.known))
        may = [less, *(after for _, after in model.steps(less))]
        for what, after in steps:
            assert any(covers(it, after) for it in may), (what, state)


def model_of(world: str, *, writers: int) -> Model:
    return Model(replace(WORLDS[world], writers=writers), Rules())


def walks(model: Model) -> Iterator[tuple[State, list[Step]]]:
    """States that random ways come by, each with its steps."""
    dice = random.Random(1)
    for _ in range(60):
        state = model.first()
        for _ in range(60):
            if not (steps := list(model.steps(state))):
                break
            yield state, steps
            state = dice.choice(steps)[1]


def seen_from(state: State, write: int) -> State:
    """What the state is if there is only that one of two writes."""

    def has(writes: int) -> int:
        return writes >> write & 1

    reader = state.reader
    if reader:
        epoch, must, seen, answered = reader
        reader = (epoch, 1, 0, answered) if has(must) and not has(seen) else ()
    held, waiting, minimum = state.unsynced
    return state._replace(
        held=tuple(map(has, state.held)),
        writers=(state.writers[write],),
        reader=reader,
        unsynced=(has(held), has(waiting), minimum),
    )


def covers(less: State, more: State) -> bool:
    """Whether they differ at most in that the nodes of `less` have learnt of fewer rings."""
    return less._replace(known=more.known) == more and all(
        a <= b for a, b in zip(less.known, more.known, strict=True)
    )
