"""One pass over one fenced source of a partition that this node gains (`core.transfer`).

    our tree is empty ──▶ all of it, page by page
    else: sift, level by level ──▶ leaves that differ ─┬─ we have little there ──▶ whole leaves
                                                       └─ else ──▶ keys and digests, then records
    … the last page merged and durable: the pass is over, nothing left ──▶ told

A pass has no position that would have to survive: what is here already is in our tree, which is
right after every crash (`core.sums`). So after a crash, a lost link or another source's death a new
pass goes on where the old one was, leaf by leaf, and the second source of a partition costs little
more than the hashes of its tree.

What holds:

- Every record that the source held at its fence is here when the pass is over, or it is among
  `excepted`: the source has no sound copy of it.
- Records come in through the one door, under the purge barrier under which they were read.
- One message of a pass is under way at a time; each waits for the background budget (design §8).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.counterpart import first_keys, hashes
from dynagent.core.entry import decode_entry
from dynagent.core.merkle import ARITY
from dynagent.core.messages import (
    PULL_RECORDS,
    PULL_ROWS,
    Error,
    Message,
    Pull,
    PullReply,
    Sift,
    SiftReply,
)
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.question import ask
from dynagent.core.ring import Stamp, token_of
from dynagent.core.wait import Wait
from dynagent.errors import DiskFull, Overloaded, ProtocolError, StaleBarrier


class Figures:
    """What has been copied of a partition."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0  # keys and contents of these records


class Pass:
    """`on_end` is told once: with "" when it is over, or with what has gone wrong."""

    def __init__(
        self,
        coordinator: Coordinator,
        partition: PartitionId,
        stamp: Stamp,
        source: NodeId,
        figures: Figures,
        on_end: Callable[[float, Pass, str], None],
    ) -> None:
        self.partition = partition
        self.source = source
        self.excepted: set[bytes] = set()  # keys of which the source has no sound copy
        self.due = inf  # when `go_on` is to be called again
        self.is_over = False
        self._coordinator = coordinator
        self._replica = coordinator.replica
        self._stamp = stamp
        self._figures = figures
        self._on_end = on_end
        self._is_asking = False
        self._reply: PullReply | None = None  # held back: our open batch is full
        self._stale = 0  # pages that were read under too old a barrier, one after the other
        # What is left to do, in this order: sift, whole leaves, keys of leaves.
        self._sift: tuple[int, list[int]] | None = None  # level, nodes
        self._is_all = False  # the partition from end to end
        self._whole: list[int] = []  # leaves
        self._listed: list[int] = []  # leaves
        self._wanted: list[bytes] = []  # keys of them whose records differ
        self._after = b""
        self._plan()

    def _plan(self) -> None:
        forest, partition = self._replica.forest, self.partition
        if partition not in forest.partitions:
            self._listed = list(range(forest.leaves))
        elif not forest.counts(partition) and forest.root(partition):
            self._is_all = True
        else:
            self._sift = (0, [0])

    def stop(self) -> None:
        """Nobody is told any more; what has come is merged nevertheless."""
        self.is_over = True
        self.due = inf

    # --- asking ----------------------------------------------------------------------------------

    def go_on(self, now: float) -> None:
        """Sends the next message, if the budget grants it."""
        if self.is_over or self._is_asking:
            return
        self.due = inf
        if self._reply is not None:
            self._take_page(now, self._reply)
            return
        budget = self._coordinator.budget
        if not budget.grant(now, limits.BACKGROUND_GRANT_BYTES_MIN):
            self.due = budget.next_grant_at(now)
            return
        message = self._next()
        if message is None:
            # What our tree was compared with, and what has come: all of it.
            Wait(self._coordinator, now, self._replica.newest_batch, self._on_durable)
            return
        deadline = now + limits.TRANSFER_ANSWER_S
        if ask(self._coordinator, now, self.source, message, self._on_answer, deadline=deadline):
            self._is_asking = True
        else:  # another source may do as well
            self._end(now, "it is not linked")

    def _next(self) -> Message | None:
        at, forest = self.partition, self._replica.forest
        if self._sift is not None:
            level, nodes = self._sift
            numbers = [at * ARITY**level + node for node in nodes]
            return Sift(*self._stamp, at, level, nodes, hashes(forest, level, numbers))
        if self._is_all:
            return Pull(*self._stamp, at, PULL_RECORDS, [], self._after)
        if self._whole:
            leaves = self._whole[: limits.EXCHANGE_LEAVES_MAX]
            return Pull(*self._stamp, at, PULL_RECORDS, leaves, self._after)
        if self._wanted:
            keys = first_keys(self._wanted, limits.TRANSFER_PAGE_ROWS)
            return Pull(*self._stamp, at, PULL_RECORDS, [], b"", keys)
        if self._listed:
            leaves = self._listed[: limits.EXCHANGE_LEAVES_MAX]
            return Pull(*self._stamp, at, PULL_ROWS, leaves, self._after)
        return None

    def _on_durable(self, now: float, is_durable: bool) -> None:
        if not self.is_over:
            self._end(now, "" if is_durable else "the disk of this agent is full")

    # --- answers ---------------------------------------------------------------------------------

    def _on_answer(self, now: float, source: NodeId, answer: Message | None) -> None:
        if self.is_over:
            return
        self._is_asking = False
        try:
            if answer is None:
                self._end(now, "no answer")
            elif isinstance(answer, Error):
                self._end(now, answer.text)
            elif isinstance(answer, SiftReply) and self._sift is not None:
                self._take_sifted(answer)
                self.go_on(now)
            elif isinstance(answer, PullReply) and self._sift is None:
                self._take_page(now, answer)
            else:
                self._end(now, "it has another ring")  # RingIs: the node sees to that
        except ProtocolError as exc:
            self._coordinator.effects.note("peer.malformed", peer=self.source, reason=exc.message)
            self._end(now, exc.message)

    def _take_sifted(self, reply: SiftReply) -> None:
        assert self._sift is not None
        level, nodes = self._sift
        forest = self._replica.forest
        if not set(reply.differ) <= set(nodes):
            raise ProtocolError("a SiftReply with nodes that were not asked")
        self._sift = None
        if level < forest.levels:
            below = [ARITY * node + child for node in reply.differ for child in range(ARITY)]
            if below:
                self._sift = (level + 1, below)
            return
        if len(reply.counts) != len(reply.differ):
            raise ProtocolError("a SiftReply without a count for each leaf")
        for leaf, theirs in zip(reply.differ, reply.counts, strict=True):
            (self._whole if self._is_cheaper_whole(leaf, theirs) else self._listed).append(leaf)

    def _is_cheaper_whole(self, leaf: int, theirs: int) -> bool:
        """Do our records, which would come a second time, cost less than their keys and digests?"""
        ours = self._replica.forest.leaf(self.partition, leaf)
        if ours is None:
            return False
        figures = self._figures
        mean = figures.bytes / figures.records if figures.records else limits.TRANSFER_RECORD_BYTES
        return ours[0] * mean <= theirs * limits.TRANSFER_ROW_BYTES

    def _take_page(self, now: float, page: PullReply) -> None:
        """Raises `ProtocolError`."""
        self._reply = None
        entries = [decode_entry(entry) for entry in page.entries]
        partition_of = self._replica.barriers.partition_of
        for key, _ in entries:
            if partition_of(token_of(key)) != self.partition:
                raise ProtocolError("a PullReply with a record of another partition")
        if page.position and page.position <= self._after:
            raise ProtocolError("a PullReply that does not move on")
        try:
            self._replica.check_room(now)
            self._replica.merge(entries, barrier=page.barrier)
        except (Overloaded, DiskFull):
            self._reply = page
            self.due = now + limits.TRANSFER_RETRY_S
            return
        except StaleBarrier as exc:  # tombstones were purged meanwhile: it is read again
            self._stale += 1
            if self._stale > limits.TRANSFER_STALE_MAX:
                self._end(now, exc.message)
            else:
                self.due = now + limits.TRANSFER_RETRY_S
            return
        self._stale = 0
        size = sum(len(key) + len(record.content) for key, record in entries)
        self._figures.records += len(entries)
        self._figures.bytes += size
        row_bytes = len(page.rows) * limits.EXCHANGE_ROW_BYTES
        self._coordinator.budget.spend(now, size + row_bytes, len(entries))
        self.excepted.update(page.excepted)
        self._advance(page)
        if len(self.excepted) > limits.TRANSFER_EXCEPTED_MAX:
            self._end(now, "it has too many copies that cannot be read")
        else:
            self.go_on(now)

    def _advance(self, page: PullReply) -> None:
        """Takes what the page has answered from what is left. Raises `ProtocolError`."""
        if self._is_all:
            self._after = page.position
            self._is_all = bool(page.position)
        elif self._whole:
            self._after = page.position
            if not page.position:
                del self._whole[: limits.EXCHANGE_LEAVES_MAX]
        elif self._wanted:
            if not 0 < page.looked_at <= limits.TRANSFER_PAGE_ROWS:
                raise ProtocolError("a PullReply that looked at none of the keys, or at more")
            del self._wanted[: page.looked_at]
        else:
            self._want(page)
            self._after = page.position
            if not page.position:
                del self._listed[: limits.EXCHANGE_LEAVES_MAX]

    def _want(self, page: PullReply) -> None:
        """Of a page of keys: those whose record here is another."""
        for key, digest in page.rows:
            if type(key) is not bytes or type(digest) is not bytes or not key:
                raise ProtocolError("a PullReply with a row that is none")
            if not digest:
                self.excepted.add(key)
                continue
            ours = self._replica.newest(key, token_of(key))
            if ours.unknown or not ours.value.clock or ours.digest != digest:
                self._wanted.append(key)

    def _end(self, now: float, problem: str) -> None:
        self.stop()
        self._on_end(now, self, problem)
