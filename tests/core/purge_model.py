"""Every order of everything that may happen to one deleted key, on the rules of core/tombstones.py.

    python -m tests.core.purge_model [--owners 2] [--barriers 2]

One key, its old value V and the tombstone T that has superseded it; N owners and one fallback,
which may stand in for the last owner. What was once sent may arrive at any later time, or again,
or never; the driver's questions and orders too, each by itself. A breadth-first search visits all
states, so the way to a violation that it prints is the shortest.

    resurrected   an owner that has dropped T holds V again
    stuck         the fallback holds a hint that its owner will refuse for ever

The functions are those of the product; a mutant replaces one of them (`Rules`), or one of the two
clauses that are not functions (`sends_under_present`, `asks_fallback`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from dynagent.core import tombstones
from tests.core import exhaustive

Value = TypeVar("Value")

NOTHING, V, T = 0, 1, 2  # merging is taking the greater


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The product's, unless a test says otherwise."""

    must_refuse: Callable[[int, int], bool] = tombstones.must_refuse
    next_barrier: Callable[..., int] = tombstones.next_barrier
    may_move: Callable[..., bool] = tombstones.may_move
    least_after_move: Callable[..., int] = tombstones.least_after_move
    since_after: Callable[[int], int] = tombstones.since_after
    is_settled: Callable[..., bool] = tombstones.is_settled
    may_purge: Callable[..., bool] = tombstones.may_purge
    may_close: Callable[..., bool] = tombstones.may_close
    least_after_close: Callable[[int, int], int] = tombstones.least_after_close
    sends_under_present: bool = False  # content carries the barrier of its sending
    asks_fallback: bool = True  # the fallback is in S_P


class State(NamedTuple):
    """Of the owners, and of the fallback behind them; sets are sorted tuples or bits."""

    copies: tuple[int, ...]
    since: tuple[int, ...]
    barriers: tuple[int, ...]
    leasts: tuple[int, ...]
    closed: tuple[int, ...]  # before which barrier each owner was told to close
    sent: frozenset[tuple[int, int, int]]  # to whom, content, read under
    read: frozenset[tuple[int, int]]  # by whom, content: only if it is sent under the present one
    said: frozenset[tuple[int, int]]  # which owner has said of which barrier: settled
    purged: frozenset[int]  # barriers under which the drop has been decided
    dropped: tuple[bool, ...]
    is_deleted: bool


Step = tuple[str, State]


def search(
    *,
    owners: int = 2,
    barriers: int = 2,
    rules: Rules = Rules(),
) -> exhaustive.Outcome:
    """Visits every state; stops at the first violation."""
    model = Model(owners, barriers, rules)
    return exhaustive.search(model.first(), model.steps, model.violation)


class Model:
    def __init__(self, owners: int, barriers: int, rules: Rules) -> None:
        self._owners = range(owners)
        self._fallback = owners
        self._last = owners - 1  # for whom the fallback may stand in
        self._barriers_max = barriers
        self._rules = rules

    def first(self) -> State:
        """Owner 0 has coordinated a put of V; its Merges are on their way."""
        count = len(self._owners)
        return State(
            copies=(V,) + (NOTHING,) * count,
            since=(0,) * (count + 1),
            barriers=(0,) * (count + 1),
            leasts=(0,) * (count + 1),
            closed=(0,) * count,
            sent=frozenset((node, V, 0) for node in range(1, count + 1)),
            read=frozenset(),
            said=frozenset(),
            purged=frozenset(),
            dropped=(False,) * count,
            is_deleted=False,
        )

    def violation(self, state: State) -> str:
        copies, fallback = state.copies, self._fallback
        if any(state.dropped[owner] and copies[owner] == V for owner in self._owners):
            return "resurrected"
        least, hint_under = state.leasts[self._last], state.barriers[fallback]
        if copies[fallback] and self._rules.must_refuse(least, hint_under):
            return "stuck"
        return ""

    def steps(self, state: State) -> Iterator[Step]:
        yield from self._delete(state)
        yield from self._send(state)
        yield from self._receive(state)
        yield from self._deliver_hint(state)
        yield from self._move(state)
        yield from self._purge(state)

    # --- data ------------------------------------------------------------------------------------

    def _delete(self, state: State) -> Iterator[Step]:
        """A client deletes V, at an owner that has it."""
        for owner in self._owners:
            if state.copies[owner] == V and not state.is_deleted:
                changed = self._changed(state, owner, T)
                yield f"{owner} deletes", changed._replace(is_deleted=True)

    def _changed(self, state: State, node: int, content: int) -> State:
        since = self._rules.since_after(state.barriers[node])
        return state._replace(
            copies=_with(state.copies, node, content), since=_with(state.since, node, since)
        )

    def _send(self, state: State) -> Iterator[Step]:
        """A copy is read, for whatever reason, and is on its way under the barrier of that moment:
        it may arrive much later, so all that happens in between is in this one step."""
        for owner in self._owners:
            content, under = state.copies[owner], state.barriers[owner]
            if not content:
                continue
            if self._rules.sends_under_present and (owner, content) not in state.read:
                read = state.read | {(owner, content)}
                yield f"{owner} reads {content}", state._replace(read=read)
            yield from self._sent(state, owner, content, under)
        for owner, content in state.read:
            yield from self._sent(state, owner, content, state.barriers[owner])

    def _sent(self, state: State, source: int, content: int, under: int) -> Iterator[Step]:
        for target in (*self._owners, self._fallback):
            message = (target, content, under)
            if target != source and message not in state.sent:
                what = f"{source} sends {content}, read under {under}, to {target}"
                yield what, state._replace(sent=state.sent | {message})

    def _receive(self, state: State) -> Iterator[Step]:
        for target, content, under in state.sent:
            if content > state.copies[target] and not self._rules.must_refuse(
                state.leasts[target], under
            ):
                what = f"{target} merges {content}, read under {under}"
                yield what, self._changed(state, target, content)

    def _deliver_hint(self, state: State) -> Iterator[Step]:
        """The fallback sends what it keeps for the last owner; once that has it, it goes."""
        fallback, last = self._fallback, self._last
        if content := state.copies[fallback]:
            under = state.barriers[fallback]
            message = (last, content, under)
            if message not in state.sent:
                what = f"the fallback sends {content}, read under {under}"
                yield what, state._replace(sent=state.sent | {message})
            elif state.copies[last] >= content:
                gone = _with(state.copies, fallback, NOTHING)
                yield "the fallback's hint is delivered", state._replace(copies=gone)

    # --- barriers --------------------------------------------------------------------------------

    def _asked(self, state: State) -> tuple[int, ...]:
        """Where all of S_P stand."""
        return state.barriers if self._rules.asks_fallback else state.barriers[: self._fallback]

    def _move(self, state: State) -> Iterator[Step]:
        to = self._rules.next_barrier(self._asked(state))
        if to > self._barriers_max:
            return
        for node in range(len(self._asked(state))):
            owns, holds = node in self._owners, state.copies[node] != NOTHING
            if self._rules.may_move(state.barriers[node], to, owns=owns, holds=holds):
                least = self._rules.least_after_move(state.leasts[node], to, owns=owns)
                yield (
                    f"{node} moves to {to}",
                    state._replace(
                        barriers=_with(state.barriers, node, to),
                        leasts=_with(state.leasts, node, least),
                    ),
                )

    def _purge(self, state: State) -> Iterator[Step]:
        """The driver asks each owner, decides, and orders the drops: each whenever it likes."""
        for barrier in range(1, self._barriers_max + 1):
            if self._rules.may_close(self._asked(state), barrier):
                for owner in self._owners:
                    if state.barriers[owner] >= barrier > state.closed[owner]:
                        least = self._rules.least_after_close(state.leasts[owner], barrier)
                        yield (
                            f"{owner} closes what is before {barrier}",
                            state._replace(
                                closed=_with(state.closed, owner, barrier),
                                leasts=_with(state.leasts, owner, least),
                            ),
                        )
            for owner in self._owners:
                if self._is_settled(state, owner, barrier) and (owner, barrier) not in state.said:
                    said = state.said | {(owner, barrier)}
                    yield f"{owner} says: settled at {barrier}", state._replace(said=said)
            all_said = [(owner, barrier) in state.said for owner in self._owners]
            if barrier not in state.purged and self._rules.may_purge(all_said):
                purged = state.purged | {barrier}
                yield f"purge is decided under {barrier}", state._replace(purged=purged)
        for barrier in state.purged:
            for owner in self._owners:
                if self._is_settled(state, owner, barrier):
                    yield (
                        f"{owner} drops under {barrier}",
                        state._replace(
                            copies=_with(state.copies, owner, NOTHING),
                            dropped=_with(state.dropped, owner, True),
                        ),
                    )

    def _is_settled(self, state: State, owner: int, barrier: int) -> bool:
        return state.closed[owner] >= barrier and self._rules.is_settled(
            is_tombstone=state.copies[owner] == T, since=state.since[owner], barrier=barrier
        )


def _with(values: tuple[Value, ...], at: int, value: Value) -> tuple[Value, ...]:
    return (*values[:at], value, *values[at + 1 :])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--owners", type=int, default=2)
    parser.add_argument("--barriers", type=int, default=2)
    options = parser.parse_args(arguments)
    outcome = search(owners=options.owners, barriers=options.barriers)
    print(f"owners={options.owners} barriers={options.barriers} states={outcome.states:,}", end=" ")
    print(outcome.violation or "safe: every state was visited")
    print("\n".join(outcome.way))
    return 1 if outcome.violation else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
