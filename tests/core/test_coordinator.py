"""One request at a time through real nodes: what each kind of trouble is answered with.

`test_coordinator_orders.py` has every order of every event; here each case has its name.
"""

from __future__ import annotations

import pytest

from dynagent import limits
from dynagent.core.coordinator import Operation
from dynagent.core.entry import decode_context, encode_entry
from dynagent.core.inspect import decode_status
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_CONTEXT,
    MODE_OVERWRITE,
    Error,
    Get,
    GetReply,
    Hello,
    Install,
    Installed,
    Merge,
    MergeAck,
    Message,
    Ping,
    Pong,
    Put,
    PutReply,
    Read,
    ReadReply,
    RingReply,
    RingRequest,
    StatusReply,
    StatusRequest,
)
from dynagent.core.ports import NodeId
from dynagent.core.ring import decode_ring
from dynagent.core.version import Version
from dynagent.errors import (
    BadRequest,
    DynagentError,
    NotReady,
    Overloaded,
    ProtocolError,
    QuorumNotMet,
    Refused,
    TooLarge,
    WriteOutcomeUnknown,
)
from tests.core.harness import CLUSTER_ID, IDS, Cluster, Packet, make_ring

A, B, C, D = IDS
KEY = b"key"


def op(number: int) -> bytes:
    return number.to_bytes(limits.OP_ID_BYTES, "big")


def put(
    value: bytes | None,
    number: int = 1,
    *,
    mode: int = MODE_BLIND,
    context: bytes = b"",
    attempt: int = 1,
    r: int = 0,
    w: int = 0,
) -> Put:
    return Put(KEY, value, mode, context, op(number), attempt, r, w)


def values(reply: Message) -> list[bytes]:
    assert isinstance(reply, GetReply), reply
    return sorted(Version(data).value for data in reply.siblings)


def is_error(reply: Message, kind: type[DynagentError]) -> bool:
    return isinstance(reply, Error) and reply.error == kind.code


def cluster(*, n: int = 3, others: int = 0) -> Cluster:
    return Cluster(make_ring(n, others=others))


def at_once(c: Cluster, node: NodeId, request: Message) -> Message:
    """The answer to what needs neither a peer nor the disk."""
    number = c.request(node, request)
    assert c.answers[-1][0] == number
    return c.answers[-1][1]


def operations(c: Cluster, node: NodeId) -> list[Operation]:
    coordinator = c.nodes[node].coordinator
    assert coordinator is not None
    return list(coordinator.operations.values())


def heard_only_at(c: Cluster, node: NodeId, request: Put) -> None:
    """A write that reaches no other node, and of which its coordinator has given up the rest."""
    c.request(node, request)
    c.wire.clear()
    c.settle()
    c.tick(c.now + 1)


def requests(c: Cluster, kind: type[Message]) -> list[Packet]:
    return [packet for packet in c.wire if isinstance(packet.message, kind)]


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


# --- refused before anything is done -------------------------------------------------------------

TOO_LONG = b"k" * (limits.KEY_BYTES_MAX + 1)
TOO_BIG = b"v" * (limits.VALUE_BYTES_DEFAULT_MAX + 1)
REFUSED: dict[str, tuple[Message, type[DynagentError]]] = {
    "R over N": (Get(KEY, 4), BadRequest),
    "W over N": (put(b"v", w=4), BadRequest),
    "R over N of an overwrite": (put(b"v", mode=MODE_OVERWRITE, r=4), BadRequest),
    "get of an empty key": (Get(b""), BadRequest),
    "put of an empty key": (Put(b"", b"v", MODE_BLIND, b"", op(1)), BadRequest),
    "get of a key over its limit": (Get(TOO_LONG), TooLarge),
    "put of a key over its limit": (Put(TOO_LONG, b"v", MODE_BLIND, b"", op(1)), TooLarge),
    "a value over its limit": (put(TOO_BIG), TooLarge),
    "no op-id": (Put(KEY, b"v", MODE_BLIND, b"", b""), BadRequest),
    "a short op-id": (Put(KEY, b"v", MODE_BLIND, b"", b"o" * 15), BadRequest),
    "attempt 0": (put(b"v", attempt=0), BadRequest),
    "an unknown mode": (put(b"v", mode=3), BadRequest),
    "headers over their limit": (
        Put(KEY, b"v", MODE_BLIND, b"", op(1), meta={b"h": b"x" * limits.META_BYTES_MAX}),
        TooLarge,
    ),
    "a context that is none": (put(b"v", mode=MODE_CONTEXT, context=b"nonsense"), BadRequest),
    "a reply as a request": (Pong(), BadRequest),
    "a greeting as a request": (Hello(1, 1, 0, b"", "", b"", [], 0, 0), BadRequest),
    "an entry that is none": (Merge(1, 2, 0, [[b"key"]]), ProtocolError),
    "a ring that is none": (Install(b"ring"), ProtocolError),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_request_is_refused_and_leaves_no_trace(name: str) -> None:
    request, error = REFUSED[name]
    c = cluster()
    assert is_error(c.ask(A, request), error)
    node = c.nodes[A]
    assert node.is_idle
    assert node.next_deadline() is None
    assert node.counters[error.__name__] == 1
    assert all(not disk.rows for disk in c.disks.values())


def test_the_longest_key_and_the_largest_value_are_taken() -> None:
    c = cluster()
    key = b"k" * limits.KEY_BYTES_MAX
    value = b"v" * limits.VALUE_BYTES_DEFAULT_MAX
    assert isinstance(c.ask(A, Put(key, value, MODE_BLIND, b"", op(1))), PutReply)
    assert values(c.ask(B, Get(key))) == [value]


def test_siblings_that_leave_no_room_for_another_value_refuse_it_before_minting() -> None:
    c = cluster()
    value = b"v" * limits.VALUE_BYTES_DEFAULT_MAX
    count = limits.RECORD_BYTES_MAX // limits.VALUE_BYTES_DEFAULT_MAX - 1
    for number in range(count):
        assert isinstance(c.ask(A, put(value, number + 1)), PutReply)
    assert is_error(c.ask(A, put(value, 99)), TooLarge)
    assert len(values(c.ask(B, Get(KEY)))) == count
    assert isinstance(c.ask(A, put(value, 100, mode=MODE_OVERWRITE)), PutReply)


def test_too_few_owners_up_is_definite_for_puts_and_gets() -> None:
    c = cluster()
    c.nodes[A].on_peer_down(0, B)
    c.nodes[A].on_peer_down(0, C)
    for request in (put(b"v"), Get(KEY), put(b"v", mode=MODE_OVERWRITE), put(b"v", attempt=2)):
        reply = c.ask(A, request)
        assert is_error(reply, QuorumNotMet)
        assert isinstance(reply, Error)
        assert "n-b, n-c" in reply.text
    assert isinstance(c.ask(A, put(b"v", w=1)), PutReply)
    assert values(c.ask(A, Get(KEY, 1))) == [b"v"]


def test_a_full_table_refuses_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUESTS_IN_FLIGHT_MAX", 2)
    c = cluster()
    c.request(A, put(b"one", 1))
    c.request(A, Get(KEY))
    for request in (put(b"two", 2), Get(KEY)):
        number = c.request(A, request)
        assert c.answers[-1][0] == number
        assert is_error(c.answers[-1][1], Overloaded)
    c.settle()
    assert isinstance(c.ask(A, put(b"two", 2)), PutReply)


def test_a_full_batch_refuses_puts_and_merges_until_it_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "BATCH_RECORDS_MAX", 1)
    c = cluster()
    c.request(A, put(b"one"))
    assert is_error(at_once(c, A, put(b"two", 2)), Overloaded)
    [to_b, _to_c] = requests(c, Merge)
    assert is_error(at_once(c, A, to_b.message), Overloaded)
    batch = c.nodes[A].take_batch()
    assert batch is not None
    c.request(A, put(b"three", 3))
    assert len(c.answers) == 2
    c.finish(A, batch)
    c.commit(A)
    assert {x.op_id for x in c.disks[A].record(KEY).value.siblings} == {op(1), op(3)}


def test_a_batch_is_full_by_its_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BATCH_BYTES_MAX", 1_000)
    c = cluster()
    c.request(A, put(b"v" * 1_000))
    assert is_error(at_once(c, A, put(b"two", 2)), Overloaded)


def test_a_node_without_a_ring_serves_nobody() -> None:
    c = Cluster(None, [A])
    for request in (Get(KEY), put(b"v"), Merge(1, 2, 0, []), Read(1, 2, KEY, 0), RingRequest()):
        assert is_error(c.ask(A, request), NotReady)
    assert isinstance(c.ask(A, Ping()), Pong)
    assert state_of(c, A)["state"] == "fresh"
    assert c.nodes[A].is_idle
    assert c.nodes[A].next_deadline() is None
    c.nodes[A].on_peer_down(0, B)
    c.tick(1)


def test_a_draining_node_takes_no_new_requests_but_ends_what_it_has_and_still_merges() -> None:
    c = cluster()
    number = c.request(A, put(b"v"))
    c.nodes[A].draining = True
    assert not c.nodes[A].is_idle
    for request in (Get(KEY), put(b"w", 2)):
        assert is_error(at_once(c, A, request), NotReady)
    c.settle()
    assert [type(reply) for sent, reply in c.answers if sent == number] == [PutReply]
    assert c.nodes[A].is_idle
    assert isinstance(c.ask(B, put(b"x", 3, w=3)), PutReply)
    assert state_of(c, A)["state"] == "draining"


def test_a_node_is_not_idle_while_a_change_is_not_yet_durable() -> None:
    c = cluster()
    c.request(A, put(b"v"))
    c.tick(1)
    assert is_error(c.answers[-1][1], WriteOutcomeUnknown)
    assert not c.nodes[A].is_idle
    c.commit(A)
    assert c.nodes[A].is_idle


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


# --- retries -------------------------------------------------------------------------------------


def dots(c: Cluster, number: int) -> set[tuple[int, int]]:
    return {
        s.dot
        for disk in c.disks.values()
        for s in disk.record(KEY).value.siblings
        if s.op_id == op(number)
    }


@pytest.mark.parametrize("at", [A, B, C])
def test_a_retry_of_a_write_that_is_known_completes_it_and_mints_nothing(at: NodeId) -> None:
    c = cluster()
    first = c.ask(A, put(b"v"))
    again = c.ask(at, put(b"v", attempt=2))
    assert again == first
    assert len(dots(c, 1)) == 1
    assert values(c.ask(C, Get(KEY))) == [b"v"]


def test_a_retry_of_a_write_that_is_under_way_here_waits_for_it_to_be_durable() -> None:
    c = cluster()
    c.request(A, put(b"v", w=3))
    c.request(A, put(b"v", attempt=2, r=1, w=3))
    for ack_of in (B, C):
        for packet in [p for p in c.wire if p.target == ack_of]:
            c.deliver(packet)
    c.commit(B)
    c.commit(C)
    for packet in requests(c, MergeAck):
        c.deliver(packet)
    assert c.answers == []
    c.commit(A)
    assert [type(reply) for _, reply in c.answers] == [PutReply, PutReply]
    assert len(dots(c, 1)) == 1


def test_a_retry_with_a_small_r_still_meets_a_write_that_reached_w_and_was_overwritten() -> None:
    c = cluster()
    for address in (A, B):  # C hears of neither write
        number = 1 if address == A else 2
        c.request(address, put(b"v%d" % number, number, mode=MODE_OVERWRITE))
        for _ in range(20):
            for packet in [p for p in c.wire if C not in (p.source, p.target)]:
                c.deliver(packet)
            c.commit(A)
            c.commit(B)
            c.tick(c.now + limits.HEDGE_S)  # the owner that was asked first does not answer
    c.wire.clear()
    again = c.ask(C, put(b"v1", 1, attempt=2, r=1))
    assert isinstance(again, PutReply)
    assert values(c.ask(A, Get(KEY))) == [b"v2"]


def test_a_retry_known_only_at_another_owner_is_fetched_from_there_and_completed() -> None:
    c = cluster()
    heard_only_at(c, B, put(b"v"))
    assert c.disks[A].rows == {}
    assert isinstance(c.ask(A, put(b"v", attempt=2, r=3)), PutReply)
    assert len(dots(c, 1)) == 1
    assert values(c.ask(C, Get(KEY, 1))) == [b"v"]


def test_a_retry_whose_write_was_superseded_is_a_success_and_brings_nothing_back() -> None:
    c = cluster()
    c.ask(A, put(b"v", 1))
    c.ask(B, put(b"w", 2, mode=MODE_OVERWRITE))
    reply = c.ask(C, put(b"v", 1, attempt=2))
    assert isinstance(reply, PutReply)
    assert reply.dot == b""
    assert values(c.ask(A, Get(KEY, 3))) == [b"w"]


def test_a_retry_whose_fetch_fails_is_indefinite_at_once() -> None:
    c = cluster()
    heard_only_at(c, B, put(b"v"))
    number = c.request(A, put(b"v", attempt=2, r=3))
    while not any(isinstance(p.message, Read) and p.message.want for p in c.wire):
        c.deliver(c.wire[0])
    c.nodes[A].on_peer_down(c.now, B)
    [reply] = [message for sent, message in c.answers if sent == number]
    assert is_error(reply, WriteOutcomeUnknown)
    assert operations(c, A) == []


def known_at_b_and_c() -> Cluster:
    c = cluster()
    c.request(B, put(b"v"))
    [to_c] = [packet for packet in c.wire if packet.target == C]
    c.wire[:] = [to_c]
    c.settle()
    c.tick(c.now + 1)
    return c


def test_a_retry_fetches_from_another_holder_if_the_first_one_fails() -> None:
    c = known_at_b_and_c()
    number = c.request(A, put(b"v", attempt=2, r=3))
    while not any(isinstance(p.message, Read) and p.message.want for p in c.wire):
        c.deliver(c.wire[0])
    c.wire.clear()
    c.nodes[A].on_peer_down(c.now, B)
    assert [packet.target for packet in requests(c, Read)] == [C]
    c.settle()
    [reply] = [message for sent, message in c.answers if sent == number]
    assert isinstance(reply, PutReply)


def test_a_late_holder_does_not_hide_that_the_one_who_was_asked_has_failed() -> None:
    c = known_at_b_and_c()
    number = c.request(A, put(b"v", attempt=2))
    c.tick(c.now + limits.HEDGE_S)
    [to_b, to_c] = requests(c, Read)
    c.deliver(to_c)
    c.deliver(c.wire[-1])  # C knows it, and is asked for it
    c.deliver(to_b)
    c.deliver(c.wire[-1])  # so does B
    c.wire.clear()
    c.nodes[A].on_peer_down(c.now, C)
    assert [packet.target for packet in requests(c, Read)] == [B]
    c.settle()
    [reply] = [message for sent, message in c.answers if sent == number]
    assert isinstance(reply, PutReply)


def test_a_retry_asks_no_holder_whose_link_broke_while_it_was_still_looking() -> None:
    c = cluster()
    heard_only_at(c, B, put(b"v"))
    number = c.request(A, put(b"v", attempt=2, r=3))
    [to_b, to_c] = requests(c, Read)
    c.deliver(to_b)
    c.deliver(c.wire[-1])
    c.nodes[A].on_peer_down(c.now, B)
    c.deliver(to_c)
    c.deliver(c.wire[-1])
    assert c.wire == []
    [reply] = [message for sent, message in c.answers if sent == number]
    assert is_error(reply, WriteOutcomeUnknown)
    assert operations(c, A) == []


def test_a_retry_whose_trace_may_have_been_forgotten_is_unknown_and_applies_nothing() -> None:
    c = cluster()
    for number in range(1, limits.OP_IDS_KEPT + 3):
        c.ask(A, put(b"v%d" % number, number, mode=MODE_OVERWRITE))
    before = {id_: dict(disk.rows) for id_, disk in c.disks.items()}
    for mode in (MODE_BLIND, MODE_OVERWRITE):
        assert is_error(c.ask(B, put(b"v1", 1, mode=mode, attempt=2)), WriteOutcomeUnknown)
    assert {id_: disk.rows for id_, disk in c.disks.items()} == before
    # The newest of the superseded ones is still remembered.
    known = limits.OP_IDS_KEPT + 1
    assert isinstance(c.ask(B, put(b"v", known, attempt=2)), PutReply)
    assert len(values(c.ask(C, Get(KEY)))) == 1


def test_a_write_that_a_retry_minted_twice_is_shown_once_and_superseded_as_one() -> None:
    c = cluster()
    heard_only_at(c, B, put(b"v"))
    c.nodes[A].on_peer_down(c.now, B)
    assert isinstance(c.ask(A, put(b"v", attempt=2)), PutReply)
    c.nodes[A].on_peer_up(c.now, B)
    read = c.ask(A, Get(KEY, 3))
    assert values(read) == [b"v"]
    assert len(dots(c, 1)) == 2
    assert isinstance(read, GetReply)
    c.ask(C, put(b"w", 2, mode=MODE_CONTEXT, context=read.context))
    assert values(c.ask(B, Get(KEY, 3))) == [b"w"]


def test_a_delete_that_is_repeated_deletes_nothing_that_came_after_it() -> None:
    c = cluster()
    c.ask(A, put(b"one", 1))
    c.ask(A, put(None, 2, mode=MODE_OVERWRITE))
    c.ask(B, put(b"two", 3))
    assert isinstance(c.ask(C, put(None, 2, mode=MODE_OVERWRITE, attempt=2)), PutReply)
    assert values(c.ask(A, Get(KEY, 3))) == [b"two"]


# --- passing a request on ------------------------------------------------------------------------


def forwarded(c: Cluster, request: Message) -> int:
    number = c.request(D, request)
    [packet] = c.wire
    assert (packet.source, packet.target, packet.message) == (D, A, request)
    return number


def test_a_forwarded_request_gets_the_owners_answer_as_it_is() -> None:
    c = cluster(others=1)
    c.ask(D, put(b"v"))
    assert c.ask(D, Get(KEY)) == c.ask(A, Get(KEY))
    assert is_error(c.ask(D, Get(KEY, 4)), BadRequest)
    assert operations(c, D) == []
    assert c.disks[D].rows == {}


def test_a_forwarded_get_whose_owner_fails_goes_to_the_next_one_that_is_up() -> None:
    c = cluster(others=1)
    c.ask(A, put(b"v"))
    number = forwarded(c, Get(KEY))
    c.wire.clear()
    c.nodes[D].on_peer_down(0, B)
    c.nodes[D].on_peer_down(0, A)
    assert [packet.target for packet in c.wire] == [C]
    c.settle()
    assert values(dict(c.answers)[number]) == [b"v"]


def test_a_forwarded_get_whose_owners_all_fail_is_definite() -> None:
    c = cluster(others=1)
    forwarded(c, Get(KEY))
    for owner in (A, B, C):
        c.nodes[D].on_peer_down(0, owner)
    [(_, reply)] = c.answers
    assert is_error(reply, QuorumNotMet)
    for request in (Get(KEY), put(b"v")):
        assert is_error(at_once(c, D, request), QuorumNotMet)
    assert operations(c, D) == []


def test_a_forwarded_put_whose_owner_fails_is_indefinite_and_not_repeated() -> None:
    c = cluster(others=1)
    forwarded(c, put(b"v"))
    c.wire.clear()
    c.nodes[D].on_peer_down(0, A)
    [(_, reply)] = c.answers
    assert is_error(reply, WriteOutcomeUnknown)
    assert c.wire == []


@pytest.mark.parametrize("request_", [Get(KEY), put(b"v")], ids=["get", "put"])
def test_a_forwarded_request_that_the_owner_is_not_ready_for_goes_to_the_next(
    request_: Message,
) -> None:
    c = cluster(others=1)
    c.nodes[A].draining = True
    assert isinstance(c.ask(D, request_), GetReply | PutReply)
    c.nodes[B].draining = c.nodes[C].draining = True
    assert is_error(c.ask(D, request_), NotReady)


@pytest.mark.parametrize(
    ("request_", "error"),
    [(Get(KEY), QuorumNotMet), (put(b"v"), WriteOutcomeUnknown)],
    ids=["get", "put"],
)
def test_a_forwarded_request_that_is_never_answered_ends_at_its_deadline(
    request_: Message, error: type[DynagentError]
) -> None:
    c = cluster(others=1)
    forwarded(c, request_)
    assert c.nodes[D].next_deadline() == 1.0
    [late] = c.wire
    c.tick(1.0)
    [(_, reply)] = c.answers
    assert is_error(reply, error)
    c.deliver(late)
    c.settle()
    assert len(c.answers) == 1


def test_the_owner_of_a_forwarded_request_gets_a_little_less_time() -> None:
    c = cluster(others=1)
    c.request(D, Get(KEY), budget_ms=500)
    c.request(D, Get(KEY), budget_ms=5_000)
    c.request(D, Get(KEY), budget_ms=1)
    assert [packet.budget_ms for packet in c.wire] == [450, 4_900, 1]


# --- bootstrap -----------------------------------------------------------------------------------


def test_a_fresh_node_serves_once_its_first_ring_is_durable() -> None:
    c = Cluster(None, [A])
    ring = make_ring(1)
    c.request(A, Install(ring.encode()))
    assert c.answers == []
    assert is_error(c.ask(A, Get(KEY)), NotReady)
    [(adopted, link, number)] = c.adopting
    c.nodes[A].on_adopted(c.now, adopted, link, number)
    assert c.answers[-1][1] == Installed()
    assert c.nodes[A].ring == ring
    assert isinstance(c.ask(A, put(b"v")), PutReply)
    assert c.ask(A, Install(ring.encode())) == Installed()


def test_a_node_with_a_ring_refuses_another_one() -> None:
    c = cluster()
    assert is_error(c.ask(A, Install(make_ring(2).encode())), Refused)
    assert c.nodes[A].ring == make_ring(3)


def test_a_ring_that_does_not_name_the_node_is_refused() -> None:
    c = Cluster(None, [D])
    assert is_error(c.ask(D, Install(make_ring(3).encode())), Refused)
    assert c.adopting == []


# --- damage --------------------------------------------------------------------------------------


def damage(c: Cluster, *nodes: NodeId) -> None:
    for node in nodes:
        stored = c.disks[node].rows[KEY]
        c.disks[node].rows[KEY] = stored[:-1] + bytes([stored[-1] ^ 1])


@pytest.mark.parametrize("at", [A, B, C])
def test_an_unreadable_copy_is_neither_a_value_nor_its_absence(at: NodeId) -> None:
    c = cluster()
    c.ask(A, put(b"v"))
    damage(c, A)
    assert values(c.ask(at, Get(KEY))) == [b"v"]
    assert is_error(c.ask(at, Get(KEY, 3)), QuorumNotMet)
    assert c.notes[0][0] == "record.unreadable"
    damage(c, B, C)
    assert is_error(c.ask(at, Get(KEY, 1)), QuorumNotMet)


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
    assert is_error(c.ask(C, put(b"three", 3, mode=MODE_OVERWRITE)), QuorumNotMet)


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
    for request in (Get(KEY, 3), put(b"v", mode=MODE_OVERWRITE, r=3)):
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


# --- runs, and the state of a node ---------------------------------------------------------------


def test_an_actor_goes_on_after_a_clean_stop_and_is_a_new_one_after_a_crash() -> None:
    c = cluster()
    c.ask(A, put(b"1", 1))
    c.ask(A, put(b"2", 2))
    [(actor, last)] = dots(c, 2)
    assert last == 2
    c.restart(A, clean=True)
    c.ask(A, put(b"3", 3))
    assert dots(c, 3) == {(actor, 3)}
    c.restart(A)
    c.ask(A, put(b"4", 4))
    [(other, first)] = dots(c, 4)
    assert other != actor
    assert first == 1
    assert values(c.ask(B, Get(KEY))) == [b"1", b"2", b"3", b"4"]


def test_a_write_that_was_acknowledged_survives_the_crash_of_its_coordinator() -> None:
    c = cluster()
    c.request(A, put(b"1", 1))
    for packet in requests(c, Merge):
        c.deliver(packet)
    c.commit(B)
    c.commit(C)
    for packet in requests(c, MergeAck):
        c.deliver(packet)
    assert [type(reply) for _, reply in c.answers] == [PutReply]
    c.restart(A)
    c.ask(A, put(b"2", 2))
    for node in (A, B, C):
        assert values(c.ask(node, Get(KEY))) == [b"1", b"2"]


def state_of(c: Cluster, node: NodeId) -> dict[str, object]:
    reply = at_once(c, node, StatusRequest())
    assert isinstance(reply, StatusReply)
    return decode_status(reply.document)


def test_the_status_tells_who_the_node_is_whom_it_sees_and_what_is_under_way() -> None:
    c = cluster()
    c.request(A, put(b"v"))
    c.nodes[A].on_peer_down(0, C)
    state = state_of(c, A)
    assert (state["node_id"], state["run"], state["epoch"]) == (A, 1, 1)
    assert (state["state"], state["up"], state["in_flight"]) == ("serving", [A, B], 1)
    assert (state["cluster_id"], state["counters"]) == (CLUSTER_ID, {"Put": 1, "StatusRequest": 1})
    for document in (b"", b"\x80", b"\xa0"):
        with pytest.raises(ProtocolError):
            decode_status(document)


def test_the_ring_is_sent_only_to_those_who_have_another_epoch() -> None:
    c = cluster()
    reply = c.ask(A, RingRequest())
    assert isinstance(reply, RingReply)
    assert decode_ring(reply.ring) == make_ring(3)
    assert c.ask(A, RingRequest(1)) == RingReply(1, b"")


# --- merges of several requests in one frame ----------------------------------------------------


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
