"""Exhaustive search, shared by the models of the protocol's rules: every order of everything.

A model is its first state, the steps that may follow a state, and what is wrong with one. States
are values: equal ones are one. The search is breadth first, so the way to a violation that it
returns is the shortest there is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

State = TypeVar("State", bound=Hashable)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How many states were seen, and the first violation, with the steps that led to it."""

    states: int
    violation: str = ""
    way: list[str] = field(default_factory=list)


def search(
    first: State,
    steps: Callable[[State], Iterable[tuple[str, State]]],
    violation: Callable[[State], str],
    *,
    fold: Callable[[State], State] | None = None,
) -> Outcome:
    """Visits every state; stops at the first violation. `fold`: one for all states that are alike;
    then the names in a way may change from step to step."""
    before: dict[State, tuple[State, str] | None] = {first: None}
    todo = deque([first])
    while todo:
        state = todo.popleft()
        for what, after in steps(state):
            if fold is not None:
                after = fold(after)
            if after in before:
                continue
            before[after] = (state, what)
            if found := violation(after):
                return Outcome(states=len(before), violation=found, way=_way(before, after))
            todo.append(after)
    return Outcome(states=len(before))


def _way(before: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    way: list[str] = []
    while (step := before[state]) is not None:
        state, what = step
        way.append(what)
    return way[::-1]
