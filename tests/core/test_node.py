"""The node itself: fresh, bootstrapped, draining, idle, restarted; its status and its ring."""

from __future__ import annotations

import pytest

from dynagent.core.inspect import decode_status
from dynagent.core.messages import (
    Get,
    Install,
    Installed,
    Merge,
    MergeAck,
    Ping,
    Pong,
    PutReply,
    Read,
    RingReply,
    RingRequest,
    StatusReply,
    StatusRequest,
)
from dynagent.core.ports import NodeId
from dynagent.core.ring import decode_ring
from dynagent.errors import NotReady, ProtocolError, Refused, WriteOutcomeUnknown
from tests.core.harness import (
    CLUSTER_ID,
    IDS,
    KEY,
    Cluster,
    at_once,
    cluster,
    dots,
    is_error,
    make_ring,
    put,
    requests,
    values,
)

A, B, C, D = IDS


def state_of(c: Cluster, node: NodeId) -> dict[str, object]:
    reply = at_once(c, node, StatusRequest())
    assert isinstance(reply, StatusReply)
    return decode_status(reply.document)


# --- bootstrap -----------------------------------------------------------------------------------


def test_a_node_without_a_ring_serves_nobody() -> None:
    c = Cluster(None, [A])
    for request in (Get(KEY), put(b"v"), Merge(1, 2, 0, []), Read(1, 2, KEY, 0), RingRequest()):
        assert is_error(c.ask(A, request), NotReady)
    assert isinstance(c.ask(A, Ping()), Pong)
    assert state_of(c, A)["state"] == "fresh"
    assert c.nodes[A].is_idle
    assert c.nodes[A].next_deadline() is None
    c.nodes[A].on_peer_down(0, B)
    c.tick(1)


def test_a_fresh_node_serves_once_its_first_ring_is_durable() -> None:
    c = Cluster(None, [A])
    ring = make_ring(1)
    c.request(A, Install(ring.encode()))
    assert c.answers == []
    assert is_error(c.ask(A, Get(KEY)), NotReady)
    [(adopted, link, number)] = c.adopting
    c.nodes[A].on_adopted(c.now, adopted, link, number)
    assert c.answers[-1][1] == Installed()
    assert c.nodes[A].ring == ring
    assert isinstance(c.ask(A, put(b"v")), PutReply)
    assert c.ask(A, Install(ring.encode())) == Installed()


def test_a_node_with_a_ring_refuses_another_one() -> None:
    c = cluster()
    assert is_error(c.ask(A, Install(make_ring(2).encode())), Refused)
    assert c.nodes[A].ring == make_ring(3)


def test_a_ring_that_does_not_name_the_node_is_refused() -> None:
    c = Cluster(None, [D])
    assert is_error(c.ask(D, Install(make_ring(3).encode())), Refused)
    assert c.adopting == []


# --- runs, and the state of a node ---------------------------------------------------------------


def test_a_draining_node_takes_no_new_requests_but_ends_what_it_has_and_still_merges() -> None:
    c = cluster()
    number = c.request(A, put(b"v"))
    c.nodes[A].draining = True
    assert not c.nodes[A].is_idle
    for request in (Get(KEY), put(b"w", 2)):
        assert is_error(at_once(c, A, request), NotReady)
    c.settle()
    assert [type(reply) for sent, reply in c.answers if sent == number] == [PutReply]
    assert c.nodes[A].is_idle
    assert isinstance(c.ask(B, put(b"x", 3, w=3)), PutReply)
    assert state_of(c, A)["state"] == "draining"


def test_a_node_is_not_idle_while_a_change_is_not_yet_durable() -> None:
    c = cluster()
    c.request(A, put(b"v"))
    c.tick(1)
    assert is_error(c.answers[-1][1], WriteOutcomeUnknown)
    assert not c.nodes[A].is_idle
    c.commit(A)
    assert c.nodes[A].is_idle


def test_an_actor_goes_on_after_a_clean_stop_and_is_a_new_one_after_a_crash() -> None:
    c = cluster()
    c.ask(A, put(b"1", 1))
    c.ask(A, put(b"2", 2))
    [(actor, last)] = dots(c, 2)
    assert last == 2
    c.restart(A, clean=True)
    c.ask(A, put(b"3", 3))
    assert dots(c, 3) == {(actor, 3)}
    c.restart(A)
    c.ask(A, put(b"4", 4))
    [(other, first)] = dots(c, 4)
    assert other != actor
    assert first == 1
    assert values(c.ask(B, Get(KEY))) == [b"1", b"2", b"3", b"4"]


def test_a_write_that_was_acknowledged_survives_the_crash_of_its_coordinator() -> None:
    c = cluster()
    c.request(A, put(b"1", 1))
    for packet in requests(c, Merge):
        c.deliver(packet)
    c.commit(B)
    c.commit(C)
    for packet in requests(c, MergeAck):
        c.deliver(packet)
    assert [type(reply) for _, reply in c.answers] == [PutReply]
    c.restart(A)
    c.ask(A, put(b"2", 2))
    for node in (A, B, C):
        assert values(c.ask(node, Get(KEY))) == [b"1", b"2"]


def test_the_status_tells_who_the_node_is_whom_it_sees_and_what_is_under_way() -> None:
    c = cluster()
    c.request(A, put(b"v"))
    c.nodes[A].on_peer_down(0, C)
    state = state_of(c, A)
    assert (state["node_id"], state["run"], state["epoch"]) == (A, 1, 1)
    assert (state["state"], state["up"], state["in_flight"]) == ("serving", [A, B], 1)
    assert (state["cluster_id"], state["counters"]) == (CLUSTER_ID, {"Put": 1, "StatusRequest": 1})
    for document in (b"", b"\x80", b"\xa0"):
        with pytest.raises(ProtocolError):
            decode_status(document)


def test_the_ring_is_sent_only_to_those_who_have_another_epoch() -> None:
    c = cluster()
    reply = c.ask(A, RingRequest())
    assert isinstance(reply, RingReply)
    assert decode_ring(reply.ring) == make_ring(3)
    assert c.ask(A, RingRequest(1)) == RingReply(1, b"")
