"""`dynctl ring`: who owns what."""

from __future__ import annotations

from typing import Annotated

import typer

from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynctl import endpoints, options
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Verbose, new_app
from dynctl.faults import say
from dynctl.observe import first_ring, observed
from dynctl.render import default_form, show
from dynctl.views.hints import hint_rows
from dynctl.views.nodes import node_rows
from dynctl.views.ring import (
    PartitionRow,
    RingDocument,
    RingStatusDocument,
    oldest_unverified_s,
)

app = new_app(help="The ring: who owns which part of the key space.")


@app.command(epilog="example: dynctl ring status -o json")
def status(
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """The ring as a whole: epoch, N, R, W, and what each node holds of it."""
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    seen = observed("ring status", endpoint, timeout, verbose)
    ring = seen.ring
    document = RingStatusDocument(
        cluster_id=ring.cluster_id.hex(),
        epoch=ring.epoch,
        n=ring.n,
        r=ring.r,
        w=ring.w,
        partitions=ring.partitions,
        nodes=node_rows(seen),
        unsettled=False,
        hints=sum(row.hints for row in hint_rows(seen)),
        oldest_unverified_s=oldest_unverified_s(seen),
    )
    show(document, chosen, when)


@app.command("show", epilog="example: dynctl ring show --partition 17")
def show_ring(
    partition: Annotated[
        str | None, typer.Option("--partition", metavar="P", help="Only this partition.")
    ] = None,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Each partition's preference list: its owners in order."""
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    timeout_s = options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    found = endpoints.find(endpoint or [])
    with Client(found, timeout_s=timeout_s, learn_ring=False) as client:
        agent, ring = first_ring(client, found)
    if verbose:
        say(f"dynctl: ring show: {agent} answered")
    last = ring.partitions - 1
    only = options.read_number(partition, "--partition", low=0, high=last, default=-1)
    names = {member.id: member.name for member in ring.members}
    width = 2**128 // ring.partitions
    rows = [
        PartitionRow(
            partition=number,
            first_token=f"{number * width:032x}",
            owners=[names[node] for node in owners],
        )
        for number, owners in enumerate(ring.lists)
        if only in (-1, number)
    ]
    document = RingDocument(cluster_id=ring.cluster_id.hex(), epoch=ring.epoch, partitions=rows)
    show(document, chosen, when)
