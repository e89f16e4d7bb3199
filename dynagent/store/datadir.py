"""A data directory as a whole: the lock, the identity, the engine.

    lock            flock held by the agent that uses the directory, with its pid inside
    identity        who this store is (identity.py)
    store.sqlite    the engine's file, and its log beside it
    store.rocksdb   or, of the other engine, a directory

The identity is made first and the engine second, so an engine without identity, or a used identity
without engine, is a directory of which a part was lost: such a store is no longer the one that the
cluster knows, and opening it refuses. So it does for an engine that is not the one which the
identity was last used with (binding.py), or whose log is damaged. Nothing that was there is ever
deleted.
"""

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from dynagent.core.ports import Dice
from dynagent.errors import DataDirError, DynagentError, Refused, StoreFailed, StoreLost
from dynagent.store import identity, rocksdb_log, sqlite_log
from dynagent.store.binding import Mark, check_bound, write_mark
from dynagent.store.files import fsync_path, reason, tree_bytes
from dynagent.store.identity import Identity, IdentityFile, start_run, stop_clean
from dynagent.store.protocol import Store
from dynagent.store.sqlite import SqliteStore

LOCK_NAME = "lock"
_LOCK_TRIES = 1_000  # against probes of `read_lock_holder`, which hold the lock for microseconds


class _Engine(NamedTuple):
    file_name: str
    open: Callable[[Path], Store]
    find_logs: Callable[[Path], list[Path]]  # those that are there
    needs: str = ""  # the module that its extra brings


def _open_rocksdb(path: Path) -> Store:
    from dynagent.store.rocksdb import RocksStore  # an extra: not everyone has it

    return RocksStore(path)


ENGINES = {
    "sqlite": _Engine("store.sqlite", SqliteStore, sqlite_log.find_logs),
    "rocksdb": _Engine("store.rocksdb", _open_rocksdb, rocksdb_log.find_logs, needs="rocksdict"),
}


class DataDir:
    """An open data directory. While it is open, no other process can open it."""

    def __init__(self, path: Path, lock: int, identity_file: IdentityFile, store: Store) -> None:
        self.path = path
        self.identity_file = identity_file
        self.store = store
        self._lock: int | None = lock
        self._spare = os.dup(lock)  # who is out of descriptors can write the note of its end still

    @classmethod
    def open(cls, path: Path, *, engine: str = "sqlite", dice: Dice) -> "DataDir":
        """Opens `path`, creating it (mode 0700) and its parents if absent, and starts a new run.

        `engine` counts for a new directory only; an old one names its own. When this returns, the
        new run number is durable. Raises `DataDirError` with one line that names the remedy,
        `StoreLost` among them if this is not the store that the node last wrote, `StoreFailed` if
        the new run number cannot be written.
        """
        with ExitStack() as undo:
            _create(path)
            lock = _take_lock(path)
            undo.callback(os.close, lock)
            _check_engine(path, engine)
            _check_whole(path)
            identity_file = IdentityFile.open_or_create(path, dice=dice, engine=engine)
            store, store_id = _open_store(path, identity_file, undo)
            started = start_run(
                replace(identity_file.value, store_id=store_id or f"{dice.getrandbits(128):032x}"),
                dice=dice,
            )
            write_mark(store, Mark(started.store_id, started.run, stopped=False))
            identity_file.write(started)
            undo.pop_all()
            return cls(path, lock, identity_file, store)

    @classmethod
    def open_stopped(cls, path: Path, *, dice: Dice) -> "DataDir":
        """Opens the directory of an agent that is stopped, for tools: no run begins.

        The engine takes what a crash left in its log, as a start would. End with `close(False)`.
        Raises `Refused` if an agent uses the directory, `DataDirError` if it is none, or if an
        agent would refuse to start on it.
        """
        with ExitStack() as undo:
            lock = lock_stopped(path)
            undo.callback(os.close, lock)
            identity_file = IdentityFile.open_or_create(path, dice=dice, engine="sqlite")
            store, _store_id = _open_store(path, identity_file, undo)
            undo.pop_all()
            return cls(path, lock, identity_file, store)

    def disk_bytes(self) -> int:
        name = ENGINES[self.identity_file.value.engine].file_name
        return sum(tree_bytes(found) for found in self.path.glob(f"{name}*"))

    def close(self, clean: bool) -> None:
        """Closes the store and lets go of the lock; a second call does nothing.

        `clean`: everything that was submitted is committed, so that the next run may trust the
        marks of this one. After a `StoreFailed` it must be False.
        """
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        os.close(self._spare)
        value = self.identity_file.value
        try:
            try:
                if clean:
                    write_mark(self.store, Mark(value.store_id, value.run, stopped=True))
            finally:
                _close_store(self.identity_file, self.store)
            if clean:
                self.identity_file.write(stop_clean(value))
            os.ftruncate(lock, 0)  # the pid means nothing from here on
        finally:
            os.close(lock)


def read_lock_holder(path: Path) -> int | None:
    """The pid of the agent that has the directory open, or None if nobody has.

    0 if it is held by someone who has not written a pid.
    """
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise DataDirError(f"{path / LOCK_NAME}: cannot read it: {reason(exc)}") from exc
    try:
        for _ in range(_LOCK_TRIES):
            # A shared lock: two probes do not take each other for an agent.
            if _try_flock(lock, fcntl.LOCK_SH):
                return None
            if pid := _read_pid(lock):
                return pid
            os.sched_yield()  # it has the lock and is about to write its pid
        return 0
    finally:
        os.close(lock)


def lock_stopped(path: Path) -> int:
    """The lock of an existing directory that no agent uses: a handle to be closed.

    Raises `Refused` if one does, `DataDirError` if there is no data directory at `path`.
    """
    if not (path / identity.FILE_NAME).exists():
        raise DataDirError(
            f"{path} is no data directory: it has no identity file; name what dynagent run was"
            " given as --data-dir"
        )
    if pid := read_lock_holder(path):
        raise Refused(f"{path} is in use by the agent with pid {pid}; stop that one first")
    return _take_lock(path)


def _open_store(path: Path, identity_file: IdentityFile, undo: ExitStack) -> tuple[Store, str]:
    """The engine that belongs to this identity, and its store id, "" if it has none yet."""
    value = identity_file.value
    _check_engine(path, value.engine)
    used = ENGINES[value.engine]
    file = path / used.file_name
    if value.run > 0 and not file.exists():
        raise StoreLost(
            f"{path}: {file.name} of node {value.node_id} is gone; move the directory away"
            " and start as a new node, which the cluster refills"
        )
    had_log = bool(used.find_logs(file))
    if had_log and not value.closing:
        # Whatever ends us from here on, the engine may have taken the log in and deleted it.
        identity_file.write(replace(value, closing=True))
    try:
        store = used.open(file)
    except DynagentError:
        if used.find_logs(file):  # it has not: if it is missing one day, it was lost
            _take_back(identity_file, value)
        raise
    try:
        store_id = check_bound(file, store, value, had_log=had_log)
    except StoreLost:
        # All is left as it was found, or the next start would find nothing amiss: no note of a
        # close, and no log of our own making where one was lost.
        with suppress(StoreFailed):
            store.close()
        for log in [] if had_log else used.find_logs(file):
            log.unlink()
        _take_back(identity_file, value)
        raise
    undo.callback(_abandon, identity_file, store)
    return store, store_id


def _take_back(identity_file: IdentityFile, value: Identity) -> None:
    """The note of a close that has not come, or means nothing."""
    if identity_file.value != value:
        with suppress(StoreFailed):
            identity_file.write(value)


def _abandon(identity_file: IdentityFile, store: Store) -> None:
    """Of a start that has failed: if the store cannot be closed either, that is not the reason."""
    with suppress(StoreFailed):
        _close_store(identity_file, store)


def _close_store(identity_file: IdentityFile, store: Store) -> None:
    # An engine that closes well deletes its log, which must not look like a log that was lost.
    # Where this note cannot be written, the disk fails, and the engine will hardly close well.
    with suppress(StoreFailed):
        identity_file.write(replace(identity_file.value, closing=True))
    store.close()


def _create(path: Path) -> None:
    try:
        absent = [step for step in (path, *path.parents) if not step.exists()]
        for step in reversed(absent):
            step.mkdir(mode=0o700 if step == path else 0o777, exist_ok=True)
            fsync_path(step.parent)
    except OSError as exc:
        raise _unusable(path, exc) from exc
    if not path.is_dir():
        raise DataDirError(f"{path} is not a directory; name one, or a path that does not exist")


def _take_lock(path: Path) -> int:
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise _unusable(path, exc) from exc
    with ExitStack() as undo:
        undo.callback(os.close, lock)
        for _ in range(_LOCK_TRIES):
            if _try_flock(lock, fcntl.LOCK_EX):
                break
            # An agent, or only a probe? A probe's lock can be shared, an agent's cannot.
            if not _try_flock(lock, fcntl.LOCK_SH):
                raise _locked(path, lock)
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.sched_yield()
        else:
            raise _locked(path, lock)
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as exc:
            raise _unusable(path, exc) from exc
        undo.pop_all()
    return lock


def _try_flock(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(lock: int) -> int:
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _check_engine(path: Path, engine: str) -> None:
    if engine not in ENGINES:
        known = ", ".join(sorted(ENGINES))
        raise DataDirError(f"{path}: engine {engine!r} is unknown to this agent (known: {known})")
    needs = ENGINES[engine].needs
    if needs and find_spec(needs) is None:
        raise DataDirError(
            f"{path}: engine {engine!r} needs {needs}, which is not installed;"
            f" try: pip install 'dynctl[{engine}]'"
        )


def _check_whole(path: Path) -> None:
    if (path / identity.FILE_NAME).exists():
        return
    for engine in ENGINES.values():
        if (path / engine.file_name).exists():
            raise DataDirError(
                f"{path}: {engine.file_name} is there but the identity file is gone, so this store"
                " cannot prove which node it is; move the directory away and start as a new node"
            )


def _locked(path: Path, lock: int) -> DataDirError:
    pid = _read_pid(lock)
    return DataDirError(
        f"{path} is in use by the agent with pid {pid}; stop that one, or give this one a data"
        " directory of its own"
    )


def _unusable(path: Path, exc: OSError) -> DataDirError:
    if exc.errno in (errno.ENOTDIR, errno.EEXIST):
        return DataDirError(f"{path} is not a directory, or lies below a file; name another path")
    if exc.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return DataDirError(
            f"{path} is not writable ({reason(exc)}); check its owner, its mode and its mount"
        )
    return DataDirError(f"{path} cannot be used: {reason(exc)}")
