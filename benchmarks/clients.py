"""What each client costs: gets of 64 at once (and one at a time) against three real agents.

    python -m benchmarks.clients [--seconds 4] [--concurrency 64] [--keys 2000] [--bytes 100]

The client is a process of its own, so that its CPU can be told. CPU per get stays true on a busy
machine, gets per second do not: agents and client share its cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import trio

from dynagent.client.blocking import Client
from dynagent.client.bulk import BulkClient
from dynagent.client.lane import Request
from dynagent.client.trio_client import TrioClient
from dynagent.core.messages import Get
from tests.real.cluster import ROOT, RealCluster

Load = Callable[[list[str], argparse.Namespace], int]


def key_of(number: int, options: argparse.Namespace) -> bytes:
    return b"key-%d" % (number % options.keys)


def blocking(addresses: list[str], options: argparse.Namespace) -> int:
    """One thread for each request under way."""
    numbers, until = count(), time.perf_counter() + options.seconds

    def work(_worker: int) -> int:
        done = 0
        while time.perf_counter() < until:
            client.get(key_of(next(numbers), options))
            done += 1
        return done

    with Client(addresses) as client, ThreadPoolExecutor(options.concurrency) as pool:
        return sum(pool.map(work, range(options.concurrency)))


def trio_(addresses: list[str], options: argparse.Namespace) -> int:
    """One task for each request under way."""
    numbers, until, done = count(), time.perf_counter() + options.seconds, 0

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await client.get(key_of(next(numbers), options))
            done += 1

    async def main() -> None:
        nonlocal client
        async with client, trio.open_nursery() as nursery:
            for _ in range(options.concurrency):
                nursery.start_soon(work)

    client = TrioClient(addresses)
    trio.run(main)
    return done


def bulk(addresses: list[str], options: argparse.Namespace) -> int:
    """One window."""
    until = time.perf_counter() + options.seconds

    def requests() -> object:
        for number in count():
            if time.perf_counter() >= until:
                return
            yield Request(Get(key_of(number, options)))

    with BulkClient(addresses, in_flight=options.concurrency) as client:
        done = 0
        for request in client.run(requests()):  # type: ignore[arg-type]
            request.outcome()
            done += 1
        return done


LOADS: dict[str, Load] = {"blocking": blocking, "trio": trio_, "bulk": bulk}


def main() -> int:
    """Prints one row for each client and concurrency."""
    parser = argparse.ArgumentParser(description="the clients against three agents on loopback")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--keys", type=int, default=2_000)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--load", choices=LOADS, help=argparse.SUPPRESS)
    parser.add_argument("addresses", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        before = time.process_time()
        done = LOADS[options.load](options.addresses, options)
        cpu_s = time.process_time() - before
        print(f"{done / options.seconds:11,.0f}{cpu_s / done * 1e6:11.0f}", end="")
        return 0
    with tempfile.TemporaryDirectory() as directory, RealCluster(Path(directory), 3) as cluster:
        with cluster.client() as client:
            for number in range(options.keys):
                client.put(key_of(number, options), bytes(options.bytes), blind=True)
        columns = ("at once", "gets/s", "client µs", "agents µs")
        print(f"{'':10}" + "".join(f"{column:>11}" for column in columns))
        for name in LOADS:
            for concurrency in sorted({1, options.concurrency}):
                _measure(cluster, name, concurrency, options)
    return 0


def _measure(
    cluster: RealCluster, name: str, concurrency: int, options: argparse.Namespace
) -> None:
    before = sum(agent.cpu_s() for agent in cluster.agents)
    command = [
        *(sys.executable, "-m", "benchmarks.clients", "--load", name),
        *("--seconds", str(options.seconds), "--concurrency", str(concurrency)),
        *("--keys", str(options.keys), *cluster.addresses),
    ]
    row = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    agents_s = sum(agent.cpu_s() for agent in cluster.agents) - before
    done = int(row.split()[0].replace(",", "")) * options.seconds
    print(f"{name:10}{concurrency:11,}{row}{agents_s / done * 1e6:11.0f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
