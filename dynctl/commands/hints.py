"""`dynctl hints`: what is kept for nodes that were away, and its delivery (Dynamo §4.6)."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.core.messages import HINTS_NOW, HINTS_PAUSE, HINTS_RESUME, HintOrder
from dynagent.errors import TimedOut
from dynctl import options
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Timeout60, Verbose, new_app
from dynctl.observe import Observation, check_all_answered, choose, observe, observed
from dynctl.render import default_form, show
from dynctl.views.hints import HintsDocument, hint_rows

_DRAIN_S = 60.0
_POLL_S = 0.2

app = new_app(help="What is kept for nodes that were away, and its delivery.")
Target = Annotated[
    str | None,
    typer.Argument(metavar="NODE", help="Only what is owed to this one: its name, id or address."),
]


@app.command("ls", epilog="example: dynctl hints ls -o plain | cut -f2,3")
def ls(
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Who keeps hints for whom: how many keys, and whether they are being delivered.

    An agent that owes another too much to note it key by key (owner_hints_max) notes partitions:
    those are dirty, and handed over whole.

    No rows: nobody owes anybody anything. If some agents do not answer, what the others keep is
    printed and the exit status is 11.
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    seen = observed("hints ls", endpoint, timeout, verbose)
    show(HintsDocument(hints=hint_rows(seen)), chosen, when)
    check_all_answered(seen.members)


@app.command("pause", epilog="example: dynctl hints pause n4")
def pause(
    node: Target = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Stop the delivery, until it is resumed or an agent restarts. New hints are still kept."""
    check_all_answered(_order("pause", HINTS_PAUSE, node, endpoint, timeout, verbose).members)


@app.command("resume", epilog="example: dynctl hints resume")
def resume(
    node: Target = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Go on with the delivery."""
    check_all_answered(_order("resume", HINTS_RESUME, node, endpoint, timeout, verbose).members)


@app.command("drain", epilog="example: dynctl hints drain n4 --timeout 10m")
def drain(
    node: Target = None,
    endpoint: Endpoints = None,
    timeout: Timeout60 = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Deliver at once, and wait until nothing is owed any more; exit 124 if that takes too long.

    It resumes what was paused. Clients still come first: see `background` in dynctl stats -o json.
    """
    timeout_s = options.read_timeout(timeout, _DRAIN_S)
    deadline = time.monotonic() + timeout_s
    seen = _order("drain", HINTS_NOW, node, endpoint, None, verbose)
    while any(left := _owed(seen, node)):
        if time.monotonic() + _POLL_S >= deadline:
            told = f"{left[0]:,} hints and {left[1]:,} dirty partitions are left"
            raise TimedOut(f"after {timeout_s:g}s {told}; see: dynctl hints ls")
        time.sleep(_POLL_S)
        seen = observe([seen.agent], timeout_s=TIMEOUT_S_DEFAULT)
    check_all_answered(seen.members)


def _order(
    verb: str,
    action: int,
    node: str | None,
    endpoint: list[str] | None,
    timeout: str | None,
    verbose: bool,
) -> Observation:
    """Gives the order to every agent that answers; raises `BadRequest` for an unknown node."""
    timeout_s = options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    seen = observed(f"hints {verb}", endpoint, timeout, verbose)
    target = choose(seen.members, node)[0].member.id if node is not None else ""
    with Client([seen.agent], timeout_s=timeout_s, learn_ring=False) as client:
        for one in seen.members:
            if one.status is not None:
                client.ask(one.member.address, HintOrder(action, target))
    return seen


def _owed(seen: Observation, node: str | None) -> tuple[int, int]:
    """Hints and dirty partitions."""
    name = choose(seen.members, node)[0].member.name if node is not None else None
    rows = [row for row in hint_rows(seen) if name is None or row.target == name]
    return sum(row.hints for row in rows), sum(row.dirty for row in rows)
