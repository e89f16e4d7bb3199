"""Plans of changes: every one keeps the rules, moves as little as can be, and folds."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dynagent.client.changes import (
    ChangePlan,
    plan_join,
    plan_leave,
    plan_members,
    plan_remove,
    plan_replace,
    plan_replacements,
)
from dynagent.client.guards import check_possible
from dynagent.core.claim import plan
from dynagent.core.claim_rules import fault, rules
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import JOINT_NEW, JOINT_OLD, SETTLED, Member, Ring
from dynagent.core.ringentry import Content, Entry, PhaseEntry, RetireEntry, fold
from dynagent.core.voters import choose_voters
from dynagent.errors import BadRequest, PlanInfeasible, Refused
from tests.core.placements import member

ID = b"i" * 16


def ring_of(*members: Member, partitions: int = 16, n: int = 3) -> Ring:
    ordered = tuple(sorted(members, key=lambda m: m.id))
    return Ring(
        epoch=1,
        cluster_id=b"c" * 16,
        n=n,
        r=n // 2 + 1,
        w=n // 2 + 1,
        members=ordered,
        lists=plan(members=ordered, partitions=partitions, n=n).lists,
        voters=choose_voters(ordered),
    )


def numbered(count: int) -> list[Member]:
    return [member(number) for number in range(1, count + 1)]


def decided(ring: Ring, content: Content) -> Ring:
    return fold(ring, Entry(content=content, proposer=ring.members[0].id, wall_ms=0))


def settled(change: ChangePlan) -> Ring:
    """The ring after all phases of the change."""
    ring = change.after
    for phase in (JOINT_NEW, SETTLED):
        if ring.change is not None:
            content = PhaseEntry(
                index=ring.change.index, phase=phase, partitions=tuple(sorted(ring.moves))
            )
            ring = decided(ring, content)
    return ring


def check(change: ChangePlan) -> Ring:
    """What holds for every plan; returns the settled ring."""
    ring, entry = change.ring, change.entry
    after = settled(change)
    assert after.change is None
    assert after.lists == change.lists
    staying = [m for m in entry.members if m.id not in (*entry.leaving, *entry.removed)]
    terms = rules(staying, partitions=ring.partitions, n=ring.n, allow_colocated=False)
    numbers = {node: i for i, node in enumerate(terms.nodes)}
    for owners in after.lists:
        assert len(set(owners)) == ring.n
        assert fault(terms, [numbers[node] for node in owners]) == ""
    pairs = zip(ring.lists, after.lists, strict=True)
    moved = sum(node not in was for was, now in pairs for node in now)
    assert moved == change.moved == sum(change.gains.values())
    assert change.bound <= moved
    assert sum(held for held, _ in change.places.values()) == ring.n * ring.partitions
    assert sum(held for _, held in change.places.values()) == ring.n * ring.partitions
    return after


@st.composite
def rings(draw: st.DrawFn) -> Ring:
    n = draw(st.integers(1, 3))
    count = draw(st.integers(n + 1, 8))
    zones = draw(st.integers(1, 4))
    members = [
        member(
            number,
            capacity=draw(st.integers(1, 3)),
            zone=f"zone-{number % zones}",
            host=f"host-{number if number <= n + 1 else number // 2}",
        )
        for number in range(1, count + 1)
    ]
    for at, one in enumerate(members):  # a host is in one zone
        first = next(m for m in members if m.host == one.host)
        members[at] = replace(one, zone=first.zone)
    return ring_of(*members, partitions=draw(st.sampled_from((8, 16, 32))), n=n)


@st.composite
def plans(draw: st.DrawFn) -> ChangePlan:
    ring = draw(rings())
    some = st.lists(st.sampled_from(ring.members), min_size=1, max_size=2, unique=True)
    fresh = [
        member(
            number,
            capacity=draw(st.integers(0, 3)),
            host=draw(st.sampled_from((f"new-{number}", ring.members[0].host))),
            zone=ring.members[0].zone,
        )
        for number in (21, 22)
    ]
    try:
        match draw(st.sampled_from(("join", "leave", "replace", "remove", "set"))):
            case "join":
                return plan_join(ring, fresh[: draw(st.integers(1, 2))], id=ID)
            case "leave":
                return plan_leave(ring, [m.id for m in draw(some)], id=ID)
            case "remove":
                return plan_remove(ring, [m.id for m in draw(some)], id=ID)
            case "replace":
                gone = draw(st.booleans())
                old = draw(st.sampled_from(ring.members)).id
                return plan_replace(ring, old, fresh[0], id=ID, removed=gone)
            case _:
                capacity = draw(st.integers(0, 4))
                changed = [replace(m, capacity=capacity, host=f"{m.id}") for m in draw(some)]
                return plan_members(ring, changed, id=ID)
    except PlanInfeasible:
        assume(False)
        raise


@settings(max_examples=60, deadline=None)
@given(plans())
def test_every_plan_keeps_the_rules_and_moves_as_little_as_can_be(change: ChangePlan) -> None:
    after = check(change)
    gone = {*change.entry.leaving, *change.entry.removed}
    assert gone.isdisjoint(node for owners in after.lists for node in owners)
    assert gone.isdisjoint(after.voters)


def test_one_change_takes_several_in_and_moves_only_to_them() -> None:
    change = plan_join(ring_of(*numbered(3)), [member(4), member(5)], id=ID)
    check(change)
    assert set(change.gains) == {member(4).id, member(5).id}
    assert change.moved == change.bound
    assert change.places[member(4).id] in ((0, 9), (0, 10))


def test_a_router_joins_without_moving_anything() -> None:
    change = plan_join(ring_of(*numbered(3)), [member(4, capacity=0)], id=ID)
    assert change.moved == 0
    assert change.after.change is None
    assert change.after.member(member(4).id) is not None


def test_a_leaver_stays_a_member_until_it_retires_and_the_next_plan_gives_it_nothing() -> None:
    first = plan_leave(ring_of(*numbered(5)), [member(5).id], id=ID)
    ring = check(first)
    assert ring.leaving == (member(5).id,)
    second = plan_join(ring, [member(6)], id=ID)
    assert check(second).leaving == (member(5).id,)
    gone = decided(settled(second), RetireEntry(nodes=(member(5).id,)))
    assert gone.member(member(5).id) is None


@pytest.mark.parametrize("removed", [True, False])
def test_a_replacement_takes_the_very_seats(removed: bool) -> None:
    ring = ring_of(*numbered(5))
    old, new = member(2).id, member(9, capacity=4)
    change = plan_replace(ring, old, new, id=ID, removed=removed)
    assert check(change).lists == tuple(
        tuple(new.id if node == old else node for node in row) for row in ring.lists
    )
    assert change.moved == sum(row.count(old) for row in ring.lists)
    heir = change.after.member(new.id)
    assert heir is not None
    assert heir.capacity == 1
    assert "dynctl node set n9 --capacity 4" in change.notes[0]


def test_several_lost_nodes_are_replaced_in_one_change() -> None:
    ring = replace(ring_of(*numbered(3)), voters=(member(1).id,))
    heirs = {member(2).id: member(8), member(3).id: member(9)}
    change = plan_replacements(ring, heirs, id=ID, removed=True)
    check(change)
    assert change.moved == 32
    assert change.entry.verb == "replace n2 by n8, n3 by n9"
    check_possible(change, [member(1).id, member(8).id, member(9).id])
    with pytest.raises(Refused, match="is a member already"):
        plan_replacements(ring, dict.fromkeys(heirs, member(9)), id=ID)


def test_a_replacement_on_a_host_in_use_is_planned_anew_and_says_so() -> None:
    ring = ring_of(*numbered(5))
    change = plan_replace(ring, member(2).id, member(9, host="host-1"), id=ID)
    check(change)
    assert "the places cannot be taken over as they are: partition" in change.notes[0]
    assert "too many copies on one host" in change.notes[0]


def test_a_removed_machine_may_come_back_under_its_name_with_a_new_disk() -> None:
    ring = ring_of(*numbered(4))
    again = replace(member(2), id=NodeId("f" * 16))
    check(plan_replace(ring, member(2).id, again, id=ID, removed=True))
    with pytest.raises(Refused, match="is named n2"):
        plan_replace(ring, member(2).id, again, id=ID)


def test_another_address_moves_nothing() -> None:
    changed = replace(member(1), address="10.1.1.1:7411")
    change = plan_members(ring_of(*numbered(4)), [changed], id=ID)
    assert change.moved == 0
    assert change.entry.moves == ()
    assert change.after.member(changed.id) == changed


def test_capacity_0_makes_a_router() -> None:
    change = plan_members(ring_of(*numbered(4)), [replace(member(1), capacity=0)], id=ID)
    after = check(change)
    assert change.places[member(1).id] == (12, 0)
    assert after.leaving == ()


def test_a_joiner_on_the_host_of_a_member_is_pointed_out() -> None:
    ring = ring_of(*numbered(4))
    change = plan_join(ring, [member(5, host="host-1"), member(6, host="host-6")], id=ID)
    assert change.notes == ("n5 is on host host-1, as n1: they never hold copies of the same key",)


def test_what_cannot_be_is_refused_with_a_reason() -> None:
    ring = ring_of(*numbered(3))
    with pytest.raises(PlanInfeasible, match="without n3: 2 nodes hold capacity, N=3 needs 3"):
        plan_leave(ring, [member(3).id], id=ID)
    with pytest.raises(Refused, match="is a member already"):
        plan_join(ring, [member(2)], id=ID)
    with pytest.raises(Refused, match="is named n2, as the member at"):
        plan_join(ring, [replace(member(4), name="n2")], id=ID)
    with pytest.raises(Refused, match="n4 has the address of n2"):
        plan_join(ring, [replace(member(4), address=member(2).address)], id=ID)
    with pytest.raises(BadRequest, match="is no member"):
        plan_leave(ring, [NodeId("nobody")], id=ID)
    with pytest.raises(BadRequest, match="named twice"):
        plan_remove(ring, [member(2).id] * 2, id=ID)
    with pytest.raises(Refused, match="has it already"):
        plan_members(ring, [member(2)], id=ID)


def test_there_is_one_change_at_a_time() -> None:
    ring = plan_join(ring_of(*numbered(3)), [member(4)], id=ID).after
    assert ring.moves[PartitionId(0)].phase == JOINT_OLD
    with pytest.raises(Refused, match="a change is under way"):
        plan_join(ring, [member(5)], id=ID)
