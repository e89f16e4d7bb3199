"""One entry of the ring log in every order: it never forks, and does without any of its rules."""

from __future__ import annotations

import pytest

from dynagent.core.acceptor import Number, Standing
from tests.core.ringlog_model import Rules, search


@pytest.mark.parametrize(
    ("ballots", "misfortune"), [((1, 1), ""), ((1, 1), "crash"), ((1, 1), "wipe"), ((2, 1), "")]
)
def test_no_order_of_events_decides_two_entries(ballots: tuple[int, int], misfortune: str) -> None:
    outcome = search(ballots=ballots, misfortune=misfortune)
    assert outcome.violation == "", outcome.way
    assert outcome.states > 2_000


def forgets_promises(standing: Standing, number: Number, entry: bytes) -> Standing:
    return Standing(number, number, entry) if entry else standing._replace(promised=number)


@pytest.mark.parametrize(
    ("rules", "ballots", "misfortune"),
    [
        (Rules(wiped_is_no_voter=False), (1, 1), "wipe"),
        (Rules(answers_after_fsync=False), (1, 1), "crash"),
        (Rules(numbers_are_fresh=False), (2, 0), ""),
        (Rules(choose=lambda _promises, own: own), (1, 1), ""),
        (Rules(vote=forgets_promises), (1, 1), ""),
        (Rules(majority=1), (1, 1), ""),
    ],
    ids=["wiped", "before fsync", "reused numbers", "own content", "old ballots", "no majority"],
)
def test_without_any_one_rule_it_forks(
    rules: Rules, ballots: tuple[int, int], misfortune: str
) -> None:
    outcome = search(ballots=ballots, misfortune=misfortune, rules=rules)
    assert outcome.violation == "fork"


def test_how_a_voter_that_keeps_its_id_without_its_store_forks_the_log() -> None:
    outcome = search(misfortune="wipe", rules=Rules(wiped_is_no_voter=False))
    assert outcome.way[-2:] == ["voter 1 loses its disk", "voter 1 accepts X1 in ballot 1 of X"]
