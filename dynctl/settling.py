"""Waiting until the ring is settled: nothing moves, nobody leaves, and everybody knows."""

from __future__ import annotations

import time

from dynagent.client.blocking import TIMEOUT_S_DEFAULT
from dynagent.errors import ConnectionLost, NotReady, TimedOut, Unhealthy, Unreachable
from dynctl.faults import say
from dynctl.observe import Observation, observe
from dynctl.progress import Progress

_POLL_S = 0.2


def wait_settled(verb: str, seen: Observation, *, epoch: int = 0, timeout_s: float) -> None:
    """Until a ring of at least `epoch` is settled and everybody who answers has it.

    ^C and a time-out change nothing about the change, and say how to wait on. Raises `TimedOut`.
    """
    agents = [seen.agent, *(one.member.address for one in seen.members)]
    deadline = time.monotonic() + timeout_s
    most = 0
    try:
        with Progress(verb) as progress:
            while True:
                left_s = max(deadline - time.monotonic(), 0.05)
                try:
                    now = observe(agents, timeout_s=min(left_s, TIMEOUT_S_DEFAULT))
                    most = max(most, len(now.ring.moves))
                    progress.show(most - len(now.ring.moves), 0)
                    check_settled(now, epoch=epoch)
                    return
                except (Unhealthy, Unreachable, NotReady, ConnectionLost) as exc:
                    if time.monotonic() + _POLL_S >= deadline:
                        raise TimedOut(f"after {timeout_s:g}s: {exc.message}") from exc
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        say(f"dynctl: {verb}: interrupted; the change goes on, see: dynctl transfers")
        raise


def check_settled(seen: Observation, *, epoch: int = 0) -> None:
    """Raises `Unhealthy` with what is still open."""
    ring = seen.ring
    newest = max([epoch, *(one.status["epoch"] for one in seen.members if one.status is not None)])
    if ring.epoch < newest:
        raise Unhealthy(f"{seen.agent} has the ring of epoch {ring.epoch}, not yet {newest}")
    if ring.change is not None:
        raise Unhealthy(
            f"{len(ring.moves):,} partitions are moving ({ring.change.verb}, entry "
            f"{ring.change.index}); see: dynctl transfers"
        )
    if ring.leaving:
        names = [one.member.name for one in seen.members if one.member.id in ring.leaving]
        raise Unhealthy(
            f"{', '.join(names)} owns nothing any more but has not gone yet; see: dynctl doctor"
        )
    for one in seen.members:
        if one.status is not None and one.status["epoch"] < newest:
            raise Unhealthy(
                f"{one.member.name} has not heard of epoch {newest} yet; see: dynctl health"
            )
