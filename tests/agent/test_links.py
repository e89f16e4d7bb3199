"""Accepted connections without a network: who stays silent, who comes too many, and
who sends more than its share."""

from __future__ import annotations

import random
from math import inf

import pytest

from dynagent import limits
from dynagent.agent.links import AcceptedLink, Links
from dynagent.core.messages import ROLE_CLIENT, ROLE_PEER, Get, Hello, Put
from dynagent.core.node import Node
from dynagent.core.ports import NodeId
from dynagent.store.memory import MemoryStore
from dynagent.wire.codec import encode_frame
from dynagent.wire.session import Session


class Wire:
    """A connection that remembers what was done to it."""

    def __init__(self) -> None:
        self.remote = "somewhere:1"
        self.written = b""
        self.closed = ""
        self.unsent = 0
        self.is_paused = False

    def pause(self, *, is_paused: bool) -> None:
        self.is_paused = is_paused

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self, reason: str) -> None:
        self.closed = reason

    def drop(self, reason: str) -> None:
        self.close(reason)


def hello() -> Hello:
    return Hello(1, 1, 0, b"", "", b"", [], limits.DATA_FRAME_BYTES_MAX, 0)


class House:
    """Links of a node without a cluster, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        node = Node(
            node_id=NodeId("a" * 16),
            ring=None,
            reader=MemoryStore(),
            effects=None,  # type: ignore[arg-type]
            dice=random.Random(1),
            probe_dice=random.Random(1),
            gossip_dice=random.Random(1),
            ring_dice=random.Random(1),
            wall_ms=lambda: 0,
            run=1,
            clean_from_run=1,
        )
        self.links = Links(node, hello, lambda: self.now)

    def accept(self) -> tuple[Wire, AcceptedLink]:
        wire = Wire()
        return wire, self.links.accept(wire)


def test_a_connection_that_never_says_hello_is_closed() -> None:
    house = House()
    silent, _ = house.accept()
    polite, link = house.accept()
    link.on_bytes(Session(hello(), dialled=True).hello())
    reasons = []
    for now in (limits.HELLO_S_MAX, limits.HELLO_S_MAX + 0.1):
        house.links.drop_silent(now)
        reasons.append((silent.closed, polite.closed))
    assert reasons == [("", ""), ("no Hello in time", "")]
    assert polite.written


def test_one_connection_too_many_is_told_so_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 2)
    house = House()
    wires = [house.accept()[0] for _ in range(3)]
    assert [bool(wire.closed) for wire in wires] == [False, False, True]
    assert b"2 connections are open" in wires[2].written


def test_a_closed_connection_is_forgotten() -> None:
    house = House()
    _, link = house.accept()
    link.on_closed("gone")
    assert not house.links.by_id and not house.links.greeting


# --- no more than its share ----------------------------------------------------------------------


class Busy(House):
    """Links whose node answers when the test says so; `seen`: (link, request id, budget ms)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int, int]] = []

        def on_message(
            now: float, link: int, request_id: int, budget_ms: int, message: object
        ) -> None:
            self.seen.append((link, request_id, budget_ms))

        self.links.node.on_message = on_message  # type: ignore[method-assign]

    def client(self, role: int = ROLE_CLIENT) -> tuple[Wire, AcceptedLink]:
        wire, link = self.accept()
        greeting = hello()
        greeting.role = role
        link.on_bytes(Session(greeting, dialled=True).hello())
        self.turn()
        return wire, link

    def turn(self) -> bool:
        is_more = self.links.end_turn()
        self.links.node.admission.end(self.now, None)
        return is_more

    def answer(self, link: AcceptedLink, count: int) -> None:
        for _ in range(count):
            self.links.write(link.id, b"")


def gets(count: int) -> bytes:
    frames = [encode_frame(Get(b"k"), request_id=n, budget_ms=5_000) for n in range(1, count + 1)]
    return b"".join(frames)


@pytest.mark.plain
def test_who_sends_many_requests_at_once_has_some_of_them_taken_in_each_turn() -> None:
    house = Busy()
    wire, greedy = house.client()
    _, modest = house.client()
    most = limits.CONNECTION_REQUESTS_A_TURN
    greedy.on_bytes(gets(2 * most + 5))
    modest.on_bytes(gets(1))
    told = [(house.turn(), wire.is_paused)]
    assert [link for link, _, _ in house.seen].count(greedy.id) == most
    assert (modest.id, 1, 5_000) in house.seen
    told += [(house.turn(), wire.is_paused) for _ in range(2)]
    assert told == [(True, True), (True, True), (False, False)]
    taken = [number for link, number, _ in house.seen if link == greedy.id]
    assert taken == list(range(1, 2 * most + 6))


@pytest.mark.plain
def test_who_has_half_of_all_that_may_wait_is_not_read_until_some_is_answered() -> None:
    house = Busy()
    wire, link = house.client()
    admission = house.links.node.admission
    admission.gets.limit = admission.puts.limit = 20
    admission.gets._ends_at = admission.puts._ends_at = inf  # and so it stays
    admission.begin(0.0)
    link.on_bytes(gets(25))
    assert not house.turn() and wire.is_paused
    assert len(house.seen) == 10
    house.answer(link, 4)
    house.turn()
    assert len(house.seen) == 14 and wire.is_paused


@pytest.mark.plain
def test_who_does_not_read_its_answers_is_not_read_either() -> None:
    house = Busy()
    wire, link = house.client()
    wire.unsent = limits.CONNECTION_OUTBOX_PAUSE_BYTES + 1
    link.on_bytes(gets(3))
    assert not house.turn() and wire.is_paused and not house.seen
    wire.unsent = 0
    house.turn()
    assert len(house.seen) == 3 and not wire.is_paused


@pytest.mark.plain
def test_a_peer_is_always_read() -> None:
    house = Busy()
    wire, link = house.client(ROLE_PEER)
    wire.unsent = limits.OUTBOX_BYTES_MAX
    link.on_bytes(gets(1_000))
    assert not house.turn() and not wire.is_paused
    assert len(house.seen) == 1_000


@pytest.mark.plain
def test_what_waits_of_a_closed_connection_is_not_executed() -> None:
    house = Busy()
    _, link = house.client()
    link.on_bytes(gets(1_000))
    link.on_closed("gone")
    assert not house.turn() and not house.seen


@pytest.mark.plain
def test_requests_read_after_a_stop_have_lost_the_time_of_it() -> None:
    house = Busy()
    _, link = house.client()
    house.links.node.admission.end(0.0, 0.5)
    house.now = 4.0
    link.on_bytes(gets(1))
    house.turn()
    house.now = 5.0
    link.on_bytes(gets(1))
    house.turn()
    assert [budget for _, _, budget in house.seen] == [1_000, 5_000]


@pytest.mark.plain
def test_what_a_full_reading_has_left_in_the_socket_has_lost_it_too() -> None:
    house = Busy()
    _, link = house.client()
    house.links.node.admission.end(0.0, 0.5)
    house.now = 4.0
    one = gets(1)
    value = bytes(limits.RECEIVE_BYTES)  # a put that goes on in the next reading
    put = encode_frame(Put(b"k", value, 0, b"", bytes(16)), request_id=2, budget_ms=5_000)
    data = one + put
    budgets = []
    for piece in (data[: limits.RECEIVE_BYTES], data[limits.RECEIVE_BYTES :], one):
        link.on_bytes(piece)
        house.turn()
        budgets.append(house.seen[-1][2])
    assert budgets == [1_000, 1_000, 5_000]
