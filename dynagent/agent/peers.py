"""Connections that we dial, one to each other member: requests out, replies to the node.

A pair of agents has two connections, one for the requests of each side: nobody has to agree on who
dials, and a link is up exactly while its own dialler says so.

When the ring changes, links to new members are dialled, those to members that are gone end, and who
has another address is dialled there. A member that turns out to be fresh is invited over its link:
whoever was to tell it may have been cut short, and puts wait for it where it is to be an owner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from dynagent import limits
from dynagent.core.messages import Hello, Installed, Invite, Message, ReadReply
from dynagent.core.node import Node
from dynagent.core.ports import Dice, NodeId
from dynagent.core.ring import Member, Ring
from dynagent.core.ringcodec import encode_ring
from dynagent.env import Connection, Transport
from dynagent.errors import DynagentError, Refused, WrongCluster
from dynagent.obs.log import log
from dynagent.wire.codec import encode_frame, unpack
from dynagent.wire.session import Session

_REDIAL_S_MIN = 0.1
_INVITATION = 1 << 62  # the id of that request: no other comes so far


class PeerLink:
    """One dialled connection (`env.Handler`)."""

    __slots__ = (
        "_has_met",
        "_peers",
        "_session",
        "asked_at",
        "closed",
        "connection",
        "decided",
        "greeted",
        "member",
        "reason",
    )

    def __init__(self, peers: Peers, member: Member, connection: Connection) -> None:
        self._peers = peers
        self._session = Session(peers.hello(), dialled=True)
        self.member = member
        self.connection = connection
        self._has_met = False
        self.greeted = trio.Event()  # it serves with a ring
        self.closed = trio.Event()
        self.decided = trio.Event()  # one of the two
        self.reason = ""
        self.asked_at = 0.0  # the first frame that was sent since we heard from it; 0: none
        connection.write(self._session.hello())

    def on_bytes(self, data: bytes) -> None:
        self.asked_at = 0.0
        try:
            frames = self._session.receive(data)
            if self._session.remote is not None and not self._has_met:
                self._has_met = True
                self._greet(self._session.remote)
            for frame in frames:
                message = frame.message
                if frame.request_id == _INVITATION:
                    self._on_invited(message)
                elif message is not None:
                    self._peers.on_reply(self.member.id, frame.request_id, message)
                if type(message) is ReadReply:
                    for request_id, reply in unpack(message):
                        self._peers.on_reply(self.member.id, request_id, reply)
        except WrongCluster as error:
            self.connection.close(f"{self.member.address}: {error.message}")
        except DynagentError as error:
            self.connection.close(error.message)
        except Exception as exc:  # our own bug: it costs this connection, not the agent
            logging.getLogger("dynagent").exception("peer.crashed")
            self.connection.close(f"internal error: {exc}")

    def _greet(self, remote: Hello) -> None:
        if remote.node_id != self.member.id:
            raise Refused(
                f"node {remote.node_id} answers at {self.member.address}, "
                f"where the ring has {self.member.name} ({self.member.id})"
            )
        ring = self._peers.ring()
        if remote.cluster_id or ring.epoch == 1:  # a bootstrap is an operator's to finish
            self._be_up()
        else:
            self._invite(ring)

    def _be_up(self) -> None:
        remote = self._session.remote
        assert remote is not None
        self.greeted.set()
        self.decided.set()
        self._peers.on_up(self, remote.boot_id)

    def _invite(self, ring: Ring) -> None:
        invitation = Invite(encode_ring(ring))
        budget_ms = round(limits.HELLO_S_MAX * 1000)
        self.connection.write(encode_frame(invitation, request_id=_INVITATION, budget_ms=budget_ms))

    def _on_invited(self, reply: Message | None) -> None:
        if not isinstance(reply, Installed):  # somebody else has just invited it, most likely
            raise Refused(f"{self.member.name} has not joined yet")
        self._be_up()

    def on_closed(self, reason: str) -> None:
        self.reason = reason
        self.closed.set()
        self.decided.set()
        self._peers.on_down(self)


class Peers:
    """The links to all other members."""

    def __init__(
        self,
        node: Node,
        transport: Transport,
        hello: Callable[[], Hello],
        monotonic: Callable[[], float],
        dice: Dice,
        redial_s_max: float,
    ) -> None:
        self.hello = hello
        self._node = node
        self._transport = transport
        self._monotonic = monotonic
        self._dice = dice
        self._redial_s_max = redial_s_max
        self._up: dict[NodeId, PeerLink] = {}
        self._kept: dict[NodeId, tuple[Member, trio.CancelScope]] = {}  # and what ends it
        self._nursery: trio.Nursery | None = None

    def start(self, nursery: trio.Nursery, ring: Ring | None) -> None:
        """Keeps a link to every other member from now on; a fresh agent has no ring yet."""
        self._nursery = nursery
        if ring is not None:
            self.on_ring(ring)

    def on_ring(self, ring: Ring) -> None:
        """The members are these; to an agent that is none itself, nobody."""
        assert self._nursery is not None
        own = self._node.node_id
        others = [m for m in ring.members if m.id != own and m.id not in ring.removed]
        wanted = {member.id: member for member in others if ring.counts(own)}
        for node, (member, scope) in list(self._kept.items()):
            if node not in wanted or wanted[node].address != member.address:
                del self._kept[node]
                scope.cancel()
                if (link := self._up.get(node)) is not None:
                    link.connection.close("the ring has changed")
        for node, member in wanted.items():
            if node not in self._kept:
                scope = trio.CancelScope()
                self._kept[node] = member, scope
                self._nursery.start_soon(self._keep_link, member, scope)

    def ring(self) -> Ring:
        """The one that the links are for."""
        assert self._node.ring is not None
        return self._node.ring

    def write(self, node: NodeId, frame: bytes) -> None:
        """Queues a frame; dropped if the link is down (the node has been or will be told)."""
        link = self._up.get(node)
        if link is not None:
            link.asked_at = link.asked_at or self._monotonic()
            link.connection.write(frame)

    def drop_silent(self, now: float) -> bool:
        """Closes links whose other end has not said a word for long, although it was asked: it may
        be gone without notice. They are dialled anew. True if there was one."""
        silent = [
            link
            for link in self._up.values()
            if link.asked_at and now - link.asked_at > limits.LINK_SILENT_S_MAX
        ]
        for link in silent:
            link.connection.drop(f"no answer for {limits.LINK_SILENT_S_MAX:g} s")
        return bool(silent)

    def on_reply(self, node: NodeId, request_id: int, message: Message) -> None:
        self._node.on_reply(self._monotonic(), node, request_id, message)

    def on_up(self, link: PeerLink, boot_id: bytes) -> None:
        self._up[link.member.id] = link
        self._node.registrar.boots[link.member.id] = boot_id
        log(logging.INFO, "peer.up", peer=link.member.name, address=link.member.address)
        self._node.on_peer_up(self._monotonic(), link.member.id)

    def on_down(self, link: PeerLink) -> None:
        if self._up.get(link.member.id) is link:
            del self._up[link.member.id]
            log(logging.WARNING, "peer.down", peer=link.member.name, reason=link.reason)
            self._node.on_peer_down(self._monotonic(), link.member.id)

    async def _keep_link(self, member: Member, scope: trio.CancelScope) -> None:
        with scope:
            await self._redial(member)

    async def _redial(self, member: Member) -> None:
        pause_s = _REDIAL_S_MIN
        last_reason = ""
        while True:
            link = await self._dial(member)
            if isinstance(link, PeerLink):
                await link.closed.wait()
                was_up, reason = link.greeted.is_set(), link.reason
            else:
                was_up, reason = False, link
            if was_up:
                pause_s, last_reason = _REDIAL_S_MIN, ""
            elif reason != last_reason:  # the same reason again is not news
                log(logging.WARNING, "peer.unreachable", peer=member.name, reason=reason)
                last_reason = reason
            # A third of dice keeps agents that lost each other at once from dialling in step.
            await trio.sleep(pause_s * (1 + self._dice.getrandbits(8) / 768))
            pause_s = min(2 * pause_s, self._redial_s_max)

    async def _dial(self, member: Member) -> PeerLink | str:
        """A link that has been greeted or is closed; or why there is none."""
        made: list[PeerLink] = []

        def accept(connection: Connection) -> PeerLink:
            made.append(PeerLink(self, member, connection))
            return made[0]

        try:
            await self._transport.dial(member.address, accept)
        except DynagentError as exc:
            return exc.message
        link = made[0]
        try:
            with trio.move_on_after(limits.HELLO_S_MAX):
                await link.decided.wait()
        except trio.Cancelled:
            link.connection.close("it is wanted no more")
            raise
        if not link.greeted.is_set():
            link.connection.close(link.reason or "no Hello in time")
            self._transport.request_turn()
        return link
