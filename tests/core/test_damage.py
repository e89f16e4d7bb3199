"""Copies that cannot be read, dots with two values, answers that make no sense."""

from __future__ import annotations

import pytest

from dynagent.core.entry import encode_entry
from dynagent.core.messages import MODE_OVERWRITE, Get, Merge, MergeAck, PutReply, Read, ReadReply
from dynagent.core.ports import NodeId
from dynagent.core.ring import token_of
from dynagent.errors import QuorumNotMet
from tests.core.harness import (
    IDS,
    KEY,
    Cluster,
    Packet,
    cluster,
    dots,
    is_error,
    op,
    put,
    requests,
    values,
)

A, B, C, D = IDS


def damage(c: Cluster, *nodes: NodeId) -> None:
    for node in nodes:
        stored = c.disks[node].rows[KEY]
        c.overwrite_row(node, stored[:-1] + bytes([stored[-1] ^ 1]))


@pytest.mark.parametrize("at", [A, B, C])
def test_an_unreadable_copy_is_neither_a_value_nor_its_absence(at: NodeId) -> None:
    c = cluster()
    c.ask(A, put(b"v"))
    damage(c, A)
    assert values(c.ask(at, Get(KEY))) == [b"v"]
    assert is_error(c.ask(at, Get(KEY, 3, True)), QuorumNotMet)
    assert c.notes[0][0] == "record.unreadable"
    damage(c, B, C)
    if at != C:
        assert is_error(c.ask(at, Get(KEY, 2, True)), QuorumNotMet)


def test_a_copy_that_was_read_ahead_is_checked_like_any_other() -> None:
    c = cluster()
    c.ask(A, put(b"v"))
    damage(c, A)
    replica = c.nodes[A].replica
    replica.read_ahead([KEY, b"absent"])
    assert not replica.is_at_hand(KEY)
    assert replica.is_at_hand(b"absent")
    assert replica.read(KEY, token_of(KEY)).unknown
    assert not replica.read(b"absent", token_of(b"absent")).unknown


def test_an_unreadable_copy_stays_unknown_after_a_merge_and_a_put_of_its_own() -> None:
    c = cluster()
    c.ask(A, put(b"one", 1, w=3))
    damage(c, A)
    assert isinstance(c.ask(B, put(b"two", 2, w=3)), PutReply)
    assert isinstance(c.ask(A, put(b"three", 3, w=3)), PutReply)
    record = c.disks[A].record(KEY)
    assert record.unknown
    assert {s.op_id for s in record.value.siblings} == {op(1), op(2), op(3)}
    assert is_error(c.ask(A, Get(KEY, 3)), QuorumNotMet)
    assert values(c.ask(A, Get(KEY))) == [b"one", b"three", b"two"]


def test_an_overwrite_at_an_unreadable_copy_supersedes_what_r_others_hold() -> None:
    c = cluster()
    c.ask(B, put(b"one", 1, w=3))
    damage(c, A)
    assert isinstance(c.ask(A, put(b"two", 2, mode=MODE_OVERWRITE)), PutReply)
    assert values(c.ask(B, Get(KEY))) == [b"two"]
    damage(c, B)
    assert is_error(c.ask(C, put(b"three", 3, mode=MODE_OVERWRITE, strict=True)), QuorumNotMet)


def test_one_dot_with_two_values_keeps_both_and_raises_the_alarm() -> None:
    c, clone = cluster(), cluster()
    c.ask(A, put(b"one", 1))
    clone.ask(A, put(b"two", 2))
    assert dots(c, 1) == dots(clone, 2)
    entry = encode_entry(KEY, clone.disks[A].record(KEY))
    assert isinstance(c.ask(B, Merge(1, 2, 0, [entry])), MergeAck)
    assert values(c.ask(B, Get(KEY, 3))) == [b"one", b"two"]
    assert ("record.clash", {"key": KEY, "dots": 1}) in c.notes


def test_malformed_answers_of_a_peer_count_as_its_failure() -> None:
    c = cluster()
    for request in (Get(KEY, 3, True), put(b"v", mode=MODE_OVERWRITE, r=3, strict=True)):
        number = c.request(A, request)
        [to_b, to_c] = requests(c, Read)
        c.deliver(to_c)
        c.wire.remove(to_b)
        bad = ReadReply(1, b"d", [1], [1], None)
        c.deliver(Packet(B, A, to_b.number, bad, None))
        [reply] = [message for sent, message in c.answers if sent == number]
        assert is_error(reply, QuorumNotMet)
        assert c.notes[-1][0] == "peer.malformed"
        c.settle()
