"""Copies that are unknown, and how they are healed from the other owners."""

from __future__ import annotations

from dataclasses import replace

from dynagent.core.entry import encode_entry
from dynagent.core.hints import bitmap
from dynagent.core.messages import Get, List, ListReply, Merge, Put, PutReply, Read, ReadReply
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import token_of
from dynagent.core.unknown import ROW, decode_row, encode_row
from dynagent.errors import QuorumNotMet, Unhealthy
from tests.core.harness import (
    IDS,
    KEY,
    Cluster,
    cluster,
    is_error,
    make_ring,
    op,
    put,
    requests,
    values,
)

A, B, C, D = IDS
PARTITION = make_ring(3).partition_of(token_of(KEY))


def damage(c: Cluster, *nodes: NodeId) -> None:
    for node in nodes:
        stored = c.disks[node].rows[KEY]
        c.overwrite_row(node, stored[:-1] + bytes([stored[-1] ^ 1]))


def meet(c: Cluster, node: NodeId) -> None:
    """Somebody reads that copy; the answer is of no interest here."""
    c.nodes[node].replica.read(KEY, token_of(KEY))


def pass_time(c: Cluster, seconds: float) -> None:
    for _ in range(round(2 * seconds)):
        c.tick(c.now + 0.5)
        c.settle()


def healed(c: Cluster) -> list[object]:
    return [fields["key"] for event, fields in c.notes if event == "record.healed"]


def test_a_copy_is_healed_from_the_others_and_named() -> None:
    c = cluster()
    c.ask(A, put(b"v", w=3))
    damage(c, A)
    meet(c, A)
    assert [event for event, _ in c.notes] == ["record.unreadable"]
    c.tick(1.0)
    assert [(p.source, p.target) for p in requests(c, Read)] == [(A, B), (A, C)]
    c.settle()
    record = c.disks[A].record(KEY)
    assert (record.unknown, record.mark) == (False, (0, 0, 0))
    assert record.digest == c.disks[B].record(KEY).digest
    assert healed(c) == [KEY]
    assert values(c.ask(A, Get(KEY, 3, True))) == [b"v"]


def test_n_minus_w_plus_one_others_must_have_answered() -> None:
    c = cluster()
    c.ask(A, put(b"v", w=3))
    damage(c, A)
    meet(c, A)
    c.tick(1.0)
    c.deliver(requests(c, Read)[0])
    c.deliver(requests(c, ReadReply)[0])
    assert not c.commit(A) or not healed(c)
    assert is_error(c.ask(A, Get(KEY, 3, True)), QuorumNotMet) or healed(c)
    c.settle()
    assert healed(c) == [KEY]


def test_an_unreadable_copy_of_another_owner_is_no_answer() -> None:
    c = cluster()
    c.ask(A, put(b"v", w=3))
    damage(c, A, B)
    meet(c, A)
    pass_time(c, 3)
    assert healed(c) == []
    assert c.nodes[A].replica.read(KEY, token_of(KEY)).unknown
    c.ask(C, put(b"w", 2, w=3))  # merged into both: neither is known by that
    pass_time(c, 3)
    assert healed(c) == []
    assert c.disks[A].record(KEY).unknown and c.disks[B].record(KEY).unknown


def test_that_others_have_none_is_an_answer_and_the_row_goes() -> None:
    c = cluster()
    c.ask(A, put(b"v"))
    damage(c, A)
    for node in (B, C):
        del c.disks[node].rows[KEY]
        c.nodes[node].replica.forget(KEY)
    meet(c, A)
    pass_time(c, 1)
    assert healed(c) == [KEY]
    assert KEY not in c.disks[A].rows


def test_what_came_in_meanwhile_stays() -> None:
    c = cluster()
    c.ask(A, put(b"one", 1, w=3))
    damage(c, A)
    meet(c, A)
    c.tick(1.0)
    reads = requests(c, Read)
    c.request(A, put(b"two", 2))  # blind: beside the lost one
    for packet in [p for p in c.wire if p not in reads]:
        c.wire.remove(packet)  # it reaches no other owner
    c.settle()
    assert healed(c) == [KEY]
    record = c.disks[A].record(KEY)
    assert not record.unknown
    assert {s.op_id for s in record.value.siblings} == {op(1), op(2)}


def test_a_dot_after_healing_is_of_a_new_actor() -> None:
    c = cluster()
    c.ask(A, put(b"one", 1, w=3))
    [old] = c.disks[A].record(KEY).value.siblings
    damage(c, A)
    meet(c, A)
    pass_time(c, 1)
    c.ask(A, put(b"two", 2, w=3))
    new = {s.dot for s in c.disks[A].record(KEY).value.siblings} - {old.dot}
    assert all(dot[0] != old.actor for dot in new)
    assert len(new) == 1


def test_while_owners_are_away_it_waits_and_goes_on_when_they_come_back() -> None:
    c = cluster()
    c.ask(A, put(b"v", w=3))
    damage(c, A)
    c.nodes[A].on_peer_down(c.now, C)
    meet(c, A)
    pass_time(c, 20)
    assert requests(c, Read) == [] and healed(c) == []
    healer = c.nodes[A].healer
    assert healer is not None
    assert healer.due > c.now + 5  # it pauses
    c.nodes[A].on_peer_up(c.now, C)
    pass_time(c, 1)
    assert healed(c) == [KEY]


def test_a_disk_that_is_full_is_tried_again() -> None:
    c = cluster()
    c.ask(A, put(b"v", w=3))
    damage(c, A)
    meet(c, A)
    c.tick(1.0)
    while c.wire:
        c.deliver(c.wire[0])
    assert c.nodes[A].take_batch() is not None
    c.nodes[A].on_refused(c.now)
    assert healed(c) == []
    pass_time(c, 4)
    assert healed(c) == [KEY]


def test_with_w_1_there_is_no_proof_and_that_is_said_once() -> None:
    c = Cluster(replace(make_ring(3), w=1))
    c.ask(A, put(b"v", w=3))
    damage(c, A)
    meet(c, A)
    pass_time(c, 100)
    assert healed(c) == []
    assert [event for event, _ in c.notes].count("record.unprovable") == 1
    assert c.nodes[A].replica.read(KEY, token_of(KEY)).unknown


def test_a_stand_in_asks_one_owner_more() -> None:
    c = cluster(n=3, others=1)
    entry = encode_entry(KEY, _record(c))
    c.ask(D, Merge(1, 2, 0, [entry], [], B))
    for node in (A, B, C):
        c.nodes[D].on_peer_up(c.now, node)
    stored = c.disks[D].rows[KEY]
    c.overwrite_row(D, stored[:-1] + bytes([stored[-1] ^ 1]))
    c.nodes[D].on_peer_down(c.now, B)
    meet(c, D)
    pass_time(c, 2)
    assert healed(c) == []
    c.nodes[D].on_peer_up(c.now, B)
    pass_time(c, 2)
    assert healed(c) == [KEY]


def _record(c: Cluster):  # type: ignore[no-untyped-def]
    other = cluster()
    other.ask(A, put(b"v"))
    return other.disks[A].record(KEY)


def test_partitions_with_unknown_copies_are_known_after_a_restart() -> None:
    c = cluster()
    c.ask(A, put(b"v", w=3))
    damage(c, A)
    meet(c, A)
    c.settle()
    assert decode_row(c.disks[A].meta[ROW]) == ({PARTITION}, set())
    node = c.restart(A)
    assert node.replica.unknown.suspect == {PARTITION}
    meet(c, A)
    node.replica.note_scanned(PARTITION)
    pass_time(c, 1)
    assert healed(c) == [KEY]
    pass_time(c, 1)
    assert decode_row(c.disks[A].meta[ROW]) == (set(), set())


# --- hollow partitions ---------------------------------------------------------------------------


def hollow(c: Cluster, node: NodeId) -> None:
    c.disks[node].meta[ROW] = encode_row(set(), {PARTITION})
    c.restart(node)


def test_in_a_hollow_partition_no_record_is_no_answer() -> None:
    c = cluster()
    c.ask(A, put(b"v", w=3))
    del c.disks[A].rows[KEY]
    hollow(c, A)
    c.without_healer(A)
    c.wire.clear()
    assert is_error(c.ask(B, Get(KEY, 3, True)), QuorumNotMet)
    assert values(c.ask(A, Get(KEY, 2, True))) == [b"v"]
    assert isinstance(c.ask(B, put(b"w", 2)), PutReply)
    assert c.disks[A].record(KEY).unknown


def test_a_hollow_partition_is_filled_from_the_others() -> None:
    c = cluster()
    keys = [b"k%d" % number for number in range(400)]
    for number, key in enumerate(keys):
        c.ask(A, Put(key, b"v", 2, b"", op(number + 1), w=3))
    ring = make_ring(3)
    lost = [key for key in keys if ring.partition_of(token_of(key)) == PARTITION]
    assert len(lost) > 20
    for key in lost[:-5]:
        del c.disks[A].rows[key]
    hollow(c, A)
    pass_time(c, 30)
    assert set(healed(c)) == set(lost[:-5])
    assert ("partition.healed", {"partition": PARTITION}) in c.notes
    assert decode_row(c.disks[A].meta[ROW]) == (set(), set())
    for key in lost:
        assert c.disks[A].record(key).digest == c.disks[B].record(key).digest
    assert is_error(c.ask(A, Get(b"never", 3, True)), QuorumNotMet) is False


def test_a_hollow_partition_waits_for_as_many_owners_as_a_key() -> None:
    c = cluster()
    c.ask(A, put(b"v", w=3))
    del c.disks[A].rows[KEY]
    hollow(c, A)
    c.wire.clear()
    c.nodes[A].on_peer_down(c.now, C)
    pass_time(c, 20)
    assert c.nodes[A].replica.unknown.hollow == {PARTITION}
    assert c.nodes[A].replica.read(KEY, token_of(KEY)).unknown
    c.nodes[A].on_peer_up(c.now, C)
    pass_time(c, 5)
    assert c.nodes[A].replica.unknown.hollow == set()
    assert c.disks[A].record(KEY).digest == c.disks[B].record(KEY).digest


def test_a_page_with_rows_that_nobody_can_name_does_not_count() -> None:
    c = cluster()
    hollow(c, A)
    c.wire.clear()
    c.tick(c.now + 1)
    [asked] = requests(c, List)
    c.wire.remove(asked)
    c.nodes[A].on_reply(c.now, asked.target, asked.number, ListReply([], b"", 1, 1))
    pass_time(c, 5)
    assert ("partition.healed", {"partition": PARTITION}) in c.notes
    lists = [asked.target]
    assert lists


def test_who_misses_records_of_a_partition_does_not_list_it() -> None:
    c = cluster()
    c.ask(A, put(b"v", w=3))
    hollow(c, A)
    c.without_healer(A)
    assert is_error(c.ask(A, List(PARTITION)), Unhealthy)
    assert isinstance(c.ask(B, List(PARTITION)), ListReply)


def test_two_owners_that_miss_records_of_a_partition_do_not_fill_it_from_each_other() -> None:
    """What only those two had acknowledged may be gone from both."""
    c = cluster()
    c.ask(A, put(b"v", w=3))
    other = next(PartitionId(at) for at in range(8) if at != PARTITION)
    c.disks[A].meta[ROW] = encode_row(set(), {PARTITION, other})
    c.disks[B].meta[ROW] = encode_row(set(), {PARTITION})
    c.restart(A)
    c.restart(B)
    pass_time(c, 60)
    assert c.nodes[A].replica.unknown.hollow == {PARTITION}  # the other one did not wait for it
    assert c.nodes[B].replica.unknown.hollow == {PARTITION}
    healer = c.nodes[A].healer
    assert healer is not None
    assert healer.document()["stuck_partitions"] == [PARTITION]
    c.nodes[B].replica.on_filled(PARTITION)  # somebody has declared its losses lost
    pass_time(c, 60)
    assert c.nodes[A].replica.unknown.hollow == set()
    assert healer.document()["stuck_partitions"] == []


def test_a_key_that_keeps_one_partition_hollow_does_not_keep_the_next() -> None:
    c = cluster()
    c.ask(A, put(b"v", w=3))
    del c.disks[A].rows[KEY]
    damage(c, B)
    other = next(PartitionId(at) for at in range(8) if at > PARTITION)
    c.disks[A].meta[ROW] = encode_row(set(), {PARTITION, other})
    c.restart(A)
    meet(c, B)
    pass_time(c, 60)
    assert c.nodes[A].replica.unknown.hollow == {PARTITION}
    for node in (A, B):
        healer = c.nodes[node].healer
        assert healer is not None
        assert healer.document()["stuck_keys"] == [KEY]


def test_the_row_keeps_partitions_of_any_number() -> None:
    for partitions in (set(), {PartitionId(0)}, {PartitionId(3), PartitionId(16_383)}):
        assert decode_row(encode_row(partitions, set())) == (partitions, set())
        assert decode_row(encode_row(set(), partitions)) == (set(), partitions)
    assert bitmap({PartitionId(9)}) == b"\x00\x02"
