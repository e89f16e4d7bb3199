"""Three times the load that the agents can take, in an open loop: what they refuse is refused with
`Overloaded` and surely did not happen, their memory stays bounded, and soon after all is as before.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dynagent import limits
from dynagent.core.messages import MODE_BLIND, Put, PutReply
from dynagent.errors import ConnectionLost
from dynctl.load.bench import owners_in
from dynctl.load.driver import Answer, Driver
from dynctl.load.wires import Request
from tests.acceptance.points import Say, hold
from tests.real.cluster import RealCluster
from tests.real.hostile import peak_kib
from tests.real.load import OK, Load, percentile_ms
from tests.real.replicas import missing, present

MEASURED_S = 10.0  # how the capacity is measured
SECONDS = 60.0
TIMES = 3
RECOVERED_S = 30.0
P99_RATIO_MAX = 2.0  # of a light load's, after and before
_LIGHT_RATE = 100
_VALUE = b"v" * 1_024
# All that limits.py lets requests and outboxes of an agent take, its cache, and the process itself.
PEAK_KIB_MAX = (limits.REQUEST_BYTES_IN_FLIGHT_MAX + 256 * limits.MIB) // limits.KIB


def run(share: float, say: Say) -> dict[str, object]:
    seconds = max(5.0, SECONDS * share)
    with tempfile.TemporaryDirectory() as directory, _cluster(Path(directory)) as cluster:
        before_ms = _light(cluster, b"before", 4.0)
        capacity, _ = _offer(cluster, b"capacity", max(2.0, MEASURED_S * share), rate=0)
        answered, offered = _offer(cluster, b"over", seconds, rate=int(TIMES * capacity))
        ended = time.monotonic()
        peak = max(peak_kib(agent) for agent in cluster.agents)
        recovered_s, after_ms = _recovered(cluster, before_ms, ended)
        judged = _judge(cluster, offered)
    figures = {
        "capacity_per_s": round(capacity),
        "answered_per_s": round(answered),
        "outcomes": dict(judged),
        "cache_bytes": limits.CACHE_BYTES_DEFAULT,
        "peak_kib": peak,
        "recovered_s": round(recovered_s, 1),
        "p99_ms_before": before_ms,
        "p99_ms_after": after_ms,
    }
    say("overload: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    strange = set(judged) - {"acknowledged", "Overloaded", "WriteOutcomeUnknown", "ConnectionLost"}
    hold(not strange, f"overload was answered with {', '.join(sorted(strange))}")
    hold(judged["Overloaded"] > 0, "nothing was refused at three times the capacity")
    hold(peak <= PEAK_KIB_MAX, f"an agent had {peak:,} KiB; {PEAK_KIB_MAX:,} are allowed")
    hold(recovered_s <= RECOVERED_S, f"not recovered {RECOVERED_S:g} s after the overload")
    return figures


def _cluster(directory: Path) -> RealCluster:
    """With a small cache: a share of the machine's memory would hold whatever is written here."""
    config = directory / "dynagent.toml"
    config.write_text(f"cache_bytes = {limits.CACHE_BYTES_DEFAULT}\n")
    return RealCluster(directory, 3, "--config", str(config), partitions=256)


def _offer(
    cluster: RealCluster, prefix: bytes, seconds: float, *, rate: int
) -> tuple[float, dict[bytes, str]]:
    """(acknowledged per second, key → outcome). Nothing is sent twice; every put has its key."""
    outcomes: dict[bytes, str] = {}

    def requests() -> Iterator[Request]:
        number = 0
        while True:
            number += 1
            key = b"%b/%d" % (prefix, number)
            yield key, Put(key, _VALUE, MODE_BLIND, b"", os.urandom(16))

    def on_answer(request: Request, answer: Answer, _began: float, _now: float) -> None:
        done = isinstance(answer, PutReply)
        outcomes[request[0]] = "acknowledged" if done else type(answer).__name__

    ring = cluster.ring()
    with Driver(
        cluster.addresses,
        connections=64,
        in_flight=4 if not rate else 1_024,
        owners=owners_in(ring),
        cluster_id=ring.cluster_id,
        is_open_loop=rate > 0,
    ) as driver:
        driver.connect()
        began = time.perf_counter()
        ran = driver.run(requests(), on_answer, until=began + seconds, rate=rate)
    good = sum(outcome == "acknowledged" for outcome in outcomes.values())
    return good / (ran.ended - began), outcomes


def _light(cluster: RealCluster, prefix: bytes, seconds: float) -> float:
    """The p99 of a light load, in ms; infinite if it met an error."""
    with Load(cluster.addresses, rate=_LIGHT_RATE, prefix=prefix, read_share=0.5) as load:
        time.sleep(seconds)
    return percentile_ms(load.samples, 99) if set(load.outcomes) == {OK} else float("inf")


def _recovered(cluster: RealCluster, before_ms: float, ended: float) -> tuple[float, float]:
    """(seconds until a light load was served as before, its p99); a little more than
    `RECOVERED_S` if that never came."""
    number = 0
    while True:
        number += 1
        after_ms = _light(cluster, b"after%d" % number, 2.0)
        elapsed = time.monotonic() - ended
        if after_ms <= max(P99_RATIO_MAX * before_ms, 10.0) or elapsed > RECOVERED_S:
            return elapsed, after_ms


def _judge(cluster: RealCluster, outcomes: dict[bytes, str]) -> Counter[str]:
    """How often each outcome came; what was acknowledged must be there, what was refused not."""
    lost = missing(cluster, {k: _VALUE for k, o in outcomes.items() if o == "acknowledged"})
    hold(not lost, f"{len(lost)} acknowledged writes were lost")
    indefinite = {"acknowledged", "WriteOutcomeUnknown", ConnectionLost.__name__}
    ghosts = present(cluster, [k for k, o in outcomes.items() if o not in indefinite])
    hold(not ghosts, f"{len(ghosts)} puts are there that were refused definitely")
    return Counter(outcomes.values())
