"""`dynctl node`: the members of the ring."""

from __future__ import annotations

from dynagent.client.blocking import TIMEOUT_S_DEFAULT
from dynctl import endpoints, options
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Verbose, new_app
from dynctl.faults import say
from dynctl.observe import observe, plain_node_rows
from dynctl.render import default_form, show
from dynctl.views import NodesDocument

app = new_app(help="The nodes of the cluster.")


@app.callback()
def _nodes() -> None:
    pass  # makes `node` a noun with verbs even while it has only one


@app.command("ls", epilog="example: dynctl node ls -o plain | cut -f1,3")
def ls(
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """All nodes: address, place, whether they are up and what share of the ring they hold."""
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    timeout_s = options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    seen = observe(endpoints.find(endpoint or []), timeout_s=timeout_s)
    if verbose:
        say(f"dynctl: node ls: {seen.agent} answered")
    show(NodesDocument(nodes=plain_node_rows(seen)), chosen, when)
