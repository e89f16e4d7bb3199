"""The links that an agent dials, as members come, go, are removed and move to other addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import wraps
from random import Random

import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

from dynagent.agent.peers import Peers
from dynagent.core.messages import ROLE_PEER, Hello, Message
from dynagent.core.ports import NodeId
from dynagent.core.ring import Ring
from dynagent.env import Accept, Handler
from dynagent.errors import Unreachable
from dynagent.wire.registry import VERSION_MAX, VERSION_MIN
from dynagent.wire.session import Session
from tests.core.harness import CLUSTER_ID, IDS, make_ring

A, B, C, D = IDS


def hello(node: NodeId) -> Hello:
    return Hello(VERSION_MIN, VERSION_MAX, ROLE_PEER, CLUSTER_ID, node, bytes(8), [], 1 << 20, 0)


class Wire:
    """One connection; the agent at its other end says Hello as `node`, or nothing."""

    remote, unsent = "there", 0

    def __init__(self, address: str) -> None:
        self.address = address
        self.closed = ""
        self.handler: Handler | None = None

    def write(self, data: bytes) -> None: ...

    def pause(self, *, is_paused: bool) -> None: ...

    def close(self, reason: str) -> None:
        if not self.closed:
            self.closed = reason
            assert self.handler is not None
            self.handler.on_closed(reason)

    drop = close

    def greet(self, node: NodeId) -> None:
        assert self.handler is not None
        self.handler.on_bytes(Session(hello(node), dialled=True).hello())


class Agent:
    """What `Peers` sees of the world; agents are at the address of their id, if there at all."""

    def __init__(self) -> None:
        self.node_id = A
        self.ring: Ring | None = None
        self.registrar = self
        self.boots: dict[NodeId, bytes] = {}
        self.up: list[NodeId] = []
        self.wires: list[Wire] = []
        self.silent: set[str] = set()
        self.refuses: set[str] = set()

    def on_peer_up(self, now: float, node: NodeId) -> None:
        self.up.append(node)

    def on_peer_down(self, now: float, node: NodeId) -> None:
        self.up.remove(node)

    def on_reply(self, now: float, node: NodeId, number: int, message: Message) -> None: ...

    async def dial(self, address: str, accept: Accept) -> Wire:
        await trio.lowlevel.checkpoint()
        if address == "nowhere":
            raise Unreachable(address)
        wire = Wire(address)
        self.wires.append(wire)
        wire.handler = accept(wire)
        if address in self.refuses:
            wire.close("not yet")
        elif address not in self.silent:
            wire.greet(NodeId(address.removesuffix("-2")))
        return wire

    def request_turn(self) -> None: ...

    @property
    def open(self) -> list[str]:
        return sorted(wire.address for wire in self.wires if not wire.closed)


def ring(*, others: int, **fields: object) -> Ring:
    """Of A, B and as many more; each is at an address that is its id."""
    found = make_ring(2, others=others)
    members = tuple(replace(member, address=member.id) for member in found.members)
    return replace(found, members=members, **fields)  # type: ignore[arg-type]


def played(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """In virtual time."""

    @wraps(test)
    def play() -> None:
        trio.run(test, clock=MockClock(autojump_threshold=0))

    return play


@asynccontextmanager
async def linked(first: Ring) -> AsyncIterator[tuple[Agent, Callable[[Ring], Awaitable[None]]]]:
    agent = Agent()
    agent.ring = first
    peers = Peers(agent, agent, lambda: hello(A), trio.current_time, Random(1), 1.0)  # type: ignore[arg-type]

    async def turn_to(ring: Ring) -> None:
        agent.ring = ring
        peers.on_ring(ring)
        await wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        peers.start(nursery, first)
        await wait_all_tasks_blocked()
        yield agent, turn_to
        nursery.cancel_scope.cancel()


@played
async def test_new_members_are_dialled_and_links_to_former_ones_end() -> None:
    async with linked(ring(others=1)) as (agent, turn_to):
        assert agent.open == [B, C]
        await turn_to(ring(others=2))
        assert agent.open == [B, C, D]
        await turn_to(ring(others=0))
        assert (agent.open, agent.up) == ([B], [B])
        await trio.sleep(60)
        assert agent.open == [B]


@played
async def test_a_member_that_has_moved_is_dialled_there() -> None:
    async with linked(ring(others=0)) as (agent, turn_to):
        moved = ring(others=0)
        members = (moved.members[0], replace(moved.members[1], address=f"{B}-2"))
        await turn_to(replace(moved, members=members))
        await trio.sleep(1)
        assert (agent.open, agent.up) == ([f"{B}-2"], [B])


@played
async def test_nobody_is_linked_with_who_was_removed() -> None:
    async with linked(ring(others=1)) as (agent, turn_to):
        await turn_to(ring(others=1, removed=(C,)))
        assert (agent.open, agent.up) == ([B], [B])
        await turn_to(ring(others=1, removed=(A, C)))
        assert (agent.open, agent.up) == ([], [])


@played
async def test_a_link_that_has_not_been_greeted_ends_too() -> None:
    async with linked(ring(others=0)) as (agent, turn_to):
        agent.silent.add(C)
        await turn_to(ring(others=1))
        assert agent.open == [B, C]
        await turn_to(ring(others=0))
        assert agent.open == [B]


@played
async def test_a_link_that_is_closed_instead_of_greeted_is_dialled_again_at_once() -> None:
    async with linked(ring(others=0)) as (agent, turn_to):
        agent.refuses.add(C)
        await turn_to(ring(others=1))
        assert agent.up == [B]
        agent.refuses.clear()
        await trio.sleep(0.2)
        assert agent.up == [B, C]
