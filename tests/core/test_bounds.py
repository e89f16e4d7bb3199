"""Bounds of the node: a full disk, the memory of requests under way, the heap of deadlines."""

import pytest

from dynagent import limits
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_CONTEXT,
    Error,
    Get,
    GetReply,
    MergeAck,
    Put,
    PutReply,
)
from dynagent.core.siblings import Dot
from dynagent.core.version import Version
from dynagent.errors import DiskFull, Overloaded
from tests.core.harness import IDS, Cluster, make_ring

A, B, C = IDS[:3]
KEY = b"key"


def put(number: int, *, value: bytes = b"v", context: bytes = b"", mode: int = MODE_BLIND) -> Put:
    return Put(KEY, value, mode, context, bytes([number]) * 16)


def full(cluster: Cluster, number: int) -> list[Dot]:
    """A put at A whose batch finds no room on A's disk; the dots it had minted."""
    node = cluster.nodes[A]
    cluster.request(A, put(number))
    assert node.take_batch() is not None
    minted = node.replica._overlay[KEY][0].value.dots()
    node.on_refused(0.0)
    return minted


def test_a_write_that_our_full_disk_refused_succeeds_if_w_others_have_it() -> None:
    c = Cluster(make_ring(3))
    full(c, 1)
    c.settle()
    assert [type(reply) for _, reply in c.answers] == [PutReply]


def test_an_owner_with_a_full_disk_says_so_to_whoever_waits() -> None:
    c = Cluster(make_ring(3))
    c.request(A, put(1))
    for packet in [p for p in c.wire if p.target == B]:
        c.deliver(packet)
    assert c.nodes[B].take_batch() is not None
    c.nodes[B].on_refused(0.0)
    (answer,) = [p.message for p in c.wire if p.source == B]
    assert isinstance(answer, Error) and answer.error == DiskFull.code


def test_after_a_refused_batch_no_dot_of_it_is_minted_again() -> None:
    c = Cluster(make_ring(3))
    first = c.ask(A, put(1))
    assert isinstance(first, PutReply)
    refused = full(c, 2)
    c.tick(limits.DISK_FULL_PAUSE_S)
    again = c.ask(A, put(3))
    assert isinstance(again, PutReply)
    actor = int.from_bytes(again.dot[:8], "big")
    assert actor not in {dot[0] for dot in refused}
    read = c.ask(B, Get(KEY, 3))
    assert isinstance(read, GetReply)
    assert len({Version(data).op_id for data in read.siblings}) == 3


def test_a_full_disk_refuses_changes_for_a_while_and_reads_never() -> None:
    c = Cluster(make_ring(3))
    c.ask(A, put(1))
    full(c, 2)
    c.settle()
    refused = c.ask(A, put(3))
    assert isinstance(refused, Error) and refused.error == DiskFull.code
    assert isinstance(c.ask(A, Get(KEY)), GetReply)
    c.tick(limits.DISK_FULL_PAUSE_S)
    assert isinstance(c.ask(A, put(4)), PutReply)


def test_what_waits_in_the_open_batch_goes_with_the_refused_one() -> None:
    c = Cluster(make_ring(3))
    node = c.nodes[A]
    c.request(A, put(1))
    assert node.take_batch() is not None
    c.request(A, put(2))  # builds on the first, in the next batch
    node.on_refused(0.0)
    assert node.take_batch() is None
    assert not node.replica.is_dirty
    assert node.replica.has_burnt


def test_the_memory_of_requests_under_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_BYTES_IN_FLIGHT_MAX", 250)
    c = Cluster(make_ring(3))
    for number in (1, 2):
        c.request(A, put(number, value=b"v" * 100))
    refused = c.ask(A, put(3, value=b"v" * 100))
    assert isinstance(refused, Error) and refused.error == Overloaded.code
    c.settle()
    assert isinstance(c.ask(A, put(4, value=b"v" * 100)), PutReply)


def test_gets_under_way_count_the_copies_that_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    c = Cluster(make_ring(3))
    assert isinstance(c.ask(A, put(1, value=b"v" * 1_000)), PutReply)
    monkeypatch.setattr(limits, "REQUEST_BYTES_IN_FLIGHT_MAX", 2_500)
    for _ in range(2):
        c.request(A, Get(KEY))
    refused = c.ask(A, Get(KEY))
    assert isinstance(refused, Error) and refused.error == Overloaded.code
    c.settle()
    for _ in range(5):
        assert isinstance(c.ask(A, Get(KEY)), GetReply)


def test_finished_requests_leave_the_heap_of_deadlines() -> None:
    c = Cluster(make_ring(3))
    for _ in range(3_000):
        c.request(A, Get(KEY, 1), budget_ms=600_000)
    coordinator = c.nodes[A].coordinator
    assert coordinator is not None and not coordinator.operations
    assert len(coordinator._deadlines) <= 1_024


def test_acks_of_the_look_do_not_count_as_acks_of_the_write() -> None:
    c = Cluster(make_ring(3))
    number = c.request(A, Put(KEY, b"v", MODE_CONTEXT, b"", b"o" * 16, 2))
    (look,) = {p.number for p in c.wire}
    c.settle()
    assert [type(reply) for request, reply in c.answers if request == number] == [PutReply]
    c.nodes[A].on_reply(0.0, B, look, MergeAck())  # nobody is called so any more
    c.nodes[A].on_reply(0.0, B, look, Error(1, "late"))
