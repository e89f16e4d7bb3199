"""Simulated streams and turns keep the promises of `env.Transport`, and break as TCP breaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from dynagent.env import Connection
from dynagent.errors import Unreachable
from dynagent.testing.level2.clock import SimClock, SimulationStuck, seeded_scheduling
from dynagent.testing.level2.profile import Profile
from dynagent.testing.level2.transport import SimTransport
from dynagent.testing.level2.wires import CLOSED, RESET, End, Wires
from dynagent.testing.world import World


class Silent:
    """A watcher that does not care."""

    def on_write(self, end: End, data: bytes) -> None:
        pass

    def on_read(self, end: End) -> None:
        pass

    def on_close(self, end: End, reason: str) -> None:
        pass


class Ear:
    """A handler that keeps what it hears."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.parts: list[bytes] = []
        self.closed: list[str] = []

    @property
    def heard(self) -> bytes:
        return b"".join(self.parts)

    def on_bytes(self, data: bytes) -> None:
        self.parts.append(data)

    def on_closed(self, reason: str) -> None:
        self.closed.append(reason)


class Pair:
    """Two processes: `one` dials, `two` listens."""

    def __init__(self, profile: Profile) -> None:
        self.world = World(7)
        self.wires = Wires(self.world, profile, Silent())
        self.clock = SimClock(self.world, horizon_s=60.0)
        self.one = SimTransport(self.wires, "one", profile, lambda _point: None)
        self.two = SimTransport(self.wires, "two", profile, lambda _point: None)
        self.turns: list[str] = []
        self.ears: list[Ear] = []

    def accept(self, connection: Connection) -> Ear:
        self.ears.append(Ear(connection))
        return self.ears[-1]

    async def connect(self) -> tuple[Ear, Ear]:
        """(the dialling ear, the accepting one)"""
        await self.two.listen("two:1", self.accept)
        here: list[Ear] = []

        def take(connection: Connection) -> Ear:
            here.append(Ear(connection))
            return here[0]

        await self.one.dial("two:1", take)
        await trio.sleep(0.1)
        return here[0], self.ears[0]


def play(main: Callable[[Pair], Awaitable[None]], profile: Profile | None = None) -> Pair:
    pair = Pair(profile if profile is not None else Profile())

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.clock.drive)
            nursery.start_soon(pair.one.run, lambda: pair.turns.append("one"))
            nursery.start_soon(pair.two.run, lambda: pair.turns.append("two"))
            await main(pair)
            nursery.cancel_scope.cancel()

    with seeded_scheduling(7):
        trio.run(run, clock=pair.clock)
    return pair


def test_bytes_arrive_in_order_and_whole_however_they_are_cut() -> None:
    async def main(pair: Pair) -> None:
        dialler, listener = await pair.connect()
        data = bytes(range(256)) * 40
        for at in range(0, len(data), 100):
            dialler.connection.write(data[at : at + 100])
            await trio.sleep(0.001)
        await trio.sleep(5)
        assert listener.heard == data
        sizes = {len(part) for part in listener.parts}
        assert len(sizes) > 10
        assert not sizes <= {100}  # both cut and run together

    play(main, Profile(cut=0.5, window_bytes=300))


def test_what_is_written_leaves_at_the_end_of_the_turn() -> None:
    async def main(pair: Pair) -> None:
        dialler, listener = await pair.connect()
        pair.turns.clear()
        for _ in range(5):
            dialler.connection.write(b"x")
        await trio.sleep(1)
        assert pair.turns.count("one") == 1  # one turn, one send
        assert listener.parts == [b"xxxxx"]

    play(main)


def test_a_close_comes_behind_what_was_written() -> None:
    async def main(pair: Pair) -> None:
        dialler, listener = await pair.connect()
        dialler.connection.write(b"last words")
        dialler.connection.close("done")
        dialler.connection.write(b"too late")
        await trio.sleep(1)
        assert (listener.heard, listener.closed) == (b"last words", [CLOSED])
        assert dialler.closed == ["done"]

    play(main)


def test_a_reader_that_does_not_read_holds_the_writer_back() -> None:
    async def main(pair: Pair) -> None:
        dialler, listener = await pair.connect()
        pair.two.paused_until = pair.world.now + 5
        for _ in range(10):
            dialler.connection.write(b"x" * 1_000)
            await trio.sleep(0.1)
        end = dialler.connection
        assert isinstance(end, End)
        assert len(end.other.inbox) <= 2_000
        assert len(end.out) >= 8_000
        await trio.sleep(10)
        assert listener.heard == b"x" * 10_000

    play(main, Profile(window_bytes=2_000))


def test_a_stall_holds_one_direction_and_loses_nothing() -> None:
    async def main(pair: Pair) -> None:
        dialler, listener = await pair.connect()
        pair.wires.stall([("one", "two")])
        dialler.connection.write(b"held")
        listener.connection.write(b"free")
        await trio.sleep(1)
        assert (listener.heard, dialler.heard) == (b"", b"free")
        pair.wires.flow([("one", "two")])
        await trio.sleep(1)
        assert listener.heard == b"held"
        assert not dialler.closed

    play(main)


def test_a_reset_is_heard_by_each_end_at_its_own_time() -> None:
    async def main(pair: Pair) -> None:
        dialler, listener = await pair.connect()
        end = dialler.connection
        assert isinstance(end, End)
        pair.wires.reset(end)
        await trio.sleep(0.0001)
        await trio.sleep(1)
        assert dialler.closed == [RESET]
        assert listener.closed == [CLOSED]

    play(main)


@pytest.mark.parametrize("loudly", [True, False])
def test_a_kernel_tells_of_a_dead_process_and_a_dead_machine_tells_nobody(loudly: bool) -> None:
    async def main(pair: Pair) -> None:
        dialler, listener = await pair.connect()
        pair.two.die(loudly=loudly)
        if not loudly:
            pair.wires.down.add("two")
        await trio.sleep(2)
        assert dialler.closed == ([CLOSED] if loudly else [])
        assert not listener.closed  # it is dead
        if not loudly:
            dialler.connection.write(b"anybody there?")
            await trio.sleep(2)
            assert not dialler.closed
            pair.wires.down.discard("two")  # it is up again, and knows of no connection
            dialler.connection.write(b"and now?")
            await trio.sleep(2)
            assert dialler.closed == [RESET]

    play(main)


def test_nobody_listens_or_nobody_answers() -> None:
    async def main(pair: Pair) -> None:
        with pytest.raises(Unreachable, match="refused"):
            await pair.one.dial("two:1", pair.accept)
        pair.wires.down.add("two")
        with pytest.raises(Unreachable, match="no answer in time"):
            await pair.one.dial("two:1", pair.accept)

    play(main)


def test_a_simulated_deadlock_is_an_error() -> None:
    async def main(_pair: Pair) -> None:
        await trio.sleep_forever()

    with pytest.RaisesGroup(pytest.RaisesExc(SimulationStuck, match="deadlock")):
        play(main)
