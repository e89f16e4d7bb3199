"""The words for the liveness of a node: each that can be printed is one that is explained."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from dynagent.core.peer import ALIVE, DEAD, GRAY, SUSPECT
from dynctl.observe import liveness, suspected

ROOT = Path(__file__).resolve().parents[2]
# What an agent's status may say of another: what it thinks of it, whether it has a link.
PEERS = tuple(product((ALIVE, SUSPECT, DEAD, GRAY), (True, False)))


def word(state: str, *, linked: bool, answered: bool) -> str:
    """As `node ls` prints a node of which the agent that answers thinks that."""
    is_used = linked and state == ALIVE
    status = {"up": ["n2"] if is_used else [], "peers": {"n2": {"state": state, "linked": linked}}}
    return liveness(linked=is_used, answered=answered, suspected=suspected(status).get("n2", ""))


def printed() -> set[str]:
    return {
        word(state, linked=linked, answered=answered)
        for (state, linked), answered in product(PEERS, (True, False))
    }


def test_what_an_agent_suspects_is_told_in_its_own_word() -> None:
    for state in (SUSPECT, DEAD, GRAY):
        assert word(state, linked=True, answered=True) == state
    assert word(ALIVE, linked=True, answered=True) == "up"


def test_who_answers_to_one_side_only_is_told_as_that() -> None:
    assert word(ALIVE, linked=True, answered=False) == "unreachable"
    for state in (SUSPECT, DEAD, GRAY):
        assert word(state, linked=False, answered=True) == "unlinked"
        assert word(state, linked=False, answered=False) == "down"
        assert word(state, linked=True, answered=False) == "down"


@pytest.mark.parametrize("place", ["docs/cli.md", "man/dynctl.1"])
def test_every_word_is_named_in_the_reference(place: str) -> None:
    text = " ".join((ROOT / place).read_text().split())
    _, found, rest = text.partition("LIVENESS is what")
    assert found
    named = rest.partition(";")[0].partition(":")[2].replace(" or ", ", ").split(", ")
    assert {name.strip() for name in named} == printed()
