"""A damaged log is refused and a torn one is read: no acknowledged commit is dropped in silence."""

import shutil
from itertools import islice
from pathlib import Path

import pytest

from dynagent.core.entry import Record, decode_stored, encode_sibling, encode_stored
from dynagent.core.ports import Token
from dynagent.core.siblings import Siblings
from dynagent.errors import CorruptRecord, DataDirError
from dynagent.store.rocksdb import RocksStore
from dynagent.store.sqlite import SqliteStore
from tests.store.conformance import token, write
from tests.store.crashed import CASES, Crashed, flips, tears


@pytest.fixture(scope="module", params=sorted(CASES))
def crashed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    return CASES[request.param](tmp_path_factory.mktemp("crashed"))


@pytest.fixture(scope="module")
def powerless(crashed: Crashed, tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    return crashed.without_memory(tmp_path_factory.mktemp("powerless") / "store")


def test_an_undamaged_log_brings_everything_back(
    crashed: Crashed, powerless: Crashed, tmp_path: Path
) -> None:
    for case in (crashed, powerless):
        assert case.outcome(case.data, tmp_path / "scratch") == case.states[-1]


def test_any_flipped_byte_of_the_last_three_commits_is_refused(
    powerless: Crashed, tmp_path: Path
) -> None:
    # Every third byte; the acceptance run `durability` takes every bit of every one.
    whole = powerless.states[-1]
    for log in flips(
        powerless, powerless.last_three[::3], lambda at: [1 << at % 8 if at % 2 else 0xFF]
    ):
        assert powerless.outcome(log, tmp_path / "scratch") in (None, whole)


def test_any_flipped_byte_of_the_header_is_refused(powerless: Crashed, tmp_path: Path) -> None:
    for log in flips(powerless, range(32), lambda at: [1 << bit for bit in range(8)]):
        assert powerless.outcome(log, tmp_path / "scratch") in (None, powerless.states[-1])


def test_a_last_commit_cut_at_any_byte_is_there_whole_or_not_at_all(
    powerless: Crashed, tmp_path: Path
) -> None:
    for length in range(powerless.last.start, powerless.last.stop, 11):
        found = powerless.outcome(powerless.data[:length], tmp_path / "scratch")
        assert found == powerless.states[-2]


def test_a_last_commit_of_which_any_sectors_are_old_is_not_taken_for_damage(
    powerless: Crashed, tmp_path: Path
) -> None:
    for log in islice(tears(powerless), 0, None, 5):
        assert powerless.outcome(log, tmp_path / "scratch") in powerless.states[-2:]


def test_after_a_kill_even_a_cleanly_cut_commit_is_missed(crashed: Crashed, tmp_path: Path) -> None:
    # The page cache has kept the number of the last commit (store-shm, store.seen).
    for length in range(crashed.last.start, crashed.last.stop, 5):
        assert crashed.outcome(crashed.data[:length], tmp_path / "scratch") is None


def test_a_refusal_names_file_offset_and_remedy_and_changes_nothing(
    crashed: Crashed, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    shutil.copytree(crashed.directory, scratch)
    damaged = bytearray(crashed.data)
    damaged[crashed.ends[-4] + 50] ^= 1
    (scratch / crashed.log).write_bytes(damaged)
    before = {path: path.read_bytes() for path in scratch.rglob("*") if path.is_file()}
    with pytest.raises(DataDirError, match=r"damaged at byte \d+ .*start as a new node") as caught:
        crashed.open(scratch / "store")
    assert str(scratch / crashed.log) in caught.value.message
    assert "\n" not in caught.value.message
    assert {path: path.read_bytes() for path in scratch.rglob("*") if path.is_file()} == before


def _wiped(crashed: Crashed, first: int, size: int) -> bytes:
    return crashed.data[:first] + b"\0" * size + crashed.data[first + size :]


def test_a_wiped_stretch_before_the_last_two_commits_is_refused(
    powerless: Crashed, tmp_path: Path
) -> None:
    for first in range(powerless.ends[-5], powerless.ends[-4], 37):
        log = _wiped(powerless, first, 24)
        assert powerless.outcome(log, tmp_path / "scratch") in (None, powerless.states[-1])


def test_a_store_goes_on_after_a_tear_and_survives_the_next_one(
    powerless: Crashed, tmp_path: Path
) -> None:
    """No rest of the torn commit may later look like damage."""
    scratch = tmp_path / "scratch"
    shutil.copytree(powerless.directory, scratch)
    (scratch / powerless.log).write_bytes(powerless.data[: powerless.last.stop - 3])
    for number in range(3):
        store = powerless.open(scratch / "store")
        write(store, (token(500 + number), b"key", b"x"))
        copy = tmp_path / f"copy{number}"
        shutil.copytree(scratch, copy)
        store.close()
        scratch = copy
    store = powerless.open(scratch / "store")
    assert [store.get(token(500 + number), b"key") for number in range(3)] == [b"x"] * 3
    store.close()


def test_a_log_without_its_database_is_refused_and_kept(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store")
    write(store, (token(1), b"key", b"x"))
    shutil.copytree(tmp_path, tmp_path / "copy")
    store.close()
    log = (tmp_path / "copy" / "store-wal").read_bytes()
    for content in (b"", None):
        (tmp_path / "copy" / "store").unlink()
        if content is not None:
            (tmp_path / "copy" / "store").write_bytes(content)
        with pytest.raises(DataDirError, match="gone or empty"):
            SqliteStore(tmp_path / "copy" / "store")
        assert (tmp_path / "copy" / "store-wal").read_bytes() == log


CLUSTER = b"c" * 16


def _record() -> Record:
    sibling = encode_sibling(
        dot=(7, 1), wall_ms=1, content=0, expiry_ms=0, op_id=b"o" * 16, meta={}, value=b"v" * 60
    )
    return Record(Siblings({7: 1}, (sibling,)), op_ids=(b"o" * 16,), mark=(7, 1, 1))


def test_a_stored_record_flipped_at_any_byte_is_unknown_and_never_returned(tmp_path: Path) -> None:
    place, key = Token(b"\x11" * 16), b"precious"
    stored = encode_stored(_record(), cluster_id=CLUSTER, key=key)
    path = tmp_path / "store"
    store = SqliteStore(path)
    write(store, (place, key, stored))
    store.close()
    data = path.read_bytes()
    assert data.count(stored) == 1
    first = data.index(stored)
    for at in range(first, first + len(stored)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8 if at % 2 else 0xFF
        path.write_bytes(damaged)
        store = SqliteStore(path, synchronous="OFF")
        found = store.get(place, key)
        store.close()
        assert found is not None
        with pytest.raises(CorruptRecord, match="precious"):
            decode_stored(found, cluster_id=CLUSTER, key=key)


def test_a_table_of_rocksdb_flipped_at_any_byte_never_returns_a_wrong_record(
    tmp_path: Path,
) -> None:
    place, key = Token(b"\x11" * 16), b"precious"
    stored = encode_stored(_record(), cluster_id=CLUSTER, key=key)
    path = tmp_path / "store"
    store = RocksStore(path)
    write(store, (place, key, stored))
    store.close()
    (table,) = path.glob("*.sst")
    data = table.read_bytes()
    unknown = 0
    for at in range(0, len(data), 9):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        shutil.copytree(path, tmp_path / "scratch")
        (tmp_path / "scratch" / table.name).write_bytes(damaged)
        try:
            store = RocksStore(tmp_path / "scratch", sync=False)
            try:
                assert store.get(place, key) == stored
            finally:
                store.close()
        except (CorruptRecord, DataDirError):
            unknown += 1
        shutil.rmtree(tmp_path / "scratch")
    assert unknown > len(stored) // 9
