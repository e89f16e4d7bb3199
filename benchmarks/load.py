"""What `dynctl bench` measures, on three agents of our own: put and get, one row for each kind.

    python -m benchmarks.load [--seconds 10] [--connections 64] [--keys 10000] [--bytes 1024]

CPU per operation stays true on a busy machine; the rest does not. One operation is in flight per
connection. Puts run in context mode (with the last reply's context) and in overwrite mode.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from dynctl.load.bench import Settings, measure
from dynctl.load.report import document
from dynctl.load.workload import Shape, Workload
from tests.real.cluster import RealCluster

_ROWS = {
    "put context": Shape(read_share=0.0),
    "put overwrite": Shape(read_share=0.0, mode="overwrite"),
    "get": Shape(read_share=1.0),
}


def main() -> int:
    """Prints one row per kind of operation."""
    parser = argparse.ArgumentParser(description="load against three agents on loopback")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=1_024)
    options = parser.parse_args()
    settings = Settings(connections=options.connections, duration_s=options.seconds, warmup_s=0.5)
    with tempfile.TemporaryDirectory() as directory, RealCluster(Path(directory), 3) as cluster:
        pids = {a.address: a.process.pid for a in cluster.agents if a.process is not None}
        print(f"{'':14} {'op/s':>9} {'CPU µs':>8} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}")
        for name, row in _ROWS.items():
            shape = replace(row, keys=options.keys, value_bytes=options.bytes)
            with cluster.client() as client:
                outcome = measure(client, Workload(shape), settings, lambda _text: None, pids)
            found = document(name, shape, settings, outcome)
            (latency,) = found.latencies
            print(
                f"{name:14} {found.per_s:9,.0f} {found.agents_cpu_us:8.0f} {latency.p50_ms:8.2f} "
                f"{latency.p99_ms:8.2f} {sum(row.count for row in found.errors):7}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
