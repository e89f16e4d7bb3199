"""A full disk: writes are refused with one clear line, reads go on, and room is all it takes."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynagent.client.blocking import Client
from dynagent.errors import DiskFull, Overloaded, WriteOutcomeUnknown
from tests.real.cluster import RealCluster, wait_for

pytestmark = pytest.mark.real


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB of its own."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "dynagent-test", str(mount)], check=True
    )
    yield mount
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


def test_three_agents_on_a_full_disk_refuse_writes_and_recover_by_themselves(
    small_disk: Path,
) -> None:
    with RealCluster(small_disk, 3, partitions=8) as cluster, cluster.client() as client:
        for number in range(20):
            client.put(b"key-%d" % number, b"before-%d" % number)
        ballast = fill(small_disk)
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
