"""Put and get by quorum on real input: with three and with five agents, everything is read back
byte-identical, also after a cold restart (clean and killed) and with any one agent stopped."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dynagent.core.messages import MODE_OVERWRITE, Get, GetReply, Put, PutReply
from dynagent.core.version import Version
from dynagent.errors import TooLarge
from dynctl.load.driver import Answer
from dynctl.load.wires import Request
from tests.acceptance.corpus import Corpus
from tests.acceptance.points import Failed
from tests.real.cluster import RealCluster
from tests.real.drive import drive


def run(share: float, say: Callable[[str], None]) -> dict[str, object]:
    """All of it; returns the figures, raises `Failed` at the first point that does not hold."""
    corpus = Corpus(share)
    if share == 1.0 and len(corpus.identifiers) < 100_000:
        raise Failed(f"only {len(corpus.identifiers)} distinct identifiers; 100,000 are needed")
    say(
        f"{len(corpus.files):,} files, {len(corpus.large):,} over the limit, "
        f"{len(corpus.identifiers):,} identifiers"
    )
    figures: dict[str, object] = {
        "files": len(corpus.files),
        "files_over_the_limit": len(corpus.large),
        "identifiers": len(corpus.identifiers),
    }
    for count in (3, 5):
        with (
            tempfile.TemporaryDirectory() as directory,
            RealCluster(Path(directory), count, partitions=256) as cluster,
        ):
            figures[f"{count}_agents"] = _one_cluster(cluster, corpus, say)
    return figures


def _one_cluster(
    cluster: RealCluster, corpus: Corpus, say: Callable[[str], None]
) -> dict[str, object]:
    count = len(cluster.agents)
    figures: dict[str, object] = {}

    def timed(what: str, job: Callable[[], int]) -> None:
        start = time.perf_counter()
        done = job()
        elapsed = time.perf_counter() - start
        figures[what] = {"records": done, "seconds": round(elapsed, 1)}
        say(f"{count} agents: {what}: {done:,} records in {elapsed:.1f} s")

    timed("stored", lambda: _store(cluster, corpus))
    figures["refused_by_the_limit"] = _refuse(cluster, corpus)
    timed("read back", lambda: _read(cluster, corpus))
    cluster.stop()
    cluster.start()
    cluster.wait_ready()
    timed("read after a cold restart", lambda: _read(cluster, corpus))
    for agent in cluster.agents:
        agent.kill()
    cluster.start()
    cluster.wait_ready()
    timed("read after kill -9 of all", lambda: _read(cluster, corpus))
    for agent in cluster.agents:
        agent.stop()
        timed(f"read with {agent.name} stopped", lambda: _read(cluster, corpus))
        cluster.start()
        cluster.wait_ready()
    return figures


def _running(cluster: RealCluster) -> list[str]:
    return [agent.address for agent in cluster.agents if agent.process is not None]


def _store(cluster: RealCluster, corpus: Corpus) -> int:
    stored = 0

    def on_reply(key: bytes, reply: Answer, _seconds: float) -> None:
        nonlocal stored
        if not isinstance(reply, PutReply):
            raise Failed(f"put of {key!r}: {reply}")
        stored += 1

    requests = ((key, _put(key, value)) for key, value in corpus.records())
    drive(_running(cluster), requests, on_reply)
    return stored


def _put(key: bytes, value: bytes) -> Put:
    return Put(key, value, MODE_OVERWRITE, b"", os.urandom(16))


def _refuse(cluster: RealCluster, corpus: Corpus) -> int:
    """Files over the limit are refused with the limit's error, each one.

    Through the client: what no frame could carry is refused there, with the same error.
    """
    with cluster.client() as client:
        for key, path in corpus.large.items():
            try:
                client.put(b"file/" + key, path.read_bytes())
            except TooLarge:
                continue
            raise Failed(f"{key!r} is over the limit, and was stored")
    return len(corpus.large)


def _read(cluster: RealCluster, corpus: Corpus) -> int:
    expected: dict[bytes, bytes] = {}
    same = 0

    def requests() -> Iterator[Request]:
        for key, value in corpus.records():
            expected[key] = value
            yield key, Get(key)

    def on_reply(key: bytes, reply: Answer, _seconds: float) -> None:
        nonlocal same
        value = expected.pop(key)
        if not isinstance(reply, GetReply):
            raise Failed(f"get of {key!r}: {reply}")
        if [Version(data).value for data in reply.siblings] != [value]:
            raise Failed(f"get of {key!r}: not the bytes that were put")
        same += 1

    drive(_running(cluster), requests(), on_reply)
    if same != len(corpus):
        raise Failed(f"{same} of {len(corpus)} records were read")
    return same
