"""Each checker of fences and votes bites: shown a pledge that is kept, and one that is not."""

from __future__ import annotations

import pytest

from dynagent.core.encoding import encode
from dynagent.core.messages import (
    WANT_DIGEST,
    Ballot,
    Error,
    Fence,
    FenceReply,
    Merge,
    MergeAck,
    Read,
    RingIs,
    Sift,
    SiftReply,
    Vote,
)
from dynagent.core.ports import LinkId
from dynagent.core.ring import JOINT_OLD
from dynagent.testing.pledges import Pledges
from dynagent.testing.rings import Rings
from dynagent.testing.world import World
from tests.sim.test_checkers import objections
from tests.sim.test_ring_checkers import RING, A, C, Host, key_in, moving

LINK = LinkId(1)


def fenced(world: World, *, at: tuple[int, int]) -> Pledges:
    """Of a node whose disk says that partition 0 is refused below that stamp."""
    rings, ring = Rings(world, RING), moving(JOINT_OLD)
    rings.look(Host(A, ring))
    rings.on_row(C, "stamps/0", encode([[at[0]], [at[1]]]), ring)
    return Pledges(world=world, rings=rings, node=C)


@pytest.mark.parametrize(("stamp", "objects"), [((2, 0), set()), ((1, 2), {"fences_hold"})])
def test_what_is_below_a_fence_is_taken(stamp: tuple[int, int], objects: set[str]) -> None:
    world = World(0)
    pledges = fenced(world, at=(2, 0))
    pledges.on_request(LINK, 1, Read(*stamp, key_in(0), WANT_DIGEST), newest_batch=0)
    pledges.on_answer(LINK, 1, RingIs(2))
    pledges.on_request(LINK, 2, Merge(*stamp, 0, [[key_in(0), [], [], []]]), newest_batch=0)
    pledges.on_answer(LINK, 2, Error(1, "no"))
    assert objections(world) == set()
    pledges.on_request(LINK, 3, Merge(*stamp, 0, [[key_in(0), [], [], []]]), newest_batch=0)
    pledges.on_answer(LINK, 3, MergeAck())
    assert objections(world) == objects


@pytest.mark.parametrize(("minimum", "objects"), [((2, 0), set()), ((1, 2), {"pledges_last"})])
def test_a_fence_is_told_before_it_is_on_the_disk(
    minimum: tuple[int, int], objects: set[str]
) -> None:
    world = World(0)
    pledges = fenced(world, at=minimum)
    pledges.on_request(LINK, 1, Fence(2, 0, [0]), newest_batch=0)
    pledges.on_answer(LINK, 1, FenceReply([0], [0], [0]))
    assert objections(world) == objects


def vote_row(index: int, promised: tuple[int, int], accepted: tuple[int, int]) -> bytes:
    return bytes(16) + encode([index, [*promised], [*accepted], b""])


@pytest.mark.parametrize(
    ("row", "objects"),
    [
        (vote_row(2, (3, 7), (3, 7)), set()),
        (vote_row(3, (1, 1), (0, 0)), set()),
        (vote_row(2, (3, 7), (0, 0)), {"pledges_last"}),
        (vote_row(1, (3, 7), (3, 7)), {"pledges_last"}),
    ],
)
def test_a_vote_is_told_before_it_is_on_the_disk(row: bytes, objects: set[str]) -> None:
    world = World(0)
    pledges = Pledges(world=world, rings=Rings(world, RING), node=C)
    pledges.on_vote_row(row)
    pledges.on_request(LINK, 1, Ballot(2, 3, 7, b"entry"), newest_batch=0)
    pledges.on_answer(LINK, 1, Vote(3, 7, 3, 7, b"entry"))
    assert objections(world) == objects


def test_a_vote_is_forgotten() -> None:
    world = World(0)
    pledges = Pledges(world=world, rings=Rings(world, RING), node=C)
    pledges.on_vote_row(vote_row(2, (3, 7), (3, 7)))
    pledges.on_vote_row(vote_row(2, (4, 1), (3, 7)))
    pledges.on_vote_row(vote_row(3, (1, 1), (0, 0)))
    assert objections(world) == set()
    pledges.on_vote_row(vote_row(3, (1, 0), (0, 0)))
    assert objections(world) == {"votes_grow"}


@pytest.mark.parametrize(("landed", "objects"), [(7, set()), (6, {"pledges_last"})])
def test_a_tree_is_told_before_its_records_are_on_the_disk(landed: int, objects: set[str]) -> None:
    world = World(0)
    pledges = Pledges(world=world, rings=Rings(world, RING), node=C)
    pledges.on_request(LINK, 1, Sift(2, 0, 0, 0, [0], [bytes(16)]), newest_batch=7)
    pledges.on_landed(landed)
    pledges.on_answer(LINK, 1, SiftReply([], []))
    assert objections(world) == objects
