"""Transfer: how this node comes to own a partition that it gains (design §6, step 2).

While a partition moves in phase 0 each of its new owners does this by itself:

    FENCING ──▶ N−W+1 of the old owners have answered a Fence (all that are up are asked)
    ADOPTING    takes the highest purge barrier and floor that they have told; durable ──▶ it
       │        *accepts*: from now on it merges what puts send it, and counts in L'
    COPYING ──▶ N−W+1 full passes over fenced sources (`core.copying`) are over
    READY       durable. The driver (`core.driver`) asks which are, and the log decides phase 1

What holds:

- Whatever W of the old owners had acknowledged under an older stamp was on the disk of one of the
  fenced ones when it answered: any W and any N−W+1 of N meet. What comes later comes to the new
  owners too.
- Before it has the barrier and the floor nothing is merged: a late Merge could bring back what the
  old owners have purged.
- A copy of which a source is not sure counts for nothing: such a key must come from as many others
  as a pass would. A source whose passes leave keys open is asked again when it has been healed.
- Nothing is ever undone: an abort makes this node a former owner (`core.former`).

Fences are sent for all partitions at once, one message to each old owner; so puts wait for a new
owner no longer than a round trip. Copies are made of a few partitions at a time, from the source
that has least to do for us; each new owner begins elsewhere on the ring, so that no source is asked
by all of them.

One row of the store for each partition (`transfer/<number>`) has what a crash must not lose: that
it has adopted, which passes are over, and that it is ready. How far a pass has come says the tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from zlib import crc32

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.copying import Figures, Pass
from dynagent.core.fences import old_owners, writes_fenced
from dynagent.core.gained import ADOPTING, COPYING, FENCING, READY, ROW, SEALING, Gained
from dynagent.core.messages import Fence, FenceReply, Message
from dynagent.core.ports import NodeId, PartitionId, Reader
from dynagent.core.progress import Pace
from dynagent.core.question import ask
from dynagent.core.ring import JOINT_OLD, Ring, Stamp
from dynagent.core.wait import Wait
from dynagent.errors import CorruptRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


class _OldOwner:
    """One of those that are to be fenced."""

    __slots__ = ("due", "is_asked", "pause_s")

    def __init__(self) -> None:
        self.due = 0.0
        self.pause_s = 0.0
        self.is_asked = False


class Transfers:
    """All partitions that this node gains by the change under way."""

    def __init__(
        self, coordinator: Coordinator, reader: Reader, *, is_draining: Callable[[], bool]
    ) -> None:
        self.pace = Pace()
        self._coordinator = coordinator
        self._replica = coordinator.replica
        self._reader = reader
        self._is_draining = is_draining
        self._gained: dict[PartitionId, Gained] = {}
        self._order: list[Gained] = []  # those that are not ready, in the order of our passes
        self._running: list[Gained] = []
        self._old_owners: dict[NodeId, _OldOwner] = {}
        self._index = 0  # of the change under way, or of the last one
        self._past = Figures()  # of what has entered phase 1 since the start, for people
        self._fence_at = 0.0  # when to look whom to fence
        self._begin_at = 0.0  # when to look which pass to begin
        self._take(coordinator.ring)

    # --- what the node feeds ---------------------------------------------------------------------

    def on_ring(self, now: float, ring: Ring) -> None:
        """Another ring is in force here, durably."""
        for partition in self._take(ring):
            self._replica.keep_row(ROW.format(partition), b"")
        self._fence_at = self._begin_at = now

    def _take(self, ring: Ring) -> list[PartitionId]:
        """Begins with what is gained now; returns what is not, or not yet, under way any more."""
        own, index = self._coordinator.node_id, ring.change.index if ring.change else 0
        stamp = (index, JOINT_OLD)
        gained = {
            partition
            for partition, move in ring.moves.items()
            if move.phase == JOINT_OLD and own in ring.new_owners(partition)
        }
        ended = [at for at, one in self._gained.items() if at not in gained or one.stamp != stamp]
        if index not in (0, self._index):  # afterwards its figures stay, for people
            self._index, self._past, self.pace = index, Figures(), Pace()
            self._old_owners.clear()
        for partition in ended:
            one = self._gained.pop(partition)
            if one.running is not None:
                one.running.stop()
            if one.stamp == stamp:
                self._past.records += one.figures.records
                self._past.bytes += one.figures.bytes
        for partition in sorted(gained.difference(self._gained)):
            self._gained[partition] = self._load(ring, partition, stamp)
        # Each new owner begins elsewhere on the ring, so that no source is asked by all of them.
        start = crc32(own.encode()) % ring.partitions
        waiting = [one for one in self._gained.values() if one.state != READY]
        self._order = sorted(waiting, key=lambda one: (one.partition - start) % ring.partitions)
        self._running = [one for one in self._order if one.running is not None]
        return ended

    def _load(self, ring: Ring, partition: PartitionId, stamp: Stamp) -> Gained:
        gained = Gained(partition, stamp, writes_fenced(ring, partition))
        try:
            gained.restore(self._reader.get_meta(ROW.format(partition)))
        except CorruptRecord as exc:  # it begins anew
            self._coordinator.effects.note("transfer.row_damaged", reason=exc.message)
        return gained

    def wake(self, now: float, node: NodeId) -> None:
        """`node` has come up: what has waited for it goes on."""
        if (old := self._old_owners.get(node)) is not None:
            old.due, old.pause_s = now, 0.0
        for gained in self._order:
            if node in gained.fenced:
                gained.due, gained.pause_s = min(gained.due, now), 0.0
        self._fence_at = self._begin_at = now

    def on_refused(self, now: float) -> None:
        """Our disk was full: what was merged last is not here after all."""
        for gained in list(self._running):
            if gained.running is not None:
                gained.running.stop()
                self._on_pass(now, gained.running, "the disk of this agent is full")

    @property
    def due(self) -> float:
        """When `on_tick` is; infinite if nothing is gained, or all of it waits for answers, or for
        who is down (`wake`)."""
        if not self._order:
            return inf
        due = self._fence_at
        for gained in self._running:
            if gained.running is not None:
                due = min(due, gained.running.due)
        if len(self._running) < limits.TRANSFER_AT_ONCE:
            due = min(due, self._begin_at)
        return due

    def on_tick(self, now: float) -> None:
        if not self._order or self._is_draining():
            self._fence_at = self._begin_at = inf
            return
        if self._fence_at <= now:
            self._fence(now)
        for gained in list(self._running):
            if gained.running is not None and gained.running.due <= now:
                gained.running.go_on(now)
        if self._begin_at <= now:
            self._begin_passes(now)
        if self.pace.is_due(now):
            self.pace.note(now, *self._copied())

    # --- what others ask -------------------------------------------------------------------------

    def accepts(self, partition: PartitionId) -> bool:
        """May records of that partition be merged here, and be counted? Not before this new owner
        has what its fences told of purged tombstones."""
        gained = self._gained.get(partition)
        return gained is None or gained.state in (COPYING, SEALING, READY)

    def ready(self) -> list[PartitionId]:
        """What this node gains and has copied, durably."""
        return sorted(at for at, gained in self._gained.items() if gained.state == READY)

    # --- fences ----------------------------------------------------------------------------------

    def _fence(self, now: float) -> None:
        """Asks those that are up and not fenced yet, each for all its partitions at once."""
        ring, up = self._coordinator.ring, self._coordinator.up
        asks: dict[NodeId, list[PartitionId]] = {}
        for gained in self._order:
            for node in old_owners(ring, gained.partition):
                if node not in gained.fenced:
                    asks.setdefault(node, []).append(gained.partition)
        self._fence_at = inf
        for node, partitions in asks.items():
            old = self._old_owners.setdefault(node, _OldOwner())
            if node in up and not old.is_asked:
                if old.due <= now:
                    self._ask_fence(now, node, old, partitions[: limits.TRANSFER_PARTITIONS_MAX])
                else:
                    self._fence_at = min(self._fence_at, old.due)

    def _ask_fence(
        self, now: float, node: NodeId, old: _OldOwner, partitions: list[PartitionId]
    ) -> None:
        stamp = self._gained[partitions[0]].stamp

        def on_answer(now: float, source: NodeId, answer: Message | None) -> None:
            old.is_asked = False
            if isinstance(answer, FenceReply) and len(answer.barriers) == len(partitions):
                old.pause_s = 0.0
                self._on_fenced(now, node, stamp, partitions, answer)
            else:  # with RingIs as its answer the node brings both to one ring
                old.pause_s = _longer(old.pause_s)
                old.due = now + old.pause_s
            self._fence_at = now

        fence = Fence(*stamp, list(partitions))
        deadline = now + limits.TRANSFER_ANSWER_S
        old.is_asked = ask(self._coordinator, now, node, fence, on_answer, deadline=deadline)
        if not old.is_asked:
            self._fence_at = min(self._fence_at, now + limits.TRANSFER_RETRY_S)

    def _on_fenced(
        self,
        now: float,
        node: NodeId,
        stamp: Stamp,
        partitions: list[PartitionId],
        reply: FenceReply,
    ) -> None:
        adopting: list[Gained] = []
        for place, partition in enumerate(partitions):
            gained = self._gained.get(partition)
            if gained is None or gained.stamp != stamp:
                continue
            gained.fenced[node] = (reply.barriers[place], reply.floors[place])
            gained.records = max(gained.records, reply.records[place])
            if gained.state == FENCING and len(gained.fenced) >= gained.needed:
                adopting.append(gained)
        self._adopt(now, adopting)

    def _adopt(self, now: float, all_gained: list[Gained]) -> None:
        """Takes over where the old owners stand, for all of these in one batch."""
        if not all_gained:
            return
        number = 0
        for gained in all_gained:
            barrier = max(barrier for barrier, _ in gained.fenced.values())
            floor = max(floor for _, floor in gained.fenced.values())
            self._replica.adopt(gained.partition, barrier, floor)
            gained.state = ADOPTING
            number = self._save(gained)

        def on_durable(now: float, is_durable: bool) -> None:
            for gained in all_gained:
                if gained.state == ADOPTING:
                    gained.state = COPYING if is_durable else FENCING
                    if not is_durable:
                        gained.fenced.clear()
            self._fence_at = self._begin_at = now

        Wait(self._coordinator, now, number, on_durable)

    # --- passes ----------------------------------------------------------------------------------

    def _begin_passes(self, now: float) -> None:
        self._begin_at = inf
        busy = Counter(one.running.source for one in self._running if one.running is not None)
        for gained in self._order:
            if len(self._running) >= limits.TRANSFER_AT_ONCE:
                return
            if gained.state != COPYING or gained.running is not None:
                continue
            source = self._next_source(gained, busy)
            if source is None:
                gained.problem = "too few of its old owners can be copied from"
            elif gained.due > now:
                self._begin_at = min(self._begin_at, gained.due)
            else:
                busy[source] += 1
                self._begin(now, gained, source)

    def _begin(self, now: float, gained: Gained, source: NodeId) -> None:
        gained.running = Pass(
            self._coordinator,
            gained.partition,
            gained.stamp,
            source,
            gained.figures,
            self._on_pass,
        )
        self._running.append(gained)
        gained.running.go_on(now)

    def _next_source(self, gained: Gained, busy: Counter[NodeId]) -> NodeId | None:
        """Of the fenced ones that are up: who has least to do for us, each partition beginning with
        another."""
        up, order = self._coordinator.up, sorted(gained.fenced)
        left = [node for node in order if node in up and node not in gained.done]
        turn = gained.partition % len(order)
        return min(
            left,
            key=lambda node: (busy[node], (order.index(node) - turn) % len(order)),
            default=None,
        )

    def _on_pass(self, now: float, ended: Pass, problem: str) -> None:
        gained = self._gained.get(ended.partition)
        if gained is None or gained.running is not ended:
            return
        gained.running = None
        self._running.remove(gained)
        self._begin_at = now
        if problem:
            self._pause(now, gained, f"{self._coordinator.names([ended.source])}: {problem}")
            return
        gained.done.append(ended.source)
        if ended.excepted:
            gained.excepted[ended.source] = ended.excepted
        if gained.is_copied:
            self._seal(now, gained)
            return
        self._save(gained)
        if set(gained.fenced) <= set(gained.done):
            # Nobody is left who has not been asked: those that were not sure of some keys are asked
            # again, when they may have been healed.
            count = sum(len(keys) for keys in gained.excepted.values())
            self._pause(now, gained, f"{count} copies at its old owners cannot be read")
            gained.done = [node for node in gained.done if node not in gained.excepted]
            gained.excepted.clear()
        else:
            gained.pause_s, gained.problem = 0.0, ""

    def _seal(self, now: float, gained: Gained) -> None:
        """It is all here: ready once that is written down."""
        gained.state = SEALING
        gained.problem = ""

        def on_durable(now: float, is_durable: bool) -> None:
            if gained.state == SEALING:
                gained.state = READY if is_durable else COPYING
                if not is_durable:
                    gained.done.clear()
                elif gained in self._order:
                    self._order.remove(gained)
                self._begin_at = now

        Wait(self._coordinator, now, self._save(gained), on_durable)

    def _pause(self, now: float, gained: Gained, problem: str) -> None:
        gained.problem = problem
        gained.pause_s = _longer(gained.pause_s)
        gained.due = now + gained.pause_s

    def _save(self, gained: Gained) -> int:
        """Writes its row with the open batch, whose number it returns."""
        return self._replica.keep_row(ROW.format(gained.partition), gained.row())

    # --- for people ------------------------------------------------------------------------------

    def _copied(self) -> tuple[int, int]:
        figures = [self._past, *(gained.figures for gained in self._gained.values())]
        return sum(one.records for one in figures), sum(one.bytes for one in figures)

    def document(self, now: float, *, by_partition: bool = False) -> dict[str, object]:
        """For the status of this node."""
        states = [gained.state for gained in self._gained.values()]
        records, size = self._copied()
        total = self._past.records
        total += sum(max(one.records, one.figures.records) for one in self._gained.values())
        left = sum(
            max(0, one.records - one.figures.records)
            for one in self._gained.values()
            if one.state != READY
        )
        document: dict[str, object] = {
            "index": self._index,
            "partitions": {state: states.count(state) for state in sorted(set(states))},
            "records": records,
            "bytes": size,
            "records_total": total,
            "bytes_total": int(total * size / records) if records else 0,
            "sources": sorted(
                {one.running.source for one in self._gained.values() if one.running is not None}
            ),
            "problems": sorted({one.problem for one in self._gained.values() if one.problem}),
            **self.pace.document(now, left),
        }
        if by_partition:
            document["by_partition"] = [
                [at, one.state, one.figures.records, one.records, one.figures.bytes, one.problem]
                for at, one in sorted(self._gained.items())
            ]
        return document


def _longer(pause_s: float) -> float:
    return min(2 * pause_s or limits.TRANSFER_RETRY_S, limits.TRANSFER_PAUSE_S_MAX)
