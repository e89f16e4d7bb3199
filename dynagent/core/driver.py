"""The driver: one member takes the change under way through its phases (design §6, steps 3 and 4).

Once a second, while something moves:

    phase 0   the new owners are asked which partitions they have copied. Those that all their new
              owners have enter phase 1: one entry of the log for all of them
    phase 1   N−R+1 of the old owners of each are fenced at (c, 1): from then on no read of R old
              owners succeeds, so none misses what only the new ones are told. Then the entry that
              settles them

Who drives: the member that proposed the change while it is up, as each sees it; else the next one
in the order of ids, and so on around. Whoever stands behind others drives too when nothing has
happened for `DRIVER_SILENCE_S` times its place in that line: a driver that is up and does nothing
is not waited for. Two drivers do no harm: what is asked changes nothing, a fence is raised only to
where the log already is, and an entry is decided once, for what is folded a second time is refused.

So nothing is remembered: a driver that dies is replaced by one that asks again; all is in the ring,
at the new owners and at the fenced ones.

A leaver retires itself (`core.former` empties it): it owns nothing, holds no records and owes no
hints; then it proposes that it is a member no longer.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.fences import new_owners, old_owners, reads_fenced
from dynagent.core.messages import (
    Fence,
    FenceReply,
    Message,
    TransferReply,
    TransferRequest,
)
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.question import ask
from dynagent.core.ring import JOINT_NEW, JOINT_OLD, SETTLED, Ring
from dynagent.core.ringentry import Content, PhaseEntry, RetireEntry
from dynagent.core.sources import Sources
from dynagent.core.transfer import Transfers
from dynagent.core.wait import Wait
from dynagent.errors import DynagentError, Overloaded


class Log(Protocol):
    """What it needs of the ring log."""

    def propose(
        self,
        now: float,
        content: Content,
        on_done: Callable[[float, DynagentError | None], None],
    ) -> None: ...


class Driver:
    """Of this node. `may_retire`: does it hold and owe nothing any more?"""

    def __init__(
        self,
        coordinator: Coordinator,
        log: Log,
        transfers: Transfers,
        sources: Sources,
        *,
        may_retire: Callable[[], bool],
        is_draining: Callable[[], bool],
    ) -> None:
        self.due = 0.0  # when `on_tick` is
        self._coordinator = coordinator
        self._log = log
        self._transfers = transfers
        self._sources = sources
        self._may_retire = may_retire
        self._is_draining = is_draining
        self._epoch_at = -inf  # when the ring became what it is, as far as we know
        self._asked: set[NodeId] = set()  # that have not answered
        self._ready: dict[NodeId, set[PartitionId]] = {}  # new owner → what it has copied
        self._fenced: dict[PartitionId, set[NodeId]] = {}  # at (c, 1)
        change = coordinator.ring.change
        self._index = change.index if change is not None else 0  # of the change this is about
        self._is_proposing = False

    # --- what the node feeds ---------------------------------------------------------------------

    def on_ring(self, now: float, ring: Ring) -> None:
        self._epoch_at = now
        index = ring.change.index if ring.change is not None else 0
        if index != self._index:
            self._index = index
            self._ready.clear()
            self._fenced.clear()
        self.due = now

    def on_tick(self, now: float) -> None:
        if now < self.due:
            return
        self.due = inf
        ring = self._coordinator.ring
        if self._is_draining():
            return
        if ring.change is not None:
            self.due = now + limits.DRIVER_INTERVAL_S
            if self._epoch_at == -inf:
                self._epoch_at = now
            if self._is_my_turn(now, ring):
                self._ask_new_owners(now, ring)
                self._fence(now, ring)
                self._propose_phases(now, ring)
        elif self._coordinator.node_id in ring.leaving:
            self.due = now + limits.DRIVER_INTERVAL_S
            if not self._is_proposing and self._may_retire():
                self._propose(now, RetireEntry(nodes=(self._coordinator.node_id,)))

    def _is_my_turn(self, now: float, ring: Ring) -> bool:
        line = self.line(ring)
        own = self._coordinator.node_id
        if own not in line:
            return False
        silence = limits.DRIVER_SILENCE_S * line.index(own)
        return now >= self._epoch_at + silence

    def line(self, ring: Ring) -> list[NodeId]:
        """Who drives, and who when the first ones do not, as we see it."""
        assert ring.change is not None
        up, first = self._coordinator.up, ring.change.driver
        members = [member.id for member in ring.members if member.id not in ring.removed]
        return sorted((node for node in members if node in up), key=lambda at: (at < first, at))

    # --- phase 0 ---------------------------------------------------------------------------------

    def _ask_new_owners(self, now: float, ring: Ring) -> None:
        own = self._coordinator.node_id
        for node in new_owners(ring):
            if node == own:
                self._ready[own] = set(self._transfers.ready())
            elif node in self._coordinator.up and node not in self._asked:
                self._ask(now, node, TransferRequest(self._index), self._on_ready)

    def _on_ready(self, now: float, index: int, node: NodeId, answer: Message | None) -> None:
        if index == self._index and isinstance(answer, TransferReply):
            self._ready[node] = {PartitionId(at) for at in answer.ready}
            self._propose_phases(now, self._coordinator.ring)

    # --- phase 1 ---------------------------------------------------------------------------------

    def _fence(self, now: float, ring: Ring) -> None:
        """Fences old owners at (c, 1), until enough of each partition's are."""
        own, up = self._coordinator.node_id, self._coordinator.up
        asks: dict[NodeId, list[PartitionId]] = {}
        for partition, move in ring.moves.items():
            if move.phase == JOINT_NEW:
                fenced = self._fenced.setdefault(partition, set())
                for node in old_owners(ring, partition):
                    if node not in fenced and node in up and node not in self._asked:
                        asks.setdefault(node, []).append(partition)
        stamp = (self._index, JOINT_NEW)
        for node, partitions in asks.items():
            partitions = partitions[: limits.TRANSFER_PARTITIONS_MAX]
            if node == own:
                self._fence_ourselves(now, partitions, stamp)
            else:
                self._ask(now, node, Fence(*stamp, list(partitions)), self._told_by(partitions))

    def _fence_ourselves(
        self, now: float, partitions: list[PartitionId], stamp: tuple[int, int]
    ) -> None:
        index, own = self._index, self._coordinator.node_id

        def on_durable(now: float, is_durable: bool) -> None:
            self._asked.discard(own)
            if is_durable and index == self._index:
                self._on_fenced(now, own, partitions)

        self._asked.add(own)
        try:
            Wait(self._coordinator, now, self._sources.fence(partitions, stamp), on_durable)
        except Overloaded:
            self._asked.discard(own)

    def _told_by(
        self, partitions: list[PartitionId]
    ) -> Callable[[float, int, NodeId, Message | None], None]:
        def on_answer(now: float, index: int, node: NodeId, answer: Message | None) -> None:
            if index == self._index and isinstance(answer, FenceReply):
                self._on_fenced(now, node, partitions)

        return on_answer

    def _on_fenced(self, now: float, node: NodeId, partitions: list[PartitionId]) -> None:
        for partition in partitions:
            self._fenced.setdefault(partition, set()).add(node)
        self._propose_phases(now, self._coordinator.ring)

    # --- entries ---------------------------------------------------------------------------------

    def _propose_phases(self, now: float, ring: Ring) -> None:
        """One entry at most, and none within `DRIVER_INTERVAL_S` of the last one: so an entry names
        many partitions, and the log stays short."""
        if self._is_proposing or ring.change is None or ring.change.index != self._index:
            return
        if now < self._epoch_at + limits.DRIVER_INTERVAL_S and self._has_more_to_come(ring):
            self.due = min(self.due, self._epoch_at + limits.DRIVER_INTERVAL_S)
            return
        settled = [at for at in sorted(ring.moves) if self._may_settle(ring, at)]
        copied = [at for at in sorted(ring.moves) if self._is_copied(ring, at)]
        if settled:
            entry = PhaseEntry(index=self._index, phase=SETTLED, partitions=tuple(settled))
        elif copied:
            entry = PhaseEntry(index=self._index, phase=JOINT_NEW, partitions=tuple(copied))
        else:
            return
        self._propose(now, entry)

    def _has_more_to_come(self, ring: Ring) -> bool:
        """Not all of what moves can take its next step now."""
        return not all(self._may_settle(ring, at) or self._is_copied(ring, at) for at in ring.moves)

    def _is_copied(self, ring: Ring, partition: PartitionId) -> bool:
        if ring.moves[partition].phase != JOINT_OLD:
            return False
        return all(partition in self._ready.get(node, ()) for node in ring.new_owners(partition))

    def _may_settle(self, ring: Ring, partition: PartitionId) -> bool:
        if ring.moves[partition].phase != JOINT_NEW:
            return False
        return len(self._fenced.get(partition, ())) >= reads_fenced(ring, partition)

    def _propose(self, now: float, content: Content) -> None:
        def on_done(now: float, error: DynagentError | None) -> None:
            self._is_proposing = False
            self.due = min(self.due, now + limits.DRIVER_INTERVAL_S)

        self._is_proposing = True
        try:
            self._log.propose(now, content, on_done)
        except DynagentError:
            self._is_proposing = False

    # --- asking ----------------------------------------------------------------------------------

    def _ask(
        self,
        now: float,
        node: NodeId,
        message: Message,
        tell: Callable[[float, int, NodeId, Message | None], None],
    ) -> None:
        index = self._index

        def on_answer(now: float, node: NodeId, answer: Message | None) -> None:
            self._asked.discard(node)
            tell(now, index, node, answer)

        deadline = now + limits.DRIVER_ANSWER_S
        if ask(self._coordinator, now, node, message, on_answer, deadline=deadline):
            self._asked.add(node)

    def document(self) -> dict[str, object]:
        """For the status of this node."""
        ring = self._coordinator.ring
        change = ring.change
        if change is None:
            return {}
        line = self.line(ring)
        phases = [move.phase for move in change.moves]
        waiting = {
            node
            for node in new_owners(ring)
            if node not in self._coordinator.up and node not in ring.removed
        }
        return {
            "index": change.index,
            "verb": change.verb,
            "driver": line[0] if line else "",
            "moving": len(phases),
            "copying": phases.count(JOINT_OLD),
            "fencing": phases.count(JOINT_NEW),
            "waiting_for": sorted(waiting),
        }
