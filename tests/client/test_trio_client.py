"""What only the trio client has: many tasks on one connection, cancellation, a scope of life."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from dynagent import limits
from dynagent.client.trio_client import TrioClient
from dynagent.core.messages import MODE_BLIND, Get, GetReply, Hello, Put, PutReply
from dynagent.errors import (
    BadRequest,
    ConnectionLost,
    DynagentError,
    Unreachable,
    WriteOutcomeUnknown,
)
from dynagent.wire.codec import Frame, encode_frame
from dynagent.wire.session import Session
from tests.real.cluster import RealCluster, free_ports

TEN_S = 10.0  # for what takes milliseconds; only a broken client waits that long


class FakeAgent:
    """An agent whose answers are the test's: it keeps what was asked, and on which connection."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.requests: list[Frame] = []
        self.connections: list[trio.SocketStream] = []
        self.sessions: list[Session] = []
        self.greets = True
        self._nursery = nursery
        self._news = trio.Event()

    async def start(self) -> str:
        serve = partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1")
        (listener,) = await self._nursery.start(serve)
        return f"127.0.0.1:{listener.socket.getsockname()[1]}"

    async def _serve(self, stream: trio.SocketStream) -> None:
        hello = Hello(1, 1, 0, b"", "", b"", [], limits.DATA_FRAME_BYTES_MAX, 0)
        session = Session(hello, dialled=False)
        self.connections.append(stream)
        self.sessions.append(session)
        self._tell()
        try:
            while data := await stream.receive_some():
                self.requests += session.receive(data)
                if self.greets and (due := session.take_hello()):
                    await stream.send_all(due)
                self._tell()
        except trio.ClosedResourceError:
            pass  # by `lose`
        except trio.BrokenResourceError:
            pass

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(TEN_S):
            while not holds():
                await self._news.wait()

    async def asked(self, count: int) -> list[Frame]:
        await self.until(lambda: len(self.requests) >= count)
        return self.requests

    async def reply(self, frame: Frame, value: bytes = b"v") -> None:
        message = GetReply(b"seen", [], False, 2)
        done = PutReply(b"seen", 1, b"")
        await self.connections[-1].send_all(
            encode_frame(
                done if isinstance(frame.message, Put) else message,
                request_id=frame.request_id,
                budget_ms=0,
            )
        )

    async def lose(self) -> None:
        await self.connections[-1].aclose()


def run(main: Callable[[FakeAgent, str], Awaitable[None]]) -> None:
    """Runs `main` with a fake agent; no task may be left at its end."""

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            agent = FakeAgent(nursery)
            address = await agent.start()
            await main(agent, address)
            nursery.cancel_scope.cancel()

    trio.run(body)


def client_of(address: str, timeout_s: float = TEN_S) -> TrioClient:
    return TrioClient([address], learn_ring=False, timeout_s=timeout_s)


# --- many on one ---------------------------------------------------------------------------------


def test_requests_of_many_tasks_share_a_connection_and_replies_find_their_task() -> None:
    async def main(agent: FakeAgent, address: str) -> None:
        ended: list[int] = []

        async def ask(number: int) -> None:
            await client.get(b"key-%d" % number)
            ended.append(number)

        async with client_of(address) as client, trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
            frames = list(await agent.asked(20))
            assert len(agent.connections) == 1
            for frame in reversed(frames):
                await agent.reply(frame)
                number = int(frame.message.key[4:])  # type: ignore[union-attr]
                with trio.fail_after(TEN_S):
                    while number not in ended:
                        await trio.lowlevel.checkpoint()
                assert ended[-1] == number

    run(main)


def test_over_the_bound_tasks_wait_in_line_and_take_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LANE_REQUESTS_MAX", 3)

    async def main(agent: FakeAgent, address: str) -> None:
        async with client_of(address) as client, trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(client.get, b"key-%d" % number)
                await trio.testing.wait_all_tasks_blocked()
            for number in range(10):
                frames = await agent.asked(min(10, number + 3))
                assert len(frames) == min(10, number + 3)
                await agent.reply(frames[number])
            keys = [frame.message.key for frame in agent.requests]  # type: ignore[union-attr]
            assert keys == [b"key-%d" % number for number in range(10)]

    run(main)


def test_one_tasks_error_does_not_reach_the_others() -> None:
    async def main(agent: FakeAgent, address: str) -> None:
        refused: list[BadRequest] = []

        async def ask_badly() -> None:
            try:
                await client.put(b"k", bytes(limits.DATA_FRAME_BYTES_MAX))
            except BadRequest as exc:
                refused.append(exc)

        async def crash() -> None:
            with trio.move_on_after(TEN_S):
                await client.get(b"crash")
            raise RuntimeError

        async with client_of(address) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.get, b"k")
            nursery.start_soon(ask_badly)
            await agent.asked(1)
            with pytest.RaisesGroup(RuntimeError):
                async with trio.open_nursery() as other:
                    other.start_soon(crash)
                    await agent.reply((await agent.asked(2))[1])
            assert refused
            await agent.reply(agent.requests[0])

    run(main)


# --- cancellation --------------------------------------------------------------------------------


async def cancelled(verb: Callable[[], Awaitable[object]], when: Awaitable[object]) -> None:
    """Calls `verb` in a task, and cancels it when `when` is over."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(verb)
        await when
        nursery.cancel_scope.cancel()


def test_cancelled_before_the_connection_is_up_nothing_is_sent() -> None:
    async def main(agent: FakeAgent, address: str) -> None:
        agent.greets = False
        async with client_of(address) as client:
            connected = agent.until(lambda: bool(agent.sessions and agent.sessions[0].remote))
            await cancelled(partial(client.put, b"one", b"v"), connected)
            agent.greets = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.put, b"two", b"v")
                await agent.connections[0].send_all(agent.sessions[0].take_hello())
                (frame,) = await agent.asked(1)
                assert frame.message.key == b"two"  # type: ignore[union-attr]
                await agent.reply(frame)

    run(main)


def test_cancelled_while_in_line_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LANE_REQUESTS_MAX", 1)

    async def main(agent: FakeAgent, address: str) -> None:
        async with client_of(address) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.get, b"first")
            await agent.asked(1)
            waits = trio.testing.wait_all_tasks_blocked()
            await cancelled(partial(client.get, b"second"), waits)
            nursery.start_soon(client.get, b"third")
            await agent.reply(agent.requests[0])
            _, frame = await agent.asked(2)
            assert frame.message.key == b"third"  # type: ignore[union-attr]
            await agent.reply(frame)

    run(main)


def test_cancelled_after_it_was_sent_the_late_reply_is_passed_over() -> None:
    async def main(agent: FakeAgent, address: str) -> None:
        async with client_of(address) as client:
            await cancelled(partial(client.put, b"one", b"v"), agent.asked(1))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.get, b"two")
                late, frame = await agent.asked(2)
                await agent.reply(late)
                await agent.reply(frame)
            assert len(agent.connections) == 1

    run(main)


def test_a_cancelled_request_keeps_its_place_until_it_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LANE_REQUESTS_MAX", 1)

    async def main(agent: FakeAgent, address: str) -> None:
        async with client_of(address) as client:
            await cancelled(partial(client.get, b"one"), agent.asked(1))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.get, b"two")
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert len(agent.requests) == 1
                await agent.reply(agent.requests[0])
                await agent.reply((await agent.asked(2))[1])

    run(main)


def test_whoever_waits_only_shortly_finds_out_that_an_agent_hangs() -> None:
    async def main(agent: FakeAgent, address: str) -> None:
        async with client_of(address, timeout_s=0.4) as client:
            with trio.fail_after(TEN_S):
                while len(agent.connections) < 2:
                    with trio.move_on_after(0.02):
                        await client.get(b"k")

    run(main)


def test_the_end_of_the_block_ends_what_still_waits() -> None:
    async def main(agent: FakeAgent, address: str) -> None:
        errors: list[DynagentError] = []

        async def ask(client: TrioClient) -> None:
            try:
                await client.put(b"k", b"v")
            except DynagentError as exc:
                errors.append(exc)

        async with trio.open_nursery() as outside, client_of(address) as client:
            outside.start_soon(ask, client)
            await agent.asked(1)
        (error,) = errors
        assert isinstance(error, WriteOutcomeUnknown)
        assert error.op_id
        with pytest.raises(Unreachable, match="closed"):
            await client.get(b"k")

    run(main)


def test_a_block_that_is_cancelled_or_fails_ends_as_any_other() -> None:
    async def main(agent: FakeAgent, address: str) -> None:
        with trio.CancelScope() as scope:
            async with client_of(address) as client:
                scope.cancel()
                await client.get(b"k")
        assert scope.cancelled_caught
        with pytest.raises(KeyError):  # not wrapped in a group
            async with client_of(address) as client:
                raise KeyError

    run(main)


# --- loss ----------------------------------------------------------------------------------------


def test_a_lost_connection_fails_each_of_its_requests_and_is_made_again() -> None:
    async def main(agent: FakeAgent, address: str) -> None:
        async with client_of(address, timeout_s=TEN_S) as client:
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(partial(client.put, b"key-%d" % number, b"v", blind=True))
                await agent.asked(5)
                await agent.lose()
                frames = (await agent.asked(10))[5:]
                for frame in frames:
                    assert isinstance(frame.message, Put)
                    assert (frame.message.attempt, frame.message.mode) == (2, MODE_BLIND)
                    await agent.reply(frame)
            assert len(agent.connections) == 2

    run(main)


def test_each_task_gets_an_exception_of_its_own() -> None:
    async def main(agent: FakeAgent, address: str) -> None:
        errors: list[DynagentError] = []

        async def ask() -> None:
            try:
                await client.ask(address, Get(b"k"))
            except ConnectionLost as exc:
                errors.append(exc)

        async with client_of(address) as client, trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await agent.asked(2)
            await agent.lose()
        one, other = errors
        assert one is not other
        assert one.message == other.message

    run(main)


def test_those_that_come_while_the_ring_is_learnt_share_its_failure() -> None:
    async def main() -> None:
        nowhere = f"127.0.0.1:{free_ports(1)[0]}"
        failed = 0

        async def ask() -> None:
            nonlocal failed
            try:
                await client.get(b"k")
            except Unreachable:
                failed += 1

        async with TrioClient([nowhere]) as client, trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        assert failed == 50

    trio.run(main)


# --- real agents ---------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RealCluster]:
    with RealCluster(tmp_path, 3) as running:
        yield running


def sockets() -> int:
    """Descriptors that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.real
def test_a_thousand_tasks_over_three_connections_and_nothing_is_left(cluster: RealCluster) -> None:
    async def main() -> None:
        before, tasks_before = sockets(), trio.lowlevel.current_statistics().tasks_living

        async def write_and_read(number: int) -> None:
            key = b"key-%d" % number
            await client.put(key, key)
            (version,) = (await client.get(key)).versions
            assert version.value == key

        async with TrioClient(cluster.addresses[:1], timeout_s=30) as client:
            async with trio.open_nursery() as nursery:
                for number in range(1_000):
                    nursery.start_soon(write_and_read, number)
            # A selector, a pair to wake it, and one socket for each agent.
            assert sockets() - before == 3 + len(cluster.agents)
        assert sockets() == before
        assert trio.lowlevel.current_statistics().tasks_living == tasks_before

    trio.run(main)


@pytest.mark.real
def test_an_agent_killed_under_concurrent_tasks_loses_nothing(cluster: RealCluster) -> None:
    async def main() -> None:
        done = 0
        marks = {300: trio.Event(), 1_200: trio.Event()}

        async def work(worker: int) -> None:
            nonlocal done
            for number in range(40):
                key = b"key-%d-%d" % (worker, number)
                await client.put(key, key)
                (version,) = (await client.get(key, strict=True)).versions
                assert version.value == key
                done += 1
                if done in marks:
                    marks[done].set()

        async def strike() -> None:
            await marks[300].wait()
            cluster.agents[1].kill()
            await marks[1_200].wait()
            await trio.to_thread.run_sync(cluster.start)

        async with (
            TrioClient(cluster.addresses, timeout_s=30) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(strike)
            for worker in range(50):
                nursery.start_soon(work, worker)

    trio.run(main)


@pytest.mark.real
def test_cancelling_at_any_moment_leaves_the_client_usable(cluster: RealCluster) -> None:
    """Each of many requests is cancelled a little later than the one before."""

    async def main() -> None:
        acknowledged: dict[bytes, bytes] = {}

        async def impatient(number: int) -> None:
            key, value = b"key-%d" % number, os.urandom(100)
            with trio.move_on_after(number * 20e-6):
                await client.put(key, value, blind=True)
                acknowledged[key] = value

        async with TrioClient(cluster.addresses, timeout_s=30) as client:
            await client.get(b"k")
            async with trio.open_nursery() as nursery:
                for number in range(600):
                    nursery.start_soon(impatient, number)
            for key, value in acknowledged.items():
                assert value in [version.value for version in (await client.get(key)).versions]

    trio.run(main)


@pytest.mark.real
def test_tasks_of_a_hung_agent_go_elsewhere_together(cluster: RealCluster) -> None:
    async def main() -> None:
        hung = cluster.agents[0].process
        assert hung is not None
        async with TrioClient(cluster.addresses, timeout_s=4) as client:
            await client.ring()
            hung.send_signal(signal.SIGSTOP)
            try:
                async with trio.open_nursery() as nursery:
                    for number in range(200):
                        nursery.start_soon(client.put, b"key-%d" % number, b"v")
            finally:
                hung.send_signal(signal.SIGCONT)

    trio.run(main)
