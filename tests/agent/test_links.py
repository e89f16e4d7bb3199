"""Accepted connections without a network: who stays silent, and who comes too many."""

from __future__ import annotations

import random

import pytest

from dynagent import limits
from dynagent.agent.links import AcceptedLink, Links
from dynagent.core.messages import Hello
from dynagent.core.node import Node
from dynagent.core.ports import NodeId
from dynagent.store.memory import MemoryStore
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
            wall_ms=lambda: 0,
            run=1,
            clean_from_run=1,
        )
        self.links = Links(node, hello, lambda: self.now, MemoryStore().read_ahead)

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
