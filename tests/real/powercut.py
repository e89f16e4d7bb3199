"""Power cuts of one store: a real file system on a loop device, shut down under a running writer.

The ioctl FS_IOC_SHUTDOWN with NOLOGFLUSH makes ext4 forget everything that was not fsynced, and
fail every later call: what a machine finds after a power cut is what the device has. It needs root
and loop devices. `LoopDisk` unmounts and detaches what it made, and touches nothing else.

Acknowledgements count that were read before the cut began. An fsync that is under way when the
shutdown comes may return success on this kernel for what was dropped (a bare loop of pwrite and
fdatasync does it as well), which no machine can that has lost its power.

The writer is a process of its own, which reports each acknowledged batch through a pipe, thus not
on that file system. Batch n writes key n mod KEYS, so that a long run stays small and old records
are overwritten; every acknowledged batch must be found, by itself or by a later one on its key.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dynagent.errors import CorruptRecord, DataDirError
from dynagent.store.datadir import DataDir
from tests.real.tools import run_tool
from tests.store.conformance import OWNER, token

KEYS = 97
_FS_IOC_SHUTDOWN, _NOLOGFLUSH = 0x8004587D, 2
_IMAGE_BYTES = 96 << 20
_ACKS_MAX = 60  # of one cycle: the cut comes after a random number of them

WRITER = """
import random, sys
from pathlib import Path
from dynagent.errors import StoreFailed
from dynagent.store import datadir
from dynagent.store.datadir import DataDir
from tests.real.powercut import KEYS, without_fsync
from tests.store.conformance import OWNER, token, write

path, engine, number, fsync = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "on"
if not fsync:
    datadir.ENGINES[engine] = datadir.ENGINES[engine]._replace(open=without_fsync(engine))
store = DataDir.open(path, engine=engine, dice=random.Random(1)).store
print("ready", flush=True)
failures = 0
while failures < 2:
    number += 1
    place, stored = number % KEYS, b"%d" % number * 40
    meta = (("last", b"%d" % number),) if number % 3 == 0 else ()
    steps = (number, number - 4) if number % 4 == 0 else ()
    hints = [(OWNER, token(at), b"key", at == number) for at in steps]  # one is left: its batch's
    try:
        write(store, (token(place), b"key", stored), meta=meta, hints=hints, number=number)
        assert not failures, "a store that has failed acknowledged a batch"
        print(number, flush=True)
    except StoreFailed:
        failures += 1
print("stopped", flush=True)
sys.stdout.close()
__import__("os")._exit(0)  # as dead as after a power cut: nothing is closed
"""


def is_possible() -> bool:
    """Whether this machine can make loop devices. Where it can, a failure to do so is a failure."""
    return os.geteuid() == 0 and Path("/dev/loop-control").exists()


def without_fsync(engine: str) -> object:
    """How to open an engine that acknowledges without fsync: the harness must notice."""
    from dynagent.store.rocksdb import RocksStore
    from dynagent.store.sqlite import SqliteStore

    if engine == "sqlite":
        return lambda path: SqliteStore(path, synchronous="OFF")
    return lambda path: RocksStore(path, sync=False)


class LoopDisk:
    """An ext4 of its own under `directory`, mounted while the context lasts."""

    def __init__(self, directory: Path) -> None:
        self._image = directory / "image"
        self.mount_point = directory / "disk"
        self._device = ""  # empty: not mounted

    def __enter__(self) -> LoopDisk:
        self.mount_point.mkdir()
        with self._image.open("wb") as image:
            image.truncate(_IMAGE_BYTES)
        run_tool("mkfs.ext4", "-q", "-F", str(self._image))
        self._mount()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._unmount()

    def cut_power(self) -> None:
        """From now on every call fails, and what was not fsynced is gone."""
        root = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(root, _FS_IOC_SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(root)

    def fail(self) -> None:
        """As after an error of the device: ext4 remounts itself read-only."""
        name = Path(self._device).name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1")

    def restart(self) -> None:
        """Power is back: mounts what is on the device. Nobody may have a file open.

        It mounts a copy, on a device of its own. A process that has entered a mount namespace
        meanwhile (`ip netns exec` makes one, for an agent of another test) keeps the old mount,
        and mounting the same device again would give the very file system that was shut down.
        """
        self._unmount()
        copy = self._image.with_suffix(".copy")
        run_tool("cp", "--sparse=always", str(self._image), str(copy))
        copy.replace(self._image)
        self._mount()

    def _mount(self) -> None:
        self._device = run_tool("losetup", "--find", "--show", str(self._image))
        try:
            run_tool("mount", "-o", "errors=remount-ro", self._device, str(self.mount_point))
        except BaseException:
            self._detach()
            raise

    def _unmount(self) -> None:
        if self._device:
            try:
                run_tool("umount", str(self.mount_point))
            finally:
                self._detach()

    def _detach(self) -> None:
        """Whoever else has it mounted is its last user."""
        device, self._device = self._device, ""
        run_tool("losetup", "--detach", device)


@dataclass
class Figures:
    """What a loop saw."""

    cuts: int = 0
    acknowledged: int = 0
    unacknowledged_found: int = 0  # batches under way at the cut that were there
    lost_cycles: int = 0
    refused: int = 0  # of these, the store noticed by itself
    losses: list[str] = field(default_factory=list)


def cut_power_often(
    engine: str, *, cuts: int, fsync: bool = True, seed: int = 1, until_loss: bool = False
) -> Figures:
    """Cuts the power of a writing store, again and again; the same store goes on in each cycle.

    After a loss, which fsync must prevent, a new store begins. `until_loss` ends the loop there.
    """
    figures, dice = Figures(), random.Random(seed)
    with tempfile.TemporaryDirectory() as directory, LoopDisk(Path(directory)) as disk:
        path, number = disk.mount_point / "store0", 0
        for cycle in range(cuts):
            with _writing(path, engine, number, fsync=fsync) as acks:
                acknowledged = _read(acks, number, dice.randrange(1, _ACKS_MAX))
                disk.cut_power()
                latest = _read(acks, acknowledged, None)
            disk.restart()
            figures.cuts += 1
            figures.acknowledged += acknowledged - number
            clean = dice.random() < 0.5
            found, loss = _check(path, engine, acknowledged, latest, clean=clean)
            if loss:
                figures.lost_cycles += 1
                figures.refused += found < 0
                figures.losses.append(f"cycle {cycle}: {loss}")
                path, number = disk.mount_point / f"store{cycle + 1}", 0
                if until_loss:
                    break
            else:
                figures.unacknowledged_found += found - acknowledged
                number = found
    return figures


def fail_once(engine: str) -> Figures:
    """The file system turns read-only under a writer, which must stop, and lose nothing."""
    with tempfile.TemporaryDirectory() as directory, LoopDisk(Path(directory)) as disk:
        path = disk.mount_point / "store"
        with _writing(path, engine, 0, fsync=True) as acks:
            acknowledged = _read(acks, 0, 40)
            disk.fail()
            latest = _read(acks, acknowledged, None)
        disk.restart()
        _, loss = _check(path, engine, acknowledged, latest, clean=True)
        return Figures(acknowledged=acknowledged, losses=[loss] if loss else [])


@contextmanager
def _writing(
    path: Path, engine: str, number: int, *, fsync: bool
) -> Iterator[subprocess.Popen[str]]:
    """A writer that goes on after batch `number`; on leaving it must have stopped by itself."""
    command = [
        sys.executable,
        "-c",
        WRITER,
        str(path),
        engine,
        str(number),
        "on" if fsync else "off",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
            assert process.wait() == 0
        finally:
            process.kill()


def _read(process: subprocess.Popen[str], acknowledged: int, count: int | None) -> int:
    """The last of `count` more acknowledgements; None: all up to the end, which it announces."""
    assert process.stdout is not None
    line = ""
    for _ in range(count if count is not None else sys.maxsize):
        line = process.stdout.readline().strip()
        if not line.isdigit():
            break
        acknowledged = int(line)
    assert count is not None or line == "stopped", f"the writer ended with {line!r}"
    return acknowledged


def _check(
    path: Path, engine: str, acknowledged: int, latest: int, *, clean: bool
) -> tuple[int, str]:
    """(the newest batch in the store or -1, what is missing or "").

    `latest`: the last one that was acknowledged at all; the one after it may be there too.
    """
    try:
        data = DataDir.open(path, engine=engine, dice=random.Random(1))
    except DataDirError as exc:
        return -1, exc.message
    newest = 0
    try:
        missing = []
        for batch in range(max(1, latest - KEYS + 2), latest + 2):
            stored = data.store.get(token(batch % KEYS), b"key") or b""
            found = int(stored[: len(stored) // 40] or b"0")
            assert stored == (b"%d" % found * 40 if found else b""), "a value that was never put"
            newest = max(newest, found)
            if found < batch <= acknowledged:
                missing.append(batch)
        last = int(data.store.get_meta("last") or b"0")
        if last < acknowledged - acknowledged % 3:
            missing.append(acknowledged - acknowledged % 3)
        owed = [token(newest - newest % 4)] if newest >= 4 else []
        if [place for place, _ in data.store.hints(OWNER, b"", KEYS)] != owed:
            return newest, f"batch {newest} is there, but its hint or its removal is not"
        if newest > latest + 1:
            return newest, f"batch {newest} is there, but the last one was {latest}"
        return newest, f"batches {missing} of {acknowledged} are missing" if missing else ""
    except CorruptRecord as exc:
        return -1, exc.message
    finally:
        data.close(clean=clean)
