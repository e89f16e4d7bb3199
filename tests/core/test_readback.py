"""A get that repairs before it answers: when it answers, and when it says that it cannot."""

import pytest

from dynagent import limits
from dynagent.core.messages import Error, Get, GetReply, Merge, Message, PutReply, Read
from dynagent.core.ring import token_of
from dynagent.core.siblings import Clock
from dynagent.errors import QuorumNotMet
from tests.core.harness import (
    IDS,
    KEY,
    Cluster,
    cluster,
    heard_only_at,
    is_error,
    op,
    operations,
    put,
    requests,
    values,
)

A, B, C, D = IDS


def repairing(r: int = 0, *, strict: bool = False) -> Get:
    return Get(KEY, r, strict, repair=True)


def answer(c: Cluster, number: int) -> Message | None:
    found = [message for request, message in c.answers if request == number]
    assert len(found) < 2
    return found[0] if found else None


def clock_at(c: Cluster, place: int) -> Clock:
    return c.disks[IDS[place]].record(KEY).value.clock


def test_equal_copies_are_answered_at_once_and_nothing_is_sent() -> None:
    c = cluster()
    assert isinstance(c.ask(A, put(b"v")), PutReply)
    number = c.request(A, repairing())
    [read] = requests(c, Read)
    c.deliver(read)
    c.deliver(c.wire[0])
    reply = answer(c, number)
    assert isinstance(reply, GetReply)
    assert (values(reply), reply.held) == ([b"v"], 2)
    assert not c.wire


def test_nothing_is_found_at_once_too() -> None:
    c = cluster()
    reply = c.ask(A, repairing())
    assert isinstance(reply, GetReply)
    assert (values(reply), reply.held, requests(c, Merge)) == ([], 2, [])


def test_it_answers_only_when_an_owner_that_was_behind_has_it_on_disk() -> None:
    c = cluster()
    heard_only_at(c, A, put(b"v", w=1))
    number = c.request(A, repairing())
    [read] = requests(c, Read)
    c.deliver(read)
    c.deliver(c.wire[0])  # B has nothing
    assert answer(c, number) is None
    [merge] = requests(c, Merge)
    c.deliver(merge)
    assert answer(c, number) is None, "B has it in memory only"
    c.commit(merge.target)
    c.deliver(c.wire[0])
    reply = answer(c, number)
    assert isinstance(reply, GetReply)
    assert (values(reply), reply.held) == ([b"v"], 2)
    c.settle()
    assert not operations(c, A)


def test_our_own_copy_counts_from_its_fsync() -> None:
    c = cluster()
    heard_only_at(c, B, put(b"v", w=1))
    number = c.request(A, repairing(2))
    for _ in range(4):  # digest, value
        c.deliver(c.wire[0])
    assert answer(c, number) is None
    c.commit(A)
    reply = answer(c, number)
    assert isinstance(reply, GetReply)
    assert values(reply) == [b"v"]
    assert clock_at(c, 0) == clock_at(c, 1)


def test_with_r_1_it_asks_as_many_as_w_needs() -> None:
    c = cluster()
    heard_only_at(c, A, put(b"v", w=1))
    reply = c.ask(A, repairing(1))
    assert isinstance(reply, GetReply)
    assert (values(reply), reply.answered, reply.held) == ([b"v"], 1, 2)
    assert clock_at(c, 0) == clock_at(c, 1)


def test_a_delete_is_written_back_too() -> None:
    c = cluster()
    c.ask(A, put(b"v"))
    seen = c.ask(A, Get(KEY, 3))
    assert isinstance(seen, GetReply)
    heard_only_at(c, A, put(None, 2, mode=0, context=seen.context, w=1))
    heard = c.ask(B, repairing(3))
    assert isinstance(heard, GetReply)
    assert values(heard) == []
    assert all(not disk.record(KEY).value.siblings for disk in c.disks.values())


def test_who_fails_is_replaced_by_another_owner() -> None:
    c = cluster()
    heard_only_at(c, A, put(b"v", w=1))
    number = c.request(A, repairing())
    c.deliver(c.wire[0])
    c.deliver(c.wire[0])
    [merge] = requests(c, Merge)
    c.wire.clear()
    c.nodes[A].on_peer_down(c.now, merge.target)
    [other] = requests(c, Merge)
    assert other.target != merge.target
    c.settle()
    assert isinstance(answer(c, number), GetReply)


def test_who_hangs_is_helped_out_by_another_owner() -> None:
    c = cluster()
    heard_only_at(c, A, put(b"v", w=1))
    number = c.request(A, repairing(), budget_ms=5_000)
    c.deliver(c.wire[0])
    c.deliver(c.wire[0])
    c.wire.clear()
    c.tick(c.now + limits.PUT_HEDGE_S + 0.1)
    [other] = requests(c, Merge)
    c.settle()
    assert isinstance(answer(c, number), GetReply)
    assert clock_at(c, 0) == clock_at(c, IDS.index(other.target))


def test_a_value_that_cannot_be_repaired_in_time_is_a_definite_error() -> None:
    c = cluster()
    heard_only_at(c, A, put(b"v", w=1))
    number = c.request(A, repairing())
    c.deliver(c.wire[0])
    c.deliver(c.wire[0])
    c.wire.clear()
    c.tick(c.now + 0.9)  # the others are asked as well
    c.wire.clear()
    c.tick(c.now + 2)
    reply = answer(c, number)
    assert isinstance(reply, Error)
    assert is_error(reply, QuorumNotMet)
    assert "the value was read, but only 1 of W=2" in reply.text
    assert QuorumNotMet.definite
    assert not operations(c, A)
    assert values(c.ask(A, Get(KEY, 1))) == [b"v"]


def test_it_is_refused_at_once_if_too_few_owners_are_up() -> None:
    c = cluster(others=1)
    c.ask(A, put(b"v"))
    for node in (B, C):
        c.nodes[A].on_peer_down(0, node)
    number = c.request(A, repairing())
    reply = answer(c, number)
    assert reply is not None
    assert is_error(reply, QuorumNotMet)
    assert not c.wire


def test_a_stand_in_never_coordinates_one() -> None:
    c = cluster(others=1)
    c.ask(A, put(b"v"))
    for node in (A, B, C):
        c.nodes[D].on_peer_down(0, node)
    reply = answer(c, c.request(D, repairing()))
    assert reply is not None
    assert is_error(reply, QuorumNotMet)


def test_it_is_never_partial() -> None:
    c = cluster()
    heard_only_at(c, A, put(b"v", w=1))
    number = c.request(A, repairing(3))
    c.wire.clear()
    c.tick(c.now + 0.6)
    c.tick(c.now + 0.6)
    reply = answer(c, number)
    assert reply is not None
    assert is_error(reply, QuorumNotMet)


def test_a_router_passes_it_on() -> None:
    c = cluster(others=1)
    heard_only_at(c, A, put(b"v", w=1))
    reply = c.ask(D, repairing())
    assert isinstance(reply, GetReply)
    assert (values(reply), reply.held) == ([b"v"], 2)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_every_later_read_with_r_sees_what_it_returned(missing: int) -> None:
    c = cluster()
    heard_only_at(c, A, put(b"v", w=1))
    reply = c.ask(A, repairing())
    assert isinstance(reply, GetReply)
    left = [node for place, node in enumerate(IDS[:3]) if place != missing]
    for node in left:
        c.nodes[node].on_peer_down(c.now, IDS[missing])
        assert values(c.ask(node, Get(KEY, 2, strict=True))) == [b"v"]


def test_an_unreadable_own_copy_does_not_count() -> None:
    c = cluster()
    c.ask(A, put(b"v"))
    c.overwrite_row(A, b"rot")
    reply = c.ask(A, repairing())
    assert isinstance(reply, GetReply)
    assert (values(reply), reply.held) == ([b"v"], 2)


def test_a_newer_write_on_its_way_goes_along() -> None:
    c = cluster()
    heard_only_at(c, B, put(b"v", w=1))
    number = c.request(A, repairing(2))
    c.deliver(c.wire[0])
    c.deliver(c.wire[0])  # B's digest has news
    c.request(A, put(b"newer", 2))
    c.settle()
    reply = answer(c, number)
    assert isinstance(reply, GetReply)
    assert values(reply) == [b"v"]
    assert {x.op_id for x in c.disks[C].record(KEY).value.siblings} >= {op(2)}


def test_a_copy_that_goes_with_the_open_batch_is_read_again_when_it_is_gone() -> None:
    """Its tombstone is being purged: the copy on the disk would be read again and again."""
    c = cluster()
    c.ask(A, put(b"v"))
    c.nodes[A].replica.drop(KEY, token_of(KEY))
    number = c.request(A, repairing(1))
    assert answer(c, number) is None
    c.commit(A)
    c.settle()
    reply = answer(c, number)
    assert isinstance(reply, GetReply)
    assert values(reply) == []
