"""Runs the command line as people do: as a process, against real agents."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynctl.__main__ import main

ROOT = Path(__file__).resolve().parent.parent.parent


class Dynctl:
    """The command line with an environment of its own: no file or variable of the user counts."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        kept = ("PATH", "HOME", "LANG", "LC_ALL", "VIRTUAL_ENV")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.environment |= {
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_CONFIG_HOME": str(home / "config"),
            **environment,
        }
        self.command = [sys.executable, "-m", "dynctl"]

    def __call__(
        self, *words: str | bytes, stdin: bytes = b"", status: int | None = 0
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs it; fails unless it exits with `status` (None: any)."""
        done = subprocess.run(
            [*self.command, *words],
            input=stdin,
            capture_output=True,
            env=self.environment,
            cwd=self.home,
            timeout=180,  # the whole tour of `demo` on a machine that does much else, too
            check=False,
        )
        assert status is None or done.returncode == status, (words, done)
        return done

    def fails(self, status: int, *words: str | bytes, stdin: bytes = b"") -> str:
        """Runs it, and it must fail in one line, with nothing on stdout; returns that line."""
        done = self(*words, stdin=stdin, status=status)
        line = done.stderr.decode()
        assert done.stdout == b"", done
        assert line.startswith("dynctl: "), line
        assert line.count("\n") == 1, line
        return line


class Cluster(Dynctl):
    """A command line that knows a running local cluster, by its state file."""

    endpoints: list[str]
    directory: Path


class Here:
    """The command line in this process: no start-up, for errors that come before any request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """(exit status, stdout, stderr)"""
        self._monkeypatch.setattr(sys, "argv", ["dynctl", *words])
        status = main()
        captured = self._capfd.readouterr()
        return status, captured.out, captured.err


@pytest.fixture
def here(bare: Dynctl, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, bare.environment[name])
    monkeypatch.delenv("DYNCTL_ENDPOINTS", raising=False)
    return Here(monkeypatch, capfd)


@pytest.fixture
def bare(tmp_path: Path) -> Dynctl:
    """The command line where there is no cluster."""
    return Dynctl(tmp_path)


def start_cluster(home: Path, nodes: int) -> Cluster:
    cluster = Cluster(home)
    cluster.directory = home / "cluster"
    directory = str(cluster.directory)
    done = cluster("up", "--dir", directory, "--port", "0", "--nodes", str(nodes))
    name, _, listed = done.stdout.decode().strip().removeprefix("export ").partition("=")
    assert name == "DYNCTL_ENDPOINTS"
    cluster.endpoints = listed.split(",")
    return cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three agents for all tests of the session."""
    found = start_cluster(tmp_path_factory.mktemp("three"), 3)
    yield found
    found("down", "--dir", str(found.directory), "--purge")
    assert not found.directory.exists()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key of this test's own, so that tests may share a cluster."""
    return f"key of {request.node.name}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
