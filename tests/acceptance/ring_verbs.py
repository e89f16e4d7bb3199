"""What the points of ring changes share: agents that may join, and `dynctl` verbs that change."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dynagent.core.ring import Ring
from tests.acceptance.points import hold
from tests.real.cluster import ROOT, RealAgent, RealCluster, free_ports, wait_for
from tests.real.replicas import node_id

TRANSITION_S_MAX = 600.0


class Transition:
    """One `dynctl` verb under way. `with` ends it with its process."""

    def __init__(self, cluster: RealCluster, *words: str) -> None:
        environment = {
            **os.environ,
            "DYNCTL_ENDPOINTS": ",".join(cluster.addresses),
            "PYTHONPATH": str(ROOT),
        }
        self.words = " ".join(words)
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dynctl", *words, "--yes", "--wait"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self) -> float:
        """Its seconds; raises `Failed` unless it has done what it was told."""
        told, _ = self._process.communicate(timeout=TRANSITION_S_MAX)
        hold(
            self._process.returncode == 0,
            f"dynctl {self.words}: exit status {self._process.returncode}: {told.strip()[-400:]}",
        )
        return time.monotonic() - self.began

    def end(self) -> None:
        if not self.has_ended:
            self._process.kill()
            self._process.wait()


def fresh_agents(directory: Path, names: Sequence[str], *flags: str) -> list[RealAgent]:
    """Started, and members of nothing."""
    agents = [
        RealAgent(directory / name, name, port, *flags)
        for name, port in zip(names, free_ports(len(names)), strict=True)
    ]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.wait_log("agent.ready")
    return agents


def wait_under_way(cluster: RealCluster, transition: Transition) -> Ring:
    """Until the change is decided; the ring with it under way."""
    found: list[Ring] = []

    def is_under_way() -> bool:
        hold(not transition.has_ended, f"dynctl {transition.words} has ended before it began")
        ring = cluster.ring()
        found.append(ring)
        return ring.change is not None

    wait_for(is_under_way, "the change to be decided")
    return found[-1]


def wait_members(cluster: RealCluster) -> None:
    """Until all agents of the cluster, and nobody else, are members of one settled ring."""
    ids = {node_id(agent) for agent in cluster.agents}

    def settled() -> bool:
        ring = cluster.ring()
        return ring.change is None and {member.id for member in ring.members} == ids

    wait_for(settled, "the ring to be settled", wait_s=TRANSITION_S_MAX)
