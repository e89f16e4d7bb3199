"""Stores of stopped agents, filled through the product's own door: a million records in a minute,
where a client would take ten."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

from dynagent.core.entry import Record, encode_sibling
from dynagent.core.ring import token_of
from dynagent.core.siblings import EMPTY
from dynagent.store.datadir import DataDir
from dynagent.store.door import open_replica
from tests.real.cluster import RealCluster

_CHUNK = 2_000


def records(size: int, partitions: range | None = None) -> Iterator[tuple[bytes, Record]]:
    """One value of that many bytes for each key, of those partitions."""
    number = 0
    while True:
        number += 1
        key = b"%d/%d" % (size, number)
        token = token_of(key)
        if partitions is not None and token[0] not in partitions:  # of 256: the first byte
            continue
        sibling = encode_sibling(
            dot=(int.from_bytes(token[:7], "big") + 1, 1),
            wall_ms=1_700_000_000_000,
            content=0,
            expiry_ms=0,
            op_id=token,
            meta={},
            value=key.ljust(size, b"."),
        )
        yield key, Record(EMPTY.write({}, sibling))


def fill(cluster: RealCluster, made: Iterator[tuple[bytes, Record]]) -> None:
    """All agents are stopped, own everything and hold the same: one replica makes the batches of
    all three stores."""
    dirs = [DataDir.open_stopped(agent.directory, dice=Random(1)) for agent in cluster.agents]
    try:
        replica: Any = open_replica(dirs[0], Random(1))
        while chunk := list(islice(made, _CHUNK)):
            replica.merge(chunk, barrier=0)
            batch = replica.take_batch()
            for data_dir in dirs:
                data_dir.store.write(batch)
            replica.on_committed(batch)
    finally:
        for data_dir in dirs:
            data_dir.close(clean=False)
