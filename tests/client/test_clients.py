"""What every client does, whichever it is: one suite, run with each of them."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dynagent import limits
from dynagent.client.blocking import Client
from dynagent.client.requests import read_result
from dynagent.client.trio_client import TrioClient
from dynagent.core.messages import Get, GetReply, StatusReply, StatusRequest
from dynagent.errors import (
    BadRequest,
    ConnectionLost,
    DynagentError,
    QuorumNotMet,
    TooLarge,
    Unreachable,
    UnsupportedVersion,
    WriteOutcomeUnknown,
    WrongCluster,
)
from tests.client.adapters import MAKERS, AnyClient
from tests.real.cluster import RealCluster, free_ports

pytestmark = pytest.mark.real

Make = Callable[..., AnyClient]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with RealCluster(tmp_path_factory.mktemp("shared"), 3) as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RealCluster]:
    with RealCluster(tmp_path, 3) as running:
        yield running


@pytest.fixture(params=sorted(MAKERS))
def make(request: pytest.FixtureRequest) -> Make:
    return MAKERS[request.param]


def new_key() -> bytes:
    return b"key-" + os.urandom(6).hex().encode()


def values(client: AnyClient, key: bytes) -> list[bytes]:
    return sorted(version.value for version in client.get(key).versions)


# --- verbs ---------------------------------------------------------------------------------------


def test_what_was_put_is_got_until_it_is_deleted(shared: RealCluster, make: Make) -> None:
    key = new_key()
    with make(shared.addresses[:1]) as client:
        assert values(client, key) == []
        receipt = client.put(key, b"apples", content=1, meta={b"by": b"me"})
        assert receipt.attempts == 1
        assert len(receipt.op_id) == limits.OP_ID_BYTES
        result = client.get(key)
        (version,) = result.versions
        assert (version.value, version.meta) == (b"apples", {b"by": b"me"})
        assert result.agent in shared.addresses
        client.put(key, b"pears", context=result.context)
        assert values(client, key) == [b"pears"]
        client.delete(key)
        assert values(client, key) == []


def test_blind_puts_are_siblings_until_a_context_supersedes_them(
    shared: RealCluster, make: Make
) -> None:
    key = new_key()
    with make(shared.addresses) as client:
        for value in (b"1", b"2"):
            client.put(key, value, blind=True)
        result = client.get(key)
        assert sorted(version.value for version in result.versions) == [b"1", b"2"]
        client.put(key, b"both", context=result.context)
        assert values(client, key) == [b"both"]


def test_a_get_with_repair_tells_how_many_owners_hold_what_it_returns(
    shared: RealCluster, make: Make
) -> None:
    key = new_key()
    with make(shared.addresses) as client:
        assert client.get(key, repair=True).versions == []
        client.put(key, b"apples")
        result = client.get(key, repair=True)
        assert [version.value for version in result.versions] == [b"apples"]
        assert result.held >= 2
        assert client.get(key).held == 0


def test_an_agent_that_does_not_know_repair_is_not_believed() -> None:
    reply = GetReply(b"", [], False, 2)
    assert read_result(reply, agent="old:1").versions == []
    with pytest.raises(UnsupportedVersion, match="old:1 is too old"):
        read_result(reply, agent="old:1", repair=True)


def test_requests_go_to_the_first_owner_of_their_key(shared: RealCluster, make: Make) -> None:
    with make(shared.addresses[:1]) as client:
        answered = {client.get(b"key-%d" % number).agent for number in range(30)}
        assert answered == set(shared.addresses)


def test_without_a_ring_the_endpoints_are_asked_in_their_order(
    shared: RealCluster, make: Make
) -> None:
    with make(shared.addresses[1:], learn_ring=False) as client:
        assert {client.get(b"k%d" % n).agent for n in range(10)} == {shared.addresses[1]}


def test_ring_and_ask(shared: RealCluster, make: Make) -> None:
    with make(shared.addresses) as client:
        assert {member.address for member in client.ring().members} == set(shared.addresses)
        assert isinstance(client.ask(shared.addresses[2], StatusRequest()), StatusReply)
        with pytest.raises(BadRequest):
            client.ask(shared.addresses[2], Get(b"k", r=200))


def test_a_value_of_a_megabyte_goes_there_and_back(shared: RealCluster, make: Make) -> None:
    key, value = new_key(), os.urandom(limits.VALUE_BYTES_DEFAULT_MAX)
    with make(shared.addresses) as client:
        client.put(key, value)
        assert values(client, key) == [value]


def test_one_client_serves_many_threads(shared: RealCluster, make: Make) -> None:
    keys = [new_key() for _ in range(100)]
    with make(shared.addresses) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.put(key, key), keys))
        assert list(pool.map(lambda key: values(client, key), keys)) == [[key] for key in keys]


def test_a_repeated_put_has_no_second_effect(shared: RealCluster, make: Make) -> None:
    key = new_key()
    with make(shared.addresses) as client:
        first = client.put(key, b"once", blind=True)
        again = client.put(key, b"once", blind=True, op_id=first.op_id)
        assert (again.op_id, again.dot) == (first.op_id, first.dot)
        assert again.attempts == 2
        assert values(client, key) == [b"once"]


# --- refusals ------------------------------------------------------------------------------------


def test_wrong_requests_are_refused(shared: RealCluster, make: Make) -> None:
    with make(shared.addresses) as client:
        with pytest.raises(BadRequest):
            client.get(b"k", r=4)
        with pytest.raises(TooLarge):
            client.put(b"k", bytes(limits.VALUE_BYTES_DEFAULT_MAX + 1))
        with pytest.raises(TooLarge):
            client.put(b"k", bytes(limits.DATA_FRAME_BYTES_MAX))
        with pytest.raises(BadRequest):
            client.get(bytes(limits.KEY_BYTES_MAX + 1))
        assert values(client, b"k") == []  # and the connection is as good as before


def test_where_nobody_is_it_says_unreachable(make: Make) -> None:
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    with make([nowhere]) as client:
        with pytest.raises(Unreachable, match="refused"):
            client.get(b"k")
        with pytest.raises(Unreachable, match="refused"):
            client.put(b"k", b"v")
    with make([nowhere], learn_ring=False) as client, pytest.raises(Unreachable, match="refused"):
        client.put(b"k", b"v")


def test_addresses_that_are_none_are_named(make: Make) -> None:
    with make(["host:port:7"]) as client, pytest.raises(DynagentError, match="host:port:7"):
        client.get(b"k")
    with make(["x" * 70 + ".invalid:1"]) as client, pytest.raises(Unreachable):
        client.get(b"k")


def test_another_cluster_is_refused(shared: RealCluster, make: Make) -> None:
    with (
        make(shared.addresses, cluster_id=b"another cluster!") as client,
        pytest.raises(WrongCluster),
    ):
        client.get(b"k")


def test_what_is_no_agent_is_called_so(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with make([address]) as client, pytest.raises(Unreachable, match="is no agent"):
            client.ring()
        thread.join(30)


# --- outages -------------------------------------------------------------------------------------


def test_the_loss_of_an_agent_is_not_noticed(own: RealCluster, make: Make) -> None:
    keys = [new_key() for _ in range(30)]
    with make(own.addresses) as client:
        for key in keys[:10]:
            client.put(key, key)
        own.agents[0].kill()
        for key in keys[10:20]:
            client.put(key, key)
        own.start()
        own.wait_ready()
        own.agents[1].kill()
        for key in keys[20:]:
            client.put(key, key)
        assert [values(client, key) for key in keys] == [[key] for key in keys]


def test_without_a_quorum_requests_fail_definitely(own: RealCluster, make: Make) -> None:
    with make(own.addresses) as client:
        client.put(b"k", b"v")
        own.agents[0].kill()
        own.agents[1].kill()
        with pytest.raises(QuorumNotMet):
            client.get(b"k", strict=True)
        with pytest.raises(QuorumNotMet):
            client.put(b"k", b"w")
        assert client.get(b"k", r=1).versions[0].value == b"v"


def test_an_agent_that_hangs_costs_one_try(own: RealCluster, make: Make) -> None:
    with make(own.addresses, timeout_s=4.0) as client:
        for number in range(10):
            client.put(b"key-%d" % number, b"1")
        hung = own.agents[2].process
        assert hung is not None
        hung.send_signal(signal.SIGSTOP)
        try:
            for number in range(3):
                client.put(b"key-%d" % number, b"2")
        finally:
            hung.send_signal(signal.SIGCONT)
        assert [values(client, b"key-%d" % n) for n in range(3)] == [[b"2"]] * 3


def test_a_put_that_nobody_answers_is_unknown_and_its_op_id_repeats_it(
    own: RealCluster, make: Make
) -> None:
    with make(own.addresses, timeout_s=1.0) as client:
        client.put(b"k", b"before")
        for agent in own.agents:
            assert agent.process is not None
            agent.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(WriteOutcomeUnknown) as caught:
                client.put(b"k", b"after", blind=True)
            # One that waits for the agent's Hello before it sends knows that nothing was sent.
            with pytest.raises((ConnectionLost, Unreachable)):
                client.get(b"k")
        finally:
            for agent in own.agents:
                assert agent.process is not None
                agent.process.send_signal(signal.SIGCONT)
        own.wait_ready()
    with make(own.addresses) as client:
        assert len(caught.value.op_id) == limits.OP_ID_BYTES
        client.put(b"k", b"after", blind=True, op_id=caught.value.op_id)
        assert values(client, b"k") == [b"after", b"before"]


def test_when_all_come_back_the_client_goes_on(own: RealCluster, make: Make) -> None:
    with make(own.addresses) as client:
        client.put(b"k", b"v")
        for agent in own.agents:
            agent.kill()
        with pytest.raises(Unreachable):
            client.get(b"k")
        own.start()
        own.wait_ready()
        assert values(client, b"k") == [b"v"]


# --- their faces ---------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["__init__", "get", "put", "delete", "ring", "ask"])
def test_the_verbs_of_all_clients_take_the_same(verb: str) -> None:
    one, other = (inspect.signature(getattr(kind, verb)) for kind in (Client, TrioClient))
    assert one == other
