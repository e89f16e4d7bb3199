"""A strict probe through joins and leaves: while all agents are up and nothing goes wrong, no
request is refused, or late, because the ring changes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests.acceptance.points import Say, hold
from tests.acceptance.ring_verbs import Transition, fresh_agents, wait_members
from tests.real.cluster import RealCluster
from tests.real.load import OK, Load, percentile_ms
from tests.real.replicas import missing

RATE = 200  # requests a second, half of them puts
CALM_S = 20.0  # between two changes
IN_TIME_S = 5.0  # the default of clients


def run(share: float, say: Say) -> dict[str, object]:
    calm_s = max(1.0, CALM_S * share)
    with (
        tempfile.TemporaryDirectory() as name,
        RealCluster(Path(name), 3, partitions=256) as cluster,
    ):
        seconds: dict[str, float] = {}
        rate = RATE if share == 1.0 else RATE / 5  # a smaller run may share its machine
        with Load(cluster.addresses, rate=rate, read_share=0.5, writers=8, strict=True) as load:
            time.sleep(calm_s)
            joining = fresh_agents(Path(name), ("n4", "n5"))
            seconds["join"] = _run(cluster, "join", *(agent.address for agent in joining))
            cluster.agents += joining
            cluster.wait_ready()
            time.sleep(calm_s)
            [spare] = fresh_agents(Path(name), ("n6",))
            seconds["replace"] = _run(cluster, "replace", "n2", spare.address)
            replaced = cluster.agents.pop(1)
            cluster.agents.append(spare)
            wait_members(cluster)
            time.sleep(calm_s)
            seconds["leave"] = _run(cluster, "leave", "n1", "n4")
            left = [agent for agent in cluster.agents if agent.name in ("n1", "n4")]
            cluster.agents = [agent for agent in cluster.agents if agent not in left]
            wait_members(cluster)
            for agent in (replaced, *left):
                hold(agent.stop() == 0, f"{agent.name}, which has left, does not stop cleanly")
            time.sleep(calm_s)
        failed = [sample for sample in load.samples if sample.outcome != OK]
        late = [sample for sample in load.samples if sample.took_s > IN_TIME_S]
        lost = missing(cluster, load.acknowledged)
    figures: dict[str, object] = {
        "seconds": {verb: round(took, 1) for verb, took in seconds.items()},
        "requests": len(load.samples),
        "failed": len(failed),
        "late": len(late),
        "p99_ms": percentile_ms(load.samples, 99),
        "slowest_s": round(max(sample.took_s for sample in load.samples), 2),
        "lost": len(lost),
    }
    say(f"availability: {figures}")
    hold(not failed, f"{len(failed)} strict requests failed: {dict(load.outcomes)}")
    if share == 1.0:  # a smaller run may share its machine
        hold(not late, f"{len(late)} strict requests took longer than {IN_TIME_S:g} s")
    hold(not lost and not load.wrong, f"{len(lost)} writes lost, {len(load.wrong)} wrong values")
    return figures


def _run(cluster: RealCluster, *words: str) -> float:
    transition = Transition(cluster, *words)
    try:
        return transition.wait()
    finally:
        transition.end()
