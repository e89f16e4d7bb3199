"""One agent joins three that hold a million keys, under load: what moves, how fast, and what
clients feel of it; then values of 10 KiB; and a join that is taken back in the middle."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from dynagent import limits
from dynagent.core.entry import Record
from dynagent.core.ring import Ring, token_of
from tests.acceptance.filling import fill, records
from tests.acceptance.points import Say, hold
from tests.acceptance.ring_verbs import Transition, fresh_agents, wait_under_way
from tests.real.cluster import RealAgent, RealCluster, wait_for
from tests.real.load import OK, Load, percentile_ms
from tests.real.replicas import missing, node_id, status

KEYS, LARGE = 1_000_000, 40_000  # of 100 bytes, of 10 KiB
SMALL_BYTES, LARGE_BYTES = 100, 10 * limits.KIB
SMALL_RATE_MIN, LARGE_RATE_MIN = 6_000, 20e6 / LARGE_BYTES  # records a second
MOVED_MAX = 1.05  # times the bytes of its share
ABORT_S_MAX = 15.0
LOAD_RATE = 100  # requests a second, half of them puts
PARTITIONS = 256


def run(share: float, say: Say) -> dict[str, object]:
    small, large = max(5_000, int(KEYS * share)), max(300, int(LARGE * share))
    return {
        "records_of_100_bytes": _run(small, SMALL_BYTES, SMALL_RATE_MIN, share, say),
        "values_of_10_kib": _run(large, LARGE_BYTES, LARGE_RATE_MIN, share, say),
    }


class _Weighed:
    """Records on their way to the stores, counted by partition."""

    def __init__(self) -> None:
        self.records: Counter[int] = Counter()
        self.bytes: Counter[int] = Counter()

    def passing(self, made: Iterator[tuple[bytes, Record]]) -> Iterator[tuple[bytes, Record]]:
        for key, record in made:
            self.add(key, len(record.content))
            yield key, record

    def add(self, key: bytes, size: int) -> None:
        partition = token_of(key)[0]  # of 256: the first byte
        self.records[partition] += 1
        self.bytes[partition] += len(key) + size


def _run(count: int, size: int, rate_min: float, share: float, say: Say) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory() as name,
        RealCluster(Path(name), 3, partitions=PARTITIONS) as cluster,
    ):
        weighed = _Weighed()
        cluster.stop()
        fill(cluster, weighed.passing(islice(records(size), count)))
        cluster.start()
        cluster.wait_ready()
        joined = _join(cluster, Path(name), weighed, rate_min, share, say)
        return {**joined, "abort": _abort(cluster, Path(name), say)}


def _join(
    cluster: RealCluster,
    directory: Path,
    weighed: _Weighed,
    rate_min: float,
    share: float,
    say: Say,
) -> dict[str, object]:
    [joiner] = fresh_agents(directory, ("n4",))
    with Load(cluster.addresses, rate=LOAD_RATE, read_share=0.5, writers=4, strict=True) as load:
        time.sleep(2.0)
        transition = Transition(cluster, "join", joiner.address)
        try:
            gained = _gained(wait_under_way(cluster, transition), joiner)
            total = sum(weighed.records[partition] for partition in gained)
            first_at, first = _wait_copied(joiner, 1, transition)
            ended_at, last = _wait_copied(joiner, total, transition)
            seconds = transition.wait()
        finally:
            transition.end()
        time.sleep(2.0)
    for key, value in load.acknowledged.items():
        weighed.add(key, len(value))
    expected = sum(weighed.bytes[partition] for partition in gained)
    moved = _progress(joiner)
    rate = (last - first) / max(ended_at - first_at, 0.01)
    during = load.between(transition.began, transition.began + seconds)
    p99_ms = percentile_ms(during, 99)
    threshold_ms = 1000 * status(joiner)["background"]["foreground_p99_s_max"]
    failed = [sample for sample in load.samples if sample.outcome != OK]
    cluster.agents.append(joiner)
    cluster.wait_ready()
    lost = missing(cluster, load.acknowledged)
    figures: dict[str, object] = {
        "keys": sum(weighed.records.values()) - len(load.acknowledged),
        "partitions": len(gained),
        "share_bytes": expected,
        "moved_bytes": moved["bytes"],
        "moved_records": moved["records"],
        "ratio": round(moved["bytes"] / expected, 4),
        "seconds": round(seconds, 1),
        "records_per_s": round(rate),
        "foreground_p99_ms": p99_ms,
        "requests": len(load.samples),
        "failed": len(failed),
        "lost": len(lost),
    }
    say(f"join: {figures}")
    hold(moved["bytes"] <= MOVED_MAX * expected, f"{moved['bytes'] / expected:.3f} times its share")
    hold(not failed, f"{len(failed)} strict requests failed: {dict(load.outcomes)}")
    hold(not lost and not load.wrong, f"{len(lost)} writes lost, {len(load.wrong)} wrong values")
    if share == 1.0:
        hold(rate >= rate_min, f"{rate:,.0f} records a second")
        hold(p99_ms <= threshold_ms, f"the foreground's p99 was {p99_ms} ms")
    return figures


def _abort(cluster: RealCluster, directory: Path, say: Say) -> dict[str, object]:
    """Another one begins to join, and the change is taken back while it copies."""
    before = cluster.ring()
    [joiner] = fresh_agents(directory, ("n5",))
    joining = Transition(cluster, "join", joiner.address)
    try:
        gained = _gained(wait_under_way(cluster, joining), joiner)
        _, copied = _wait_copied(joiner, 1, joining)
        aborting = Transition(cluster, "ring", "abort")
        try:
            seconds = aborting.wait()
        finally:
            aborting.end()
    finally:
        joining.end()
    after = cluster.ring()
    stayed = sum(after.lists[partition] == before.lists[partition] for partition in gained)
    figures: dict[str, object] = {
        "seconds": round(seconds, 1),
        "copied": copied,
        "partitions": len(gained),
        "stayed": stayed,
        "is_member": after.member(node_id(joiner)) is not None,  # type: ignore[arg-type]
    }
    joiner.stop()
    say(f"abort: {figures}")
    hold(after.change is None, "the change is still under way")
    hold(seconds <= ABORT_S_MAX, f"to take a change back took {seconds:.1f} s")
    return figures


def _gained(ring: Ring, joiner: RealAgent) -> list[int]:
    node = node_id(joiner)
    return [partition for partition in ring.moves if node in ring.new_owners(partition)]


def _progress(joiner: RealAgent) -> dict[str, Any]:
    found: dict[str, Any] = status(joiner).get("transfers") or {"records": 0, "bytes": 0}
    return found


def _wait_copied(joiner: RealAgent, count: int, transition: Transition) -> tuple[float, int]:
    """Until it has copied so many records, or the change is over: when, and how many it has."""

    def is_there() -> bool:
        return _progress(joiner)["records"] >= count or transition.has_ended

    wait_for(is_there, f"{count:,} records to be copied", wait_s=600.0)
    return time.monotonic(), _progress(joiner)["records"]
