"""Real agents on loopback, started and ended by their own process ids."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from dynagent.client.blocking import Client
from dynagent.client.bootstrap import bootstrap, status_of
from dynagent.core.ring import Ring
from dynagent.errors import DynagentError

ROOT = Path(__file__).resolve().parents[2]
# For anything that an agent should do in well under a second; a machine that is busy with something
# else may need more: DYNAGENT_TEST_WAIT_S.
WAIT_S_MAX = float(os.environ.get("DYNAGENT_TEST_WAIT_S", "30"))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class RealAgent:
    """One agent process, which may be killed and started again on the same directory."""

    def __init__(
        self,
        directory: Path,
        name: str,
        port: int,
        *flags: str,
        source: Path = ROOT,
        ip: str = "127.0.0.1",
        within: Sequence[str] = (),
    ) -> None:
        self.source = source  # where `dynagent` is taken from
        self.directory = directory
        self.name = name
        self.address = f"{ip}:{port}"
        self.flags = flags
        self.within = within  # the command that runs it elsewhere; it must become the agent itself
        self.log = directory.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process; returns at once."""
        assert self.process is None
        command = [
            *self.within,
            *(sys.executable, "-m", "dynagent.main", "run"),
            *("--data-dir", str(self.directory), "--listen", self.address),
            *("--name", self.name, "--host", self.name),
            *self.flags,
        ]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.source, stderr=log, stdout=log)

    def send(self, number: signal.Signals) -> None:
        """A signal, e.g. SIGSTOP: the process hangs, and its connections stay open."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM and wait; the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL and wait."""
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(WAIT_S_MAX)
        self.process = None
        return status

    def wait_exit(self) -> int:
        """The status with which it ends by itself."""
        assert self.process is not None
        status = self.process.wait(WAIT_S_MAX)
        self.process = None
        return status

    def wait_log(self, text: str, times: int = 1) -> None:
        """Waits until the log has `text` that often; fails at once if the agent has ended."""

        def has_come() -> bool:
            if self.log_text().count(text) >= times:
                return True
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended: {self.log_text()[-500:]}")
            return False

        wait_for(has_come, f"{text!r} in the log of {self.name}")

    def cpu_s(self) -> float:
        """User and system time so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8")


class RealCluster:
    """Several agents; `with RealCluster(directory, 3) as cluster:` has them bootstrapped.

    `agents`: these, instead of `count` new ones on loopback.
    """

    def __init__(
        self,
        directory: Path,
        count: int,
        *flags: str,
        partitions: int = 64,
        source: Path = ROOT,
        agents: Sequence[RealAgent] = (),
    ) -> None:
        self.partitions = partitions
        self.agents = list(agents) or [
            RealAgent(directory / f"n{place + 1}", f"n{place + 1}", port, *flags, source=source)
            for place, port in enumerate(free_ports(count))
        ]

    def __enter__(self) -> RealCluster:
        try:
            self.start()
            bootstrap(self.addresses, partitions=self.partitions)
            self.wait_ready()
        except BaseException:
            self._kill_all()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._kill_all()

    @property
    def addresses(self) -> list[str]:
        return [agent.address for agent in self.agents]

    def client(self, **options: float) -> Client:
        return Client(self.addresses, timeout_s=options.get("timeout_s", 10.0))

    def ring(self) -> Ring:
        with self.client() as client:
            return client.ring()

    def start(self) -> None:
        """Starts every agent that is not running, and waits until all answer."""
        for agent in self.agents:
            if agent.process is None:
                agent.start()
        for agent in self.agents:
            wait_for(partial(_answers, agent), f"{agent.name} to answer")

    def stop(self) -> None:
        for agent in self.agents:
            if agent.process is not None:
                assert agent.stop() == 0, agent.log_text()

    def wait_ready(self) -> None:
        """Every running agent serves and sees every other running one; raises `RuntimeError` if one
        has ended instead."""
        running = [agent for agent in self.agents if agent.process is not None]

        def ready() -> bool:
            for agent in running:
                _check_runs(agent)
            with Client([], learn_ring=False) as client:
                try:
                    statuses = [status_of(client, agent.address) for agent in running]
                except DynagentError:
                    return False
            ids = {status["node_id"] for status in statuses}
            return all(
                status["state"] == "serving" and ids <= set(status["up"]) for status in statuses
            )

        wait_for(ready, "all running agents to be linked")

    def _kill_all(self) -> None:
        for agent in self.agents:
            if agent.process is not None:
                agent.kill()


def wait_for(condition: Callable[[], bool], what: str, *, wait_s: float = WAIT_S_MAX) -> float:
    """Polls until `condition()` holds, and tells after how many seconds; raises `TimeoutError`
    naming `what`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() > began + wait_s:
            raise TimeoutError(f"waited {wait_s:g} s for {what}")
        time.sleep(0.02)
    return time.monotonic() - began


def _check_runs(agent: RealAgent) -> None:
    """Raises `RuntimeError` if it has ended by itself."""
    assert agent.process is not None
    if agent.process.poll() is not None:
        raise RuntimeError(f"{agent.name} ended: {agent.log_text()[-500:]}")


def _answers(agent: RealAgent) -> bool:
    _check_runs(agent)
    try:
        with Client([], learn_ring=False, timeout_s=1) as client:
            status_of(client, agent.address)
    except DynagentError:
        return False
    return True
