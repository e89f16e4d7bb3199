"""How a node becomes a member while the cluster runs, and what it does when it is none any more."""

from __future__ import annotations

from dataclasses import replace

from dynagent.core.inspect import decode_status
from dynagent.core.messages import (
    Error,
    Get,
    Gossip,
    Install,
    Installed,
    Invite,
    LogReply,
    LogRequest,
    Merge,
    MergeAck,
    Ping,
    Pong,
    RingIs,
    StatusReply,
    StatusRequest,
)
from dynagent.core.ports import LinkId, NodeId
from dynagent.core.readiness import unready_reason
from dynagent.core.ring import Ring
from dynagent.core.ringcodec import encode_ring
from dynagent.errors import NotReady, Refused
from tests.core.harness import (
    IDS,
    KEY,
    Cluster,
    at_once,
    is_error,
    make_ring,
    put,
    requests,
)
from tests.core.joint import Changing, P, changing

A, B, C, D = IDS


def newer(ring: Ring) -> Ring:
    return replace(ring, epoch=ring.epoch + 5, placed=ring.epoch + 3)


def state(c: Cluster, node: NodeId) -> str:
    reply = at_once(c, node, StatusRequest())
    assert isinstance(reply, StatusReply)
    return str(decode_status(reply.document)["state"])


# --- invitations ---------------------------------------------------------------------------------


def invited() -> Cluster:
    """A, B and C have run for some time; D is fresh."""
    c = Cluster(make_ring(3))
    c.add(D)
    return c


def test_a_fresh_agent_that_is_invited_serves_once_that_is_durable() -> None:
    c = invited()
    ring = newer(make_ring(3, others=1))
    assert is_error(at_once(c, D, Get(KEY)), NotReady)
    number = c.request(D, Invite(encode_ring(ring)))
    assert (number, Installed()) not in c.answers
    assert state(c, D) == "fresh"
    c.adopt()
    assert (number, Installed()) in c.answers
    assert c.nodes[D].ring == ring
    assert c.restart(D).ring == ring


def test_an_invitation_may_be_repeated_and_whatever_the_ring_is_by_then() -> None:
    c = invited()
    ring = newer(make_ring(3, others=1))
    c.request(D, Invite(encode_ring(ring)))
    assert is_error(at_once(c, D, Invite(encode_ring(ring))), Refused)  # it is on its way
    c.adopt()
    for other in (ring, newer(ring)):
        assert at_once(c, D, Invite(encode_ring(other))) == Installed()
    assert c.nodes[D].ring == ring
    assert is_error(at_once(c, D, Install(encode_ring(newer(ring)))), Refused)


def test_an_invitation_into_another_cluster_or_for_somebody_else_is_refused() -> None:
    c = invited()
    named = newer(make_ring(3, others=1))
    assert is_error(at_once(c, D, Invite(encode_ring(newer(make_ring(3))))), Refused)
    assert is_error(at_once(c, D, Invite(encode_ring(replace(named, removed=(D,))))), Refused)
    other = replace(named, cluster_id=b"o" * 16)
    assert is_error(at_once(c, A, Invite(encode_ring(other))), Refused)
    assert c.adopting == []


# --- who is no member ----------------------------------------------------------------------------


def removed() -> Changing:
    """C knows that its copies are declared lost."""
    w = changing()
    w.move((A, B, D), A, B, C, D, removed=(C,))
    return w


def test_a_node_that_was_removed_says_so_and_serves_nothing() -> None:
    c = removed().c
    assert state(c, C) == "removed"
    assert "no member" in unready_reason(c.nodes[C])
    assert at_once(c, C, Ping()) == Pong()
    for request in (Get(KEY), put(b"v")):
        assert is_error(at_once(c, C, request), NotReady)
    assert c.nodes[C].next_deadline() is None
    assert c.restart(C).is_removed


def test_it_acknowledges_nothing_that_was_on_its_way_to_its_disk() -> None:
    w = changing()
    c = w.c
    c.request(A, put(b"v", strict=True))
    [merge] = [packet for packet in requests(c, Merge) if packet.target == C]
    w.move((A, B, D), removed=(C,))
    ringlog = c.nodes[C].ringlog
    assert ringlog is not None
    ringlog.take(c.now, LogReply(w.ring.epoch, 2, w.entries))
    batch = c.nodes[C].take_batch()
    assert batch is not None
    c.deliver(merge)  # while the ring is on its way to the disk
    own = c.request(C, put(b"own", 9))
    c.finish(C, batch)
    c.commit(C)
    answers = [
        packet.message
        for packet in c.wire
        if packet.source == C and packet.budget_ms is None and packet.number == merge.number
    ]
    assert [type(answer) for answer in answers] == [Error]
    [answer] = [message for number, message in c.answers if number == own]
    assert isinstance(answer, Error)


def test_nobody_takes_from_it_or_counts_it() -> None:
    w = changing()
    c = w.c
    w.move((A, B, D), A, B, D, removed=(C,))
    assert all(C not in c.nodes[node].coordinator.up for node in (A, B, D))  # type: ignore[union-attr]
    assert all(C not in c.nodes[node].detector.peers for node in (A, B, D))  # type: ignore[union-attr]
    assert c.nodes[A].is_stranger(C)
    c.nodes[A].on_reply(c.now, C, 1, MergeAck())  # late, and of no use
    c.wire.clear()
    c.nodes[A].on_stranger(c.now, LinkId(2), 5, 500, Gossip(bytes(128)))
    c.nodes[A].on_stranger(c.now, LinkId(2), 6, 500, Merge(*w.ring.stamps[P], 0, []))
    assert [packet.message for packet in c.wire] == [RingIs(w.ring.epoch)] * 2


def test_it_learns_of_its_end_from_whoever_it_asks() -> None:
    w = changing()
    c = w.c
    w.move((A, B, D), A, B, D, removed=(C,))
    c.nodes[C].on_reply(c.now, A, 99, RingIs(w.ring.epoch))
    [question] = [packet for packet in requests(c, LogRequest) if packet.source == C]
    c.wire.remove(question)
    c.nodes[A].on_stranger(c.now, LinkId(2), question.number, 500, question.message)
    c.settle()
    assert c.nodes[C].is_removed


def test_its_requests_of_clients_are_answered_when_it_is_removed() -> None:
    w = changing()
    c = w.c
    number = c.request(C, put(b"v"))
    c.wire.clear()
    w.move((A, B, D), C, removed=(C,))
    [answer] = [message for request, message in c.answers if request == number]
    assert isinstance(answer, Error)
