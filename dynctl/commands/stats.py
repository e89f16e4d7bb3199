"""`dynctl stats`: what each agent has counted."""

from __future__ import annotations

from typing import Annotated

import typer

from dynagent.errors import BadRequest
from dynctl import options, streams
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Verbose
from dynctl.observe import answered, by_name, check_all_answered, choose, observed
from dynctl.render import default_form, show
from dynctl.views.stats import StatsDocument, stats_rows


def stats(
    node: Annotated[
        str | None,
        typer.Argument(metavar="NODE", help="Only this one: its name, id or address."),
    ] = None,
    prometheus: Annotated[
        bool,
        typer.Option("--prometheus", help="Print Prometheus text, each agent a label."),
    ] = False,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """What each agent has counted since its start: requests, errors, commits, stalls, CPU time.

    A table shows the main figures, json all of them. --prometheus needs no HTTP endpoint; the
    metrics are those of docs/metrics.md. If some agents do not answer, those that do are printed
    and the exit status is 11.

    example: dynctl stats -o json | jq '.nodes[] | {name, cpu_s, puts}'
    """
    if prometheus and form is not None:
        raise BadRequest("--prometheus is a form of its own; leave -o out")
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    seen = observed("stats", endpoint, timeout, verbose)
    asked = choose(by_name(seen), node)
    found = answered(asked)
    if prometheus:
        from dynagent.obs.exposition import metrics_of

        text = metrics_of([(one.member.name, one.status or {}) for one in found])
        streams.emit(text)
    else:
        show(StatsDocument(nodes=stats_rows(found)), chosen, when)
    check_all_answered(asked)
