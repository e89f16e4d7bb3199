"""An agent that was away for minutes gets what it has missed from those who kept it, in less than
half of that time; a keeper that is killed in the middle of giving it back goes on afterwards."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from dynagent.errors import DynagentError
from tests.acceptance.points import Failed, Say, hold
from tests.real.cluster import RealAgent, RealCluster, wait_for
from tests.real.load import OK, Load, percentile_ms
from tests.real.replicas import hints_left, hints_of, missing, status, unequal

SECONDS = 600.0  # that the agent is away
RATE = 500  # writes per second meanwhile
ROUNDS_MAX = 3  # in which the keeper must be caught in the middle once


def run(share: float, say: Say) -> dict[str, object]:
    seconds = max(8.0, SECONDS * share)
    with (
        tempfile.TemporaryDirectory() as directory,
        RealCluster(Path(directory), 5, partitions=256) as cluster,
    ):
        figures: dict[str, object] = {"returned": _returned(cluster, seconds, say)}
        for number in range(ROUNDS_MAX):
            if found := _keeper_killed(cluster, seconds / 2, number, say):
                figures["keeper killed"] = found
                return figures
    raise Failed(f"in {ROUNDS_MAX} rounds no hints were seen half delivered")


def _returned(cluster: RealCluster, seconds: float, say: Say) -> dict[str, object]:
    victim = cluster.agents[2]
    with Load(cluster.addresses, rate=RATE, writers=16, prefix=b"away") as load:
        kept, back = _while_away(cluster, victim, seconds)
        delivered_s = _delivered(cluster, back, seconds)
        time.sleep(1.0)
    during, beside = load.between(0, back), load.between(back, back + delivered_s)
    figures: dict[str, object] = {
        "away_s": round(seconds),
        "writes": len(load.samples),
        "hints": kept,
        "delivered_s": round(delivered_s, 1),
        "p99_ms_away": percentile_ms(during, 99),
        "p99_ms_delivering": percentile_ms(beside, 99),
    }
    say("away: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    hold(delivered_s < seconds / 2, f"delivery took {delivered_s:.1f} s after {seconds:.0f} s away")
    if seconds >= SECONDS:  # a short run is a machine's stall or two
        p99_ms = percentile_ms(beside, 99)
        threshold_ms = 1000 * status(victim)["background"]["foreground_p99_s_max"]
        hold(p99_ms <= threshold_ms, f"the foreground's p99 was {p99_ms} ms beside the delivery")
    _check(cluster, load)
    return figures


def _keeper_killed(
    cluster: RealCluster, seconds: float, number: int, say: Say
) -> dict[str, object] | None:
    """None if all hints were gone before the keeper could be killed."""
    victim = cluster.agents[2]
    with Load(cluster.addresses, rate=RATE, writers=16, prefix=b"keeper%d" % number) as load:
        kept, back = _while_away(cluster, victim, seconds)
        while (left := hints_left(cluster)) >= kept * 0.9:
            hold(time.monotonic() < back + seconds, f"{left} of {kept} hints: none is delivered")
            time.sleep(0.005)
        keeper = max((a for a in cluster.agents if a is not victim), key=hints_of)
        before = hints_of(keeper)
        keeper.kill()
    if not before:
        cluster.start()
        return None
    keeper.start()
    after = _first_hints(keeper)
    cluster.wait_ready()
    delivered_s = _delivered(cluster, time.monotonic(), seconds)
    say(f"keeper killed with {before} of {kept} hints, back with {after}, all gone later")
    hold(after <= before, f"the keeper had {before} hints, and {after} after its restart")
    _check(cluster, load)
    return {"hints": kept, "before": before, "after": after, "delivered_s": round(delivered_s, 1)}


def _while_away(cluster: RealCluster, victim: RealAgent, seconds: float) -> tuple[int, float]:
    """(hints that were kept for it, when it was back)."""
    time.sleep(1.0)
    victim.kill()
    time.sleep(seconds)
    kept = hints_left(cluster)
    hold(kept > 0, f"no hint was kept in {seconds:.0f} s")
    starts = victim.log_text().count("agent.ready")
    victim.start()
    victim.wait_log("agent.ready", times=starts + 1)
    return kept, time.monotonic()


def _delivered(cluster: RealCluster, back: float, seconds: float) -> float:
    wait_s = max(1.0, back + max(seconds, 30.0) - time.monotonic())
    wait_for(lambda: hints_left(cluster) == 0, "all hints to be delivered", wait_s=wait_s)
    return time.monotonic() - back


def _first_hints(agent: RealAgent) -> int:
    """What it keeps when it first answers."""
    found: list[int] = []

    def answers() -> bool:
        try:
            found.append(hints_of(agent))
        except DynagentError:
            return False
        return True

    wait_for(answers, f"{agent.name} to answer")
    return found[0]


def _check(cluster: RealCluster, load: Load) -> None:
    cluster.wait_ready()
    hold(load.outcomes[OK] > 0, f"nothing was acknowledged: {dict(load.outcomes)}")
    different = unequal(cluster, load.acknowledged)
    hold(not different, f"no hint is left, and owners of {len(different)} keys differ")
    lost = missing(cluster, load.acknowledged)
    hold(not lost, f"{len(lost)} acknowledged writes were lost")
