"""The power is cut under a store that writes: every acknowledged batch is there afterwards."""

import pytest

from tests.real.powercut import cut_power_often, fail_once, is_possible

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
