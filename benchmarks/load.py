"""A closed loop against three real agents: throughput, latency, and the agents' CPU per operation.

    python -m benchmarks.load [--seconds 10] [--connections 64] [--keys 10000] [--bytes 1024]

CPU per operation stays true on a busy machine; the rest does not. One operation is in flight per
connection. Puts run in context mode (with the last reply's context) and in overwrite mode.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dynagent.core.messages import (
    MODE_CONTEXT,
    MODE_OVERWRITE,
    Error,
    Get,
    GetReply,
    Message,
    Put,
    PutReply,
)
from tests.real.cluster import RealCluster
from tests.real.drive import Request, drive

Make = Callable[[bytes], Message]


def measure(
    cluster: RealCluster, options: argparse.Namespace, contexts: dict[bytes, bytes], make: Make
) -> dict[str, float]:
    """Drives `make(key)` over random keys for `--seconds`; keeps the contexts of the replies."""
    latencies: list[float] = []
    errors = 0
    start = time.perf_counter()

    def requests() -> Iterator[Request]:
        dice = random.Random(1)
        while time.perf_counter() - start < options.seconds:
            key = b"key-%d" % dice.randrange(options.keys)
            yield key, make(key)

    def on_reply(key: bytes, reply: Message, seconds: float) -> None:
        nonlocal errors
        latencies.append(seconds)
        errors += isinstance(reply, Error)
        if isinstance(reply, PutReply | GetReply) and reply.context:
            contexts[key] = reply.context

    before = [agent.cpu_s() for agent in cluster.agents]
    drive(cluster.addresses, requests(), on_reply, connections=options.connections)
    elapsed = time.perf_counter() - start
    cpu_s = sum(agent.cpu_s() for agent in cluster.agents) - sum(before)
    latencies.sort()
    count = len(latencies)
    return {
        "per_s": count / elapsed,
        "cpu_us": cpu_s / count * 1e6,
        "p50_ms": latencies[count // 2] * 1e3,
        "p99_ms": latencies[int(count * 0.99)] * 1e3,
        "errors": errors,
    }


def main() -> int:
    """Prints one row per kind of operation."""
    parser = argparse.ArgumentParser(description="load against three agents on loopback")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=1_024)
    options = parser.parse_args()
    contexts: dict[bytes, bytes] = {}
    value = os.urandom(options.bytes)

    def put(mode: int) -> Make:
        return lambda key: Put(
            key,
            value,
            mode,
            contexts.get(key, b"") if mode == MODE_CONTEXT else b"",
            os.urandom(16),
        )

    def keep(key: bytes, reply: Message, _seconds: float) -> None:
        assert isinstance(reply, PutReply), reply
        contexts[key] = reply.context

    with tempfile.TemporaryDirectory() as directory, RealCluster(Path(directory), 3) as cluster:
        keys = [b"key-%d" % number for number in range(options.keys)]
        fill = put(MODE_OVERWRITE)
        drive(cluster.addresses, iter([(key, fill(key)) for key in keys]), keep)
        print(f"{'':14} {'op/s':>9} {'CPU µs':>8} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}")
        rows: list[tuple[str, Make]] = [
            ("put context", put(MODE_CONTEXT)),
            ("put overwrite", put(MODE_OVERWRITE)),
            ("get", Get),
        ]
        for name, make in rows:
            got = measure(cluster, options, contexts, make)
            print(
                f"{name:14} {got['per_s']:9,.0f} {got['cpu_us']:8.0f} {got['p50_ms']:8.2f} "
                f"{got['p99_ms']:8.2f} {got['errors']:7.0f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
