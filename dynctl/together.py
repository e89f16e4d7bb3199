"""A job of the whole cluster, from outside: one id that is started, told and cancelled on every
agent. The job lives there: what happens to this command changes nothing about it."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor

from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.core.encoding import decode
from dynagent.core.messages import JOB_START, JOBS_TELL, JobRequest, JobsReply
from dynagent.errors import (
    BadRequest,
    DynagentError,
    NotFound,
    Partial,
    ProtocolError,
    TimedOut,
    Unreachable,
)
from dynctl import options
from dynctl.faults import say
from dynctl.observe import ASKED_AT_ONCE, Observation, Seen
from dynctl.progress import Progress
from dynctl.views.jobs import JobDocument, Part, job_document

_POLL_S_MIN, _POLL_S_MAX = 0.05, 0.5
WAIT_S = options.TIMEOUT_S_MAX  # how long a job is waited for, unless told otherwise


def start(seen: Observation, kind: str, scope: JobRequest) -> str:
    """Starts a job on every agent; returns its id. Raises what an agent refuses it for,
    `Unreachable` if none answers."""
    job = secrets.token_hex(8)
    request = JobRequest(
        JOB_START, job, kind, scope.node, scope.partitions, scope.prefix, scope.preview
    )
    replies = ask(seen, request)
    for reply in replies.values():
        if isinstance(reply, BadRequest):
            raise reply
    if not any(isinstance(reply, list) for reply in replies.values()):
        raise next(iter(replies.values()))  # type: ignore[misc]
    return job


def ask(seen: Observation, request: JobRequest) -> dict[str, list[Part] | DynagentError]:
    """What every agent answers, by node id."""
    with (
        Client([seen.agent], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client,
        ThreadPoolExecutor(ASKED_AT_ONCE) as pool,
    ):
        replies = pool.map(lambda one: _ask(client, one, request), seen.members)
        return {one.member.id: reply for one, reply in zip(seen.members, replies, strict=True)}


def _ask(client: Client, one: Seen, request: JobRequest) -> list[Part] | DynagentError:
    try:
        reply = client.ask(one.member.address, request)
        if not isinstance(reply, JobsReply):
            raise ProtocolError(f"{one.member.address}: {type(reply).__name__} tells of no jobs")
        document = decode(reply.document)
        if not isinstance(document, dict) or not isinstance(document.get("jobs"), list):
            raise ProtocolError(f"{one.member.address}: that tells of no jobs")
        parts: list[Part] = document["jobs"]
        return parts
    except DynagentError as exc:
        return exc


def jobs(seen: Observation) -> list[JobDocument]:
    """All that any agent keeps, newest first."""
    replies = ask(seen, JobRequest(JOBS_TELL))
    found: dict[str, dict[str, Part | None]] = {}
    for node, reply in replies.items():
        for part in reply if isinstance(reply, list) else []:
            found.setdefault(part["id"], {})[node] = part
    silent = _silent(seen, replies)
    documents = [job_document(seen, parts, silent) for parts in found.values()]
    return sorted(documents, key=lambda job: job.begun, reverse=True)


def tell(seen: Observation, job: str, *, goes_on: bool = False) -> JobDocument:
    """Raises `NotFound` if no agent knows it, `Unreachable` if none answers. `goes_on`: unless it
    was cancelled, an agent that was away when it was started gets its part now; the others may have
    ended theirs by then."""
    replies = ask(seen, JobRequest(JOBS_TELL, job))
    parts = {
        node: next((part for part in reply if part["id"] == job), None)
        for node, reply in replies.items()
        if isinstance(reply, list)
    }
    if not parts:
        raise Unreachable("; ".join(str(reply) for reply in replies.values()))
    if not any(parts.values()):
        raise NotFound(f"no agent knows a job {job!r}; see: dynctl jobs ls")
    told = job_document(seen, parts, _silent(seen, replies))
    if not goes_on or told.state == "cancelled" or all(parts.values()):
        return told
    known = next(part for part in parts.values() if part is not None)
    scope = (known["node"], known["partitions"], known["prefix"], known["preview"])
    ask(seen, JobRequest(JOB_START, job, known["kind"], *scope))
    return tell(seen, job)


def _silent(seen: Observation, replies: dict[str, list[Part] | DynagentError]) -> list[str]:
    return [
        one.member.name for one in seen.members if isinstance(replies[one.member.id], DynagentError)
    ]


def wait(verb: str, seen: Observation, job: str, *, timeout_s: float) -> JobDocument:
    """Until it has ended on every agent that answers. ^C and a time-out leave it running, and say
    how to wait on; raises `TimedOut`."""
    deadline = time.monotonic() + timeout_s
    pause_s = _POLL_S_MIN
    told: JobDocument | None = None
    try:
        with Progress(verb) as progress:
            while True:
                told = _patient(seen, job, told)
                if told is not None and told.state != "running":
                    return told
                if told is not None:
                    progress.show(told.done, 0)
                if time.monotonic() + pause_s >= deadline:
                    raise TimedOut(_goes_on(job, told))
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _POLL_S_MAX)
    except KeyboardInterrupt:
        say(f"dynctl: {verb}: interrupted; {_goes_on(job, told)}")
        raise


def _patient(seen: Observation, job: str, before: JobDocument | None) -> JobDocument | None:
    """What is told of it now; as before if nobody answers for a while."""
    try:
        return tell(seen, job, goes_on=True)
    except Unreachable:
        return before


def _goes_on(job: str, told: JobDocument | None) -> str:
    done = f" ({told.done:,} of {told.all:,} partitions done)" if told is not None else ""
    return f"job {job} goes on{done}; see: dynctl jobs wait {job}"


def check_whole(job: JobDocument) -> None:
    """Raises `Partial` unless all agents have done all of it: the last thing that a verb does."""
    problems = [
        f"{row.node} with {row.peer}: {row.problem}" if row.peer else f"{row.node}: {row.problem}"
        for row in job.pairs
        if row.problem
    ]
    if job.silent:
        problems.append(f"no word from {', '.join(job.silent)}")
    if job.state == "cancelled":
        raise Partial(f"job {job.id} was cancelled; see: dynctl jobs status {job.id}")
    if problems or job.state == "incomplete":
        told = "; ".join(problems) or "an agent does not know the job"
        raise Partial(f"job {job.id} is incomplete: {told}; see: dynctl health")
