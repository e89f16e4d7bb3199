"""Merging what the owners of a partition hold into the keys that have a value: pure.

Each owner sends its records in store order, page by page (`core/listing.py`). A key is **decided**
once `needed` owners have spoken of it: by a row, or by a page that went past its place without one.
What they hold of it is merged by the rule of siblings (a dot stays that nobody knows to be
superseded), and the key is listed if a dot is left. So the verdict is that of a strict quorum read:

- `needed` ≥ N−W+1 owners meet every acknowledged write, so none is missed;
- a delete is a clock without dots, and one owner that knows it outvotes any that missed it.

    n1   a ── b ── d ─────┤ page          `place` of n1: d; all of c is known to be missing there
    n2   a ── c ──┤ page                  `place` of n2: c
                  ▲ decided up to here: a, b, c; d waits for the next page of n2

Only the owner that is behind is asked for its next page, so each holds one page at most. An owner
that fails is replaced by another one from the decided place on; when none is left the partition is
**stuck**. A copy that cannot be read is neither a value nor its absence: its key comes out
*doubtful*, and is for a quorum read to decide.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynagent import limits
from dynagent.core.entry import unflatten
from dynagent.core.messages import List, ListReply
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import token_of
from dynagent.core.siblings import Clock, Dot, join
from dynagent.errors import ProtocolError

TOKEN_BYTES = 16
_END = b"\xff" * (TOKEN_BYTES + limits.KEY_BYTES_MAX + 1)  # behind every place

Copy = tuple[Clock, list[Dot]]  # what one owner holds of a key; ({}, []): nothing


def owners_needed(*, n: int, r: int, w: int) -> int:
    """How many owners decide about a key: as many as a get asks, and enough to meet every write."""
    return max(r, n - w + 1)


def merge_copies(copies: Sequence[Copy]) -> Copy:
    """What is left when nobody knows it to be superseded (`core/siblings.py`), by dots alone."""
    clock, dots = copies[0]
    for their_clock, their_dots in copies[1:]:
        mine, theirs = set(dots), set(their_dots)
        dots = [d for d in dots if d in theirs or d[1] > their_clock.get(d[0], 0)]
        dots += [d for d in their_dots if d not in mine and d[1] > clock.get(d[0], 0)]
        clock = join(clock, their_clock)
    return clock, sorted(dots)


class Listed:
    """A decided key that has a value, or may have one (`doubtful`)."""

    __slots__ = ("clock", "dots", "doubtful", "key", "place")

    def __init__(
        self, place: bytes, *, clock: Clock, dots: list[Dot], doubtful: bool = False
    ) -> None:
        self.place = place  # its token and the key itself
        self.key = place[TOKEN_BYTES:]
        self.clock = clock
        self.dots = dots  # that nobody knows to be superseded
        self.doubtful = doubtful  # too few owners could read their copy


class _Stream:
    """The pages of one owner."""

    __slots__ = ("place", "rows")

    def __init__(self, place: bytes) -> None:
        self.place = place  # all of its rows up to here are known
        self.rows: list[tuple[bytes, Copy | None]] = []  # latest first; None: unreadable


class PartitionMerge:
    """One partition's keys. Ask `next_request`, report with `add_page` or `add_failure`, and take
    what is decided with `take`, until `is_complete` or `is_stuck`.

    `owners`: whom to ask, in this order; `needed`: how many of them decide.
    """

    def __init__(
        self,
        partition: PartitionId,
        *,
        partitions: int,
        owners: Sequence[NodeId],
        needed: int,
        prefix: bytes = b"",
        after: bytes = b"",
    ) -> None:
        self.partition = partition
        self.decided = after  # every key up to this place has been taken
        self._bits = partitions.bit_length() - 1
        self._needed = needed
        self._prefix = prefix
        self._spare = list(owners)
        self._streams: dict[NodeId, _Stream] = {}
        self._fill()

    @property
    def is_complete(self) -> bool:
        return self.decided == _END

    @property
    def is_stuck(self) -> bool:
        """Fewer than the needed owners are left."""
        return not self.is_complete and len(self._streams) < self._needed

    def next_request(self, *, look_max: int = 0) -> tuple[NodeId, List] | None:
        """Whom to ask, and what; None if it is complete or stuck."""
        if self.is_complete or self.is_stuck:
            return None
        node = min(self._streams, key=lambda node: self._streams[node].place)
        after = self._streams[node].place
        return node, List(self.partition, after, self._prefix, look_max)

    def add_page(self, node: NodeId, page: ListReply) -> None:
        """A page of `node`, the answer to the latest request to it; raises `ProtocolError` if it is
        none (then that owner has failed)."""
        stream = self._streams.get(node)
        if stream is None:
            return
        try:
            rows = [self._row(row) for row in page.rows]
            self._check_order(stream.place, [place for place, _ in rows], page.position)
        except ProtocolError:
            self.add_failure(node)
            raise
        stream.rows = rows[::-1] + stream.rows
        stream.place = page.position or _END

    def add_failure(self, node: NodeId) -> None:
        """`node` does not answer: another one takes its place, if there is one."""
        if self._streams.pop(node, None) is not None:
            self._fill()

    def take(self) -> list[Listed]:
        """The keys that have been decided since the last call, in order of their places."""
        if self.is_complete or self.is_stuck:
            return []
        until = min(stream.place for stream in self._streams.values())
        found: list[Listed] = []
        while (place := self._first_place()) is not None and place <= until:
            copies = [_pop(stream, place) for stream in self._streams.values()]
            if (listed := _decide(place, copies)) is not None:
                found.append(listed)
        self.decided = until
        return found

    # --- how -------------------------------------------------------------------------------------

    def _fill(self) -> None:
        while self._spare and len(self._streams) < self._needed:
            self._streams[self._spare.pop(0)] = _Stream(self.decided)

    def _first_place(self) -> bytes | None:
        places = [stream.rows[-1][0] for stream in self._streams.values() if stream.rows]
        return min(places, default=None)

    def _row(self, row: list[object]) -> tuple[bytes, Copy | None]:
        key = row[0] if len(row) >= 3 else None
        if type(key) is not bytes or not 0 < len(key) <= limits.KEY_BYTES_MAX:
            raise ProtocolError("a row of a listing without a key")
        token = token_of(key)
        if int.from_bytes(token[:4], "big") >> (32 - self._bits) != self.partition:
            raise ProtocolError("a row of a listing from another partition")
        if not key.startswith(self._prefix):
            raise ProtocolError("a row of a listing without the prefix")
        clock, dots = dict(unflatten(row[1])), unflatten(row[2])
        return token + key, (clock, dots) if clock else None

    def _check_order(self, after: bytes, places: list[bytes], position: bytes) -> None:
        before = after
        for place in places:
            if place <= before:
                raise ProtocolError("the rows of a listing are not in order")
            before = place
        if position and not (after < position < _END and before <= position):
            raise ProtocolError("a page of a listing that does not move on")


def _pop(stream: _Stream, place: bytes) -> Copy | None:
    if stream.rows and stream.rows[-1][0] == place:
        return stream.rows.pop()[1]
    return {}, []


def _decide(place: bytes, copies: list[Copy | None]) -> Listed | None:
    readable = [copy for copy in copies if copy is not None]
    if len(readable) < len(copies):
        return Listed(place, clock={}, dots=[], doubtful=True)
    clock, dots = merge_copies(readable)
    return Listed(place, clock=clock, dots=dots) if dots else None
