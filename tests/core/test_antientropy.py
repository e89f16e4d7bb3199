"""When nodes compare with each other: not while one of them catches up with hints from the other,
and no more at once than their loops bear."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from dynagent import limits
from dynagent.core.antientropy import AntiEntropy
from dynagent.core.coordinator import SETTLED
from dynagent.core.delivery import Delivery
from dynagent.core.merkle import ARITY
from dynagent.core.messages import (
    HINTS_PAUSE,
    HINTS_RESUME,
    Compare,
    CompareReply,
    Error,
    Merge,
    MergeAck,
    Message,
)
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import token_of
from dynagent.core.tour import Tour
from dynagent.core.verdict import Verdict
from dynagent.errors import NotReady, Overloaded
from tests.core.harness import IDS, Cluster, Packet, at_once, cluster, is_error
from tests.core.test_exchange import ALL, Watch, hold, keys_at, roots, version

A, B, C = IDS[:3]
KEYS = [b"k%d" % number for number in range(300)]  # three pages


def fill_budgets(world: Cluster) -> None:
    """Nobody has to wait for them."""
    for node in world.nodes.values():
        node.budget.grant(world.now, 1)
    world.now += 10


def away(keys: Iterable[bytes] = KEYS, **bounds: int) -> Cluster:
    """B is down; A has these, and owes them to B."""
    world = cluster(**bounds)
    for node in (A, C):
        world.nodes[node].on_peer_down(world.now, B)
    for number, key in enumerate(keys):
        hold(world, A, key, version(number + 1))
        world.nodes[A].replica.owe([B], key, token_of(key))
    world.commit(A)
    fill_budgets(world)
    world.tick(world.now)
    world.settle()
    return world


def delivery(world: Cluster) -> Delivery:
    found = world.nodes[A].delivery
    assert found is not None
    return found


def antientropy(world: Cluster, node: NodeId) -> AntiEntropy:
    found = world.nodes[node].antientropy
    assert found is not None
    return found


def is_serving(world: Cluster) -> bool:
    return delivery(world).is_serving(B)


def come_back(world: Cluster) -> None:
    for node in (A, C):
        world.nodes[node].on_peer_up(world.now, B)
    world.tick(world.now)


def page(world: Cluster) -> Packet:
    """The one under way; the budget may have to grant it first."""
    while not (found := [one for one in world.wire if isinstance(one.message, Merge)]):
        assert is_serving(world)
        world.tick(world.now + 0.5)
    return found[0]


def deliver_page(world: Cluster) -> None:
    world.deliver(page(world))
    world.commit(B)
    [ack] = [one for one in world.wire if isinstance(one.message, MergeAck)]
    world.deliver(ack)
    world.commit(A)


def add_job(world: Cluster, node: NodeId, peer: NodeId) -> Tour:
    tour = Tour(peer, ALL, lambda _now, _tour, _verdict: None)
    antientropy(world, node).add(world.now, tour)
    return tour


def compares(world: Cluster) -> list[Packet]:
    return [one for one in world.wire if isinstance(one.message, Compare)]


# --- is a target being served? -------------------------------------------------------------------


def test_it_is_from_its_return_to_the_last_acknowledgement() -> None:
    world = away()
    assert not is_serving(world)
    come_back(world)
    for _ in range(3):
        assert is_serving(world)
        deliver_page(world)
    assert not is_serving(world)
    assert keys_at(world, B) == set(KEYS)


def test_it_is_while_a_page_waits_for_the_budget() -> None:
    world = away()
    world.nodes[A].budget.spend(world.now, 1 << 40)
    come_back(world)
    assert not world.wire
    assert is_serving(world)


def test_hints_that_cannot_be_delivered_bar_nobody() -> None:
    world = away()
    world.without_healer(A)
    for key in KEYS[:5]:
        world.disks[A].rows[key] = b"rotten"
        world.nodes[A].replica.forget(key)
    come_back(world)
    for _ in range(3):
        deliver_page(world)
    assert world.nodes[A].replica.hints.counts[B] == 5
    world.tick(world.now + 1)
    world.tick(world.now)  # the end of the list
    for _ in range(10):
        assert not is_serving(world)
        world.tick(world.now + limits.HINT_REST_S)
        world.settle()


def test_a_page_that_fails_bars_nobody_before_another_has_succeeded() -> None:
    world = away()
    come_back(world)
    failed = page(world)
    world.wire.remove(failed)
    world.nodes[A].on_reply(world.now, B, failed.number, Error(Overloaded.code, "busy"))
    assert not is_serving(world)
    world.tick(world.now + limits.HINT_REST_S)
    assert page(world)
    assert not is_serving(world)
    deliver_page(world)
    assert is_serving(world)


def test_a_page_without_an_answer_bars_others_once() -> None:
    world = away()
    come_back(world)
    world.wire.clear()
    world.tick(world.now + limits.HINT_PAGE_S)
    for _ in range(20):
        assert not is_serving(world)
        world.wire.clear()
        world.tick(world.now + 5)


def test_a_paused_target_is_not() -> None:
    world = away()
    come_back(world)
    deliver_page(world)
    delivery(world).order(world.now, HINTS_PAUSE, B)
    assert not is_serving(world)
    delivery(world).order(world.now, HINTS_RESUME, B)
    assert is_serving(world)
    delivery(world).order(world.now, HINTS_PAUSE, None)
    assert not is_serving(world)


def test_one_that_goes_down_is_not() -> None:
    world = away()
    come_back(world)
    world.nodes[A].on_peer_down(world.now, B)
    assert not is_serving(world)


def test_a_stragglers_hint_does_not_count() -> None:
    world = away([])
    come_back(world)
    hold(world, A, b"k", version(1))
    world.nodes[A].replica.owe([B], b"k", token_of(b"k"))
    world.commit(A)
    world.tick(world.now)
    world.tick(world.now + limits.HINT_REST_S)
    assert [one for one in world.wire if isinstance(one.message, Merge)]
    assert not is_serving(world)


def test_one_that_has_refused_for_a_while_catches_up_afterwards() -> None:
    world = away([])
    come_back(world)
    for number, key in enumerate(KEYS):
        hold(world, A, key, version(number + 1))
        world.nodes[A].replica.owe([B], key, token_of(key))
    world.commit(A)
    world.tick(world.now)
    world.tick(world.now + limits.HINT_REST_S)
    [refused] = world.wire
    world.wire.clear()
    world.nodes[A].on_reply(world.now, B, refused.number, Error(Overloaded.code, "busy"))
    world.tick(world.now + limits.HINT_REST_S)
    deliver_page(world)
    assert is_serving(world)


def test_one_whose_dirty_partition_is_walked_is() -> None:
    world = away(owner_hints_max=0)
    come_back(world)
    while world.nodes[A].replica.hints.dirty:
        assert is_serving(world)
        world.settle()
        world.tick(world.now + 0.5)
    assert not is_serving(world)
    assert keys_at(world, B) == set(KEYS)
    assert not world.nodes[A].replica.hints.dirty


# --- hints come first ----------------------------------------------------------------------------


def test_who_delivers_hints_does_not_begin_to_compare() -> None:
    world = away()
    tour = add_job(world, A, B)
    come_back(world)
    assert not compares(world)
    assert "n-a delivers hints to n-b" in tour.problem
    assert antientropy(world, A).due == world.now + limits.EXCHANGE_LATER_S
    world.now += 60
    world.tick(world.now)  # a page is lost: nobody waits for that
    for _ in range(5):
        world.settle()
        world.tick(world.now + limits.EXCHANGE_LATER_S)
    assert not tour.left
    assert not tour.problem


def test_who_delivers_hints_is_compared_soon_after_the_last() -> None:
    world = away()
    tour = add_job(world, A, B)
    come_back(world)
    for _ in range(3):
        world.tick(world.now + 5)
        assert not compares(world)
        deliver_page(world)
    world.tick(world.now + limits.EXCHANGE_LATER_S)
    assert compares(world)
    world.settle()
    assert not tour.left
    assert antientropy(world, A).counts["failures"] == 0


def test_so_it_is_with_rounds_which_are_not_counted_before_they_begin() -> None:
    world = away()
    rounds = antientropy(world, A)
    rounds.interval_s = 30.0
    come_back(world)
    for _ in range(3):
        world.tick(world.now + 8)
        assert not [one for one in compares(world) if one.target == B]
        deliver_page(world)
    before = rounds.counts["rounds"]
    world.tick(world.now + limits.EXCHANGE_LATER_S)
    assert [one for one in compares(world) if one.target == B]
    assert rounds.counts["rounds"] - before == 1


def test_who_is_served_is_told_so_before_a_hash_is_made_and_it_is_no_failure() -> None:
    world = away()
    # As if B were the earlier owner of the two.
    asker = antientropy(world, B)
    asker._pairs[A] = type(asker._pairs[C])(A, ALL)
    tour = add_job(world, B, A)
    come_back(world)
    forest = world.nodes[A].replica.forest
    stale = sum(map(forest.stale, ALL))
    hints: list[Packet] = []
    for _ in range(5):  # a first attempt, and one a second later; it never gets longer
        [asked] = compares(world)
        world.deliver(asked)
        hints += [one for one in world.wire if isinstance(one.message, Merge)]
        [refusal] = [one for one in world.wire if one.source == A and one not in hints]
        assert is_error(refusal.message, NotReady)
        world.deliver(refusal)
        assert "n-a delivers hints to n-b" in tour.problem
        assert asker.due == world.now + limits.EXCHANGE_LATER_S
        world.tick(asker.due)
    assert sum(map(forest.stale, ALL)) == stale
    assert asker.counts["failures"] == 0
    while is_serving(world):
        deliver_page(world)
    for _ in range(3):
        world.tick(world.now + limits.EXCHANGE_LATER_S)
        world.settle()
    assert not tour.left
    assert not tour.problem


def test_whoever_else_asks_is_answered() -> None:
    world = away()
    come_back(world)
    assert world.ring is not None
    for asker in ("", C, "nobody"):
        roots_of = Compare(world.ring.epoch, SETTLED, 0, [0], [b""], asker)
        assert isinstance(at_once(world, A, roots_of), CompareReply)
    children = Compare(world.ring.epoch, SETTLED, 1, [0], [b""], B)  # of an exchange under way
    assert isinstance(at_once(world, A, children), CompareReply)


# --- roots in parts ------------------------------------------------------------------------------


def make_stale(world: Cluster, node: NodeId) -> None:
    """As writes all over the ring do."""
    world.nodes[node].replica.forest._groups = {}


def test_who_is_asked_hashes_no_more_at_once_than_its_loop_bears() -> None:
    world = cluster()
    roots(world, A)  # it has just been compared with another
    forest = world.nodes[B].replica.forest
    assert world.ring is not None
    asked: list[int] = [*ALL]
    while asked:
        before = sum(map(forest.stale, ALL))
        ours = [
            world.nodes[A].replica.forest.root(partition) for partition in ALL if partition in asked
        ]
        reply = at_once(world, B, Compare(world.ring.epoch, SETTLED, 0, asked, ours, A))
        assert isinstance(reply, CompareReply)
        assert before - sum(map(forest.stale, ALL)) <= limits.EXCHANGE_STALE_MAX
        assert reply.differ == []
        assert reply.later == reply.again
        assert len(reply.again) < len(asked)
        asked = reply.again


def test_it_is_asked_for_the_others_at_once() -> None:
    world = cluster()
    hold(world, A, b"k", version(1))
    roots(world, A)
    watch = Watch(world)
    watch.step()
    asked = [message.nodes for message in watch.of(Compare) if message.level == 0]  # type: ignore[attr-defined]
    at_once_max = limits.EXCHANGE_STALE_MAX * ARITY // world.nodes[A].replica.forest.leaves
    assert asked == [ALL, ALL[at_once_max:]]
    assert len(watch.verdicts) == len(ALL) - 1
    watch.run()
    assert roots(world, A) == roots(world, B)


@pytest.mark.plain
@pytest.mark.parametrize("busy", [A, B])
def test_a_round_ends_although_roots_turn_stale_all_the_time(busy: NodeId) -> None:
    world = cluster()
    rounds = antientropy(world, A)
    rounds.interval_s = 30.0
    roots(world, A), roots(world, B)
    verdicts: list[PartitionId] = []
    note = rounds._on_verdict

    def on_verdict(now: float, tour: Tour, verdict: Verdict) -> None:
        if tour.peer == B:
            verdicts.append(verdict.partition)
        note(now, tour, verdict)

    rounds._on_verdict = on_verdict  # type: ignore[method-assign]
    fill_budgets(world)
    rounds.wake(world.now, B)
    world.tick(world.now + limits.ANTIENTROPY_UP_S)
    steps = 0
    while world.wire:
        make_stale(world, busy)
        world.deliver(world.wire[0])
        steps += 1
    assert sorted(verdicts) == ALL
    assert steps <= 4 * len(ALL)


def test_what_was_answered_has_left_its_round() -> None:
    world = cluster()
    hold(world, A, b"k", version(1))
    rounds = antientropy(world, A)
    rounds.interval_s = 30.0
    rounds.wake(world.now, B)
    assert world.ring is not None
    partition = PartitionId(world.ring.partition_of(token_of(b"k")))
    roots(world, A), roots(world, B)
    fill_budgets(world)
    busy = world.nodes[B].counterpart.busy
    assert busy.begin(world.now + limits.ANTIENTROPY_UP_S, partition, C)
    world.nodes[A].on_peer_up(world.now, B)
    world.tick(world.now + limits.ANTIENTROPY_UP_S)
    world.settle()
    world.tick(world.now + limits.EXCHANGE_LATER_S)
    asked: list[Message] = [one.message for one in compares(world) if one.target == B]
    assert [message.nodes for message in asked if isinstance(message, Compare)] == [[partition]]
    assert rounds.counts["rounds"] <= 2  # one for each peer


@pytest.mark.parametrize(
    "reply",
    [
        CompareReply([], [0, 1], [2]),
        CompareReply([], [], [1]),
        CompareReply([], [*ALL], [*ALL]),
    ],
)
def test_a_reply_that_puts_off_what_it_should_not_is_a_failure(reply: CompareReply) -> None:
    world = cluster()
    roots(world, A)
    tour = add_job(world, A, B)
    world.tick(100.0)
    [asked] = [one for one in compares(world) if one.target == B]
    world.nodes[A].on_reply(world.now, B, asked.number, reply)
    assert "puts off what it should not" in tour.problem
    assert antientropy(world, A).counts["failures"] == 1
