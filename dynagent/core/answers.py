"""What anybody asks of the node itself: whether it is there, its ring, its state, its gossip.

Each of these is answered within the call, from what the node knows by now; none waits for a disk or
a peer, except for an indirect ping (`core.detector`) and the adoption of the first ring.
"""

from __future__ import annotations

from dynagent.core.inspect import status_document
from dynagent.core.messages import (
    DrainOrder,
    Facts,
    Gossip,
    HintOrder,
    Install,
    Installed,
    Invite,
    Message,
    PingFor,
    Pong,
    Propose,
    RingIs,
    RingReply,
    RingRequest,
    StatusReply,
    StatusRequest,
    TransferReply,
    TransferRequest,
)
from dynagent.core.ports import Effects, LinkId, NodeId
from dynagent.core.ring import Ring
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.errors import NotReady, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynagent.core.node import Node


class Answers:
    """The node's handlers of such requests."""

    def __init__(self, node: Node, effects: Effects) -> None:
        self.is_adopting = False  # the first ring is on its way to the disk
        self._node = node
        self._effects = effects

    def on_ping(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        self._effects.answer(link, request_id, Pong())

    def on_ping_for(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, PingFor)
        if self._node.detector is None:
            raise NotReady("this agent belongs to no cluster yet")
        self._node.detector.on_ping_for(now, link, request_id, budget_ms, message.target)

    def on_gossip(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Gossip)
        if self._node.gossip is None:
            raise NotReady("this agent belongs to no cluster yet")
        self._node.gossip.on_gossip(link, request_id, message)

    def on_facts(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Facts)
        if self._node.gossip is None:
            raise NotReady("this agent belongs to no cluster yet")
        self._node.gossip.on_facts(now, link, request_id, message)

    def on_ring_request(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, RingRequest)
        if self._node.ring is None:
            raise NotReady("this agent belongs to no cluster yet; see: dynctl bootstrap")
        if self._node.is_removed:
            raise self._node.removal()  # its ring is the last it knew: others have newer ones
        is_current = message.epoch == self._node.ring.epoch
        ring = b"" if is_current else encode_ring(self._node.ring)
        self._effects.answer(link, request_id, RingReply(self._node.ring.epoch, ring))

    def on_install(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Install)
        ring = decode_ring(message.ring)
        if self._node.ring is not None and self._node.ring != ring:
            raise self._elsewhere(self._node.ring)
        self._join(ring, message.ring, link, request_id)

    def on_invite(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        """What has happened to the ring since it was sent, the ring log tells."""
        assert isinstance(message, Invite)
        ring = decode_ring(message.ring)
        if self._node.ring is not None and self._node.ring.cluster_id != ring.cluster_id:
            raise self._elsewhere(self._node.ring)
        self._join(ring, message.ring, link, request_id)

    def _elsewhere(self, ring: Ring) -> Refused:
        return Refused(f"this agent is already a member of cluster {ring.cluster_id.hex()}")

    def _join(self, ring: Ring, encoded: bytes, link: LinkId, request_id: int) -> None:
        node = self._node
        if node.ring is not None:
            self._effects.answer(link, request_id, Installed())
        elif self.is_adopting:
            raise Refused("this agent is about to join already; repeat the command")
        elif not ring.counts(node.node_id):
            raise Refused(f"the ring does not name this agent ({node.node_id})")
        else:
            self.is_adopting = True
            self._effects.adopt(encoded, link, request_id)

    def on_status_request(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, StatusRequest)
        document = status_document(
            self._node,
            with_facts=message.facts,
            with_tombstones=message.tombstones,
            with_transfers=message.transfers,
        )
        self._effects.answer(link, request_id, StatusReply(document))

    def on_job_request(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        if self._node.jobs is None:
            raise NotReady("this agent belongs to no cluster yet; see: dynctl bootstrap")
        self._node.jobs.on_request(now, link, request_id, budget_ms, message)

    def on_ring_log(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        if self._node.ringlog is None:
            raise NotReady("this agent belongs to no cluster yet; see: dynctl bootstrap")
        if isinstance(message, Propose) and self._node.draining:
            raise NotReady("this agent is stopping")
        self._node.ringlog.on_message(now, link, request_id, budget_ms, message)

    def on_drain_order(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, DrainOrder)
        if self._node.ring is None:
            raise NotReady("this agent belongs to no cluster yet")
        if self._node.stopping and not message.on:
            raise Refused("this agent is stopping; start it again when it has ended")
        self._node.draining = message.on
        self._effects.answer(link, request_id, StatusReply(status_document(self._node)))

    def on_transfer_request(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, TransferRequest)
        ring, transfers = self._node.ring, self._node.transfers
        if ring is None or transfers is None:
            raise NotReady("this agent belongs to no cluster yet")
        if ring.change is None or ring.change.index != message.index:
            self._effects.answer(link, request_id, RingIs(ring.epoch))
        else:
            self._effects.answer(link, request_id, TransferReply(list(transfers.ready())))

    def on_hint_order(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, HintOrder)
        if self._node.ring is None or self._node.delivery is None:
            raise NotReady("this agent belongs to no cluster yet")
        target = NodeId(message.target) if message.target else None
        if target is not None:
            self._node.ring.check_member(target)
        self._node.delivery.order(now, message.action, target)
        self._effects.answer(link, request_id, StatusReply(status_document(self._node)))
