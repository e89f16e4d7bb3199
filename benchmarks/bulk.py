"""Records through `dynctl mput` and `mget` as processes, three real agents on the same machine.

    python -m benchmarks.bulk [--records 100000] [--bytes 100] [--in-flight 2048] [--engine sqlite]

CPU per record stays true on a busy machine; records per second do not. The CPU of dynctl includes
its start, which with 100,000 records is 3 µs of each. `mput again` overwrites what is there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec

from dynagent import limits
from tests.real.cluster import RealCluster
from tests.real.command import run_dynctl


def main() -> int:
    """Prints one row per verb."""
    parser = argparse.ArgumentParser(description="bulk verbs against three agents on loopback")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[limits.BULK_IN_FLIGHT_DEFAULT])
    parser.add_argument("--engine", choices=("sqlite", "rocksdb"), default="sqlite")
    options = parser.parse_args()
    columns = ("in flight", "dynctl µs", "agents µs", "records/s", "MiB")
    print(f"{'':12}" + "".join(f"{column:>11}" for column in columns))
    for in_flight in options.in_flight:
        with (
            tempfile.TemporaryDirectory() as directory,
            RealCluster(Path(directory), 3, "--engine", options.engine, partitions=256) as cluster,
        ):
            given, taken = Path(directory) / "in.jsonl", Path(directory) / "out.jsonl"
            _write(given, options.records, options.bytes)
            for name in ("mput", "mput again", "mget", "mdelete"):
                if name == "mdelete":
                    given = taken  # what mget has read
                    taken = Path(directory) / "deleted.jsonl"
                _measure(cluster, name, given, taken, in_flight, options.records)
    return 0


def _write(path: Path, records: int, size: int) -> None:
    with path.open("wb") as file:
        for number in range(records):
            value = f"{number:012d}".ljust(size, "v")[:size]
            file.write(msgspec.json.encode({"key": f"key-{number:08d}", "value": value}) + b"\n")


def _measure(
    cluster: RealCluster, name: str, given: Path, taken: Path, in_flight: int, records: int
) -> None:
    before = sum(agent.cpu_s() for agent in cluster.agents)
    usage = run_dynctl(
        name.partition(" ")[0],
        *("--in-flight", str(in_flight)),
        endpoints=cluster.addresses,
        stdin=given,
        stdout=taken,
    )
    assert usage.status == 0, usage.told
    agents_s = sum(agent.cpu_s() for agent in cluster.agents) - before
    print(
        f"{name:12}{in_flight:11,}{usage.cpu_s / records * 1e6:11.1f}"
        f"{agents_s / records * 1e6:11.0f}{records / usage.elapsed_s:11,.0f}"
        f"{usage.peak_kib / 1024:11.1f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
