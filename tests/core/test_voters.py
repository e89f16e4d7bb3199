"""Who votes: in the long run, and from an entry on that takes voters away."""

from itertools import combinations

import pytest

from dynagent.core.ports import NodeId
from dynagent.core.ring import Member
from dynagent.core.voters import choose_voters, replace_voters
from tests.core.harness import member

MEMBERS = tuple(member(number) for number in range(1, 8))
A, B, C, D, E, F, G = (m.id for m in MEMBERS)


def replaced(
    voters: tuple[NodeId, ...],
    members: tuple[Member, ...],
    *,
    gone: tuple[NodeId, ...],
    leaving: tuple[NodeId, ...] = (),
    joined: tuple[NodeId, ...] = (),
) -> tuple[NodeId, ...]:
    return replace_voters(voters, members, gone=gone, leaving=leaving, joined=joined)


def test_voters_are_odd_spread_and_as_they_were() -> None:
    assert choose_voters(MEMBERS[:4]) == (A, B, C)
    assert choose_voters(MEMBERS[:4], present=(B, C, D)) == (B, C, D)
    zoned = [member(n, zone="x" if n < 4 else f"z{n}") for n in range(1, 6)]
    assert choose_voters(zoned[2:]) == (zoned[2].id, D, E)
    assert choose_voters([member(n, capacity=0) for n in range(3)]) == ()
    assert len(choose_voters([member(n) for n in range(1, 40)])) == 7


def test_nobody_is_replaced_for_the_sake_of_spread() -> None:
    zoned = (*(member(n, zone="x") for n in (1, 2, 3)), member(4, zone="y"))
    assert replaced((A, B, C), zoned, gone=()) == (A, B, C)
    assert replaced((A, B, C), zoned, gone=(), joined=(D,)) == (A, B, C)


def test_the_place_of_a_voter_that_goes_is_taken_by_who_was_there_before() -> None:
    assert replaced((A, B, C), MEMBERS[:5], gone=(C,), joined=(D,)) == (A, B, E)


def test_of_these_by_who_is_in_the_zone_with_the_fewest() -> None:
    zones = {1: "x", 2: "x", 3: "y", 4: "x", 5: "y"}
    members = tuple(member(n, zone=zone) for n, zone in zones.items())
    assert replaced((A, B, C), members, gone=(C,)) == (A, B, E)


def test_neither_by_a_leaver_nor_by_a_node_without_capacity() -> None:
    members = (*MEMBERS[:4], member(5, capacity=0), member(6))
    assert replaced((A, B, C), members, gone=(C,), leaving=(D,)) == (A, B, F)


def test_else_by_who_joins() -> None:
    """A ring of three of which one is replaced: one voter that is left would be one too few to lose
    (seed 3158)."""
    assert replaced((A, B, C), MEMBERS[:4], gone=(B,), joined=(D,)) == (A, C, D)


def test_two_that_are_left_become_one_and_a_leaver_goes_first() -> None:
    assert replaced((A, B, C), MEMBERS[:3], gone=(C,)) == (A,)
    assert replaced((A, B, C), MEMBERS[:3], gone=(C,), leaving=(A,)) == (B,)


def test_without_anybody_who_was_there_nobody_votes() -> None:
    assert replaced((A,), MEMBERS[:2], gone=(A,), joined=(B,)) == ()
    assert replaced((A,), MEMBERS[:2], gone=(A,)) == (B,)


@pytest.mark.parametrize("voters", [v for n in (1, 3, 5) for v in combinations((A, B, C, D, E), n)])
def test_whoever_goes_and_joins_the_others_have_a_majority_of_an_odd_number(
    voters: tuple[NodeId, ...],
) -> None:
    for gone in (g for n in (1, 2, 3) for g in combinations((A, B, C, D, E), n)):
        for joined in ((), (F,), (F, G)):
            members = tuple(m for m in MEMBERS[:5] if m.id not in gone)
            members += tuple(m for m in MEMBERS if m.id in joined)
            chosen = replaced(voters, members, gone=gone, joined=joined)
            assert len(chosen) % 2 == 1
            assert len(chosen) <= len(voters)
            assert list(chosen) == sorted(set(chosen))
            assert set(gone).isdisjoint(chosen)
            assert 2 * len(set(chosen).difference(joined)) > len(chosen)
            stay = set(voters).difference(gone)
            assert stay.issuperset(chosen) or stay.issubset(chosen)
