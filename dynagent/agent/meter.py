"""What an agent's shell knows of itself and its node cannot: clocks, sockets, the disk.

It is added to the node's status document, and from there to `dynctl stats` and /metrics. Nothing
here is touched by a request: commits are counted once a batch, all else is read when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable

import dynagent
from dynagent.core.ports import Batch
from dynagent.env import Env
from dynagent.errors import DynagentError
from dynagent.obs.histogram import Histogram
from dynagent.store.protocol import Directory

COMMIT_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
# Counting keys takes up to two milliseconds of the loop if not all trees are known, sizes a system
# call a file; `dynctl wait` asks 20 times a second.
_STORE_KEPT_S = 1.0


class Meter:
    """The shell's part of the status document."""

    def __init__(
        self,
        env: Env,
        data_dir: Directory,
        *,
        connections: Callable[[], int],
        background: Callable[[float], dict[str, object]],
        keys: Callable[[], int | None],
    ) -> None:
        self.http = ""  # where metrics are served, if they are
        self._env = env
        self._data_dir = data_dir
        self._connections = connections
        self._background = background
        self._keys = keys
        self._commits = Histogram(COMMIT_BOUNDS_S)
        self._records = 0
        self._started = env.monotonic()
        self._store: dict[str, object] = {}
        self._store_until = self._started

    def write(self, batch: Batch) -> None:
        """The store's write, timed; on the commit thread. Raises what the store raises."""
        begun = self._env.monotonic()
        self._data_dir.store.write(batch)
        self._commits.observe(self._env.monotonic() - begun)
        self._records += len(batch.records)

    def document(self) -> dict[str, object]:
        """See `core.inspect`."""
        now = self._env.monotonic()
        if now >= self._store_until:
            self._store_until = now + _STORE_KEPT_S
            self._store = self._measure_store()
        return {
            "version": dynagent.__version__,
            "http": self.http,
            "uptime_s": now - self._started,
            "cpu_s": self._env.cpu_s(),
            "connections": self._connections(),
            "commits": {**self._commits.document(), "records": self._records},
            "stalls": self._env.pulse.stalls.document(),
            "store": self._store,
            "background": self._background(now),
        }

    def _measure_store(self) -> dict[str, object]:
        store = self._data_dir.store
        measured: dict[str, object] = {"engine": store.name, "bytes": self._data_dir.disk_bytes()}
        try:
            keys = self._keys()
            measured["keys"] = store.count() if keys is None else keys
        except DynagentError:
            pass  # a damaged page: the count is unknown, which must not cost the rest
        return measured
