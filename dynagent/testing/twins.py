"""Copies of stores that somebody starts beside their originals (`core.registration`).

In a third of the seeds somebody copies the store of a node, with its identity file, and later, when
that node has been started again and all voters have that on record, starts the copy as a second
agent. It speaks to everybody under the id of the original; nobody dials it. Its judge:

    one_of_a_kind   a copy never serves, and asks and tells nobody anything that speaks for a store

The original must not be the one that is refused: `refused_rightly` (simnode.py) sees to that.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynagent import limits
from dynagent.core.logrows import RING_ROW
from dynagent.core.messages import LogReply, LogRequest, Message, Ping, PingFor, Register
from dynagent.core.node import Node
from dynagent.core.ports import Batch, LinkId, NodeId
from dynagent.core.ring import Ring
from dynagent.core.ringcodec import decode_ring
from dynagent.testing.network import Network
from dynagent.testing.simnode import Copy, SimNode
from dynagent.testing.world import World

SHARE = 0.3  # of the seeds
REST_S = 0.7  # between two looks for an opportunity, on average
LIFE_S = 4.0  # until its supervisor gives up
_DISK_S = 0.002
# What a start may say: that it has started, which ring it has, and that it is there.
_SAYS = (Register, LogRequest, LogReply, Ping, PingFor)


class Twins:
    """One copy at a time, while there are faults."""

    def __init__(self, *, world: World, network: Network, nodes: Sequence[SimNode]) -> None:
        self._world = world
        self._network = network
        self._nodes = nodes
        self._dice = world.stream("twins")
        self._copies: dict[NodeId, Copy] = {}
        self._twin: Twin | None = None
        self._count = 0
        self._is_over = True

    def begin(self) -> None:
        if self._dice.random() < SHARE:
            self._is_over = False
            self._rest()

    def end(self) -> None:
        self._is_over = True
        if self._twin is not None:
            self._twin.end()

    def _rest(self) -> None:
        if not self._is_over:
            self._world.after(self._dice.expovariate(1 / REST_S), self._look)

    def _look(self) -> None:
        node = self._dice.choice(self._nodes)
        copy = self._copies.get(node.id)
        is_busy = self._twin is not None and self._twin.life
        if not self._is_over and not is_busy and not node.is_fresh and not node.is_gone:
            if copy is None or self._dice.random() < 0.1:
                self._copies[node.id] = node.copy_store()
            elif copy.run < node.run and node.is_known_to_all:
                self._count += 1
                self._world.fault("twin", node.id[:2])
                self._twin = Twin(self._world, self._network, node.id, copy, self._count)
        self._rest()


class Twin:
    """The process that runs on a copy (`network.Host`); in `life` 1 until it is refused."""

    def __init__(
        self, world: World, network: Network, original: NodeId, copy: Copy, number: int
    ) -> None:
        self.id = NodeId(f"t{number}" + original)
        self.life = 1
        self.is_paused = False
        self._world = world
        self._network = network
        self._dice = world.stream(f"twin {number}")
        self._store = copy.store
        self.boot = self._dice.getrandbits(64).to_bytes(limits.NONCE_BYTES, "big")
        stored = copy.store.get_meta(RING_ROW)
        assert stored is not None
        self._armed = False
        self._is_writing = False
        self.node = Node(
            node_id=original,
            ring=decode_ring(stored),
            reader=self._store,
            effects=self,
            dice=self._dice,
            probe_dice=self._dice,
            gossip_dice=self._dice,
            ring_dice=self._dice,
            wall_ms=lambda: 1_700_000_000_000 + int(world.now * 1000),
            run=copy.run + 1,
            clean_from_run=copy.run + 1,
            starts=(*copy.starts, self.boot)[-limits.STARTS_KEPT :],
        )
        self.node.stand_down = self._stand_down
        network.hosts[self.id] = self
        self.reconnect(self.node.ring)
        network.dial_missing()
        world.after(LIFE_S, self.end)
        self._turn()

    def end(self) -> None:
        if self.life:
            self.life = 0
            self._network.on_death(self.id, detected_s=(0.001, 0.05))

    def _stand_down(self, refusal: Message) -> None:
        self._world.fault("twin_refused", f"{self.node.node_id[:2]} {refusal}")
        self._world.after(0.0, self.end)

    def _judge(self, what: str, holds: bool = True) -> None:
        holds = holds and not self.node.serves_as
        self._world.verdicts.check("one_of_a_kind", holds, self.node.node_id, what)

    # --- what the network brings -----------------------------------------------------------------

    def knows(self, peer: NodeId) -> bool:
        ring = self.node.ring
        return ring is not None and peer != self.node.node_id and ring.member(peer) is not None

    def on_request(self, link: LinkId, request_id: int, budget_ms: int, message: Message) -> None:
        raise AssertionError("nobody dials a copy")

    def on_reply(self, source: NodeId, request_id: int, message: Message) -> None:
        if self.life:
            self.node.on_reply(self._world.now, source, request_id, message)
            self._turn()

    def on_peer_up(self, peer: NodeId) -> None:
        if self.life:
            self.node.on_peer_up(self._world.now, peer)
            self._turn()

    def on_peer_down(self, peer: NodeId) -> None:
        if self.life:
            self.node.on_peer_down(self._world.now, peer)
            self._turn()

    # --- its disk and its timer ------------------------------------------------------------------

    def _turn(self) -> None:
        self._judge("serves")
        if not self._is_writing and (batch := self.node.take_batch()) is not None:
            self._is_writing = True
            self._world.after(_DISK_S, self._written, batch)
        deadline = self.node.next_deadline()
        if deadline is not None and not self._armed:
            self._armed = True
            self._world.after(max(0.0, deadline - self._world.now) + 0.001, self._tick)

    def _written(self, batch: Batch) -> None:
        if self.life:
            self._is_writing = False
            self._store.write(batch)
            self.node.on_committed(self._world.now, batch)
            self._turn()

    def _tick(self) -> None:
        if self.life:
            self._armed = False
            self.node.on_tick(self._world.now)
            self._turn()

    # --- Effects ---------------------------------------------------------------------------------

    def send(
        self, targets: Sequence[NodeId], request_id: int, budget_ms: int, message: Message
    ) -> None:
        self._judge(f"sends {message}", isinstance(message, _SAYS))
        for target in targets:
            self._network.request(self.id, target, request_id, budget_ms, message)

    def answer(self, link: LinkId, request_id: int, message: Message) -> None:
        raise AssertionError("nobody asks a copy")

    def adopt(self, ring: bytes, link: LinkId, request_id: int) -> None:
        raise AssertionError("it has a ring")

    def reconnect(self, ring: Ring | None) -> None:
        members = ring.members if ring is not None else ()
        others = frozenset(m.id for m in members if m.id != self.node.node_id)
        self._network.reconnect(self.id, others)

    def note(self, event: str, **fields: object) -> None:
        if self._world.trace is not None:
            self._world.log(f"{self.id} notes {event} {fields}")
