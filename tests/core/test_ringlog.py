"""The ring log among real nodes: who wins, who is told what, and what a crash leaves."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from dynagent import limits
from dynagent.core import acceptor
from dynagent.core.encoding import encode
from dynagent.core.messages import (
    Ballot,
    Error,
    LogReply,
    LogRequest,
    Message,
    Propose,
    Proposed,
    Register,
    RingIs,
    Vote,
)
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.registration import REGISTERED
from dynagent.core.ring import Ring
from dynagent.core.ringcodec import encode_ring
from dynagent.core.ringentry import (
    ChangeEntry,
    Content,
    Entry,
    ForcedEntry,
    PolicyEntry,
    RetireEntry,
    VotersEntry,
    decode_log_entry,
    encode_log_entry,
)
from dynagent.core.ringlog import RingLog
from dynagent.errors import (
    BadRequest,
    DiskFull,
    DynagentError,
    NotReady,
    QuorumNotMet,
    Refused,
    UnknownEntry,
    WriteOutcomeUnknown,
)
from tests.core.harness import IDS, Cluster, Packet, is_error, make_ring, requests

A, B, C, D = IDS


def cluster(*, others: int = 1, voters: tuple[NodeId, ...] = (A, B, C)) -> Cluster:
    c = Cluster(make_ring(3, others=others, voters=voters))
    c.settle()  # their starts are registered
    return c


def restart(c: Cluster, node: NodeId) -> None:
    """What was not committed is lost; what it had sent too."""
    c.wire.clear()
    c.restart(node)
    c.settle()


def policy(value: str, number: int = 1) -> PolicyEntry:
    return PolicyEntry(id=number.to_bytes(16, "big"), name="simulated", value=value)


def turned(ring: Ring, partition: int, number: int) -> ChangeEntry:
    """A change that moves one partition to the last three nodes."""
    return ChangeEntry(
        id=number.to_bytes(16, "big"),
        verb="set",
        members=ring.members,
        leaving=(),
        removed=(),
        moves=((PartitionId(partition), (B, C, D)),),
    )


def encoded(content: Content) -> bytes:
    return encode_log_entry(Entry(content=content, proposer=NodeId("client"), wall_ms=0))


def propose(content: Content, epoch: int = 1, *, force: bool = False) -> Propose:
    return Propose(encoded(content), epoch, force)


def log_of(c: Cluster, node: NodeId) -> RingLog:
    found = c.nodes[node].ringlog
    assert found is not None
    return found


def ring_of(c: Cluster, node: NodeId) -> Ring:
    found = c.nodes[node].ring
    assert found is not None
    return found


def values(c: Cluster) -> dict[NodeId, tuple[int, str]]:
    """Of each node the epoch of its ring, and the policy that these tests set."""
    rings = {node: ring_of(c, node) for node in c.nodes}
    return {n: (ring.epoch, dict(ring.policies).get("simulated", "")) for n, ring in rings.items()}


def cut_off(c: Cluster, *nodes: NodeId) -> None:
    """They and the others see each other no more; what is on its way between them is lost."""
    for one in c.nodes:
        for other in c.nodes:
            if (one in nodes) != (other in nodes):
                c.nodes[one].on_peer_down(c.now, other)
    c.wire[:] = [p for p in c.wire if (p.source in nodes) == (p.target in nodes)]


def join_up(c: Cluster) -> None:
    for one in c.nodes:
        for other in c.nodes:
            if one != other:
                c.nodes[one].on_peer_up(c.now, other)


def run(c: Cluster, seconds: float) -> None:
    """Time passes, in small steps, and everything arrives."""
    for _ in range(round(seconds / 0.05)):
        c.tick(c.now + 0.05)
        c.settle()


def answer_to(c: Cluster, number: int) -> Message:
    [answer] = [message for request_id, message in c.answers if request_id == number]
    return answer


# --- deciding ------------------------------------------------------------------------------------


def test_what_any_node_proposes_is_decided_and_everybody_has_it() -> None:
    c = cluster()
    assert c.ask(D, propose(policy("yes"))) == Proposed(2)
    assert values(c) == dict.fromkeys(IDS, (2, "yes"))


def test_of_two_operators_one_wins_and_the_other_is_refused_with_the_reason() -> None:
    c = cluster()
    first = c.request(A, propose(turned(ring_of(c, A), 0, 1)))
    second = c.request(D, propose(turned(ring_of(c, A), 1, 2)))
    run(c, 1)
    answers = [answer_to(c, first), answer_to(c, second)]
    assert sorted(type(answer).__name__ for answer in answers) == ["Error", "Proposed"]
    [error] = [answer for answer in answers if isinstance(answer, Error)]
    assert is_error(error, Refused)
    assert "a change is under way (set, entry 2)" in error.text
    assert {ring_of(c, node).epoch for node in IDS} == {2}


def test_two_contents_that_do_not_exclude_each_other_are_both_decided() -> None:
    c = cluster()
    numbers = [c.request(node, propose(policy(node, 1 + at))) for at, node in enumerate((B, D))]
    run(c, 2)
    assert all(isinstance(answer_to(c, number), Proposed) for number in numbers)
    assert {ring_of(c, node).epoch for node in IDS} == {3}


def test_a_content_that_is_in_the_log_is_answered_as_decided() -> None:
    c = cluster()
    assert c.ask(A, propose(policy("yes"))) == Proposed(2)
    assert c.ask(B, propose(policy("yes"))) == Proposed(2)
    assert c.ask(B, propose(policy("yes"), epoch=0)) == Proposed(2)
    # At the same time, by two agents:
    numbers = [c.request(node, propose(policy("no", 2))) for node in (A, D)]
    run(c, 1)
    assert [answer_to(c, number) for number in numbers] == [Proposed(3)] * 2
    assert {ring_of(c, node).epoch for node in IDS} == {3}


def test_a_change_is_refused_if_the_ring_has_changed_since_it_was_planned() -> None:
    c = cluster()
    ring = ring_of(c, A)
    swapped = replace(turned(ring, 0, 1), moves=((PartitionId(0), (C, B, A)),))  # settles at once
    assert c.ask(A, propose(policy("yes", 9))) == Proposed(2)
    assert c.ask(A, propose(swapped)) == Proposed(3)  # a policy does not matter to it
    answer = c.ask(A, propose(turned(ring, 1, 2)))
    assert is_error(answer, Refused)
    assert isinstance(answer, Error)
    assert "plan again" in answer.text
    assert c.ask(A, propose(turned(ring, 1, 2), epoch=3)) == Proposed(4)


def test_an_agent_whose_ring_is_older_than_the_plan_passes() -> None:
    c = cluster()
    assert is_error(c.ask(A, propose(policy("yes"), epoch=2)), NotReady)


def test_what_does_not_fit_is_refused_and_nothing_goes_out() -> None:
    c = cluster()
    c.request(A, propose(RetireEntry(nodes=(D,))))
    assert is_error(c.answers[-1][1], Refused)
    assert c.wire == []
    assert is_error(c.ask(A, Propose(encode([9, 0, "x"]))), BadRequest)
    assert is_error(c.ask(A, propose(ForcedEntry(voters=(A,), after=1))), BadRequest)
    assert is_error(Cluster(make_ring(3)).ask(A, propose(policy("yes"))), Refused)  # no voters


def test_without_a_majority_nothing_is_decided_and_nothing_has_gone_out() -> None:
    c = cluster()
    cut_off(c, B, C)
    number = c.request(D, propose(policy("yes")))
    run(c, 2)
    assert is_error(answer_to(c, number), QuorumNotMet)
    join_up(c)
    run(c, 2)
    assert values(c) == dict.fromkeys(IDS, (1, ""))


def test_what_may_have_been_accepted_when_time_is_up_is_indefinite_and_found_by_the_next() -> None:
    c = cluster()
    number = c.request(D, propose(policy("yes")))
    while not any(isinstance(p.message, Ballot) and p.message.entry for p in c.wire):
        for packet in list(c.wire):
            c.deliver(packet)
        for node in IDS:
            c.commit(node)
    [to_a] = [p for p in requests(c, Ballot) if p.target == A]
    c.deliver(to_a)
    c.commit(A)
    cut_off(c, D)
    run(c, 2)
    answer = answer_to(c, number)
    assert is_error(answer, WriteOutcomeUnknown)
    assert isinstance(answer, Error)
    assert "dynctl ring history" in answer.text
    # B's proposal meets what A has accepted: that comes first, then its own.
    cut_off(c, C, D)
    assert c.ask(B, propose(policy("no", 2))) == Proposed(3)
    assert values(c)[A] == (3, "no")
    assert dict(log_of(c, A).rows.after(1)).keys() == {2, 3}


def test_proposals_of_one_agent_wait_for_each_other_and_their_number_is_bounded() -> None:
    c = cluster()
    numbers = [c.request(A, propose(policy(str(at), at))) for at in range(1, 18)]
    assert isinstance(c.answers[-1][1], Error)  # the last one finds no place
    run(c, 3)
    assert [answer_to(c, number) for number in numbers[:-1]] == [
        Proposed(epoch) for epoch in range(2, 18)
    ]


def test_one_that_waits_too_long_does_not_disturb_the_one_under_way() -> None:
    c = cluster()
    cut_off(c, B, C)
    first = c.request(A, propose(policy("first")), budget_ms=5_000)
    second = c.request(A, propose(policy("second", 2)), budget_ms=500)
    run(c, 1)
    assert is_error(answer_to(c, second), QuorumNotMet)
    join_up(c)
    run(c, 2)
    assert answer_to(c, first) == Proposed(2)


# --- voting --------------------------------------------------------------------------------------


def ask_to_vote(
    c: Cluster, node: NodeId, *, round_: int, entry: bytes = b"", index: int = 2
) -> None:
    ballot = Ballot(index, round_, 7, entry)
    c.deliver(Packet(D, node, 100 + round_, ballot, 1_000))


def votes(c: Cluster) -> list[Message]:
    found = [packet.message for packet in c.wire if packet.target == D]
    c.wire.clear()
    return found


def test_a_vote_is_answered_when_it_is_on_the_disk_and_outlives_a_crash() -> None:
    c = cluster()
    yes = encoded(policy("yes"))
    ask_to_vote(c, A, round_=2)
    assert votes(c) == []
    c.commit(A)
    assert votes(c) == [Vote(2, 7)]
    ask_to_vote(c, A, round_=2, entry=yes)
    ask_to_vote(c, A, round_=2, entry=yes)  # again, before it is durable
    assert votes(c) == []
    c.commit(A)
    assert votes(c) == [Vote(2, 7, 2, 7, yes)] * 2
    restart(c, A)
    ask_to_vote(c, A, round_=1, entry=encoded(policy("no")))
    assert votes(c) == [Vote(2, 7, 2, 7, yes)]  # a no
    ask_to_vote(c, A, round_=3)
    c.commit(A)
    assert votes(c) == [Vote(3, 7, 2, 7, yes)]


def test_a_vote_that_a_crash_has_taken_back_was_never_answered() -> None:
    c = cluster()
    ask_to_vote(c, A, round_=5)
    assert votes(c) == []
    restart(c, A)
    ask_to_vote(c, A, round_=1)
    c.commit(A)
    assert votes(c) == [Vote(1, 7)]


def test_a_full_disk_takes_a_vote_back_and_says_so() -> None:
    c = cluster()
    ask_to_vote(c, A, round_=5)
    assert c.nodes[A].take_batch() is not None
    c.nodes[A].on_refused(c.now)
    [answer] = votes(c)
    assert is_error(answer, DiskFull)
    c.tick(c.now + 2 * limits.DISK_FULL_PAUSE_S)
    ask_to_vote(c, A, round_=1)
    c.commit(A)
    assert votes(c) == [Vote(1, 7)]


def test_who_is_no_voter_refuses() -> None:
    c = cluster(voters=(A,))
    ask_to_vote(c, B, round_=1)
    [answer] = votes(c)
    assert is_error(answer, Refused)


def test_a_voter_does_not_vote_for_what_it_does_not_understand() -> None:
    c = cluster()
    ask_to_vote(c, A, round_=1, entry=encode([99, 0, "x"]))
    [answer] = votes(c)
    assert is_error(answer, BadRequest)
    assert c.nodes[A].failure is None


def test_asked_for_a_decided_entry_a_voter_answers_with_it_and_ahead_of_it_with_its_epoch() -> None:
    c = cluster()
    c.ask(B, propose(policy("yes")))
    ask_to_vote(c, A, round_=9, index=2)
    [answer] = votes(c)
    assert isinstance(answer, LogReply)
    assert (answer.epoch, answer.first, len(answer.entries)) == (2, 2, 1)
    ask_to_vote(c, A, round_=9, index=9)
    assert votes(c) == [RingIs(2)]


def test_a_voter_whose_row_is_damaged_sits_out_one_entry_and_a_rebuilt_store_all() -> None:
    c = cluster()
    ask_to_vote(c, A, round_=1)
    c.commit(A)
    c.disks[A].meta[acceptor.ROW] = b"x" + c.disks[A].meta[acceptor.ROW][1:]
    c.disks[B].meta[acceptor.ROW] = acceptor.LOST
    for node in (A, B):
        restart(c, node)
        ask_to_vote(c, node, round_=2)
        [answer] = votes(c)
        assert is_error(answer, Refused)
    # With one of three voters in doubt the other two decide. With A back, they are two again.
    number = c.request(D, propose(policy("yes")))
    run(c, 2)
    assert is_error(answer_to(c, number), QuorumNotMet)
    c.disks[A].meta[acceptor.ROW] = c.disks[C].meta.get(acceptor.ROW, acceptor.LOST)
    restart(c, A)
    assert c.ask(D, propose(policy("yes"))) == Proposed(2)
    assert c.ask(D, propose(policy("no", 2))) == Proposed(3)
    assert log_of(c, B).counts["voted"] == 0


def test_no_number_of_a_ballot_is_used_twice_not_even_after_a_restart() -> None:
    c = cluster()
    numbers = []
    for _ in range(2):
        c.request(D, propose(policy("yes")))
        ballot = requests(c, Ballot)[0].message
        assert isinstance(ballot, Ballot)
        numbers.append((ballot.round, ballot.proposer))
        restart(c, D)
    assert len(set(numbers)) == 2


# --- learning ------------------------------------------------------------------------------------


def test_a_node_turns_to_a_ring_when_it_is_durable_and_comes_back_with_it() -> None:
    c = cluster(others=0, voters=(A,))
    seen: list[int] = []
    log_of(c, A)._on_ring = lambda _now, ring: seen.append(ring.epoch)
    c.request(A, propose(policy("yes")))
    for _ in range(2):  # the promise, and the vote
        c.commit(A)
    assert log_of(c, A).ring.epoch == 2
    assert seen == []
    c.commit(A)
    assert seen == [2]
    restart(c, A)
    assert ring_of(c, A).epoch == 2


def test_a_batch_that_was_under_way_before_an_entry_came_does_not_make_it_durable() -> None:
    c = cluster()
    ask_to_vote(c, A, round_=1)
    batch = c.nodes[A].take_batch()
    assert batch is not None
    entry = encoded(policy("yes"))
    c.deliver(Packet(B, A, 9, LogReply(2, 2, [entry]), 1_000))
    c.finish(A, batch)
    assert ring_of(c, A).epoch == 1
    assert votes(c) == [Vote(1, 7)]
    c.commit(A)
    assert ring_of(c, A).epoch == 2


def fill(c: Cluster, count: int, *, node: NodeId = A) -> None:
    epoch = ring_of(c, node).epoch
    for number in range(epoch, epoch + count):
        assert c.ask(node, propose(policy(str(number), number), number)) == Proposed(number + 1)


def test_who_was_away_learns_from_the_first_that_says_its_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LOG_PAGE_BYTES", 200)
    c = cluster()
    cut_off(c, D)
    fill(c, 10)
    assert values(c)[D] == (1, "")
    join_up(c)
    c.nodes[D].on_reply(c.now, A, 0, RingIs(11))
    c.settle()
    assert values(c) == dict.fromkeys(IDS, (11, "10"))
    assert log_of(c, D).learner.learnt == 10
    # And if it is D that says its epoch it is told:
    cut_off(c, D)
    fill(c, 3)
    join_up(c)
    c.nodes[B].on_reply(c.now, D, 0, RingIs(11))
    c.settle()
    assert values(c)[D] == (14, "13")


def test_who_lacks_more_than_is_kept_is_given_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_KEPT", 4)
    c = cluster()
    cut_off(c, D)
    fill(c, 6)
    join_up(c)
    log_of(c, D).on_ring_is(c.now, A, 7)
    c.settle()
    assert ring_of(c, D) == ring_of(c, A)
    assert log_of(c, D).learner.learnt == 0
    fill(c, 1, node=D)
    restart(c, D)
    assert ring_of(c, D).epoch == 8
    reply = c.ask(A, LogRequest(0, kept=True))
    assert isinstance(reply, LogReply)
    assert (reply.first, len(reply.entries), reply.ring) == (5, 4, b"")
    reply = c.ask(D, LogRequest(0, kept=True))
    assert isinstance(reply, LogReply)
    assert (reply.first, len(reply.entries)) == (8, 1)
    reply = c.ask(A, LogRequest(2))
    assert isinstance(reply, LogReply)
    assert reply.ring == encode_ring(ring_of(c, A))


def test_who_does_not_get_an_answer_asks_again() -> None:
    c = cluster()
    cut_off(c, D)
    fill(c, 1)
    join_up(c)
    log_of(c, D).on_ring_is(c.now, A, 2)
    c.wire.clear()
    run(c, limits.LOG_ANSWER_S + 2 * limits.LOG_REST_S)
    assert values(c)[D] == (2, "1")


def test_one_that_stays_behind_is_not_told_at_every_answer() -> None:
    c = cluster()
    cut_off(c, D)
    fill(c, 1)
    join_up(c)
    for _ in range(5):
        c.nodes[A].on_reply(c.now, D, 0, RingIs(1))
    assert len(requests(c, LogReply)) == 1
    c.wire.clear()
    c.tick(c.now + 2 * limits.LOG_ANSWER_S)
    c.nodes[A].on_reply(c.now, D, 0, RingIs(1))
    assert len(requests(c, LogReply)) == 1


def test_an_entry_of_an_unknown_kind_stops_the_node() -> None:
    c = cluster()
    page = LogReply(2, 2, [encode([99, 0, "later release"])])
    c.deliver(Packet(B, A, 9, page, 1_000))
    failure = c.nodes[A].failure
    assert isinstance(failure, UnknownEntry)
    assert failure.message == (
        "the ring log has an entry of kind 99, which this agent does not know; upgrade it"
    )
    assert ("ringlog.unknown_entry", {"reason": failure.message}) in c.notes


def test_a_malformed_entry_is_refused_and_the_node_goes_on() -> None:
    c = cluster()
    for page in (LogReply(2, 2, [b"?"]), LogReply(2, 0, [], b"?")):
        c.deliver(Packet(B, A, 9, page, 1_000))
    assert c.nodes[A].failure is None
    assert c.ask(A, propose(policy("yes"))) == Proposed(2)


def test_a_full_disk_takes_entries_back_and_they_are_learnt_again() -> None:
    c = cluster()
    number = c.request(A, propose(policy("yes")))
    while log_of(c, A).ring.epoch == 1:
        for packet in list(c.wire):
            c.deliver(packet)
        for node in IDS:
            if log_of(c, A).ring.epoch == 1:
                c.commit(node)
    assert c.nodes[A].take_batch() is not None
    c.nodes[A].on_refused(c.now)
    assert log_of(c, A).ring.epoch == 1
    run(c, 3)
    assert answer_to(c, number) == Proposed(2)
    assert values(c) == dict.fromkeys(IDS, (2, "yes"))


# --- who votes -----------------------------------------------------------------------------------


def test_voters_follow_the_members_after_a_rest() -> None:
    c = cluster(voters=(A,))
    run(c, limits.VOTERS_REST_S - 1)
    assert {ring_of(c, node).epoch for node in IDS} == {1}
    for node in (B, C, D):  # gossip has told A that they have all entries
        fact = c.nodes[node].gossip
        assert fact is not None and fact.own is not None
        gossip = c.nodes[A].gossip
        assert gossip is not None
        gossip._keep(c.now, fact.own)
    run(c, 2)
    assert {ring_of(c, node).voters for node in IDS} == {(A, B, C)}
    assert all(node.electors is not None and node.electors.due > 1e9 for node in c.nodes.values())


def test_nobody_becomes_a_voter_that_lacks_entries_or_is_down() -> None:
    c = cluster(voters=(A,))
    run(c, 3 * limits.VOTERS_REST_S)
    assert {ring_of(c, node).voters for node in IDS} == {(A,)}


# --- a majority is lost --------------------------------------------------------------------------


def forced(c: Cluster) -> Message:
    """B and C are lost for good; D is told to go on with A."""
    cut_off(c, B, C)
    return c.ask(D, propose(VotersEntry(voters=(A,)), force=True))


def test_a_forced_entry_lets_the_others_go_on() -> None:
    c = cluster()
    fill(c, 2)
    assert forced(c) == Proposed(limits.LINEAGE_ENTRIES_MAX)
    c.settle()
    ring = ring_of(c, A)
    assert (ring.lineage, ring.epoch, ring.voters) == (1, limits.LINEAGE_ENTRIES_MAX, (A,))
    assert ring_of(c, D) == ring
    assert [fields["after"] for event, fields in c.notes if event == "ring.forced"] == [3, 3]
    assert c.ask(D, propose(policy("on", 9), 0)) == Proposed(limits.LINEAGE_ENTRIES_MAX + 1)
    again = c.ask(D, propose(VotersEntry(voters=(A,)), force=True))
    assert again == Proposed(limits.LINEAGE_ENTRIES_MAX + 1)
    restart(c, A)
    reply = c.ask(A, LogRequest(1))
    assert isinstance(reply, LogReply)
    assert (reply.first, len(reply.entries)) == (2, 2)
    reply = c.ask(A, LogRequest(3))
    assert isinstance(reply, LogReply)
    assert (reply.first, len(reply.entries)) == (limits.LINEAGE_ENTRIES_MAX, 2)


def test_nothing_is_forced_while_a_majority_is_up_and_only_voters_can_be() -> None:
    c = cluster()
    assert is_error(c.ask(D, propose(VotersEntry(voters=(A,)), force=True)), Refused)
    cut_off(c, B, C)
    assert is_error(c.ask(D, propose(policy("yes"), force=True)), BadRequest)
    assert is_error(c.ask(D, propose(VotersEntry(voters=(NodeId("x"),)), force=True)), Refused)


def test_the_old_lineage_with_a_majority_refuses_the_new_one_and_is_refused_by_it() -> None:
    c = cluster()
    assert forced(c) == Proposed(limits.LINEAGE_ENTRIES_MAX)
    # B and C were not lost: they can decide, and have not gone on so far.
    join_up(c)
    run(c, 3)
    for node in (B, C):
        log_of(c, node).on_ring_is(c.now, D, limits.LINEAGE_ENTRIES_MAX)
    run(c, 3)
    assert ring_of(c, B).lineage == ring_of(c, C).lineage == 0
    # They go on: from here no node of one lineage can ever follow the other.
    number = c.request(B, propose(policy("old", 9)))
    run(c, 2)
    assert answer_to(c, number) == Proposed(2)
    cut_off(c, A)
    run(c, 1)
    log_of(c, B).on_ring_is(c.now, D, limits.LINEAGE_ENTRIES_MAX)
    run(c, 3)
    assert [ring_of(c, node).lineage for node in IDS] == [1, 0, 0, 1]
    assert any(event == "ringlog.refused" for event, _ in c.notes)


def test_who_sees_no_majority_any_more_follows_the_new_lineage() -> None:
    c = cluster()
    for node in (B, C):
        c.nodes[D].on_peer_down(c.now, node)  # A does not know it yet
    assert c.ask(D, propose(VotersEntry(voters=(A,)), force=True)) == Proposed(
        limits.LINEAGE_ENTRIES_MAX
    )
    log_of(c, A).on_ring_is(c.now, D, limits.LINEAGE_ENTRIES_MAX)
    c.settle()
    assert ring_of(c, A).lineage == 0
    for node in (B, C):
        c.nodes[A].on_peer_down(c.now, node)
    run(c, limits.LOG_REFUSED_S + 1)
    assert ring_of(c, A) == ring_of(c, D)
    assert ring_of(c, A).lineage == 1


# --- everything at once --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_messages_crashes_and_proposals_makes_one_log(seed: int) -> None:
    dice = Random(seed)
    c = cluster()
    proposed: dict[int, str] = {}
    for step in range(600):
        node = dice.choice(IDS)
        match dice.choices(
            ["deliver", "double", "drop", "commit", "tick", "propose", "crash", "learn"],
            [60, 6, 3, 30, 10, 8, 4, 2],
        )[0]:
            case "deliver" | "double" | "drop" as what if c.wire:
                packet = dice.choice(c.wire)
                if what == "drop":
                    c.wire.remove(packet)
                else:
                    c.deliver(packet)
                    if what == "double" and packet.budget_ms is not None:
                        c.wire.append(packet)
            case "commit":
                c.commit(node)
            case "tick":
                c.tick(c.now + dice.random() / 4)
            case "propose" if step < 500:
                epoch = ring_of(c, node).epoch
                proposed[c.request(node, propose(policy(str(step), step), epoch))] = str(step)
            case "crash":
                crash(c, node)
            case "learn":
                log_of(c, node).on_ring_is(c.now, dice.choice(IDS), dice.randrange(1, 9))
            case _:
                pass
        assert_one_log(c)
    run(c, 20)
    newest = max(IDS, key=lambda one: ring_of(c, one).epoch)
    for node in IDS:
        log_of(c, node).on_ring_is(c.now, newest, ring_of(c, newest).epoch)
    run(c, 3)
    assert_one_log(c)
    assert len({ring_of(c, node) for node in IDS}) == 1
    decided = decided_values(c, A)
    assert decided
    assert len(set(decided)) == len(decided)
    for number, value in proposed.items():
        answers = [message for request_id, message in c.answers if request_id == number]
        assert len(answers) <= 1
        if answers and isinstance(answers[0], Proposed):
            assert value in decided
        elif answers and not is_error(answers[0], WriteOutcomeUnknown):
            assert value not in decided, answers


def crash(c: Cluster, node: NodeId) -> None:
    """Power is cut. What it has said may still arrive; all else on its links is lost."""
    c.wire[:] = [
        packet
        for packet in c.wire
        if node not in (packet.source, packet.target)
        or (packet.source == node and packet.budget_ms is None)
    ]
    for other in IDS:
        if other != node:
            c.nodes[other].on_peer_down(c.now, node)
    start = c.restart(node).registration
    assert start is not None
    start.state = REGISTERED  # that is not what is looked at here
    start._on_registered(c.now)
    c.wire[:] = [packet for packet in c.wire if not isinstance(packet.message, Register)]
    for other in IDS:
        if other != node:
            c.nodes[other].on_peer_up(c.now, node)


def decided_values(c: Cluster, node: NodeId) -> list[str]:
    contents = [decode_log_entry(data).content for _, data in log_of(c, node).rows.after(1)]
    return [content.value for content in contents if isinstance(content, PolicyEntry)]


def assert_one_log(c: Cluster) -> None:
    known: dict[int, bytes] = {}
    for node in IDS:
        for index, data in log_of(c, node).rows.after(1):
            assert known.setdefault(index, data) == data


def test_errors_of_proposals_are_told_to_machines_too() -> None:
    c = cluster()
    told: list[DynagentError | None] = []
    log_of(c, A).propose(c.now, RetireEntry(nodes=(D,)), lambda _now, error: told.append(error))
    assert [type(error) for error in told] == [Refused]
    log_of(c, A).propose(c.now, policy("yes"), lambda _now, error: told.append(error))
    c.settle()
    assert told[1:] == [None]
