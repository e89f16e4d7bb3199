"""kill -9 under load, again and again: nothing that was acknowledged may be lost.

Each cycle several clients write new keys as fast as they can; then one agent, or all of them at
once, is killed in the middle of it, and started again. At the end of each cycle the newest
acknowledged keys are read back, at the end of the run all of them.

The harness must be able to fail: with agents that acknowledge before they have even submitted a
batch (a patched copy of the source), killing all of them at once does lose writes.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dynagent.client.blocking import Client
from dynagent.errors import DynagentError
from tests.mutants.runner import patched
from tests.mutants.table import MUTANTS, Patch
from tests.real.cluster import ROOT, RealCluster
from tests.real.replicas import missing

WRITERS = 6
LOAD_S = (0.05, 0.4)  # how long the load runs before the kill
# Each commit takes 50 ms more: what has been acknowledged early is then in memory for most of the
# time, on however fast a disk the loop runs.
_SLOW_DISK = Patch(
    file="agent/writer.py",
    old="                job()\n",
    new='                __import__("time").sleep(0.05)\n                job()\n',
)


def run(cycles: int, say: Callable[[str], None], *, source: Path = ROOT) -> dict[str, int]:
    """`acknowledged`, `kills` and `lost` after that many cycles."""
    dice = random.Random(7)
    acknowledged: dict[bytes, bytes] = {}
    kills = 0
    lost: set[bytes] = set()
    with (
        tempfile.TemporaryDirectory() as directory,
        RealCluster(Path(directory), 3, source=source) as cluster,
    ):
        for cycle in range(cycles):
            load = _Load(cluster, cycle)
            time.sleep(dice.uniform(*LOAD_S))
            victims = cluster.agents if cycle % 2 else [dice.choice(cluster.agents)]
            for agent in victims:
                assert agent.process is not None
                agent.process.kill()
            for agent in victims:
                agent.kill()
            kills += len(victims)
            fresh = load.stop()
            acknowledged.update(fresh)
            cluster.start()
            cluster.wait_ready()
            lost |= missing(cluster, fresh)
            say(f"cycle {cycle + 1}: {len(fresh):,} acknowledged, {len(lost)} lost so far")
        lost |= missing(cluster, acknowledged)
    return {"acknowledged": len(acknowledged), "kills": kills, "lost": len(lost)}


def run_early(cycles: int, say: Callable[[str], None]) -> dict[str, int]:
    """The same with agents that acknowledge before they submit: they must lose something, or the
    loop is blind."""
    early = next(mutant for mutant in MUTANTS if mutant.name == "M1-submit")
    with patched(replace(early, patches=(*early.patches, _SLOW_DISK))) as source:
        return run(cycles, say, source=source)


class _Load:
    """Clients in threads that write until they are stopped."""

    def __init__(self, cluster: RealCluster, cycle: int) -> None:
        self._acknowledged: dict[bytes, bytes] = {}
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(cluster.addresses, cycle, number))
            for number in range(WRITERS)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, addresses: list[str], cycle: int, writer: int) -> None:
        turned = addresses[writer % 3 :] + addresses[: writer % 3]
        with Client(turned, timeout_s=0.5, learn_ring=False) as client:
            number = 0
            while not self._stopped.is_set():
                number += 1
                key = b"%d/%d/%d" % (cycle, writer, number)
                try:
                    client.put(key, key * 20, blind=True)
                except DynagentError:
                    continue  # refused or unknown: nothing was promised
                self._acknowledged[key] = key * 20

    def stop(self) -> dict[bytes, bytes]:
        """What was acknowledged."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        return self._acknowledged
