"""The script in docs/trees.md, written without our code, finds the roots that we find."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from dynagent.core.entry import Record, encode_sibling
from dynagent.core.merkle import Forest
from dynagent.core.ports import Batch, PartitionId
from dynagent.core.ring import Ring, token_of
from dynagent.core.siblings import Siblings
from dynagent.store.memory import MemoryStore
from tests.core.harness import CLUSTER_ID, IDS, make_ring

PAGE = Path(__file__).parents[2] / "docs" / "trees.md"


def _records() -> dict[bytes, Record]:
    """Values, siblings, tombstones; keys of text and of bytes."""
    records: dict[bytes, Record] = {}
    for number in range(200):
        dots = [(1, number + 1), (2, 1)][: number % 3]
        siblings = tuple(
            encode_sibling(
                dot=dot,
                wall_ms=number,
                content=0,
                expiry_ms=0,
                op_id=bytes(16),
                meta={},
                value=b"value %d" % number,
            )
            for dot in dots
        )
        key = b"key %d" % number if number % 2 else b"\xff%d" % number
        records[key] = Record(Siblings({1: number + 1, 2: 7}, siblings))
    return records


def _line(key: bytes, record: Record) -> str:
    try:
        name: object = key.decode()
    except UnicodeDecodeError:
        name = {"base64": b64encode(key).decode()}
    return json.dumps({"key": name, "content": b64encode(record.content).decode()}) + "\n"


@pytest.mark.parametrize("partitions", [8, 4096])
def test_the_script_of_the_page_finds_our_root(tmp_path: Path, partitions: int) -> None:
    ring = Ring(
        epoch=1,
        cluster_id=CLUSTER_ID,
        n=3,
        r=2,
        w=2,
        members=make_ring(3).members,
        lists=(IDS[:3],) * partitions,
    )
    records = _records()
    forest = Forest(MemoryStore())
    forest.serve(ring, IDS[0])
    changes = [(token_of(key), key, None, record.digest) for key, record in records.items()]
    forest.apply(Batch(1), changes)
    script = tmp_path / "root.py"
    script.write_text(PAGE.read_text().split("```python\n")[1].split("```")[0])
    lines = "".join(_line(key, record) for key, record in records.items())
    for partition in {ring.partition_of(token_of(key)) for key in list(records)[:3]}:
        words = [CLUSTER_ID.hex(), str(partitions), str(partition)]
        done = subprocess.run(
            [sys.executable, "-I", str(script), *words],
            input=lines,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == forest.root(PartitionId(partition)).hex()
