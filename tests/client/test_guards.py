"""What a change costs, what it risks, and which are refused because of who is down."""

import pytest

from dynagent.client.changes import plan_join, plan_leave, plan_remove, plan_replace
from dynagent.client.forecast import Load, cost, risks
from dynagent.client.guards import check_forced, check_possible, losses
from dynagent.core.ports import NodeId
from dynagent.errors import Refused
from tests.client.test_changes import ID, numbered, ring_of
from tests.core.placements import member

RING = ring_of(*numbered(5))
A, B, C, D, E = (m.id for m in RING.members)
F = member(6).id
ALL = frozenset((A, B, C, D, E, F))


def load(keys: int, *, rate: float | None = 1e6) -> Load:
    return Load(keys=keys, bytes=keys * 100, bytes_per_s=rate)


# --- cost ----------------------------------------------------------------------------------------


def test_a_change_costs_what_moves_at_the_slowest_rate() -> None:
    change = plan_join(RING, [member(6)], id=ID)
    loads = {node: load(9_600) for node in (A, B, C, D, E)} | {F: load(0, rate=1e5)}
    found = cost(change, loads)
    assert change.moved == 8
    assert found.keys == 8 * 1_000
    assert found.bytes == 8 * 100_000
    assert found.bytes_of == {F: 800_000}
    assert found.seconds == 8.0


def test_what_nobody_told_is_unknown_and_what_does_not_move_costs_nothing() -> None:
    change = plan_join(RING, [member(6)], id=ID)
    assert cost(change, {}).seconds is None
    assert cost(change, {node: load(10, rate=None) for node in ALL}).seconds is None
    router = plan_join(RING, [member(6, capacity=0)], id=ID)
    assert cost(router, {}).seconds == 0.0
    assert cost(router, {A: load(10)}).seconds == 0.0


# --- risk ----------------------------------------------------------------------------------------


def test_with_all_up_no_single_death_fails_a_partition_in_any_step() -> None:
    found = risks(plan_join(RING, [member(6)], id=ID), ALL)
    assert [risk.step for risk in found] == ["now", "copying", "switching", "settled"]
    for risk in found:
        assert risk.worst is None
        assert risk.writes_fail == risk.reads_fail == ()
        assert risk.writes_fragile == risk.reads_fragile == ()


def test_with_one_down_its_partitions_are_fragile_until_it_is_replaced() -> None:
    change = plan_replace(RING, B, member(6), id=ID, removed=True)
    now, copying, switching, settled = risks(change, ALL - {B})
    owned = tuple(p for p, owners in enumerate(RING.lists) if B in owners)
    assert now.writes_fragile == now.reads_fragile == owned
    assert copying.writes_fragile == copying.reads_fragile == owned
    assert switching.writes_fragile == owned  # still W of both lists
    assert switching.reads_fragile == ()
    assert settled.writes_fragile == settled.reads_fragile == ()
    assert copying.worst in (A, C, D, E)


def test_two_down_of_a_list_fail_it() -> None:
    change = plan_join(RING, [member(6)], id=ID)
    both = tuple(p for p, owners in enumerate(RING.lists) if {A, B} <= set(owners))
    assert risks(change, ALL - {A, B})[0].writes_fail == both


def test_a_router_has_two_steps_only() -> None:
    found = risks(plan_join(RING, [member(6, capacity=0)], id=ID), ALL)
    assert [risk.step for risk in found] == ["now", "settled"]


# --- guards --------------------------------------------------------------------------------------


def test_what_everybody_is_up_for_passes() -> None:
    check_possible(plan_join(RING, [member(6)], id=ID), ALL)
    check_possible(plan_leave(RING, [E], id=ID), ALL)
    check_possible(plan_remove(RING, [E], id=ID), ALL - {E})
    check_possible(plan_replace(RING, E, member(6), id=ID, removed=True), ALL - {E})


def test_a_change_needs_a_majority_of_voters() -> None:
    with pytest.raises(Refused, match=r"3 of 5 voters are down \(n1, n2, n3\).*start n1"):
        check_possible(plan_join(RING, [member(6, capacity=0)], id=ID), ALL - {A, B, C})


def test_a_leaver_that_is_down_cannot_hand_over() -> None:
    with pytest.raises(Refused, match=r"n5 is down .* dynctl remove n5 --force"):
        check_possible(plan_leave(RING, [E], id=ID), ALL - {E})


def test_nobody_that_is_down_gets_anything() -> None:
    with pytest.raises(Refused, match="n4 is down and would have to copy"):
        check_possible(plan_leave(RING, [E], id=ID), ALL - {D})


def test_a_move_with_too_few_owners_up_would_lose_a_write() -> None:
    change = plan_join(RING, [member(6)], id=ID)
    moving = next(RING.lists[p] for p in change.after.moves)
    with pytest.raises(Refused, match="fewer than 2 owners up to copy from"):
        check_possible(change, ALL - set(moving[:2]))


def test_what_is_removed_is_no_source_and_the_last_copy_is_not_removed() -> None:
    two = plan_remove(ring_of(*numbered(6)), [A, B], id=ID)
    check_possible(two, ALL - {A, B})
    assert "writes that only they had acknowledged are lost" in losses(two)
    assert losses(plan_remove(RING, [A], id=ID)) == ""
    ring = ring_of(*numbered(8))
    gone = list(ring.lists[0])
    everybody = [m.id for m in ring.members]
    with pytest.raises(Refused, match="lose their last copies"):
        check_possible(plan_remove(ring, gone, id=ID), everybody)


@pytest.mark.parametrize(
    ("up", "told"),
    [(ALL, "n5 is up: dynctl leave n5"), (ALL - {E}, "the copies of n5 would be declared lost")],
)
def test_copies_are_declared_lost_only_by_force(up: frozenset[NodeId], told: str) -> None:
    with pytest.raises(Refused, match=told):
        check_forced(RING, [E], up, force=False)
    check_forced(RING, [E], up, force=True)
