"""Purging: the driver that moves barriers and ends tombstones (the rules: `core.tombstones`).

Of the owners of a partition that are up the first one drives, as each of them sees it. Two drivers
do no harm, and none need remember anything: every fact is asked for, and holds for good once it is
true (`core.purge_answers`). So a driver that dies is replaced by the next owner, who asks again.

A *round* takes all of this node's partitions that have tombstones and are due, up to 256:

    look     where does each of S_P stand, and what does it keep for others?
      ├────▶ one does not answer, or keeps a copy for another: blocked, and said by whom
      ├────▶ not all stand at the same barrier, or one has stood there since before the ring was
      │      changed: move the rest, or all of them once more
      ├────▶ all have stood at b for less than `rest_s`: later
    close    the owners refuse what was read before b
    purge    page by page: our tombstones that are settled at b; the other owners say which of them
      │      they hold likewise; those that all hold are dropped, everywhere
      ├────▶ one has another version: blocked; repair makes them equal
    move     where some tombstones are younger than b: to b+1, owners first. A stand-in that has
             moved refuses what was read before, so whoever may coordinate a put moves before it

The rest is for clients: as long as a tombstone stays, a retry finds its op-id beside it. It is no
part of the rules, and nothing that is deleted depends on it, or on any other time.

Costs: nothing while there are no tombstones. A round of any number of partitions is one message to
each member and its answer, and as much for a move, and to close; a page of 256 tombstones is four
to each owner. All of it is granted by the background budget (design §8).

Example, N=3, five nodes, 10,000 keys deleted: a, the first owner of a third of the partitions, asks
the others where they stand: at 0. It moves the owners and then the stand-ins to 1; after the rest
it asks b and c for 13 pages, and has them dropped: some 60 messages in all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from math import inf

from dynagent import limits
from dynagent.core.coordinator import SETTLED, Coordinator
from dynagent.core.messages import (
    BarrierMove,
    BarrierReply,
    BarrierRequest,
    MergeAck,
    Message,
    Purge,
    TombstoneQuery,
    TombstoneReply,
)
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.purge_answers import DIFFERS, HELD, HELD_LATER, PurgeAnswers, Row
from dynagent.core.purge_questions import Answers, Question, Questions
from dynagent.core.ring import Ring, token_of
from dynagent.core.tombstones import (
    holders,
    is_tombstone,
    may_close,
    may_end,
    may_purge,
    next_barrier,
)
from dynagent.errors import CorruptRecord

AWAY, HOLDS, OTHER = "away", "holds", "differs"  # why a partition is blocked

# A round's script asks, and is resumed with the answers.
Script = Generator[list[Question], Answers, None]
Looked = Generator[list[Question], Answers, "_Look"]
Later = Generator[list[Question], Answers, set[PartitionId]]


class _Place:
    """What the driver knows of a partition that has tombstones."""

    __slots__ = ("at", "at_since", "due", "pause_s")

    def __init__(self) -> None:
        self.due = 0.0
        self.pause_s = 0.0  # after the last look that found it blocked
        self.at = -1  # the barrier at which all of S_P stand
        self.at_since = 0.0  # since when we know that


class _Look:
    """Where the members stand."""

    __slots__ = ("holding", "members", "standings", "void")

    def __init__(self, members: dict[PartitionId, tuple[NodeId, ...]]) -> None:
        self.members = members  # S_P
        self.standings: dict[PartitionId, dict[NodeId, int]] = {at: {} for at in members}
        self.holding: dict[PartitionId, list[NodeId]] = {at: [] for at in members}
        self.void: set[PartitionId] = set()  # where one has not moved under this ring

    def take(self, node: NodeId, partitions: list[PartitionId], reply: Message | None) -> None:
        if not isinstance(reply, BarrierReply) or len(reply.barriers) != len(partitions):
            return
        for partition, barrier in zip(partitions, reply.barriers, strict=True):
            self.standings[partition][node] = barrier
            if partition in reply.holding:
                self.holding[partition].append(node)
            if partition in reply.void:
                self.void.add(partition)

    def silent(self, partition: PartitionId) -> list[NodeId]:
        return [node for node in self.members[partition] if node not in self.standings[partition]]


class Purger:
    """Drives all partitions of which this node is the first owner that is up.

    `rest_s`: how long a tombstone stays at least; 0: for ever.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        answers: PurgeAnswers,
        *,
        rest_s: float,
        is_draining: Callable[[], bool],
    ) -> None:
        self.blocked: dict[PartitionId, tuple[str, list[NodeId]]] = {}
        self.counts = {"rounds": 0, "moves": 0}
        self._coordinator = coordinator
        self._answers = answers
        self._replica = coordinator.replica
        self._tombstones = coordinator.replica.tombstones
        self.rest_s = rest_s
        self._pause_s = min(limits.PURGE_PAUSE_S, max(rest_s, limits.PURGE_PAUSE_S / 20))
        self._is_draining = is_draining
        self._places: dict[PartitionId, _Place] = {}
        self._due = 0.0  # when to look for partitions that are due
        self._script: Script | None = None
        self._questions = Questions(coordinator, answers, self._go_on)

    # --- time ------------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When `on_tick` is due; inf if there are no tombstones, or answers are waited for."""
        if self._script is not None:
            return self._questions.due
        return self._due if self._tombstones.counts and self.rest_s else inf

    def on_tick(self, now: float) -> None:
        if self._script is not None:
            self._questions.on_tick(now)
        elif self.due <= now and not self._is_draining():
            self._due = now + self._pause_s
            if partitions := self._take_due(now):
                self.counts["rounds"] += 1
                self._script = self._round(partitions)
                self._go_on(now, None)

    def on_ring(self, now: float, ring: Ring) -> None:
        """A round under way is given up: what was not decided is void under another ring."""
        if self._script is not None:
            self._script.close()
            self._script = None
            self._questions.stop()
        self._places.clear()
        self.blocked.clear()
        self._due = now

    def wake(self, now: float, node: NodeId) -> None:
        """`node` has come up: what it held back is due."""
        for partition, (_, nodes) in self.blocked.items():
            if node in nodes and (place := self._places.get(partition)):
                place.due, place.pause_s = now, 0.0
                self._due = min(self._due, now)

    def document(self, *, by_partition: bool = False) -> dict[str, object]:
        """For the status of this node."""
        blocked: dict[NodeId, dict[str, int]] = {}
        for reason, nodes in self.blocked.values():
            for node in nodes:
                by_reason = blocked.setdefault(node, {})
                by_reason[reason] = by_reason.get(reason, 0) + 1
        counts = self._tombstones.counts
        document: dict[str, object] = {
            "count": sum(counts.values()),
            "partitions": len(counts),
            "purged": self._tombstones.purged,
            "blocked": dict(sorted(blocked.items())),
            **self.counts,
        }
        if by_partition:
            barriers = self._replica.barriers
            document["by_partition"] = [
                [at, counts[at], barriers.standing(at), *self.blocked.get(at, ("", []))]
                for at in sorted(counts)
            ]
        return document

    def _take_due(self, now: float) -> list[PartitionId]:
        for partition in self._places.keys() - self._tombstones.counts.keys():
            del self._places[partition]
            self.blocked.pop(partition, None)
        due: list[PartitionId] = []
        for partition in sorted(self._tombstones.counts):
            if partition in self._ring.moves:
                continue
            place = self._places.setdefault(partition, _Place())
            if place.due <= now and len(due) < limits.BARRIER_PARTITIONS_MAX:
                if self._drives(partition):
                    due.append(partition)
                else:
                    self.blocked.pop(partition, None)
        return due

    def _drives(self, partition: PartitionId) -> bool:
        up, own = self._coordinator.up, self._coordinator.node_id
        return next((node for node in self._ring.lists[partition] if node in up), None) == own

    # --- a round ---------------------------------------------------------------------------------

    def _round(self, partitions: list[PartitionId]) -> Script:
        look = yield from self._look(partitions)
        moves: dict[PartitionId, int] = {}
        purges: dict[PartitionId, int] = {}
        for partition in partitions:
            self._judge(partition, look, moves, purges)
        yield from self._order(purges, {at: self._ring.lists[at] for at in purges}, closes=True)
        later = yield from self._purge(purges)
        for partition in later:
            if holding := look.holding[partition]:
                self._block(partition, HOLDS, holding)
            else:
                moves[partition] = purges[partition] + 1
        yield from self._move(moves, look)

    def _look(self, partitions: list[PartitionId]) -> Looked:
        look = _Look({at: holders(self._ring, at) for at in partitions})
        asked: dict[NodeId, list[PartitionId]] = {}
        for partition, members in look.members.items():
            for node in members:
                asked.setdefault(node, []).append(partition)
        answers = yield [
            (node, BarrierRequest(*self._stamp, [*about])) for node, about in sorted(asked.items())
        ]
        for node, about in asked.items():
            look.take(node, about, answers.get(node))
        return look

    def _judge(
        self,
        partition: PartitionId,
        look: _Look,
        moves: dict[PartitionId, int],
        purges: dict[PartitionId, int],
    ) -> None:
        """What is to be done with a partition now: it enters `moves`, `purges` or neither."""
        now, place = self._coordinator.now, self._places[partition]
        self.blocked.pop(partition, None)
        standings, holding = look.standings[partition].values(), look.holding[partition]
        if silent := look.silent(partition):
            self._block(partition, AWAY, silent)
            return
        to = next_barrier(standings)
        is_level = max(standings) < to
        if is_level and place.at != to - 1:
            place.at, place.at_since = to - 1, now
        may_purge_now = is_level and to > 1 and may_end(is_void=partition in look.void)
        if holding and not may_purge_now:
            self._block(partition, HOLDS, holding)
        if may_purge_now:
            if now < place.at_since + self.rest_s:
                place.due = place.at_since + self.rest_s
            elif may_close(standings, to - 1):
                purges[partition] = to - 1
        elif not is_level or not holding:
            moves[partition] = to

    def _move(self, moves: dict[PartitionId, int], look: _Look) -> Script:
        """Owners first; the others only where all owners have moved."""
        owners = {at: self._ring.lists[at] for at in moves}
        rest = {
            at: tuple(node for node in look.members[at] if node not in owners[at]) for at in moves
        }
        yield from self._order(moves, owners, closes=False)
        yield from self._order(moves, rest, closes=False)
        for partition in moves:
            self.counts["moves"] += 1
            if partition not in self.blocked:
                self._places[partition].due = self._coordinator.now

    def _order(
        self,
        barriers: dict[PartitionId, int],
        nodes: dict[PartitionId, tuple[NodeId, ...]],
        *,
        closes: bool,
    ) -> Script:
        """Orders these nodes to move, or to close what is before; whatever one of them has not
        done leaves `barriers`."""
        asked: dict[NodeId, list[PartitionId]] = {}
        for partition in sorted(barriers):
            for node in nodes[partition]:
                asked.setdefault(node, []).append(partition)
        answers = yield [
            (node, BarrierMove(*self._stamp, [*about], [barriers[at] for at in about], closes))
            for node, about in sorted(asked.items())
        ]
        for node, about in asked.items():
            if not isinstance(answers.get(node), MergeAck):
                for partition in about:
                    self._block(partition, AWAY, [node])
                    barriers.pop(partition, None)

    def _purge(self, purges: dict[PartitionId, int]) -> Later:
        """Ends what all owners hold; returns where some are younger than the barrier."""
        later: set[PartitionId] = set()
        blamed: dict[PartitionId, tuple[str, NodeId]] = {}
        for page in self._pages(purges, later):
            answers = yield self._to_owners(page, TombstoneQuery)
            states = self._states(page, answers)
            agreed: list[Row] = []
            for row in page:
                partition, says = self._partition_of(row), states[row]
                if may_purge([state == HELD for _, state in says]):
                    agreed.append(row)
                for node, state in says:
                    if state == HELD_LATER:
                        later.add(partition)
                    elif state != HELD:
                        blamed[partition] = (AWAY if state < 0 else OTHER, node)
            yield self._to_owners(agreed, Purge)
        for partition in purges:
            if partition in blamed:
                reason, node = blamed[partition]
                self._block(partition, reason, [node])
            else:
                self.blocked.pop(partition, None)
                place = self._places[partition]
                place.due, place.pause_s = self._coordinator.now + self._pause_s, 0.0
        return later

    def _pages(
        self, purges: dict[PartitionId, int], later: set[PartitionId]
    ) -> Iterator[list[Row]]:
        """Our own tombstones that are settled; where others are found, `later` learns it."""
        page: list[Row] = []
        size = 0
        for partition, barrier in sorted(purges.items()):
            for key, digest in self._own(partition):
                row = (key, digest, barrier)
                if self._answers.state_of(row) != HELD:
                    later.add(partition)
                    continue
                page.append(row)
                size += len(key) + len(digest)
                if len(page) >= limits.TOMBSTONE_PAGE_ROWS or size >= limits.TOMBSTONE_PAGE_BYTES:
                    yield page
                    page, size = [], 0
        if page:
            yield page

    def _own(self, partition: PartitionId) -> Iterator[tuple[bytes, bytes]]:
        """Key and digest of each tombstone that this node holds there; raises `CorruptRecord`."""
        first, last = self._replica.barriers.range_of(partition)
        after, found = bytes(first), False
        while rows := self._tombstones.page(after, limits.TOMBSTONE_PAGE_ROWS):
            for token, key in rows:
                if token > last:
                    rows = []
                    break
                after, found = token + key, True
                record = self._replica.newest(key, token)
                if is_tombstone(record):
                    yield key, record.digest
                else:
                    self._replica.unmark(key, token, record)
            if not rows:
                break
        if not found and not self._replica.is_dirty:
            self._tombstones.counts.pop(partition, None)  # a copy that has rotted was counted

    def _to_owners(
        self, rows: list[Row], kind: type[TombstoneQuery] | type[Purge]
    ) -> list[Question]:
        """The same of all owners, each of its own partitions."""
        asked: dict[NodeId, list[list[object]]] = {}
        for row in rows:
            for node in self._ring.lists[self._partition_of(row)]:
                asked.setdefault(node, []).append([*row])
        return [(node, kind(*self._stamp, its)) for node, its in sorted(asked.items())]

    def _states(self, page: list[Row], answers: Answers) -> dict[Row, list[tuple[NodeId, int]]]:
        """What each owner says of each row; -1: nothing."""
        states: dict[Row, list[tuple[NodeId, int]]] = {row: [] for row in page}
        its: dict[NodeId, list[Row]] = {}
        for row in page:
            for node in self._ring.lists[self._partition_of(row)]:
                its.setdefault(node, []).append(row)
        for node, rows in its.items():
            reply = answers.get(node)
            said: Sequence[int] = reply.states if isinstance(reply, TombstoneReply) else ()
            if len(said) != len(rows):
                said = [-1] * len(rows)
            for row, state in zip(rows, said, strict=True):
                states[row].append((node, state if state <= HELD_LATER else DIFFERS))
        return states

    def _block(self, partition: PartitionId, reason: str, nodes: list[NodeId]) -> None:
        self.blocked[partition] = (reason, nodes)
        place = self._places[partition]
        place.pause_s = min(2 * place.pause_s or self._pause_s, limits.PURGE_PAUSE_S_MAX)
        place.due = self._coordinator.now + place.pause_s

    @property
    def _stamp(self) -> tuple[int, int]:
        return self._ring.epoch, SETTLED

    @property
    def _ring(self) -> Ring:
        return self._coordinator.ring

    def _partition_of(self, row: Row) -> PartitionId:
        return self._replica.barriers.partition_of(token_of(row[0]))

    # --- questions and answers -------------------------------------------------------------------

    def _go_on(self, now: float, answers: Answers | None) -> None:
        """Goes on with the script, until it must wait for an answer."""
        while self._script is not None:
            try:
                asking = self._script.send(answers)  # type: ignore[arg-type]
            except StopIteration:
                self._script = None
            except CorruptRecord as exc:
                self._coordinator.effects.note("tombstones.unreadable", reason=exc.message)
                self._script = None
            else:
                answers = self._questions.ask(now, asking)
                if answers is None:
                    return
