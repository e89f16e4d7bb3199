"""`dynctl demo`: it holds, it says so when it does not, and it never leaves an agent behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynctl.commands import demo
from dynctl.demo.narrator import Narrator
from dynctl.demo.steps import STEPS
from dynctl.demo.tour import Step, Tour
from dynctl.spawn import held_back
from tests.dynctl.conftest import Dynctl, Here
from tests.dynctl.schemas import problems

pytestmark = pytest.mark.real


def _agents_in(directory: Path) -> list[str]:
    """The command lines of running processes that name this directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has ended
        if str(directory) in line and "dynagent.main" in line:
            found.append(line)
    return found


def test_the_whole_tour_holds_and_leaves_nothing(bare: Dynctl, tmp_path: Path) -> None:
    directory = tmp_path / "tour"
    bare("put", "k", "v", status=7)
    done = bare("demo", "--dir", str(directory))
    told = done.stdout.decode()
    assert done.stderr == b""
    assert "\x1b" not in told
    assert re.findall(r"^(\d+)/", told, re.M) == [str(n) for n in range(1, len(STEPS) + 1)]
    assert told.count("✓") == len(STEPS)
    assert "$ dynctl put cart/7 'apples, pears'" in told
    assert not directory.exists()
    assert _agents_in(directory) == []
    assert not (tmp_path / "state").exists()  # the user's own state is as it was


def test_scripts_get_a_record_of_each_step(bare: Dynctl, here: Here, tmp_path: Path) -> None:
    directory = tmp_path / "tour"
    done = bare("demo", "-o", "jsonl", "--keep", "--dir", str(directory))
    schema = json.loads(here("schema", "demo", "-o", "jsonl")[1])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["title"] for line in lines] == [step.title for step in STEPS]
    assert all(line["ok"] and not line["problem"] for line in lines)
    assert [problems(line, schema) for line in lines] == [""] * len(STEPS)
    assert _agents_in(directory) == []
    assert f"dynctl up --dir {directory}/cluster" in done.stderr.decode()
    assert (directory / "cluster" / "local-1").is_dir()


def _with_second_step(monkeypatch: pytest.MonkeyPatch, second: Callable[[Tour], str]) -> None:
    step = Step(title="The one that fails", why="A test.", run=second)
    monkeypatch.setattr(demo, "STEPS", (STEPS[0], step, STEPS[1]))


def test_a_step_that_does_not_hold_ends_the_tour_and_leaves_its_directory(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong(tour: Tour) -> str:
        tour.dynctl("put", "k", "v")
        tour.expect_value("k", "w")
        return "never"

    _with_second_step(monkeypatch, wrong)
    directory = tmp_path / "tour"
    status, out, told = here("demo", "-o", "jsonl", "--dir", str(directory))
    assert status == 1
    assert [json.loads(line)["ok"] for line in out.splitlines()] == [True, False]
    expected = "dynctl: demo: step 2 (The one that fails): expected: k is 'w'; seen: b'v'; see: "
    assert told == f"{expected}{directory}\n"
    assert _agents_in(directory) == []
    assert (directory / "cluster" / "local-1" / "agent.log").exists()


def test_an_exit_status_that_was_not_expected_is_a_failure(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong(tour: Tour) -> str:
        tour.dynctl("get", "nothing")
        return "never"

    _with_second_step(monkeypatch, wrong)
    status, out, told = here("demo", "--dir", str(tmp_path / "tour"))
    assert status == 1
    assert "expected: `dynctl get nothing` exits 0; seen: exit status 3" in told
    assert "  ✗ expected" in out
    assert _agents_in(tmp_path / "tour") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["$ dynctl up", "$ dynctl health", "5/"])
def test_a_signal_ends_the_tour_and_all_that_it_started(
    bare: Dynctl, tmp_path: Path, number: signal.Signals, place: str
) -> None:
    directory = tmp_path / "tour"
    with subprocess.Popen(
        [*bare.command, "demo", "--dir", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=bare.environment,
        process_group=0,
    ) as process:
        assert process.stdout is not None
        assert any(place in line.decode() for line in process.stdout)
        os.kill(process.pid, number)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, b"")
    assert _agents_in(directory) == []
    assert not directory.exists()


def test_a_signal_waits_until_what_is_being_started_is_known() -> None:
    started = False
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.raise_signal(signal.SIGINT)
        started = True
    assert started
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_at_the_start_of_a_command_leaves_no_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = subprocess.Popen
    started: list[Any] = []

    def interrupted(*places: Any, **names: Any) -> Any:
        started.append(popen(*places, **names))
        signal.raise_signal(signal.SIGINT)
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Tour(tmp_path / "tour", Narrator("never", silent=True), keep=False).dynctl(
            *("up", "--dir", str(tmp_path / "tour" / "cluster"), "--port", "0")
        )
    assert started[0].returncode is not None
    assert _agents_in(tmp_path / "tour") == []


def test_a_directory_with_something_in_it_is_refused(here: Here, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    status, out, told = here("demo", "--dir", str(tmp_path / "full"))
    assert (status, out) == (10, "")
    assert (
        told
        == f"dynctl: demo: refused: {tmp_path / 'full'} holds 'thesis.txt'; name an empty --dir\n"
    )
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("words", [["-o", "xml"], ["--color", "blue"], ["now"]], ids=" ".join)
def test_bad_words_are_refused_before_anything_starts(here: Here, words: list[str]) -> None:
    status, out, told = here("demo", *words)
    assert (status, out) == (2, "")
    assert told.count("\n") == 1
