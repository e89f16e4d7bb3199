"""Repair, and its judge: are replicas made equal, by what is news, and does it end?

In phase 1 jobs are started on everybody who is there, and some are cancelled on the way. At the end
all replicas must become equal, by anti-entropy's own rounds where they are on, else by a repair
job; and once more after one node has lost the records of a partition, as a store that was rolled
back has. What must hold:

    moved_is_news         a record is moved only if the digests of both copies differed when its
                          versions were looked at
    in_flight_is_left     and neither of them had changed within the rest before that look
    repaired_is_equal     a partition that a job has written down as done: both owners have all that
                          either of them held when the job was started, on disk or on its way
                          there (trees have what a batch under way will leave). What has rotted or
                          vanished there since, or had rotted before, was perhaps nowhere else
    replicas_converge     all is well again: all owners of a key hold the same copy, and all owners
                          of a partition the same root
    idle_round_is_silent  and then a round, or another repair, moves nothing
    repair_restores       what a node has lost is what it gets back
    jobs_end              all is well again: every job ends
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynagent import limits
from dynagent.core.jobs import decode_job
from dynagent.core.messages import JOB_CANCEL, JOB_START, JobRequest
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.siblings import Clock
from dynagent.testing.disk import SLOWEST_S
from dynagent.testing.ledger import Ledger, covers
from dynagent.testing.profile import UP_AGAIN_S, Profile
from dynagent.testing.rings import Rings
from dynagent.testing.world import World

if TYPE_CHECKING:
    from dynagent.testing.simnode import SimNode

_SINCE_S = 0.002  # a node learns of a commit that much later than its disk has it
_NOTES_KEPT = 16
_WAIT_S = 90.0  # until all is equal: over the patience of a job, and the pauses after failures
_JOB_S = 70.0


class _Note:
    """Both copies of a key, when one owner told the other its version."""

    __slots__ = ("is_news", "is_rested")

    def __init__(self, *, is_news: bool, is_rested: bool) -> None:
        self.is_news = is_news
        self.is_rested = is_rested


class Repairs:
    """Starts jobs, waits for equality, and judges. `nodes` are set once they are made."""

    def __init__(
        self, *, world: World, rings: Rings, ledger: Ledger, profile: Profile, keys: Sequence[bytes]
    ) -> None:
        self.nodes: dict[NodeId, SimNode] = {}
        self.moved = 0
        self._world = world
        self._rings = rings
        self._ledger = ledger
        self._profile = profile
        self._keys = keys
        self._dice = world.stream("repairs")
        self._notes: dict[tuple[NodeId, NodeId, bytes], deque[_Note]] = {}
        self._jobs = 0
        self._held: dict[str, dict[tuple[NodeId, bytes], Clock]] = {}  # when it started, by job
        self._begun: dict[str, int] = {}  # when that was (order)
        self._told: dict[tuple[NodeId, str], set[tuple[str, PartitionId]]] = {}
        self._is_over = False
        self._mended_at = 0.0

    # --- jobs in phase 1 -------------------------------------------------------------------------

    def begin(self) -> None:
        if self._profile.jobs_s:
            delay_s = self._dice.expovariate(1 / self._profile.jobs_s)
            self._world.after(delay_s, self._start_one)

    def end(self) -> None:
        """Everything is mended."""
        self._is_over = True
        self._mended_at = self._world.now

    def _start_one(self) -> None:
        if self._is_over:
            return
        kind = self._dice.choice(("repair", "repair", "verify"))
        node = self._dice.choice(("", "", *sorted(self.nodes)))
        one = [self._dice.randrange(self._rings.present.partitions)]
        partitions = self._dice.choice(([], [], one))
        preview = self._dice.random() < 0.2
        job = self._start(JobRequest(JOB_START, "", kind, node, partitions, b"", preview))
        if self._dice.random() < 0.3:
            self._world.after(self._dice.uniform(0.0, 2.0), self._cancel, job)
        self.begin()

    def _start(self, request: JobRequest) -> str:
        self._jobs += 1
        job = f"{self._jobs:016x}"
        request.job = job
        self._world.fault("job", f"{job[-2:]} {request.kind}")
        self._begun[job] = self._world.order()
        self._held[job] = {
            (node, key): self._ledger.copy_of(node, key)
            for node in self.nodes
            for key in self._keys
            if (node, key) not in self._ledger.rotten
        }
        for node in self.nodes.values():
            node.order(request)
        return job

    def _cancel(self, job: str) -> None:
        for node in self.nodes.values():
            if node.order(JobRequest(JOB_CANCEL, job)):
                self._world.faults["job_cancelled"] += 1

    def on_job_row(self, node: NodeId, row: bytes) -> None:
        """A job's row has come to a disk: is what it newly claims so?"""
        job = decode_job(row, 0, lambda _job: None)
        assert job is not None, row
        told = self._told.setdefault((node, job.id), set())
        moves = job.kind == "repair" and not job.scope.preview
        for label, partitions in job.done.items():
            figures = job.figures[label]
            is_sure = moves and not figures["changed"] and not figures["unreadable"]
            for partition in sorted(partitions):
                if (label, partition) not in told and is_sure:
                    self._check_repaired(job.id, partition, (node, NodeId(label)))
                told.add((label, partition))

    def _check_repaired(
        self, job: str, partition: PartitionId, pair: tuple[NodeId, NodeId]
    ) -> None:
        held, begun = self._held[job], self._begun[job]
        for key in self._keys:
            if self._rings.partition_of(key) != partition:
                continue
            if any((node, key) in self._ledger.rotten for node in pair):
                continue
            for one, other in (pair, pair[::-1]):
                # A copy that is spoiled before the job looks at it is healed from the others, and
                # what it alone held is gone. When the job looked, nobody here knows.
                if (one, key) not in held or self._ledger.spoiled.get((one, key), 0) > begun:
                    continue
                self._world.verdicts.check(
                    "repaired_is_equal",
                    covers(self.nodes[other].disk.taken.get(key, {}), held[one, key]),
                    f"job {job} is done with partition {partition}, and {other} lacks some of",
                    f"{key!r} that {one} held when it began",
                )

    # --- what is moved ---------------------------------------------------------------------------

    def on_looked(self, asker: NodeId, peer: NodeId, keys: Sequence[bytes]) -> None:
        """`peer` tells `asker` its versions of these keys."""
        for key in keys:
            own, own_since = self.nodes[asker].disk.version(key)
            its, its_since = self.nodes[peer].disk.version(key)
            age_s = self._world.now - max(own_since, its_since)
            rest_s = limits.EXCHANGE_REST_S - _SINCE_S
            note = _Note(is_news=own != its, is_rested=age_s >= rest_s or age_s < _SINCE_S)
            self._notes.setdefault((asker, peer, key), deque(maxlen=_NOTES_KEPT)).append(note)

    def on_moved(self, asker: NodeId, peer: NodeId, key: bytes) -> None:
        """A record goes from one to the other in the exchange that `asker` began."""
        self.moved += 1
        self._world.faults["moved"] += 1
        notes = self._notes.get((asker, peer, key), ())
        what = f"{key!r} between {asker} and {peer}"
        self._check("moved_is_news", any(note.is_news for note in notes), f"{what} was equal")
        self._check(
            "in_flight_is_left",
            any(note.is_news and note.is_rested for note in notes),
            f"{what} had changed just before",
        )

    def _check(self, checker: str, holds: bool, what: str) -> None:
        self._world.verdicts.check(checker, holds, what)

    # --- the end ---------------------------------------------------------------------------------

    def judge(self) -> None:
        """All is mended: jobs end, and replicas become equal, and stay so in silence."""
        self._world.run(until=self._world.now + _JOB_S, unless=self._have_jobs_ended)
        self._check("jobs_end", self._have_jobs_ended(), "a job does not end")
        self._make_equal()
        if self._profile.loses:
            self._lose_and_restore()

    def _make_equal(self) -> None:
        self._round()
        for key in self._keys:
            self._check(
                "replicas_converge",
                len(set(self._digests(key))) <= 1,
                f"owners of {key!r} hold {[digest.hex()[:8] for digest in self._digests(key)]}",
            )
        for number in range(self._rings.present.partitions):
            self._check(
                "replicas_converge",
                self._is_one_root(PartitionId(number)),
                f"owners of partition {number} have several roots, or do not know theirs",
            )
        before = self.moved
        self._round(twice=True)
        self._check(
            "idle_round_is_silent",
            self.moved == before,
            f"{self.moved - before} records moved although all are equal",
        )

    def _round(self, *, twice: bool = False) -> None:
        """Anti-entropy's own, or a repair job; `twice`: not only until all is equal."""
        world, interval_s = self._world, self._profile.antientropy_s
        if not interval_s:
            self._start(JobRequest(JOB_START, "", "repair"))
            world.run(until=world.now + 0.1)
            world.run(until=world.now + _JOB_S, unless=self._have_jobs_ended)
            self._check("jobs_end", self._have_jobs_ended(), "the last repair does not end")
        elif twice:
            world.run(until=world.now + 2 * interval_s + 1.0)
        else:
            world.run(until=world.now + _WAIT_S + 10 * interval_s, unless=self._is_equal)
        world.run(until=world.now + _WAIT_S, unless=self._is_known)

    def _lose_and_restore(self) -> None:
        """A node's store has lost its records of a partition, and its trees say so: it was rolled
        back with them, or a scrub has found it. Or it has lost their journal with them."""
        world = self._world
        number = self._rings.partition_of(self._dice.choice(self._keys))
        victim = self._dice.choice(self._rings.present.lists[number])
        lost = [key for key in self._keys if self._rings.partition_of(key) == number]
        if any(key in self._ledger.ever_rotten for key in lost):
            return  # more than one copy of it would be gone
        node = self.nodes[victim]
        before = {key: node.disk.version(key)[0] for key in lost}
        world.fault("lose", f"{victim[:2]} partition {number}")
        if self._dice.random() < 0.2:
            world.run(until=max(world.now, self._mended_at + UP_AGAIN_S + 0.1))  # see hangs.py
            world.fault("lose_sums", victim[:2])
            node.kill(power=False)
            world.run(until=world.now + 0.1)
            node.disk.lose(lost)
            node.disk.lose_sums()
            node.start()
            world.run(until=world.now + 30.0, unless=self._are_all_up)
        else:
            world.run(until=world.now + SLOWEST_S + 1, unless=lambda: not node.disk.is_busy)
            node.disk.lose(lost)
            node.find_lost(lost)
        self._make_equal()
        for key in lost:
            self._check(
                "repair_restores",
                node.disk.version(key)[0] == before[key] or not any(self._digests(key)),
                f"{victim} has not got back its {key!r}",
            )

    def stop(self) -> None:
        """No more rounds: what is left is left for good."""
        for node in self.nodes.values():
            node.stop_antientropy()

    def _have_jobs_ended(self) -> bool:
        jobs = [node.node.jobs for node in self.nodes.values() if node.node is not None]
        return not any(one.under_way for one in jobs if one is not None)

    def _are_all_up(self) -> bool:
        return all(
            node.node is not None
            and node.node.coordinator is not None
            and len(node.node.coordinator.up) == len(self.nodes)
            for node in self.nodes.values()
        )

    def _is_known(self) -> bool:
        """No tree has an unknown leaf, but those that rot keeps so."""
        return all(
            node.node is None
            or all(self._is_rotten(partition) for partition, _ in node.node.replica.forest.unknown)
            for node in self.nodes.values()
        )

    def _is_equal(self) -> bool:
        return all(len(set(self._digests(key))) <= 1 for key in self._keys) and all(
            self._is_one_root(PartitionId(number))
            for number in range(self._rings.present.partitions)
        )

    def _digests(self, key: bytes) -> list[bytes]:
        """Of the owners' copies, as far as they are sound."""
        owners = self._rings.owners_of(key)
        return [
            self.nodes[owner].disk.version(key)[0]
            for owner in owners
            if (owner, key) not in self._ledger.rotten
        ]

    def _is_one_root(self, partition: PartitionId) -> bool:
        if self._is_rotten(partition):
            return True
        roots = {
            node.node.replica.forest.root(partition)
            for owner in self._rings.present.lists[partition]
            if (node := self.nodes[owner]).node is not None
        }
        return len(roots) == 1 and b"" not in roots

    def _is_rotten(self, partition: PartitionId) -> bool:
        return any(self._rings.partition_of(key) == partition for _, key in self._ledger.rotten)
