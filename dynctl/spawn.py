"""An agent as a process of its own: starting it, and telling why it did not last."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dynagent
from dynagent.address import format_address, parse_address
from dynctl.faults import LocalFailure

HOST = "127.0.0.1"
LOG = "agent.log"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # that end a command


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def free_port_near(wanted: int, *, not_in: Container[int] = ()) -> int:
    """That port of loopback if it is free, else any that is; none of those that have an owner."""
    while wanted in not_in:
        [wanted] = free_ports(1)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
            return wanted
        except (OSError, OverflowError):
            return free_port_near(free_ports(1)[0], not_in=not_in)


def check_ports(addresses: Mapping[str, str]) -> None:
    """Raises `LocalFailure` if another process listens where one of these agents shall."""
    for name, listed in addresses.items():
        host, port = parse_address(listed)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except (OSError, OverflowError) as exc:
                address = format_address(host, port)
                reason = getattr(exc, "strerror", None) or exc
                raise LocalFailure(
                    f"{name} cannot listen on {address}: {reason}; choose other ports with --port"
                ) from exc


class Started:
    """An agent that we have just started: it may die before it serves."""

    def __init__(self, name: str, address: str, http: str, home: Path) -> None:
        self.name = name
        home.mkdir(mode=0o700, exist_ok=True)
        self._log = home / LOG
        command = [sys.executable, "-P", "-m", "dynagent.main", "run"]
        command += ["--data-dir", str(home), "--listen", address]
        command += ["--name", name, "--host", name, "--http", http]
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment(),
                start_new_session=True,  # ^C in this terminal is not for it
            )

    def check(self) -> None:
        """Raises `LocalFailure` with its last words if it has died."""
        status = self._process.poll()
        if status is None:
            return
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode("utf-8", "replace").split("\n")
        spoken = (line.strip(" |") for line in reversed(lines) if any(map(str.isalpha, line)))
        words = next(spoken, "no word")
        raise LocalFailure(
            f"{self.name} stopped with status {status}: {words.removeprefix('dynagent: ')}"
        )

    def stop(self, within_s: float) -> None:
        """Ends it, kindly if that works in time."""
        self._process.terminate()
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that come meanwhile are delivered at the end: a ^C within `Popen` would leave a
    process that nobody knows of. Blocking them would not do, as the process would inherit that."""
    came: list[int] = []
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for signalled in came:
        signal.raise_signal(signalled)


def environment() -> dict[str, str]:
    """Ours; from a source tree with that tree on the import path, because `-P` keeps whatever lies
    in the present directory from being imported as if it were Python's own."""
    root = str(Path(dynagent.__file__).resolve().parent.parent)
    found = dict(os.environ)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        others = found.get("PYTHONPATH", "")
        found["PYTHONPATH"] = f"{root}{os.pathsep}{others}" if others else root
    return found
