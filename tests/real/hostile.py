"""Clients that mean no good, and caps on what an agent may take of its machine."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynagent.address import parse_address
from dynagent.client.requests import new_session
from dynagent.core.messages import Get
from dynagent.wire.codec import encode_frame
from tests.real.cluster import RealAgent

_CGROUP1 = Path("/sys/fs/cgroup/memory")
_CGROUP2 = Path("/sys/fs/cgroup")


@contextmanager
def slow_readers(agent: RealAgent, key: bytes, *, readers: int, gets: int) -> Iterator[None]:
    """Connections that ask for a value that many times each, and never read an answer."""
    session = new_session(b"", wall_ms=0)
    asked = b"".join(
        encode_frame(Get(key), request_id=number, budget_ms=60_000) for number in range(1, gets + 1)
    )
    sockets = []
    try:
        for _ in range(readers):
            sock = socket.create_connection(parse_address(agent.address), timeout=5)
            sockets.append(sock)
            sock.sendall(session.hello() + asked)
        yield
    finally:
        for sock in sockets:
            sock.close()


class Greedy:
    """One connection on which thousands of gets are sent in one go; `answered` counts on."""

    def __init__(self, agent: RealAgent, key: bytes, gets: int) -> None:
        self.answered = 0
        self._session = new_session(b"", wall_ms=0)
        self._asked = b"".join(
            encode_frame(Get(key), request_id=number, budget_ms=60_000)
            for number in range(1, gets + 1)
        )
        self._socket = socket.create_connection(parse_address(agent.address), timeout=60)
        self._threads = [threading.Thread(target=run) for run in (self._send, self._read)]

    def __enter__(self) -> Greedy:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _send(self) -> None:
        with suppress(OSError):
            self._socket.sendall(self._session.hello() + self._asked)

    def _read(self) -> None:
        while data := self._socket.recv(1 << 20):
            self.answered += len(self._session.receive(data))


@contextmanager
def silent_connections(agent: RealAgent, count: int) -> Iterator[None]:
    """So many that say nothing. The kernel takes them, also where the agent does not."""
    sockets = []
    try:
        for _ in range(count):
            sockets.append(socket.create_connection(parse_address(agent.address), timeout=5))
        yield
    finally:
        for sock in sockets:
            sock.close()


def open_files(agent: RealAgent) -> int:
    assert agent.process is not None
    return len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))


def peak_kib(agent: RealAgent) -> int:
    """The most memory that it has had resident."""
    assert agent.process is not None
    lines = Path(f"/proc/{agent.process.pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def why_no_cap() -> str:
    """Why memory cannot be capped here; empty if it can."""
    if os.geteuid() != 0:
        return "memory cgroups need root"
    if _limit_file() is None:
        return "no memory controller of cgroups is mounted"
    return ""


@contextmanager
def memory_cap(agent: RealAgent, size: int) -> Iterator[None]:
    """The agent is killed by the kernel when it has more resident than `size` bytes."""
    found = _limit_file()
    assert found is not None and agent.process is not None
    root, name = found
    group = root / f"dynt{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(agent.process.pid), encoding="ascii")
        (group / name).write_text(str(size), encoding="ascii")
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text(encoding="ascii").split():
            (root / "cgroup.procs").write_text(pid, encoding="ascii")
        for _ in range(100):  # the kernel frees a group a little after its last process
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.02)


def _limit_file() -> tuple[Path, str] | None:
    """(where groups are made, the name of the limit in one) of version 1 or 2."""
    if (_CGROUP1 / "memory.limit_in_bytes").exists():
        return _CGROUP1, "memory.limit_in_bytes"
    control = _CGROUP2 / "cgroup.subtree_control"
    if control.exists() and "memory" in control.read_text(encoding="ascii").split():
        return _CGROUP2, "memory.max"
    return None
