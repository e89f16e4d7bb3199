"""A request at a node that owns nothing of it: passed on, tried again, given up."""

from __future__ import annotations

from copy import copy

import pytest

from dynagent import limits
from dynagent.core.messages import Get, GetReply, Message, PutReply, RingIs
from dynagent.core.ports import NodeId
from dynagent.errors import BadRequest, DynagentError, NotReady, QuorumNotMet, WriteOutcomeUnknown
from tests.core.harness import (
    IDS,
    KEY,
    Cluster,
    at_once,
    cluster,
    is_error,
    operations,
    put,
    values,
)

A, B, C, D = IDS


def forwarded(c: Cluster, request: Message) -> int:
    number = c.request(D, request)
    [packet] = c.wire
    assert (packet.source, packet.target, packet.message) == (D, A, request)
    return number


def test_a_forwarded_request_gets_the_owners_answer_as_it_is() -> None:
    c = cluster(others=1)
    c.ask(D, put(b"v"))
    forwarded, direct = c.ask(D, Get(KEY)), c.ask(A, Get(KEY))
    assert isinstance(forwarded, GetReply)
    assert forwarded.epoch == 1  # so that a client with an older ring learns of this one
    forwarded.epoch = 0
    assert forwarded == direct
    assert is_error(c.ask(D, Get(KEY, 4)), BadRequest)
    assert operations(c, D) == []
    assert c.disks[D].rows == {}


def test_a_forwarded_get_whose_owner_fails_goes_to_the_next_one_that_is_up() -> None:
    c = cluster(others=1)
    c.ask(A, put(b"v"))
    number = forwarded(c, Get(KEY))
    c.wire.clear()
    c.nodes[D].on_peer_down(0, B)
    c.nodes[D].on_peer_down(0, A)
    assert [packet.target for packet in c.wire] == [C]
    c.settle()
    assert values(dict(c.answers)[number]) == [b"v"]


def test_a_forwarded_get_whose_owners_all_fail_is_definite() -> None:
    c = cluster(others=1)
    forwarded(c, Get(KEY))
    for owner in (A, B, C):
        c.nodes[D].on_peer_down(0, owner)
    [(_, reply)] = c.answers
    assert is_error(reply, QuorumNotMet)
    for request in (Get(KEY), put(b"v")):
        assert is_error(at_once(c, D, request), QuorumNotMet)
    assert operations(c, D) == []


def test_who_has_not_met_an_owner_yet_sends_clients_on() -> None:
    """It has joined, or started, a moment ago: others may well have met them (seed 1058)."""
    c = cluster(others=1)
    c.now = 1.0
    assert isinstance(c.ask(D, Get(KEY)), GetReply)
    for owner in (A, B, C):
        c.nodes[D].on_peer_down(c.now, owner)
    assert is_error(at_once(c, D, Get(KEY, strict=True)), QuorumNotMet)
    detector = c.nodes[D].detector
    assert detector is not None
    for peer in detector.peers.values():
        peer.heard_at = 0.0  # as if it had only just started
    assert is_error(at_once(c, D, Get(KEY, strict=True)), NotReady)


def test_a_forwarded_put_whose_owner_fails_is_indefinite_and_not_repeated() -> None:
    c = cluster(others=1)
    forwarded(c, put(b"v"))
    c.wire.clear()
    c.nodes[D].on_peer_down(0, A)
    [(_, reply)] = c.answers
    assert is_error(reply, WriteOutcomeUnknown)
    assert c.wire == []


@pytest.mark.parametrize("request_", [Get(KEY), put(b"v")], ids=["get", "put"])
def test_a_forwarded_request_that_the_owner_is_not_ready_for_goes_to_the_next(
    request_: Message,
) -> None:
    c = cluster(others=1)
    c.nodes[A].draining = True
    assert isinstance(c.ask(D, request_), GetReply | PutReply)
    c.nodes[B].draining = c.nodes[C].draining = True
    assert is_error(c.ask(D, request_), NotReady)


@pytest.mark.parametrize(
    ("request_", "error"),
    [(Get(KEY), QuorumNotMet), (put(b"v"), WriteOutcomeUnknown)],
    ids=["get", "put"],
)
def test_a_forwarded_request_that_is_never_answered_ends_at_its_deadline(
    request_: Message, error: type[DynagentError]
) -> None:
    c = cluster(others=1)
    forwarded(c, request_)
    assert c.nodes[D].next_deadline() == 1.0
    [late] = c.wire
    c.tick(1.0)
    [(_, reply)] = c.answers
    assert is_error(reply, error)
    c.deliver(late)
    c.settle()
    assert len(c.answers) == 1


def waiting_for(c: Cluster, owner: NodeId) -> int:
    """The requests that the detector of the forwarding node misses."""
    detector = c.nodes[D].detector
    assert detector is not None
    return detector.peers[owner].asked


@pytest.mark.parametrize("request_", [Get(KEY), put(b"v")], ids=["get", "put"])
def test_an_owner_that_leaves_forwarded_requests_unanswered_is_suspected_of_hanging(
    request_: Message,
) -> None:
    c = cluster(others=1)
    for count in range(1, limits.GRAY_REQUESTS + 1):
        forwarded(c, copy(request_))
        [late] = c.wire
        c.wire.clear()
        assert waiting_for(c, A) == count - 1, "it may take the time that it was given"
        c.tick(c.now + 1.0)
        assert waiting_for(c, A) == count
    c.deliver(late)
    c.settle()
    assert waiting_for(c, A) == 0, "a late answer is one"


def test_an_owner_that_says_in_time_that_others_hang_is_not_suspected() -> None:
    c = cluster(others=1)
    for _ in range(limits.GRAY_REQUESTS):
        number = forwarded(c, Get(KEY, strict=True))
        c.deliver(c.wire[0])
        c.wire.clear()  # B and C do not answer
        c.tick(c.now + 0.9)  # A's share of the time
        [answer] = [packet for packet in c.wire if packet.target == D]
        c.deliver(answer)
        c.wire.clear()
        assert is_error(dict(c.answers)[number], QuorumNotMet)
        c.tick(c.now + 0.1)
        assert waiting_for(c, A) == 0


def test_the_owner_of_a_forwarded_request_gets_a_little_less_time() -> None:
    c = cluster(others=1)
    c.request(D, Get(KEY), budget_ms=500)
    c.request(D, Get(KEY), budget_ms=5_000)
    c.request(D, Get(KEY), budget_ms=1)
    assert [packet.budget_ms for packet in c.wire] == [450, 4_900, 1]


def test_an_owner_that_does_not_know_the_router_yet_is_asked_again() -> None:
    """The router has joined by an entry that the owners have yet to learn: what they answer is no
    answer for a client, which would take the put for done."""
    c = cluster(others=1)
    request = put(b"v")
    number = forwarded(c, request)
    for owner in (A, B, C):
        [packet] = c.wire
        assert packet.target == owner
        c.wire.clear()
        first = packet.number
        c.nodes[D].on_reply(c.now, owner, first, RingIs(1))
    assert c.answers == []
    assert c.wire == []
    c.tick(0.2)
    [packet] = c.wire
    assert packet.target == C
    c.nodes[D].on_reply(c.now, C, first, RingIs(1))  # once more, and late
    c.settle()
    assert isinstance(dict(c.answers)[number], PutReply)
