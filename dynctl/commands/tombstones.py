"""`dynctl tombstones`: what deletes have left, and what keeps it from going."""

from __future__ import annotations

from typing import Annotated

import typer

from dynctl import options
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Verbose
from dynctl.observe import check_all_answered, observed
from dynctl.render import default_form, show
from dynctl.views.tombstones import tombstones_document


def tombstones(
    by_partition: Annotated[
        bool, typer.Option("--by-partition", help="Also tell of each partition that has any.")
    ] = False,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """How many tombstones there are, and who keeps them from going.

    A deleted key keeps a tombstone for tombstone_rest_s at least, and until everybody who might
    still hold an old copy of it has agreed that it may go: no timer decides that. A node that is
    away, keeps hints or differs holds it back, and is named; dynctl doctor says what to do. If some
    agents do not answer, what the others hold is printed and the exit status is 11.

    example: dynctl tombstones --by-partition -o json
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    seen = observed("tombstones", endpoint, timeout, verbose, tombstones=by_partition)
    show(tombstones_document(seen), chosen, when)
    check_all_answered(seen.members)
