"""Merges and Reads of several requests in one frame: each request has its own answer."""

from __future__ import annotations

from dynagent.core.messages import (
    STATE_ABSENT,
    STATE_PRESENT,
    WANT_DIGEST,
    Error,
    Merge,
    MergeAck,
    PutReply,
    Read,
    ReadReply,
)
from dynagent.errors import WriteOutcomeUnknown
from tests.core.harness import IDS, KEY, Cluster, Packet, cluster, is_error, put, requests

A, B, C = IDS[:3]


def packed(c: Cluster) -> Merge:
    """Two blind puts of different keys at A, as one Merge; nothing of it has been delivered."""
    entries, ids = [], []
    for number, key in enumerate((b"one", b"two"), start=1):
        request = put(b"v", number)
        request.key = key
        c.request(A, request)
    for packet in requests(c, Merge):
        if packet.target == B:
            assert isinstance(packet.message, Merge)
            entries += packet.message.entries
            ids.append(packet.number)
    c.wire.clear()
    return Merge(1, 2, 0, entries, ids[1:])


def test_each_request_of_a_packed_merge_is_acknowledged_when_all_of_it_is_durable() -> None:
    c = cluster()
    merge = packed(c)
    number = merge.also[0] - 1
    c.deliver(Packet(A, B, number, merge, 100))
    assert c.wire == []
    c.commit(B)
    [ack] = requests(c, MergeAck)
    assert isinstance(ack.message, MergeAck)
    assert (ack.number, ack.message.also) == (number, merge.also)
    c.deliver(Packet(A, B, number, merge, 100))  # once more: nothing to wait for
    [_, again] = requests(c, MergeAck)
    assert isinstance(again.message, MergeAck) and again.message.also == merge.also
    c.commit(A)
    c.settle()
    assert [type(reply) for _, reply in c.answers] == [PutReply, PutReply]


def test_each_request_of_a_packed_merge_is_refused() -> None:
    c = cluster()
    merge = packed(c)
    number = merge.also[0] - 1
    merge.entries[1] = [b"two", b"no content", []]
    c.deliver(Packet(A, B, number, merge, 100))
    refusals = requests(c, Error)
    assert sorted(packet.number for packet in refusals) == [number, *merge.also]
    c.nodes[A].on_peer_down(c.now, C)
    c.commit(A)
    c.settle()
    assert all(is_error(reply, WriteOutcomeUnknown) for _, reply in c.answers)


def test_each_request_of_a_packed_read_is_answered() -> None:
    c = cluster()
    c.request(A, put(b"v", 1))
    c.settle()
    c.deliver(Packet(A, B, 7, Read(1, 2, KEY, WANT_DIGEST, b"", [8], [b"absent"]), 100))
    states = {
        packet.number: packet.message.state
        for packet in requests(c, ReadReply)
        if isinstance(packet.message, ReadReply)
    }
    assert states == {7: STATE_PRESENT, 8: STATE_ABSENT}


def test_each_request_of_a_packed_read_is_refused() -> None:
    c = cluster()
    c.deliver(Packet(A, B, 7, Read(1, 2, KEY, WANT_DIGEST, b"", [8, 9], [b"one key"]), 100))
    refusals = requests(c, Error)
    assert sorted(packet.number for packet in refusals) == [7, 8, 9]
