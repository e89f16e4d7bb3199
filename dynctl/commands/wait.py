"""`dynctl wait`: until the cluster is as a script needs it."""

from __future__ import annotations

import time

from dynagent.client.blocking import TIMEOUT_S_DEFAULT
from dynagent.errors import ConnectionLost, NotReady, TimedOut, Unhealthy, Unreachable
from dynctl import endpoints, options
from dynctl.commands.cluster import check_health
from dynctl.declare import Debug, Endpoints, Timeout60, Verbose, new_app
from dynctl.faults import say
from dynctl.observe import observe
from dynctl.views.nodes import health_document

_WAIT_S = 60.0
_POLL_S = 0.1

app = new_app(help="Wait until the cluster is as it should be; exit 124 if it does not get so.")


@app.callback()
def _wait() -> None:
    pass  # makes `wait` a noun with verbs even while it has only one


@app.command(epilog="example: dynctl wait ready --timeout 2m && dynctl put hello world")
def ready(
    endpoint: Endpoints = None,
    timeout: Timeout60 = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Wait until every agent serves and is linked with all others, and strict quorums hold for
    every key."""
    timeout_s = options.read_timeout(timeout, _WAIT_S)
    found = endpoints.find(endpoint or [])
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = max(deadline - time.monotonic(), 0.05)
        try:
            seen = observe(found, timeout_s=min(left_s, TIMEOUT_S_DEFAULT))
            check_health(health_document(seen))
        except (Unhealthy, Unreachable, NotReady, ConnectionLost) as exc:
            if time.monotonic() + _POLL_S >= deadline:
                raise TimedOut(f"after {timeout_s:g}s: {exc.message}") from exc
            time.sleep(_POLL_S)
            continue
        if verbose:
            say(f"dynctl: wait ready: {seen.agent} answered")
        return
