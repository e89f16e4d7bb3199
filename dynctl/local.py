"""A cluster of real agents on this machine's loopback, for `dynctl up` and `down`.

    D/cluster             key=value: how many agents, the address of each, and that of its HTTP
    D/local-1/            the data directory of an agent, with its agent.log (`spawn` starts it)

An agent runs while its data directory is locked: a pid counts only as long as the lock that it
stands in is held, so no stale pid is ever trusted.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dynagent.address import parse_address
from dynagent.errors import BadRequest, ConfigError, Refused, TimedOut
from dynagent.store.datadir import read_lock_holder
from dynctl.faults import LocalFailure
from dynctl.settings import read_pairs, write_pairs
from dynctl.spawn import HOST, LOG, free_port_near, free_ports

_FILE = "cluster"
_POLL_S = 0.05
_STEM = "local-"
_HTTP = ".http"
_HTTP_OFFSET = 1_000  # an agent on 7411 serves HTTP on 8411, if that is free
NODES_MAX = 32  # a machine, not a data centre


class LocalCluster:
    """The agents of one directory: their addresses by name, in order.

    Where they serve HTTP may change from start to start: a metrics port that somebody else has
    taken must not keep a cluster down.
    """

    def __init__(
        self, directory: Path, addresses: Mapping[str, str], http: Mapping[str, str]
    ) -> None:
        self.directory = directory
        self.addresses = dict(addresses)
        self.http = dict(http)

    @property
    def endpoints(self) -> list[str]:
        return list(self.addresses.values())

    def save(self) -> None:
        http = {name + _HTTP: address for name, address in self.http.items()}
        write_pairs(str(self.directory / _FILE), {"format": "1", **self.addresses, **http})

    def extend(self, count: int) -> list[str]:
        """That many more agents, on ports after the others'; their names. Raises `Refused`."""
        if len(self.addresses) + count > NODES_MAX:
            raise Refused(f"that would be more than {NODES_MAX} agents; use a cluster of machines")
        last = max(int(name.removeprefix(_STEM)) for name in self.addresses)
        names = [f"{_STEM}{number}" for number in range(last + 1, last + 1 + count)]
        for name in names:
            owned = {_port(address) for address in (*self.endpoints, *self.http.values())}
            wanted = max(map(_port, self.endpoints)) + 1
            self.addresses[name] = f"{HOST}:{free_port_near(wanted, not_in=owned)}"
        return names

    def choose_http(self, names: Iterable[str]) -> None:
        """Gives each of these agents, which do not run, a free address for HTTP."""
        for name in names:
            wanted = _port(self.addresses[name]) + _HTTP_OFFSET
            if name in self.http:
                wanted = _port(self.http.pop(name))
            owned = {_port(address) for address in (*self.endpoints, *self.http.values())}
            self.http[name] = f"{HOST}:{free_port_near(wanted, not_in=owned)}"

    def holder(self, name: str) -> int | None:
        """The pid of the running agent, None if it does not run."""
        return read_lock_holder(self.directory / name)


def _port(address: str) -> int:
    return parse_address(address)[1]


def load(directory: Path) -> LocalCluster | None:
    """The cluster of a directory; None if there is none. Raises `ConfigError` or `Refused`."""
    path = directory / _FILE
    pairs = read_pairs(str(path)) if directory.is_dir() else None
    if pairs is None:
        return None
    if pairs.pop("format", "") != "1" or not pairs:
        raise Refused(f"{path} was not written by this version of dynctl up; name another --dir")
    for key, address in pairs.items():
        name = key.removesuffix(_HTTP)
        if not name.startswith(_STEM) or not name.removeprefix(_STEM).isdigit():
            raise ConfigError(f"{path}: {name!r} is not a name that dynctl up gives")
        try:
            parse_address(address)
        except BadRequest as exc:
            raise ConfigError(f"{path}: {key}: {exc.message}") from exc
    http = {key.removesuffix(_HTTP): pairs.pop(key) for key in list(pairs) if key.endswith(_HTTP)}
    return LocalCluster(directory, pairs, http)


def plan(directory: Path, *, nodes: int, port: int) -> LocalCluster:
    """A new cluster, on ports `port`, `port`+1, … (0: any free ones); nothing is written yet.

    Raises `Refused` if the directory holds something else.
    """
    strange = _strangers(directory, known=())
    if strange:
        raise Refused(f"{directory} holds {strange[0]!r} and no cluster; name an empty --dir")
    ports = free_ports(nodes) if port == 0 else range(port, port + nodes)
    return LocalCluster(
        directory, {f"{_STEM}{i}": f"{HOST}:{port}" for i, port in enumerate(ports, 1)}, {}
    )


@contextmanager
def locked(directory: Path, *, within_s: float) -> Iterator[None]:
    """One `up` or `down` at a time in a directory, which is made if need be."""
    deadline = time.monotonic() + within_s
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(directory, os.O_RDONLY)
    except OSError as exc:
        raise LocalFailure(f"{directory}: {exc.strerror}; name another --dir") from exc
    try:
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                raise TimedOut(f"another dynctl up or down works in {directory}")
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- stopping ------------------------------------------------------------------------------------


def stop(cluster: LocalCluster, names: Collection[str], *, within_s: float) -> list[str]:
    """SIGTERM to those that run, and waits until all have let go of their directories.

    Returns the names of those that ran. Raises `TimedOut` naming one that does not stop.
    """
    deadline = time.monotonic() + within_s
    told: dict[str, int] = {}
    while True:
        running = {n: pid for n in names if (pid := cluster.holder(n)) is not None}
        for name, pid in running.items():
            if pid and told.get(name) != pid:
                _signal(cluster, name, pid, signal.SIGTERM)
                told[name] = pid
        if not running:
            return list(told)
        if time.monotonic() > deadline:
            name, pid = next(iter(running.items()))
            raise TimedOut(
                f"{name} (pid {pid}) has not stopped within {within_s:g}s; see: "
                f"{cluster.directory / name / LOG}"
            )
        time.sleep(_POLL_S)


def kill(cluster: LocalCluster, names: Iterable[str], *, within_s: float) -> list[int]:
    """kill -9 of those agents that run, all at once, and waits until they have let go of their
    directories. Returns their pids. Raises `TimedOut`."""
    deadline = time.monotonic() + within_s
    running = {name: pid for name in names if (pid := cluster.holder(name))}
    for name, pid in running.items():
        _signal(cluster, name, pid, signal.SIGKILL)
    for name, pid in running.items():
        while cluster.holder(name) == pid:
            if time.monotonic() > deadline:
                raise TimedOut(f"{name} (pid {pid}) has not ended within {within_s:g}s")
            time.sleep(_POLL_S)
    return list(running.values())


def _signal(cluster: LocalCluster, name: str, pid: int, number: signal.Signals) -> None:
    """The pid could pass to another process between reading it and the signal. A descriptor of the
    process cannot: taken first, and the lock read once more, it names the agent."""
    try:
        if not hasattr(os, "pidfd_open"):
            os.kill(pid, number)
            return
        handle = os.pidfd_open(pid)
        try:
            if cluster.holder(name) == pid:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
    except ProcessLookupError:
        pass  # gone by itself
    except PermissionError as exc:
        raise LocalFailure(f"{name} (pid {pid}) belongs to another user") from exc


def check_ours(cluster: LocalCluster) -> None:
    """Raises `Refused` if the directory holds anything that dynctl up did not make."""
    strange = _strangers(cluster.directory, known=(_FILE, *cluster.addresses))
    if strange:
        raise Refused(
            f"{cluster.directory} also holds {strange[0]!r}, which dynctl up did not make; "
            f"move it away first"
        )
    for name in cluster.addresses:
        if (cluster.directory / name).is_symlink():
            raise Refused(f"{cluster.directory / name} is a link; remove it by hand")


def purge(cluster: LocalCluster, names: Collection[str] | None = None) -> None:
    """Removes the data of these stopped agents, or of all and the directory. The file that names
    them is written last, so that a purge cut short can be repeated."""
    try:
        for name in list(cluster.addresses if names is None else names):
            if (cluster.directory / name).exists():
                shutil.rmtree(cluster.directory / name)
            if names is not None:
                del cluster.addresses[name]
                cluster.http.pop(name, None)
        if names is not None:
            cluster.save()
            return
        (cluster.directory / _FILE).unlink(missing_ok=True)
        cluster.directory.rmdir()
    except OSError as exc:
        raise LocalFailure(f"{exc.filename}: cannot remove it: {exc.strerror}") from exc


def _strangers(directory: Path, *, known: tuple[str, ...]) -> list[str]:
    try:
        return sorted(entry.name for entry in directory.iterdir() if entry.name not in known)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise LocalFailure(f"{directory}: {exc.strerror}; name another --dir") from exc
