"""Replicas become and stay equal: what it costs to find that they are, and to make them so.

differ    a million records of 100 bytes on three agents, 100 of which one of them has missed: a
          pass when all is equal, a preview, a repair that finds just these, and a pass afterwards
rebuild   an agent that has missed all of 16 partitions is complete again by itself, under load:
          62,500 records of 100 bytes, then 6,250 values of 10 KiB

The stores of the stopped agents are filled through the product's own door, and made to differ by
`dynagent store damage … miss`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from dynagent import limits
from dynagent.client.blocking import Client
from dynagent.client.bootstrap import status_of
from dynagent.core.messages import JobRequest, Roots, RootsReply
from dynctl import together
from dynctl.observe import observe
from dynctl.views.jobs import JobDocument
from tests.acceptance.filling import fill, records
from tests.acceptance.points import Say, hold
from tests.real.cluster import RealAgent, RealCluster, wait_for
from tests.real.load import Load, percentile_ms

KEYS, DIFFERING = 1_000_000, 100
SMALL, LARGE = 62_500, 6_250  # records of a sixteenth of 256 partitions: of 100 bytes, of 10 KiB
LARGE_BYTES = 10 * limits.KIB
IDLE_BYTES_MAX, IDLE_CPU_S_MAX = 64 * limits.KIB, 1.0
REPAIR_BYTES_MAX, REPAIR_CPU_S_MAX = limits.MIB, 5.0
SMALL_RATE_MIN, LARGE_RATE_MIN = 6_000, 20e6 / LARGE_BYTES  # records a second
LOAD_RATE = 100  # requests a second, half of them puts
PARTITIONS = 256
PARTS = ("differ", "rebuild")


def run(share: float, say: Say, parts: Sequence[str] = PARTS) -> dict[str, object]:
    runs = {"differ": _differ, "rebuild": _rebuild}
    return {part: runs[part](share, say) for part in parts}


# --- a hundred in a million ----------------------------------------------------------------------


def _differ(share: float, say: Say) -> dict[str, object]:
    count = max(10_000, int(KEYS * share))
    with tempfile.TemporaryDirectory() as directory, _cluster(directory, 0.0) as cluster:
        cluster.stop()
        began = time.monotonic()
        fill(cluster, islice(records(100), count))
        say(f"{count:,} records on each of three agents in {time.monotonic() - began:.0f} s")
        _start(cluster)
        figures: dict[str, object] = {"keys": count, "idle": _idle(cluster, say)}
        cluster.stop()
        _miss(cluster.agents[2], "--count", str(DIFFERING), "--seed", "1")
        _start(cluster)
        preview, _ = _job(cluster, "repair", preview=True)
        hold(preview.moved == 0, f"a preview moved {preview.moved} records")
        repair, cpu_s = _job(cluster, "repair")
        say(
            f"repair of {DIFFERING} in {count:,}: {repair.healed} healed, {repair.moved} moved, "
            f"{repair.bytes:,} bytes, {cpu_s:.2f} s of CPU"
        )
        hold(repair.healed == repair.moved == DIFFERING, f"{repair.healed} keys were healed")
        hold(repair.bytes <= REPAIR_BYTES_MAX, f"a repair moved {repair.bytes:,} bytes")
        hold(cpu_s <= REPAIR_CPU_S_MAX, f"a repair took {cpu_s:.2f} s of CPU")
        figures["repair"] = {
            "previewed": preview.differing,
            "healed": repair.healed,
            "moved": repair.moved,
            "bytes": repair.bytes,
            "cpu_s": round(cpu_s, 2),
        }
        figures["idle_after"] = _idle(cluster, say)
        return figures


def _idle(cluster: RealCluster, say: Say) -> dict[str, object]:
    """A pass over everything that is equal."""
    job, cpu_s = _job(cluster, "verify")
    say(f"idle pass: {job.done} partitions of pairs, {job.bytes:,} bytes, {cpu_s:.2f} s of CPU")
    hold(job.done == 3 * PARTITIONS, f"only {job.done} were compared")
    hold(not job.differing and not job.moved, f"{job.differing} keys differ")
    hold(job.bytes <= IDLE_BYTES_MAX, f"an idle pass moved {job.bytes:,} bytes")
    hold(cpu_s <= IDLE_CPU_S_MAX, f"an idle pass took {cpu_s:.2f} s of CPU")
    return {"bytes": job.bytes, "cpu_s": round(cpu_s, 2)}


def _job(cluster: RealCluster, kind: str, *, preview: bool = False) -> tuple[JobDocument, float]:
    """Its report, and the CPU seconds that all agents spent on it; those that they spend anyway
    (probes, gossip) are taken off."""
    seen = observe(cluster.addresses, timeout_s=5)
    idle, began = _cpu_s(cluster), time.monotonic()
    time.sleep(1.0)
    idle_share = (_cpu_s(cluster) - idle) / (time.monotonic() - began)
    before, began = _cpu_s(cluster), time.monotonic()
    job = together.start(seen, kind, JobRequest(0, preview=preview))
    told = together.wait("acceptance", seen, job, timeout_s=300)
    took_s = time.monotonic() - began
    hold(told.state == "done", f"{kind} is {told.state}: {told.pairs}")
    return told, max(0.0, _cpu_s(cluster) - before - idle_share * took_s)


def _cpu_s(cluster: RealCluster) -> float:
    return sum(agent.cpu_s() for agent in cluster.agents)


# --- sixteen partitions --------------------------------------------------------------------------


def _rebuild(share: float, say: Say) -> dict[str, object]:
    interval_s = 60.0 if share == 1.0 else 3.0
    with tempfile.TemporaryDirectory() as directory, _cluster(directory, interval_s) as cluster:
        cluster.stop()
        small, large = max(500, int(SMALL * share)), max(100, int(LARGE * share))
        fill(cluster, islice(records(100, range(16)), small))
        fill(cluster, islice(records(LARGE_BYTES, range(16, 32)), large))
        return {
            "records_of_100_bytes": _rebuilt(cluster, range(16), small, share, say),
            "values_of_10_kib": _rebuilt(cluster, range(16, 32), large, share, say),
        }


def _rebuilt(
    cluster: RealCluster, partitions: range, count: int, share: float, say: Say
) -> dict[str, object]:
    victim = cluster.agents[2]
    _miss(victim, *(word for at in partitions for word in ("--partition", str(at))))
    _start(cluster)
    hold(_held(victim, partitions) == 0, "the records are still there")
    with Load(cluster.addresses, rate=LOAD_RATE, read_share=0.5, writers=4) as load:
        wait_for(lambda: _held(victim, partitions) > 100, "the first records", wait_s=200)
        began, first = time.monotonic(), _held(victim, partitions)
        wait_for(lambda: _held(victim, partitions) >= count, "all of them", wait_s=300)
        seconds = time.monotonic() - began
    rate = (count - first) / max(seconds, 0.01)
    with Client([], learn_ring=False) as client:
        statuses = [status_of(client, agent.address) for agent in cluster.agents]
    p99_ms = percentile_ms(load.samples, 99)
    moved = sum(int(s["antientropy"]["sent"] + s["antientropy"]["fetched"]) for s in statuses)
    threshold_ms = statuses[0]["background"]["foreground_p99_s_max"] * 1000
    say(f"{count:,} records rebuilt at {rate:,.0f}/s ({moved:,} moved); foreground p99 {p99_ms} ms")
    if share == 1.0:
        needed = SMALL_RATE_MIN if partitions.start == 0 else LARGE_RATE_MIN
        hold(rate >= needed, f"{rate:,.0f} records a second")
        hold(p99_ms <= threshold_ms, f"the foreground's p99 was {p99_ms} ms")
    cluster.stop()
    return {
        "records": count,
        "moved": moved,
        "seconds": round(seconds, 1),
        "records_per_s": round(rate),
        "foreground_p99_ms": p99_ms,
    }


def _held(agent: RealAgent, partitions: range) -> int:
    """Records that it has there."""
    counts: list[int] = []
    with Client([], learn_ring=False) as client:
        while len(counts) < len(partitions):
            reply = client.ask(agent.address, Roots([*partitions[len(counts) :]]))
            assert isinstance(reply, RootsReply)
            counts += reply.counts
    return sum(counts)


# --- stores --------------------------------------------------------------------------------------


def _cluster(directory: str, interval_s: float) -> RealCluster:
    config = Path(directory) / "dynagent.toml"
    config.write_text(f"antientropy_interval_s = {interval_s}\n", encoding="utf-8")
    return RealCluster(Path(directory), 3, "--config", str(config), partitions=PARTITIONS)


def _start(cluster: RealCluster) -> None:
    cluster.start()
    cluster.wait_ready()


def _miss(agent: RealAgent, *words: str) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "dynagent.main", "store", "damage", str(agent.directory)),
            *("miss", *words, "--yes", "-o", "jsonl"),
        ],
        check=True,
        capture_output=True,
    )
