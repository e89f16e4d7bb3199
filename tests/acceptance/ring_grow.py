"""3 → 5 → 8 → 4 agents under a mixed strict load, with a kill -9 in the middle of each change."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.acceptance.points import Say, hold
from tests.acceptance.ring_verbs import Transition, fresh_agents, wait_members, wait_under_way
from tests.real.cluster import RealAgent, RealCluster, wait_for
from tests.real.load import OK, Load, Sample, percentile_ms
from tests.real.replicas import hints_left, missing, unequal

RATE = 300  # requests a second, half of them puts
CALM_S = 30.0  # before each change, and behind the last
DOWN_S = 5.0  # that the killed agent is away
DETECTED_S = 3.0  # in which requests may fail for the kill, and only for that


def run(share: float, say: Say) -> dict[str, object]:
    calm_s = max(2.0, CALM_S * share)
    dice = Random(7)
    with (
        tempfile.TemporaryDirectory() as name,
        RealCluster(Path(name), 3, partitions=256) as cluster,
    ):
        directory = Path(name)
        rate = RATE if share == 1.0 else RATE / 5  # a smaller run may share its machine
        load = Load(
            cluster.addresses, rate=rate, read_share=0.5, writers=12, strict=True, timeout_s=10.0
        )
        kills: list[float] = []
        figures: dict[str, object] = {}
        with load:
            time.sleep(calm_s)
            for step, names in (("3 to 5", ("n4", "n5")), ("5 to 8", ("n6", "n7", "n8"))):
                joining = fresh_agents(directory, names)
                words = ("join", *(agent.address for agent in joining))
                figures[step] = _change(cluster, load, words, joining, kills, dice, say)
                time.sleep(calm_s)
            leaving = [cluster.agents[place] for place in (0, 2, 4, 6)]
            words = ("leave", *(agent.name for agent in leaving))
            figures["8 to 4"] = _change(cluster, load, words, [], kills, dice, say, leaving)
            for agent in leaving:
                hold(agent.stop() == 0, f"{agent.name}, which has left, does not stop cleanly")
            time.sleep(calm_s)
        figures["all"] = _judge(cluster, load, kills, say)
    return figures


def _change(
    cluster: RealCluster,
    load: Load,
    words: Sequence[str],
    joining: list[RealAgent],
    kills: list[float],
    dice: Random,
    say: Say,
    leaving: Sequence[RealAgent] = (),
) -> dict[str, object]:
    """A verb, with a kill in the middle; whoever joins or leaves may be the victim."""
    transition = Transition(cluster, *words)
    try:
        wait_under_way(cluster, transition)
        cluster.agents += joining
        victim = dice.choice(cluster.agents)
        time.sleep(dice.random())
        was_under_way = cluster.ring().change is not None
        kills.append(time.monotonic())
        victim.kill()
        time.sleep(DOWN_S)
        victim.start()
        seconds = transition.wait()
    finally:
        transition.end()
    cluster.agents = [agent for agent in cluster.agents if agent not in leaving]
    cluster.wait_ready()  # the victim too, which is asked who it is
    wait_members(cluster)
    samples = load.between(transition.began, transition.began + seconds)
    figures: dict[str, object] = {
        "seconds": round(seconds, 1),
        "killed": victim.name,
        "in_the_middle": was_under_way,
        "requests": len(samples),
        "failed": sum(sample.outcome != OK for sample in samples),
        "p99_ms": percentile_ms(samples, 99),
    }
    say(f"{' '.join(words)}: {figures}")
    return figures


def _judge(cluster: RealCluster, load: Load, kills: Sequence[float], say: Say) -> dict[str, object]:
    blamed = [sample for sample in load.samples if sample.outcome != OK]
    unexplained = [sample for sample in blamed if not _is_of_a_kill(sample, kills)]
    wait_for(lambda: hints_left(cluster) == 0, "all hints to be delivered", wait_s=120.0)
    lost = missing(cluster, load.acknowledged)
    wait_for(
        lambda: not unequal(cluster, load.acknowledged), "all values to be equal", wait_s=180.0
    )
    figures: dict[str, object] = {
        "requests": len(load.samples),
        "acknowledged": len(load.acknowledged),
        "failed_in_detection": len(blamed) - len(unexplained),
        "failed_otherwise": len(unexplained),
        "lost": len(lost),
        "wrong": len(load.wrong),
    }
    say(f"grow: {figures}")
    first = [(round(sample.due - kills[0], 2), sample.outcome) for sample in unexplained[:5]]
    hold(not unexplained, f"{len(unexplained)} strict requests failed without a kill: {first}")
    hold(not lost, f"{len(lost)} of {len(load.acknowledged):,} acknowledged writes were lost")
    hold(not load.wrong, f"{len(load.wrong)} reads had the wrong value")
    return figures


def _is_of_a_kill(sample: Sample, kills: Sequence[float]) -> bool:
    """Was it under way while a kill was not yet detected?"""
    ended = sample.due + sample.took_s
    return any(sample.due <= at + DETECTED_S and ended >= at for at in kills)
