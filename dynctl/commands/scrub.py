"""`dynctl scrub`: is what lies on the disks what was written there?"""

from __future__ import annotations

from typing import Annotated

import typer

from dynagent.core.messages import JOBS_TELL, JobRequest
from dynagent.errors import Different
from dynctl import options, together
from dynctl.commands.repair import Partition, Wait
from dynctl.declare import Color, Debug, Endpoints, Form, Verbose
from dynctl.observe import choose, observed
from dynctl.render import default_form, show
from dynctl.views.scrub import scrub_document


def scrub(
    node: Annotated[
        str | None,
        typer.Argument(metavar="NODE", help="Only this one: its name, id or address."),
    ] = None,
    partition: Partition = None,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Wait = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Read all records again and verify them: checksums, places, and the sums of the trees.

    Agents do that by themselves, once in scrub_interval_s; this does it now, and tells. It runs on
    the agents as a job, under their background budget: ^C or --timeout (exit 124) leave it running,
    see dynctl jobs. What is found is named in the agent's log and healed from the other owners; the
    exit status is 12 then, and dynctl doctor tells when all is whole again.

    example: dynctl scrub n2 --timeout 1h
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    timeout_s = options.read_timeout(timeout, together.WAIT_S)
    seen = observed("scrub", endpoint, None, verbose)
    last = seen.ring.partitions - 1
    only = options.read_number(partition, "--partition", low=0, high=last, default=-1)
    scope = JobRequest(
        0,
        node=choose(seen.members, node)[0].member.id if node is not None else "",
        partitions=[only] if only >= 0 else [],
    )
    job = together.start(seen, "scrub", scope)
    told = together.wait("scrub", seen, job, timeout_s=timeout_s)
    parts = {
        member: part
        for member, reply in together.ask(seen, JobRequest(JOBS_TELL, job)).items()
        for part in (reply if isinstance(reply, list) else ())
    }
    document = scrub_document(seen, job, told.state, parts)
    show(document, chosen, when)
    together.check_whole(told)
    if document.found:
        raise Different(
            f"{document.found:,} records are not as they were written; they are being healed from "
            f"the other owners; see: dynctl doctor"
        )
