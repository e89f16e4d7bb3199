"""The sources of a transfer: what an owner does for those that copy its partitions (design §6).

    Fence   raises the minimum stamp of these partitions (`core.stamps`). Answered when that, and
            all that was accepted before it, is on the disk, with where this node stands in the
            purging of tombstones (`core.tombstones`)
    Sift    compares a tree, level by level, as Compare does. Answered when all that our tree speaks
            of is on the disk: whoever drops its own copies because we have them may rely on it
    Pull    a page of keys, of versions or of records: of the whole partition, of some leaves of its
            tree, or of given keys

What holds:

- All are asked under a stamp, and answered only while ours is the same: who has another ring is
  told so (`RingIs`).
- A fence never runs ahead of our log, since it is raised only to a stamp that is ours.
- What is pulled is read after the fence. Copies that are unreadable or unknown are named, and are
  not there; a partition of which records may be missing is no source at all, nor is one in which a
  row lies where it does not belong: somebody's copy is missing then.
- Nothing is kept between two requests; where to go on is the asker's to say.

Records are read on the event loop and cost as much here as there: so a Pull waits until the
background budget of this node grants it (design §8), in a short queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.counterpart import hashes, leaf_page, leaf_ranges, may_travel, versions
from dynagent.core.entry import encode_entry
from dynagent.core.listing import TOKEN_BYTES
from dynagent.core.merkle import ARITY
from dynagent.core.messages import (
    PULL_RECORDS,
    PULL_ROWS,
    PULL_VERSIONS,
    Error,
    Fence,
    FenceReply,
    Message,
    Pull,
    PullReply,
    RingIs,
    Sift,
    SiftReply,
)
from dynagent.core.ports import Effects, LinkId, PartitionId
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring, token_of
from dynagent.core.wait import Wait
from dynagent.errors import (
    BadRequest,
    CorruptRecord,
    DiskFull,
    DynagentError,
    NotReady,
    Overloaded,
    Unhealthy,
)

_PLACE_BYTES_MAX = TOKEN_BYTES + limits.KEY_BYTES_MAX


class _Waiting:
    """A Pull that waits for the budget."""

    __slots__ = ("deadline", "link", "message", "request_id")

    def __init__(self, deadline: float, link: LinkId, request_id: int, message: Pull) -> None:
        self.deadline = deadline
        self.link = link
        self.request_id = request_id
        self.message = message


class Sources:
    """The node's handlers of `Fence`, `Sift` and `Pull`. `coordinator` is None before the ring."""

    def __init__(self, replica: Replica, effects: Effects) -> None:
        self.coordinator: Coordinator | None = None
        self.records = 0  # given to others since the start
        self.bytes = 0  # of them
        self._replica = replica
        self._effects = effects
        self._waiting: deque[_Waiting] = deque()
        self._due = inf

    def on_ring(self, now: float, ring: Ring) -> None:
        """What waits is looked at anew when its turn comes."""

    # --- fences ----------------------------------------------------------------------------------

    def on_fence(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Fence)
        stamp = (message.stamp_change, message.stamp_phase)
        partitions = [PartitionId(at) for at in message.partitions]
        if len(partitions) > limits.TRANSFER_PARTITIONS_MAX:
            raise BadRequest(f"over {limits.TRANSFER_PARTITIONS_MAX:,} partitions in one Fence")
        coordinator = self._owning(partitions)
        if self._has_other_ring(link, request_id, coordinator, partitions, stamp):
            return
        self._replica.check_room(now)
        number = self.fence(partitions, stamp)

        def answer(now: float, is_durable: bool) -> None:
            if is_durable:
                self._effects.answer(link, request_id, self.standing(partitions))
            else:
                full = DiskFull("the disk of this owner is full")
                self._effects.answer(link, request_id, Error(full.code, full.message))

        Wait(coordinator, now, number, answer)

    def fence(self, partitions: Sequence[PartitionId], stamp: tuple[int, int]) -> int:
        """Returns the batch that makes it, and all that was accepted before it, durable."""
        number = self._replica.newest_batch
        for partition in partitions:
            number = self._replica.fence(partition, stamp)
        return number

    def standing(self, partitions: Sequence[PartitionId]) -> FenceReply:
        """Where this node stands: what a new owner takes over, and how much there is to copy."""
        barriers, forest = self._replica.barriers, self._replica.forest
        has_tree = set(forest.partitions)
        return FenceReply(
            [barriers.standing(at) for at in partitions],
            [barriers.closed(at) for at in partitions],
            [forest.counts(at) if at in has_tree else 0 for at in partitions],
        )

    # --- trees -----------------------------------------------------------------------------------

    def on_sift(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Sift)
        partition, forest = PartitionId(message.partition), self._replica.forest
        coordinator = self._owning([partition])
        stamp = (message.stamp_change, message.stamp_phase)
        if self._has_other_ring(link, request_id, coordinator, [partition], stamp):
            return
        level, width = message.level, ARITY**message.level
        if level > forest.levels or len(message.nodes) != len(message.hashes):
            raise BadRequest("a Sift of no level of the trees, or without a hash for each node")
        if len(message.nodes) > width or any(node >= width for node in message.nodes):
            raise BadRequest(f"level {level} of a tree has {width} nodes")
        numbers = [partition * width + node for node in message.nodes]
        ours = hashes(forest, level, numbers)
        differ = [
            node
            for node, our, their in zip(message.nodes, ours, message.hashes, strict=True)
            if our != their or not our
        ]
        counts: list[int] = []
        if level == forest.levels:
            known = [forest.leaf(partition, leaf) for leaf in differ]
            counts = [leaf[0] if leaf is not None else 0 for leaf in known]

        def answer(now: float, is_durable: bool) -> None:
            if is_durable:
                self._effects.answer(link, request_id, SiftReply(differ, counts))
            else:
                full = DiskFull("the disk of this owner is full")
                self._effects.answer(link, request_id, Error(full.code, full.message))

        Wait(coordinator, now, self._replica.newest_batch, answer)

    # --- records ---------------------------------------------------------------------------------

    def on_pull(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Pull)
        coordinator = self._owning([PartitionId(message.partition)])
        stamp = (message.stamp_change, message.stamp_phase)
        partition = PartitionId(message.partition)
        if self._has_other_ring(link, request_id, coordinator, [partition], stamp):
            return
        self._check_shape(message)
        if not self._waiting and self._grants(now, coordinator):
            self._answer_pull(now, coordinator, link, request_id, message)
        elif len(self._waiting) < limits.TRANSFER_PULLS_WAITING_MAX:
            deadline = now + budget_ms / 1000
            self._waiting.append(_Waiting(deadline, link, request_id, message))
            self._due = coordinator.budget.next_grant_at(now)
        else:
            raise Overloaded("too many transfers wait for this agent's background budget")

    @property
    def due(self) -> float:
        """When `on_tick` is; infinite if no Pull waits."""
        return self._due if self._waiting else inf

    def on_tick(self, now: float) -> None:
        coordinator = self.coordinator
        if coordinator is None or now < self._due:
            return
        while self._waiting:
            waiting = self._waiting[0]
            if now < waiting.deadline:
                if not self._grants(now, coordinator):
                    self._due = coordinator.budget.next_grant_at(now)
                    return
                self._resume(now, coordinator, waiting)
            else:  # each request has an answer, though nobody waits for this one any more
                late = Overloaded("this agent's background budget had nothing for it in time")
                error = Error(late.code, late.message)
                self._effects.answer(waiting.link, waiting.request_id, error)
            self._waiting.popleft()
        self._due = inf

    def _resume(self, now: float, coordinator: Coordinator, waiting: _Waiting) -> None:
        """The ring may have changed while it waited."""
        message = waiting.message
        partition, stamp = (
            PartitionId(message.partition),
            (message.stamp_change, message.stamp_phase),
        )
        link, request_id = waiting.link, waiting.request_id
        try:
            self._owning([partition])
            if not self._has_other_ring(link, request_id, coordinator, [partition], stamp):
                self._answer_pull(now, coordinator, link, request_id, message)
        except DynagentError as error:
            self._effects.answer(link, request_id, Error(error.code, error.message))

    def _grants(self, now: float, coordinator: Coordinator) -> bool:
        return coordinator.budget.grant(now, limits.BACKGROUND_GRANT_BYTES_MIN) > 0

    def _answer_pull(
        self, now: float, coordinator: Coordinator, link: LinkId, request_id: int, pull: Pull
    ) -> None:
        partition = PartitionId(pull.partition)
        replica = self._replica
        replica.unknown.check_whole(partition)
        try:
            if pull.want == PULL_ROWS:
                reply, size, records = self._rows(partition, pull)
            elif pull.want == PULL_VERSIONS:
                reply, size, records = self._versions(pull.keys)
            elif pull.keys:
                reply, size, records = self._given(pull.keys)
            else:
                reply, size, records = self._page(partition, pull)
        except CorruptRecord as exc:
            raise Unhealthy(f"partition {partition} cannot be read on this agent: {exc}") from exc
        first, _ = replica.barriers.range_of(partition)
        reply.barrier = replica.barriers.read_under(first)  # all of it was read in this call
        if records:
            self.records += records
            self.bytes += size
        coordinator.budget.spend(now, size, records)
        self._effects.answer(link, request_id, reply)

    def _page(self, partition: PartitionId, pull: Pull) -> tuple[PullReply, int, int]:
        """Records behind a place."""
        forest, survey = self._replica.forest, self._replica.survey
        ranges = [self._replica.barriers.range_of(partition)]
        if pull.leaves:
            numbers = [partition * forest.leaves + leaf for leaf in pull.leaves]
            ranges = leaf_ranges(forest, numbers)
        entries: list[list[object]] = []
        excepted: list[bytes] = []
        size = 0
        for first, last in ranges:
            if pull.after[:TOKEN_BYTES] > last:
                continue
            for token, key, record in survey.sound(first, last, pull.after):
                if may_travel(record):
                    entries.append(encode_entry(key, record))
                    size += len(key) + len(record.content)
                elif record.unknown or record.value.clock:
                    excepted.append(key)
                if (
                    size >= limits.TRANSFER_PAGE_BYTES
                    or len(entries) + len(excepted) >= limits.TRANSFER_PAGE_ROWS
                ):
                    reply = PullReply(token + key, 0, 0, [], [], entries, excepted)
                    return reply, size, len(entries)
        return PullReply(b"", 0, 0, [], [], entries, excepted), size, len(entries)

    def _given(self, keys: Sequence[bytes]) -> tuple[PullReply, int, int]:
        """The records of these keys; of one that is not there, nothing."""
        entries: list[list[object]] = []
        excepted: list[bytes] = []
        size = looked_at = 0
        keys = keys[: limits.TRANSFER_PAGE_ROWS]
        self._replica.read_ahead(keys)
        for key in keys:
            record = self._replica.read(key, token_of(key))
            looked_at += 1
            if may_travel(record):
                entries.append(encode_entry(key, record))
                size += len(key) + len(record.content)
            elif record.unknown or record.value.clock:
                excepted.append(key)
            if size >= limits.TRANSFER_PAGE_BYTES:
                break
        reply = PullReply(b"", looked_at, 0, [], [], entries, excepted)
        return reply, size, len(entries)

    def _rows(self, partition: PartitionId, pull: Pull) -> tuple[PullReply, int, int]:
        leaves = self._replica.forest.leaves
        numbers = [partition * leaves + leaf for leaf in pull.leaves]
        rows, position, looked = leaf_page(self._replica, numbers, pull.after)
        named: list[list[object]] = [[place[TOKEN_BYTES:], digest] for place, digest in rows]
        read_bytes = looked // limits.EXCHANGE_READ_CHEAPER
        size = max(read_bytes, limits.EXCHANGE_ROW_BYTES * len(rows))
        return PullReply(position, 0, 0, named), size, 0

    def _versions(self, keys: Sequence[bytes]) -> tuple[PullReply, int, int]:
        copies, size = versions(self._replica, keys)
        size = max(size, limits.EXCHANGE_ROW_BYTES * len(copies))
        return PullReply(b"", len(copies), 0, [], copies), size, 0

    # --- what came over the wire -----------------------------------------------------------------

    def _owning(self, partitions: Sequence[PartitionId]) -> Coordinator:
        """Raises `NotReady`, or `BadRequest` if this node is no owner of one of them."""
        coordinator = self.coordinator
        if coordinator is None:
            raise NotReady("this agent belongs to no cluster yet")
        for partition in partitions:
            coordinator.ring.check_partition(partition)
        return coordinator

    def _has_other_ring(
        self,
        link: LinkId,
        request_id: int,
        coordinator: Coordinator,
        partitions: Sequence[PartitionId],
        stamp: tuple[int, int],
    ) -> bool:
        """Tells an asker whose ring is another. Raises `BadRequest` if it is the same, and this
        node no owner under it."""
        ring, own = coordinator.ring, coordinator.node_id
        if any(ring.stamps[partition] != stamp for partition in partitions):
            self._effects.answer(link, request_id, RingIs(ring.epoch))
            return True
        for partition in partitions:
            if own not in ring.lists[partition]:
                raise BadRequest(f"partition {partition} is not of this agent")
        return False

    def _check_shape(self, pull: Pull) -> None:
        leaves = pull.leaves
        if pull.want not in (PULL_ROWS, PULL_VERSIONS, PULL_RECORDS):
            raise BadRequest(f"a Pull of {pull.want}")
        if sorted(set(leaves)) != leaves or len(leaves) > limits.EXCHANGE_LEAVES_MAX:
            raise BadRequest(f"leaves in no order, or over {limits.EXCHANGE_LEAVES_MAX} of them")
        if leaves and leaves[-1] >= self._replica.forest.leaves:
            raise BadRequest(f"a tree has {self._replica.forest.leaves} leaves")
        if pull.want == PULL_ROWS and not leaves:
            raise BadRequest("a Pull of keys names no leaves")
        if len(pull.keys) > limits.EXCHANGE_ROWS_MAX or (
            pull.want == PULL_VERSIONS and not pull.keys
        ):
            raise BadRequest(f"a Pull of 1 to {limits.EXCHANGE_ROWS_MAX} keys was expected")
        of = self._replica.barriers.partition_of
        if any(of(token_of(key)) != pull.partition for key in pull.keys):
            raise BadRequest("a Pull of keys that are not of its partition")
        if pull.after and not TOKEN_BYTES < len(pull.after) <= _PLACE_BYTES_MAX:
            raise BadRequest("not a place: a token of 16 bytes and a key")
