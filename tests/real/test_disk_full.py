"""A full disk: writes are refused with one clear line, reads go on, and room is all it takes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynagent.client.blocking import Client
from dynagent.core.ports import Batch
from dynagent.core.ring import token_of
from dynagent.errors import DiskFull, Overloaded, WriteOutcomeUnknown
from dynagent.store.protocol import Store
from dynagent.store.rocksdb import RocksStore
from dynagent.store.sqlite import SqliteStore
from tests.real.cluster import RealCluster, wait_for

pytestmark = pytest.mark.real


@contextlib.contextmanager
def small_disk(mount: Path, engine: str) -> Iterator[Path]:
    """A tmpfs of its own: of 8 MiB, or what RocksDB keeps in reserve and as much again."""
    size = {"sqlite": "8m", "rocksdb": "96m"}[engine]
    mount.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "dynagent-test", str(mount)], check=True
    )
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def fill(disk: Path) -> Path:
    """A file that leaves no byte of room."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65_536)
        except OSError:
            pass
    return ballast


@pytest.mark.parametrize("engine", ["sqlite", "rocksdb"])
def test_three_agents_on_a_full_disk_refuse_writes_and_recover_by_themselves(
    engine: str, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "small", engine) as disk,
        RealCluster(disk, 3, "--engine", engine, partitions=8) as cluster,
        cluster.client() as client,
    ):
        for number in range(20):
            client.put(b"key-%d" % number, b"before-%d" % number)
        ballast = fill(disk)
        with pytest.raises(DiskFull, match="free some space"):
            for number in range(2_000):  # the store may still have a little room of its own
                with contextlib.suppress(WriteOutcomeUnknown):  # the one that met the end of it
                    client.put(b"more-%d" % number, b"x" * 4_096)
        for number in range(20):
            (version,) = client.get(b"key-%d" % number).versions
            assert version.value == b"before-%d" % number
        ballast.unlink()

        def takes_writes() -> bool:
            try:
                client.put(b"probe", b"x")
            except (Overloaded, WriteOutcomeUnknown):
                return False
            return True

        wait_for(takes_writes, "writes to be taken again")
        for number in range(20):
            client.put(b"key-%d" % number, b"after-%d" % number)
        for agent in cluster.agents:
            assert "store.full" in agent.log_text()
            assert "store.failed" not in agent.log_text()
            agent.kill()
        cluster.start()
        cluster.wait_ready()
        with Client(cluster.addresses, timeout_s=10) as later:
            for number in range(20):
                (version,) = later.get(b"key-%d" % number).versions
                assert version.value == b"after-%d" % number


ENGINES = {"sqlite": SqliteStore, "rocksdb": RocksStore}


def write(store: Store, number: int, key: bytes, value: bytes) -> None:
    batch = Batch(number)
    batch.records.append((token_of(key), key, value))
    store.write(batch)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("after", ["at once", "after one more write"])
def test_a_crash_after_a_refused_batch_leaves_a_store_that_opens(
    engine: str, after: str, tmp_path: Path
) -> None:
    """What a refused batch has left in the log is neither a commit nor damage."""
    with small_disk(tmp_path / "small", engine) as disk:
        store: Store = ENGINES[engine](disk / "store")
        write(store, 1, b"first", b"1" * 2_000)
        ballast = fill(disk)
        for _ in range(2):
            with pytest.raises(DiskFull, match="no room for batch 2"):
                write(store, 2, b"refused", b"x" * 4_000_000)
        ballast.unlink()
        expected = {b"first": b"1" * 2_000, b"refused": None}
        if after != "at once":
            write(store, 2, b"second", b"2" * 2_000)
            expected[b"second"] = b"2" * 2_000
        crashed = tmp_path / "crashed"
        shutil.copytree(disk, crashed)
        store.close()
        again: Store = ENGINES[engine](crashed / "store")
        assert {key: again.get(token_of(key), key) for key in expected} == expected
        write(again, 3, b"third", b"3")
        again.close()
