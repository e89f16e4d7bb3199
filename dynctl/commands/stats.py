"""`dynctl stats`: what each agent has counted."""

from __future__ import annotations

from typing import Annotated

import typer

from dynagent.client.blocking import TIMEOUT_S_DEFAULT
from dynagent.errors import BadRequest, Partial, Unreachable
from dynctl import endpoints, options, streams
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Verbose
from dynctl.faults import say
from dynctl.observe import by_name, choose, observe, stats_rows
from dynctl.render import default_form, show
from dynctl.views import StatsDocument


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
    timeout_s = options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    seen = observe(endpoints.find(endpoint or []), timeout_s=timeout_s)
    if verbose:
        say(f"dynctl: stats: {seen.agent} answered")
    asked = choose(by_name(seen), node)
    answered = [one for one in asked if one.status is not None]
    silent = [f"{one.member.name} is {one.problem}" for one in asked if one.status is None]
    if silent and not answered:
        raise Unreachable(", ".join(silent))
    if prometheus:
        from dynagent.obs.exposition import metrics_of

        text = metrics_of([(one.member.name, one.status or {}) for one in answered])
        streams.emit(text)
    else:
        show(StatsDocument(nodes=stats_rows(answered)), chosen, when)
    if silent:
        told = f"partial: {len(answered)} of {len(asked)} agents answered: {', '.join(silent)}"
        raise Partial(f"{told}; see: dynctl health")
