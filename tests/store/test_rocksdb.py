"""What RocksDB promises beyond the contract: real fsyncs, fail-stop, nothing unsynced is seen."""

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Options, Rdict

from dynagent.core.ports import NodeId, Token
from dynagent.errors import CorruptRecord, DataDirError, DynagentError, StoreFailed
from dynagent.store.crc32c import crc32c, is_one_byte
from dynagent.store.rocksdb import RocksStore
from dynagent.store.rocksdb_log import check_logs, find_logs
from dynagent.store.seen import SeenFile, read_seen
from tests.store.conformance import OWNER, Record, contents, markers, token, write

PLACE = token(7), b"key"


class FaultyDb:
    """An open database whose Nth change fails, before or after it is done."""

    def __init__(self, path: str, options: Options) -> None:
        self._db = Rdict(path, options)
        self.done = 0
        self.fail_at = 0
        self.after = False
        self.syncs: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def _count(self, job: Any, *args: Any) -> None:
        self.done += 1
        if self.done == self.fail_at and not self.after:
            raise Exception("IO error: injected")
        job(*args)
        if self.done == self.fail_at:
            raise Exception("IO error: injected")

    def write(self, changes: Any) -> None:
        self._count(self._db.write, changes)

    def flush_wal(self, sync: bool) -> None:
        self.syncs.append(sync)
        self._count(self._db.flush_wal, sync)


def _open_faulty(path: Path) -> tuple[RocksStore, FaultyDb]:
    opened: list[FaultyDb] = []

    def open_db(directory: str, options: Options) -> Any:
        opened.append(FaultyDb(directory, options))
        return opened[0]

    return RocksStore(path, open_db=open_db), opened[0]


def _batches() -> list[list[Record]]:
    return [[(token(1), b"a", b"%d" % n), (token(2), b"b", b"%d" % n)] for n in range(1, 4)]


def _owed(batches: int) -> dict[NodeId, list[tuple[Token, bytes]]]:
    """Each batch adds a hint and removes the one of the batch before it."""
    return {OWNER: [(token(batches), b"a")]} if batches else {}


@pytest.mark.parametrize("after", [False, True], ids=["before it is done", "after it is done"])
def test_a_failure_of_any_operation_stops_the_store_and_leaves_no_half_batch(
    tmp_path: Path, after: bool
) -> None:
    struck = True
    fail_at = 0
    while struck:
        fail_at += 1
        path = tmp_path / f"store{fail_at}"
        store, db = _open_faulty(path)
        db.fail_at, db.after = fail_at, after
        acknowledged = 0
        try:
            for batch in _batches():
                hints = [(OWNER, token(acknowledged + at), b"a", at == 1) for at in range(2)]
                write(store, *batch, hints=hints, number=acknowledged + 1)
                acknowledged += 1
        except StoreFailed as exc:
            assert f"batch {acknowledged + 1}" in exc.message
            done = db.done
            with pytest.raises(StoreFailed, match="earlier write"):
                write(store, (token(1), b"later", b"x"))
            assert db.done == done  # the disk was not touched again
            # What was not synced is not seen, although RocksDB has it in memory.
            assert contents(store) == ([] if not acknowledged else _batches()[acknowledged - 1])
            assert markers(store) == _owed(acknowledged)
        struck = acknowledged < 3
        store.close()
        store = RocksStore(path)
        states = [(batch, _owed(number)) for number, batch in enumerate([[], *_batches()])]
        allowed = states[acknowledged : acknowledged + (2 if struck else 1)]
        assert (contents(store), markers(store)) in allowed
        store.close()
    assert fail_at == 7


def test_the_checksum_is_castagnolis_in_whole_and_in_parts() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of its catalogue entry
    data = bytes(range(256))
    for cut in range(20):
        assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


def test_one_wrong_byte_shows_in_the_checksum_and_two_do_not() -> None:
    data = bytes(range(100))
    for at in range(100):
        one, two = bytearray(data), bytearray(data)
        one[at] ^= at + 1
        two[at] ^= at + 1
        two[(at + 37) % 100] ^= 0x40
        assert is_one_byte(crc32c(bytes(one)) ^ crc32c(data), 100)
        assert not is_one_byte(crc32c(bytes(two)) ^ crc32c(data), 100)


def test_every_batch_is_synced(tmp_path: Path) -> None:
    store, db = _open_faulty(tmp_path / "store")
    for batch in _batches():
        write(store, *batch)
    assert db.syncs == [True] * 3
    store.close()


def test_a_batch_is_not_seen_before_it_is_synced(tmp_path: Path) -> None:
    store, db = _open_faulty(tmp_path / "store")
    write(store, (*PLACE, b"old"), (token(8), b"gone", b"old"))
    before = contents(store)
    reached, go_on = threading.Event(), threading.Event()
    flush_wal = db._db.flush_wal

    def wait(sync: bool) -> None:
        reached.set()
        assert go_on.wait(60)
        flush_wal(sync)

    db.flush_wal = wait  # type: ignore[method-assign]
    rows = (*PLACE, b"new"), (token(8), b"gone", b""), (token(9), b"added", b"new")
    hints = {"hints": [(OWNER, *PLACE, True)]}
    writer = threading.Thread(target=write, args=(store, *rows), kwargs=hints)
    writer.start()
    assert reached.wait(60)
    assert store.get(*PLACE) == b"old"
    assert store.get(token(9), b"added") is None
    assert contents(store) == before
    assert store.count() == 2
    assert markers(store) == {}
    assert not store.has_hint(OWNER, *PLACE)
    go_on.set()
    writer.join()
    assert markers(store) == {OWNER: [PLACE]}
    assert contents(store) == [(*PLACE, b"new"), (token(9), b"added", b"new")]
    store.close()


def test_an_open_that_fails_is_reported_and_lets_go_of_the_database(tmp_path: Path) -> None:
    RocksStore(tmp_path / "store").close()

    def refuse(path: str, options: Options) -> Rdict:
        raise Exception("IO error: injected")

    with pytest.raises(DataDirError, match="injected"):
        RocksStore(tmp_path / "store", open_db=refuse)
    SeenFile(tmp_path / "store.seen").write(1_000)
    with pytest.raises(DataDirError, match="ends at commit 0, but 1000 were synced"):
        RocksStore(tmp_path / "store")
    (tmp_path / "store.seen").unlink()
    RocksStore(tmp_path / "store").close()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"text")
    with pytest.raises(DataDirError, match="cannot open"):
        RocksStore(tmp_path / "store")
    assert (tmp_path / "store").read_bytes() == b"text"


def test_a_directory_that_lost_its_root_is_not_started_anew(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store")
    write(store, (*PLACE, b"x"))
    store.close()
    (tmp_path / "store" / "CURRENT").unlink()
    before = sorted(path.name for path in (tmp_path / "store").glob("*.sst"))
    with pytest.raises(DataDirError, match="cannot open"):
        RocksStore(tmp_path / "store")
    assert sorted(path.name for path in (tmp_path / "store").glob("*.sst")) == before


def test_a_damaged_table_is_corrupt_and_not_the_end_of_a_scan(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = RocksStore(path)
    write(store, *((token(i), b"key", bytes([i % 251]) * 500) for i in range(400)))
    store.close()
    (table,) = path.glob("*.sst")
    data = bytearray(table.read_bytes())
    data[len(data) // 3] ^= 1
    table.write_bytes(data)
    store = RocksStore(path)
    with pytest.raises(CorruptRecord, match="cannot read the records from"):
        contents(store)
    with pytest.raises(CorruptRecord, match="count"):
        store.count()
    assert markers(store) == {}  # it stands before the records, which the damage did not reach
    unknown = 0
    for i in range(400):
        try:
            assert store.get(token(i), b"key") == bytes([i % 251]) * 500
        except CorruptRecord:
            unknown += 1
    assert 0 < unknown < 400
    store.close()


def test_a_flipped_byte_in_the_last_record_of_the_manifest_is_refused(tmp_path: Path) -> None:
    live = tmp_path / "live"
    for number in range(2):
        store = RocksStore(live)
        write(store, (token(number), b"key", b"x"))
        expected = contents(store)
        store.close()
    (manifest,) = live.glob("MANIFEST-*")
    data = manifest.read_bytes()
    for at in range(len(data) - 160, len(data)):
        shutil.copytree(live, tmp_path / "scratch")
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        (tmp_path / "scratch" / manifest.name).write_bytes(damaged)
        try:
            store = RocksStore(tmp_path / "scratch", sync=False)
            assert contents(store) == expected
            store.close()
        except DataDirError:
            pass
        shutil.rmtree(tmp_path / "scratch")
        (tmp_path / "scratch.seen").unlink(missing_ok=True)


def test_a_clean_close_leaves_no_log_to_walk(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store")
    write(store, (*PLACE, b"x"))
    assert check_logs(tmp_path / "store", 0).sequence == 1
    store.close()
    assert check_logs(tmp_path / "store", 0).sequence == 0
    assert all(log.stat().st_size == 0 for log in find_logs(tmp_path / "store"))
    assert read_seen(tmp_path / "store.seen") == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 12, b"\x01" + b"\0" * 11, b"\0" * 13])
def test_a_seen_file_that_is_torn_claims_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "seen").write_bytes(content)
    assert read_seen(tmp_path / "seen") == 0


def test_a_snapshot_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store")
    write(store, (*PLACE, b"x"))
    with pytest.raises(DynagentError, match="snapshot"):
        store.snapshot(tmp_path / "absent" / "copy")
    (tmp_path / "copy.partial").mkdir()
    (tmp_path / "copy.partial" / "file").write_bytes(b"left by a crash")
    store.snapshot(tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy"]
    store.close()


_WRITER = """
import resource
import sys
from pathlib import Path
from dynagent.store.rocksdb import RocksStore
from dynagent.errors import StoreFailed
from tests.store.conformance import token, write

file_bytes_max = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
store = RocksStore(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    rows = [(token(number * 10 + i), b"key", b"%d" % number * 200) for i in range(1, 4)]
    try:
        write(store, (token(0), b"latest", b"%d" % number), *rows, number=number)
    except StoreFailed:
        print("failed", flush=True)
        break
    print(number, flush=True)
"""


def _check_acknowledged(path: Path, acknowledged: int) -> None:
    store = RocksStore(path)
    latest = int(store.get(token(0), b"latest") or b"0")
    # The one batch that was under way may be there too, then whole.
    assert latest in (acknowledged, acknowledged + 1)
    for number in range(1, latest + 1):
        for i in range(1, 4):
            assert store.get(token(number * 10 + i), b"key") == b"%d" % number * 200
    assert len(contents(store)) == 1 + 3 * latest
    store.close()


@pytest.mark.parametrize("acknowledgements", [1, 150, 700])
def test_all_acknowledged_batches_survive_kill_9(tmp_path: Path, acknowledgements: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path / "store"), str(1 << 30)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with writer:
        assert writer.stdout is not None
        for _ in range(acknowledgements):
            line = writer.stdout.readline()
        writer.kill()
        for rest in writer.stdout:  # what it had acknowledged before the signal arrived
            if rest.endswith("\n"):
                line = rest
    assert writer.returncode == -signal.SIGKILL
    _check_acknowledged(tmp_path / "store", int(line))


def test_a_full_disk_stops_the_store_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WRITER, str(tmp_path / "store"), str(1 << 20)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = done.stdout.split()
    assert lines[-1] == "failed"
    _check_acknowledged(tmp_path / "store", int(lines[-2]))


def test_what_a_first_start_left_on_a_full_disk_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "store.rocksdb"
    path.mkdir()
    for name in ("LOCK", "LOG", "000000.dbtmp"):
        (path / name).touch()
    store = RocksStore(path)
    write(store, (*PLACE, b"stored"))
    store.close()
    (path / "CURRENT").unlink()
    with pytest.raises(DataDirError):  # but no new one beside the rest of an old one
        RocksStore(path)
