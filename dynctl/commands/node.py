"""`dynctl node`: the members of the ring."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any

import typer

from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.client.bootstrap import status_of
from dynagent.client.changes import plan_members
from dynagent.core.messages import HINTS_NOW, DrainOrder, HintOrder
from dynagent.errors import BadRequest, TimedOut
from dynctl import changing, endpoints, options
from dynctl.declare import (
    AllowColocated,
    Color,
    Debug,
    DryRun,
    Endpoints,
    Form,
    PlanOut,
    Settle,
    Timeout,
    Timeout10m,
    Timeout60,
    Verbose,
    Yes,
    new_app,
)
from dynctl.observe import Observation, choose, observed
from dynctl.options import read_capacity
from dynctl.render import default_form, show
from dynctl.views.nodes import NodesDocument, told_node_rows

_DRAIN_S = 60.0
_POLL_S = 0.2

app = new_app(help="The nodes of the cluster.")
Name = Annotated[str, typer.Argument(metavar="NODE", help="A member: its name, id or address.")]


@app.command("ls", epilog="example: dynctl node ls -o plain | cut -f1,3")
def ls(
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """All nodes: address, place, whether they are up and what share of the ring they hold.

    LIVENESS is what the agent that answers and this command find: up, down, unlinked, unreachable,
    suspect, dead or gray; dynctl schema node ls says what each means.

    The last columns (release, load) are what gossip has told the agent that answers: of a node that
    is down, the last that it said.
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    seen = observed("node ls", endpoint, timeout, verbose, facts=True)
    show(NodesDocument(nodes=told_node_rows(seen)), chosen, when)


@app.command("set", epilog="example: dynctl node set n4 --capacity 200 --wait")
def set_node(
    node: Name,
    capacity: Annotated[
        str | None,
        typer.Option(
            "--capacity",
            metavar="C",
            help="Its weight beside the others. 0: a router, which stores nothing.",
        ),
    ] = None,
    zone: Annotated[str | None, typer.Option("--zone", metavar="Z", help="Its zone.")] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="H", help="Its host.")] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDR", help="host:port at which others reach it."),
    ] = None,
    allow_colocated: AllowColocated = False,
    dry_run: DryRun = False,
    out: PlanOut = None,
    yes: Yes = False,
    wait: Settle = False,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout10m = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Change what the ring says of a member; partitions move as that asks for.

    What is not given stays as it is. The ring is what counts: what the agent's own configuration
    says of these was for when it joined.
    """
    wish = changing.read_wish("node set", dry_run, out, yes, wait, form, color, timeout)
    weight = read_capacity(capacity)
    at = endpoints.check([address], "--address")[0] if address is not None else None
    if capacity is None and zone is None and host is None and at is None:
        raise BadRequest("nothing is given that shall change; see: dynctl node set --help")
    seen = observed("node set", endpoint, None, verbose)
    was = choose(seen.members, node)[0].member
    now = replace(
        was,
        capacity=was.capacity if weight < 0 else weight,
        zone=was.zone if zone is None else zone,
        host=was.host if host is None else host,
        address=was.address if at is None else at,
    )
    plan = plan_members(seen.ring, [now], id=changing.new_id(), allow_colocated=allow_colocated)
    changing.carry_out(seen, plan, wish)


@app.command("drain", epilog="example: dynctl node drain n4 && systemctl stop dynagent")
def drain(
    node: Name,
    undo: Annotated[bool, typer.Option("--undo", help="Let it serve clients again.")] = False,
    endpoint: Endpoints = None,
    timeout: Timeout60 = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Before a node is stopped for a while: it takes no more requests of clients, ends those under
    way, and delivers what it keeps for others; exit 124 if that takes too long.

    It stays a member and an owner, and answers the other nodes until it is stopped. A restart ends
    it; nothing moves. To take a node out for good, see dynctl leave.
    """
    timeout_s = options.read_timeout(timeout, _DRAIN_S)
    deadline = time.monotonic() + timeout_s
    seen = observed("node drain", endpoint, None, verbose)
    member = choose(seen.members, node)[0].member
    with Client([member.address], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
        client.ask(member.address, DrainOrder(not undo))
        if undo:
            return
        client.ask(member.address, HintOrder(HINTS_NOW))
        while left := _left(seen, status_of(client, member.address)):
            if time.monotonic() + _POLL_S >= deadline:
                raise TimedOut(f"after {timeout_s:g}s {member.name} still has {left}")
            time.sleep(_POLL_S)


def _left(seen: Observation, status: dict[str, Any]) -> str:
    """What a draining node has yet to do, in words; empty: nothing. What it keeps for nodes that
    are down it cannot get rid of."""
    if status["in_flight"]:
        return f"{status['in_flight']:,} requests under way"
    up = set(status["up"])
    owed = {
        target: count
        for target, count in {**status["hints"], **status["dirty"]}.items()
        if count and target in up
    }
    names: dict[str, str] = {one.member.id: one.member.name for one in seen.members}
    told = ", ".join(sorted(names.get(target, target) for target in owed))
    return f"something to deliver to {told}; see: dynctl hints ls" if owed else ""
