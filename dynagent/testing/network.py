"""Messages between hosts and clients: delayed, lost, doubled, overtaken, cut off.

Every node dials every other, so each ordered pair has one connection: requests go out on it and
replies come back. It behaves like TCP seen from above, only nastier: single messages may be lost or
doubled. A cut of one direction loses what is sent into it, and what is on the way; both ends go on
believing in the connection until the **detection delay** has passed, then the dialler hears that
the peer is down. When the cut is healed it dials again. The same happens when a process dies.

Two things never happen, because TCP rules them out and the core relies on it: a Put or Get is
never doubled (who sends it again says so: `attempt`), and a reply never reaches another life of
the process that asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from dynagent import limits
from dynagent.core.messages import (
    Compare,
    CompareReply,
    Facts,
    FactsReply,
    Get,
    Gossip,
    GossipReply,
    LeafKeys,
    LeafKeysReply,
    Look,
    LookReply,
    Merge,
    Message,
    Put,
)
from dynagent.core.ports import LinkId, NodeId
from dynagent.testing.brief import brief
from dynagent.testing.profile import Profile
from dynagent.testing.world import Stream, World

Pair = tuple[NodeId, NodeId]  # from, to

# What goes on by itself, beside the requests of clients.
_GOSSIP = (Gossip, GossipReply, Facts, FactsReply)
_EXCHANGE = (Compare, CompareReply, LeafKeys, LeafKeysReply, Look, LookReply)
_RING_CODES = 80  # from there on: the ring log, registration, transfers


class Host(Protocol):
    """A node as the network sees it. `life` is 0 while its process is dead."""

    life: int
    is_paused: bool

    @property
    def boot(self) -> bytes:
        """The nonce of its present start."""

    def knows(self, peer: NodeId) -> bool:
        """Whether that is a member of its ring."""

    def on_request(
        self, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None: ...

    def on_reply(self, source: NodeId, request_id: int, message: Message) -> None: ...

    def on_peer_up(self, peer: NodeId) -> None: ...

    def on_peer_down(self, peer: NodeId) -> None: ...


class Caller(Protocol):
    """A client as the network sees it."""

    name: str

    def on_answer(self, link: LinkId, message: Message) -> None: ...

    def on_lost(self, link: LinkId) -> None: ...


class Connection:
    """From a dialler (a node, or a client's one request) to a target."""

    __slots__ = (
        "broken",
        "caller",
        "dialer",
        "dialer_life",
        "last",
        "link",
        "target",
        "target_life",
    )

    def __init__(self, link: LinkId, dialer: NodeId, target: NodeId) -> None:
        self.link = link
        self.dialer = dialer
        self.target = target
        self.dialer_life = 0
        self.target_life = 0
        self.broken = False
        self.caller: Caller | None = None
        # When the latest message arrives: outward, homeward; the same of gossip, exchanges, ring.
        self.last = [0.0] * 8


class Network:
    """All connections, and what is wrong with them."""

    def __init__(self, world: World, profile: Profile) -> None:
        self.hosts: dict[NodeId, Host] = {}
        self._wanted: dict[NodeId, frozenset[NodeId]] = {}  # whom a host keeps a connection to
        self.cuts: set[Pair] = set()
        self.mutes: set[Pair] = set()  # the same, but nobody's link breaks of it
        self.answered_at: dict[Pair, float] = {}  # when the first one last had one of the second's
        self.loss = profile.loss
        self.duplication = profile.duplication
        self.held = profile.held
        self.hoard: list[tuple[NodeId, NodeId, int, Message]] = []  # Merges that were held back
        self.tail = profile.tail
        self._world = world
        self._profile = profile
        self._dice = world.stream("network")
        self._gossip_dice = world.stream("gossip network")
        self._exchange_dice = world.stream("exchange network")
        self._ring_dice = world.stream("ring network")
        self._held_dice = world.stream("held back")
        self._patience = world.stream("detection")
        self._peers: dict[Pair, Connection] = {}
        self._by_link: dict[LinkId, Connection] = {}
        self._links = 0

    # --- connections -----------------------------------------------------------------------------

    def dial_missing(self) -> None:
        """Everybody tries again to reach whom it misses, a little later."""
        for dialer in self.hosts:
            for target in self.hosts:
                if dialer != target:
                    delay_s = self._patience.uniform(0.002, 0.15)
                    self._world.after(delay_s, self._dial, dialer, target)

    def reconnect(self, dialer: NodeId, wanted: frozenset[NodeId]) -> None:
        """From now on that host keeps connections to these, and to nobody else."""
        before = self._wanted.get(dialer, wanted)
        self._wanted[dialer] = wanted
        for target in sorted(before - wanted):
            if (connection := self._peers.get((dialer, target))) is not None:
                self._world.after(0.0, self._break, connection)
        for target in sorted(wanted - before):
            self._world.after(self._patience.uniform(0.002, 0.15), self._dial, dialer, target)

    def _dial(self, dialer: NodeId, target: NodeId) -> None:
        if target not in self._wanted.get(dialer, self.hosts):
            return
        here, there = self.hosts[dialer], self.hosts[target]
        present = self._peers.get((dialer, target))
        if present is not None and present.dialer_life == here.life:
            return
        if not here.life or not there.life or self._is_cut(dialer, target):
            return  # who heals or starts will have it dialled again
        if not here.knows(target):
            return
        if here.is_paused or there.is_paused or self._is_mute(dialer, target):
            return  # there is no Hello from it
        if present is not None:
            present.broken = True
        connection = self._connect(dialer, target)
        connection.dialer_life, connection.target_life = here.life, there.life
        self._peers[dialer, target] = connection
        self._world.log(f"{dialer[:2]} → {target[:2]} link up")
        here.on_peer_up(target)

    def _connect(self, dialer: NodeId, target: NodeId) -> Connection:
        self._links += 1
        connection = Connection(LinkId(self._links), dialer, target)
        self._by_link[connection.link] = connection
        return connection

    def _break(self, connection: Connection) -> None:
        if connection.broken:
            return
        connection.broken = True
        pair = (connection.dialer, connection.target)
        if self._peers.get(pair) is connection:
            del self._peers[pair]
            host = self.hosts[connection.dialer]
            if host.life == connection.dialer_life:
                self._world.log(f"{pair[0][:2]} → {pair[1][:2]} link down")
                host.on_peer_down(connection.target)
            self._world.after(self._patience.uniform(0.002, 0.15), self._dial, *pair)

    def on_death(self, node: NodeId, *, detected_s: tuple[float, float]) -> None:
        """A process is gone; each other end notices within that time (a client perhaps never)."""
        for link, connection in list(self._by_link.items()):
            if connection.broken or node not in (connection.dialer, connection.target):
                if connection.broken:
                    del self._by_link[link]
                continue
            delay_s = self._patience.uniform(*detected_s)
            if connection.caller is None:
                self._world.after(delay_s, self._break, connection)
            elif self._patience.random() < 0.7:
                self._world.after(delay_s, self._lose, connection)

    def dialer_of(self, link: LinkId) -> NodeId:
        """Who asks on that link."""
        return self._by_link[link].dialer

    def peer_of(self, link: LinkId) -> NodeId | None:
        """The node that asks on that link; None: a client, or a connection that is gone."""
        connection = self._by_link.get(link)
        return connection.dialer if connection is not None and connection.dialer else None

    # --- cuts ------------------------------------------------------------------------------------

    def cut(self, pairs: Iterable[Pair]) -> None:
        """Loses all that is sent from the first to the second of each pair, from now on."""
        self.cuts.update(pairs)
        for pair, connection in self._peers.items():
            if self._is_cut(*pair):
                self._world.after(self._patience.uniform(0.02, 0.7), self._detect, connection)

    def heal(self, pairs: Iterable[Pair]) -> None:
        self.cuts.difference_update(pairs)
        self.dial_missing()

    def _is_cut(self, one: NodeId, other: NodeId) -> bool:
        return (one, other) in self.cuts or (other, one) in self.cuts

    def _is_mute(self, one: NodeId, other: NodeId) -> bool:
        return (one, other) in self.mutes or (other, one) in self.mutes

    def _detect(self, connection: Connection) -> None:
        if self._is_cut(connection.dialer, connection.target):
            self._break(connection)

    # --- messages between nodes ------------------------------------------------------------------

    def request(
        self, dialer: NodeId, target: NodeId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        if self.held and isinstance(message, Merge) and self._held_dice.random() < self.held:
            self._hold(dialer, target, request_id, message)
        connection = self._peers.get((dialer, target))
        if connection is not None:
            self._travel(connection, 0, request_id, budget_ms, message)

    # --- messages that come once more, much later ------------------------------------------------

    def _hold(self, dialer: NodeId, target: NodeId, request_id: int, message: Message) -> None:
        """No connection, process or time bounds how late this Merge may arrive."""
        self.hoard.append((dialer, target, request_id, message))
        delay_s = self._held_dice.choice((0.3, 1.0, 4.0)) * (0.5 + self._held_dice.random())
        self._world.after(delay_s, self.release, dialer, target, request_id, message)

    def release(self, dialer: NodeId, target: NodeId, request_id: int, message: Message) -> None:
        """It arrives; whoever had sent it does not hear of it."""
        host = self.hosts[target]
        if host.life:
            self._world.faults["held"] += 1
            connection = self._connect(dialer, target)
            connection.broken = True
            self._log(connection, 0, request_id, message)
            host.on_request(connection.link, request_id, limits.REPAIR_BUDGET_MS, message)

    def leap(self, seconds: float) -> None:
        """The world has leapt; what is on its way arrives in the same order."""
        for connection in self._by_link.values():
            connection.last = [at + seconds for at in connection.last]

    # --- connections between nodes ---------------------------------------------------------------

    def reply(self, link: LinkId, request_id: int, message: Message) -> None:
        connection = self._by_link.get(link)
        if connection is not None and not connection.broken:
            self._travel(connection, 1, request_id, 0, message)

    def _travel(
        self, connection: Connection, way: int, request_id: int, budget_ms: int, message: Message
    ) -> None:
        world = self._world
        # Gossip, exchanges and the ring have dice and an order of their own: a change of them does
        # not reshuffle all the rest.
        lane, dice = way, self._dice
        if isinstance(message, _GOSSIP):
            lane, dice = way + 2, self._gossip_dice
        elif isinstance(message, _EXCHANGE):
            lane, dice = way + 4, self._exchange_dice
        elif type(message).code >= _RING_CODES:
            lane, dice = way + 6, self._ring_dice
        world.messages += 1
        if connection.caller is None:
            pair = self._ways(connection)[way]
            if pair in self.cuts or pair in self.mutes:
                self._log_lost(connection, way, request_id, message, "cut")
                return
        if self.loss and dice.random() < self.loss:
            world.faults["loss"] += 1
            self._log_lost(connection, way, request_id, message, "lost")
            return
        copies = 1
        if self.duplication and (way or not isinstance(message, Put | Get)):
            copies += dice.random() < self.duplication
            world.faults["duplicate"] += copies - 1
        for _ in range(copies):
            delay_s = self._delay_s(connection, lane, dice)
            world.after(delay_s, self._arrive, connection, way, request_id, budget_ms, message)

    def _delay_s(self, connection: Connection, lane: int, dice: Stream) -> float:
        world, profile = self._world, self._profile
        delay_s = profile.delay_s * (0.5 + dice.random())
        if self.tail and dice.random() < self.tail:
            delay_s += profile.tail_s * dice.random()
            world.faults["delay"] += 1
        arrival = world.now + delay_s
        latest = connection.last[lane]
        if arrival < latest:
            if profile.is_ordered:
                return latest - world.now
            world.faults["reorder"] += 1
        connection.last[lane] = max(arrival, latest)
        return delay_s

    def _arrive(
        self, connection: Connection, way: int, request_id: int, budget_ms: int, message: Message
    ) -> None:
        caller = connection.caller
        if connection.broken or (caller is None and self._ways(connection)[way] in self.cuts):
            self._log_lost(connection, way, request_id, message, "lost with its link")
            return
        host = self.hosts[connection.target]
        if way == 0 and caller is not None and not connection.target_life:
            connection.target_life = host.life  # a client's request opens its own connection
            if not host.life and self._patience.random() < 0.7:
                self._world.after(self._profile.delay_s, self._lose, connection)
        if way == 0 and host.life and host.life == connection.target_life:
            self._log(connection, way, request_id, message)
            host.on_request(connection.link, request_id, budget_ms, message)
        elif way == 1 and caller is not None:
            self._log(connection, way, request_id, message)
            caller.on_answer(connection.link, message)
        elif way == 1 and self.hosts[connection.dialer].life == connection.dialer_life:
            self._log(connection, way, request_id, message)
            self.answered_at[connection.dialer, connection.target] = self._world.now
            self.hosts[connection.dialer].on_reply(connection.target, request_id, message)
        else:
            self._log_lost(connection, way, request_id, message, "nobody there")

    def _ways(self, connection: Connection) -> tuple[Pair, Pair]:
        dialer, target = connection.dialer, connection.target
        return (dialer, target), (target, dialer)

    # --- messages of clients ---------------------------------------------------------------------

    def call(self, caller: Caller, agent: NodeId, budget_ms: int, message: Message) -> LinkId:
        """One request on a connection of its own."""
        connection = self._connect(NodeId(""), agent)
        connection.caller = caller
        self._travel(connection, 0, 1, budget_ms, message)
        return connection.link

    def hang_up(self, link: LinkId) -> None:
        """The client takes no more answers on this connection; its request may still arrive."""
        connection = self._by_link.pop(link, None)
        if connection is not None and connection.target_life:
            connection.broken = True

    def _lose(self, connection: Connection) -> None:
        if not connection.broken and connection.caller is not None:
            connection.broken = True
            connection.caller.on_lost(connection.link)

    # --- the trace -------------------------------------------------------------------------------

    def _log(self, connection: Connection, way: int, request_id: int, message: Message) -> None:
        if self._world.trace is not None:
            self._write(connection, way, request_id, message, "")

    def _log_lost(
        self, connection: Connection, way: int, request_id: int, message: Message, why: str
    ) -> None:
        if self._world.trace is not None:
            self._write(connection, way, request_id, message, f"   ✗ {why}")

    def _write(
        self, connection: Connection, way: int, request_id: int, message: Message, end: str
    ) -> None:
        caller = connection.caller
        dialer = connection.dialer[:2] if caller is None else caller.name
        ends = (dialer, connection.target[:2])
        arrow = f"{ends[way]} {'⇒→'[way]} {ends[1 - way]}"
        self._world.log(f"{arrow} #{request_id} {brief(message)}{end}")


def both_ways(pairs: Iterable[Pair]) -> list[Pair]:
    """Each pair, and its reverse."""
    found = list(pairs)
    return found + [(other, one) for one, other in found]
