"""An engine that is not the one which the identity was last used with is refused, on any engine."""

import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dynagent.core.encoding import encode
from dynagent.core.ports import Batch
from dynagent.core.sums import HEAD
from dynagent.errors import DataDirError, StoreFailed
from dynagent.store import datadir
from dynagent.store.binding import ROW, write_mark
from dynagent.store.datadir import ENGINES, DataDir
from dynagent.store.identity import Identity, IdentityFile
from dynagent.store.protocol import Store
from tests.store.conformance import contents, token, write

KEY = token(1), b"key"


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def _open(path: Path, engine: str, seed: int = 1) -> DataDir:
    return DataDir.open(path, engine=engine, dice=random.Random(seed))


def _use(path: Path, engine: str, stored: bytes, *, clean: bool = True, seed: int = 1) -> None:
    data = _open(path, engine, seed)
    write(data.store, (*KEY, stored))
    data.close(clean=clean)


_CRASH = """
import os, random, sys
from pathlib import Path
from dynagent.store.datadir import DataDir
from tests.store.conformance import token, write
data = DataDir.open(Path(sys.argv[1]), engine=sys.argv[2], dice=random.Random(1))
write(data.store, (token(1), b"key", sys.argv[3].encode()))
os._exit(0)
"""


def _crash(path: Path, engine: str, stored: str) -> None:
    """A run that writes a record and dies."""
    subprocess.run([sys.executable, "-c", _CRASH, str(path), engine, stored], check=True)


def _copy_engine(source: Path, target: Path) -> None:
    """Replaces all of the engine's files, and no others."""
    for path in target.glob("store.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in source.glob("store.*"):
        if path.is_dir():
            shutil.copytree(path, target / path.name)
        else:
            shutil.copy(path, target / path.name)


def _identity(path: Path, engine: str) -> Identity:
    return IdentityFile.open_or_create(path, dice=random.Random(1), engine=engine).value


def _refused(path: Path, engine: str, match: str) -> None:
    before = {file.name: file.stat().st_size for file in path.glob("store.*")}
    identity = (path / "identity").exists() and _identity(path, engine)
    for _ in range(3):  # whoever starts agents tries again
        with pytest.raises(DataDirError, match=match) as caught:
            _open(path, engine)
        assert "\n" not in caught.value.message
        assert "new node" in caught.value.message
        assert not identity or _identity(path, engine) == identity
    assert set(before) <= {file.name for file in path.glob("store.*")} | {
        f"store.{engine}-wal",
        f"store.{engine}-shm",
    }


def test_every_run_is_bound_anew_and_comes_back(tmp_path: Path, engine: str) -> None:
    for run in range(1, 5):
        _use(tmp_path, engine, b"%d" % run, clean=run != 2, seed=run)
    data = _open(tmp_path, engine)
    assert contents(data.store) == [(*KEY, b"4")]
    assert data.identity_file.value.run == 5
    data.close(clean=True)


def test_what_a_crashed_run_wrote_is_there_in_the_next(tmp_path: Path, engine: str) -> None:
    for number in range(3):
        _crash(tmp_path, engine, str(number))
        data = _open(tmp_path, engine)
        assert contents(data.store) == [(*KEY, b"%d" % number)]
        data.close(clean=number == 1)


def test_the_engine_of_another_store_is_refused(tmp_path: Path, engine: str) -> None:
    _use(tmp_path / "n1", engine, b"1", seed=1)
    _use(tmp_path / "n2", engine, b"2", seed=2)
    _copy_engine(tmp_path / "n2", tmp_path / "n1")
    _refused(tmp_path / "n1", engine, "is not the store of node")


@pytest.mark.plain  # replaces a method
def test_why_a_store_is_refused_is_told_though_it_cannot_be_closed(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RocksDB flushes and compacts when it is closed, and may meet a bad block then."""
    _use(tmp_path / "n1", engine, b"1", seed=1)
    _use(tmp_path / "n2", engine, b"2", seed=2)
    _copy_engine(tmp_path / "n2", tmp_path / "n1")
    used = ENGINES[engine]

    def opened(path: Path) -> Store:
        store = used.open(path)
        good = store.close

        def close() -> None:
            good()
            raise StoreFailed("block checksum mismatch")

        monkeypatch.setattr(store, "close", close)
        return store

    monkeypatch.setitem(ENGINES, engine, used._replace(open=opened))
    _refused(tmp_path / "n1", engine, "is not the store of node")
    monkeypatch.setattr(datadir, "write_mark", _fail)
    with pytest.raises(StoreFailed, match="no mark"):
        _open(tmp_path / "n2", engine, seed=2)


def _fail(*_: object) -> None:
    raise StoreFailed("no mark")


def test_an_empty_engine_in_the_place_of_a_used_one_is_refused(tmp_path: Path, engine: str) -> None:
    _use(tmp_path / "n1", engine, b"1")
    (tmp_path / "n2").mkdir()
    ENGINES[engine].open(tmp_path / "n2" / ENGINES[engine].file_name).close()
    _copy_engine(tmp_path / "n2", tmp_path / "n1")
    _refused(tmp_path / "n1", engine, "is not the store of node")


@pytest.mark.parametrize("clean", [True, False], ids=["clean stop", "crash"])
def test_an_engine_of_an_earlier_run_is_refused(tmp_path: Path, engine: str, clean: bool) -> None:
    _use(tmp_path / "n1", engine, b"1")
    shutil.copytree(tmp_path / "n1", tmp_path / "old")
    _use(tmp_path / "n1", engine, b"2") if clean else _crash(tmp_path / "n1", engine, "2")
    _copy_engine(tmp_path / "old", tmp_path / "n1")
    _refused(tmp_path / "n1", engine, "was rolled back or lost its end: it ends in run 1")


def test_an_engine_of_before_the_clean_stop_is_refused(tmp_path: Path, engine: str) -> None:
    _crash(tmp_path / "n1", engine, "1")
    shutil.copytree(tmp_path / "n1", tmp_path / "old")
    data = _open(tmp_path / "n1", engine)
    data.identity_file.write(replace(data.identity_file.value, run=1))
    data.close(clean=True)
    _copy_engine(tmp_path / "old", tmp_path / "n1")
    _refused(tmp_path / "n1", engine, "was rolled back or lost its end")


def test_a_crashed_run_without_its_log_is_refused(tmp_path: Path, engine: str) -> None:
    _crash(tmp_path, engine, "1")
    data = _open(tmp_path, engine)  # what the crash left is now in the tables, the mark too
    data.identity_file.write(replace(data.identity_file.value, run=1))
    data.close(clean=False)
    identity_file = IdentityFile.open_or_create(tmp_path, dice=random.Random(1), engine=engine)
    identity_file.write(replace(identity_file.value, run=2, closing=False))
    for log in (*tmp_path.glob("*-wal"), *tmp_path.glob("*/*.log")):
        log.unlink()
    _refused(tmp_path, engine, "lost its log")


def test_a_start_that_ends_while_the_engine_opens_leaves_a_store_that_starts(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """^C, or no descriptor left: the engine has taken its log in by then, and deleted it."""
    _crash(tmp_path, engine, "1")
    used = ENGINES[engine]

    def cut(path: Path) -> Store:
        used.open(path).close()
        raise KeyboardInterrupt

    monkeypatch.setitem(ENGINES, engine, used._replace(open=cut))
    with pytest.raises(KeyboardInterrupt):
        _open(tmp_path, engine)
    monkeypatch.undo()
    data = _open(tmp_path, engine)
    assert contents(data.store) == [(*KEY, b"1")]
    data.close(clean=True)


def test_a_process_without_descriptors_notes_its_end(tmp_path: Path, engine: str) -> None:
    data = _open(tmp_path, engine)
    write(data.store, (*KEY, b"1"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_handle = os.dup(0)
    os.close(next_handle)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_handle, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        with suppress(StoreFailed):  # RocksDB needs some to flush
            data.close(clean=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    data = _open(tmp_path, engine)
    assert contents(data.store) == [(*KEY, b"1")]
    data.close(clean=True)


def test_a_log_that_is_emptied_with_the_start_of_its_run_is_refused(
    tmp_path: Path, engine: str
) -> None:
    _use(tmp_path, engine, b"1")
    _crash(tmp_path, engine, "2")
    for log in (*tmp_path.glob("*-wal"), *tmp_path.glob("*/*.log")):
        log.write_bytes(b"")
    (tmp_path / "store.rocksdb.seen").unlink(missing_ok=True)
    _refused(tmp_path, engine, "was rolled back or lost its end")


def test_a_store_of_a_release_without_store_ids_is_bound_at_its_next_start(
    tmp_path: Path, engine: str
) -> None:
    _use(tmp_path, engine, b"1")
    identity_file = IdentityFile.open_or_create(tmp_path, dice=random.Random(1), engine=engine)
    bound = identity_file.value
    identity_file.write(replace(bound, store_id=""))
    data = _open(tmp_path, engine)
    assert data.identity_file.value.store_id == bound.store_id
    assert contents(data.store) == [(*KEY, b"1")]
    data.close(clean=True)


@pytest.mark.parametrize("row", [b"", b"\xff", b"\x80", b"\x83\x01\x02\x03"])
def test_a_row_of_an_unknown_form_is_refused(tmp_path: Path, engine: str, row: bytes) -> None:
    data = _open(tmp_path, engine)
    batch = Batch(1)
    batch.meta.append((ROW, row))
    data.store.write(batch)
    data.close(clean=False)
    _refused(tmp_path, engine, "cannot read which store it is")


def test_a_run_of_a_release_that_kept_no_sums_of_trees_voids_their_journal(
    tmp_path: Path, engine: str
) -> None:
    data = _open(tmp_path, engine)
    write(data.store, sums=[(HEAD, b"head"), (1, b"a slot")])
    data.close(clean=True)
    data = _open(tmp_path, engine)
    assert dict(data.store.sums()) == {HEAD: b"head", 1: b"a slot"}
    of_before = Batch(1)
    of_before.meta.append((ROW, encode([data.identity_file.value.store_id, 2, False])))
    data.store.write(of_before)
    data.close(clean=False)
    data = _open(tmp_path, engine)
    assert dict(data.store.sums()) == {HEAD: b"", 1: b"a slot"}
    data.close(clean=True)


def _steps(path: Path, engine: str, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> bool:
    """A run from open to clean close that dies at its Nth durable step; False: it had fewer."""
    left = stop_at

    def counted(step: Callable[..., None]) -> Callable[..., None]:
        def run(*args: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise StoreFailed("injected")
            step(*args)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(datadir, "write_mark", counted(write_mark))
        patch.setattr(IdentityFile, "write", counted(IdentityFile.write))
        try:
            _use(path, engine, b"new")
        except StoreFailed:
            return True
    return left <= 0


def test_a_run_that_dies_at_any_step_leaves_a_directory_that_opens(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at = 1
    while _steps(tmp_path / f"new{stop_at}", engine, monkeypatch, stop_at):
        _use(tmp_path / f"new{stop_at}", engine, b"next")
        path = tmp_path / f"used{stop_at}"
        _use(path, engine, b"old")
        assert _steps(path, engine, monkeypatch, stop_at)
        data = _open(path, engine)
        assert data.store.get(*KEY) in (b"old", b"new")
        data.close(clean=True)
        stop_at += 1
    assert stop_at == 6


def test_an_engine_whose_extra_is_missing_is_named_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datadir, "find_spec", lambda name: None)
    with pytest.raises(DataDirError, match=r"pip install 'dynctl\[rocksdb\]'"):
        _open(tmp_path, "rocksdb")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lock"]
    _open(tmp_path, "sqlite").close(clean=True)
