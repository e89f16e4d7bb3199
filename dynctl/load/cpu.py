"""CPU time of the agents: from their status documents, else from /proc where their pids are known
(those of `dynctl up`, on Linux)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynagent.client.blocking import Client
from dynagent.client.bootstrap import status_of
from dynagent.errors import DynagentError
from dynctl import local
from dynctl.settings import cluster_path, read_pairs

Pids = Mapping[str, int]
Times = dict[str, tuple[int, float]]  # address → (the agent's run, seconds of CPU so far)


class Meter:
    """Measures from its making to `stop`. `pids`: address → pid; None: those of `dynctl up`."""

    def __init__(self, client: Client, addresses: Sequence[str], pids: Pids | None = None) -> None:
        self._client = client
        self._addresses = addresses
        self._pids = pids
        self._why = ""
        try:
            self._before = self._read()
        except _Unknown as exc:
            self._why = str(exc)

    def stop(self) -> tuple[float | None, str]:
        """Seconds of CPU that all agents together took; None, and why they are not known."""
        if self._why:
            return None, self._why
        try:
            after = self._read()
        except _Unknown as exc:
            return None, str(exc)
        for address, (run, _) in self._before.items():
            if after[address][0] != run:
                return None, f"{address} was started again meanwhile"
        return sum(after[a][1] - seconds for a, (_, seconds) in self._before.items()), ""

    def _read(self) -> Times:
        pids = local_pids() if self._pids is None else self._pids  # an agent may be a new process
        times: Times = {}
        for address in self._addresses:
            try:
                status = status_of(self._client, address)
            except DynagentError as exc:
                raise _Unknown(exc.message) from exc
            seconds = status.get("cpu_s")
            if not isinstance(seconds, int | float):
                if address not in pids:
                    raise _Unknown(f"{address} does not tell its CPU time and is not a local agent")
                seconds = _seconds_of(pids[address], address)
            times[address] = (status["run"], seconds)
        return times


class _Unknown(Exception):
    """Not all agents' CPU time can be told; the message says why."""


def local_pids() -> Pids:
    """The agents of the last `dynctl up` that run: address → pid."""
    try:
        pairs = read_pairs(cluster_path()) or {}
        cluster = local.load(Path(pairs["dir"])) if "dir" in pairs else None
        if cluster is None:
            return {}
        return {a: pid for n, a in cluster.addresses.items() if (pid := cluster.holder(n))}
    except DynagentError:
        return {}


def _seconds_of(pid: int, address: str) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError as exc:
        raise _Unknown(f"{address}: /proc/{pid}/stat: {exc.strerror}") from exc
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
