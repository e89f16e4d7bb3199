"""The driver of purges, on real nodes: tombstones go, and nothing brings a value back."""

from __future__ import annotations

from collections import Counter

from dynagent.core.entry import encode_entry
from dynagent.core.messages import (
    MODE_CONTEXT,
    MODE_OVERWRITE,
    BarrierMove,
    BarrierRequest,
    Error,
    Get,
    GetReply,
    Merge,
    MergeAck,
    Message,
    Purge,
    Put,
    PutReply,
    RingIs,
    TombstoneQuery,
    TombstoneReply,
)
from dynagent.core.ports import NodeId
from dynagent.core.purge import Purger
from dynagent.core.ring import token_of
from dynagent.core.tombstones import TOMBSTONES, held_by
from dynagent.errors import BadRequest, StaleBarrier
from tests.core.harness import (
    IDS,
    KEY,
    Cluster,
    Packet,
    is_error,
    make_ring,
    op,
    put,
    requests,
    values,
)

A, B, C, D = IDS
P = make_ring(3).partition_of(token_of(KEY))
REST_S = 1.0


def purging(*, n: int = 3, others: int = 0) -> Cluster:
    return Cluster(make_ring(n, others=others), rest_s=REST_S)


def run(c: Cluster, seconds: float = 10.0) -> None:
    """Time passes, and whatever is sent arrives."""
    until = c.now + seconds
    while c.now < until:
        c.tick(c.now + 0.25)
        c.settle()


def deleted(c: Cluster, key: bytes = KEY, number: int = 1) -> None:
    assert isinstance(c.ask(A, Put(key, b"v", MODE_OVERWRITE, b"", op(number))), PutReply)
    assert isinstance(c.ask(A, Put(key, None, MODE_OVERWRITE, b"", op(number + 1))), PutReply)


def counts(c: Cluster) -> list[int]:
    return [sum(node.replica.tombstones.counts.values()) for node in c.nodes.values()]


def purger(c: Cluster, node: NodeId = A) -> Purger:
    found = c.nodes[node].purger
    assert found is not None
    return found


def down(c: Cluster, gone: NodeId, *who: NodeId) -> None:
    for node in who or [node for node in c.nodes if node != gone]:
        c.nodes[node].on_peer_down(c.now, gone)


def up(c: Cluster, back: NodeId) -> None:
    for node in c.nodes:
        if node != back:
            c.nodes[node].on_peer_up(c.now, back)


# --- tombstones go -------------------------------------------------------------------------------


def test_a_deleted_key_leaves_nothing_behind() -> None:
    c = purging(others=1)
    deleted(c)
    assert counts(c) == [1, 1, 1, 0]
    run(c)
    assert counts(c) == [0, 0, 0, 0]
    for node in (A, B, C):
        assert c.disks[node].rows == {}
        assert c.disks[node].hint_counts().get(TOMBSTONES, 0) == 0
        assert c.nodes[node].replica.barriers.standing(P) == 1
    assert c.nodes[D].replica.barriers.standing(P) == 1
    assert purger(c).document()["purged"] == 1
    assert c.nodes[A].next_deadline() is None or c.nodes[A].purger.due > 1e9  # type: ignore[union-attr]


def test_it_stays_as_long_as_its_rest_and_a_retry_is_recognised_meanwhile() -> None:
    c = purging()
    deleted(c)
    run(c, REST_S / 2)
    assert counts(c) == [1, 1, 1]
    retry = Put(KEY, b"v", MODE_OVERWRITE, b"", op(1), 2)
    assert isinstance(c.ask(B, retry), PutReply)
    assert values(c.ask(C, Get(KEY, r=3))) == []


def test_a_value_that_was_on_its_way_for_ever_is_refused() -> None:
    c = purging()
    c.ask(A, put(b"v"))
    old = encode_entry(KEY, c.disks[A].record(KEY))
    c.ask(A, put(None, 2, mode=MODE_OVERWRITE))
    run(c)
    assert c.disks[B].rows == {}
    c.deliver(Packet(A, B, 99, Merge(1, 2, 0, [old]), 500))
    assert is_error(c.wire[-1].message, StaleBarrier)
    c.settle()
    assert values(c.ask(C, Get(KEY, r=3))) == []


def test_a_key_that_is_written_again_is_as_new() -> None:
    c = purging()
    first = c.ask(A, put(b"1"))
    assert isinstance(first, PutReply)
    c.ask(A, put(None, 2, mode=MODE_OVERWRITE))
    run(c)
    # With the context of a value that is gone and forgotten: it supersedes nothing that is there.
    again = put(b"2", 3, mode=MODE_CONTEXT, context=first.context)
    assert isinstance(c.ask(B, again), PutReply)
    assert isinstance(c.ask(C, put(b"3", 4)), PutReply)
    read = c.ask(A, Get(KEY, r=3))
    assert values(read) == [b"2", b"3"]
    assert isinstance(read, GetReply)
    c.ask(A, put(b"4", 5, mode=MODE_CONTEXT, context=read.context))
    assert values(c.ask(B, Get(KEY, r=3))) == [b"4"]
    run(c, 60)
    assert values(c.ask(C, Get(KEY, r=3))) == [b"4"]


def test_the_context_of_a_purged_key_deletes_nothing_that_is_newer() -> None:
    c = purging()
    first = c.ask(A, put(b"1"))
    assert isinstance(first, PutReply)
    c.ask(A, put(None, 2, mode=MODE_OVERWRITE))
    run(c)
    c.ask(B, put(b"2", 3))
    c.ask(C, put(None, 4, mode=MODE_CONTEXT, context=first.context))
    assert values(c.ask(A, Get(KEY, r=3))) == [b"2"]


def test_a_second_delete_needs_the_next_barrier() -> None:
    c = purging()
    deleted(c)
    run(c)
    deleted(c, number=10)
    assert [c.disks[node].record(KEY).since for node in (A, B, C)] == [1, 1, 1]
    run(c)
    assert counts(c) == [0, 0, 0]
    assert c.nodes[B].replica.barriers.standing(P) == 2


def test_many_tombstones_cost_few_messages() -> None:
    c = purging()
    for number in range(600):
        deleted(c, b"k%d" % number, 2 * number + 1)
    sent: Counter[str] = Counter()
    until = c.now + 10
    while c.now < until:
        c.tick(c.now + 0.25)
        while c.wire or any(c.commit(node) for node in c.nodes):
            while c.wire:
                sent[type(c.wire[0].message).__name__] += 1
                c.deliver(c.wire[0])
    assert counts(c) == [0, 0, 0]
    assert [disk.rows for disk in c.disks.values()] == [{}, {}, {}]
    purge_messages = sent["Purge"] + sent["TombstoneQuery"] + sent["BarrierMove"]
    assert purge_messages <= 2 * (2 * 3 + 1) + 6, sent


# --- what holds them back ------------------------------------------------------------------------


def test_a_member_that_is_away_holds_it_back_by_name() -> None:
    c = purging(others=1)
    deleted(c)
    down(c, D)
    run(c)
    assert counts(c)[:3] == [1, 1, 1]
    assert purger(c).document()["blocked"] == {D: {"away": 1}}
    up(c, D)
    run(c, 5)
    assert counts(c)[:3] == [0, 0, 0]
    assert purger(c).document()["blocked"] == {}


def test_a_stand_in_that_keeps_a_copy_holds_it_back() -> None:
    c = purging(others=1)
    down(c, C, A, B)
    c.ask(A, put(b"v", mode=MODE_OVERWRITE))
    c.ask(A, put(None, 2, mode=MODE_OVERWRITE))
    assert c.disks[D].rows
    c.nodes[D].on_peer_down(c.now, C)
    up(c, C)
    c.nodes[D].on_peer_down(c.now, C)  # it alone cannot reach it
    for node in (A, B):
        c.nodes[node].delivery.is_paused = True  # type: ignore[union-attr]
    c.settle()
    run(c, 3)
    assert purger(c).document()["blocked"] == {D: {"holds": 1}}
    assert c.nodes[D].replica.barriers.standing(P) == 0
    for node in (A, B):
        c.nodes[node].delivery.is_paused = False  # type: ignore[union-attr]
    c.nodes[D].on_peer_up(c.now, C)
    run(c, 40)
    assert c.disks[D].rows == {}
    assert counts(c)[:3] == [0, 0, 0]


def test_an_owner_with_another_version_holds_it_back() -> None:
    c = purging()
    c.ask(A, put(b"v"))
    down(c, C, A, B)
    for node in (A, B):
        c.nodes[node].delivery.is_paused = True  # type: ignore[union-attr]
    c.ask(A, put(None, 2, mode=MODE_OVERWRITE))
    up(c, C)
    run(c)
    assert purger(c).document()["blocked"] == {C: {"differs": 1}}
    assert c.disks[C].record(KEY).value.siblings
    c.ask(A, Get(KEY, r=3))  # repairs it: settled one barrier later
    run(c, 40)
    assert counts(c) == [0, 0, 0]
    assert all(not disk.rows for disk in c.disks.values())


def test_a_copy_that_changes_after_it_was_asked_about_stays() -> None:
    c = purging()
    deleted(c)
    while not requests(c, Purge):
        c.tick(c.now + 0.25)
        while c.wire and not requests(c, Purge):
            c.deliver(c.wire[0])
            for node in c.nodes:
                c.commit(node)
    orders = requests(c, Purge)
    c.wire.clear()
    assert isinstance(c.ask(B, put(b"new", 5)), PutReply)
    for packet in orders:
        c.deliver(packet)
    c.settle()
    assert values(c.ask(C, Get(KEY, r=3))) == [b"new"]
    run(c)
    assert values(c.ask(A, Get(KEY, r=3))) == [b"new"]
    assert {disk.record(KEY).digest for disk in c.disks.values()} == {c.disks[A].record(KEY).digest}


def test_another_owner_drives_while_the_first_one_is_down() -> None:
    c = purging()
    deleted(c)
    c.nodes[A].draining = True  # it drives no more, but answers
    down(c, A)
    run(c)
    assert purger(c, B).document()["blocked"] == {A: {"away": 1}}
    up(c, A)
    c.nodes[A].draining = False
    run(c, 5)
    assert counts(c) == [0, 0, 0]


def test_a_purge_goes_on_after_a_restart_of_any_of_them() -> None:
    c = purging()
    deleted(c)
    run(c, REST_S / 2)
    for node in (A, B, C):
        c.restart(node)
    assert counts(c) == [1, 1, 1]
    assert c.nodes[B].replica.barriers.standing(P) == 1
    run(c)
    assert counts(c) == [0, 0, 0]
    for node in (A, B, C):
        c.restart(node)
        assert c.nodes[node].replica.barriers.highest_least == 1


def test_a_full_disk_drops_nothing_and_takes_nothing_back() -> None:
    c = purging()
    deleted(c)
    run(c, REST_S / 2)
    replica = c.nodes[B].replica
    record = replica.newest(KEY, token_of(KEY))
    replica.purge(KEY, token_of(KEY), record.digest, 1)
    assert replica.tombstones.counts == {}
    assert replica.take_batch() is not None
    c.nodes[B].on_refused(c.now)
    assert replica.tombstones.counts == {P: 1}
    assert replica.barriers.highest_least == 0
    run(c, 20)
    assert counts(c) == [0, 0, 0]


def test_a_tombstone_that_rots_is_no_tombstone_until_it_is_healed() -> None:
    c = purging()
    deleted(c)
    c.overwrite_row(C, b"rot")
    heal_again = c.without_healer(C)
    run(c)
    assert purger(c).document()["blocked"] == {C: {"differs": 1}}
    assert counts(c)[:2] == [1, 1]
    heal_again()
    run(c)
    assert counts(c) == [0, 0, 0]


# --- what comes over the wire --------------------------------------------------------------------


def test_a_late_or_doubled_order_does_no_harm() -> None:
    c = purging()
    deleted(c)
    row: list[object] = [KEY, c.disks[B].record(KEY).digest, 1]
    # Nobody has moved: an order like that has been made up, or is from another life.
    assert isinstance(order(c, B, Purge(1, 2, [row])), MergeAck)
    assert c.disks[B].rows
    assert isinstance(order(c, B, BarrierMove(1, 2, [P], [5])), MergeAck)
    assert c.nodes[B].replica.barriers.standing(P) == 0
    assert c.notes[-1][0] == "barrier.behind"
    run(c)
    for late in (BarrierMove(1, 2, [P], [1]), Purge(1, 2, [row])):
        assert isinstance(order(c, B, late), MergeAck)
    assert (c.nodes[B].replica.barriers.standing(P), c.disks[B].rows) == (1, {})


def test_what_is_malformed_or_of_another_ring_is_refused() -> None:
    c = purging()
    bad: list[Message] = [
        BarrierRequest(1, 2, [8]),
        BarrierRequest(1, 2, [0] * 257),
        BarrierMove(1, 2, [0], []),
    ]
    for message in bad:
        assert is_error(order(c, B, message), BadRequest)
    assert order(c, B, BarrierRequest(2, 2, [0])) == RingIs(1)
    assert isinstance(order(c, B, TombstoneQuery(1, 2, [[KEY, b"d"]])), Error)
    reply = order(c, B, TombstoneQuery(1, 2, [[KEY, b"d", 1]]))
    assert isinstance(reply, TombstoneReply) and reply.states == b"\x00"


def test_who_may_hold_copies_is_whoever_was_an_owner_or_a_fallback() -> None:
    one, two = make_ring(3, others=1), make_ring(2, others=1)
    assert held_by([one], P) == (A, B, C, D)
    assert held_by([two], P) == (A, B, C)
    assert held_by([two, one], P) == (A, B, C, D)


def order(c: Cluster, node: NodeId, message: Message) -> Message:
    number = 1_000 + c.last_request
    c.last_request += 1
    c.deliver(Packet(A, node, number, message, 500))
    c.commit(node)
    [answer] = [packet for packet in c.wire if packet.source == node and packet.number == number]
    c.wire.remove(answer)
    return answer.message
