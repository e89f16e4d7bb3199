"""Listing the keys of a cluster through the blocking client: which owner to ask, and how fast.

    with Client(["127.0.0.1:7411"]) as client:
        keys = client.keys(prefix=b"cart/")
        for listed in keys:
            print(listed.key)

Partition by partition in ring order, in each by token and key: an order that says nothing to people
and never changes. One request is under way at a time; memory does not grow with the number of keys.
The verdict about each key is that of `client/listing.py`. It is no snapshot: each key is looked at
once, at some moment between beginning and end. If the ring changes meanwhile the listing follows:
owners answer only under the stamp that the partition has with them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from dynagent import limits
from dynagent.client.cursor import Cursor, Run, joined
from dynagent.client.listing import Listed, PartitionMerge, owners_needed
from dynagent.core.messages import List, ListReply, RingIs
from dynagent.core.ports import NodeId, PartitionId
from dynagent.errors import DynagentError, ProtocolError, QuorumNotMet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynagent.client.blocking import Client
    from dynagent.core.ring import Member

_AVOIDED_S = 5.0  # an owner that failed is not asked again so soon: each try may cost a time-out
_PAGES_PER_S = 5  # at a low rate pages are small, so that the load is even
_RING_PAUSE_S = 0.05
_RING_TRIES_MAX = 100  # in a row; then an owner whose ring never becomes ours has failed
_TOLD_MAX = 8  # runs of partitions that an error names; the token has them all


class Keys:
    """An iteration over the keys that have a value, one by one or by `pages`.

    At its end it raises `QuorumNotMet` if some partitions could not be listed in full. `token`
    says at any time what is left behind the latest key that is `done`; after that error it names
    exactly what is missing.
    """

    def __init__(
        self, client: Client, *, prefix: bytes | None, resume: bytes, rate: float | None
    ) -> None:
        self._client = client
        self._ring = ring = client.ring()
        self._needed = owners_needed(n=ring.n, r=ring.r, w=ring.w)
        self._cursor = (
            Cursor.decode(resume, ring, prefix) if resume else Cursor.start(ring, prefix or b"")
        )
        self._pace = _Pace(rate)
        self._avoided: dict[NodeId, tuple[float, str]] = {}  # until when, and why
        self._skipped: list[Run] = []  # what could not be listed
        self._problems: dict[str, None] = {}  # and why, each once
        self._left = self._cursor.todo  # what comes after the partition at hand
        self._here: tuple[int, bytes] | None = None  # that partition, and up to where it is done
        self._ring_tries = 0  # answers in a row that were of another ring
        self.copies_unreadable = 0  # too damaged to count; other owners have decided for them

    def __iter__(self) -> Iterator[Listed]:
        """A key is done when the next one is asked for."""
        for page in self.pages():
            for listed in page:
                yield listed
                self.done(listed)

    def pages(self) -> Iterator[list[Listed]]:
        """The keys as they are decided, some at once; a page is done when the next is asked for."""
        while self._left:
            first, last, after = self._left[0]
            rest = [(first + 1, last, b"")] if first < last else []
            left = [*rest, *self._left[1:]]
            # In one statement, here and in _skip: an interrupt must not find half of it.
            self._here, self._left = (first, after), left
            yield from self._partition(PartitionId(first), after)
            self._here = None
        if self._skipped:
            raise QuorumNotMet(self._tell())

    def done(self, listed: Listed) -> None:
        """`token` shall go on behind this key of the latest page."""
        if self._here is not None:
            self._here = (self._here[0], listed.place)

    @property
    def token(self) -> bytes:
        """For `Client.keys(resume=…)`: goes on where this listing is."""
        here = [(self._here[0], self._here[0], self._here[1])] if self._here is not None else []
        return self._cursor.left([*self._skipped, *here, *self._left]).encode()

    # --- one partition ---------------------------------------------------------------------------

    def _partition(self, partition: PartitionId, after: bytes) -> Iterator[list[Listed]]:
        merge = self._merge(partition, after)
        while (asked := merge.next_request(look_max=self._pace.look_max)) is not None:
            try:
                if not self._ask(merge, *asked):
                    continue
            except _RingMoved as moved:  # what is decided stays so; the rest is for other owners
                self._follow(moved.epoch)
                merge = self._merge(partition, merge.decided)
                continue
            page, problem = self._settle(merge.take())
            if page:
                yield page
                self.done(page[-1])
            if problem:
                self._problems[problem] = None
                self._skip()
                return
            if not merge.is_complete:
                self._here = (partition, merge.decided)
        if merge.is_stuck:
            for node in self._owners_avoided(partition):
                self._problems[f"{self._member(node).name}: {self._avoided[node][1]}"] = None
            self._skip()

    def _merge(self, partition: PartitionId, after: bytes) -> PartitionMerge:
        return PartitionMerge(
            partition,
            partitions=self._ring.partitions,
            owners=self._worth_asking(partition),
            needed=self._needed,
            prefix=self._cursor.prefix,
            after=after,
        )

    def _follow(self, epoch: int) -> None:
        """An owner has a ring of that epoch. If it is older than ours it will soon have ours."""
        if epoch > self._ring.epoch and (ring := self._client.ring()).epoch > self._ring.epoch:
            self._ring = ring
        else:
            time.sleep(_RING_PAUSE_S)

    def _ask(self, merge: PartitionMerge, node: NodeId, request: List) -> bool:
        """One page of one owner; False if that owner has failed. Raises `_RingMoved` if it has
        another stamp for the partition than we have."""
        self._pace.wait()
        request.stamp_change, request.stamp_phase = self._ring.stamps[merge.partition]
        try:
            page = self._client.ask(self._member(node).address, request)
            if isinstance(page, RingIs) and self._ring_tries < _RING_TRIES_MAX:
                self._ring_tries += 1
                raise _RingMoved(page.epoch)
            self._ring_tries = 0
            if not isinstance(page, ListReply):
                raise ProtocolError(f"{type(page).__name__} is no page of a listing")
            merge.add_page(node, page)
        except DynagentError as exc:
            why = exc.message.removeprefix(f"{self._member(node).address}: ")
            self._avoided[node] = (time.monotonic() + _AVOIDED_S, why)
            merge.add_failure(node)
            return False
        self._pace.looked_at += page.looked_at / self._needed
        self.copies_unreadable += page.unreadable
        return True

    def _settle(self, found: list[Listed]) -> tuple[list[Listed], str]:
        """The same without doubtful keys: a quorum has decided about each. If there is none for one
        of them, what comes before it, and the problem."""
        page: list[Listed] = []
        for listed in found:
            if listed.doubtful:
                self.copies_unreadable += 1
                try:
                    result = self._client.get(listed.key, r=self._needed, strict=True)
                except DynagentError as exc:
                    return page, exc.message
                listed.dots = [(version.actor, version.counter) for version in result.versions]
            if listed.dots:
                page.append(listed)
        return page, ""

    def _skip(self) -> None:
        """Leaves out the rest of the partition at hand."""
        assert self._here is not None
        first, after = self._here
        skipped = [*self._skipped, (first, first, after)]
        self._here, self._skipped = None, skipped

    def _tell(self) -> str:
        runs = joined([(first, last, b"") for first, last, _ in self._skipped])
        told = [str(first) if first == last else f"{first}-{last}" for first, last, _ in runs]
        more = f" and {len(told) - _TOLD_MAX} more" if len(told) > _TOLD_MAX else ""
        noun = "partition" if len(runs) == 1 and runs[0][0] == runs[0][1] else "partitions"
        return (
            f"fewer than the {self._needed} owners needed have answered for {noun} "
            f"{', '.join(told[:_TOLD_MAX])}{more} ({', '.join(sorted(self._problems))})"
        )

    # --- whom to ask -----------------------------------------------------------------------------

    def _worth_asking(self, partition: PartitionId) -> list[NodeId]:
        """The owners in order of preference, without those that have just failed."""
        now = time.monotonic()
        for node in self._owners_avoided(partition):
            if self._avoided[node][0] <= now:
                del self._avoided[node]
        return [node for node in self._ring.read_list(partition) if node not in self._avoided]

    def _owners_avoided(self, partition: PartitionId) -> list[NodeId]:
        return [node for node in self._ring.read_list(partition) if node in self._avoided]

    def _member(self, node: NodeId) -> Member:
        member = self._ring.member(node)
        assert member is not None
        return member


class _RingMoved(Exception):
    """An owner has the ring of that epoch, in which the partition has another stamp."""

    def __init__(self, epoch: int) -> None:
        super().__init__(epoch)
        self.epoch = epoch


class _Pace:
    """Holds a rate: so many records a second at each owner."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._began = time.monotonic()
        per_page = int(rate / _PAGES_PER_S) if rate else limits.LISTING_LOOK_ROWS_MAX
        self.look_max = min(max(1, per_page), limits.LISTING_LOOK_ROWS_MAX)
        self.looked_at = 0.0  # by each owner

    def wait(self) -> None:
        if self._rate:
            due = self._began + self.looked_at / self._rate
            time.sleep(max(0.0, due - time.monotonic()))
