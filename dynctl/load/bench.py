"""One measured load against a cluster: load the keys, warm up, measure, clean up.

Between warming up and measuring everything under way is waited for, so that the agents' CPU time is
read while they rest, and what is counted is what they worked for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile

from dynagent.client.blocking import Client
from dynagent.core.messages import Get, GetReply, PutReply
from dynagent.core.ring import Ring, token_of
from dynagent.errors import DynagentError, ProtocolError
from dynctl.interrupt import Interrupt
from dynctl.load import cpu
from dynctl.load.driver import Answer, Driver, Owners, Run
from dynctl.load.histogram import Histogram
from dynctl.load.wires import Request
from dynctl.load.workload import Workload

_FOREVER = float("inf")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to load. `duration_s` counts unless `operations` is given (then 0); `rate` 0: closed."""

    connections: int = 64
    in_flight: int = 1
    duration_s: float = 10.0
    operations: int = 0
    warmup_s: float = 1.0
    rate: int = 0
    timeout_s: float = 5.0
    preload: bool = True
    cleanup: bool = False


@dataclass(slots=True, kw_only=True)
class Tally:
    """What came back. `latencies` in µs, of answers only: an error has no latency that means
    anything, and is counted by its class instead."""

    ends_at: float = _FOREVER
    latencies: dict[str, Histogram] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    first_error: str = ""
    missing: int = 0  # gets that found no value
    siblings: int = 0  # answers about a key with several concurrent values
    in_time: Counter[str] = field(default_factory=Counter)  # answered before the end
    per_second: Counter[int] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        return sum(histogram.count for histogram in self.latencies.values())

    def add(self, request: Request, answer: Answer, began: float, now: float, start: float) -> None:
        """`began`, `now`, `start` (of the run): perf_counter."""
        if isinstance(answer, GetReply):
            kind, count = "get", len(answer.siblings)
            self.missing += not count
        elif isinstance(answer, PutReply):
            kind, count = "put", answer.siblings
        else:
            self._fail(answer if isinstance(answer, DynagentError) else _strange(request, answer))
            return
        self.siblings += count > 1
        histogram = self.latencies.get(kind)
        if histogram is None:
            histogram = self.latencies[kind] = Histogram()
        histogram.record(int((now - began) * 1e6))
        if now <= self.ends_at:
            self.in_time[kind] += 1
            self.per_second[int(now - start)] += 1

    def _fail(self, error: DynagentError) -> None:
        self.errors[type(error).__name__] += 1
        self.first_error = self.first_error or error.message


def _strange(request: Request, answer: object) -> DynagentError:
    asked = "get" if isinstance(request[1], Get) else "put"
    return ProtocolError(f"{type(answer).__name__} is not the answer to a {asked}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was measured. `agents_cpu_s` None: unknown, and `why_no_cpu` says why."""

    tally: Tally
    run: Run
    span_s: float  # of the measurement, without the wait for the last answers
    losses: dict[str, int]
    agents: int
    agents_cpu_s: float | None
    why_no_cpu: str
    generator_cpu_s: float
    is_cut_short: bool  # by ^C


def measure(
    client: Client,
    workload: Workload,
    settings: Settings,
    say: Say,
    pids: cpu.Pids | None = None,
) -> Outcome:
    """Loads the cluster of `client`. `pids`: as for `cpu.Meter`.

    Raises `Unreachable`, `NotReady`, `LocalFailure`.
    """
    ring = client.ring()
    addresses = sorted({member.address for member in ring.members})
    with Driver(
        addresses,
        connections=settings.connections,
        in_flight=settings.in_flight,
        timeout_s=settings.timeout_s,
        owners=owners_in(ring),
        cluster_id=ring.cluster_id,
        is_open_loop=settings.rate > 0,
    ) as driver:
        driver.connect()
        if settings.preload:
            say(f"loading {workload.shape.keys:,} keys")
            _all_of(driver, workload, workload.loading(), say)
        requests = workload.requests()
        if settings.warmup_s:
            say(f"warming up for {settings.warmup_s:g}s")
            until = time.perf_counter() + settings.warmup_s
            driver.run(
                requests,
                lambda request, answer, *_: workload.learn(request, answer),
                until=until,
                rate=settings.rate,
            )
        count, span_s = settings.operations, settings.duration_s
        say(f"measuring {count:,} operations" if count else f"measuring for {span_s:g}s")
        meter = cpu.Meter(client, addresses, pids)
        outcome = _measured(meter, driver, workload, requests, settings, len(addresses))
        if settings.cleanup and outcome.is_cut_short:
            say(f"warning: the keys under {workload.shape.prefix!r} are left")
        elif settings.cleanup:
            say(f"deleting {workload.shape.keys:,} keys")
            _all_of(driver, workload, workload.deleting(), say)
    return outcome


def owners_in(ring: Ring) -> Owners:
    """The addresses of a key's owners, in order of preference."""
    address_of = {member.id: member.address for member in ring.members}
    lists = [tuple(address_of[node] for node in owners) for owners in ring.lists]
    return lambda key: lists[ring.partition_of(token_of(key))]


def _all_of(driver: Driver, workload: Workload, requests: Iterator[Request], say: Say) -> None:
    """Sends all of them; tells how many failed."""
    failed: Counter[str] = Counter()

    def on_answer(request: Request, answer: Answer, _began: float, _now: float) -> None:
        workload.learn(request, answer)
        if isinstance(answer, DynagentError):
            failed[type(answer).__name__] += 1

    driver.run(requests, on_answer)
    if failed:
        say(f"warning: of these puts failed: {told(failed)}")


def told(counts: Counter[str]) -> str:
    """`3 ConnectionLost, 1 Overloaded`"""
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())


def _measured(
    meter: cpu.Meter,
    driver: Driver,
    workload: Workload,
    requests: Iterator[Request],
    settings: Settings,
    agents: int,
) -> Outcome:
    if settings.operations:
        requests = islice(requests, settings.operations)
    lost_before = driver.losses
    start, own = time.perf_counter(), time.process_time()
    ends_at = start + settings.duration_s if settings.duration_s else _FOREVER
    tally = Tally(ends_at=ends_at)
    learn, add = workload.learn, tally.add

    def on_answer(request: Request, answer: Answer, began: float, now: float) -> None:
        learn(request, answer)
        add(request, answer, began, now, start)

    with Interrupt() as interrupt:
        wanted = takewhile(lambda _: not interrupt.has_come, requests)
        run = driver.run(wanted, on_answer, until=ends_at, rate=settings.rate)
    own = time.process_time() - own
    spent, why = meter.stop()
    return Outcome(
        tally=tally,
        run=run,
        span_s=min(run.ended, ends_at) - start,
        losses=dict(Counter(driver.losses) - Counter(lost_before)),
        agents=agents,
        agents_cpu_s=spent,
        why_no_cpu=why,
        generator_cpu_s=own,
        is_cut_short=interrupt.has_come,
    )
