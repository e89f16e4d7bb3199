"""Keys in which two owners differ: looked at twice, then made equal.

    at rest ──▶ Look at the versions ──▶ equal, or changed on either side: a write was in flight
                    │ as it was on both sides: it differs
                    ├─ the peer has news ──▶ Look for the records ──▶ merged here, durable ─┐
                    │                                     we have news too ◀────────────────┤
                    └─ we have news ──▶ Merge ──acknowledged──▶ healed ◀────────────────────┘

Who has news is read from clocks and dots: a side that knows of a write, or of its end, which the
other does not. Where both know the same and the bytes differ all the same, both are merged.
"""

from __future__ import annotations

from collections import deque
from itertools import islice, takewhile

from dynagent import limits
from dynagent.core.coordinator import SETTLED
from dynagent.core.counterpart import Busy, first_keys, may_travel
from dynagent.core.descent import Suspect
from dynagent.core.entry import Record, decode_entry, encode_entry, unflatten
from dynagent.core.messages import WANT_DIGEST, WANT_VALUE, Look, LookReply, Merge
from dynagent.core.ports import NodeId
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring, token_of
from dynagent.core.siblings import Clock, Dot
from dynagent.core.verdict import Progress
from dynagent.errors import ProtocolError

_VERSION_BYTES = 80  # a digest, a clock of three and a dot, on the wire


class Suspects:
    """The suspects of one exchange."""

    def __init__(
        self,
        *,
        replica: Replica,
        ring: Ring,
        peer: NodeId,
        progress: Progress,
        busy: Busy,
        moves: bool,
    ) -> None:
        self._replica = replica
        self._peer = peer
        self._progress = progress
        self._busy = busy
        self._moves = moves
        self._ring = ring
        self._stamp = (ring.epoch, SETTLED)
        self._count = self._bytes = 0  # of those that rest or have rested
        self._resting: deque[tuple[float, list[Suspect]]] = deque()  # until then
        self._rested: deque[Suspect] = deque()
        self._to_fetch: deque[Suspect] = deque()
        self._to_send: deque[Suspect] = deque()

    @property
    def has_room(self) -> bool:
        """May another page of keys be looked through?"""
        moving = len(self._to_fetch) + len(self._to_send)
        return (
            self._count + moving <= limits.EXCHANGE_SUSPECTS_MAX - limits.EXCHANGE_ROWS_MAX
            and self._bytes <= limits.EXCHANGE_SUSPECT_BYTES_MAX
        )

    @property
    def due(self) -> float | None:
        """When the first have rested; None if none rest."""
        return self._resting[0][0] if self._resting else None

    def add(self, now: float, suspects: list[Suspect]) -> None:
        """Lets them rest."""
        if suspects:
            self._resting.append((now + limits.EXCHANGE_REST_S, suspects))
            self._count += len(suspects)
            self._bytes += sum(len(suspect.key) for suspect in suspects)

    # --- the second look -------------------------------------------------------------------------

    def look(self, now: float) -> tuple[Look, list[Suspect]] | None:
        """Versions to ask for: of those that have rested."""
        while self._resting and self._resting[0][0] <= now:
            self._rested.extend(self._resting.popleft()[1])
        return self._ask(now, self._rested, WANT_DIGEST, limits.EXCHANGE_ROWS_MAX)

    def on_looked(self, now: float, asked: list[Suspect], reply: LookReply) -> None:
        """Raises `ProtocolError` if the reply is not well-formed."""
        looked = self._looked_at(self._rested, asked, reply)
        if len(reply.copies) != len(looked):
            raise ProtocolError("a LookReply without a copy for each key")
        self._replica.read_ahead([suspect.key for suspect in looked])
        for suspect, copy in zip(looked, reply.copies, strict=True):
            self._count -= 1
            self._bytes -= len(suspect.key)
            size = len(suspect.key) + _VERSION_BYTES
            self._progress.spend(suspect.partition, size, charged=limits.EXCHANGE_ROW_BYTES)
            self._judge(now, suspect, decode_copy(copy))

    def _judge(
        self, now: float, suspect: Suspect, theirs: tuple[bytes, Clock, list[Dot]] | None
    ) -> None:
        """Decides what becomes of a suspect; of `theirs` there is none if it is unreadable."""
        verdict = self._progress.of(suspect.partition)
        record = self._replica.read(suspect.key, token_of(suspect.key))
        ours = record.digest if record.value.clock else b""
        if theirs is None or record.unknown:
            verdict.unreadable += 1
        elif (ours, theirs[0]) != (suspect.ours, suspect.theirs) or ours == theirs[0]:
            verdict.changed += 1
        else:
            verdict.differing += 1
            clock, dots = record.value.clock, record.value.dots()
            is_news = has_news(theirs[1], theirs[2], clock, dots)
            suspect.sends = has_news(clock, dots, theirs[1], theirs[2])
            if not is_news and not suspect.sends:
                is_news = suspect.sends = True  # the same version in other bytes
            if self._moves:
                (self._to_fetch if is_news else self._to_send).append(suspect)
                return
        self._progress.close(now, suspect.partition)

    # --- records ---------------------------------------------------------------------------------

    def fetch(self, now: float) -> tuple[Look, list[Suspect]] | None:
        """Records to ask for."""
        return self._ask(now, self._to_fetch, WANT_VALUE, limits.EXCHANGE_PAGE_ROWS)

    def on_fetched(
        self, now: float, asked: list[Suspect], reply: LookReply
    ) -> tuple[list[Suspect], list[tuple[bytes, Record]]]:
        """Whose records have come, and these, to be merged here. What is no source there any more
        is given up. Raises `ProtocolError` if it is not well-formed."""
        looked = self._looked_at(self._to_fetch, asked, reply)
        wanted = {suspect.key: suspect for suspect in looked}
        entries = [decode_entry(entry) for entry in reply.entries]
        came: list[Suspect] = []
        for key, record in entries:
            suspect = wanted.pop(key, None)
            if suspect is None:
                raise ProtocolError("a LookReply with a record that was not asked")
            self._progress.spend(suspect.partition, len(key) + len(record.content), 1)
            came.append(suspect)
        for suspect in wanted.values():
            self._progress.close(now, suspect.partition)
        return came, entries

    def on_merged(self, now: float, came: list[Suspect]) -> None:
        """Their records are durable here."""
        for suspect in came:
            verdict = self._progress.of(suspect.partition)
            verdict.fetched += 1
            if suspect.sends:
                self._to_send.append(suspect)
            else:
                verdict.healed += 1
                self._progress.close(now, suspect.partition)

    def send(self, now: float) -> tuple[Merge, list[Suspect]] | None:
        """Records of one partition for the peer."""
        while self._to_send:
            page: list[Suspect] = []
            entries: list[list[object]] = []
            size = 0
            partition = self._to_send[0].partition
            first = islice(self._to_send, limits.EXCHANGE_PAGE_ROWS)
            self._replica.read_ahead([suspect.key for suspect in first])
            while self._to_send and self._to_send[0].partition == partition:
                suspect = self._to_send.popleft()
                record = self._replica.read(suspect.key, token_of(suspect.key))
                if not may_travel(record):
                    self._progress.close(now, partition)
                    continue
                page.append(suspect)
                entries.append(encode_entry(suspect.key, record))
                size += len(suspect.key) + len(record.content)
                if size >= limits.EXCHANGE_PAGE_BYTES or len(page) >= limits.EXCHANGE_PAGE_ROWS:
                    break
            if entries:
                self._busy.go_on(now, partition, self._peer)
                self._progress.spend(partition, size, len(entries))
                barrier = self._replica.barriers.read_under(token_of(page[0].key))
                return Merge(*self._ring.stamps[partition], barrier, entries), page
        return None

    def on_sent(self, now: float, page: list[Suspect]) -> None:
        """They are durable there."""
        for suspect in page:
            verdict = self._progress.of(suspect.partition)
            verdict.sent += 1
            verdict.healed += 1
            self._progress.close(now, suspect.partition)

    # --- pages of keys ---------------------------------------------------------------------------

    def _ask(
        self, now: float, waiting: deque[Suspect], want: int, rows: int
    ) -> tuple[Look, list[Suspect]] | None:
        """The first of those that wait, as far as they are of one partition."""
        if not waiting:
            return None
        partition = waiting[0].partition
        alike = takewhile(lambda suspect: suspect.partition == partition, islice(waiting, rows))
        keys = first_keys([suspect.key for suspect in alike], rows)
        page = [waiting.popleft() for _ in keys]
        self._busy.go_on(now, partition, self._peer)
        return Look(*self._stamp, keys, want), page

    def _looked_at(
        self, waiting: deque[Suspect], asked: list[Suspect], reply: LookReply
    ) -> list[Suspect]:
        """Those that were looked at; the rest waits on, at the front."""
        if not 0 < reply.looked_at <= len(asked):
            raise ProtocolError("a LookReply that looked at none of the keys, or at more")
        waiting.extendleft(reversed(asked[reply.looked_at :]))
        return asked[: reply.looked_at]


def has_news(clock: Clock, dots: list[Dot], other: Clock, other_dots: list[Dot]) -> bool:
    """Does the first version know of a write, or of the end of one, that the second does not?"""
    if any(counter > other.get(actor, 0) for actor, counter in clock.items()):
        return True
    held = set(dots)
    return any(
        counter <= clock.get(actor, 0) and (actor, counter) not in held
        for actor, counter in other_dots
    )


def decode_copy(copy: list[object]) -> tuple[bytes, Clock, list[Dot]] | None:
    """None if there is no sound copy; raises `ProtocolError` if it is not well-formed."""
    if not copy:
        return None
    if len(copy) < 3 or type(copy[0]) is not bytes:
        raise ProtocolError("a LookReply with a copy that is none")
    return copy[0], dict(unflatten(copy[1])), unflatten(copy[2])
