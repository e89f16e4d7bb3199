"""The driver of loads against agents that are scripted, stop, or die."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from dynagent.core.messages import Error, Get, GetReply, Hello, Message
from dynagent.errors import ConnectionLost, DynagentError, QuorumNotMet, Unreachable
from dynagent.store.datadir import read_lock_holder
from dynagent.wire.codec import encode_frame
from dynagent.wire.session import Session
from dynctl.load.driver import Answer, Driver
from dynctl.load.wires import Request
from tests.dynctl.conftest import free_port, start_cluster

_HELLO = Hello(1, 1, 0, b"", "", b"", [], 65_536, 0)
Script = Callable[[Get], Message | None]  # the reply; None: hang up


class ScriptedAgent:
    """Answers each get as its script says."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: Counter[bytes] = Counter()
        self.connections = 0
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        session = Session(_HELLO, dialled=False)
        with connection:
            while data := connection.recv(65_536):
                frames = session.receive(data)
                connection.sendall(session.take_hello())
                for frame in frames:
                    assert isinstance(frame.message, Get)
                    self.asked[frame.message.key] += 1
                    reply = self._script(frame.message)
                    if reply is None:
                        return
                    connection.sendall(
                        encode_frame(reply, request_id=frame.request_id, budget_ms=0)
                    )

    def refuse(self) -> None:
        """Takes no more connections."""
        if self._accepting.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._accepting.join()
        self._listener.close()

    def close(self) -> None:
        self.refuse()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def agents() -> Iterator[Callable[[Script], ScriptedAgent]]:
    made: list[ScriptedAgent] = []

    def make(script: Script) -> ScriptedAgent:
        made.append(ScriptedAgent(script))
        return made[-1]

    yield make
    for agent in made:
        agent.close()


def _found(_get: Get) -> Message:
    return GetReply(b"c", [], False, 1)


def _gets(count: int) -> Iterator[Request]:
    return ((b"%d" % number, Get(b"%d" % number)) for number in range(count))


class Outcomes:
    """What a run handed over."""

    def __init__(self) -> None:
        self.keys: Counter[bytes] = Counter()
        self.kinds: Counter[str] = Counter()
        self.began: list[float] = []

    def __call__(self, request: Request, answer: Answer, began: float, now: float) -> None:
        assert now >= began
        self.keys[request[0]] += 1
        self.kinds[type(answer).__name__] += 1
        self.began.append(began)


Make = Callable[[Script], ScriptedAgent]


@pytest.mark.parametrize("in_flight", [1, 7])
def test_every_request_has_one_outcome_and_goes_out_once(agents: Make, in_flight: int) -> None:
    both = [agents(_found), agents(_found)]
    outcomes = Outcomes()
    with Driver([a.address for a in both], connections=3, in_flight=in_flight) as driver:
        driver.connect()
        run = driver.run(_gets(500), outcomes)
    assert run.sent == 500
    assert (len(outcomes.keys), set(outcomes.keys.values())) == (500, {1})
    assert both[0].asked + both[1].asked == outcomes.keys
    assert [agent.connections for agent in both] == [2, 1]


def test_requests_go_to_an_owner_of_their_key(agents: Make) -> None:
    both = [agents(_found), agents(_found)]
    addresses = [agent.address for agent in both]
    with Driver(addresses, connections=4, owners=lambda key: [addresses[int(key) % 2]]) as driver:
        driver.connect()
        driver.run(_gets(100), Outcomes())
    assert {int(key) % 2 for key in both[0].asked} == {0}
    assert {int(key) % 2 for key in both[1].asked} == {1}


def test_an_error_of_an_agent_is_an_outcome_of_its_class(agents: Make) -> None:
    agent = agents(lambda _get: Error(QuorumNotMet.code, "no"))
    outcomes = Outcomes()
    with Driver([agent.address], connections=2) as driver:
        driver.connect()
        driver.run(_gets(10), outcomes)
    assert outcomes.kinds == {"QuorumNotMet": 10}


def test_a_connection_that_breaks_fails_what_it_carried_and_is_opened_again(agents: Make) -> None:
    agent = agents(lambda get: None if get.key == b"5" else _found(get))
    outcomes = Outcomes()
    with Driver([agent.address], connections=1) as driver:
        driver.connect()
        driver.run(_gets(20), outcomes)
        assert driver.losses == {agent.address: 1}
    assert outcomes.kinds == {"GetReply": 19, "ConnectionLost": 1}
    assert agent.connections == 2


def test_the_other_agents_take_the_share_of_one_that_hangs_up(agents: Make) -> None:
    good, bad = agents(_found), agents(lambda _get: None)
    outcomes = Outcomes()
    with Driver([good.address, bad.address], connections=4) as driver:
        driver.connect()
        driver.run(_gets(300), outcomes)
    assert outcomes.kinds["GetReply"] + outcomes.kinds["ConnectionLost"] == 300
    assert outcomes.kinds["GetReply"] > 150


def test_silence_is_a_lost_connection_after_the_time_out(agents: Make) -> None:
    silent = threading.Event()

    def wait(get: Get) -> Message | None:
        if get.key == b"0":
            silent.wait(30)
        return _found(get)

    agent = agents(wait)
    outcomes = Outcomes()
    with Driver([agent.address], connections=1, timeout_s=0.3) as driver:
        driver.connect()
        driver.run(_gets(3), outcomes)
    silent.set()
    assert outcomes.kinds == {"ConnectionLost": 1, "GetReply": 2}


def test_an_open_loop_counts_from_when_each_request_was_due(agents: Make) -> None:
    agent = agents(_found)
    outcomes = Outcomes()
    with Driver([agent.address], connections=1, is_open_loop=True) as driver:
        driver.connect()
        run = driver.run(_gets(50), outcomes, rate=1_000)
    due = [run.began + number / 1_000 for number in range(50)]
    assert outcomes.began == pytest.approx(due, abs=1e-6)


def test_what_an_open_loop_could_not_send_is_counted(agents: Make) -> None:
    blocked = threading.Event()

    def wait(get: Get) -> Message | None:
        blocked.wait(0.4)
        return _found(get)

    agent = agents(wait)
    with Driver([agent.address], connections=1, is_open_loop=True) as driver:
        driver.connect()
        run = driver.run(_gets(10**6), Outcomes(), rate=1_000, until=time.perf_counter() + 0.2)
    assert run.sent == 1
    assert run.unsent > 100


def test_nobody_there_is_told() -> None:
    driver = Driver([f"127.0.0.1:{free_port()}"], connections=2)
    with driver, pytest.raises(Unreachable):
        driver.connect()


def test_a_run_ends_when_all_agents_are_gone_for_good(agents: Make) -> None:
    agent = agents(lambda _get: None)
    with Driver([agent.address], connections=1, timeout_s=0.3) as driver:
        driver.connect()
        agent.refuse()
        with pytest.raises(Unreachable, match=r"0\.3s"):
            driver.run(_gets(10**6), Outcomes())


@pytest.mark.real
def test_a_load_goes_on_when_an_agent_is_killed_under_it(tmp_path: Path) -> None:
    cluster = start_cluster(tmp_path, 3)
    try:
        errors: list[DynagentError] = []
        answered = 0

        def on_answer(_request: Request, answer: Answer, _began: float, _now: float) -> None:
            nonlocal answered
            if isinstance(answer, DynagentError):
                errors.append(answer)
            answered += 1
            if answered == 200:
                pid = read_lock_holder(cluster.directory / "local-2")
                assert pid
                os.kill(pid, signal.SIGKILL)

        with Driver(cluster.endpoints, connections=6) as driver:
            driver.connect()
            run = driver.run(islice(_gets(10**6), 2_000), on_answer)
            assert driver.absent == [cluster.endpoints[1]]
            assert driver.losses == {cluster.endpoints[1]: 2}
        assert (run.sent, answered) == (2_000, 2_000)
        assert len(errors) < 20
        assert any(isinstance(error, ConnectionLost) for error in errors)
    finally:
        cluster("down", "--dir", str(cluster.directory), "--purge")
