"""One agent owns a data directory, whole, or is told in one line why not."""

import errno
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dynagent.errors import DataDirError, StoreFailed
from dynagent.store.datadir import DataDir, read_lock_holder
from dynagent.store.identity import FORMAT, IdentityFile
from tests.store.conformance import contents, token, write


def _open(path: Path, seed: int = 1) -> DataDir:
    return DataDir.open(path, dice=random.Random(seed))


def test_an_absent_directory_is_created_private_with_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "var" / "lib" / "n1"
    data = _open(path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert sorted(file.name for file in path.iterdir())[:3] == ["identity", "lock", "store.sqlite"]
    assert data.identity_file.value.engine == data.store.name == "sqlite"
    data.close(clean=True)


def test_a_directory_comes_back_with_its_identity_and_its_records(tmp_path: Path) -> None:
    data = _open(tmp_path / "n1", seed=1)
    first = data.identity_file.value
    write(data.store, (token(1), b"key", b"stored"))
    data.close(clean=True)
    data.close(clean=True)
    data = _open(tmp_path / "n1", seed=2)
    second = data.identity_file.value
    assert contents(data.store) == [(token(1), b"key", b"stored")]
    assert second == replace(first, run=2, starts=(*first.starts, second.starts[-1]))
    assert second.clean_from_run == 1
    data.close(clean=False)
    data = _open(tmp_path / "n1", seed=3)
    assert (data.identity_file.value.run, data.identity_file.value.clean_from_run) == (3, 3)
    data.close(clean=True)


def test_an_open_that_fails_after_the_lock_lets_go_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: IdentityFile, identity: object) -> None:
        raise StoreFailed("injected")

    with monkeypatch.context() as patch:
        patch.setattr(IdentityFile, "write", write)
        with pytest.raises(StoreFailed, match="injected"):
            _open(tmp_path)
    assert read_lock_holder(tmp_path) is None
    _open(tmp_path).close(clean=True)


_HOLDER = """
import random, sys
from pathlib import Path
from dynagent.store.datadir import DataDir
data = DataDir.open(Path(sys.argv[1]), dice=random.Random(1))
print("open", flush=True)
sys.stdin.read()
data.close(clean=True)
"""


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_second_agent_is_refused_and_told_the_pid_of_the_first(tmp_path: Path, end: str) -> None:
    assert read_lock_holder(tmp_path / "n1") is None
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path / "n1")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        assert read_lock_holder(tmp_path / "n1") == holder.pid
        with pytest.raises(DataDirError, match=rf"pid {holder.pid}\b"):
            _open(tmp_path / "n1")
        if end == "kill":
            holder.kill()
        else:
            holder.stdin.close()
        holder.wait()
    assert read_lock_holder(tmp_path / "n1") is None
    data = _open(tmp_path / "n1")
    assert read_lock_holder(tmp_path / "n1") == os.getpid()
    assert data.identity_file.value.run == 2
    assert data.identity_file.value.clean_from_run == (2 if end == "kill" else 1)
    data.close(clean=True)
    assert read_lock_holder(tmp_path / "n1") is None


def test_a_probe_of_the_lock_does_not_keep_an_agent_out(tmp_path: Path) -> None:
    _open(tmp_path).close(clean=True)
    stop = tmp_path / "stop"
    probe = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path\n"
            "from dynagent.store.datadir import read_lock_holder\n"
            "print('probing', flush=True)\n"
            "while not Path(sys.argv[2]).exists(): read_lock_holder(Path(sys.argv[1]))",
            str(tmp_path),
            str(stop),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with probe:
        assert probe.stdout is not None
        assert probe.stdout.readline() == "probing\n"
        for _ in range(20):
            _open(tmp_path).close(clean=True)
        stop.touch()
    assert probe.returncode == 0


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataDirError, match="not a directory"):
        _open(tmp_path / "file")
    with pytest.raises(DataDirError, match="not a directory"):
        _open(tmp_path / "file" / "below")


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_directory_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    # Permission bits would not stop a test that runs as root, so the system's answer is injected.
    real = os.open

    def refuse(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(error, os.strerror(error), str(path))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataDirError, match=os.strerror(error)) as caught:
        _open(tmp_path)
    assert ("not writable" in caught.value.message) == (error != errno.ENOSPC)
    assert str(tmp_path) in caught.value.message


def test_a_path_where_nothing_can_be_made_is_refused() -> None:
    with pytest.raises(DataDirError, match="/proc/dynagent"):
        _open(Path("/proc/dynagent/n1"))


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match=r"'paper'.*known: rocksdb, sqlite"):
        DataDir.open(tmp_path, engine="paper", dice=random.Random(1))
    data = _open(tmp_path)
    data.identity_file.write(replace(data.identity_file.value, engine="stone"))
    data.close(clean=True)
    with pytest.raises(DataDirError, match="'stone'"):
        _open(tmp_path)


def test_a_directory_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    data = _open(tmp_path)
    data.identity_file.write(replace(data.identity_file.value, format=FORMAT + 1))
    data.close(clean=True)
    with pytest.raises(DataDirError, match="upgrade"):
        _open(tmp_path)


def test_a_store_without_its_identity_is_refused(tmp_path: Path) -> None:
    _open(tmp_path).close(clean=True)
    (tmp_path / "identity").unlink()
    with pytest.raises(DataDirError, match="identity file is gone"):
        _open(tmp_path)


def test_a_used_identity_without_its_store_is_refused(tmp_path: Path) -> None:
    data = _open(tmp_path)
    node = data.identity_file.value.node_id
    data.close(clean=True)
    (tmp_path / "store.sqlite").unlink()
    with pytest.raises(DataDirError, match=rf"store.sqlite of node {node} is gone"):
        _open(tmp_path)


def test_a_crash_between_identity_and_engine_leaves_a_directory_that_opens(tmp_path: Path) -> None:
    value = IdentityFile.open_or_create(tmp_path, dice=random.Random(7), engine="sqlite").value
    data = _open(tmp_path)
    assert data.identity_file.value.node_id == value.node_id
    assert data.identity_file.value.run == 1
    data.close(clean=True)
