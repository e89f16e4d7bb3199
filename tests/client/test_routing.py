"""The retry rule, without a network."""

import pytest

from dynagent.client.changes import plan_join
from dynagent.client.routing import Addresses, Plan
from dynagent.core.ring import JOINT_NEW, token_of
from dynagent.core.ringentry import PhaseEntry
from dynagent.errors import (
    BadRequest,
    ConnectionLost,
    DynagentError,
    NotReady,
    Overloaded,
    QuorumNotMet,
    TooLarge,
    Unreachable,
    WriteOutcomeUnknown,
)
from tests.client.test_changes import ID, decided, numbered, ring_of
from tests.core.placements import member

ADDRESSES = ["a", "b", "c"]


def plan(*, is_write: bool = True, addresses: list[str] = ADDRESSES) -> Plan:
    return Plan(addresses, deadline=10.0, is_write=is_write)


def run(made: Plan, *errors: DynagentError) -> list[str]:
    """The addresses tried while each try fails with the next of `errors`."""
    tried = []
    for error in errors:
        step = made.next(0.0)
        if step is None:
            break
        tried.append(step[0])
        made.failed(error)
    return tried


def test_the_first_try_goes_to_the_first_address_with_half_of_the_time() -> None:
    assert plan().next(0.0) == ("a", 5.0)


def test_the_last_try_gets_all_that_is_left() -> None:
    made = plan()
    run(made, *[NotReady()] * 3)
    assert made.next(9.0) == ("a", 1.0)


@pytest.mark.parametrize("error", [NotReady(), Overloaded(), QuorumNotMet(), Unreachable()])
def test_a_definite_failure_is_sent_on_as_a_first_attempt(error: DynagentError) -> None:
    made = plan()
    assert run(made, error, error) == ["a", "b"]
    assert made.attempt == 1


@pytest.mark.parametrize("error", [ConnectionLost(), WriteOutcomeUnknown()])
def test_an_indefinite_failure_of_a_put_makes_the_next_try_a_retry(error: DynagentError) -> None:
    made = plan()
    assert run(made, error) == ["a"]
    assert made.attempt == 2
    assert made.next(0.0) is not None


@pytest.mark.parametrize("error", [BadRequest("R=4"), TooLarge("1,025 bytes")])
def test_a_wrong_request_is_not_tried_elsewhere(error: DynagentError) -> None:
    made = plan()
    assert run(made, error, error) == ["a"]
    assert made.error() is error


def test_once_a_put_may_have_happened_its_failure_stays_indefinite() -> None:
    made = plan()
    run(made, ConnectionLost("a: closed"), Unreachable("b: refused"), Unreachable("c: refused"))
    error = made.error()
    assert isinstance(error, WriteOutcomeUnknown)
    assert "a: closed" in error.message and "c: refused" in error.message


def test_a_lost_get_is_no_unknown_outcome() -> None:
    made = plan(is_write=False)
    run(made, ConnectionLost("a"), Unreachable("b"), Unreachable("c"))
    assert isinstance(made.error(), Unreachable)
    assert made.attempt == 1


def test_when_nobody_is_there_each_address_is_tried_once() -> None:
    assert run(plan(), *[Unreachable()] * 9) == ["a", "b", "c"]


def test_when_nobody_is_there_everybody_is_named_up_to_a_bound() -> None:
    made = plan()
    run(made, Unreachable("a: gone"), Unreachable("b: gone"), Unreachable("c: gone"))
    assert made.error().message == "a: gone, b: gone, c: gone"
    made = plan(addresses=[*"abcde"])
    run(made, *[Unreachable(f"{name}: gone") for name in "abcde"])
    assert made.error().message == "a: gone, b: gone, c: gone, and 2 more"


def test_a_busy_cluster_is_asked_again_within_the_bound() -> None:
    assert run(plan(), *[Overloaded()] * 9) == ["a", "b", "c", "a"]


def test_a_large_cluster_that_is_busy_is_asked_no_more_often_than_a_small_one() -> None:
    assert len(run(plan(addresses=[*"abcdefgh"]), *[Overloaded()] * 9)) == 4


def test_after_each_refusal_for_overload_the_rest_is_longer() -> None:
    made = plan()
    rests = []
    for _ in range(4):
        assert made.next(0.0) is not None
        made.failed(Overloaded())
        rests.append((round(made.pause_s(0.0, 0.0), 3), round(made.pause_s(0.0, 1.0), 3)))
    assert rests == [(0.05, 0.1), (0.1, 0.2), (0.2, 0.4), (0.0, 0.0)]


def test_nobody_rests_past_the_deadline() -> None:
    made = plan()
    run(made, Overloaded("full"))
    assert made.pause_s(9.95, 1.0) == 0.0
    assert made.next(9.95) is None
    assert made.error().message == "full"


@pytest.mark.parametrize("error", [NotReady(), QuorumNotMet(), ConnectionLost()])
def test_other_failures_are_sent_on_at_once(error: DynagentError) -> None:
    made = plan()
    run(made, error)
    assert made.pause_s(0.0, 1.0) == 0.0


def test_a_repeated_put_is_a_retry_from_the_start_and_its_failure_indefinite() -> None:
    made = Plan(ADDRESSES, deadline=10.0, is_write=True, repeats=True)
    assert made.attempt == 2
    run(made, *[QuorumNotMet("nobody there")] * 9)
    assert isinstance(made.error(), WriteOutcomeUnknown)
    assert "nobody there" in made.error().message


def test_a_definite_answer_is_not_hidden_by_an_address_where_nobody_is() -> None:
    made = plan()
    run(made, QuorumNotMet("W=3"), Unreachable("b"), Unreachable("c"))
    assert isinstance(made.error(), QuorumNotMet)


def test_of_a_partition_that_moves_those_are_asked_first_who_are_read() -> None:
    ring = plan_join(ring_of(*numbered(3)), [member(4)], id=ID).after
    partition = min(ring.moves)
    key = next(
        key
        for key in (b"key-%d" % number for number in range(10_000))
        if ring.partition_of(token_of(key)) == partition
    )
    address_of = {m.id: m.address for m in ring.members}
    _, new = ring.write_lists(partition)
    assert Addresses(ring, []).of(key)[:4] == [address_of[n] for n in ring.all_owners(partition)]
    content = PhaseEntry(index=2, phase=JOINT_NEW, partitions=(partition,))
    switched = Addresses(decided(ring, content), ["e"]).of(key)
    assert switched[:3] == [address_of[node] for node in new]
    assert set(switched) == {*address_of.values(), "e"}
    assert len(switched) == 5


def test_nothing_is_tried_after_the_deadline() -> None:
    assert plan().next(10.0) is None


def test_without_addresses_nothing_is_reachable() -> None:
    made = plan(addresses=[])
    assert made.next(0.0) is None
    assert isinstance(made.error(), Unreachable)
