"""Scrub: reads what lies on the disk, record by record, and holds it against what is known of it.

Rot that nobody reads, a row that was lost, one that was written to the wrong place: reads and the
trees (which are changed with each batch, never read anew) cannot see any of these. So all records
of the partitions that this node owns are looked at again and again, leaf by leaf:

    what is found                            what is done
    a copy that is unreadable or flagged     it waits to be healed (`core.unknown`)
    a row under another key's token, or one  it is removed: no read finds it; what should be there
      so damaged that its key is unknown       is missing, and that is the next line
    other sums than the tree has             the leaf is set right from the disk, so that exchange
                                               sees the difference; if records are missing, the
                                               partition is hollow until it has been filled
    a range that cannot be read              it is named with its remedy; the partition is hollow

A pass takes `interval_s`, spread evenly: one partition is due after the other, in turns of some
leaves, under the background budget (design §8). Partitions that the run before knew to be suspect
come first, and those of a job (`dynctl scrub`) as soon as the budget lets them. When the ring
changes, a pass goes on with the partitions that are this node's then. How far a pass has
come is a named row, so that agents that are restarted often get through one too.
"""

from __future__ import annotations

from math import inf

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.encoding import decode, encode
from dynagent.core.jobs import Job, Scope
from dynagent.core.merkle import Forest
from dynagent.core.ports import PartitionId, Reader
from dynagent.core.ring import Ring, token_of
from dynagent.errors import BadRequest, CorruptRecord, Overloaded, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROW = "scrub"  # the named row: [how many partitions this pass has done]
FIGURES = ("keys", "unreadable", "lost", "phantom", "misplaced", "ranges")


class Scrubber:
    """Walks through the owned partitions; also a kind of job, whose units these are."""

    def __init__(self, coordinator: Coordinator, reader: Reader, *, interval_s: float) -> None:
        self.counts = dict.fromkeys(("partitions", *FIGURES), 0)
        self.damaged: set[PartitionId] = set()  # ranges of them cannot be read
        self._coordinator = coordinator
        self._replica = coordinator.replica
        self._reader = reader
        self.interval_s = interval_s
        self._jobs: list[Job] = []
        self._partition: PartitionId | None = None  # under way
        self._leaf = 0  # the next one of it
        self._found: dict[str, int] = {}  # in it so far
        self._done = self._load()  # of this pass
        self._pass_due = 0.0  # of its next partition
        self._next_turn = 0.0

    @property
    def _forest(self) -> Forest:
        return self._replica.forest

    @property
    def due(self) -> float:
        """When `on_tick` is."""
        if self._partition is not None or self._jobs or self._replica.unknown.unscanned:
            return self._next_turn
        return max(self._next_turn, self._pass_due) if self.interval_s else inf

    def on_tick(self, now: float) -> None:
        if now < self.due:
            return
        if self._pass_due == 0.0:  # the first tick of a run: others may have come to its place
            self._pass_due = now + self._step_s
        if self._partition is None:
            self._partition = self._choose(now)
            self._leaf, self._found = 0, dict.fromkeys(FIGURES, 0)
        if self._partition is not None:
            self._go_on(now, self._partition)

    def on_ring(self, now: float, ring: Ring) -> None:
        mine = set(self._forest.partitions)
        self.damaged &= mine
        if self._partition not in mine:
            self._partition = None
        for job in list(self._jobs):
            for label, units in list(job.todo.items()):
                job.take_out(label, [at for at in units if at not in mine])
            if not any(job.todo.values()):
                self._jobs.remove(job)

    @property
    def _step_s(self) -> float:
        """From one partition of a pass to the next."""
        return self.interval_s / max(1, len(self._forest.partitions))

    def _choose(self, now: float) -> PartitionId | None:
        for job in self._jobs:
            for units in job.todo.values():
                if units:
                    return next(iter(units))
        mine = self._forest.partitions
        unscanned = self._replica.unknown.unscanned
        for partition in sorted(unscanned):
            if partition in mine:
                return partition
            self._replica.note_scanned(partition)  # a stand-in's copies: their delivery meets them
        if self.interval_s and mine and now >= self._pass_due:
            self._pass_due = now + self._step_s
            return mine[self._done % len(mine)]
        return None

    def _go_on(self, now: float, partition: PartitionId) -> None:
        budget = self._coordinator.budget
        room = budget.grant(now, limits.SCRUB_RECORDS * limits.BACKGROUND_RECORD_BYTES)
        if not room:
            self._next_turn = budget.next_grant_at(now)
            return
        spent = 0
        while spent < room and self._skip_empty(partition):
            try:
                self._replica.check_room(now)  # of what is found something may be to be removed
            except Overloaded:
                break
            records, size = self._scrub_leaf(partition, self._leaf)
            budget.spend(now, size, 1 + records)
            spent += max(size, (1 + records) * limits.BACKGROUND_RECORD_BYTES)
            self._leaf += 1
        self._next_turn = now + limits.SCRUB_TURN_S
        if self._leaf >= self._forest.leaves:
            self._finish(partition)

    def _finish(self, partition: PartitionId) -> None:
        found, self._partition = self._found, None
        mine = self._forest.partitions
        if partition == mine[self._done % len(mine)]:  # a job may have come before the pass
            self._done = (self._done + 1) % len(mine)
            self._replica.keep_row(ROW, encode([self._done]))
        self.counts["partitions"] += 1
        for figure in FIGURES:
            self.counts[figure] += found[figure]
        if not found["ranges"]:
            self.damaged.discard(partition)
        self._replica.note_scanned(partition)
        for job in list(self._jobs):
            for label, units in list(job.todo.items()):
                if partition in units:
                    job.finish_unit(label, partition, {"partitions": 1, **found})
            if not any(job.todo.values()):
                self._jobs.remove(job)

    def _skip_empty(self, partition: PartitionId) -> bool:
        """Goes on to the next leaf of which the tree or the disk has anything; False at the end. A
        stretch of which the tree has nothing is one look at the disk."""
        forest, leaf = self._forest, self._leaf
        used = forest.first_used(partition, leaf) if leaf < forest.leaves else leaf
        if used > leaf:
            first, _ = forest.leaf_range(partition, leaf)
            _, last = forest.leaf_range(partition, used - 1)
            try:
                row = next(self._reader.scan(first, last), None)
            except CorruptRecord:
                return True  # it is met again in this leaf, or in one after it
            self._leaf = used if row is None else forest.leaf_of(row[0])
        return self._leaf < forest.leaves

    # --- one leaf --------------------------------------------------------------------------------

    def _scrub_leaf(self, partition: PartitionId, leaf: int) -> tuple[int, int]:
        """Looks at all rows of a leaf; how many records and bytes that were."""
        records = size = 0
        first, last = self._forest.leaf_range(partition, leaf)
        replica = self._replica
        try:
            for token, key, stored in list(self._reader.scan(first, last)):
                records += 1
                size += len(stored)
                if not key or token != token_of(key):
                    self._found["misplaced"] += 1
                    self._coordinator.effects.note(
                        "record.misplaced", key=key, partition=partition, token=token.hex()
                    )
                    replica.remove_row(token, key)
                elif replica.survey.verify(key, token, stored):
                    self._found["keys"] += 1
                else:
                    self._found["unreadable"] += 1
        except CorruptRecord as exc:
            self._on_damage(partition, leaf, exc.message)
            return records, size
        if self._forest.is_known(partition, leaf):
            self._compare(partition, leaf)
        return records, size

    def _on_damage(self, partition: PartitionId, leaf: int, reason: str) -> None:
        self._found["ranges"] += 1
        if partition not in self.damaged:
            self.damaged.add(partition)
            self._coordinator.effects.note(
                "store.damaged",
                partition=partition,
                leaf=leaf,
                reason=reason,
                remedy="stop the agent, then: dynagent store rebuild DIR",
            )
        self._replica.note_lost(partition)

    def _compare(self, partition: PartitionId, leaf: int) -> None:
        """The sums of the tree, and those of the disk at this moment."""
        expected = self._forest.leaf(partition, leaf)
        found = self._forest.recompute(partition, leaf)
        if expected is None or found is None or expected == found:
            return
        fewer = expected[0] - found[0]
        self._found["lost" if fewer >= 0 else "phantom"] += max(1, abs(fewer))
        self._coordinator.effects.note(
            "tree.differs", partition=partition, leaf=leaf, records=found[0], expected=expected[0]
        )
        self._forest.rebuild(partition, leaf)
        self._replica.note_lost(partition)

    # --- a kind of job ---------------------------------------------------------------------------

    def units(self, scope: Scope) -> dict[str, list[PartitionId]]:
        ring, own = self._coordinator.ring, self._coordinator.node_id
        if scope.node:
            ring.check_member(scope.node)
        for number in scope.partitions:
            ring.check_partition(number)
        if scope.prefix or scope.preview:
            raise BadRequest("a scrub has neither prefix nor preview: it looks at whole partitions")
        if scope.node not in ("", own):
            return {}
        wanted = set(scope.partitions)
        mine = [at for at in self._forest.partitions if not wanted or at in wanted]
        return {"": mine} if mine else {}

    def start(self, now: float, job: Job) -> None:
        self._jobs.append(job)
        self._next_turn = min(self._next_turn, now)
        self._partition = None  # whoever asks now means what the disk holds now: all of it

    def stop(self, job: Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)

    # --- how far it has come ---------------------------------------------------------------------

    def _load(self) -> int:
        try:
            row = self._reader.get_meta(ROW)
            fields: Any = decode(row) if row is not None else [0]
            return int(fields[0])
        except (CorruptRecord, ProtocolError, TypeError, ValueError, IndexError):
            return 0  # only where to go on: it begins anew

    def document(self) -> dict[str, object]:
        """For the status of this node."""
        return {
            "interval_s": self.interval_s,
            "done": self._done,
            "of": len(self._forest.partitions),
            "under_way": self._partition,
            "damaged": sorted(self.damaged),
            **self.counts,
        }
