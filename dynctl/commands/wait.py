"""`dynctl wait`: until the cluster is as a script needs it."""

from __future__ import annotations

import time
from collections.abc import Callable

from dynagent.client.blocking import TIMEOUT_S_DEFAULT
from dynagent.errors import ConnectionLost, NotReady, TimedOut, Unhealthy, Unreachable
from dynctl import endpoints, options
from dynctl.commands.cluster import check_health
from dynctl.declare import Debug, Endpoints, Timeout10m, Timeout60, Verbose, new_app
from dynctl.faults import say
from dynctl.observe import Observation, observe
from dynctl.settling import check_settled
from dynctl.views.hints import hint_rows
from dynctl.views.nodes import health_document
from dynctl.views.ring import oldest_unverified_s

_READY_S = 60.0
_CONVERGED_S = 600.0
_POLL_S = 0.1

app = new_app(help="Wait until the cluster is as it should be; exit 124 if it does not get so.")


@app.command(epilog="example: dynctl wait ready --timeout 2m && dynctl put hello world")
def ready(
    endpoint: Endpoints = None,
    timeout: Timeout60 = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Wait until every agent serves and is linked with all others, and strict quorums hold for
    every key."""
    _until("ready", _check_ready, endpoint, options.read_timeout(timeout, _READY_S), verbose)


@app.command(epilog="example: dynctl wait converged && dynctl verify")
def converged(
    endpoint: Endpoints = None,
    timeout: Timeout10m = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Wait until all owners hold the same: the cluster is ready, nobody keeps hints, and every
    partition has been compared between all of its owners, and found or made equal, since now.

    The agents compare by themselves, once in antientropy_interval_s; sooner with dynctl repair.
    """
    began = time.monotonic()

    def check(seen: Observation) -> None:
        _check_ready(seen)
        _check_converged(seen, time.monotonic() - began)

    _until("converged", check, endpoint, options.read_timeout(timeout, _CONVERGED_S), verbose)


@app.command(epilog="example: dynctl leave n4 --yes && dynctl wait settled && dynctl verify")
def settled(
    endpoint: Endpoints = None,
    timeout: Timeout10m = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Wait until no change of the ring is under way, those that leave have gone, and every agent
    that answers has the newest ring."""
    within_s = options.read_timeout(timeout, _CONVERGED_S)
    _until("settled", check_settled, endpoint, within_s, verbose)


def _until(
    verb: str,
    check: Callable[[Observation], None],
    endpoint: list[str] | None,
    timeout_s: float,
    verbose: bool,
) -> None:
    """Looks at the cluster until `check` raises nothing any more; raises `TimedOut`."""
    found = endpoints.find(endpoint or [])
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = max(deadline - time.monotonic(), 0.05)
        try:
            seen = observe(found, timeout_s=min(left_s, TIMEOUT_S_DEFAULT))
            check(seen)
        except (Unhealthy, Unreachable, NotReady, ConnectionLost) as exc:
            if time.monotonic() + _POLL_S >= deadline:
                raise TimedOut(f"after {timeout_s:g}s: {exc.message}") from exc
            time.sleep(_POLL_S)
            continue
        if verbose:
            say(f"dynctl: wait {verb}: {seen.agent} answered")
        return


def _check_ready(seen: Observation) -> None:
    check_health(health_document(seen))


def _check_converged(seen: Observation, waited_s: float) -> None:
    """Raises `Unhealthy` with what is still open."""
    if rows := hint_rows(seen):
        targets = ", ".join(sorted({row.target for row in rows}))
        raise Unhealthy(f"hints wait to be delivered to {targets}; see: dynctl hints ls")
    oldest_s = oldest_unverified_s(seen)
    if oldest_s is None or oldest_s > waited_s:
        raise Unhealthy(
            "not all partitions have been compared and found equal since then; "
            "see: dynctl ring status, dynctl repair"
        )
