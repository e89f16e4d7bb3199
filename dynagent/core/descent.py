"""The way down: from the roots of two owners' trees to the keys in which they differ.

    roots ──differ──▶ inner nodes ──differ──▶ leaves ──differ──▶ their keys, page by page

One Compare at a time asks for up to a thousand nodes of one level, the deepest ones first; of
roots, for as many as both sides can tell without keeping their clients waiting. One LeafKeys at a
time asks for the keys of some leaves that differ. Both sides make a page of the same
leaves; what both have looked at is compared, and the next page begins there.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from dynagent import limits
from dynagent.core.coordinator import SETTLED
from dynagent.core.counterpart import TOKEN_BYTES, Busy, hashes, leaf_page, roots_at_once
from dynagent.core.merkle import ARITY
from dynagent.core.messages import Compare, CompareReply, LeafKeys, LeafKeysReply
from dynagent.core.ports import NodeId, Token
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring, token_of
from dynagent.core.verdict import Progress
from dynagent.errors import ProtocolError

_NODE_BYTES = 40  # a hash and a number, on the wire


class Suspect:
    """A key whose digests differ; b"": that side has none."""

    __slots__ = ("key", "ours", "partition", "sends", "theirs")

    def __init__(self, key: bytes, partition: int, ours: bytes, theirs: bytes) -> None:
        self.key = key
        self.partition = partition
        self.ours = ours
        self.theirs = theirs
        self.sends = False  # we have news for the peer


class Descent:
    """The trees and leaves of one exchange."""

    def __init__(
        self,
        *,
        replica: Replica,
        ring: Ring,
        node_id: NodeId,
        peer: NodeId,
        progress: Progress,
        busy: Busy,
        prefix: bytes,
    ) -> None:
        self._replica = replica
        self._ring = ring
        self._node_id = node_id
        self._peer = peer
        self._progress = progress
        self._busy = busy
        self._prefix = prefix
        self._stamp = (ring.epoch, SETTLED)
        self._forest = replica.forest
        self._nodes: list[deque[int]] = [deque() for _ in range(self._forest.levels + 1)]
        self._nodes[0].extend(sorted(progress.verdicts))
        self._roots_max = limits.EXCHANGE_NODES_MAX  # of the next Compare: what the peer can tell
        self._leaves: deque[int] = deque()  # that differ, and wait to be listed
        self._listed: list[int] = []  # that are being listed
        self._after = b""  # up to which place they have been

    # --- nodes -----------------------------------------------------------------------------------

    def compare(self) -> Compare | None:
        """The next nodes to compare, if any, and if there is room for what differs."""
        if len(self._leaves) >= limits.EXCHANGE_LEAVES_WAITING_MAX:
            return None
        for level in reversed(range(len(self._nodes))):
            if waiting := self._nodes[level]:
                numbers = self._take_nodes(level, waiting)
                found = hashes(self._forest, level, numbers)
                return Compare(*self._stamp, level, numbers, found, self._node_id)
        return None

    def _take_nodes(self, level: int, waiting: deque[int]) -> list[int]:
        """As many as one message takes; of roots, as many as can be told without a stall."""
        if level == 0:
            count = roots_at_once(self._forest, islice(waiting, self._roots_max))
        else:
            count = min(len(waiting), limits.EXCHANGE_NODES_MAX)
        return [waiting.popleft() for _ in range(count)]

    def on_compared(self, now: float, asked: Compare, reply: CompareReply) -> None:
        """Raises `ProtocolError` if it tells of nodes that were not asked."""
        level, width = asked.level, ARITY**asked.level
        differ, later = set(reply.differ), set(reply.later)
        if not differ.isdisjoint(later) or not differ | later <= set(asked.nodes):
            raise ProtocolError("a CompareReply with nodes that were not asked")
        again = self._ask_again(asked, reply)
        for number in asked.nodes:
            partition = number // width
            self._progress.spend(partition, _NODE_BYTES)
            if number in again:
                continue
            if number in later or (
                level == 0 and number in differ and not self._busy.begin(now, partition, self._peer)
            ):
                self._progress.of(partition).is_later = True
                self._progress.close(now, partition)
            elif number not in differ:
                self._progress.close(now, partition)
            elif level == self._forest.levels:
                self._leaves.append(number)
            else:
                self._progress.open(partition, ARITY - 1)
                self._nodes[level + 1].extend(range(number * ARITY, (number + 1) * ARITY))

    def _ask_again(self, asked: Compare, reply: CompareReply) -> set[int]:
        """Roots that the peer has not looked at come next; no more than it could tell, but twice as
        many each time that it can. Each reply tells of one at least, so this ends, whatever is
        being written."""
        again = set(reply.again)
        if asked.level:
            if again:
                raise ProtocolError("a CompareReply that puts off what is no root")
            return again
        if not again <= set(reply.later) or len(again) == len(asked.nodes):
            raise ProtocolError("a CompareReply that puts off what it should not")
        if again:
            self._roots_max = len(asked.nodes) - len(again)
        else:
            self._roots_max = min(2 * self._roots_max, limits.EXCHANGE_NODES_MAX)
        self._nodes[0].extendleft(number for number in reversed(asked.nodes) if number in again)
        return again

    # --- leaves ----------------------------------------------------------------------------------

    def list_leaves(self) -> LeafKeys | None:
        """The next page of keys, if there are leaves that differ."""
        if not self._listed:
            count = min(len(self._leaves), limits.EXCHANGE_LEAVES_MAX)
            self._listed = sorted(self._leaves.popleft() for _ in range(count))
            self._after = b""
        return LeafKeys(*self._stamp, self._listed, self._after) if self._listed else None

    def on_listed(self, now: float, reply: LeafKeysReply) -> list[Suspect]:
        """Keys that differ, up to the end of the shorter page. Raises `ProtocolError` if the reply
        is no page of these leaves, `CorruptRecord` if our own store cannot be read there."""
        theirs = self._their_rows(reply)
        rows, end, _ = leaf_page(self._replica, self._listed, self._after)
        ours = dict(rows)
        ends = [position for position in (end, reply.position) if position]
        until = min(ends, default=b"")
        suspects = []
        for place in sorted(ours.keys() | theirs.keys()):
            if until and place > until:
                break
            suspect = self._compare_key(place, ours.get(place), theirs.get(place))
            if suspect is not None:
                suspects.append(suspect)
        self._after = until
        if not until:
            for number in self._listed:
                self._progress.close(now, number // self._forest.leaves)
            self._listed = []
        return suspects

    def _their_rows(self, reply: LeafKeysReply) -> dict[bytes, bytes]:
        theirs: dict[bytes, bytes] = {}
        last = self._after
        for row in reply.rows:
            if len(row) < 2 or type(row[0]) is not bytes or type(row[1]) is not bytes:
                raise ProtocolError("a LeafKeysReply with a row that is none")
            place = token_of(row[0]) + row[0]
            if place <= last or self._partition_of(place) is None:
                raise ProtocolError("a LeafKeysReply whose rows are out of place")
            theirs[place] = row[1]
            last = place
        if reply.position and reply.position < last:
            raise ProtocolError("a LeafKeysReply that ends before its last row")
        if reply.position and reply.position <= self._after:
            raise ProtocolError("a LeafKeysReply that does not move on")
        return theirs

    def _compare_key(
        self, place: bytes, ours: bytes | None, theirs: bytes | None
    ) -> Suspect | None:
        """Equal ones, and those that are not asked for, are no suspects; nor are those of which a
        side has no sound copy."""
        key = place[TOKEN_BYTES:]
        partition = self._partition_of(place)
        assert partition is not None
        if theirs is not None:
            size = len(key) + len(theirs)
            self._progress.spend(partition, size, charged=limits.EXCHANGE_ROW_BYTES)
        if not key.startswith(self._prefix):
            return None
        if ours == b"" or theirs == b"":
            self._progress.of(partition).unreadable += 1
            return None
        if ours == theirs:
            return None
        self._progress.open(partition)
        return Suspect(key, partition, ours or b"", theirs or b"")

    def _partition_of(self, place: bytes) -> int | None:
        """None if it is in no partition of this exchange that is still open."""
        partition = self._ring.partition_of(Token(place[:TOKEN_BYTES]))
        return partition if partition in self._progress.verdicts else None
