"""`dynctl jobs`: what agents do for a while, and have done."""

from __future__ import annotations

from typing import Annotated

import typer

from dynagent.core.messages import JOB_CANCEL, JobRequest
from dynagent.errors import BadRequest
from dynctl import options, together
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Verbose, new_app, option
from dynctl.observe import check_all_answered, observed
from dynctl.render import default_form, show
from dynctl.views.jobs import JobsDocument, job_row

app = new_app(help="What agents do for a while, such as a repair, and their reports.")
Id = Annotated[str, typer.Argument(metavar="JOB", help="Its id; see: dynctl jobs ls")]
Wait = Annotated[str | None, option(options.timeout("10m"))]


@app.command("ls", epilog="example: dynctl jobs ls -o plain | cut -f1,3")
def ls(
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """The jobs that agents keep, newest first: those under way, and the latest that have ended."""
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    seen = observed("jobs ls", endpoint, timeout, verbose)
    show(JobsDocument(jobs=[job_row(job) for job in together.jobs(seen)]), chosen, when)
    check_all_answered(seen.members)


@app.command("status", epilog="example: dynctl jobs status 5f0c2a9b81d3e647 -o json")
def status(
    job: Id,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """How far a job is, and its report so far, pair by pair."""
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    seen = observed("jobs status", endpoint, timeout, verbose)
    show(together.tell(seen, job), chosen, when)
    check_all_answered(seen.members)


@app.command("wait", epilog="example: dynctl jobs wait 5f0c2a9b81d3e647 --timeout 5m")
def wait(
    job: Id,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Wait = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Wait until a job has ended, and print its report; exit 124 if that takes too long.

    Exit 11 if some of it could not be done, or it was cancelled.
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    timeout_s = options.read_timeout(timeout, together.WAIT_S)
    seen = observed("jobs wait", endpoint, None, verbose)
    together.tell(seen, job)
    told = together.wait("jobs wait", seen, job, timeout_s=timeout_s)
    show(told, chosen, when)
    together.check_whole(told)


@app.command("cancel", epilog="example: dynctl jobs cancel 5f0c2a9b81d3e647")
def cancel(
    job: Id,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Stop a job on every agent. What it has done stays done; a second time changes nothing."""
    seen = observed("jobs cancel", endpoint, timeout, verbose)
    together.tell(seen, job)
    replies = together.ask(seen, JobRequest(JOB_CANCEL, job))
    for reply in replies.values():
        if not isinstance(reply, list | BadRequest):  # one that never knew it need not stop it
            raise reply
    check_all_answered(seen.members)
