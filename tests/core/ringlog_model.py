"""Every order of everything that may happen to one entry of the ring log, on core/acceptor.py.

    python -m tests.core.ringlog_model [--ballots 2 1] [--reuse] [--crash [--hasty]] [--wipe ID]

Three voters, and two proposers, each with so many ballots, and another content for each. What was
once sent may arrive at any later time, or again, or never, at each voter by itself; votes too.
Once, one of the voters crashes, or loses its disk. (Of the one that crashes a vote stands in memory
first, and on the disk later; of the others that is one step, for nothing can come between.) A
breadth-first search visits all states, so the way to a fork that it prints is the shortest.

    fork   two entries of one index are decided: each by a majority, in one ballot

The functions are those of the product; a test replaces one of them, or one of the two rules that
are not functions: that a vote is answered after its fsync, and that a voter without its store is no
voter any more (`Rules`). Nothing here knows that proposers learn what is decided: they only get
more to do, so what holds here holds where they do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, TypeVar

from dynagent.core import acceptor
from dynagent.core.acceptor import Number, Standing
from tests.core import exhaustive

Item = TypeVar("Item")

VOTERS = (0, 1, 2)
UNLUCKY = 1  # the voter that crashes, or loses its disk
PROPOSERS = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The product's, unless a test says otherwise."""

    vote: Callable[[Standing, Number, bytes], Standing] = acceptor.vote
    is_granted: Callable[[Standing, Number, bytes], bool] = acceptor.is_granted
    choose: Callable[..., bytes] = acceptor.choose
    numbers_are_fresh: bool = True  # no proposer uses the number of a ballot twice, even restarted
    answers_after_fsync: bool = True
    wiped_is_no_voter: bool = True
    majority: int = 2


class Proposer(NamedTuple):
    """How many ballots it has begun, and what the last one carries; b"": it asks for promises."""

    begun: int
    entry: bytes


class State(NamedTuple):
    standings: tuple[Standing, ...]
    durable: tuple[Standing, ...]  # the same, on the disk
    proposers: tuple[Proposer, ...]
    sent: frozenset[tuple[Number, bytes]]  # ballots, and what they carry
    votes: frozenset[tuple[int, Number, bytes, Standing]]  # by whom, on which ballot: on their way
    misfortunes: int
    is_voter: tuple[bool, ...]


Step = tuple[str, State]


def search(
    *, ballots: tuple[int, int] = (1, 1), misfortune: str = "", rules: Rules = Rules()
) -> exhaustive.Outcome:
    """Visits every state; stops at the first fork. `misfortune`: "", "crash" or "wipe"."""
    model = Model(ballots, misfortune, rules)
    return exhaustive.search(model.first(), model.steps, model.violation)


class Model:
    def __init__(self, ballots: tuple[int, int], misfortune: str, rules: Rules) -> None:
        self._ballots = ballots
        self._misfortune = misfortune
        self._rules = rules

    def first(self) -> State:
        nowhere = (Standing(),) * len(VOTERS)
        return State(
            standings=nowhere,
            durable=nowhere,
            proposers=(Proposer(0, b""),) * len(PROPOSERS),
            sent=frozenset(),
            votes=frozenset(),
            misfortunes=0,
            is_voter=(True,) * len(VOTERS),
        )

    def violation(self, state: State) -> str:
        decided = set()
        for number, entry in {(number, entry) for _, number, entry, _ in state.votes if entry}:
            if len(self._granted(state, number, entry)) >= self._rules.majority:
                decided.add(entry)
        return "fork" if len(decided) > 1 else ""

    def _granted(self, state: State, number: Number, entry: bytes) -> dict[int, list[Standing]]:
        """Which voters have answered that ballot with yes, and how: a wiped one more than once."""
        granted: dict[int, list[Standing]] = {}
        for voter, asked, carried, standing in state.votes:
            if (asked, carried) == (number, entry):
                granted.setdefault(voter, []).append(standing)
        return granted

    def steps(self, state: State) -> Iterator[Step]:
        yield from self._begin(state)
        yield from self._vote(state)
        yield from self._accept(state)
        yield from self._sync(state)
        yield from self._suffer(state)

    def _begin(self, state: State) -> Iterator[Step]:
        """A proposer begins a ballot, whatever has become of its last one."""
        for at, proposer in enumerate(state.proposers):
            if proposer.begun < self._ballots[at]:
                begun = Proposer(proposer.begun + 1, b"")
                number = self._number(at, begun)
                yield f"{_ballot(number)} begins", self._sent(state, at, begun)

    def _sent(self, state: State, at: int, proposer: Proposer) -> State:
        ballot = (self._number(at, proposer), proposer.entry)
        return state._replace(
            proposers=_with(state.proposers, at, proposer), sent=state.sent | {ballot}
        )

    def _number(self, at: int, proposer: Proposer) -> Number:
        return (proposer.begun if self._rules.numbers_are_fresh else 1, at + 1)

    def _vote(self, state: State) -> Iterator[Step]:
        """A ballot arrives."""
        for number, entry in sorted(state.sent):
            for voter in VOTERS:
                if not state.is_voter[voter]:
                    continue
                standing = self._rules.vote(state.standings[voter], number, entry)
                after = state._replace(standings=_with(state.standings, voter, standing))
                is_lazy = self._misfortune == "crash" and voter == UNLUCKY
                if not is_lazy:
                    after = after._replace(durable=_with(state.durable, voter, standing))
                if standing == after.durable[voter] or not self._rules.answers_after_fsync:
                    after = self._answered(after, voter, number, entry, standing)
                if after != state:
                    what = f"accepts {entry.decode()} in" if entry else "promises"
                    yield f"voter {voter} {what} {_ballot(number)}", after

    def _answered(
        self, state: State, voter: int, number: Number, entry: bytes, standing: Standing
    ) -> State:
        if not self._rules.is_granted(standing, number, entry):
            return state  # a no tells the proposer only to go on
        if entry:
            standing = Standing()  # a yes is all that is asked
        elif all(
            proposer.entry or self._number(at, proposer) != number
            for at, proposer in enumerate(state.proposers)
        ):
            return state  # a promise to who has gone on
        return state._replace(votes=state.votes | {(voter, number, entry, standing)})

    def _accept(self, state: State) -> Iterator[Step]:
        """A proposer takes the promises of some majority, and asks to accept."""
        for at, proposer in enumerate(state.proposers):
            if not proposer.begun or proposer.entry:
                continue
            number = self._number(at, proposer)
            granted = self._granted(state, number, b"")
            for majority in combinations(sorted(granted), self._rules.majority):
                for promises in _products([granted[voter] for voter in majority]):
                    own = f"{'XY'[at]}{proposer.begun}".encode()
                    chosen = self._rules.choose(promises, own)
                    what = f"has promises of {majority}, and carries {chosen.decode()}"
                    asking = self._sent(state, at, proposer._replace(entry=chosen))
                    yield f"{_ballot(number)} {what}", asking

    def _sync(self, state: State) -> Iterator[Step]:
        for voter in VOTERS:
            if state.durable[voter] != state.standings[voter]:
                durable = _with(state.durable, voter, state.standings[voter])
                yield f"voter {voter} has it on its disk", state._replace(durable=durable)

    def _suffer(self, state: State) -> Iterator[Step]:
        if not self._misfortune or state.misfortunes:
            return
        durable, is_voter = state.durable, state.is_voter
        if self._misfortune == "wipe":
            durable = _with(durable, UNLUCKY, Standing())
            if self._rules.wiped_is_no_voter:
                is_voter = _with(is_voter, UNLUCKY, False)
        standings = _with(state.standings, UNLUCKY, durable[UNLUCKY])
        what = "loses its disk" if self._misfortune == "wipe" else "crashes"
        yield (
            f"voter {UNLUCKY} {what}",
            state._replace(standings=standings, durable=durable, is_voter=is_voter, misfortunes=1),
        )


def _ballot(number: Number) -> str:
    return f"ballot {number[0]} of {' XY'[number[1]]}"


def _products(choices: list[list[Standing]]) -> Iterator[list[Standing]]:
    if not choices:
        yield []
        return
    for one in choices[0]:
        for rest in _products(choices[1:]):
            yield [one, *rest]


def _with(items: tuple[Item, ...], at: int, item: Item) -> tuple[Item, ...]:
    return (*items[:at], item, *items[at + 1 :])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ballots", type=int, nargs=2, default=(1, 1), help="of each proposer")
    parser.add_argument("--reuse", action="store_true", help="numbers of ballots are used again")
    parser.add_argument("--crash", action="store_true", help="of a voter, once")
    parser.add_argument("--hasty", action="store_true", help="votes are answered before the fsync")
    parser.add_argument("--wipe", choices=["same", "new"], help="a voter; its id afterwards")
    options = parser.parse_args(arguments)
    misfortune = "wipe" if options.wipe else "crash" if options.crash else ""
    rules = Rules(
        numbers_are_fresh=not options.reuse,
        answers_after_fsync=not options.hasty,
        wiped_is_no_voter=options.wipe != "same",
    )
    ballots = (options.ballots[0], options.ballots[1])
    outcome = search(ballots=ballots, misfortune=misfortune, rules=rules)
    print(f"ballots={ballots} {misfortune or 'no misfortune'} states={outcome.states:,}")
    print("\n".join([*outcome.way, outcome.violation or "safe: every state was visited"]))
    return 1 if outcome.violation else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
