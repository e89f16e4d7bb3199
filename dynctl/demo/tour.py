"""The cluster of a tour, and what its steps can do to it.

Commands are really run, as a process each, just as they are shown; their environment names the
tour's own directories, so the user's clusters, contexts and variables play no part. Agents are
found by the locks of their data directories, whoever started them.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynagent.client.blocking import Client
from dynagent.client.bootstrap import status_of
from dynagent.errors import DynagentError, Refused
from dynctl import local
from dynctl.demo.narrator import Narrator
from dynctl.faults import LocalFailure
from dynctl.local import LocalCluster
from dynctl.spawn import environment, held_back

_COMMAND_S = 60.0
_KILL_S = 15.0
_NOTICE_S = 15.0
_POLL_S = 0.02


class StepFailed(Exception):
    """Something did not hold; the message says what was expected and what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the tour. `run` does it and returns what has been seen to hold; it raises
    `StepFailed` (or the client's error) if it does not."""

    title: str
    why: str
    run: Callable[[Tour], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A command that has ended."""

    status: int
    stdout: bytes
    stderr: str


class Tour:
    """`directory`: all that the tour makes lies in it; None: a temporary one. Raises `Refused` if
    it is not empty."""

    def __init__(self, directory: Path | None, narrator: Narrator, *, keep: bool) -> None:
        self.root = _new_root(directory)
        self.home = self.root / "cluster"
        self.tell = narrator
        self.keep = keep
        self.written: dict[bytes, bytes] = {}  # acknowledged so far, and to be found to the end

    # --- what steps do ---------------------------------------------------------------------------

    def dynctl(self, *words: str, status: int = 0, shown: str = "") -> Done:
        """Shows a command, runs it and shows its output; it must exit with `status`. `shown`: what
        one would type, where that is not the words themselves."""
        return self._show(shown or shlex.join(["dynctl", *words]), "dynctl", words, status)

    def store_tool(self, *words: str, status: int = 0) -> Done:
        """The same for the tool that looks into the store of an agent that does not run."""
        line = shlex.join(["dynagent", "store", *words])
        return self._show(line, "dynagent.main", ("store", *words), status)

    def _show(self, line: str, module: str, words: tuple[str, ...], status: int) -> Done:
        self.tell.command(line)
        done = self._run(module, words)
        self.tell.output(done.stdout.decode("utf-8", "replace"))
        self.tell.output(done.stderr)
        self.expect(
            done.status == status,
            f"`{line}` exits {status}",
            f"exit status {done.status}: {done.stderr.strip() or done.stdout!r}",
        )
        return done

    def expect(self, holds: bool, expected: str, seen: object) -> None:
        """Raises `StepFailed` unless it holds."""
        if not holds:
            raise StepFailed(f"expected: {expected}; seen: {seen}")

    def expect_value(self, key: str, value: str, *options: str) -> None:
        """`dynctl get KEY` must print exactly the value."""
        done = self.dynctl("get", key, *options)
        self.expect(done.stdout == value.encode(), f"{key} is {value!r}", done.stdout)

    def kill(self, *names: str) -> None:
        """kill -9, at once. Returns when the agents that are left have noticed."""
        cluster = self.cluster()
        pids = [str(cluster.holder(name)) for name in names]
        self.tell.command(f"kill -9 {' '.join(pids)}    # {', '.join(names)}")
        local.kill(cluster, names, within_s=_KILL_S)
        alive = [address for name, address in cluster.addresses.items() if cluster.holder(name)]
        deadline = time.monotonic() + _NOTICE_S
        while not all(len(self.status(address)["up"]) == len(alive) for address in alive):
            self.expect(
                time.monotonic() < deadline, "the others notice the loss", f"not in {_NOTICE_S:g}s"
            )
            time.sleep(_POLL_S)

    def cluster(self) -> LocalCluster:
        """The agents, by the file that `dynctl up` wrote."""
        cluster = local.load(self.home)
        if cluster is None:
            raise StepFailed(f"expected: a cluster in {self.home}; seen: none")
        return cluster

    def client(self, *names: str) -> Client:
        """A client of these agents only, or of all, with the ring, if none is named."""
        addresses = self.cluster().addresses
        chosen = [addresses[name] for name in names] or list(addresses.values())
        return Client(chosen, learn_ring=not names)

    def status(self, address: str) -> dict[str, Any]:
        with Client([], learn_ring=False) as client:
            return status_of(client, address)

    def check_written(self, client: Client) -> None:
        """Everything that was acknowledged must be there, byte for byte."""
        for key, value in self.written.items():
            values = [version.value for version in client.get(key).versions]
            self.expect(values == [value], f"{key.decode()} has its value", values)

    def _run(self, module: str, words: tuple[str, ...]) -> Done:
        environ = environment()
        environ |= {
            "XDG_STATE_HOME": str(self.root / "state"),
            "XDG_CONFIG_HOME": str(self.root / "config"),
        }
        environ.pop("DYNCTL_ENDPOINTS", None)
        process: subprocess.Popen[bytes] | None = None
        try:
            with held_back():
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environ,
                    process_group=0,  # ^C comes to it through us, once
                )
            stdout, stderr = process.communicate(timeout=_COMMAND_S)
        except BaseException as exc:
            if process is None:
                raise
            process.send_signal(signal.SIGINT)  # `up` then stops what it has started
            try:
                process.communicate(timeout=_KILL_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            if isinstance(exc, subprocess.TimeoutExpired):
                raise StepFailed(f"expected: an end of {module} {words[0]}; seen: none") from exc
            raise
        return Done(status=process.returncode, stdout=stdout, stderr=stderr.decode())

    # --- the end ---------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ends every agent that still runs, whatever state the tour is in."""
        try:
            cluster = local.load(self.home)
        except DynagentError as exc:
            raise LocalFailure(f"cannot tell which agents run: {exc.message}") from exc
        if cluster is not None:
            local.kill(cluster, cluster.addresses, within_s=_KILL_S)

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


def _new_root(directory: Path | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="dynctl-demo-"))
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        strangers = sorted(entry.name for entry in directory.iterdir())
    except OSError as exc:
        raise LocalFailure(f"{directory}: {exc.strerror}; name another --dir") from exc
    if strangers:
        raise Refused(f"{directory} holds {strangers[0]!r}; name an empty --dir")
    return directory
