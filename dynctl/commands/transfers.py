"""`dynctl transfers`: partitions on their way to new owners."""

from __future__ import annotations

from dynctl import options
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Verbose
from dynctl.observe import observed
from dynctl.render import default_form, show
from dynctl.views.transfers import transfers_document


def transfers(
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """How far the change under way is: what each node gains, has copied, and waits for.

    Partitions are copied first, then read from their new owners, then settled. No rows: nothing is
    moving. Copying yields to clients: see background in dynctl stats -o json.

    example: watch dynctl transfers -o table
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    show(transfers_document(observed("transfers", endpoint, timeout, verbose)), chosen, when)
