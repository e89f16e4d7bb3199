"""One of three agents is killed, and later another one hangs, under a mixed load."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path

from tests.acceptance.points import Say, hold
from tests.real.cluster import RealAgent, RealCluster, wait_for
from tests.real.load import OK, Load, Sample, percentile_ms
from tests.real.replicas import missing, node_id, sees

SECONDS = 600.0  # under load with one agent down
RATE = 300  # requests per second, half of them puts: a tenth of what the machine can do
IN_TIME_S = 5.0  # the default of clients
ANSWERED_MIN = 0.9999
P99_RATIO_MAX = 1.5
DEAD_S_MAX, HUNG_S_MAX = 3.0, 5.0
_SETTLED_S = 5.0  # after the kill: the steady state


def run(share: float, say: Say) -> dict[str, object]:
    seconds = max(8.0, SECONDS * share)
    with (
        tempfile.TemporaryDirectory() as directory,
        RealCluster(Path(directory), 3, partitions=256) as cluster,
    ):
        figures: dict[str, object] = {"killed": _killed(cluster, seconds, share, say)}
        cluster.start()
        cluster.wait_ready()
        figures["hung"] = _hung(cluster, max(8.0, seconds / 10), say)
    return figures


def _killed(cluster: RealCluster, seconds: float, share: float, say: Say) -> dict[str, object]:
    victim, observer = cluster.agents[1], cluster.agents[0]
    victim_id = node_id(victim)
    with Load(cluster.addresses, rate=RATE, read_share=0.5, writers=16) as load:
        time.sleep(2.0)  # until all have connected
        whole = time.monotonic()
        time.sleep(max(4.0, seconds / 10))
        killed = time.monotonic()
        victim.kill()
        noticed_s = _until_missed(observer, victim_id)
        time.sleep(seconds)
    before = load.between(whole, killed)
    after = load.between(killed + _SETTLED_S, time.monotonic())
    figures = {
        "seconds": round(seconds),
        "noticed_s": round(noticed_s, 2),
        **_answered(load, say),
        "p99_ms_before": percentile_ms(before, 99),
        "p99_ms_after": percentile_ms(after, 99),
    }
    ratio = percentile_ms(after, 99) / percentile_ms(before, 99)
    say(
        f"killed: noticed after {noticed_s:.2f} s; p99 {figures['p99_ms_before']} ms before, "
        f"{figures['p99_ms_after']} ms after: {ratio:.2f} times"
    )
    hold(noticed_s <= DEAD_S_MAX, f"a dead agent was noticed after {noticed_s:.2f} s")
    if share == 1.0:
        hold(ratio <= P99_RATIO_MAX, f"p99 is {ratio:.2f} times what it was before the kill")
    _check(cluster, load, victim)
    return figures


def _hung(cluster: RealCluster, seconds: float, say: Say) -> dict[str, object]:
    victim, observer = cluster.agents[2], cluster.agents[0]
    victim_id = node_id(victim)
    load = Load(cluster.addresses, prefix=b"hung", rate=RATE, read_share=0.5, writers=16)
    with load:
        time.sleep(2.0)
        victim.send(signal.SIGSTOP)
        try:
            noticed_s = _until_missed(observer, victim_id)
            time.sleep(seconds)
        finally:
            victim.send(signal.SIGCONT)
        back_s = wait_for(lambda: sees(observer, victim_id), "the agent that hung to be seen again")
        time.sleep(1.0)
    say(f"hung: noticed after {noticed_s:.2f} s, seen again after {back_s:.2f} s")
    hold(noticed_s <= HUNG_S_MAX, f"a hung agent was noticed after {noticed_s:.2f} s")
    figures = {"noticed_s": round(noticed_s, 2), "back_s": round(back_s, 2), **_answered(load, say)}
    _check(cluster, load, victim)
    return figures


def _until_missed(observer: RealAgent, victim: str) -> float:
    return wait_for(
        lambda: not sees(observer, victim), f"{observer.name} to miss the other", wait_s=20.0
    )


def _answered(load: Load, say: Say) -> dict[str, object]:
    in_time = sum(map(_is_in_time, load.samples))
    share = in_time / len(load.samples)
    slowest = max(sample.took_s for sample in load.samples)
    say(
        f"{len(load.samples):,} requests, {share:.4%} answered in time, the slowest after "
        f"{slowest:.2f} s; {dict(load.outcomes)}"
    )
    hold(share >= ANSWERED_MIN, f"{share:.4%} of requests were answered in time")
    return {"requests": len(load.samples), "in_time": round(share, 6), "max_s": round(slowest, 2)}


def _is_in_time(sample: Sample) -> bool:
    return sample.outcome == OK and sample.took_s <= IN_TIME_S


def _check(cluster: RealCluster, load: Load, victim: RealAgent) -> None:
    """Also with the victim back: what it does not have must not hide what the others have."""
    if victim.process is None:
        cluster.start()
    cluster.wait_ready()
    hold(not load.wrong, f"{len(load.wrong)} reads had the wrong value")
    lost = missing(cluster, load.acknowledged)
    hold(not lost, f"{len(lost)} of {len(load.acknowledged):,} acknowledged writes were lost")
