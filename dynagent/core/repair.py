"""The jobs repair and verify: this node's part of comparing all owners with each other.

A unit is a partition with a peer, of which this node is the earlier owner: all agents together
compare each pair once. Each peer has a tour of anti-entropy (`core.antientropy`). Verify, and the
preview of a repair, move nothing.

A peer that delivers hints to us, or we to it, is compared when those have arrived: the job tells so
meanwhile. One that is down is waited for; after `JOB_PATIENCE_S` its partitions are given up, and
the job ends incomplete. So it does where the ring changes: partitions that move have other owners
than when it was begun. But who is no member any more is not waited for, and leaves nothing to be
done.
"""

from __future__ import annotations

from math import inf

from dynagent import limits
from dynagent.core.antientropy import AntiEntropy
from dynagent.core.coordinator import Coordinator
from dynagent.core.jobs import Job, Scope
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Ring
from dynagent.core.tour import Tour
from dynagent.core.verdict import FIGURES, Verdict

_LOOK_S = 1.0  # between two looks at who is down


class Repair:
    """A kind of job. `moves`: does it make equal what differs?"""

    def __init__(self, coordinator: Coordinator, antientropy: AntiEntropy, *, moves: bool) -> None:
        self.due = inf
        self._coordinator = coordinator
        self._antientropy = antientropy
        self._moves = moves
        self._tours: dict[str, list[tuple[Job, Tour]]] = {}  # by job
        self._down_since: dict[NodeId, float] = {}

    def units(self, scope: Scope) -> dict[str, list[PartitionId]]:
        ring, own = self._coordinator.ring, self._coordinator.node_id
        if scope.node:
            ring.check_member(scope.node)
        for number in scope.partitions:
            ring.check_partition(number)
        wanted = set(scope.partitions)
        found = {}
        for peer in self._antientropy.peers:
            if scope.node in ("", own, peer):
                mine = self._antientropy.mine(peer)
                found[str(peer)] = [at for at in mine if not wanted or at in wanted]
        return {peer: units for peer, units in found.items() if units}

    def start(self, now: float, job: Job) -> None:
        tours = self._tours[job.id] = []
        for peer, units in job.todo.items():
            if units:
                tour = Tour(
                    NodeId(peer),
                    units,
                    lambda now, tour, verdict: self._on_verdict(now, job, tour, verdict),
                    prefix=job.scope.prefix,
                    moves=self._moves and not job.scope.preview,
                )
                tours.append((job, tour))
                self._antientropy.add(now, tour)
        self.due = min(self.due, now + _LOOK_S)

    def stop(self, job: Job) -> None:
        for _, tour in self._tours.pop(job.id, []):
            self._antientropy.cancel(tour)

    def _on_verdict(self, now: float, job: Job, tour: Tour, verdict: Verdict) -> None:
        self._antientropy.note(tour, verdict)
        figures = {name: getattr(verdict, name) for name in FIGURES}
        job.finish_unit(str(tour.peer), verdict.partition, {"partitions": 1, **figures})

    def on_ring(self, now: float, ring: Ring) -> None:
        for tours in list(self._tours.values()):
            for job, tour in list(tours):
                label = str(tour.peer)
                moved = tour.keep(self._antientropy.mine(tour.peer))
                if ring.member(tour.peer) is None:
                    job.take_out(label, moved)
                elif moved:
                    job.take_out(label, moved, f"{len(moved)} partitions have other owners now")
                if not tour.left:
                    self._antientropy.cancel(tour)
                    tours.remove((job, tour))
        gone = [node for node in self._down_since if ring.member(node) is None]
        for node in gone:
            del self._down_since[node]

    def on_tick(self, now: float) -> None:
        """Gives up those that have been down for too long."""
        up = self._coordinator.up
        self.due = inf
        for tours in list(self._tours.values()):
            for job, tour in list(tours):
                if not tour.left:
                    tours.remove((job, tour))
                    continue
                self.due = now + _LOOK_S
                job.problems.pop(str(tour.peer), None)
                if tour.peer in up:
                    self._down_since.pop(tour.peer, None)
                    if tour.problem:
                        job.problems[str(tour.peer)] = tour.problem
                    continue
                since = self._down_since.setdefault(tour.peer, now)
                job.problems[str(tour.peer)] = "it is down"
                if now - since > limits.JOB_PATIENCE_S:
                    self._antientropy.cancel(tour)
                    tours.remove((job, tour))
                    job.give_up(str(tour.peer), "it is down, and was not waited for any longer")
