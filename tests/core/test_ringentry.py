"""What the entries of the ring log make of a ring, step by step, and their bytes."""

from dataclasses import replace

import pytest

from dynagent.core.claim import plan
from dynagent.core.ports import PartitionId
from dynagent.core.ring import JOINT_NEW, JOINT_OLD, SETTLED, Ring
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.core.ringentry import (
    AbortEntry,
    ChangeEntry,
    Content,
    Entry,
    PhaseEntry,
    PolicyEntry,
    RetireEntry,
    VotersEntry,
    decode_log_entry,
    encode_log_entry,
    fold,
)
from dynagent.errors import ProtocolError, Refused
from tests.core.harness import member

MEMBERS = tuple(member(number) for number in range(1, 6))
A, B, C, D, E = (m.id for m in MEMBERS)
START = Ring(
    epoch=1,
    cluster_id=b"c" * 16,
    n=3,
    r=2,
    w=2,
    members=MEMBERS[:4],
    lists=plan(members=MEMBERS[:4], partitions=8, n=3).lists,
    voters=(A, B, C),
)


def entry(content: Content) -> Entry:
    return Entry(content=content, proposer=A, wall_ms=5)


def join(ring: Ring = START) -> ChangeEntry:
    lists = plan(members=MEMBERS, partitions=8, n=3, old=ring.lists).lists
    moves = tuple(
        (PartitionId(p), new) for p, new in enumerate(lists) if new != ring.lists[PartitionId(p)]
    )
    return ChangeEntry(
        id=b"j" * 16, verb="join", members=MEMBERS, leaving=(), removed=(), moves=moves
    )


def folded(ring: Ring, *contents: Content) -> Ring:
    for content in contents:
        before = ring
        data = encode_log_entry(entry(content))
        assert decode_log_entry(data) == entry(content)
        ring = fold(ring, decode_log_entry(data))
        assert ring.epoch == before.epoch + 1
        assert decode_ring(encode_ring(ring)) == ring
    return ring


def test_a_join_goes_through_its_phases_partition_by_partition() -> None:
    change = join()
    joint = folded(START, change)
    moving = [p for p, owners in change.moves if set(owners) != set(START.lists[p])]
    assert moving and sorted(joint.moves) == moving
    first, *rest = moving
    assert joint.change is not None and joint.change.joined == (E,)
    assert joint.stamps[first] == (2, JOINT_OLD)
    assert joint.read_list(first) == START.lists[first]
    assert joint.write_lists(first) == (START.lists[first], dict(change.moves)[first])
    assert joint.new_owners(first) == (E,)
    assert joint.owns(E, first)
    newer = folded(joint, PhaseEntry(index=2, phase=JOINT_NEW, partitions=(first,)))
    assert newer.stamps[first] == (2, JOINT_NEW)
    assert newer.read_list(first) == dict(change.moves)[first]
    settled = folded(newer, PhaseEntry(index=2, phase=SETTLED, partitions=(first,)))
    assert settled.stamps[first] == (2, SETTLED)
    assert settled.lists[first] == dict(change.moves)[first]
    done = folded(
        settled,
        PhaseEntry(index=2, phase=JOINT_NEW, partitions=tuple(rest)),
        PhaseEntry(index=2, phase=SETTLED, partitions=tuple(rest)),
    )
    assert done.change is None
    assert done.lists == tuple(
        dict(change.moves).get(PartitionId(p), old) for p, old in enumerate(START.lists)
    )


def test_a_second_change_is_refused_while_one_is_under_way() -> None:
    with pytest.raises(Refused, match="ring abort"):
        fold(folded(START, join()), entry(join()))


def test_an_abort_gives_up_what_is_in_its_first_phase_and_keeps_the_rest() -> None:
    joint = folded(START, join())
    first, *rest = joint.moves
    part = folded(joint, PhaseEntry(index=2, phase=JOINT_NEW, partitions=(first,)))
    aborted = folded(part, AbortEntry(index=2, id=b"a" * 16))
    assert sorted(aborted.moves) == [first]
    assert aborted.member(E) is not None
    assert all(aborted.stamps[p] == (4, SETTLED) for p in rest)
    assert all(aborted.lists[p] == START.lists[p] for p in rest)
    whole = folded(joint, AbortEntry(index=2, id=b"a" * 16))
    assert whole.members == START.members
    assert whole.change is None
    with pytest.raises(Refused, match="not under way"):
        fold(whole, entry(AbortEntry(index=2, id=b"a" * 16)))


def leave(*, removed: bool) -> ChangeEntry:
    others = [m for m in MEMBERS[:4] if m.id != D]
    lists = plan(members=others, partitions=8, n=3, old=START.lists).lists
    moves = tuple((PartitionId(p), new) for p, new in enumerate(lists) if new != START.lists[p])
    gone = (D,)
    return ChangeEntry(
        id=b"l" * 16,
        verb="remove" if removed else "leave",
        members=START.members,
        leaving=() if removed else gone,
        removed=gone if removed else (),
        moves=moves,
    )


@pytest.mark.parametrize("removed", [False, True])
def test_who_leaves_stays_until_it_retires_and_who_is_removed_until_it_is_settled(
    removed: bool,
) -> None:
    ring = folded(START, leave(removed=removed))
    if removed:
        with pytest.raises(Refused, match="cannot be taken back"):
            fold(ring, entry(AbortEntry(index=2, id=b"a" * 16)))
    else:
        with pytest.raises(Refused, match="owns partitions"):
            fold(ring, entry(RetireEntry(nodes=(D,))))
    moving = tuple(ring.moves)
    ring = folded(
        ring,
        PhaseEntry(index=2, phase=JOINT_NEW, partitions=moving),
        PhaseEntry(index=2, phase=SETTLED, partitions=moving),
    )
    assert (ring.member(D) is None) == removed
    if not removed:
        ring = folded(ring, RetireEntry(nodes=(D,)))
    assert [m.id for m in ring.members] == [A, B, C]


def test_a_list_in_another_order_is_no_move() -> None:
    lists = START.lists
    turned = (*lists[0][1:], lists[0][0])
    change = replace(join(), members=START.members, moves=((PartitionId(0), turned),))
    ring = folded(START, change)
    assert ring.change is None
    assert ring.lists[0] == turned
    assert ring.stamps == START.stamps


def test_a_phase_cannot_be_left_out() -> None:
    joint = folded(START, join())
    first, *_ = joint.moves
    with pytest.raises(Refused, match="phase 2"):
        fold(joint, entry(PhaseEntry(index=2, phase=SETTLED, partitions=(first,))))


def test_voters_and_policies() -> None:
    ring = folded(
        START,
        VotersEntry(voters=(B, C, D)),
        PolicyEntry(id=b"p" * 16, name="auto-replace", value="yes"),
    )
    assert ring.voters == (B, C, D)
    assert ring.policies == (("auto-replace", "yes"),)
    assert folded(ring, PolicyEntry(id=b"q" * 16, name="auto-replace", value="")).policies == ()
    with pytest.raises(Refused):
        fold(ring, entry(VotersEntry(voters=(E,))))


def replace_b_by_d(*, removed: bool) -> ChangeEntry:
    """On the ring of A, B and C alone."""
    return ChangeEntry(
        id=b"r" * 16,
        verb="replace",
        members=MEMBERS[:4],
        leaving=() if removed else (B,),
        removed=(B,) if removed else (),
        moves=tuple((PartitionId(p), (A, D, C)) for p in range(8)),
    )


THREE = replace(START, members=MEMBERS[:3], lists=((A, B, C),) * 8)


def settle(ring: Ring) -> Ring:
    moving, index = tuple(ring.moves), ring.epoch
    return folded(
        ring,
        PhaseEntry(index=index, phase=JOINT_NEW, partitions=moving[:3]),
        PhaseEntry(index=index, phase=SETTLED, partitions=moving[:3]),
        PhaseEntry(index=index, phase=JOINT_NEW, partitions=moving[3:]),
        PhaseEntry(index=index, phase=SETTLED, partitions=moving[3:]),
    )


def test_a_leaver_votes_until_others_own_what_it_had_and_then_who_joined_votes() -> None:
    ring = folded(THREE, replace_b_by_d(removed=False))
    assert ring.voters == (A, B, C)
    part = folded(ring, PhaseEntry(index=2, phase=JOINT_NEW, partitions=tuple(ring.moves)[:3]))
    assert part.voters == (A, B, C)
    done = settle(ring)
    assert done.voters == (A, C, D)
    assert folded(done, RetireEntry(nodes=(B,))).voters == (A, C, D)


def test_what_is_taken_back_has_cost_no_voter() -> None:
    """One of three would have been left, and the next change decided by it alone (seed 3158)."""
    ring = folded(THREE, replace_b_by_d(removed=False), AbortEntry(index=2, id=b"a" * 16))
    assert (ring.members, ring.leaving, ring.voters) == (THREE.members, (), (A, B, C))


def test_who_is_removed_votes_no_more_and_who_joins_for_it_takes_its_place_at_once() -> None:
    ring = folded(THREE, replace_b_by_d(removed=True))
    assert ring.voters == (A, C, D)
    assert settle(ring).voters == (A, C, D)


def test_a_leaver_of_which_nothing_moves_votes_no_more() -> None:
    ring = replace(START, voters=(B, C, D), lists=((A, B, C),) * 8)
    change = replace(leave(removed=False), moves=())
    assert folded(ring, change).voters == (A, B, C)


@pytest.mark.parametrize("data", [[9, 0, "a"], [2, 0, "a", "x"], [1], "x", [6, 0, "a", [1]]])
def test_a_malformed_entry_is_refused(data: object) -> None:
    from dynagent.core.encoding import encode

    with pytest.raises(ProtocolError):
        decode_log_entry(encode(data))
