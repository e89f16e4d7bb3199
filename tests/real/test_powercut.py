"""The power is cut under a store that writes: every acknowledged batch is there afterwards."""

import subprocess
from pathlib import Path

import pytest

from tests.real.powercut import LoopDisk, cut_power_often, fail_once, is_possible

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not is_possible(), reason="needs root and loop devices"),
]
ENGINES = ["rocksdb", "sqlite"]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_acknowledged_batch_is_lost_by_power_cuts(engine: str) -> None:
    figures = cut_power_often(engine, cuts=4)
    assert figures.losses == []
    assert figures.acknowledged >= figures.cuts == 4


@pytest.mark.parametrize("engine", ENGINES)
def test_without_fsync_the_same_cuts_lose_acknowledged_batches(engine: str) -> None:
    figures = cut_power_often(engine, cuts=20, fsync=False, until_loss=True)
    assert figures.lost_cycles == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_system_that_turns_read_only_stops_the_store_and_loses_nothing(engine: str) -> None:
    figures = fail_once(engine)
    assert figures.losses == []
    assert figures.acknowledged >= 40


def test_who_has_copied_the_mounts_of_the_machine_does_not_keep_the_power_off(
    tmp_path: Path,
) -> None:
    """As the agents in network namespaces have, whose tests may run beside these."""
    with (
        LoopDisk(tmp_path) as disk,
        subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", "echo there; exec sleep 100"],
            stdout=subprocess.PIPE,
        ) as other,
    ):
        assert other.stdout is not None
        assert other.stdout.readline() == b"there\n"
        try:
            disk.cut_power()
            disk.restart()
            (disk.mount_point / "file").write_text("written")
        finally:
            other.kill()
