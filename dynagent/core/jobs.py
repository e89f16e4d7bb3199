"""Jobs: long work that people ask for, which lives on the agents and ends with a report.

A job of the whole cluster is one id that is started on every agent; each does its own part, which
is a number of **units**: a partition, for each of the labels that the job's kind names (for repair
a label is a peer). What is done is written down, so that it goes on after a crash where it was:

    started ──▶ running ──unit by unit──▶ done        its figures, label by label, are the report
                   │  ▲                ├─▶ incomplete  some units could not be done
                   ▼  └─ restart       └─▶ cancelled
                (row of the store)

What holds:

- A unit is done when all that it changed is durable; only then is it written down. A crash costs
  what has been done since the last `JOB_SAVE_S`: it is done again.
- To start an id again, or to cancel what has ended, changes nothing: so both can be repeated.
- A start is answered when it is durable.
- The ring changes: a job goes on with what this node still owns. It gains no units by that.

Kinds are pluggable: `core.repair` has repair and verify. A `Kind` says what the units of a scope
are, works on them however it likes (under the background budget), and reports each to its `Job`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from dynagent import limits
from dynagent.core.admission import Gate
from dynagent.core.coordinator import Coordinator, Operation
from dynagent.core.encoding import decode, encode
from dynagent.core.messages import (
    JOB_CANCEL,
    JOB_START,
    JOBS_TELL,
    Error,
    JobRequest,
    JobsReply,
    Message,
)
from dynagent.core.ports import LinkId, PartitionId, Reader
from dynagent.core.ring import Ring
from dynagent.errors import BadRequest, DiskFull, Overloaded, ProtocolError

RUNNING, DONE, INCOMPLETE, CANCELLED = "running", "done", "incomplete", "cancelled"
_ROW = "job/{}"  # named rows of the store, one for each job that is kept
_FORM = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a job is about: the fields of a JobRequest."""

    node: str = ""  # only what concerns this node
    partitions: tuple[int, ...] = ()  # only these; none: all
    prefix: bytes = b""  # only keys that begin so
    preview: bool = False  # nothing is changed


class Job:
    """One job on this agent."""

    __slots__ = (
        "_on_end",
        "batch",
        "begun_ms",
        "done",
        "ended_ms",
        "figures",
        "id",
        "is_saved",
        "kind",
        "problems",
        "scope",
        "slot",
        "state",
        "todo",
    )

    def __init__(
        self,
        id_: str,
        kind: str,
        scope: Scope,
        *,
        slot: int,
        begun_ms: int,
        on_end: Callable[[Job], None],
    ) -> None:
        self.id = id_
        self.kind = kind
        self.scope = scope
        self.slot = slot  # of its row
        self.state = RUNNING
        self.begun_ms = begun_ms
        self.ended_ms = 0
        self.todo: dict[str, dict[PartitionId, None]] = {}  # by label, in order
        self.done: dict[str, set[PartitionId]] = {}
        self.figures: dict[str, dict[str, int]] = {}  # by label
        self.problems: dict[str, str] = {}  # by label: why it does not go on
        self.is_saved = False
        self.batch = 0  # that its row was last part of
        self._on_end = on_end

    @property
    def is_running(self) -> bool:
        return self.state == RUNNING

    def finish_unit(self, label: str, partition: PartitionId, figures: dict[str, int]) -> None:
        """That unit is done, durably; its figures are added to those of the label. The last one
        ends the job."""
        del self.todo[label][partition]
        self.done.setdefault(label, set()).add(partition)
        self.problems.pop(label, None)
        total = self.figures.setdefault(label, {})
        for name, amount in figures.items():
            total[name] = total.get(name, 0) + amount
        self._touch()

    def give_up(self, label: str, problem: str) -> None:
        """What is left of that label cannot be done."""
        if self.todo[label]:
            self.todo[label].clear()
            self.problems[label] = problem
            self._touch()

    def take_out(self, label: str, partitions: Iterable[PartitionId], problem: str = "") -> None:
        """These units are none any more: the ring has changed."""
        units = self.todo.get(label, {})
        taken = [at for at in partitions if at in units]
        for partition in taken:
            del units[partition]
        if taken:
            if problem:
                self.problems[label] = problem
            self._touch()

    def _touch(self) -> None:
        self.is_saved = False
        if not any(self.todo.values()):
            self._on_end(self)

    def document(self) -> dict[str, object]:
        left = {label: len(units) for label, units in self.todo.items()}
        done = {label: len(units) for label, units in self.done.items()}
        return {
            "id": self.id,
            "kind": self.kind,
            "node": self.scope.node,
            "partitions": list(self.scope.partitions),
            "prefix": self.scope.prefix,
            "preview": self.scope.preview,
            "state": self.state,
            "begun_ms": self.begun_ms,
            "ended_ms": self.ended_ms,
            "labels": {
                label: {
                    "done": done.get(label, 0),
                    "left": left.get(label, 0),
                    "problem": self.problems.get(label, ""),
                    **self.figures.get(label, {}),
                }
                for label in sorted({*left, *done, *self.problems})
            },
        }


class Kind(Protocol):
    """What jobs of one kind do. It may report units from within `start`, or later."""

    @property
    def due(self) -> float:
        """When `on_tick` is."""

    def units(self, scope: Scope) -> dict[str, list[PartitionId]]:
        """This agent's part, by label, in order; raises `BadRequest` for a scope that makes no
        sense. The same under one ring."""

    def start(self, now: float, job: Job) -> None:
        """Works on `job.todo` from now on: reports each by `Job.finish_unit`."""

    def stop(self, job: Job) -> None:
        """It is cancelled: no more of it is done."""

    def on_tick(self, now: float) -> None: ...

    def on_ring(self, now: float, ring: Ring) -> None:
        """The ring is another: what cannot be done under it is taken out of its jobs."""


class Jobs:
    """The jobs that this agent keeps."""

    def __init__(self, coordinator: Coordinator, reader: Reader, kinds: dict[str, Kind]) -> None:
        self.kinds = kinds  # more may be added before the first request
        self.jobs: dict[str, Job] = {}
        self._coordinator = coordinator
        self._reader = reader
        self._due = inf
        self._unstarted: list[Job] = []

    def load(self) -> None:
        """After a start of the agent: what is kept; what was under way goes on at the next tick."""
        for slot in range(limits.JOBS_KEPT):
            row = self._reader.get_meta(_ROW.format(slot))
            if row is None or (job := decode_job(row, slot, self._conclude)) is None:
                continue
            self.jobs[job.id] = job
            if job.is_running and job.kind in self.kinds:
                self._unstarted.append(job)
                self._due = 0.0

    @property
    def under_way(self) -> int:
        return sum(job.is_running for job in self.jobs.values())

    # --- requests --------------------------------------------------------------------------------

    def on_request(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, JobRequest)
        job = self.jobs.get(message.job)
        if message.action == JOBS_TELL:
            self._coordinator.effects.answer(link, request_id, self._reply(message.job))
            return
        if message.action == JOB_START:
            if job is None:
                job = self._create(now, message)
        elif message.action == JOB_CANCEL:
            if job is None:
                raise BadRequest(f"no job {message.job!r} here; see: dynctl jobs ls")
            if job.is_running:
                if job.kind in self.kinds:
                    self.kinds[job.kind].stop(job)
                self._finish(job, CANCELLED)
        else:
            raise BadRequest(f"unknown action {message.action} for jobs")
        replica = self._coordinator.replica
        if not job.is_saved:
            self._save(job)
        if job.batch <= replica.hints.committed:
            self._coordinator.effects.answer(link, request_id, self._reply(job.id))
            return
        waiting = _WaitingReply(self, link, request_id, now + budget_ms / 1000, job.id)
        replica.when_durable(job.batch, (None, waiting.number))

    def _reply(self, job: str) -> JobsReply:
        found = [one for one in self.jobs.values() if job in ("", one.id)]
        found.sort(key=lambda one: one.begun_ms, reverse=True)
        return JobsReply(encode({"jobs": [one.document() for one in found]}))

    def _create(self, now: float, message: JobRequest) -> Job:
        kind = self.kinds.get(message.kind)
        if kind is None:
            raise BadRequest(f"no kind of job {message.kind!r}; known: {', '.join(self.kinds)}")
        if len(message.job) != 16 or set(message.job) - set("0123456789abcdef"):
            raise BadRequest("the id of a job is 16 hex digits")
        scope = Scope(
            node=message.node,
            partitions=tuple(message.partitions),
            prefix=message.prefix,
            preview=message.preview,
        )
        todo = kind.units(scope)
        self._coordinator.replica.check_room(now)
        begun_ms = max(0, self._coordinator.wall_ms())
        job = Job(
            message.job,
            message.kind,
            scope,
            slot=self._free_slot(),
            begun_ms=begun_ms,
            on_end=self._conclude,
        )
        self.jobs[job.id] = job
        self._start(now, job, todo)
        self._save(job)
        return job

    def _free_slot(self) -> int:
        """Raises `Overloaded` if too many jobs are under way."""
        running = [job for job in self.jobs.values() if job.is_running]
        if len(running) >= limits.JOBS_RUNNING_MAX:
            names = ", ".join(job.id for job in running)
            raise Overloaded(f"{len(running)} jobs are under way: {names}; see: dynctl jobs ls")
        used = {job.slot for job in self.jobs.values()}
        free = next((slot for slot in range(limits.JOBS_KEPT) if slot not in used), None)
        if free is None:
            ended = [job for job in self.jobs.values() if not job.is_running]
            oldest = min(ended, key=lambda job: job.ended_ms)
            free = oldest.slot
            del self.jobs[oldest.id]
        return free

    # --- their course ----------------------------------------------------------------------------

    def _start(
        self, now: float, job: Job, todo: dict[str, list[PartitionId]] | None = None
    ) -> None:
        kind = self.kinds[job.kind]
        try:
            units = kind.units(job.scope) if todo is None else todo
        except BadRequest as exc:  # the ring has changed since it was asked for
            job.problems[""] = exc.message
            self._finish(job, INCOMPLETE)
            return
        job.todo = {
            label: {at: None for at in partitions if at not in job.done.get(label, ())}
            for label, partitions in units.items()
        }
        self._due = now + limits.JOB_SAVE_S
        if any(job.todo.values()):
            kind.start(now, job)
        else:
            self._conclude(job)

    def on_ring(self, now: float, ring: Ring) -> None:
        for kind in self.kinds.values():
            kind.on_ring(now, ring)

    def give_up(self, problem: str) -> None:
        """This node is no member any more: it does nothing of any job."""
        for job in self.jobs.values():
            if job.is_running:
                job.problems[""] = problem
                self._finish(job, INCOMPLETE)

    def on_tick(self, now: float) -> None:
        for kind in self.kinds.values():
            if kind.due <= now:
                kind.on_tick(now)
        if now < self._due:
            return
        self._due = inf
        unstarted, self._unstarted = self._unstarted, []
        for job in unstarted:
            if job.is_running:
                self._start(now, job)
        for job in self.jobs.values():
            if not job.is_saved:
                self._save(job)
            if job.is_running:
                self._due = now + limits.JOB_SAVE_S

    @property
    def due(self) -> float:
        """When `on_tick` is."""
        return min(self._due, *(kind.due for kind in self.kinds.values()))

    def _conclude(self, job: Job) -> None:
        """Nothing is left to do."""
        self._finish(job, INCOMPLETE if job.problems else DONE)

    def _finish(self, job: Job, state: str) -> None:
        job.state = state
        job.todo = {}
        job.ended_ms = max(0, self._coordinator.wall_ms())
        self._save(job)
        self._coordinator.effects.note("job.ended", job=job.id, kind=job.kind, state=state)

    def _save(self, job: Job) -> None:
        """Into the open batch. A disk that is full is tried again, as long as the job runs."""
        job.is_saved = True
        row = _ROW.format(job.slot)
        job.batch = self._coordinator.replica.keep_row(row, _encode_job(job))

    def on_refused(self, now: float) -> None:
        """Nothing that was on its way has come to the disk."""
        for job in self.jobs.values():
            job.is_saved = False
        self._due = now + limits.JOB_SAVE_S


class _WaitingReply(Operation):
    """A start, or a cancellation, that waits for the disk."""

    __slots__ = ("job", "jobs")

    def __init__(
        self, jobs: Jobs, link: LinkId, request_id: int, deadline: float, job: str
    ) -> None:
        super().__init__(jobs._coordinator, link, request_id, deadline, gate=Gate())
        self.answered = True  # as far as clients' gets and puts go
        self.jobs = jobs
        self.job = job

    def on_durable(self, now: float) -> None:
        self._conclude(self.jobs._reply(self.job))

    def on_failure(self, now: float, source: object) -> None:
        if source == self.coordinator.node_id:
            error = DiskFull("the agent's disk is full; free some space, and repeat the command")
            self._conclude(Error(error.code, error.message))

    def on_deadline(self, now: float) -> None:
        error = Overloaded("the disk of this agent takes long; repeat the command")
        self._conclude(Error(error.code, error.message))

    def _conclude(self, message: Message) -> None:
        self.coordinator.effects.answer(self.link, self.request_id, message)
        self.finish()


def _encode_job(job: Job) -> bytes:
    scope = job.scope
    done = {label: sorted(partitions) for label, partitions in job.done.items()}
    return encode(
        [
            _FORM,
            job.id,
            job.kind,
            [scope.node, list(scope.partitions), scope.prefix, scope.preview],
            job.state,
            job.begun_ms,
            job.ended_ms,
            done,
            job.figures,
            job.problems,
        ]
    )


def decode_job(row: bytes, slot: int, on_end: Callable[[Job], None]) -> Job | None:
    """None if it is none that this release knows: a report that is lost harms nobody."""
    try:
        fields: Any = decode(row)
        form, id_, kind, scope, state, begun_ms, ended_ms, done, figures, problems, *_ = fields
        if form != _FORM:
            return None
        node, partitions, prefix, preview, *_ = scope
        job = Job(
            id_,
            kind,
            Scope(node=node, partitions=tuple(partitions), prefix=prefix, preview=preview),
            slot=slot,
            begun_ms=begun_ms,
            on_end=on_end,
        )
        job.state, job.ended_ms = state, ended_ms
        job.done = {label: set(map(PartitionId, at)) for label, at in done.items()}
        job.figures = {label: dict(of) for label, of in figures.items()}
        job.problems = dict(problems) if state != RUNNING else {}
        job.is_saved = True
        return job
    except (ProtocolError, TypeError, ValueError, AttributeError):
        return None
