"""The bulk client: thousands of requests in flight from one thread, one connection to each agent.

    with BulkClient(["127.0.0.1:7411"]) as bulk:
        puts = (Request(make_put(key, value, op_id=os.urandom(16))) for key, value in records)
        for request in bulk.run(puts):
            request.outcome()  # a Receipt, or what a blocking put would have raised

`run` takes requests lazily and hands them out in their order, ended. The window is bounded by count
and by bytes, so memory stays constant however many there are. Two requests for one key take effect
in order. What to send where is decided in `client.pipeline`; here are the sockets: all that has
been decided in a turn leaves in one send for each agent, so that an agent finds many frames in one
recv.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterable, Iterator, Sequence

from dynagent import limits
from dynagent.client.blocking import Client
from dynagent.client.lane import Request
from dynagent.client.link import Link
from dynagent.client.pipeline import Pipeline
from dynagent.client.routing import Addresses
from dynagent.errors import DynagentError

TIMEOUT_S_DEFAULT = 30.0  # longer than for one request: it waits its turn behind a whole window

_SWEEP_S = 0.05  # between two looks at the deadlines


class BulkClient:
    """A cluster, for many requests. `endpoints`: `host:port` of any of its agents.

    `timeout_s` bounds each request over all its attempts, from when its key is free; `in_flight`
    is how many are under way at once, at most `limits.BULK_IN_FLIGHT_MAX`.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout_s: float = TIMEOUT_S_DEFAULT,
        in_flight: int = limits.BULK_IN_FLIGHT_DEFAULT,
        cluster_id: bytes = b"",
    ) -> None:
        assert 1 <= in_flight <= limits.BULK_IN_FLIGHT_MAX
        self._endpoints = list(endpoints)
        self._timeout_s = timeout_s
        self._in_flight = in_flight
        self._cluster_id = cluster_id
        self._selector = selectors.DefaultSelector()
        self._pipeline: Pipeline | None = None
        self._links: dict[str, Link] = {}
        self._next_sweep = 0.0

    def __enter__(self) -> BulkClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections; what is under way may still take effect."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._selector.close()

    def connect(self) -> None:
        """Learns the ring from any agent, if that has not been done; `run` does it by itself.

        Raises `Unreachable` or `NotReady`.
        """
        if self._pipeline is None:
            self._pipeline = Pipeline(
                self._learn(self._endpoints), timeout_s=self._timeout_s, in_flight=self._in_flight
            )

    def _learn(self, agents: Sequence[str]) -> Addresses:
        """Of the ring that one of these agents has; raises as `connect`."""
        with Client(agents, timeout_s=self._timeout_s, cluster_id=self._cluster_id) as client:
            ring = client.ring()
        self._cluster_id = ring.cluster_id
        return Addresses(ring, self._endpoints)

    def _follow(self, pipeline: Pipeline) -> None:
        """The ring has changed: from now on requests go to their new owners."""
        up = [address for address, lane in pipeline.lanes.items() if lane.is_up]
        try:
            pipeline.aim(self._learn([*up, *self._endpoints]))
        except DynagentError:
            pipeline.aim(pipeline.addresses)  # those that pass requests on serve us too

    @property
    def unfinished(self) -> int:
        """Requests that have been taken and not been handed out."""
        return len(self._pipeline) if self._pipeline is not None else 0

    @property
    def answered(self) -> dict[str, int]:
        """Replies so far of each agent that was asked."""
        lanes = self._pipeline.lanes if self._pipeline is not None else {}
        return {address: lane.answered for address, lane in lanes.items()}

    def run(self, requests: Iterable[Request]) -> Iterator[Request]:
        """Each of the requests, in their order, when it has ended.

        Raises `Unreachable` or `NotReady` if no agent gives the ring at the start; afterwards every
        failure is the `error` of its request.
        """
        for finished in self.batches(requests):
            yield from finished

    def batches(
        self, requests: Iterable[Request | None], *, source: int | None = None
    ) -> Iterator[list[Request]]:
        """The same, by the lists in which they end, each as soon as it can be had.

        `requests` may yield None where there is nothing to take yet: it is asked again when the
        descriptor `source` can be read.
        """
        self.connect()
        pipeline = self._pipeline
        assert pipeline is not None
        assert not pipeline, "the run before was not taken to its end"
        remaining: Iterator[Request | None] | None = iter(requests)
        while True:
            is_paused = False
            now = time.monotonic()
            while remaining is not None and pipeline.has_room and not is_paused:
                try:
                    request = next(remaining)
                except StopIteration:
                    remaining = None
                    break
                if request is None:
                    is_paused = True
                else:
                    pipeline.add(now, request)
            if pipeline.lags:
                self._follow(pipeline)
            self._send(now)
            finished = pipeline.finished()
            if not finished:
                if remaining is None and not pipeline:
                    return
                self._turn(source if is_paused else None)
                finished = pipeline.finished()
            if finished:
                yield finished

    def _send(self, now: float) -> None:
        """Everything that the lanes have; a lane that is new gets its connection."""
        pipeline = self._pipeline
        assert pipeline is not None
        if len(self._links) < len(pipeline.lanes):
            for address, lane in pipeline.lanes.items():
                if address not in self._links:
                    self._links[address] = Link(
                        lane,
                        pipeline,
                        self._selector,
                        cluster_id=self._cluster_id,
                        dial_s_max=min(self._timeout_s / 2, limits.CONNECT_S_MAX),
                    )
                    self._links[address].tick(now)
        for link in self._links.values():
            if link.lane.frames:
                link.flush(now)

    def _turn(self, source: int | None) -> None:
        """Waits until there is something to read or to send, or a time has come, and does it."""
        pipeline = self._pipeline
        assert pipeline is not None
        if source is not None:
            self._selector.register(source, selectors.EVENT_READ, None)
        ready = self._selector.select(_SWEEP_S)
        if source is not None:
            self._selector.unregister(source)
        now = time.monotonic()
        for key, mask in ready:
            if key.data is not None:
                key.data.on_ready(now, mask)
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_S
            # What has come and is not read yet is not late: we may have been away for long.
            unread = {key.data for key, _ in ready}
            quiet = [link for link in self._links.values() if link not in unread]
            for lane in pipeline.sweep(now, [link.lane for link in quiet]):
                self._links[lane.address].drop(now, "no answer in time")
            for link in list(self._links.values()):
                link.tick(now)
