"""The TCP transport by itself: turns, back-pressure, closing, running out of descriptors."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio

from dynagent import limits
from dynagent.env import Connection
from dynagent.errors import StartError, Unreachable
from dynagent.net.tcp import TcpTransport


class Recorder:
    """A handler that keeps what it hears and may answer."""

    def __init__(self, connection: Connection, answer: Callable[[bytes], bytes] | None) -> None:
        self.connection = connection
        self.heard = b""
        self.closed: list[str] = []
        self._answer = answer

    def on_bytes(self, data: bytes) -> None:
        self.heard += data
        if self._answer is not None:
            self.connection.write(self._answer(data))

    def on_closed(self, reason: str) -> None:
        self.closed.append(reason)


class World:
    """A transport that listens, and everybody who connected."""

    def __init__(self, answer: Callable[[bytes], bytes] | None = None) -> None:
        self.transport = TcpTransport()
        self.accepted: list[Recorder] = []
        self.turns = 0
        self.address = ""
        self._answer = answer

    def accept(self, connection: Connection) -> Recorder:
        self.accepted.append(Recorder(connection, self._answer))
        return self.accepted[-1]

    def end_turn(self) -> None:
        self.turns += 1

    def play(self, script: Callable[[World], Awaitable[None]]) -> None:
        """Runs `script` beside the transport, then stops both."""

        async def both() -> None:
            self.address = await self.transport.listen("127.0.0.1:0", self.accept)
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.transport.run, self.end_turn)
                    await script(self)
                    nursery.cancel_scope.cancel()

        trio.run(both)

    async def connect(self) -> trio.SocketStream:
        host, port = self.address.split(":")
        return await trio.open_tcp_stream(host, int(port))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - polls another loop's state, within fail_after
        await trio.sleep(0.005)


def test_an_answer_written_in_a_turn_leaves_at_its_end() -> None:
    async def script(world: World) -> None:
        stream = await world.connect()
        await stream.send_all(b"hello")
        assert await stream.receive_some(100) == b"HELLO"
        await stream.aclose()
        await until(lambda: world.accepted[0].closed == ["closed by the other end"])

    world = World(bytes.upper)
    world.play(script)
    assert world.turns >= 2


def test_more_than_the_socket_takes_is_sent_when_it_is_read() -> None:
    size = 8 * limits.MIB

    async def script(world: World) -> None:
        stream = await world.connect()
        await stream.send_all(b"x")
        got = 0
        while got < size:
            got += len(await stream.receive_some(1 << 20))
        assert got == size
        await stream.aclose()

    World(lambda _data: b"y" * size).play(script)


def test_a_reader_that_never_reads_is_dropped_at_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "OUTBOX_BYTES_MAX", 16 * limits.MIB)

    async def script(world: World) -> None:
        stream = await world.connect()
        await until(lambda: bool(world.accepted))
        while not world.accepted[0].closed:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"x")
            await trio.sleep(0.005)
        await stream.aclose()

    world = World(lambda _data: b"y" * (8 * limits.MIB))
    world.play(script)
    assert world.accepted[0].closed == ["the other end reads too slowly"]


def test_a_paused_connection_is_not_read_until_it_goes_on_but_can_be_written_to() -> None:
    async def script(world: World) -> None:
        stream = await world.connect()
        await until(lambda: bool(world.accepted))
        [one] = world.accepted
        one.connection.pause(is_paused=True)
        await stream.send_all(b"early")
        one.connection.write(b"answer")
        world.transport.request_turn()
        assert await stream.receive_some(100) == b"answer"
        turns = world.turns
        world.transport.request_turn()
        await until(lambda: world.turns > turns)
        assert one.heard == b""
        one.connection.pause(is_paused=False)
        await until(lambda: one.heard == b"early")
        await stream.aclose()

    World().play(script)


def test_a_paused_connection_can_be_closed() -> None:
    async def script(world: World) -> None:
        stream = await world.connect()
        await until(lambda: bool(world.accepted))
        [one] = world.accepted
        one.connection.pause(is_paused=True)
        one.connection.close("enough")
        world.transport.request_turn()
        await until(lambda: one.closed == ["enough"])
        assert await stream.receive_some(100) == b""
        await stream.aclose()

    World().play(script)


def test_when_all_outboxes_together_are_too_large_the_largest_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "OUTBOXES_BYTES_MAX", 16 * limits.MIB)

    async def script(world: World) -> None:
        streams = [await world.connect() for _ in range(2)]
        await until(lambda: len(world.accepted) == 2)
        greedy, modest = world.accepted
        greedy.connection.write(b"x" * 15 * limits.MIB)
        modest.connection.write(b"y" * 2 * limits.MIB)
        assert world.transport.unsent == modest.connection.unsent == 2 * limits.MIB
        world.transport.request_turn()
        await until(lambda: bool(greedy.closed))
        assert "too slowly" in greedy.closed[0] and not modest.closed
        for stream in streams:
            await stream.aclose()

    World().play(script)


def test_what_was_written_before_close_still_arrives() -> None:
    async def script(world: World) -> None:
        stream = await world.connect()
        await stream.send_all(b"x")
        await until(lambda: bool(world.accepted and world.accepted[0].heard))
        world.accepted[0].connection.write(b"farewell")
        world.accepted[0].connection.close("enough")
        world.accepted[0].connection.write(b"too late")
        world.transport.request_turn()
        assert await stream.receive_some(100) == b"farewell"
        assert await stream.receive_some(100) == b""
        await stream.aclose()

    world = World()
    world.play(script)
    assert world.accepted[0].closed == ["enough"]


def test_a_job_of_another_thread_runs_in_a_turn() -> None:
    ran: list[int] = []

    async def script(world: World) -> None:
        await trio.to_thread.run_sync(world.transport.call_soon, lambda: ran.append(world.turns))
        await until(lambda: bool(ran))

    World().play(script)
    assert len(ran) == 1


def test_running_out_of_descriptors_pauses_accepting_and_nothing_else() -> None:
    class Exhausted:
        """Stands in for the listener: no descriptor left for the first three calls."""

        def __init__(self, listener: socket.socket) -> None:
            self._listener = listener
            self.left = 3

        def fileno(self) -> int:
            return self._listener.fileno()

        def close(self) -> None:
            self._listener.close()

        def accept(self) -> tuple[socket.socket, object]:
            if self.left:
                self.left -= 1
                raise OSError(errno.EMFILE, "too many open files")
            return self._listener.accept()

    async def script(world: World) -> None:
        first = await world.connect()
        await first.send_all(b"x")
        assert await first.receive_some(10) == b"X"
        ((listener, accept),) = world.transport._listeners
        world.transport.forget(listener)
        exhausted = Exhausted(listener)
        world.transport._listeners[:] = [(exhausted, accept)]  # type: ignore[list-item]
        world.transport._selector.register(exhausted, 1, accept)
        second = await world.connect()
        await first.send_all(b"still here")
        assert await first.receive_some(100) == b"STILL HERE"
        await second.send_all(b"me too")
        assert await second.receive_some(100) == b"ME TOO"
        assert exhausted.left == 0
        await first.aclose()
        await second.aclose()

    World(bytes.upper).play(script)


def test_dialling_nobody_is_unreachable() -> None:
    async def script(world: World) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with pytest.raises(Unreachable, match=f"127.0.0.1:{port}"):
            await world.transport.dial(f"127.0.0.1:{port}", world.accept)

    World().play(script)


def test_dialling_a_listener_connects_both_ways() -> None:
    async def script(world: World) -> None:
        dialled: list[Recorder] = []

        def accept(connection: Connection) -> Recorder:
            dialled.append(Recorder(connection, None))
            connection.write(b"ping")
            return dialled[0]

        await world.transport.dial(world.address, accept)
        await until(lambda: dialled[0].heard == b"PING")

    World(bytes.upper).play(script)


def test_an_address_that_cannot_be_bound_is_a_start_error() -> None:
    async def script(world: World) -> None:
        with pytest.raises(StartError, match="another process has it"):
            await world.transport.listen(world.address, world.accept)
        with pytest.raises(StartError, match=r"192\.0\.2\.1"):
            await world.transport.listen("192.0.2.1:0", world.accept)

    World().play(script)
