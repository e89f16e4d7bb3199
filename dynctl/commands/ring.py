"""`dynctl ring`: who owns what, and how that came about."""

from __future__ import annotations

from typing import Annotated

import typer

from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.client.proposing import history as read_log
from dynagent.client.proposing import ring_of
from dynagent.errors import Different, WrongCluster
from dynctl import changing, endpoints, options, planfile, settling
from dynctl.declare import (
    Color,
    Debug,
    DryRun,
    Endpoints,
    Form,
    Settle,
    Timeout,
    Timeout10m,
    Verbose,
    Yes,
    new_app,
)
from dynctl.faults import say
from dynctl.observe import choose, first_ring, observed
from dynctl.render import default_form, show
from dynctl.views.history import diff_document, history_document
from dynctl.views.ring import ring_document, ring_status_document

app = new_app(help="The ring: who owns which part of the key space.")
OneNode = Annotated[str, typer.Argument(metavar="NODE", help="A member: name, id or address.")]


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
    show(ring_status_document(seen), chosen, when)


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
    show(ring_document(ring, only), chosen, when)


@app.command(epilog="example: dynctl ring history -o jsonl | head")
def history(
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """What has been decided about the ring, newest first: the entries of its log that are kept.

    A command that did not learn what became of its change finds it here by its id, or not at all.
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    timeout_s = options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    found = endpoints.find(endpoint or [])
    with Client(found, timeout_s=timeout_s, learn_ring=False) as client:
        agent, ring = first_ring(client, found)
        log = read_log(client, agent)
    if verbose:
        say(f"dynctl: ring history: {agent} answered")
    show(history_document(ring, log), chosen, when)


@app.command(epilog="example: dynctl ring diff n1 n2 && echo they agree")
def diff(
    left: OneNode,
    right: OneNode,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compare the rings that two agents have; exit 12 if they differ.

    No rows: they are the same. One that lags behind for a moment is no cause for alarm.
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    timeout_s = options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    seen = observed("ring diff", endpoint, timeout, verbose)
    names = [choose(seen.members, node)[0].member for node in (left, right)]
    with Client([seen.agent], timeout_s=timeout_s, learn_ring=False) as client:
        one, other = (ring_of(client, member.address) for member in names)
    document = diff_document(one, other)
    show(document, chosen, when)
    if document.differences:
        raise Different(
            f"the rings of {names[0].name} (epoch {one.epoch}) and {names[1].name} (epoch "
            f"{other.epoch}) differ; see: dynctl ring history"
        )


@app.command(epilog="example: dynctl leave n4 --out plan.json && dynctl ring apply plan.json")
def apply(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A plan that a verb has written with --out.")
    ],
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Settle = False,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout10m = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Carry out a plan that was kept in a file; exit 10 if the ring has changed since then.

    A plan is carried out once: applied again, it is found to be done.
    """
    wish = changing.read_wish("ring apply", dry_run, None, yes, wait, form, color, timeout)
    cluster_id, epoch, entry = planfile.load(file)
    seen = observed("ring apply", endpoint, None, verbose)
    if cluster_id != seen.ring.cluster_id.hex():
        raise WrongCluster(f"{file} is a plan for cluster {cluster_id}, not for this one")
    changing.apply(seen, entry, wish, epoch=epoch)


@app.command(epilog="example: dynctl ring force n1 n4 && dynctl remove n2 n3 --force")
def force(
    nodes: Annotated[
        list[str] | None,
        typer.Argument(metavar="NODE...", help="Who shall vote. Default: chosen of those up."),
    ] = None,
    yes: Yes = False,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """For the day on which most voters are lost for good: let other nodes vote from now on.

    Only if they can never come back: one that does finds itself in a cluster that has gone on
    without it, and is refused, and what only the lost ones had decided is given up. While more than
    half of the voters are up it is refused. No data is touched; remove the dead nodes next.
    """
    options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    seen = observed("ring force", endpoint, timeout, verbose)
    chosen = [choose(seen.members, node)[0].member.id for node in nodes or []]
    epoch = changing.force(seen, chosen, yes=yes)
    say(f"dynctl: ring force: decided, as epoch {epoch}; see: dynctl remove --help")


@app.command(epilog="example: dynctl ring abort --wait")
def abort(
    yes: Yes = False,
    wait: Settle = False,
    endpoint: Endpoints = None,
    timeout: Timeout10m = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Take back the change under way: partitions that are still being copied stay where they were.

    Those that are read from their new owners already go on to the end, so afterwards the ring may
    be out of balance; the next change puts that right. A removal cannot be taken back.
    """
    timeout_s = options.read_timeout(timeout, options.TIMEOUT_S_MAX)
    seen = observed("ring abort", endpoint, None, verbose)
    epoch = changing.abort(seen, yes=yes)
    if wait:
        settling.wait_settled("ring abort", seen, epoch=epoch, timeout_s=timeout_s)
