"""A closed loop against three real agents: throughput, latency, and the agents' CPU per operation.

    python -m benchmarks.load [--seconds 10] [--connections 64] [--keys 10000] [--bytes 1024]

CPU per operation stays true on a busy machine; the rest does not. One operation is in flight per
connection; every connection goes to an owner of its key. Puts run in context mode (with the last
reply's context) and in overwrite mode.
"""

from __future__ import annotations

import argparse
import os
import random
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dynagent.address import parse_address
from dynagent.core.messages import (
    MODE_CONTEXT,
    MODE_OVERWRITE,
    Error,
    Get,
    GetReply,
    Hello,
    Message,
    Put,
    PutReply,
)
from dynagent.wire.codec import encode_frame
from dynagent.wire.session import Session
from tests.real.cluster import RealCluster

Make = Callable[[int], Message]


class Stream:
    """One connection with one request in flight."""

    def __init__(self, address: str) -> None:
        self.socket = socket.create_connection(parse_address(address))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.session = Session(Hello(1, 1, 0, b"", "", b"", [], 1 << 20, 0), dialled=True)
        self.socket.sendall(self.session.hello())
        while self.session.remote is None:
            self.session.receive(self.socket.recv(65_536))
        self.key = 0
        self.sent = 0.0

    def send(self, key: int, message: Message) -> None:
        self.key, self.sent = key, time.perf_counter()
        self.socket.sendall(encode_frame(message, request_id=1, budget_ms=5_000))


def run(
    cluster: RealCluster, connections: int, keys: int, seconds: float, make: Make, done: object
) -> dict[str, float]:
    """Drives `make(key)` round and round; `done(key, reply)` sees every reply."""
    streams = [
        Stream(cluster.addresses[place % len(cluster.addresses)]) for place in range(connections)
    ]
    selector = selectors.DefaultSelector()
    dice = random.Random(1)
    for stream in streams:
        selector.register(stream.socket, selectors.EVENT_READ, stream)
        key = dice.randrange(keys)
        stream.send(key, make(key))
    latencies: list[float] = []
    errors = 0
    before = [agent.cpu_s() for agent in cluster.agents]
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for selected, _mask in selector.select(1.0):
            stream = selected.data
            for frame in stream.session.receive(stream.socket.recv(65_536)):
                latencies.append(time.perf_counter() - stream.sent)
                errors += isinstance(frame.message, Error)
                done(stream.key, frame.message)  # type: ignore[operator]
                key = dice.randrange(keys)
                stream.send(key, make(key))
    elapsed = time.perf_counter() - start
    cpu = sum(agent.cpu_s() for agent in cluster.agents) - sum(before)
    for stream in streams:
        stream.socket.close()
    latencies.sort()
    count = len(latencies)
    return {
        "per_s": count / elapsed,
        "cpu_us": cpu / count * 1e6,
        "p50_ms": latencies[count // 2] * 1e3,
        "p99_ms": latencies[int(count * 0.99)] * 1e3,
        "errors": errors,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=1_024)
    options = parser.parse_args()
    contexts: dict[int, bytes] = {}
    value = os.urandom(options.bytes)

    def put(mode: int) -> Make:
        return lambda key: Put(
            b"key-%d" % key,
            value,
            mode,
            contexts.get(key, b"") if mode == MODE_CONTEXT else b"",
            os.urandom(16),
        )

    def keep(key: int, reply: Message) -> None:
        if isinstance(reply, PutReply | GetReply) and reply.context:
            contexts[key] = reply.context

    with tempfile.TemporaryDirectory() as directory, RealCluster(Path(directory), 3) as cluster:
        with cluster.client() as client:
            for key in range(options.keys):
                contexts[key] = client.put(b"key-%d" % key, value, blind=True).context
        runs: list[tuple[str, Make]] = [
            ("put context", put(MODE_CONTEXT)),
            ("put overwrite", put(MODE_OVERWRITE)),
            ("get", lambda key: Get(b"key-%d" % key)),
        ]
        print(f"{'':14} {'op/s':>9} {'CPU µs':>8} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}")
        for name, make in runs:
            figures = run(cluster, options.connections, options.keys, options.seconds, make, keep)
            print(
                f"{name:14} {figures['per_s']:9,.0f} {figures['cpu_us']:8.0f} "
                f"{figures['p50_ms']:8.2f} {figures['p99_ms']:8.2f} {figures['errors']:7.0f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
