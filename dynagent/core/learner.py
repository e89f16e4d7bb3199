"""The learner: which ring a node has, and how decided entries make it the next one.

There are two: `newest`, of all entries that it knows, and `durable`, with which it serves. Entries
come as pages (`LogReply`), in any order and as often as anybody likes; those that come next are
folded, and written with their ring in the open batch. When that is committed the ring is durable.
What it does not follow, and what stops it, is told in `core.ringlog`.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.acceptor import is_majority
from dynagent.core.coordinator import Coordinator
from dynagent.core.hints import DURABLE
from dynagent.core.logrows import LogRows
from dynagent.core.messages import LogReply
from dynagent.core.ports import Reader
from dynagent.core.ring import Ring
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.core.ringentry import ForcedEntry, decode_log_entry, fold
from dynagent.errors import DynagentError, ProtocolError, Refused, UnknownEntry


class Learner:
    """One node's rings, and the log behind them."""

    def __init__(self, coordinator: Coordinator, reader: Reader, ring: Ring) -> None:
        self.newest = ring
        self.durable = ring
        self.rows = LogRows(coordinator.replica, reader, ring)
        self.failure: DynagentError | None = None  # why this node cannot go on
        self.learnt = 0  # entries
        self._coordinator = coordinator
        self._under_way: list[tuple[int, Ring]] = []  # batch and ring, ascending

    @property
    def last_batch(self) -> int:
        """The one that makes the newest ring durable; `DURABLE` if it is."""
        return self._under_way[-1][0] if self._under_way else DURABLE

    def on_committed(self, batch: int) -> bool:
        """Whether the durable ring is another now."""
        self.rows.on_committed(batch)
        before = self.durable
        while self._under_way and self._under_way[0][0] <= batch:
            _, self.durable = self._under_way.pop(0)
        return self.durable is not before

    def on_refused(self) -> None:
        """Nothing that was under way has come to the disk."""
        self.rows.on_refused()
        self._under_way.clear()
        self.newest = self.durable

    # --- taking ----------------------------------------------------------------------------------

    def take(self, page: LogReply) -> None:
        """Folds what is new of it. Raises `ProtocolError`, `Refused` for a lineage that this node
        does not follow, and its `failure`."""
        if self.failure is not None:
            raise self.failure
        try:
            if page.ring:
                self._take_ring(decode_ring(page.ring))
            else:
                self._take_entries(page)
        except UnknownEntry as exc:
            self.failure = exc
            self._coordinator.effects.note("ringlog.unknown_entry", reason=exc.message)
            raise

    def _take_entries(self, page: LogReply) -> None:
        ring = self.newest
        rows: list[tuple[int, int, bytes]] = []
        try:
            for index, data in enumerate(page.entries, page.first):
                if index <= ring.epoch:
                    continue
                entry = decode_log_entry(data)
                if isinstance(entry.content, ForcedEntry):
                    self.check_lost(ring)
                folded = fold(ring, entry)
                if folded.epoch != index:
                    break  # those between are lacking
                rows.append((index, ring.epoch, data))
                ring = folded
        finally:
            if rows:
                self._turn_to(ring, rows)

    def _take_ring(self, ring: Ring) -> None:
        """Instead of entries that nobody keeps any more."""
        if ring.cluster_id != self.newest.cluster_id:
            raise ProtocolError("the ring of another cluster")
        if ring.lineage != self.newest.lineage:
            raise Refused(
                f"the log of lineage {ring.lineage} does not reach back to our epoch"
                f" {self.newest.epoch}: whether it goes on from there cannot be known any more"
            )
        if ring.epoch > self.newest.epoch:
            self._turn_to(ring, [])

    def _turn_to(self, ring: Ring, rows: list[tuple[int, int, bytes]]) -> None:
        before, self.newest = self.newest, ring
        if ring.lineage != before.lineage:
            self._coordinator.effects.note(
                "ring.forced", epoch=ring.epoch, after=before.epoch, voters=list(ring.voters)
            )
        self.learnt += len(rows)
        self._under_way.append((self.rows.write(ring, rows), ring))

    def check_lost(self, ring: Ring) -> None:
        """Raises `Refused` if a majority of the voters is within our reach."""
        up = self._coordinator.up
        if is_majority(up, ring.voters):
            reached = sum(voter in up for voter in ring.voters)
            raise Refused(
                f"{reached} of the {len(ring.voters)} voters are up, which can decide: nothing"
                " need be forced"
            )

    # --- telling ---------------------------------------------------------------------------------

    def page(self, after: int, *, only_entries: bool = False) -> LogReply:
        """What is durable behind that index: entries, as many as go into one message; the ring if
        they are not all kept, unless `only_entries` are wanted."""
        epoch = self.durable.epoch
        if not only_entries and after < epoch and not self.rows.reaches(after):
            return LogReply(epoch, 0, [], encode_ring(self.durable))
        page = LogReply(epoch, 0, [])
        room = limits.LOG_PAGE_BYTES
        for index, data in self.rows.after(after):
            room -= len(data)
            if page.entries and (room < 0 or index != page.first + len(page.entries)):
                break
            page.first = page.first or index
            page.entries.append(data)
        return page
