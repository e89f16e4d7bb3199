"""What the driver of a purge (`core.purge`) asks of the others, and of its own node.

Nothing is remembered between two of these messages, and each may come late, or again: a move says
that all that may hold copies stand before that barrier, a closing that they stand there, a purge
that all owners hold the tombstone settled. These stay true for good, for barriers only grow and an
owner's copy says itself whether it has changed. An answer that tells of the disk waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dynagent import limits
from dynagent.core.coordinator import SETTLED, Coordinator
from dynagent.core.hints import DURABLE
from dynagent.core.messages import (
    BarrierMove,
    BarrierReply,
    BarrierRequest,
    MergeAck,
    Message,
    Purge,
    RingIs,
    TombstoneQuery,
    TombstoneReply,
)
from dynagent.core.ports import Effects, LinkId, NodeId, PartitionId
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring, token_of
from dynagent.core.tombstones import is_tombstone, may_move
from dynagent.errors import BadRequest, NotReady, ProtocolError

DIFFERS, HELD, HELD_LATER = 0, 1, 2  # the states of a TombstoneReply

Row = tuple[bytes, bytes, int]  # key, digest, barrier


class PurgeAnswers:
    """The node's handlers of these messages. `coordinator` is None before the bootstrap."""

    def __init__(self, replica: Replica, effects: Effects) -> None:
        self.coordinator: Coordinator | None = None
        self._replica = replica
        self._effects = effects

    def on_barrier_request(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, BarrierRequest)
        if not self._has_our_ring(link, request_id, message):
            return
        partitions = self._check_partitions(message.partitions)
        self._effects.answer(link, request_id, self.tell(partitions))

    def on_barrier_move(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, BarrierMove)
        if not self._has_our_ring(link, request_id, message):
            return
        partitions = self._check_partitions(message.partitions)
        if any(at in self._ring.moves for at in partitions):
            raise BadRequest("partitions that move have no barriers to move to")
        if len(message.barriers) != len(partitions):
            raise BadRequest("a BarrierMove whose partitions and barriers differ in number")
        self._replica.check_room(now)
        orders = zip(partitions, message.barriers, strict=True)
        batch = self.close(orders) if message.closes else self.move(orders)
        self._acknowledge(link, request_id, batch)

    def on_tombstone_query(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, TombstoneQuery)
        if not self._has_our_ring(link, request_id, message):
            return
        states = bytes(map(self.state_of, self._owned_rows(message.rows)))
        self._effects.answer(link, request_id, TombstoneReply(states))

    def on_purge(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Purge)
        if not self._has_our_ring(link, request_id, message):
            return
        rows = self._owned_rows(message.rows)
        self._replica.check_room(now)
        self._acknowledge(link, request_id, self.purge(rows))

    # --- the same, for our own driver ------------------------------------------------------------

    def tell(self, partitions: Sequence[PartitionId]) -> BarrierReply:
        """Where this node stands, and where it cannot move."""
        barriers = self._replica.barriers
        guest = [partition for partition in partitions if not barriers.owns(partition)]
        holding = self._replica.survey.holding(guest) if guest else set()
        void: list[int] = [at for at in partitions if barriers.is_void(at)]
        return BarrierReply([barriers.standing(at) for at in partitions], sorted(holding), void)

    def move(self, moves: Iterable[tuple[PartitionId, int]]) -> int:
        """Moves where it may; returns the batch that makes it durable, and earlier moves too."""
        barriers, replica = self._replica.barriers, self._replica
        moves = [(partition, to) for partition, to in moves if barriers.newest(partition) < to]
        holding = replica.survey.holding(at for at, _ in moves if not barriers.owns(at))
        for partition, to in moves:
            owns, holds = barriers.owns(partition), partition in holding
            if may_move(barriers.newest(partition), to, owns=owns, holds=holds):
                replica.move(partition, to)
            elif barriers.newest(partition) < to - 1:
                # This node's store is not the one that stood there: somebody has put back an old
                # one. Nothing of that partition can be purged any more.
                self._effects.note(
                    "barrier.behind", partition=partition, at=barriers.newest(partition), asked=to
                )
        return barriers.newest_batch

    def close(self, closings: Iterable[tuple[PartitionId, int]]) -> int:
        """Refuses what is older, where this node has moved; returns the batch, as `move`."""
        for partition, barrier in closings:
            if self._replica.barriers.newest(partition) >= barrier:
                self._replica.close(partition, barrier)
        return self._replica.barriers.newest_batch

    def state_of(self, row: Row) -> int:
        key, digest, barrier = row
        token, replica = token_of(key), self._replica
        record = replica.newest(key, token)
        if not is_tombstone(record) or record.digest != digest:
            return DIFFERS
        is_closed = replica.barriers.closed(replica.barriers.partition_of(token)) >= barrier
        is_durable = replica.batch_of(key) == DURABLE
        is_held = is_closed and is_durable and replica.is_settled(record, barrier)
        return HELD if is_held else HELD_LATER

    def purge(self, rows: Iterable[Row]) -> int:
        """Drops those that are as they were; returns the batch that makes it durable."""
        wait_for, replica = DURABLE, self._replica
        for key, digest, barrier in rows:
            token = token_of(key)
            if replica.barriers.closed(replica.barriers.partition_of(token)) >= barrier:
                wait_for = max(wait_for, replica.purge(key, token, digest, barrier))
        return wait_for

    # --- what came over the wire -----------------------------------------------------------------

    def _acknowledge(self, link: LinkId, request_id: int, batch: int) -> None:
        if not self._replica.when_durable(batch, (link, request_id)):
            self._effects.answer(link, request_id, MergeAck())

    def _has_our_ring(
        self,
        link: LinkId,
        request_id: int,
        message: BarrierRequest | BarrierMove | TombstoneQuery | Purge,
    ) -> bool:
        """False if the driver's ring is another: that is answered here. Raises `NotReady`."""
        ring = self._ring
        if (message.stamp_change, message.stamp_phase) != (ring.epoch, SETTLED):
            self._effects.answer(link, request_id, RingIs(ring.epoch))
            return False
        return True

    @property
    def _ring(self) -> Ring:
        if self.coordinator is None:
            raise NotReady("this agent belongs to no cluster yet")
        return self.coordinator.ring

    @property
    def _node_id(self) -> NodeId:
        assert self.coordinator is not None
        return self.coordinator.node_id

    def _check_partitions(self, numbers: Sequence[int]) -> list[PartitionId]:
        ring = self._ring
        if len(numbers) > limits.BARRIER_PARTITIONS_MAX:
            raise BadRequest(f"more than {limits.BARRIER_PARTITIONS_MAX} partitions in one message")
        for at in numbers:
            ring.check_partition(at)
            if self._replica.barriers.is_foreign(PartitionId(at)):
                raise NotReady(f"partition {at} is still foreign to this agent")
        return [PartitionId(at) for at in numbers]

    def _owned_rows(self, rows: Sequence[Sequence[object]]) -> list[Row]:
        """Raises `ProtocolError`, or `BadRequest` for a key that is not ours."""
        found: list[Row] = []
        for row in rows:
            if len(row) < 3 or [type(field) for field in row[:3]] != [bytes, bytes, int]:
                raise ProtocolError("a row that is no tombstone's")
            key, digest, barrier = row[:3]
            assert isinstance(key, bytes)
            assert isinstance(digest, bytes)
            assert isinstance(barrier, int)
            if not self._replica.hints.owns(token_of(key)):
                raise BadRequest("a tombstone of a partition that is not of this agent")
            found.append((key, digest, barrier))
        return found
