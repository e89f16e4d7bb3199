"""What a traced request tells: exact events, with the times of the harness's clock."""

from __future__ import annotations

import pytest

from dynagent import limits
from dynagent.core.encoding import encode
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_OVERWRITE,
    Error,
    Get,
    GetReply,
    MergeAck,
    Message,
    Put,
    PutReply,
    Read,
    ReadReply,
)
from dynagent.core.ports import NodeId
from dynagent.core.trace import Trace, clock_words, decode_trace
from dynagent.errors import Overloaded, ProtocolError, QuorumNotMet, WriteOutcomeUnknown
from tests.core.harness import IDS, Cluster, make_ring

A, B, C, D = IDS
KEY = b"key"
Told = list[tuple[int, str, str]]


def put(value: bytes | None, number: int = 1, *, mode: int = MODE_BLIND, attempt: int = 1) -> Put:
    op_id = number.to_bytes(limits.OP_ID_BYTES, "big")
    return Put(KEY, value, mode, b"", op_id, attempt, trace=True)


def told(reply: Message) -> Told:
    assert isinstance(reply, GetReply | PutReply | Error), reply
    return decode_trace(reply.trace)


def last(c: Cluster) -> Told:
    return told(c.answers[-1][1])


def clock_at(c: Cluster, node: NodeId) -> str:
    [(actor, counter)] = c.disks[node].record(KEY).value.clock.items()
    return f"clock {actor:016x}:{counter}"


def deliver(c: Cluster, at: float, node: NodeId) -> None:
    """Time passes; then the first packet that is under way to `node` arrives."""
    c.now = at
    c.deliver(next(packet for packet in c.wire if packet.target == node))


def test_a_request_that_does_not_ask_gets_no_trace() -> None:
    c = Cluster(make_ring(3))
    untraced = put(b"v")
    untraced.trace = False
    for reply in (c.ask(A, untraced), c.ask(B, Get(KEY)), c.ask(C, Get(KEY, 4))):
        assert told(reply) == []


def test_a_get_of_equal_copies_tells_who_has_the_same() -> None:
    c = Cluster(make_ring(3))
    c.ask(A, put(b"v"))
    c.request(A, Get(KEY, trace=True))
    deliver(c, 0.002, B)
    deliver(c, 0.0055, A)
    assert last(c) == [
        (0, "n-a", "takes the get: R=2 of n-a, n-b, n-c"),
        (0, "n-a", f"has 1 value, {clock_at(c, A)}"),
        (0, "n-a", "asks n-b for a digest"),
        (5500, "n-b", "has the same"),
        (5500, "n-a", "answers: 1 value, from the copies of 2 owners"),
    ]


def test_a_get_tells_which_record_it_fetched() -> None:
    c = Cluster(make_ring(3))
    c.request(B, put(b"v"))
    c.wire.clear()
    c.commit(B)  # nobody else has it
    c.request(A, Get(KEY, trace=True))
    deliver(c, 0.001, B)
    deliver(c, 0.002, A)
    deliver(c, 0.003, B)
    deliver(c, 0.004, A)
    clock = clock_at(c, B)
    assert last(c)[1:] == [
        (0, "n-a", "has nothing"),
        (0, "n-a", "asks n-b for a digest"),
        (2000, "n-b", f"has 1 value, {clock}"),
        (2000, "n-a", "asks n-b for the record"),
        (4000, "n-b", f"sends the record, {clock}"),
        (4000, "n-a", "answers: 1 value, from the copies of 2 owners"),
    ]


def test_a_late_get_tells_its_hedge() -> None:
    c = Cluster(make_ring(3))
    c.request(A, Get(KEY, trace=True))
    c.tick(limits.HEDGE_S)
    deliver(c, 0.06, C)
    deliver(c, 0.07, A)
    assert last(c)[2:] == [
        (0, "n-a", "asks n-b for a digest"),
        (50_000, "n-a", "waits no longer: asks the other owners"),
        (50_000, "n-a", "asks n-c for a digest"),
        (70_000, "n-c", "has nothing"),
        (70_000, "n-a", "answers: no value, from the copies of 2 owners"),
    ]


def test_a_peer_that_fails_is_told_once_and_only_if_it_was_asked() -> None:
    c = Cluster(make_ring(3))
    c.request(A, Get(KEY, trace=True))
    c.nodes[A].on_peer_down(0.01, B)
    c.nodes[A].on_peer_down(0.02, B)
    c.nodes[A].on_peer_up(0.02, B)
    deliver(c, 0.03, C)
    deliver(c, 0.04, A)
    assert last(c)[3:] == [
        (10_000, "n-b", "failed: its link is down"),
        (10_000, "n-a", "asks n-c for a digest"),
        (40_000, "n-c", "has nothing"),
        (40_000, "n-a", "answers: no value, from the copies of 2 owners"),
    ]


def test_a_peer_that_refuses_is_told_with_its_words() -> None:
    c = Cluster(make_ring(3))
    number = c.request(A, put(b"v"))
    c.wire.clear()
    c.nodes[A].on_reply(0.01, B, number, Error(Overloaded.code, "too much"))
    c.nodes[A].on_reply(0.02, C, number, Error(Overloaded.code, "here too"))
    events = last(c)
    assert (10_000, "n-b", "refuses: Overloaded: too much") in events
    assert events[-2:] == [
        (20_000, "n-c", "failed"),
        (20_000, "n-a", "answers: WriteOutcomeUnknown"),
    ]


def test_a_get_without_its_quorum_brings_the_trace_with_the_error() -> None:
    c = Cluster(make_ring(3))
    c.request(A, Get(KEY, strict=True, trace=True))
    c.tick(limits.HEDGE_S)
    c.tick(1.0)
    reply = c.answers[-1][1]
    assert isinstance(reply, Error) and reply.error == QuorumNotMet.code
    assert last(c)[-2:] == [
        (1_000_000, "n-a", "has no more time"),
        (1_000_000, "n-a", "answers: QuorumNotMet"),
    ]


def test_an_overwrite_tells_its_look_and_its_write() -> None:
    c = Cluster(make_ring(3))
    c.ask(A, put(b"old"))
    old = clock_at(c, A)
    c.request(A, put(b"new", 2, mode=MODE_OVERWRITE))
    deliver(c, 0.001, B)
    deliver(c, 0.002, A)
    c.now = 0.003
    c.commit(A)
    deliver(c, 0.004, B)
    c.commit(B)
    deliver(c, 0.005, A)
    assert last(c) == [
        (0, "n-a", "takes the put: reads R=2 first, W=2 of n-a, n-b, n-c"),
        (0, "n-a", f"has 1 value, {old}"),
        (0, "n-a", "asks n-b for a digest"),
        (2000, "n-b", f"has 1 value, {old}"),
        (2000, "n-a", "writes its own copy"),
        (2000, "n-a", "sends its copy to n-b, n-c"),
        (3000, "n-a", "has its own copy on disk"),
        (5000, "n-b", "has it on disk"),
        (5000, "n-a", "answers: done; the key has 1 value"),
    ]


def test_a_retry_tells_at_whom_its_write_was_found() -> None:
    c = Cluster(make_ring(3))
    c.request(B, put(b"v"))
    c.wire.clear()
    c.commit(B)
    c.request(A, put(b"v", attempt=2))
    c.settle()
    clock = clock_at(c, B)
    assert [(who, what) for _at_us, who, what in last(c)] == [
        ("n-a", "takes the put, attempt 2: reads R=2 first, W=2 of n-a, n-b, n-c"),
        ("n-a", "has nothing"),
        ("n-a", "asks n-b for a digest, and whether this write is known"),
        ("n-b", f"has 1 value, {clock}; holds this write"),
        ("n-a", "asks n-b for the record, and whether this write is known"),
        ("n-b", f"sends the record, {clock}; holds this write"),
        ("n-a", "holds this write: completes it"),
        ("n-a", "sends its copy to n-b, n-c"),
        ("n-b", "has it on disk"),
        ("n-a", "has its own copy on disk"),
        ("n-a", "answers: done; the key has 1 value"),
    ]


def test_a_deleted_key_has_a_clock_and_no_value() -> None:
    c = Cluster(make_ring(3))
    c.ask(A, put(b"v"))
    assert last(c)[0][2].startswith("takes the put: W=2")
    c.ask(A, put(None, 2, mode=MODE_OVERWRITE))
    assert last(c)[0][2].startswith("takes the delete: reads R=2 first")
    c.ask(A, Get(KEY, trace=True))
    assert last(c)[1][2].startswith("has no value, clock ")
    assert last(c)[-1][2] == "answers: no value, from the copies of 2 owners"


def test_a_delete_of_nothing_says_so() -> None:
    c = Cluster(make_ring(3))
    c.ask(A, put(None, mode=MODE_OVERWRITE))
    assert [what for _at_us, _who, what in last(c)][-2:] == [
        "has nothing to delete",
        "answers: done; the key has no value",
    ]


def test_a_request_that_was_passed_on_tells_of_both_agents() -> None:
    c = Cluster(make_ring(3, others=1))
    c.request(D, Get(KEY, trace=True))
    deliver(c, 5.0, A)
    deliver(c, 5.001, B)
    deliver(c, 5.002, A)
    deliver(c, 5.003, D)
    assert last(c) == [
        (0, "n-d", "is no owner of this key: passes it on to n-a"),
        (0, "n-a", "takes the get: R=2 of n-a, n-b, n-c"),
        (0, "n-a", "has nothing"),
        (0, "n-a", "asks n-b for a digest"),
        (2000, "n-b", "has nothing"),
        (2000, "n-a", "answers: no value, from the copies of 2 owners"),
        (5_003_000, "n-a", "has answered"),
        (5_003_000, "n-d", "answers: no value, from the copies of 2 owners"),
    ]


def test_a_malformed_trace_of_an_owner_is_noted_and_the_answer_still_given() -> None:
    c = Cluster(make_ring(3, others=1))
    number = c.request(D, Get(KEY, trace=True))
    c.nodes[D].on_reply(0.001, A, number, GetReply(b"", [], False, 2, b"nonsense"))
    assert isinstance(c.answers[-1][1], GetReply)
    assert [who for _at_us, who, _what in last(c)] == ["n-d", "n-a", "n-d"]
    assert [event for event, _fields in c.notes] == ["peer.malformed"]


def test_a_put_that_is_passed_on_and_lost_tells_where() -> None:
    c = Cluster(make_ring(3, others=1))
    c.request(D, put(b"v"))
    c.nodes[D].on_peer_down(0.01, A)
    reply = c.answers[-1][1]
    assert isinstance(reply, Error) and reply.error == WriteOutcomeUnknown.code
    assert last(c)[1:] == [
        (10_000, "n-a", "failed: its link is down"),
        (10_000, "n-d", "answers: WriteOutcomeUnknown"),
    ]


def test_stragglers_come_after_the_answer_and_are_not_told() -> None:
    c = Cluster(make_ring(3))
    c.request(A, put(b"v"))
    c.settle()
    assert len(c.answers) == 1
    assert sum(what == "has it on disk" for _at_us, _who, what in last(c)) == 1


def test_the_peers_are_not_asked_for_a_trace() -> None:
    c = Cluster(make_ring(3))
    c.request(A, Get(KEY, trace=True))
    kinds = {type(packet.message) for packet in c.wire}
    assert kinds == {Read}
    c.ask(A, put(b"v"))
    assert not {"trace"} & {*Read.field_names, *ReadReply.field_names, *MergeAck.field_names}


# --- its form ------------------------------------------------------------------------------------


def test_a_trace_is_bounded_and_says_that_there_was_more() -> None:
    trace = Trace(0.0)
    for number in range(10_000):
        trace.add(number / 1_000, "n", "something happened, again and again")
    assert len(trace.encode()) < 2 * limits.TRACE_BYTES_MAX
    assert trace.events[-1][2] == "did more than a trace can hold"
    assert decode_trace(trace.encode()) == trace.events


def test_a_long_clock_is_cut() -> None:
    words = clock_words([number for actor in range(1, 6) for number in (actor, 7)])
    assert words.endswith("0000000000000003:7 and 2 more")


@pytest.mark.parametrize(
    "value",
    [
        {},
        ["event"],
        [[0, "n"]],
        [[0, "n", b"bytes"]],
        [[0.5, "n", "what"]],
        [[-1, "n", "what"]],
        [[2**40, "n", "what"]],
        [[True, "n", "what"]],
        [[0, "n", "x" * (2 * limits.TRACE_BYTES_MAX)]],
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_trace_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError):
        decode_trace(encode(value))


def test_events_of_a_newer_agent_may_have_more_fields() -> None:
    assert decode_trace(encode([[7, "n", "what", {"more": 1}]])) == [(7, "n", "what")]
