"""Requests that are refused before anything is done: wrong, too big, too few owners, no room."""

from __future__ import annotations

from math import inf

import pytest

from dynagent import limits
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_CONTEXT,
    MODE_OVERWRITE,
    Error,
    Get,
    Hello,
    Install,
    Merge,
    Message,
    Pong,
    Put,
    PutReply,
)
from dynagent.errors import (
    BadRequest,
    DynagentError,
    Overloaded,
    ProtocolError,
    QuorumNotMet,
    TooLarge,
    TooManySiblings,
)
from tests.core.harness import IDS, KEY, at_once, cluster, is_error, op, put, requests, values

A, B, C, D = IDS
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
    assert node.coordinator is not None and node.coordinator.due == inf
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
    assert is_error(c.ask(A, put(value, 99)), TooManySiblings)
    assert len(values(c.ask(B, Get(KEY)))) == count
    assert isinstance(c.ask(A, put(value, 100, mode=MODE_OVERWRITE)), PutReply)


def test_too_few_owners_up_is_definite_for_puts_and_gets() -> None:
    c = cluster()
    c.nodes[A].on_peer_down(0, B)
    c.nodes[A].on_peer_down(0, C)
    requests = (put(b"v"), put(b"v", mode=MODE_OVERWRITE), put(b"v", attempt=2))
    for request in (*requests, Get(KEY, strict=True)):
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
