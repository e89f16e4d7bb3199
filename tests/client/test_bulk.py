"""The bulk client against real agents: all of them, one killed, one stopped, none."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynagent import limits
from dynagent.client.bulk import BulkClient
from dynagent.client.lane import Request
from dynagent.client.requests import Result, make_put
from dynagent.core.messages import Get
from dynagent.errors import Unreachable, WrongCluster
from tests.real.cluster import RealCluster, free_ports

pytestmark = pytest.mark.real


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RealCluster]:
    with RealCluster(tmp_path, 3) as running:
        yield running


def puts(records: dict[bytes, bytes]) -> Iterator[Request]:
    for key, value in records.items():
        yield Request(make_put(key, value, op_id=os.urandom(limits.OP_ID_BYTES)))


def values(bulk: BulkClient, keys: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What the keys have, each of which must have one value."""
    found = {}
    for request in bulk.run(Request(Get(key)) for key in keys):
        result = request.outcome()
        assert isinstance(result, Result) and isinstance(request.message, Get)
        (version,) = result.versions
        found[request.message.key] = version.value
    return found


def test_all_records_come_back_in_order_and_all_agents_coordinate(cluster: RealCluster) -> None:
    records = {b"key-%d" % number: os.urandom(number % 300) for number in range(3_000)}
    with BulkClient(cluster.addresses[:1]) as bulk:
        ended = [request.message for request in bulk.run(puts(records))]
        assert [message.key for message in ended if message is not None] == list(records)
        assert values(bulk, records) == records
        assert list(values(bulk, records)) == list(records)
        assert set(bulk.answered) == set(cluster.addresses)
        assert min(bulk.answered.values()) > 1_000


def test_values_of_a_megabyte_pass_through_the_bounds(cluster: RealCluster) -> None:
    small = {b"small-%d" % number: b"s" for number in range(300)}
    large = {b"large-%d" % number: os.urandom(1 << 20) for number in range(40)}
    with BulkClient(cluster.addresses) as bulk:
        for request in bulk.run(puts(small | large)):
            request.outcome()
        assert values(bulk, small | large) == small | large


def test_an_agent_killed_on_the_way_loses_nothing(cluster: RealCluster) -> None:
    records = {b"key-%d" % number: b"%d" % number for number in range(4_000)}
    with BulkClient(cluster.addresses) as bulk:
        for place, request in enumerate(bulk.run(puts(records))):
            request.outcome()
            if place == 500:
                cluster.agents[1].kill()
            if place == 2_500:
                cluster.start()
        assert values(bulk, records) == records


def test_an_agent_that_hangs_costs_its_requests_their_try_and_no_more(cluster: RealCluster) -> None:
    records = {b"key-%d" % number: b"%d" % number for number in range(3_000)}
    hung = cluster.agents[2]
    assert hung.process is not None
    with BulkClient(cluster.addresses, timeout_s=6.0) as bulk:
        for place, request in enumerate(bulk.run(puts(records))):
            request.outcome()
            if place == 500:
                hung.process.send_signal(signal.SIGSTOP)
        hung.process.send_signal(signal.SIGCONT)
        assert values(bulk, records) == records


def test_when_all_agents_are_gone_and_come_back_the_rest_goes_on(cluster: RealCluster) -> None:
    records = {b"key-%d" % number: b"v" for number in range(2_000)}
    with BulkClient(cluster.addresses, timeout_s=20.0, in_flight=100) as bulk:
        ok = 0
        for place, request in enumerate(bulk.run(puts(records))):
            ok += request.error is None
            if request.error is not None:
                assert not request.error.definite  # was under way when they went
            if place == 500:
                for agent in cluster.agents:
                    agent.kill()
                cluster.start()
        assert ok >= len(records) - 100


def test_where_nobody_is_the_first_use_says_so() -> None:
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    with BulkClient([nowhere]) as bulk, pytest.raises(Unreachable, match="refused"):
        list(bulk.run([Request(Get(b"k"))]))


def test_another_cluster_is_refused(cluster: RealCluster) -> None:
    with (
        BulkClient(cluster.addresses, cluster_id=b"another cluster!") as bulk,
        pytest.raises(WrongCluster),
    ):
        list(bulk.run([Request(Get(b"k"))]))


def test_requests_are_taken_lazily(cluster: RealCluster) -> None:
    taken = 0

    def forever() -> Iterator[Request]:
        nonlocal taken
        while True:
            taken += 1
            yield Request(Get(b"key-%d" % taken))

    with BulkClient(cluster.addresses, in_flight=50) as bulk:
        run = bulk.run(forever())
        for _ in range(10):
            next(run)
        assert taken <= 10 + 2 * 50
        assert bulk.unfinished <= 50


def test_where_nothing_is_there_yet_the_source_wakes_it(cluster: RealCluster) -> None:
    reader, writer = os.pipe()
    answered = []

    def requests() -> Iterator[Request | None]:
        for number in range(3):
            os.write(writer, b"x")
            yield None
            os.read(reader, 1)
            yield Request(Get(b"key-%d" % number))

    with BulkClient(cluster.addresses) as bulk:
        for batch in bulk.batches(requests(), source=reader):
            answered += batch
    os.close(reader)
    os.close(writer)
    assert len(answered) == 3
    assert all(request.error is None for request in answered)
