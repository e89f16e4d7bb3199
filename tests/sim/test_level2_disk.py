"""The simulated disk, and the log on it: what a power cut leaves, and what opening makes of it."""

from __future__ import annotations

import pytest

from dynagent.core.ports import Batch, Token
from dynagent.errors import DataDirError, DiskFull, StoreFailed
from dynagent.testing.level2.disk import SECTOR_BYTES, SimDisk
from dynagent.testing.level2.logstore import FILE_NAME, LogStore
from dynagent.testing.world import World


def new_disk(seed: int = 0) -> SimDisk:
    disk = SimDisk(World(seed).stream("disk"))
    disk.create("file")
    disk.sync_names()
    return disk


def content(disk: SimDisk, name: str = "file") -> bytes:
    return disk.read(name, 0, disk.size(name))


def batch(number: int, size: int = 2_000) -> Batch:
    made = Batch(number)
    made.records.append((Token(b"t" * 16), b"key", b"%d " % number * size))
    return made


def test_what_is_synced_survives_and_what_is_not_is_kept_lost_or_torn() -> None:
    outcomes = set()
    for seed in range(60):
        disk = new_disk(seed)
        disk.write("file", 0, b"a" * 100)
        disk.fsync("file")
        disk.write("file", 100, b"b" * 3 * SECTOR_BYTES)
        disk.cut_power()
        left = content(disk)
        assert left[:100] == b"a" * 100
        tail = left[100:]
        whole = tail == b"b" * 3 * SECTOR_BYTES
        prefix = tail == b"b" * len(tail)
        outcomes.add("kept" if whole else "lost" if not tail else "cut" if prefix else "holes")
    assert outcomes == {"kept", "lost", "cut", "holes"}


def test_writes_without_an_fsync_between_them_are_reordered() -> None:
    seen = set()
    for seed in range(60):
        disk = new_disk(seed)
        disk.write("file", 0, b"one")
        disk.write("file", 3, b"two")
        disk.cut_power()
        seen.add(content(disk))
    assert b"\0\0\0two" in seen  # the second without the first


def test_a_failed_fsync_is_told_once_and_the_power_cut_shows_what_it_lost() -> None:
    lost = 0
    for seed in range(20):
        disk = new_disk(seed)
        disk.fsyncs_to_fail = 1
        disk.write("file", 0, b"data")
        with pytest.raises(OSError, match="Input/output"):
            disk.fsync("file")
        disk.fsync("file")  # reports success, as Linux does
        assert content(disk) == b"data"
        disk.cut_power()
        lost += content(disk) != b"data"
    assert 0 < lost < 20


def test_evicting_the_cache_shows_the_same_as_the_power_cut() -> None:
    for seed in range(20):
        disk = new_disk(seed)
        disk.fsyncs_to_fail = 1
        disk.write("file", 0, b"data")
        with pytest.raises(OSError, match="Input/output"):
            disk.fsync("file")
        disk.evict("file")
        shown = content(disk)
        disk.cut_power()
        assert content(disk) == shown


def test_a_new_name_needs_an_fsync_of_its_directory() -> None:
    there = set()
    for seed in range(20):
        disk = SimDisk(World(seed).stream("disk"))
        disk.create("new")
        disk.write("new", 0, b"data")
        disk.fsync("new")
        disk.cut_power()
        there.add(disk.exists("new"))
    assert there == {True, False}


# --- the log -------------------------------------------------------------------------------------


def two_batches() -> tuple[SimDisk, int]:
    """A log of two batches, and where the second one begins."""
    disk = SimDisk(World(0).stream("disk"))
    store = LogStore(disk)
    store.write(batch(1, 20))
    begin = disk.size(FILE_NAME)
    store.write(batch(2, 20))
    return disk, begin


def test_every_torn_tail_is_dropped_and_the_log_goes_on_behind_what_is_left() -> None:
    disk, begin = two_batches()
    for end in range(begin, disk.size(FILE_NAME)):
        disk, begin = two_batches()
        disk.truncate(FILE_NAME, end)
        again = LogStore(disk)
        assert again.get(Token(b"t" * 16), b"key") == b"1 " * 20
        again.write(batch(3, 20))
        assert LogStore(disk).get(Token(b"t" * 16), b"key") == b"3 " * 20


def test_a_bad_batch_before_a_good_one_is_damage_at_every_byte() -> None:
    disk, begin = two_batches()
    sound = content(disk, FILE_NAME)
    for place in range(begin):
        disk.rot(FILE_NAME, place, 1)
        with pytest.raises(DataDirError, match="later batch stands whole"):
            LogStore(disk)
        disk.write(FILE_NAME, 0, sound)
        disk.fsync(FILE_NAME)
    assert LogStore(disk).get(Token(b"t" * 16), b"key") == b"2 " * 20


def test_after_a_failed_fsync_every_write_fails_without_touching_the_disk() -> None:
    disk = SimDisk(World(0).stream("disk"))
    store = LogStore(disk)
    store.write(batch(1))
    disk.fsyncs_to_fail = 1
    with pytest.raises(StoreFailed):
        store.write(batch(2))
    before = content(disk, FILE_NAME)
    with pytest.raises(StoreFailed, match="earlier write failed"):
        store.write(batch(3))
    assert content(disk, FILE_NAME) == before
    assert store.get(Token(b"t" * 16), b"key") == b"1 " * 2_000


def test_on_a_full_disk_a_batch_leaves_nothing_and_later_ones_succeed() -> None:
    disk = SimDisk(World(0).stream("disk"))
    store = LogStore(disk)
    store.write(batch(1))
    disk.bytes_free = 500
    before = content(disk, FILE_NAME)
    with pytest.raises(DiskFull):
        store.write(batch(2))
    assert content(disk, FILE_NAME) == before
    disk.bytes_free = None
    store.write(batch(3))
    assert LogStore(disk).get(Token(b"t" * 16), b"key") == b"3 " * 2_000


def test_what_a_killed_process_left_in_the_cache_is_made_durable_before_it_is_served() -> None:
    disk = SimDisk(World(0).stream("disk"))
    LogStore(disk).write(batch(1))
    data = content(disk, FILE_NAME)
    other = SimDisk(World(1).stream("disk"))
    LogStore(other)
    other.write(FILE_NAME, 0, data)  # and no fsync: the process was killed here
    assert LogStore(other).count() == 1
    other.cut_power()
    assert LogStore(other).count() == 1
