"""`dynctl bootstrap` and `dynctl health`: the cluster as a whole."""

from __future__ import annotations

from typing import Annotated

import typer

from dynagent import limits
from dynagent.client.bootstrap import bootstrap as make_cluster
from dynagent.errors import BadRequest, Unhealthy
from dynctl import endpoints, options
from dynctl.declare import (
    AllowColocated,
    Color,
    Debug,
    Endpoints,
    Form,
    Timeout,
    Timeout30,
    Verbose,
)
from dynctl.observe import observed
from dynctl.render import default_form, show
from dynctl.views.nodes import HealthDocument, health_document, quorum_words
from dynctl.views.ring import BootstrapDocument

_BOOTSTRAP_S = 30.0


def bootstrap(
    addresses: Annotated[
        list[str], typer.Argument(metavar="ADDR...", help="host:port of every agent.")
    ],
    n: Annotated[
        str | None, typer.Option("--n", metavar="N", help="Owners of each key. Default: 3.")
    ] = None,
    r: Annotated[
        str | None,
        typer.Option("--r", metavar="R", help="Owners that must answer a get. Default: 2."),
    ] = None,
    w: Annotated[
        str | None,
        typer.Option("--w", metavar="W", help="Owners that must have a put on disk. Default: 2."),
    ] = None,
    partitions: Annotated[
        str | None,
        typer.Option(
            "--partitions", metavar="Q", help="A power of two, fixed for good. Default: 256."
        ),
    ] = None,
    allow_colocated: AllowColocated = False,
    form: Form = None,
    color: Color = None,
    timeout: Timeout30 = None,
    debug: Debug = False,
) -> None:
    """Make one cluster of fresh agents.

    Until every agent has been checked nothing is changed. If it is cut short, the same command
    finishes it.

    example: dynctl bootstrap a:7411 b:7411 c:7411
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    checked = endpoints.check(addresses, "ADDR")
    if len(set(checked)) < len(checked):
        raise BadRequest("an address is given twice; write each agent once")
    quorum = limits.N_MAX
    made = make_cluster(
        checked,
        n=options.read_number(n, "--n", low=1, high=quorum, default=3),
        r=options.read_number(r, "--r", low=1, high=quorum, default=2),
        w=options.read_number(w, "--w", low=1, high=quorum, default=2),
        partitions=options.read_number(
            partitions,
            "--partitions",
            low=limits.PARTITIONS_MIN,
            high=limits.PARTITIONS_MAX,
            default=256,
        ),
        allow_colocated=allow_colocated,
        timeout_s=options.read_timeout(timeout, _BOOTSTRAP_S),
    )
    ring = made.ring
    document = BootstrapDocument(
        cluster_id=ring.cluster_id.hex(),
        epoch=ring.epoch,
        n=ring.n,
        r=ring.r,
        w=ring.w,
        partitions=ring.partitions,
        members=sorted(member.name for member in ring.members),
        resumed=made.resumed,
    )
    show(document, chosen, when)


def health(
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Ask every agent whether it serves and is linked with all others, and whether quorums hold.

    They are healthy if every get and put would reach R and W owners now, degraded if only sloppy
    ones would, with the help of stand-ins, and unavailable if some would not. Exit 8 unless all
    agents and the quorums are healthy.

    example: dynctl health || dynctl node ls
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    seen = observed("health", endpoint, timeout, verbose)
    document = health_document(seen)
    show(document, chosen, when)
    check_health(document)


def check_health(document: HealthDocument) -> None:
    """Raises `Unhealthy` naming every agent that is not well, and what that means for quorums."""
    sick = [f"{row.name} is {row.problem}" for row in document.nodes if not row.healthy]
    told = [f"{len(sick)} of {len(document.nodes)} agents: {', '.join(sick)}"] if sick else []
    if not document.healthy:
        raise Unhealthy("; ".join([*told, quorum_words(document)]))
