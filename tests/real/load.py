"""A load that remembers everything: what was acknowledged, refused, unknown, and how long it took.

Threads with a blocking client each; every put has a key of its own, so that afterwards each one can
be judged alone: an acknowledged one must be there, a definitely refused one must not. Gets ask for
keys that this thread has had acknowledged.

With a `rate` the load is an open loop: request i is due at start + i/rate and counts from then on,
so an agent that hangs cannot hide by slowing the load down.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from dynagent.client.blocking import Client
from dynagent.errors import DynagentError
from dynctl.load.histogram import Histogram
from tests.real.namespaces import Network

OK = "ok"
_FILLER = b"." * 100


class Sample(NamedTuple):
    """One request. `due`: monotonic, when it had to begin; `outcome`: `OK` or the error's class."""

    due: float
    took_s: float
    is_put: bool
    outcome: str


class Load:
    """`with Load(cluster.addresses) as load:` runs it while the block lasts.

    `via`: a network and the node from whose namespace it dials. `learn_ring` false: it speaks to
    these addresses only, in turn. `blind`: puts do not look first.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        writers: int = 6,
        rate: float = 0.0,
        read_share: float = 0.0,
        timeout_s: float = 5.0,
        prefix: bytes = b"load",
        learn_ring: bool = True,
        strict: bool = False,
        blind: bool = False,
        via: tuple[Network, str] | None = None,
    ) -> None:
        self.acknowledged: dict[bytes, bytes] = {}
        self.refused: dict[bytes, str] = {}  # definitely: nothing of them may ever be seen
        self.unknown: set[bytes] = set()
        self.wrong: list[bytes] = []  # read, and not the one value that was put
        self.partial = 0  # gets with fewer than R owners: these may lack what was put
        self.samples: list[Sample] = []
        self._addresses = list(addresses)
        self._writers = writers
        self._pause_s = writers / rate if rate else 0.0
        self._read_share = read_share
        self._timeout_s = timeout_s
        self._prefix = prefix
        self._learn_ring = learn_ring
        self._strict = strict
        self._blind = blind
        self._via = via
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._crash: BaseException | None = None

    def __enter__(self) -> Load:
        self._began = time.monotonic()
        for number in range(self._writers):
            thread = threading.Thread(target=self._guard, args=(number,))
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it, once; what is under way is waited for. Raises what a thread died of."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if self._crash is not None:
            raise self._crash

    # --- what came of it -------------------------------------------------------------------------

    def between(self, start: float, end: float) -> list[Sample]:
        """Requests that were due then (monotonic)."""
        return [sample for sample in self.samples if start <= sample.due < end]

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(sample.outcome for sample in self.samples)

    # --- a thread --------------------------------------------------------------------------------

    def _guard(self, number: int) -> None:
        inside: AbstractContextManager[None] = nullcontext()
        if self._via is not None:
            inside = self._via[0].inside(self._via[1])
        try:
            with inside:
                self._run(number)
        except BaseException as exc:
            self._crash = exc
            self._stopped.set()

    def _run(self, number: int) -> None:
        dice = random.Random(number)
        turn = number % len(self._addresses)
        turned = self._addresses[turn:] + self._addresses[:turn]
        mine: list[bytes] = []
        done = 0
        with Client(turned, timeout_s=self._timeout_s, learn_ring=self._learn_ring) as client:
            while True:
                due = time.monotonic()
                if self._pause_s:
                    due = self._began + self._pause_s * (done + number / self._writers)
                if self._stopped.wait(max(0.0, due - time.monotonic())):
                    return
                done += 1
                if mine and dice.random() < self._read_share:
                    outcome, is_put = self._get(client, dice.choice(mine)), False
                else:
                    key = b"%b/%d/%d" % (self._prefix, number, done)
                    outcome, is_put = self._put(client, key), True
                    if outcome == OK:
                        mine.append(key)
                self.samples.append(Sample(due, time.monotonic() - due, is_put, outcome))

    def _put(self, client: Client, key: bytes) -> str:
        value = key + _FILLER
        try:
            client.put(key, value, blind=self._blind, strict=self._strict)
        except DynagentError as exc:
            if exc.definite:
                self.refused[key] = type(exc).__name__
            else:
                self.unknown.add(key)
            return type(exc).__name__
        self.acknowledged[key] = value
        return OK

    def _get(self, client: Client, key: bytes) -> str:
        try:
            result = client.get(key, strict=self._strict)
        except DynagentError as exc:
            return type(exc).__name__
        if result.partial:
            self.partial += 1
        elif [version.value for version in result.versions] != [self.acknowledged[key]]:
            self.wrong.append(key)
        return OK


def percentile_ms(samples: Sequence[Sample], percent: float) -> float:
    """Of the latencies of those that were answered, in milliseconds; 0 if there are none."""
    histogram = Histogram()
    for sample in samples:
        if sample.outcome == OK:
            histogram.record(int(sample.took_s * 1e6))
    return round(histogram.percentile(percent) / 1e3, 2)
