"""`dynctl repair` and `dynctl verify`: are all replicas equal, and make them so."""

from __future__ import annotations

from typing import Annotated

import typer

from dynagent.core.messages import JobRequest
from dynagent.errors import Different, Partial
from dynctl import options, roots, streams, together
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Verbose, option
from dynctl.observe import Observation, choose, observed
from dynctl.render import default_form, show
from dynctl.views.jobs import JobDocument

Wait = Annotated[str | None, option(options.timeout("10m"))]
Partition = Annotated[
    str | None, typer.Option("--partition", metavar="P", help="Only this partition.")
]


def repair(
    node: Annotated[
        str | None,
        typer.Argument(metavar="NODE", help="Only its pairs: its name, id or address."),
    ] = None,
    partition: Partition = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="K", help="Only keys that begin so.")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Tell what differs, and change nothing.")
    ] = False,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Wait = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compare all owners of each partition with each other, and make equal what differs.

    Agents do that by themselves (antientropy_interval_s); this does it now, and tells. It runs on
    the agents as a job, under their background budget: ^C or --timeout (exit 124) leave it running,
    see dynctl jobs. Only keys that differ are moved. With --preview exit 12 if some do; exit 11 if
    some could not be compared or made equal.

    example: dynctl repair --preview || dynctl repair
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    timeout_s = options.read_timeout(timeout, together.WAIT_S)
    seen = observed("repair", endpoint, None, verbose)
    scope = _scope(seen, node, partition, prefix)
    scope.preview = preview
    job = together.start(seen, "repair", scope)
    told = together.wait("repair", seen, job, timeout_s=timeout_s)
    show(told, chosen, when)
    together.check_whole(told)
    if preview:
        _check_equal(told)
    elif told.unreadable or told.healed < told.differing:
        left = told.differing - told.healed
        raise Partial(
            f"{left:,} keys could not be made equal, of {told.unreadable:,} a copy cannot be read; "
            f"see: dynctl jobs status {job}"
        )


def verify(
    out: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE", help="Also write epoch, owners and roots there; see recheck."
        ),
    ] = None,
    partition: Partition = None,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Wait = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compare all owners of each partition with each other; exit 12 if some differ.

    Nothing is changed. Keys that are being written meanwhile are no difference. --out keeps epoch,
    owners and the roots of their trees, so that one can tell later whether all is as it was.

    example: dynctl verify --out before.json && dynctl recheck before.json
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    timeout_s = options.read_timeout(timeout, together.WAIT_S)
    seen = observed("verify", endpoint, None, verbose)
    scope = _scope(seen, None, partition, None)
    job = together.start(seen, "verify", scope)
    told = together.wait("verify", seen, job, timeout_s=timeout_s)
    if out is not None:
        streams.write_file(out, roots.report(seen, told, scope.partitions))
    show(told, chosen, when)
    together.check_whole(told)
    _check_equal(told)


def recheck(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A report that verify --out has written.")
    ],
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compare every owner's trees with an earlier report; exit 12 if any is not as it was.

    Owners are not compared with each other, see dynctl verify. Each write changes a root.

    example: dynctl verify --out before.json && dynctl recheck before.json
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    report = roots.load(file)
    again = roots.recheck(observed("recheck", endpoint, timeout, verbose), report)
    show(again, chosen, when)
    if again.same < again.checked:
        raise Different(
            f"{again.checked - again.same:,} of {again.checked:,} partitions are not as they were "
            f"at {again.taken}; see: dynctl verify"
        )


def _scope(
    seen: Observation, node: str | None, partition: str | None, prefix: str | None
) -> JobRequest:
    last = seen.ring.partitions - 1
    only = options.read_number(partition, "--partition", low=0, high=last, default=-1)
    return JobRequest(
        0,
        node=choose(seen.members, node)[0].member.id if node is not None else "",
        partitions=[only] if only >= 0 else [],
        prefix=prefix.encode("utf-8", "surrogateescape") if prefix is not None else b"",
    )


def _check_equal(told: JobDocument) -> None:
    """Raises `Different` if they are not."""
    if told.differing or told.unreadable:
        raise Different(
            f"{told.differing:,} keys differ between two owners, of {told.unreadable:,} a copy "
            f"cannot be read; see: dynctl repair"
        )
