"""Five agents, two of them cut off, in every shape: both sides take writes, and after the network
has healed nothing is lost, all owners hold the same and no hint is left.

Clients run on the agents' own sides and speak to these agents only. What is expected of an agent
follows from the shape alone: who can talk to W agents must take sloppy puts; where fewer than W
owners of a key can be reached over any way, strict puts must be refused, definitely.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dynagent.client.blocking import Client
from dynagent.core.ring import token_of
from dynagent.errors import DynagentError, QuorumNotMet
from tests.acceptance.faults_sets import GrowingSets
from tests.acceptance.points import Failed, Say
from tests.real.cluster import RealAgent, RealCluster, wait_for
from tests.real.load import OK, Load
from tests.real.namespaces import Network, namespace_cluster, why_not
from tests.real.replicas import hints_left, missing, node_id, present, status, unequal
from tests.real.shapes import SHAPES, Shape, component, reachable, swizzle_clog

SECONDS = 60.0  # of each cut, after it has been noticed
NOTICED_S_MAX = 10.0
HEALED_S_MAX = 60.0
WRITEABLE_MIN = 0.99  # of the puts on a side that can reach W agents, after the cut was noticed
STRICT_KEYS = 20  # per agent
W = 2


def run(share: float, say: Say) -> dict[str, object]:
    if why := why_not():
        raise Failed(why)
    seconds = max(4.0, SECONDS * share)
    dice = random.Random(3)
    figures: dict[str, object] = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        namespace_cluster(Path(directory), 5, partitions=256) as (cluster, network),
    ):
        trial = _Trial(cluster, network, seconds, say)
        for name, make in SHAPES.items():
            shape = make(network.nodes, dice)
            figures[name] = trial.run(name, shape)
        figures["swizzle clog"] = trial.swizzle(swizzle_clog(network.nodes, dice))
    if trial.failures:
        raise Failed("; ".join(trial.failures))
    return figures


class _Trial:
    """One cluster, through one shape after the other; failures are gathered."""

    def __init__(self, cluster: RealCluster, network: Network, seconds: float, say: Say) -> None:
        self.failures: list[str] = []
        self._cluster = cluster
        self._network = network
        self._seconds = seconds
        self._say = say
        self._ids = {agent.name: node_id(agent) for agent in cluster.agents}

    def run(self, name: str, shape: Shape) -> dict[str, object]:
        """Cut, wait until it is noticed, load all agents, heal, check."""
        failures: list[str] = []
        nodes = self._network.nodes
        with self._loads(name) as (loads, sets):
            self._network.cut(shape)
            try:
                noticed_s = wait_for(
                    lambda: all(self._has_noticed(agent, shape) for agent in self._cluster.agents),
                    "all agents to notice the cut",
                    wait_s=NOTICED_S_MAX,
                )
            except TimeoutError as exc:
                noticed_s = NOTICED_S_MAX
                failures.append(str(exc))
            noticed = time.monotonic()
            # While owners count as up, a strict put is sent to them, and its outcome is unknown.
            refused = self._try_strict(name, shape, failures) if not failures else []
            time.sleep(self._seconds)
            ended = time.monotonic()
            self._network.heal()
            healed = time.monotonic()
        writeable: dict[str, float] = {}
        for node, load in loads.items():
            samples = load.between(noticed, ended)
            good = sum(sample.outcome == OK for sample in samples)
            writeable[node] = round(good / max(1, len(samples)), 4)
            if len(reachable(shape, nodes, node)) >= W and writeable[node] < WRITEABLE_MIN:
                failures.append(f"{node} took {writeable[node]:.2%} of the puts")
        figures = {
            "noticed_s": round(noticed_s, 1),
            "strict_refused": len(refused),
            "writeable": writeable,
            **self._check(loads, sets, refused, healed, failures),
        }
        return self._told(name, figures, failures)

    def swizzle(self, steps: list[Shape]) -> dict[str, object]:
        """Every step for its share of the time, under load."""
        failures: list[str] = []
        with self._loads("swizzle") as (loads, sets):
            for step in steps:
                self._network.cut(step)
                time.sleep(2 * self._seconds / len(steps))
            healed = time.monotonic()
        figures = self._check(loads, sets, [], healed, failures)
        return self._told("swizzle clog", figures, failures)

    @contextmanager
    def _loads(self, name: str) -> Iterator[tuple[dict[str, Load], GrowingSets]]:
        """On every agent's side: puts of new keys, and of sets that all sides add to."""
        loads: dict[str, Load] = {}
        with ExitStack() as stack:
            for agent in self._cluster.agents:
                load = Load(
                    [agent.address],
                    prefix=f"{name}/{agent.name}".encode(),
                    writers=2,
                    rate=40,
                    learn_ring=False,
                    via=(self._network, agent.name),
                )
                loads[agent.name] = stack.enter_context(load)
            sets = GrowingSets(self._cluster, self._network, name.encode())
            stack.enter_context(sets)
            yield loads, sets

    def _has_noticed(self, agent: RealAgent, shape: Shape) -> bool:
        """It believes that nobody is up who cannot talk with it."""
        believed = set(status(agent)["up"])
        return believed <= {
            self._ids[node] for node in reachable(shape, self._network.nodes, agent.name)
        }

    def _try_strict(self, name: str, shape: Shape, failures: list[str]) -> list[bytes]:
        """Strict puts where too few owners can be reached by any way; the keys refused."""
        ring = self._cluster.ring()
        nodes = self._network.nodes
        tried: list[bytes] = []
        for agent in self._cluster.agents:
            within = {self._ids[node] for node in component(shape, nodes, agent.name)}
            keys = (
                b"strict/%b/%b/%d" % (name.encode(), agent.name.encode(), n) for n in range(999)
            )
            lonely = [
                key
                for key in keys
                if len(within.intersection(ring.lists[ring.partition_of(token_of(key))])) < W
            ][:STRICT_KEYS]
            with (
                self._network.inside(agent.name),
                Client([agent.address], learn_ring=False) as client,
            ):
                for key in lonely:
                    try:
                        client.put(key, b"never", strict=True)
                        failures.append(f"{agent.name} took a strict put")
                    except QuorumNotMet:
                        tried.append(key)
                    except DynagentError as exc:
                        failures.append(f"{agent.name}, a strict put: {exc!r}")
        return tried

    def _check(
        self,
        loads: dict[str, Load],
        sets: GrowingSets,
        refused: list[bytes],
        healed: float,
        failures: list[str],
    ) -> dict[str, object]:
        """What must hold after the network has healed."""
        cluster = self._cluster
        try:
            cluster.wait_ready()
        except TimeoutError as exc:
            failures.append(str(exc))
        acknowledged: dict[bytes, bytes] = {}
        unknown: set[bytes] = set()
        definite = list(refused)
        for load in loads.values():
            acknowledged |= load.acknowledged
            unknown |= load.unknown
            definite += load.refused
        keys = [*acknowledged, *sorted(unknown), *sets.keys]
        left = [0, len(keys)]  # hints, keys that differ

        def is_equal() -> bool:
            left[0] = hints_left(cluster)
            if not left[0]:
                left[1] = len(unequal(cluster, keys))
            return left == [0, 0]

        equal_s = HEALED_S_MAX
        try:
            wait_for(is_equal, "", wait_s=max(1.0, healed + HEALED_S_MAX - time.monotonic()))
            equal_s = time.monotonic() - healed
        except TimeoutError:
            failures.append(
                f"{HEALED_S_MAX:g} s after it has healed: {left[0]} hints are left, "
                f"{left[1]} of {len(keys)} keys differ"
            )
        lost = missing(cluster, acknowledged)
        gone, ghosts = sets.judge()
        if lost or gone:
            failures.append(f"{len(lost)} acknowledged puts and {gone} members of sets are lost")
        ghosts += len(present(cluster, definite))
        if ghosts:
            failures.append(f"{ghosts} puts are there that were refused definitely")
        return {
            "acknowledged": len(acknowledged) + sets.acknowledged,
            "unknown": len(unknown),
            "refused": len(definite),
            "lost": len(lost) + gone,
            "equal_s": round(equal_s, 1),
        }

    def _told(
        self, name: str, figures: dict[str, object], failures: list[str]
    ) -> dict[str, object]:
        words = ", ".join(f"{key} {value}" for key, value in figures.items())
        self._say(f"{name}: {words}")
        shown = [f"{name}: {failure}" for failure in dict.fromkeys(failures)]
        for failure in shown:
            self._say(f"  FAILED: {failure}")
        self.failures += shown
        return figures
