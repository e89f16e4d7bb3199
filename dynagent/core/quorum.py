"""Tallies of one put and of one get: how many distinct owners have answered, and is it enough?

A *tally* is short-lived and pure (the cut of riak_kv_put_core and riak_kv_get_core): feed it with
`add_result`, ask it with `take_reply` (once it knows, it says so exactly once), and keep it until
`is_complete`, because a late answer still matters. W and R count distinct nodes; a second answer
from one node never counts twice (Dynamo §4.5).

    reserve ──asked──▶ waiting ──answer that counts──▶ counted     DONE at `needed` counted
                         │ └──failure, unreadable──▶ failed        MISSED once fewer are left
                         └──digest with news──▶ waiting, fetching
                            (GetQuorum: counts when its value is in hand)

A read asks as many as it needs and keeps the others in reserve: one takes the place of each that
fails, and all of them are asked when the answer is late (`hedge`, decision 0006).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import add

from dynagent import limits
from dynagent.core.entry import Record, decode_entry, unflatten
from dynagent.core.messages import STATE_ABSENT, STATE_UNREADABLE, Message, ReadReply
from dynagent.core.ports import NodeId
from dynagent.core.siblings import EMPTY, Clock, join

PENDING, DONE, MISSED = 0, 1, 2


class Quorum:
    """`needed` distinct nodes out of those asked and in reserve."""

    __slots__ = ("counted", "failed", "needed", "replied", "reserve", "waiting")

    def __init__(
        self, asked: Sequence[NodeId], needed: int, reserve: Sequence[NodeId] = ()
    ) -> None:
        self.waiting = set(asked)
        self.reserve = list(reserve)
        self.needed = needed
        self.counted: list[NodeId] = []
        self.failed: list[NodeId] = []
        self.replied = False

    def add_failure(self, node: NodeId) -> None:
        if node in self.waiting:
            self.waiting.remove(node)
            self.failed.append(node)

    def take_targets(self, up: Collection[NodeId]) -> list[NodeId]:
        """Who of the reserve must be asked now, so that the answer may come; `up` can be."""
        targets: list[NodeId] = []
        while self.reserve and len(self.counted) + len(self.waiting) < self.needed:
            node = self.reserve.pop(0)
            if node in up:
                self.waiting.add(node)
                targets.append(node)
            else:
                self.failed.append(node)
        return targets

    def hedge(self, up: Collection[NodeId]) -> list[NodeId]:
        """The answer is late: asks the whole reserve too (Dean & Barroso 2013, hedged requests)."""
        targets = [node for node in self.reserve if node in up]
        self.failed += [node for node in self.reserve if node not in up]
        self.reserve.clear()
        self.waiting.update(targets)
        return targets

    def take_reply(self) -> int:
        """DONE or MISSED, once; PENDING before and after."""
        if self.replied:
            return PENDING
        counted = len(self.counted)
        if counted >= self.needed:
            self.replied = True
            return DONE
        if counted + len(self.waiting) + len(self.reserve) < self.needed:
            self.replied = True
            return MISSED
        return PENDING

    @property
    def is_complete(self) -> bool:
        return self.replied and not self.waiting

    def _count(self, node: NodeId) -> None:
        self.waiting.remove(node)
        self.counted.append(node)


class PutQuorum(Quorum):
    """Who has made a write durable; `needed` is W."""

    __slots__ = ()

    @property
    def reached(self) -> int:
        """How many of the `needed` there are."""
        return len(self.counted)

    def add_result(self, node: NodeId) -> None:
        """`node` has fsynced the write."""
        if node in self.waiting:
            self.waiting.remove(node)
            self.counted.append(node)


class JointQuorum(PutQuorum):
    """The same while the partition moves (design §6): `needed` in each of two lists.

    An owner of both counts in both; so does who stands in for it. `places`: {stand-in: owner}, the
    caller's, who adds to it.
    """

    __slots__ = ("lists", "places")

    def __init__(
        self,
        asked: Sequence[NodeId],
        needed: int,
        lists: Sequence[Collection[NodeId]],
        places: Mapping[NodeId, NodeId],
    ) -> None:
        super().__init__(asked, needed)
        self.lists = lists
        self.places = places

    def take_reply(self) -> int:
        if self.replied:
            return PENDING
        counted, waiting = self.in_each(self.counted), self.in_each(self.waiting)
        if min(counted) >= self.needed:
            self.replied = True
            return DONE
        if min(map(add, counted, waiting)) < self.needed:
            self.replied = True
            return MISSED
        return PENDING

    @property
    def reached(self) -> int:
        """In the list that has fewer."""
        return min(self.in_each(self.counted))

    def in_each(self, nodes: Collection[NodeId]) -> list[int]:
        """How many of these nodes count in each of the lists."""
        places = [self.places.get(node, node) for node in nodes]
        return [sum([place in list_ for place in places]) for list_ in self.lists]


class GetQuorum(Quorum):
    """What the owners hold, merged; `needed` is R.

    `merged` holds the values of all counted copies, so its clock is the context that may be handed
    out: a context joins only clocks whose siblings were all returned (design §3). `barrier` is the
    least under which any of it was read, and goes with it wherever it goes (core.tombstones).
    """

    __slots__ = ("_digests", "_known", "_op_ids", "barrier", "fetching", "merged")

    def __init__(
        self, asked: Sequence[NodeId], needed: int, reserve: Sequence[NodeId] = ()
    ) -> None:
        super().__init__(asked, needed, reserve)
        self.merged = EMPTY
        self.barrier = 0
        self.fetching: set[NodeId] = set()
        self._known: set[bytes] = set()  # digests of copies that are merged already
        self._digests: dict[NodeId, bytes] = {}  # of counted copies; empty: it has nothing
        self._op_ids: tuple[bytes, ...] = ()

    def add_own(self, node: NodeId, record: Record, barrier: int = 0) -> None:
        """The coordinator's own committed copy, in full; `barrier`: under which it was read."""
        if record.unknown:
            self.add_failure(node)
            return
        self.merged = record.value
        self.barrier = barrier
        self._op_ids = record.op_ids
        self._known.add(record.digest)
        self._digests[node] = record.digest if record.value.clock else b""
        self._count(node)

    def add_result(self, node: NodeId, reply: ReadReply) -> bool:
        """Takes an answer; True if the value must be fetched from `node` before it counts."""
        if node not in self.waiting:
            return False
        if reply.state == STATE_UNREADABLE:
            self.add_failure(node)
        elif reply.state == STATE_ABSENT or reply.digest in self._known:
            self._digests[node] = reply.digest
            self._count(node)
        elif reply.entry is not None:
            record = decode_entry(reply.entry)[1]
            self._lower(reply.barrier)
            self.merged = self.merged.merge(record.value)
            self._op_ids = (*self._op_ids, *record.op_ids)
            self._digests[node] = reply.digest
            self._known.add(reply.digest)
            self._count(node)
        elif self._merge_known(reply):
            self._digests[node] = reply.digest
            self._known.add(reply.digest)
            self._count(node)
        elif node not in self.fetching:
            self.fetching.add(node)
            return True
        return False

    def behind(self) -> list[NodeId]:
        """Who has less than what is merged now, or nothing of it; the usual answer is nobody."""
        if len(set(self._digests.values())) < 2:
            return []
        digest = self.record().digest
        return [node for node, its in self._digests.items() if its != digest]

    def holders(self, record: Record) -> list[NodeId]:
        """Whose copy is just that."""
        digest = record.digest if record.value.clock else b""
        return [node for node, its in self._digests.items() if its == digest]

    def record(self) -> Record:
        """All that the counted copies hold, as a record without local parts."""
        kept = dict.fromkeys(self._op_ids)
        return Record(self.merged, op_ids=tuple(kept)[-limits.OP_IDS_KEPT :])

    def has_digest_of(self, message: Message) -> bool:
        """The copy of this reply is the same as one that is merged already."""
        return isinstance(message, ReadReply) and message.digest in self._known

    def _merge_known(self, reply: ReadReply) -> bool:
        """Merges a copy of which we hold every sibling already; False if it may have news."""
        clock, dots = dict(unflatten(reply.clock)), unflatten(reply.dots)
        if clock == self.merged.clock and dots == self.merged.dots():
            return False  # the same version with another digest: only the bytes can tell
        merged = self.merged.merge_known(clock, dots)
        if merged is None:
            return False
        self._lower(reply.barrier)
        self.merged = merged
        return True

    def _lower(self, barrier: int) -> None:
        """Something that was read under that barrier is about to be merged."""
        if not self.merged.clock or barrier < self.barrier:
            self.barrier = barrier


class ContextQuorum(Quorum):
    """The read before an overwrite or a retry: the clocks of R owners and what they know of the
    op-id. Only digests are asked: an overwrite supersedes values without looking at them."""

    __slots__ = ("clock", "op_states")

    def __init__(
        self, asked: Sequence[NodeId], needed: int, reserve: Sequence[NodeId] = ()
    ) -> None:
        super().__init__(asked, needed, reserve)
        self.clock: Clock = {}
        self.op_states: dict[NodeId, int] = {}

    def add_result(self, node: NodeId, *, state: int, clock: Clock, op_state: int) -> None:
        if node not in self.waiting:
            return
        if state == STATE_UNREADABLE:
            self.add_failure(node)
            return
        self.clock = join(self.clock, clock)
        self.op_states[node] = op_state
        self._count(node)
