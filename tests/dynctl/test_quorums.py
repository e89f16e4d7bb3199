"""`health` tells which requests would pass now, as the agents see each other."""

from __future__ import annotations

import pytest

from dynagent.core.ports import NodeId
from dynagent.core.ring import Member, Ring
from dynctl.observe import Observation, Seen
from dynctl.quorums import failing
from dynctl.views.nodes import HealthDocument, health_document, quorum_words

IDS = tuple(NodeId(letter * 16) for letter in "abcde")
CLUSTER_ID = b"c" * 16


def observed(**views: str) -> Observation:
    """What each agent that answers uses: `a="abc"`. Partitions have 3 owners, R=W=2."""
    members = tuple(
        Member(id=id_, name=id_[0], address="h:1", zone="", host=id_, capacity=1) for id_ in IDS
    )
    lists = tuple(tuple(IDS[(at + place) % 5] for place in range(3)) for at in range(10))
    ring = Ring(epoch=1, cluster_id=CLUSTER_ID, n=3, r=2, w=2, members=members, lists=lists)
    seen = []
    for member in members:
        up = [letter * 16 for letter in views.get(member.name, "")]
        status = {"state": "serving", "cluster_id": CLUSTER_ID, "up": up}
        answered = member.name in views
        problem = "" if len(up) == len(IDS) else "not linked with all" if answered else "down"
        seen.append(Seen(member=member, status=status if answered else None, problem=problem))
    return Observation(
        agent="h:1", ring=ring, up=frozenset(), suspected={}, facts={}, members=tuple(seen)
    )


def with_up(up: str) -> Observation:
    return observed(**dict.fromkeys(up, up))


@pytest.mark.parametrize(
    ("up", "strict", "sloppy"),
    [
        ("abcde", 0, 0),
        ("abcd", 0, 0),  # each key has two owners left
        ("abc", 4, 0),  # cde and dea and, twice each: stand-ins make up for it
        ("a", 10, 10),
    ],
)
def test_a_partition_needs_enough_owners_or_stand_ins(up: str, strict: int, sloppy: int) -> None:
    assert failing(with_up(up)) == (strict, sloppy)


def test_an_agent_that_is_cut_off_fails_nothing_that_others_serve() -> None:
    assert failing(observed(a="abcd", b="abcd", c="abcd", d="abcd", e="e")) == (0, 0)


def test_owners_that_do_not_see_each_other_are_no_quorum() -> None:
    strict, sloppy = failing(observed(a="a", b="b", c="c", d="d", e="e"))
    assert (strict, sloppy) == (10, 10)


@pytest.mark.parametrize(
    ("up", "word"), [("abcde", "healthy"), ("abc", "degraded"), ("a", "unavailable")]
)
def test_health_has_a_word_for_it(up: str, word: str) -> None:
    document = health_document(with_up(up))
    assert document.quorums == word
    assert isinstance(document, HealthDocument)
    assert document.healthy == (word == "healthy")
    assert word in quorum_words(document) or word == "healthy"
