"""Does an owner have all that a former one still holds? And if not, it gets it (`core.former`).

    Sift, level by level ──▶ leaves that differ ──▶ their keys and digests ──▶ versions of the keys
    that differ ──▶ Merges of those of which we have news ──▶ acknowledged: all of it is there

Trees are compared although this node has none of a partition that is not its own: the hashes are
made of the keys and digests of a window of its copies. Whatever is equal was on the owner's disk
when it answered (`core.sources`), and what it has acknowledged is.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.counterpart import first_keys
from dynagent.core.entry import encode_entry
from dynagent.core.merkle import ARITY, Forest, inner_hash, leaf_hash
from dynagent.core.messages import (
    PULL_ROWS,
    PULL_VERSIONS,
    Error,
    Merge,
    MergeAck,
    Message,
    Pull,
    PullReply,
    Sift,
    SiftReply,
)
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.question import ask
from dynagent.core.ring import Stamp, token_of
from dynagent.core.suspects import decode_copy, has_news
from dynagent.errors import ProtocolError


class Window:
    """Some of our copies of a partition, leaf by leaf: whole groups of leaves, so that the nodes
    above them can be compared."""

    def __init__(self, partition: PartitionId, forest: Forest) -> None:
        self.partition = partition
        self.keys: dict[bytes, bytes] = {}  # → digest
        self.leaves: dict[int, list[bytes]] = {}  # → keys
        self.is_whole = False  # all of the partition
        self._forest = forest
        self._sums: dict[int, int] = {}  # of the records of each leaf
        self._width = ARITY ** (forest.levels - 1)  # leaves of a group

    @property
    def is_full(self) -> bool:
        return len(self.keys) >= limits.FORMER_WINDOW_KEYS

    @property
    def groups(self) -> list[int]:
        """The nodes of level 1, as far as the window goes."""
        return sorted({leaf // self._width for leaf in self.leaves})

    def begins_group(self, leaf: int) -> bool:
        """Nothing of that leaf's group is in here."""
        return not self.leaves or leaf // self._width != max(self.leaves) // self._width

    def add(self, leaf: int, key: bytes, digest: bytes) -> None:
        self.keys[key] = digest
        self.leaves.setdefault(leaf, []).append(key)
        self._sums[leaf] = self._sums.get(leaf, 0) + self._forest.record_hash(key, digest)

    def hash_of(self, level: int, node: int) -> bytes:
        """As a tree of just these copies has it."""
        if level < self._forest.levels:
            children = range(ARITY * node, ARITY * (node + 1))
            return inner_hash([self.hash_of(level + 1, child) for child in children])
        return leaf_hash(len(self.leaves.get(node, ())), self._sums.get(node, 0))

    def keep_only(self, covered: set[bytes]) -> None:
        """The others are not to be dropped now."""
        if len(covered) == len(self.keys):
            return
        for leaf, keys in list(self.leaves.items()):
            for key in [key for key in keys if key not in covered]:
                keys.remove(key)
                self._sums[leaf] -= self._forest.record_hash(key, self.keys.pop(key))
            if not keys:
                del self.leaves[leaf]
                del self._sums[leaf]


class Covering:
    """One owner and one window. `on_end` is told once, with "" or with what has gone wrong; then
    `covered` are the keys of which the owner has, durably, all that our copy has seen."""

    def __init__(
        self,
        coordinator: Coordinator,
        window: Window,
        owner: NodeId,
        stamp: Stamp,
        on_end: Callable[[float, Covering, str], None],
    ) -> None:
        self.owner = owner
        self.due = 0.0
        self.covered = set(window.keys)
        self.pushed = 0
        self._coordinator = coordinator
        self._replica = coordinator.replica
        self._window = window
        self._stamp = stamp
        self._on_end = on_end
        self._is_over = False
        # What is left to do: each is a list of its own, done from the last to the first.
        self._sift: tuple[int, list[int]] | None = (
            (0, [0]) if window.is_whole else (1, window.groups)
        )
        self._listed: list[int] = []  # leaves whose keys are to be asked for
        self._after = b""
        self._unlike: dict[bytes, None] = {}  # keys of them that have not been found equal
        self._looked: list[bytes] = []  # keys whose versions are to be asked for
        self._to_push: list[bytes] = []
        self._under_way: list[bytes] = []  # keys that the message under way is about

    def stop(self) -> None:
        self._is_over = True
        self.due = inf

    # --- asking ----------------------------------------------------------------------------------

    def go_on(self, now: float) -> None:
        """Sends the next message, if the budget grants it."""
        if self._is_over or now < self.due:
            return
        budget = self._coordinator.budget
        if not budget.grant(now, limits.BACKGROUND_GRANT_BYTES_MIN):
            self.due = budget.next_grant_at(now)
            return
        message = self._next()
        if message is None:
            self._end(now, "")
            return
        deadline = now + limits.TRANSFER_ANSWER_S
        if ask(self._coordinator, now, self.owner, message, self._on_answer, deadline=deadline):
            self.due = inf
        else:
            self._end(now, "it is not linked")

    def _next(self) -> Message | None:
        at = self._window.partition
        if self._sift is not None:
            level, nodes = self._sift
            hashes = [self._window.hash_of(level, node) for node in nodes]
            return Sift(*self._stamp, at, level, nodes, hashes)
        if self._listed:
            leaves = self._listed[: limits.EXCHANGE_LEAVES_MAX]
            return Pull(*self._stamp, at, PULL_ROWS, leaves, self._after)
        if self._looked:
            self._under_way = first_keys(self._looked, limits.EXCHANGE_ROWS_MAX)
            return Pull(*self._stamp, at, PULL_VERSIONS, [], b"", self._under_way)
        return self._merge()

    def _merge(self) -> Merge | None:
        """A page of records of which we have news."""
        replica = self._replica
        entries: list[list[object]] = []
        self._under_way = []
        size = 0
        while self._to_push and len(entries) < limits.TRANSFER_PAGE_ROWS:
            key = self._to_push.pop()
            record = replica.read(key, token_of(key))
            is_same = not record.unknown and record.digest == self._window.keys[key]
            if not is_same or len(record.content) > limits.RECORD_BYTES_MERGED_MAX:
                self.covered.discard(key)
                continue
            self._under_way.append(key)
            entries.append(encode_entry(key, record))
            size += len(key) + len(record.content)
            if size >= limits.TRANSFER_PAGE_BYTES:
                break
        if not entries:
            return None
        self._coordinator.budget.spend(self._coordinator.now, size, len(entries))
        barrier = replica.barriers.read_under(token_of(self._under_way[0]))
        return Merge(*self._stamp, barrier, entries)

    # --- answers ---------------------------------------------------------------------------------

    def _on_answer(self, now: float, source: NodeId, answer: Message | None) -> None:
        if self._is_over:
            return
        try:
            match answer:
                case None:
                    self._end(now, "no answer")
                    return
                case Error():
                    self._end(now, answer.text)
                    return
                case SiftReply() if self._sift is not None:
                    self._take_sifted(answer)
                case PullReply() if self._listed:
                    self._take_rows(now, answer)
                case PullReply() if self._looked:
                    self._take_versions(now, answer)
                case MergeAck() if self._under_way:
                    self.pushed += len(self._under_way)
                case _:
                    self._end(now, "it has another ring")  # RingIs: the node sees to that
                    return
        except ProtocolError as exc:
            self._coordinator.effects.note("peer.malformed", peer=source, reason=exc.message)
            self._end(now, exc.message)
            return
        self.due = now
        self.go_on(now)

    def _take_sifted(self, reply: SiftReply) -> None:
        assert self._sift is not None
        level, nodes = self._sift
        if not set(reply.differ) <= set(nodes):
            raise ProtocolError("a SiftReply with nodes that were not asked")
        self._sift = None
        levels = self._replica.forest.levels
        if level < levels:
            width = ARITY ** (levels - level - 1)  # leaves of a child
            children = {leaf // width for leaf in self._window.leaves}
            below = sorted(child for child in children if child // ARITY in set(reply.differ))
            if below:
                self._sift = (level + 1, below)
            return
        self._listed = sorted(reply.differ)
        self._unlike = dict.fromkeys(
            key for leaf in self._listed for key in self._window.leaves[leaf]
        )

    def _take_rows(self, now: float, page: PullReply) -> None:
        """Keys with equal digests are covered; the versions of the others are looked at."""
        if page.position and page.position <= self._after:
            raise ProtocolError("a PullReply that does not move on")
        for key, digest in page.rows:
            if type(key) is not bytes or type(digest) is not bytes:
                raise ProtocolError("a PullReply with a row that is none")
            if self._window.keys.get(key) == digest:
                self._unlike.pop(key, None)
        row_bytes = len(page.rows) * limits.EXCHANGE_ROW_BYTES
        self._coordinator.budget.spend(now, row_bytes, 0)
        self._after = page.position
        if not page.position:
            del self._listed[: limits.EXCHANGE_LEAVES_MAX]
            if not self._listed:
                self._looked = list(self._unlike)

    def _take_versions(self, now: float, page: PullReply) -> None:
        asked, copies = self._under_way, page.copies
        if not 0 < len(copies) <= len(asked):
            raise ProtocolError("a PullReply without a copy for any of the keys")
        for key, copy in zip(asked, copies, strict=False):
            theirs = decode_copy(copy)
            ours = self._replica.read(key, token_of(key))
            if theirs is None:
                self.covered.discard(key)  # it is healed there first
            elif has_news(ours.value.clock, ours.value.dots(), theirs[1], theirs[2]):
                self._to_push.append(key)
        del self._looked[: len(copies)]
        self._coordinator.budget.spend(now, len(copies) * limits.EXCHANGE_ROW_BYTES, 0)

    def _end(self, now: float, problem: str) -> None:
        self.stop()
        self._on_end(now, self, problem)
