"""`dynctl doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

from dynagent.errors import Unhealthy
from dynctl import options
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Verbose
from dynctl.observe import observed
from dynctl.render import default_form, show
from dynctl.views.doctor import ACT, doctor_document


def doctor(
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Everything that is not as it should be, each with the command that puts it right.

    Findings of severity "wait" get well by themselves, or with another one. The exit status is 8 if
    any needs action, else 0. No rows: all is well.

    example: dynctl doctor -o jsonl
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    document = doctor_document(observed("doctor", endpoint, timeout, verbose))
    show(document, chosen, when)
    if act := [row for row in document.findings if row.severity == ACT]:
        first = act[0]
        where = f"{first.node}: " if first.node else ""
        raise Unhealthy(f"{len(act):,} findings need action; {where}{first.remedy}")
