"""A start serves when the voters have recorded it; a store that is not the node's is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from dynagent import limits
from dynagent.core.inspect import status_fields
from dynagent.core.messages import (
    Ballot,
    Error,
    Get,
    GetReply,
    Merge,
    MergeAck,
    PutReply,
    Read,
    Register,
    RingIs,
    RingRequest,
    StartRefused,
)
from dynagent.core.ports import LinkId, NodeId
from dynagent.core.readiness import unready_reason
from dynagent.core.registrar import Start, decode_start, is_past_of
from dynagent.core.registration import (
    DOUBLE_UP,
    OTHER_START,
    REFUSED,
    REGISTERED,
    REMOVED,
    STARTING,
)
from dynagent.core.ring import Ring
from dynagent.errors import NotReady
from tests.core.harness import IDS, KEY, Cluster, is_error, make_ring, put, requests

A, B, C, D = IDS


def ring_of(*voters: NodeId, n: int = 3, others: int = 0) -> Ring:
    return make_ring(n, others=others, voters=voters)


def state(c: Cluster, node: NodeId) -> str:
    registration = c.nodes[node].registration
    assert registration is not None
    return registration.state


def cluster(*voters: NodeId, n: int = 3, others: int = 0) -> Cluster:
    """All of them have started, and know each other's starts."""
    c = Cluster(ring_of(*voters, n=n, others=others))
    c.settle()
    assert {state(c, node) for node in c.nodes} == {REGISTERED}
    return c


def register(c: Cluster, node: NodeId, run: int, *starts: bytes, epoch: int = 1) -> Register:
    return Register(node, run, list(starts), "h:1", epoch)


# --- a start of the store that it was -------------------------------------------------------------


def test_a_whole_cluster_starts_at_once_and_each_node_waits_for_the_voters_disks() -> None:
    c = Cluster(ring_of(A, B, C))
    assert {state(c, node) for node in c.nodes} == {STARTING}
    while c.wire:
        c.deliver(c.wire[0])
    assert {state(c, node) for node in c.nodes} == {STARTING}  # nothing is durable yet
    c.settle()
    assert {state(c, node) for node in c.nodes} == {REGISTERED}
    assert isinstance(c.ask(A, put(b"v")), PutReply)


def test_it_takes_one_round_trip() -> None:
    c = cluster(A, B, C)
    c.restart(A)
    assert [packet.target for packet in requests(c, Register)] == [B, C]
    c.settle()
    assert state(c, A) == REGISTERED


def test_a_ring_without_voters_has_nobody_to_ask() -> None:
    c = Cluster(make_ring(3))
    assert {state(c, node) for node in c.nodes} == {REGISTERED}
    assert requests(c, Register) == []


def test_a_node_of_its_own_has_nobody_to_ask() -> None:
    c = Cluster(ring_of(A, n=1))
    assert state(c, A) == REGISTERED


def test_beside_a_lone_voter_the_other_members_are_asked() -> None:
    c = Cluster(ring_of(A, n=2))
    assert state(c, A) == STARTING
    c.settle()
    assert state(c, A) == REGISTERED


def test_a_majority_is_enough_when_the_rest_has_had_its_time() -> None:
    c = cluster(A, B, C)
    c.restart(A)
    c.wire = [packet for packet in c.wire if packet.target != C]  # C is dead
    c.settle()
    assert state(c, A) == STARTING
    c.tick(c.now + limits.REGISTRATION_PATIENCE_S)
    assert state(c, A) == REGISTERED


def test_a_voter_that_was_away_for_many_starts_still_knows_the_store() -> None:
    c = cluster(A, B, C)
    for _ in range(3):
        c.restart(A)
        c.wire = [packet for packet in c.wire if packet.target != C]
        c.settle()
        c.tick(c.now + limits.REGISTRATION_PATIENCE_S)
        c.wire = []
        assert state(c, A) == REGISTERED
    c.tick(c.now + limits.REGISTRATION_RETRY_S)
    c.settle()  # C is back, and knows the first start only
    assert state(c, A) == REGISTERED
    assert c.disks[C].get_meta(f"start/{A}") == c.disks[B].get_meta(f"start/{A}")


# --- until then -----------------------------------------------------------------------------------


def starting() -> Cluster:
    """A cluster of three, in which B and C are dead and A has started."""
    c = cluster(A, B, C)
    for node in (B, C):
        del c.nodes[node]
    c.restart(A)
    for node in (B, C):
        c.nodes[A].on_peer_down(c.now, node)
    c.wire.clear()
    return c


def test_a_node_that_is_not_registered_answers_nobody_out_of_its_store() -> None:
    c = starting()
    for message in (
        Read(1, 2, KEY, 0),
        Merge(1, 2, 0, []),
        Merge(1, 2, 0, [], hint_for=B),
        Ballot(2, 1, 1),
    ):
        c.nodes[A].on_message(c.now, LinkId(1), 7, 1_000, message)
        [answer] = [packet.message for packet in c.wire]
        assert is_error(answer, NotReady)
        assert isinstance(answer, Error) and "n-b (unreachable), n-c (unreachable)" in answer.text
        c.wire.clear()
    assert c.nodes[A].take_batch() is None


def test_it_says_why_it_does_not_serve() -> None:
    c = starting()
    reason = "this agent is starting: 1 of the 2 voters needed have recorded that; "
    assert unready_reason(c.nodes[A]).startswith(reason)
    fields = status_fields(c.nodes[A])
    assert fields["state"] == "starting"
    assert fields["registration"] == {
        "state": "starting",
        "recorded": 1,
        "needed": 2,
        "missing": {B: "unreachable", C: "unreachable"},
    }


def test_it_passes_requests_of_clients_on() -> None:
    c = cluster(A, B, C)
    c.ask(B, put(b"v"))
    c.restart(A)
    c.wire = [packet for packet in c.wire if not isinstance(packet.message, Register)]
    assert isinstance(c.ask(A, Get(KEY)), GetReply)
    assert state(c, A) == STARTING


def test_it_records_the_starts_of_others() -> None:
    c = starting()
    c.nodes[A].on_message(c.now, LinkId(1), 7, 1_000, register(c, B, 2, b"b0000001", b"b0000002"))
    c.commit(A)
    assert [packet.message for packet in c.wire] == [MergeAck()]


# --- a store that it was not ----------------------------------------------------------------------


def refusal_of(c: Cluster, message: Register, voter: NodeId = B) -> StartRefused | None:
    """What a voter says to that start."""
    c.wire.clear()
    c.nodes[voter].on_message(c.now, LinkId(0), 7, 1_000, message)
    c.commit(voter)
    [packet] = c.wire
    return packet.message if isinstance(packet.message, StartRefused) else None


def test_a_copy_that_starts_beside_the_original_is_refused_however_often_it_starts() -> None:
    c = cluster(A, B, C)
    starts = [b"a0000001"]  # copied then
    c.restart(A)
    c.settle()
    for run in range(2, 9):
        starts.append(b"copy%04d" % run)
        refusal = refusal_of(c, register(c, A, run, *starts))
        assert refusal == StartRefused(OTHER_START, 2, "", 1)


def test_a_store_from_an_old_backup_is_refused_whatever_its_run_number() -> None:
    c = cluster(A, B, C)
    for _ in range(3):
        c.restart(A)
        c.settle()
    old = [b"a0000001", b"a0000002"]
    assert refusal_of(c, register(c, A, 3, *old, b"restored")) is not None
    assert refusal_of(c, register(c, A, 5, *old, b"restored", b"again000", b"again001")) is not None


def test_a_refused_start_ends_the_node() -> None:
    c = cluster(A, B, C)
    refused: list[StartRefused] = []
    c.runs[A] = 0  # an old snapshot of a store that had not started yet
    c.restart(A, nonces=[b"restored"])
    c.nodes[A].stand_down = refused.append
    c.settle()
    assert state(c, A) == REFUSED
    assert refused == [StartRefused(OTHER_START, 1, "", 1)]
    assert status_fields(c.nodes[A])["state"] == "refused"
    assert c.nodes[A].next_deadline() is None


def test_a_start_that_has_been_refused_after_it_served_serves_no_more() -> None:
    c = cluster(A, B, C)
    c.restart(A)
    c.wire = [packet for packet in c.wire if packet.target != C]
    c.settle()
    c.tick(c.now + limits.REGISTRATION_PATIENCE_S)
    assert state(c, A) == REGISTERED  # B has it; C was cut off, and knows a copy
    c.nodes[C].on_message(c.now, LinkId(0), 7, 1_000, register(c, A, 2, b"a0000001", b"copy0000"))
    c.commit(C)
    c.wire.clear()
    c.tick(c.now + limits.REGISTRATION_RETRY_S)
    c.settle()
    assert state(c, A) == REFUSED
    c.nodes[A].on_message(c.now, LinkId(1), 7, 1_000, Read(1, 2, KEY, 0))
    assert is_error(c.wire[-1].message, NotReady)


@pytest.mark.parametrize("order", list(product((B, C), repeat=2)))
def test_of_two_that_start_at_once_never_both_serve(order: tuple[NodeId, NodeId]) -> None:
    """Whichever voter hears of which first: each is waited for, so one of the two is refused."""
    copies = (
        register(Cluster(None), A, 2, b"a0000001", b"copy0001"),
        register(Cluster(None), A, 2, b"a0000001", b"copy0002"),
    )
    c = cluster(A, B, C)
    served = 0
    for number, first in enumerate(order):
        second = C if first == B else B
        answers = [refusal_of(c, copies[number], voter) for voter in (first, second)]
        served += answers == [None, None]
    assert served == 1


def test_the_same_start_may_ask_again_and_waits_for_the_disk_again() -> None:
    c = cluster(A, B, C)
    again = register(c, A, 1, b"a0000001")
    c.wire.clear()
    c.nodes[B].on_message(c.now, LinkId(0), 7, 1_000, again)
    assert c.wire == []
    c.commit(B)
    assert [packet.message for packet in c.wire] == [MergeAck()]


def test_a_voter_remembers_across_its_own_restart() -> None:
    c = cluster(A, B, C)
    c.restart(B)
    c.settle()
    assert refusal_of(c, register(c, A, 2, b"another0", b"another1")) is not None


@pytest.mark.parametrize(
    ("known", "is_past"),
    [
        (Start(b"3", 3, ""), True),
        (Start(b"x", 3, ""), False),
        (Start(b"5", 5, ""), True),  # this very start
        (Start(b"x", 5, ""), False),
        (Start(b"6", 6, ""), False),  # a later one
        (Start(b"4", 3, ""), False),
        (Start(b"x", 2, ""), True),  # before all that are shown
    ],
)
def test_what_the_shown_starts_prove(known: Start, is_past: bool) -> None:
    assert is_past_of(known, 5, [b"3", b"4", b"5"]) is is_past


# --- a copy of a store that runs ------------------------------------------------------------------


def test_a_copy_of_a_running_store_waits_while_the_original_is_up() -> None:
    """By its past it could be the next start of the original."""
    c = cluster(A, B, C)
    c.nodes[B].registrar.boots[A] = b"a0000001"
    copy = register(c, A, 2, b"a0000001", b"copy0000")
    assert refusal_of(c, copy) == StartRefused(DOUBLE_UP, 1, "h:1", 1)
    c.nodes[B].on_peer_down(c.now, A)
    assert refusal_of(c, copy) is None  # it was a restart


def test_a_start_waits_for_whoever_has_met_another_node_of_its_id() -> None:
    c = cluster(A, B, C)
    c.nodes[B].registrar.boots[A] = b"a0000001"
    c.restart(A)
    met: list[str] = []
    c.nodes[A].meet_double = met.append
    c.settle()
    c.tick(c.now + limits.REGISTRATION_PATIENCE_S)
    c.settle()
    assert (state(c, A), met[:1]) == (STARTING, ["h:1"])  # C has recorded it, B still has a link
    assert "another agent with this node id is up at h:1" in unready_reason(c.nodes[A])
    c.nodes[B].on_peer_down(c.now, A)
    c.tick(c.now + limits.REGISTRATION_RETRY_S)
    c.settle()
    assert state(c, A) == REGISTERED


def test_a_voter_that_is_gone_keeps_no_start_waiting_for_what_it_saw() -> None:
    """Its link to the life before was still open when it was asked; then it went away for good."""
    c = cluster(A, B, C)
    c.nodes[B].registrar.boots[A] = b"a0000001"
    c.restart(A)
    c.settle()
    c.tick(c.now + limits.REGISTRATION_HELD_S / 2)
    c.nodes[A].on_peer_down(c.now, B)
    for _ in range(3):
        c.tick(c.now + limits.REGISTRATION_PATIENCE_S)
        c.settle()
    assert state(c, A) == REGISTERED


def test_who_votes_no_more_keeps_no_start_waiting_for_what_it_saw() -> None:
    c = cluster(A, B, C, others=1)
    c.nodes[B].registrar.boots[A] = b"a0000001"
    c.restart(A)
    c.settle()
    c.tick(c.now + limits.REGISTRATION_PATIENCE_S)
    c.settle()
    assert state(c, A) == STARTING
    changed = replace(c.nodes[A].ring or ring_of(), epoch=2, voters=(A, C, D))
    for node in IDS:
        c.nodes[node].on_ring(c.now, changed)
    for _ in range(3):
        c.tick(c.now + limits.REGISTRATION_PATIENCE_S)
        c.settle()
    assert state(c, A) == REGISTERED


def test_a_node_that_hears_of_a_later_run_of_its_own_asks_the_voters_again() -> None:
    c = cluster(A, B, C)
    for voter in (B, C):
        assert refusal_of(c, register(c, A, 2, b"a0000001", b"copy0000"), voter) is None
    registration = c.nodes[A].registration
    assert registration is not None
    registration.doubt(c.now)
    c.tick(c.now)
    c.settle()
    assert state(c, A) == REFUSED


# --- rings ---------------------------------------------------------------------------------------


def test_a_node_that_was_removed_is_refused_by_everybody() -> None:
    c = cluster(A, B, C, others=1)
    without = replace(
        c.nodes[A].ring or ring_of(), epoch=2, members=make_ring(3).members, voters=(A, B, C)
    )
    for node in (A, B, C):
        c.nodes[node].on_ring(c.now, without)
        c.commit(node)
        assert c.disks[node].get_meta(f"start/{D}") == b""
    late = register(c, D, 2, b"d0000001", b"d0000002")
    assert refusal_of(c, late) == StartRefused(REMOVED, 0, "", 2)
    c.nodes[D].on_ring(c.now, without)
    assert c.nodes[D].is_removed
    assert is_error(c.ask(D, RingRequest()), NotReady)  # others have newer rings than its last


def test_a_voter_that_has_not_heard_of_a_new_member_yet_says_which_ring_it_has() -> None:
    c = cluster(A, B, C)
    c.wire.clear()
    c.nodes[B].on_message(c.now, LinkId(0), 7, 1_000, register(c, D, 1, b"d0000001", epoch=2))
    assert [packet.message for packet in c.wire] == [RingIs(1)]


def test_a_start_with_an_old_ring_is_told_of_the_newer_one() -> None:
    c = cluster(A, B, C)
    newer = replace(c.nodes[B].ring or ring_of(), epoch=2)
    c.nodes[B].on_ring(c.now, newer)
    c.wire.clear()
    c.nodes[B].on_message(c.now, LinkId(0), 7, 1_000, register(c, A, 2, b"a0000001", b"a0000002"))
    assert [packet.message for packet in c.wire] == [RingIs(2)]


def test_new_voters_get_to_know_of_the_starts() -> None:
    c = cluster(A, B, C, others=1)
    changed = replace(c.nodes[A].ring or ring_of(), epoch=2, voters=(A, B, D))
    for node in IDS:
        c.nodes[node].on_ring(c.now, changed)
    c.tick(c.now)
    c.settle()
    assert {state(c, node) for node in c.nodes} == {REGISTERED}
    assert decode_start(c.disks[D].get_meta(f"start/{C}")) == Start(b"c0000001", 1, "")
