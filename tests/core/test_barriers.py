"""Barriers: what is read goes with the one under which it was read, and is refused when too old."""

from __future__ import annotations

import pytest

from dynagent.core.barriers import Barriers
from dynagent.core.entry import encode_entry
from dynagent.core.messages import (
    Error,
    Get,
    GetReply,
    Merge,
    MergeAck,
    PutReply,
    Read,
    ReadReply,
)
from dynagent.core.ports import Batch, NodeId, PartitionId, Token
from dynagent.core.ring import token_of
from dynagent.errors import BadRequest, CorruptRecord, StaleBarrier
from tests.core.harness import (
    IDS,
    KEY,
    Cluster,
    Disk,
    Packet,
    cluster,
    is_error,
    make_ring,
    put,
    requests,
    values,
)

A, B, C, D = IDS
P = make_ring(3).partition_of(token_of(KEY))
TOKEN = token_of(KEY)


def move(c: Cluster, *nodes: NodeId, to: int = 1) -> None:
    for node in nodes:
        c.nodes[node].replica.move(P, to)
        assert c.commit(node)


def purge_something_else(c: Cluster, node: NodeId, barrier: int = 1) -> None:
    """A tombstone of another key of that partition goes there."""
    replica = c.nodes[node].replica
    replica.barriers.close(replica._open, P, barrier)
    assert c.commit(node)


# --- the numbers ---------------------------------------------------------------------------------


def test_until_a_move_is_durable_what_is_read_goes_under_the_barrier_before_it() -> None:
    disk = Disk()
    barriers, batch = Barriers(disk), Batch(1)
    barriers.serve(make_ring(3), IDS[0], frozenset({P}))
    barriers.move(batch, P, 1)
    assert (barriers.read_under(TOKEN), barriers.since(TOKEN)) == (0, 1)
    assert barriers.has_news(batch) and barriers.is_dirty
    barriers.seal(batch)
    disk.write(batch)
    barriers.on_committed(batch)
    assert (barriers.read_under(TOKEN), barriers.since(TOKEN)) == (1, 1)
    again = Barriers(disk)
    again.serve(make_ring(3), IDS[0], frozenset({P}))
    assert (again.standing(P), again.has_moved, again.is_dirty) == (1, True, False)


def test_a_move_that_the_disk_refused_has_not_happened() -> None:
    barriers = Barriers(Disk())
    barriers.serve(make_ring(3), IDS[0], frozenset())
    barriers.move(Batch(1), P, 1)
    barriers.on_refused()
    assert (barriers.newest(P), barriers.has_moved, barriers.highest_least) == (0, False, 0)
    barriers.check(TOKEN, 0)


@pytest.mark.parametrize(("owned", "refuses"), [(frozenset({P}), False), (frozenset(), True)])
def test_only_a_stand_in_refuses_what_is_older_than_its_move(
    owned: frozenset[PartitionId], *, refuses: bool
) -> None:
    barriers = Barriers(Disk())
    barriers.serve(make_ring(3), IDS[0], owned)
    barriers.move(Batch(1), P, 1)
    if refuses:
        with pytest.raises(StaleBarrier, match="read under barrier 0"):
            barriers.check(TOKEN, 0)
    else:
        barriers.check(TOKEN, 0)
        barriers.close(Batch(1), P, 1)
        with pytest.raises(StaleBarrier):
            barriers.check(TOKEN, 0)
    barriers.check(TOKEN, 1)
    barriers.check(Token(bytes(16)) if P else Token(b"\xff" * 16), 0)  # another partition


@pytest.mark.parametrize("row", [b"", b"\x01", b"\x82\x81\x01\x80", b"\x82\x01\x02"])
def test_a_damaged_row_is_told(row: bytes) -> None:
    disk = Disk()
    disk.meta["barriers/0"] = row
    with pytest.raises(CorruptRecord, match="barriers"):
        Barriers(disk).serve(make_ring(3), IDS[0], frozenset())


def test_a_copy_says_under_which_barrier_it_has_last_changed() -> None:
    c = cluster()
    c.ask(A, put(b"1"))
    move(c, A, B, C)
    assert c.disks[A].record(KEY).since == 0
    c.ask(A, put(b"2", 2))
    assert [c.disks[node].record(KEY).since for node in (A, B, C)] == [1, 1, 1]


# --- who is refused reads again ------------------------------------------------------------------


def test_a_put_that_is_refused_for_its_barrier_is_read_and_sent_again() -> None:
    c = cluster()
    c.request(A, put(b"v"))
    late = requests(c, Merge)
    c.wire.clear()
    move(c, A, B, C)
    purge_something_else(c, B)
    for packet in late:
        assert isinstance(packet.message, Merge) and packet.message.barrier == 0
        c.deliver(packet)
    [refusal] = [packet for packet in c.wire if isinstance(packet.message, Error)]
    assert is_error(refusal.message, StaleBarrier)
    c.deliver(refusal)
    [again] = requests(c, Merge)
    assert isinstance(again.message, Merge)
    assert (again.target, again.message.barrier) == (B, 1)
    c.settle()
    assert [type(answer) for _, answer in c.answers] == [PutReply]
    assert values(c.ask(C, Get(KEY, r=3))) == [b"v"]
    assert c.disks[B].record(KEY).value == c.disks[A].record(KEY).value


def test_who_refuses_it_a_second_time_has_failed() -> None:
    c = cluster(n=2)
    c.request(A, put(b"v"))
    c.wire.clear()
    [number] = c.nodes[A].coordinator.operations  # type: ignore[union-attr]
    refusal = Error(StaleBarrier.code, "read again")
    c.commit(A)
    c.deliver(Packet(B, A, number, refusal, None))
    assert len(requests(c, Merge)) == 1
    c.deliver(Packet(B, A, number, refusal, None))
    assert c.answers and isinstance(c.answers[0][1], Error)


def test_a_read_repair_goes_under_the_least_barrier_that_it_has_read_under() -> None:
    """Our own copy is new, but what has been merged into it was read before the others moved."""
    c = cluster()
    c.request(A, put(b"v"))
    c.wire.clear()
    c.commit(A)
    c.tick(2)  # A has given up, and owes the others
    c.wire.clear()
    c.request(B, Get(KEY, r=3))
    [read] = [packet for packet in requests(c, Read) if packet.target == A]
    c.deliver(read)
    [reply] = [packet for packet in c.wire if packet.source == A]
    c.wire.clear()
    move(c, A, B, C)
    purge_something_else(c, B)
    assert isinstance(reply.message, ReadReply) and reply.message.barrier == 0
    c.deliver(reply)
    c.settle()
    assert not c.disks[B].record(KEY).value.clock  # it was too old for us: not merged
    assert values(c.ask(B, Get(KEY, r=3))) == [b"v"]
    assert c.disks[B].record(KEY).value.clock  # read again, and repaired


def test_a_repairing_get_reads_again_what_has_become_too_old() -> None:
    c = cluster()
    c.request(A, put(b"v"))
    c.wire.clear()
    c.commit(A)
    c.tick(2)
    c.wire.clear()
    number = c.request(B, Get(KEY, r=3, repair=True))
    for packet in list(c.wire):
        c.deliver(packet)
    move(c, A, B, C)
    purge_something_else(c, B)
    c.settle()
    [answer] = [message for request_id, message in c.answers if request_id == number]
    assert isinstance(answer, GetReply) and values(answer) == [b"v"]
    assert answer.held >= 2


def test_entries_of_one_merge_may_have_been_read_under_different_barriers() -> None:
    c = cluster()
    c.ask(A, put(b"v"))
    entry = encode_entry(KEY, c.disks[A].record(KEY))
    other = next(b"other%d" % n for n in range(99) if c.ring and _partition(c, b"other%d" % n) != P)
    entries = [entry, [other, *entry[1:]]]
    move(c, A, B, C)
    purge_something_else(c, B)
    peer = Packet(A, B, 77, Merge(1, 2, 0, entries, [], "", [1, 0]), 500)
    c.deliver(peer)
    c.settle()
    assert other in c.disks[B].rows
    c.deliver(Packet(A, B, 78, Merge(1, 2, 0, entries, [79], "", [0, 1]), 500))
    refused = [packet.message for packet in c.wire if packet.source == B]
    assert [is_error(message, StaleBarrier) for message in refused] == [True, True]
    c.deliver(Packet(A, B, 80, Merge(1, 2, 0, entries, [], "", [1]), 500))
    assert is_error(c.wire[-1].message, BadRequest)


def test_a_hint_keeps_to_the_barrier_of_its_stand_in() -> None:
    """A stand-in cannot move while it holds the copy, so its own barrier is never too high."""
    c = cluster(others=1)
    for node in (A, B):
        c.nodes[node].on_peer_down(0.0, C)
    assert isinstance(c.ask(A, put(b"v")), PutReply)
    assert c.disks[D].record(KEY).value.clock
    assert c.nodes[D].replica.survey.holding([P]) == {P}
    move(c, A, B, C)
    entry = encode_entry(KEY, c.disks[A].record(KEY))
    c.deliver(Packet(A, D, 90, Merge(1, 2, 0, [entry], [], C), 500))
    c.settle()
    assert not any(isinstance(packet.message, MergeAck) for packet in c.wire)
    c.nodes[D].delivery.wake(c.now, C)  # type: ignore[union-attr]
    c.tick(c.now + 5)
    [page] = [packet for packet in requests(c, Merge) if packet.source == D]
    assert isinstance(page.message, Merge) and page.message.barrier == 0
    c.settle()
    assert c.nodes[D].replica.survey.holding([P]) == set()
    move(c, D)
    c.deliver(Packet(A, D, 91, Merge(1, 2, 0, [entry], [], C), 500))
    assert is_error(c.wire[-1].message, StaleBarrier)


def _partition(c: Cluster, key: bytes) -> PartitionId:
    assert c.ring is not None
    return c.ring.partition_of(token_of(key))
