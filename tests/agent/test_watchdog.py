"""The watchdog: a loop that is blocked on purpose, and one that only waits."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dynagent.agent.watchdog import Watchdog
from dynagent.client.blocking import Client
from dynagent.client.bootstrap import status_of
from dynagent.core.messages import RingRequest
from dynagent.errors import NotReady
from tests.real.cluster import ROOT, WAIT_S_MAX, RealAgent, free_ports

STALL_S = 0.1


class Lines(logging.Handler):
    """What was logged: (event, fields)."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, dict[str, object]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append((record.getMessage(), getattr(record, "fields", {})))


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("dynagent")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


class Watched:
    """A loop that is watched while the block runs."""

    def __init__(self) -> None:
        self.watchdog = Watchdog(STALL_S)

    async def __aenter__(self) -> Watchdog:
        self.watchdog.start()
        return self.watchdog

    async def __aexit__(self, *_: object) -> None:
        self.watchdog.stop()


def block_the_loop() -> None:
    time.sleep(3 * STALL_S)


def test_a_blocked_loop_is_told_in_one_line_with_its_length_and_culprit(lines: Lines) -> None:
    async def main() -> None:
        async with Watched() as watchdog:
            await trio.lowlevel.checkpoint()
            block_the_loop()
            await trio.lowlevel.checkpoint()
            assert watchdog.stalls.count == 1
            assert watchdog.stalls.max_s >= 3 * STALL_S

    trio.run(main)
    [(event, fields)] = lines.told
    assert event == "loop.stalled"
    assert isinstance(fields["ms"], int)
    assert fields["ms"] >= 300
    assert fields["cpu"] == pytest.approx(0, abs=0.5)  # it sleeps
    line = block_the_loop.__code__.co_firstlineno + 1
    assert str(fields["at"]).startswith(f"agent/test_watchdog.py:{line} block_the_loop")


def test_waiting_is_no_stall(lines: Lines) -> None:
    async def main() -> None:
        async with Watched() as watchdog:
            await trio.sleep(5 * STALL_S)
            assert watchdog.stalls.count == 0

    trio.run(main)
    assert lines.told == []


def test_turns_count_one_by_one_even_where_the_loop_runs_several_in_a_row() -> None:
    """The transport runs up to 16 turns before it gives way to trio's other tasks."""
    now = 100.0
    watchdog = Watchdog(STALL_S, monotonic=lambda: now)
    watchdog.after_io_wait(0)
    for _ in range(16):
        now += 0.9 * STALL_S
        watchdog.beat()
    now += 50
    watchdog.after_io_wait(0)  # a wait is no turn
    watchdog.before_io_wait(0)
    assert watchdog.stalls.count == 0


def test_a_second_stall_is_counted_at_once_and_told_with_the_next_line(lines: Lines) -> None:
    now = 100.0
    watchdog = Watchdog(STALL_S, monotonic=lambda: now)
    for lasted_s in (1.0, 2.0, 9.0):
        now += lasted_s
        watchdog.beat()
    now += 0.05
    watchdog.beat()
    assert (watchdog.stalls.count, watchdog.stalls.max_s) == (3, 9.0)
    assert [fields for _, fields in lines.told] == [
        {"ms": 1000},
        {"ms": 9000, "unlogged": 1},
    ]


def test_a_loop_that_does_not_come_back_is_told_while_it_hangs(lines: Lines) -> None:
    now = 100.0

    def hang_until_told() -> None:
        nonlocal now
        for _ in range(6_000):
            now += 1.0
            if lines.told:
                return
            time.sleep(0.005)

    async def main() -> None:
        watchdog = Watchdog(STALL_S, monotonic=lambda: now)
        watchdog.start()
        await trio.lowlevel.checkpoint()
        hang_until_told()
        watchdog.stop()

    trio.run(main)
    event, fields = lines.told[0]
    assert event == "loop.stuck"
    assert "hang_until_told" in str(fields["at"])


def test_a_watchdog_that_never_started_can_be_stopped() -> None:
    Watchdog(STALL_S).stop()


_BLOCKED_AGENT = """
import sys, time
from dynagent.core.answers import Answers
from dynagent.main import main

def blocks_on_ring_request(self, now, link, request_id, budget_ms, message):
    time.sleep(0.4)
    on_ring_request(self, now, link, request_id, budget_ms, message)

on_ring_request, Answers.on_ring_request = Answers.on_ring_request, blocks_on_ring_request
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.plain
@pytest.mark.real
def test_an_agent_that_blocks_names_the_code_in_its_log_and_its_status(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    words = ["run", "--data-dir", f"{tmp_path}/d", "--listen", address]
    command = [sys.executable, "-c", _BLOCKED_AGENT, *words]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("agent.ready" in line for line in process.stderr)
        with Client([address], learn_ring=False) as client:
            before = status_of(client, address)
            with pytest.raises(NotReady):
                client.ask(address, RingRequest())
            after = status_of(client, address)
        process.terminate()
        _, told = process.communicate(timeout=WAIT_S_MAX)
    assert sum(before["stalls"]["counts"]) == 0
    assert sum(after["stalls"]["counts"]) == 1
    assert after["stalls"]["max_s"] >= 0.4
    [line] = [line for line in told.splitlines() if "loop.stalled" in line]
    assert "blocks_on_ring_request < dynagent/core/node.py:" in line
    assert "on_message < dynagent/agent/links.py:" in line


@pytest.mark.real
def test_the_watchdog_can_be_turned_off(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("watchdog_stall_ms = 0\n")
    agent = RealAgent(tmp_path / "d", "lone", free_ports(1)[0], "--config", str(config))
    agent.start()
    agent.wait_log("agent.ready")
    assert agent.process is not None
    threads = list(Path(f"/proc/{agent.process.pid}/task").iterdir())
    assert len(threads) == 2  # the loop and the commit thread
    assert agent.stop() == 0
