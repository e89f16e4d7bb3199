"""One exchange: this node and a peer find out in what their copies differ, and make them equal.

A machine without I/O for one pair and a set of partitions that both own. It says what to ask next
(`take`) and is told the answers (`on_reply`); who drives it sends, waits and keeps the background
budget (`core.antientropy`). Nothing is rescanned to compare (Dynamo §4.7, design §7):

    roots ──▶ inner nodes ──▶ leaves ──▶ keys of leaves ──▶ suspects    core.descent
    suspects ──rest──▶ second look ──▶ records moved                    core.suspects
    the peer's side of all that, which keeps no state                   core.counterpart
    what has come of each partition                                     core.verdict

What holds:

- What is equal is never moved: only keys that differed twice, with the same digests on both sides,
  at least `EXCHANGE_REST_S` apart. A put in flight is on all owners by then, or owed by a hint.
- Records move where they are news: to the peer, to us, or both ways; here through the one door,
  there as a Merge like any other.
- A copy that is unreadable or unknown is no source and no difference: it is counted, and left to
  whoever heals it. An unknown leaf is equal to none, so its keys are compared.
- A partition is done when every node, leaf, key and record of it is; a record when it is durable
  where it went. Then its verdict is told, once. After a failure what has been told holds, and the
  rest is compared again: that costs little and does no harm.
- Memory is bounded: the deepest nodes are compared first, leaves wait in a bounded queue, no page
  of keys is asked for while too many suspects wait, and no more than `EXCHANGE_PAGES` pages of
  records are under way in each direction.

Example, a million keys in 256 partitions, 100 of which differ: 256 roots in one Compare, some 80
differ; their 1,300 inner nodes in two, 100 differ; 1,600 leaves in two, 100 differ; 1,500 keys with
digests in some pages; after the rest 100 versions, and 100 records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from dynagent import limits
from dynagent.core.counterpart import Busy
from dynagent.core.descent import Descent, Suspect
from dynagent.core.messages import (
    Compare,
    CompareReply,
    LeafKeys,
    LeafKeysReply,
    LookReply,
    MergeAck,
    Message,
)
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring
from dynagent.core.suspects import Suspects
from dynagent.core.verdict import Progress, Verdict
from dynagent.errors import ProtocolError

# What an ask is for, and how many of its kind may be under way.
SEND, FETCH, LOOK, LIST, COMPARE = "send", "fetch", "look", "list", "compare"
_AT_ONCE = {SEND: limits.EXCHANGE_PAGES, FETCH: limits.EXCHANGE_PAGES, LOOK: 1, LIST: 1, COMPARE: 1}


class Ask:
    """One message under way, and whom its answer concerns."""

    __slots__ = ("kind", "message", "suspects")

    def __init__(self, kind: str, message: Message, suspects: list[Suspect]) -> None:
        self.kind = kind
        self.message = message
        self.suspects = suspects


class Exchange:
    """`partitions`: all owned by both. `prefix`: only keys that begin so are moved and counted.
    `moves`: False for a preview. `on_verdict` is told of each partition, with the time."""

    def __init__(
        self,
        *,
        replica: Replica,
        ring: Ring,
        node_id: NodeId,
        peer: NodeId,
        partitions: Iterable[PartitionId],
        on_verdict: Callable[[float, Verdict], None],
        busy: Busy,
        prefix: bytes = b"",
        moves: bool = True,
    ) -> None:
        self._replica = replica
        self._peer = peer
        self._busy = busy
        self._on_verdict = on_verdict
        self._progress = progress = Progress(partitions, replica.forest.counts, self._tell)
        assert len(progress.verdicts) <= limits.EXCHANGE_PARTITIONS_MAX
        self._descent = Descent(
            replica=replica,
            ring=ring,
            node_id=node_id,
            peer=peer,
            progress=progress,
            busy=busy,
            prefix=prefix,
        )
        self._suspects = Suspects(
            replica=replica, ring=ring, peer=peer, progress=progress, busy=busy, moves=moves
        )
        self._under_way: Counter[str] = Counter()

    @property
    def is_done(self) -> bool:
        """All verdicts have been told."""
        return not self._progress.verdicts

    @property
    def left(self) -> list[PartitionId]:
        """The partitions without a verdict."""
        return sorted(self._progress.verdicts)

    @property
    def due(self) -> float | None:
        """When there may be something to ask again without an answer; None: only after one."""
        return None if self._under_way[LOOK] else self._suspects.due

    def take(self, now: float) -> Ask | None:
        """What to ask next, from the end of the way to its beginning; None: nothing before an
        answer, or before `due`. Raises `CorruptRecord` if the engine cannot be read."""
        for kind, at_once in _AT_ONCE.items():
            if self._under_way[kind] < at_once and (ask := self._next(now, kind)):
                self._under_way[kind] += 1
                return ask
        return None

    def _next(self, now: float, kind: str) -> Ask | None:
        suspects, descent = self._suspects, self._descent
        if kind == COMPARE:
            compare = descent.compare()
            return Ask(kind, compare, []) if compare else None
        if kind == LIST:
            page = descent.list_leaves() if suspects.has_room else None
            return Ask(kind, page, []) if page else None
        takes = {SEND: suspects.send, FETCH: suspects.fetch, LOOK: suspects.look}
        taken = takes[kind](now)
        return Ask(kind, *taken) if taken else None

    def on_reply(self, now: float, ask: Ask, reply: Message) -> int | None:
        """An answer. Returns the batch that it waits for: then `on_durable` is to be called, at
        once if that is 0. Raises `ProtocolError`, `CorruptRecord`, or, if records that have come
        cannot be taken now, `Overloaded` and `DiskFull`, or `StaleBarrier` if tombstones have been
        purged since they were read: then this exchange is over."""
        match ask.kind, reply:
            case "compare", CompareReply() if isinstance(ask.message, Compare):
                self._descent.on_compared(now, ask.message, reply)
            case "list", LeafKeysReply() if isinstance(ask.message, LeafKeys):
                self._suspects.add(now, self._descent.on_listed(now, reply))
            case "look", LookReply():
                self._suspects.on_looked(now, ask.suspects, reply)
            case "send", MergeAck():
                self._suspects.on_sent(now, ask.suspects)
            case "fetch", LookReply():
                self._replica.check_room(now)
                ask.suspects, entries = self._suspects.on_fetched(now, ask.suspects, reply)
                return self._replica.merge(entries, barrier=reply.barrier)
            case _:
                raise ProtocolError(f"{type(reply).__name__} is no answer to {ask.kind}")
        self._under_way[ask.kind] -= 1
        return None

    def on_durable(self, now: float, ask: Ask) -> None:
        """The records that an answer brought are on our disk."""
        self._under_way[ask.kind] -= 1
        self._suspects.on_merged(now, ask.suspects)

    def _tell(self, now: float, verdict: Verdict) -> None:
        self._busy.end(verdict.partition, self._peer)
        self._on_verdict(now, verdict)

    def take_spent(self) -> tuple[int, int]:
        """Bytes and records that the background budget has not been charged for yet."""
        progress = self._progress
        spent = progress.spent_bytes, progress.spent_records
        progress.spent_bytes = progress.spent_records = 0
        return spent
