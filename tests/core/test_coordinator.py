"""One request at a time through real nodes: what is answered, and when a write is acknowledged.

Retries, refusals, requests passed on, damage and the node itself have files of their own beside
this one. `test_coordinator_orders.py` has every order of every event; here each case has its name.
"""

from __future__ import annotations

import pytest

from dynagent.core.entry import decode_context
from dynagent.core.messages import (
    MODE_CONTEXT,
    MODE_OVERWRITE,
    Error,
    Get,
    GetReply,
    Merge,
    MergeAck,
    PutReply,
    ReadReply,
)
from dynagent.core.ports import NodeId
from dynagent.errors import WriteOutcomeUnknown
from tests.core.harness import (
    IDS,
    KEY,
    at_once,
    cluster,
    is_error,
    op,
    operations,
    put,
    requests,
    values,
)

A, B, C, D = IDS


# --- the round trip ------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [A, B, C, D])
def test_a_put_at_any_node_is_read_at_any_node(at: NodeId) -> None:
    c = cluster(others=1)
    assert isinstance(c.ask(at, put(b"v")), PutReply)
    for node in (A, B, C, D):
        assert values(c.ask(node, Get(KEY))) == [b"v"]


def test_a_put_with_the_context_of_a_get_supersedes_what_that_get_returned() -> None:
    c = cluster()
    c.ask(A, put(b"one", 1))
    c.ask(B, put(b"two", 2))
    read = c.ask(C, Get(KEY))
    assert values(read) == [b"one", b"two"]
    assert isinstance(read, GetReply)
    c.ask(A, put(b"three", 3, mode=MODE_CONTEXT, context=read.context))
    c.ask(B, put(b"late", 4, mode=MODE_CONTEXT, context=read.context))
    assert values(c.ask(C, Get(KEY))) == [b"late", b"three"]


def test_the_context_of_a_put_reply_covers_the_writers_own_value_only_if_it_stands_alone() -> None:
    c = cluster()
    first = c.ask(A, put(b"one", 1))
    assert isinstance(first, PutReply)
    assert (first.siblings, len(first.dot)) == (1, 16)
    second = c.ask(A, put(b"two", 2))
    assert isinstance(second, PutReply)
    assert (second.siblings, second.context) == (2, b"")
    c.ask(B, put(b"three", 3, mode=MODE_CONTEXT, context=first.context))
    assert values(c.ask(C, Get(KEY))) == [b"three", b"two"]


def test_an_overwrite_supersedes_all_that_r_owners_hold() -> None:
    c = cluster()
    c.ask(A, put(b"one", 1))
    c.ask(B, put(b"two", 2))
    reply = c.ask(C, put(b"three", 3, mode=MODE_OVERWRITE))
    assert isinstance(reply, PutReply)
    assert reply.siblings == 1
    assert values(c.ask(A, Get(KEY, 3))) == [b"three"]


def test_a_delete_leaves_a_tombstone_at_every_owner_and_a_get_finds_nothing() -> None:
    c = cluster()
    c.ask(A, put(b"one"))
    reply = c.ask(B, put(None, 2, mode=MODE_OVERWRITE))
    assert isinstance(reply, PutReply)
    assert (reply.siblings, reply.dot) == (0, b"")
    read = c.ask(C, Get(KEY, 3))
    assert values(read) == []
    assert isinstance(read, GetReply)
    assert decode_context(read.context, key=KEY)


def test_a_delete_of_nothing_writes_nothing() -> None:
    c = cluster()
    assert isinstance(c.ask(A, put(None, mode=MODE_OVERWRITE)), PutReply)
    assert all(not disk.rows for disk in c.disks.values())


def test_a_get_sends_the_value_only_from_a_node_whose_digest_differs() -> None:
    c = cluster()
    c.ask(A, put(b"v"))
    c.request(A, Get(KEY, 3))
    while c.wire:
        packet = c.wire[0]
        if isinstance(packet.message, ReadReply):
            assert packet.message.entry is None
        c.deliver(packet)
    assert isinstance(c.answers[-1][1], GetReply)


# --- acknowledgements ----------------------------------------------------------------------------


def test_a_merge_is_acknowledged_only_when_it_is_durable_and_so_is_its_repetition() -> None:
    c = cluster()
    c.request(A, put(b"v"))
    [to_b, _to_c] = requests(c, Merge)
    c.deliver(to_b)
    c.deliver(to_b)
    assert requests(c, MergeAck) == []
    batch = c.nodes[B].take_batch()
    assert batch is not None
    c.deliver(to_b)
    assert requests(c, MergeAck) == []
    c.finish(B, batch)
    [ack] = requests(c, MergeAck)  # one frame for all three
    assert isinstance(ack.message, MergeAck) and len(ack.message.also) == 2
    c.deliver(to_b)
    assert len(requests(c, MergeAck)) == 2


def test_a_put_is_answered_only_when_w_distinct_nodes_are_durable() -> None:
    c = cluster()
    c.request(A, put(b"v"))
    [to_b, to_c] = requests(c, Merge)
    c.deliver(to_b)
    c.commit(B)
    [ack] = requests(c, MergeAck)
    for _ in range(3):
        c.deliver(ack)
    assert c.answers == []
    c.commit(A)
    assert [type(reply) for _, reply in c.answers] == [PutReply]
    assert len(operations(c, A)) == 1  # the straggler may still come
    c.deliver(to_c)
    c.settle()
    assert operations(c, A) == []


def test_a_change_to_a_record_of_the_batch_under_way_waits_for_the_next_batch() -> None:
    c = cluster(n=1)
    first = c.request(A, put(b"one", 1))
    batch = c.nodes[A].take_batch()
    assert batch is not None
    second = c.request(A, put(b"two", 2))
    c.finish(A, batch)
    assert [number for number, _ in c.answers] == [first]
    assert [s.op_id for s in c.disks[A].record(KEY).value.siblings] == [op(1)]
    c.commit(A)
    assert [number for number, _ in c.answers] == [first, second]
    assert values(c.ask(A, Get(KEY))) == [b"one", b"two"]


def test_a_get_shows_only_what_is_committed() -> None:
    c = cluster(n=1)
    c.request(A, put(b"v"))
    assert values(at_once(c, A, Get(KEY))) == []
    c.commit(A)
    assert values(at_once(c, A, Get(KEY))) == [b"v"]


def test_a_missed_w_is_indefinite_and_names_who_did_not_answer_and_why() -> None:
    c = cluster()
    c.request(A, put(b"v", w=3))
    c.commit(A)
    c.nodes[A].on_peer_down(0, B)
    [(_, reply)] = c.answers
    assert is_error(reply, WriteOutcomeUnknown)
    assert isinstance(reply, Error)
    assert "1 of 3 acknowledged (n-b unreachable, n-c timed out)" in reply.text
