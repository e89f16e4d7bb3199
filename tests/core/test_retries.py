"""A put's later attempts: known here, at another owner, superseded, forgotten, unknown."""

from __future__ import annotations

import pytest

from dynagent import limits
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_CONTEXT,
    MODE_OVERWRITE,
    Get,
    GetReply,
    MergeAck,
    PutReply,
    Read,
)
from dynagent.core.ports import NodeId
from dynagent.errors import WriteOutcomeUnknown
from tests.core.harness import (
    IDS,
    KEY,
    Cluster,
    cluster,
    dots,
    heard_only_at,
    is_error,
    operations,
    put,
    requests,
    values,
)

A, B, C, D = IDS


@pytest.mark.parametrize("at", [A, B, C])
def test_a_retry_of_a_write_that_is_known_completes_it_and_mints_nothing(at: NodeId) -> None:
    c = cluster()
    first = c.ask(A, put(b"v"))
    again = c.ask(at, put(b"v", attempt=2))
    assert again == first
    assert len(dots(c, 1)) == 1
    assert values(c.ask(C, Get(KEY))) == [b"v"]


def test_a_retry_of_a_write_that_is_under_way_here_waits_for_it_to_be_durable() -> None:
    c = cluster()
    c.request(A, put(b"v", w=3))
    c.request(A, put(b"v", attempt=2, r=1, w=3))
    for ack_of in (B, C):
        for packet in [p for p in c.wire if p.target == ack_of]:
            c.deliver(packet)
    c.commit(B)
    c.commit(C)
    for packet in requests(c, MergeAck):
        c.deliver(packet)
    assert c.answers == []
    c.commit(A)
    assert [type(reply) for _, reply in c.answers] == [PutReply, PutReply]
    assert len(dots(c, 1)) == 1


def test_a_retry_with_a_small_r_still_meets_a_write_that_reached_w_and_was_overwritten() -> None:
    c = cluster()
    for address in (A, B):  # C hears of neither write
        number = 1 if address == A else 2
        c.request(address, put(b"v%d" % number, number, mode=MODE_OVERWRITE))
        for _ in range(20):
            for packet in [p for p in c.wire if C not in (p.source, p.target)]:
                c.deliver(packet)
            c.commit(A)
            c.commit(B)
            c.tick(c.now + limits.HEDGE_S)  # the owner that was asked first does not answer
    c.wire.clear()
    again = c.ask(C, put(b"v1", 1, attempt=2, r=1))
    assert isinstance(again, PutReply)
    assert values(c.ask(A, Get(KEY))) == [b"v2"]


def test_a_retry_known_only_at_another_owner_is_fetched_from_there_and_completed() -> None:
    c = cluster()
    heard_only_at(c, B, put(b"v"))
    assert c.disks[A].rows == {}
    assert isinstance(c.ask(A, put(b"v", attempt=2, r=3)), PutReply)
    assert len(dots(c, 1)) == 1
    assert values(c.ask(C, Get(KEY, 1))) == [b"v"]


def test_a_retry_whose_write_was_superseded_is_a_success_and_brings_nothing_back() -> None:
    c = cluster()
    c.ask(A, put(b"v", 1))
    c.ask(B, put(b"w", 2, mode=MODE_OVERWRITE))
    reply = c.ask(C, put(b"v", 1, attempt=2))
    assert isinstance(reply, PutReply)
    assert reply.dot == b""
    assert values(c.ask(A, Get(KEY, 3))) == [b"w"]


def test_a_retry_whose_fetch_fails_is_indefinite_at_once() -> None:
    c = cluster()
    heard_only_at(c, B, put(b"v"))
    number = c.request(A, put(b"v", attempt=2, r=3))
    while not any(isinstance(p.message, Read) and p.message.want for p in c.wire):
        c.deliver(c.wire[0])
    c.nodes[A].on_peer_down(c.now, B)
    [reply] = [message for sent, message in c.answers if sent == number]
    assert is_error(reply, WriteOutcomeUnknown)
    assert operations(c, A) == []


def known_at_b_and_c() -> Cluster:
    c = cluster()
    c.request(B, put(b"v"))
    [to_c] = [packet for packet in c.wire if packet.target == C]
    c.wire[:] = [to_c]
    c.settle()
    c.tick(c.now + 1)
    return c


def test_a_retry_fetches_from_another_holder_if_the_first_one_fails() -> None:
    c = known_at_b_and_c()
    number = c.request(A, put(b"v", attempt=2, r=3))
    while not any(isinstance(p.message, Read) and p.message.want for p in c.wire):
        c.deliver(c.wire[0])
    c.wire.clear()
    c.nodes[A].on_peer_down(c.now, B)
    assert [packet.target for packet in requests(c, Read)] == [C]
    c.settle()
    [reply] = [message for sent, message in c.answers if sent == number]
    assert isinstance(reply, PutReply)


def test_a_late_holder_does_not_hide_that_the_one_who_was_asked_has_failed() -> None:
    c = known_at_b_and_c()
    number = c.request(A, put(b"v", attempt=2))
    c.tick(c.now + limits.HEDGE_S)
    [to_b, to_c] = requests(c, Read)
    c.deliver(to_c)
    c.deliver(c.wire[-1])  # C knows it, and is asked for it
    c.deliver(to_b)
    c.deliver(c.wire[-1])  # so does B
    c.wire.clear()
    c.nodes[A].on_peer_down(c.now, C)
    assert [packet.target for packet in requests(c, Read)] == [B]
    c.settle()
    [reply] = [message for sent, message in c.answers if sent == number]
    assert isinstance(reply, PutReply)


def test_a_retry_asks_no_holder_whose_link_broke_while_it_was_still_looking() -> None:
    c = cluster()
    heard_only_at(c, B, put(b"v"))
    number = c.request(A, put(b"v", attempt=2, r=3))
    [to_b, to_c] = requests(c, Read)
    c.deliver(to_b)
    c.deliver(c.wire[-1])
    c.nodes[A].on_peer_down(c.now, B)
    c.deliver(to_c)
    c.deliver(c.wire[-1])
    assert c.wire == []
    [reply] = [message for sent, message in c.answers if sent == number]
    assert is_error(reply, WriteOutcomeUnknown)
    assert operations(c, A) == []


def test_a_retry_whose_trace_may_have_been_forgotten_is_unknown_and_applies_nothing() -> None:
    c = cluster()
    for number in range(1, limits.OP_IDS_KEPT + 3):
        c.ask(A, put(b"v%d" % number, number, mode=MODE_OVERWRITE))
    before = {id_: dict(disk.rows) for id_, disk in c.disks.items()}
    for mode in (MODE_BLIND, MODE_OVERWRITE):
        assert is_error(c.ask(B, put(b"v1", 1, mode=mode, attempt=2)), WriteOutcomeUnknown)
    assert {id_: disk.rows for id_, disk in c.disks.items()} == before
    # The newest of the superseded ones is still remembered.
    known = limits.OP_IDS_KEPT + 1
    assert isinstance(c.ask(B, put(b"v", known, attempt=2)), PutReply)
    assert len(values(c.ask(C, Get(KEY)))) == 1


def test_a_write_that_a_retry_minted_twice_is_shown_once_and_superseded_as_one() -> None:
    c = cluster()
    heard_only_at(c, B, put(b"v"))
    c.nodes[A].on_peer_down(c.now, B)
    assert isinstance(c.ask(A, put(b"v", attempt=2)), PutReply)
    c.nodes[A].on_peer_up(c.now, B)
    read = c.ask(A, Get(KEY, 3))
    assert values(read) == [b"v"]
    assert len(dots(c, 1)) == 2
    assert isinstance(read, GetReply)
    c.ask(C, put(b"w", 2, mode=MODE_CONTEXT, context=read.context))
    assert values(c.ask(B, Get(KEY, 3))) == [b"w"]


def test_a_delete_that_is_repeated_deletes_nothing_that_came_after_it() -> None:
    c = cluster()
    c.ask(A, put(b"one", 1))
    c.ask(A, put(None, 2, mode=MODE_OVERWRITE))
    c.ask(B, put(b"two", 3))
    assert isinstance(c.ask(C, put(None, 2, mode=MODE_OVERWRITE, attempt=2)), PutReply)
    assert values(c.ask(A, Get(KEY, 3))) == [b"two"]
