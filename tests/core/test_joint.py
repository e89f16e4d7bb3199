"""Gets and puts of a partition that moves: both lists, one stamp, and no failure because of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynagent import limits
from dynagent.core.messages import (
    MODE_OVERWRITE,
    Error,
    Get,
    GetReply,
    Merge,
    MergeAck,
    Message,
    PutReply,
    Read,
    RingIs,
)
from dynagent.core.ports import NodeId
from dynagent.core.ring import token_of
from dynagent.errors import NotReady, NotYetOwner, QuorumNotMet, WriteOutcomeUnknown
from tests.core.harness import (
    KEY,
    Cluster,
    Packet,
    dots,
    is_error,
    operations,
    put,
    requests,
    values,
)
from tests.core.joint import A, B, C, Changing, D, P, changing

ALL = (A, B, C, D)


def moving(*, phase: int = 0, ready: bool = True) -> Changing:
    """From A, B, C to B, C, D; everybody knows."""
    w = changing()
    w.move((B, C, D), *ALL)
    w.ready(D) if ready else w.unready(D)
    if phase:
        w.phase(1, *ALL)
    return w


def two_to_two(*, ready: bool = False) -> Changing:
    """N = W = 2: from A, B to C, D; the write depends on every one of them."""
    w = changing(n=2, others=2)
    w.move((C, D), *ALL)
    w.ready(C, D) if ready else w.unready(C, D)
    return w


def merges(c: Cluster) -> dict[NodeId, Packet]:
    return {packet.target: packet for packet in requests(c, Merge)}


def reads(c: Cluster) -> dict[NodeId, Packet]:
    return {packet.target: packet for packet in requests(c, Read)}


def reply(c: Cluster, packet: Packet) -> Message:
    """Delivers a request, makes what it changed durable, and takes the reply off the wire."""
    c.deliver(packet)
    c.commit(packet.target)
    [found] = [
        p
        for p in c.wire
        if p.source == packet.target and p.number == packet.number and p.budget_ms is None
    ]
    c.wire.remove(found)
    return found.message


def acknowledge(c: Cluster, source: NodeId, merge: Packet) -> None:
    """The peer takes a Merge, and its acknowledgement comes back."""
    answer = reply(c, merge)
    assert isinstance(answer, MergeAck)
    c.nodes[merge.source].on_reply(c.now, source, merge.number, answer)


def later(c: Cluster, seconds: float = 0.05) -> None:
    c.tick(c.now + seconds)


# --- quorums -------------------------------------------------------------------------------------


def test_a_put_needs_w_in_both_lists() -> None:
    w = moving()
    c = w.c
    c.request(A, put(b"v", strict=True))
    sent = merges(c)
    assert set(sent) == {B, C, D}
    assert {(p.message.stamp_change, p.message.stamp_phase) for p in sent.values()} == {(2, 0)}  # type: ignore[attr-defined]
    c.commit(A)
    acknowledge(c, B, sent[B])
    assert not c.answers  # A and B of the old list, only B of the new one
    acknowledge(c, D, sent[D])
    assert isinstance(c.answers[0][1], PutReply)


@pytest.mark.parametrize("phase", [0, 1])
def test_a_put_that_w_of_one_list_cannot_have_is_indefinite(phase: int) -> None:
    w = moving(phase=phase)
    c = w.c
    coordinator = B if phase else A
    number = c.request(coordinator, put(b"v", strict=True))
    c.commit(coordinator)
    for packet in list(merges(c).values()):
        if packet.target in (C, D):
            c.wire.remove(packet)
            c.nodes[coordinator].on_reply(c.now, packet.target, packet.number, Error(1, "no"))
    c.settle()
    [answer] = [message for id_, message in c.answers if id_ == number]
    assert is_error(answer, WriteOutcomeUnknown)


def test_a_get_reads_the_old_list_first_and_the_new_one_from_phase_1_on() -> None:
    for phase, coordinator, others in ((0, A, {B, C}), (1, B, {C, D})):
        w = moving(phase=phase)
        w.c.request(coordinator, Get(KEY, r=3))
        assert set(reads(w.c)) == others


def test_an_owner_to_be_passes_requests_on_until_phase_1() -> None:
    w = moving()
    c = w.c
    c.request(D, put(b"v"))
    [passed] = c.wire
    assert passed.target in (A, B, C)
    c.settle()
    assert isinstance(c.answers[0][1], PutReply)
    w.phase(1, *ALL)
    c.request(D, Get(KEY))
    assert set(reads(c)) <= {B, C}
    c.settle()
    reply_ = c.answers[1][1]
    assert values(reply_) == [b"v"]
    c.request(A, Get(KEY))  # and now A is the one that passes them on
    assert {packet.target for packet in c.wire} <= {B, C, D}
    assert not requests(c, Read)


def test_a_write_of_a_get_that_repairs_reaches_w_in_both_lists() -> None:
    w = changing()
    c = w.c
    c.request(A, put(b"v"))
    c.wire.clear()
    c.settle()
    c.tick(2.0)
    w.move((B, C, D), *ALL)
    w.ready(D)
    number = c.request(A, Get(KEY, repair=True))
    c.settle()
    [answer] = [message for id_, message in c.answers if id_ == number]
    assert values(answer) == [b"v"]
    assert isinstance(answer, GetReply)
    holders = {node for node in ALL if c.disks[node].record(KEY).value.siblings}
    assert len(holders & {A, B, C}) >= 2
    assert len(holders & {B, C, D}) >= 2


def test_with_a_removed_owner_the_others_of_its_list_must_do() -> None:
    w = changing()
    c = w.c
    w.move((B, C, D), *ALL, removed=(A,))
    w.ready(D)
    number = c.request(B, put(b"v", strict=True))
    assert set(merges(c)) == {C, D}
    c.settle()
    assert isinstance(dict(c.answers)[number], PutReply)
    c.request(A, Get(KEY))  # it does not answer from copies that are declared lost
    assert not requests(c, Read)
    assert {packet.target for packet in requests(c, Get)} <= {B, C}


def test_a_stand_in_of_an_owner_of_both_lists_counts_in_both() -> None:
    w = changing(n=2, others=2)
    c = w.c
    w.move((B, C), *ALL)
    w.ready(C)
    coordinator = c.nodes[A].coordinator
    assert coordinator is not None
    coordinator.on_peer_down(c.now, B)
    number = c.request(A, put(b"v"))
    assert {node: p.message.hint_for for node, p in merges(c).items()} == {C: "", D: B}  # type: ignore[attr-defined]
    c.settle()
    assert isinstance(dict(c.answers)[number], PutReply)


# --- owners to be --------------------------------------------------------------------------------


def test_an_owner_to_be_takes_nothing_before_its_fence_and_is_asked_again() -> None:
    w = two_to_two()
    c = w.c
    number = c.request(A, put(b"v", strict=True))
    c.settle()
    assert not c.answers
    later(c)
    c.settle()
    assert not c.answers  # C and D still say: not yet
    w.ready(C, D)
    later(c)
    c.settle()
    assert isinstance(dict(c.answers)[number], PutReply)


def test_a_put_whose_owners_to_be_never_take_it_is_indefinite_at_its_deadline() -> None:
    w = two_to_two()
    c = w.c
    number = c.request(A, put(b"v", strict=True))
    for _ in range(40):
        c.settle()
        later(c, 0.1)
    assert is_error(dict(c.answers)[number], WriteOutcomeUnknown)
    assert not operations(c, A)


def test_who_is_not_ready_costs_nothing_where_the_others_are_enough() -> None:
    w = moving(ready=False)
    c = w.c
    number = c.request(A, put(b"v", strict=True))
    c.settle()
    assert isinstance(dict(c.answers)[number], PutReply)
    later(c)
    assert not operations(c, A)  # D has said no, and is owed a hint
    assert c.nodes[A].replica.hints.counts == {D: 1}


def test_what_an_owner_to_be_is_owed_comes_soon_after_its_fence_however_late_that_is() -> None:
    w = moving(ready=False)
    c = w.c
    c.request(A, put(b"v", strict=True))
    c.settle()
    for _ in range(40):
        later(c, 0.5)
        c.settle()
    hints = c.nodes[A].replica.hints
    assert hints.counts == {D: 1}
    w.ready(D)
    later(c, limits.HINT_PUT_OFF_S_MAX)
    c.settle()
    assert c.nodes[D].replica.newest(KEY, token_of(KEY)).value.siblings
    assert not hints.counts


def test_a_merge_for_an_owner_to_be_says_so() -> None:
    w = moving(ready=False)
    c = w.c
    c.request(A, put(b"v"))
    answer = reply(c, merges(c)[D])
    assert is_error(answer, NotYetOwner)


def test_a_member_that_has_only_just_joined_is_asked_again() -> None:
    w = changing(n=2, others=2)
    c = w.c
    coordinator = c.nodes[A].coordinator
    assert coordinator is not None
    w.move((C, D), *ALL)
    w.ready(C, D)
    number = c.request(A, put(b"v", strict=True))
    c.commit(A)
    not_ready = Error(NotReady.code, "this agent belongs to no cluster yet")
    sent = merges(c)
    assert w.ring.change is not None
    coordinator.ring = replace(w.ring, change=replace(w.ring.change, joined=(C, D)))
    for node in (C, D):
        c.wire.remove(sent[node])
        c.nodes[A].on_reply(c.now, node, sent[node].number, not_ready)
    c.settle()
    assert not c.answers
    later(c)
    c.settle()
    assert isinstance(dict(c.answers)[number], PutReply)


# --- one stamp -----------------------------------------------------------------------------------


def test_acknowledgements_under_two_stamps_are_not_added_up() -> None:
    w = changing()
    c = w.c
    c.request(A, put(b"v", strict=True))
    old = merges(c)
    answer = reply(c, old[B])  # B has it under (1, 2); the acknowledgement is slow
    w.move((B, C, D), *ALL)
    w.ready(D)
    c.nodes[A].on_reply(c.now, B, old[B].number, answer)
    assert not c.answers
    anew = {t: p for t, p in merges(c).items() if p.message.stamp_change == 2}  # type: ignore[attr-defined]
    assert set(anew) == {B, C, D}
    acknowledge(c, C, anew[C])
    assert not c.answers  # C under the new stamp; A and C are two of the old list, C one of the new
    acknowledge(c, B, anew[B])
    assert isinstance(c.answers[0][1], PutReply)
    assert len(dots(c, 1)) == 1  # it was minted once


def test_a_put_that_meets_a_fence_learns_the_ring_and_goes_on() -> None:
    w = changing()
    c = w.c
    w.move((B, C, D), B, C, D)
    w.ready(D)
    w.fence(B, C)
    number = c.request(A, put(b"v", strict=True))
    assert isinstance(reply(c, merges(c)[B]), RingIs)
    c.settle()
    assert c.nodes[A].ring == w.ring
    assert isinstance(dict(c.answers)[number], PutReply)
    assert c.disks[D].record(KEY).value.siblings


def test_a_peer_that_lacks_our_ring_is_told_and_asked_again() -> None:
    w = changing()
    c = w.c
    w.move((B, C, D), A, D)
    w.ready(D)
    put_number = c.request(A, put(b"v", strict=True))
    c.settle()
    later(c)
    c.settle()
    assert isinstance(dict(c.answers)[put_number], PutReply)
    assert c.nodes[B].ring == c.nodes[C].ring == w.ring


def test_a_get_whose_partition_gets_another_stamp_starts_over() -> None:
    w = moving()
    c = w.c
    c.ask(A, put(b"v"))
    number = c.request(B, Get(KEY))
    old = reads(c)
    w.phase(1, *ALL)
    for packet in old.values():
        if packet in c.wire:
            c.deliver(packet)
    c.settle()
    answer = dict(c.answers)[number]
    assert values(answer) == [b"v"]
    assert not operations(c, B)


def test_a_get_at_who_coordinates_no_more_is_passed_on_when_the_ring_comes() -> None:
    w = moving()
    c = w.c
    c.ask(A, put(b"v"))
    number = c.request(A, Get(KEY, trace=True))
    w.phase(1, *ALL)
    assert requests(c, Get)
    c.settle()
    answer = dict(c.answers)[number]
    assert values(answer) == [b"v"]
    assert isinstance(answer, GetReply)
    assert answer.epoch == 3
    assert b"starts over" in answer.trace
    assert not operations(c, A)


def test_an_overwrite_that_still_looks_starts_over_and_writes_once() -> None:
    w = changing()
    c = w.c
    c.ask(A, put(b"old"))
    number = c.request(A, put(b"new", 2, mode=MODE_OVERWRITE))
    w.move((B, C, D), *ALL)
    w.ready(D)
    c.settle()
    assert isinstance(dict(c.answers)[number], PutReply)
    assert len(dots(c, 2)) == 1
    assert values(c.ask(B, Get(KEY))) == [b"new"]


def test_a_put_whose_coordinator_is_an_owner_no_more_ends_in_the_new_list() -> None:
    w = moving()
    c = w.c
    number = c.request(A, put(b"v", strict=True))
    c.wire.clear()
    c.commit(A)
    w.phase(1, *ALL)
    w.phase(2, *ALL)
    assert {p.target for p in requests(c, Merge) if p.message.stamp_phase == 2} == {B, C, D}  # type: ignore[attr-defined]
    c.settle()
    assert isinstance(dict(c.answers)[number], PutReply)
    holders = {node for node in (B, C, D) if c.disks[node].record(KEY).value.siblings}
    assert len(holders) >= 2


def test_a_copy_that_a_full_disk_has_refused_does_not_count_by_the_next_ring_either() -> None:
    w = changing()
    c = w.c
    c.request(A, put(b"v", strict=True))
    assert c.nodes[A].take_batch() is not None
    c.nodes[A].on_refused(c.now)
    w.move((A, C, D), *ALL)
    w.ready(D)
    anew = {t: p for t, p in merges(c).items() if p.message.stamp_change == 2}  # type: ignore[attr-defined]
    acknowledge(c, C, anew[C])
    assert not c.answers  # C alone has it, an owner in both lists; A has it nowhere
    acknowledge(c, B, anew[B])
    acknowledge(c, D, anew[D])
    assert isinstance(c.answers[0][1], PutReply)


def test_after_an_abort_a_put_goes_on_with_the_old_list() -> None:
    w = two_to_two()
    c = w.c
    number = c.request(A, put(b"v", strict=True))
    c.settle()
    assert not c.answers
    w.abort(*ALL)
    c.settle()
    assert isinstance(dict(c.answers)[number], PutReply)
    assert not c.disks[C].record(KEY).value.siblings


# --- who takes what ------------------------------------------------------------------------------


def merge(stamp: tuple[int, int], source: Cluster) -> Merge:
    [packet] = requests(source, Merge)[:1]
    assert isinstance(packet.message, Merge)
    return Merge(*stamp, 0, packet.message.entries)


def asked(c: Cluster, node: NodeId, message: Message) -> Message:
    packet = Packet(A if node != A else B, node, 10_000, message, 1_000)
    return reply(c, packet)


def test_a_fenced_node_refuses_older_stamps_for_good() -> None:
    w = moving()
    c = w.c
    c.request(A, put(b"v"))
    old = merge((1, 2), c)
    assert isinstance(asked(c, B, old), MergeAck)  # not fenced: an older stamp may do no harm yet
    w.fence(B)
    assert asked(c, B, old) == RingIs(2)
    assert asked(c, B, Read(1, 2, KEY, 0)) == RingIs(2)
    c.ring = w.ring  # of the next run
    c.restart(B)
    assert asked(c, B, Read(1, 2, KEY, 0)) == RingIs(2)


def test_what_is_not_known_here_is_refused() -> None:
    w = moving()
    c = w.c
    c.request(A, put(b"v"))
    assert asked(c, C, merge((2, 1), c)) == RingIs(2)
    assert asked(c, C, Read(2, 1, KEY, 0)) == RingIs(2)


def test_a_former_owner_takes_nothing_more() -> None:
    w = moving()
    c = w.c
    c.request(A, put(b"v"))
    last = merge((2, 1), c)
    w.phase(1, *ALL)
    w.phase(2, *ALL)
    assert asked(c, A, last) == RingIs(4)
    assert not isinstance(asked(c, A, Read(2, 1, KEY, 0)), RingIs)  # until it fences itself
    w.fence(A)
    assert asked(c, A, Read(2, 1, KEY, 0)) == RingIs(4)


def test_a_removed_member_neither_takes_nor_tells() -> None:
    w = changing()
    c = w.c
    c.request(B, put(b"v"))
    copy = merge((1, 2), c)
    w.move((B, C, D), *ALL, removed=(A,))
    assert is_error(asked(c, A, copy), NotReady)  # it has stood down
    assert is_error(asked(c, A, Read(1, 2, KEY, 0)), NotReady)


def test_a_strict_put_that_too_few_of_one_list_are_up_for_is_definite() -> None:
    w = moving()
    c = w.c
    coordinator = c.nodes[A].coordinator
    assert coordinator is not None
    coordinator.up -= {C, D}
    answer = c.ask(A, put(b"v", strict=True))
    assert is_error(answer, QuorumNotMet)
    assert P in w.ring.moves
