"""`dynctl node`: the members of the ring."""

from __future__ import annotations

from dynctl import options
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Verbose, new_app
from dynctl.observe import observed
from dynctl.render import default_form, show
from dynctl.views.nodes import NodesDocument, told_node_rows

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
