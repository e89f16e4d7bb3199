"""Sets that clients on all sides of a broken network add to, each with the context of what it has
seen: after everything has healed the versions together must hold every member that was added."""

from __future__ import annotations

import threading
import time

from dynagent.client.blocking import Client
from dynagent.client.requests import Result
from dynagent.errors import DynagentError
from tests.real.cluster import RealCluster
from tests.real.namespaces import Network

SETS = 20
_PAUSE_S = 0.05  # between two additions of a client: versions are sets, and grow


class GrowingSets:
    """`with GrowingSets(…):` adds while the block lasts, from the side of every agent."""

    def __init__(self, cluster: RealCluster, network: Network, prefix: bytes) -> None:
        self.keys = [b"set/%b/%d" % (prefix, number) for number in range(SETS)]
        self.acknowledged = 0
        self._cluster = cluster
        self._network = network
        self._added: dict[bytes, set[bytes]] = {key: set() for key in self.keys}
        self._refused: dict[bytes, set[bytes]] = {key: set() for key in self.keys}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._crash: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._guard, args=(agent.name, agent.address))
            for agent in cluster.agents
        ]

    def __enter__(self) -> GrowingSets:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if self._crash is not None:
            raise self._crash

    def judge(self) -> tuple[int, int]:
        """(members that were added and are lost, members that were refused and are there)."""
        lost = ghosts = 0
        with self._cluster.client() as client:
            for key in self.keys:
                there = _members(client.get(key))
                lost += len(self._added[key] - there)
                ghosts += len(self._refused[key] & there)
        return lost, ghosts

    def _guard(self, name: str, address: str) -> None:
        try:
            with (
                self._network.inside(name),
                Client([address], learn_ring=False, timeout_s=3.0) as client,
            ):
                self._add_often(client, name)
        except BaseException as exc:
            self._crash = exc
            self._stopped.set()

    def _add_often(self, client: Client, name: str) -> None:
        number = 0
        while not self._stopped.is_set():
            number += 1
            key = self.keys[number % SETS]
            member = f"{name}.{number}".encode()
            try:
                found = client.get(key)
            except DynagentError:
                continue  # what was not read cannot be added to
            value = b" ".join(sorted(_members(found) | {member}))
            try:
                client.put(key, value, context=found.context)
            except DynagentError as exc:
                if exc.definite:
                    with self._lock:
                        self._refused[key].add(member)
            else:
                with self._lock:
                    self._added[key].add(member)
                    self.acknowledged += 1
            time.sleep(_PAUSE_S)


def _members(found: Result) -> set[bytes]:
    return {member for version in found.versions for member in version.value.split()}
