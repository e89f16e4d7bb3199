"""The node itself: fresh, bootstrapped, draining, idle, restarted; its status and its ring."""

from __future__ import annotations

import pytest

from dynagent import limits
from dynagent.core.gossip import Gossiper
from dynagent.core.inspect import decode_status
from dynagent.core.messages import (
    Facts,
    FactsReply,
    Get,
    Gossip,
    GossipReply,
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
from dynagent.core.portrait import SelfPortrait
from dynagent.core.ports import NodeId
from dynagent.core.ringcodec import decode_ring, encode_ring
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
    c.request(A, Install(encode_ring(ring)))
    assert c.answers == []
    assert is_error(c.ask(A, Get(KEY)), NotReady)
    [(_, adopted, link, number)] = c.adopting
    c.nodes[A].on_adopted(c.now, adopted, link, number)
    assert c.answers[-1][1] == Installed()
    assert c.nodes[A].ring == ring
    assert isinstance(c.ask(A, put(b"v")), PutReply)
    assert c.ask(A, Install(encode_ring(ring))) == Installed()


def test_a_node_with_a_ring_refuses_another_one() -> None:
    c = cluster()
    assert is_error(c.ask(A, Install(encode_ring(make_ring(2)))), Refused)
    assert c.nodes[A].ring == make_ring(3)


def test_a_ring_that_does_not_name_the_node_is_refused() -> None:
    c = Cluster(None, [D])
    assert is_error(c.ask(D, Install(encode_ring(make_ring(3)))), Refused)
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


# --- gossip --------------------------------------------------------------------------------------


def facts_of(c: Cluster, node: NodeId) -> dict[str, dict[str, object]]:
    reply = at_once(c, node, StatusRequest(True))
    assert isinstance(reply, StatusReply)
    facts = decode_status(reply.document)["facts"]
    assert isinstance(facts, dict)
    return facts


def gossip_of(c: Cluster, node: NodeId) -> Gossiper:
    gossip = c.nodes[node].gossip
    assert gossip is not None
    return gossip


def test_one_node_tells_of_all_once_gossip_has_gone_round() -> None:
    c = cluster(others=1)
    c.nodes[B].about = {"name": "bee", "zone": "z2", "capacity": 7}
    c.nodes[B].measure = lambda: {"version": "9.9", "store": {"keys": 3, "bytes": 4_096}}
    c.ask(A, put(b"v"))
    assert set(facts_of(c, A)) == {A}
    for _ in range(2):
        c.now = max(gossip_of(c, node).due for node in c.nodes)
        c.tick(c.now)
        c.settle()
    assert set(facts_of(c, A)) == set(IDS)
    assert (facts_of(c, A)[C]["name"], facts_of(c, A)[C]["host"]) == ("n-c", C)
    told = facts_of(c, D)[B]
    assert (told["name"], told["zone"], told["release"]) == ("bee", "z2", "9.9")
    assert (told["keys"], told["stored_bytes"], told["epoch"]) == (3, 4_096, 1)
    assert "facts" not in state_of(c, A)
    assert state_of(c, A)["gossip"] == {"facts": 4, **gossip_of(c, A).counts}


def test_an_answer_to_gossip_is_no_answer_to_data() -> None:
    c = cluster()
    c.request(A, put(b"v"))
    detector = c.nodes[A].detector
    assert detector is not None
    asked = {node: peer.asked for node, peer in detector.peers.items()}
    assert set(asked.values()) == {1}
    c.nodes[A].on_reply(c.now, B, 10_000, GossipReply())
    c.nodes[A].on_reply(c.now, C, 10_001, FactsReply([]))
    assert {node: peer.asked for node, peer in detector.peers.items()} == asked


def test_a_node_without_a_ring_takes_no_gossip() -> None:
    c = Cluster(None, [A])
    for request in (Gossip(bytes(128)), Facts([], [])):
        assert is_error(c.ask(A, request), NotReady)
    assert facts_of(c, A) == {}


def test_a_damaged_fact_is_answered_with_an_error_and_counted() -> None:
    c = cluster()
    assert is_error(c.ask(A, Facts([b"damaged"], [])), ProtocolError)
    assert set(facts_of(c, A)) == {A}
    counters = state_of(c, A)["counters"]
    assert isinstance(counters, dict)
    assert counters["ProtocolError"] == 1


def test_small_changes_of_load_are_told_seldom_and_large_ones_within_ten_seconds() -> None:
    c = cluster()
    keys = 1_000
    c.nodes[A].measure = lambda: {"store": {"keys": keys}}
    c.nodes[A].budget.share = 1.0  # it grows no more
    portrait = SelfPortrait(c.nodes[A], started_ms=0)
    assert portrait.draw(0.0).keys == 1_000
    keys = 2_000
    assert portrait.draw(limits.LOAD_S - 1).keys == 1_000  # no look yet
    assert portrait.draw(limits.LOAD_S).keys == 2_000
    keys = 2_001
    assert portrait.draw(3 * limits.LOAD_S).keys == 2_000
    assert portrait.draw(3 * limits.LOAD_S + limits.LOAD_REST_S).keys == 2_001
    c.nodes[A].draining = True
    assert portrait.draw(4 * limits.LOAD_S + limits.LOAD_REST_S - 1).draining  # at once


def test_labels_of_any_length_make_a_fact_within_its_bound() -> None:
    c = cluster()
    c.nodes[A].about = dict.fromkeys(("name", "address", "zone", "host"), "ä" * 5000)
    portrait = SelfPortrait(c.nodes[A], started_ms=0).draw(0.0)
    assert portrait.host == "ä" * 127
