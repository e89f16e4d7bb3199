"""No acknowledged write is lost, and no damage to a disk passes in silence: agents killed under
load, the logs of both engines with every byte of the last three commits flipped, cut and torn, and
power cuts of a store on a real file system."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tests.acceptance.points import Failed, Say
from tests.real import killloop
from tests.real.powercut import Figures, cut_power_often, fail_once, is_possible
from tests.store.crashed import CASES, Crashed, State, flips, sqlite_large_pages, tears

KILL_CYCLES = 100
POWER_CUTS = 200  # of each engine
POWER_CUTS_WITHOUT_FSYNC = 20
ENGINES = ("sqlite", "rocksdb")


def run(share: float, say: Say) -> dict[str, object]:
    """All of it; returns the figures, raises `Failed` at the first point that does not hold."""
    if not is_possible():
        raise Failed("power cuts need root and loop devices")
    figures: dict[str, object] = {}
    figures["kill -9"] = _kill(max(2, round(KILL_CYCLES * share)), say)
    figures["kill -9, acknowledged before submitted"] = _kill_early(say)
    step = max(1, round(1 / share / 4))  # with 2 of 9 masks: a fiftieth
    masks = [1 << bit for bit in range(8)] if share == 1.0 else [0x10]
    for name, make in {**CASES, "sqlite, pages of 4 KiB": sqlite_large_pages}.items():
        with tempfile.TemporaryDirectory() as directory:
            base = Path(directory)
            crashed = make(base / "live").without_memory(base / "powerless")
            few = [0x10] if name == "sqlite, pages of 4 KiB" else masks
            figures[f"log: {name}"] = _damage(name, crashed, base / "scratch", step, few, say)
    for engine in ENGINES:
        figures[f"power cuts: {engine}"] = _cut(engine, max(2, round(POWER_CUTS * share)), say)
        figures[f"power cuts without fsync: {engine}"] = _bite(engine, share, say)
        figures[f"read-only: {engine}"] = _fail(engine, say)
    return figures


def _kill(cycles: int, say: Say) -> dict[str, int]:
    outcome = killloop.run(cycles, lambda _: None)
    if outcome["lost"]:
        raise Failed(f"kill -9: {outcome['lost']} acknowledged writes lost")
    say(f"kill -9: {cycles} cycles, {outcome['acknowledged']:,} acknowledged, none lost")
    return {"cycles": cycles, **outcome}


def _kill_early(say: Say) -> dict[str, int]:
    """Agents that acknowledge before they submit must lose something, or the loop is blind."""
    outcome = killloop.run_early(4, lambda _: None)
    if not outcome["lost"]:
        raise Failed("kill -9: an early acknowledgement lost nothing")
    lost = f"{outcome['lost']} of {outcome['acknowledged']:,}"
    say(f"kill -9, acknowledged before submitted: {lost} lost, as must be")
    return {"cycles": 4, **outcome}


def _damage(
    name: str, crashed: Crashed, scratch: Path, step: int, masks: list[int], say: Say
) -> dict[str, dict[str, int]]:
    whole, without_last = crashed.states[-1], crashed.states[-2]
    wrong = [*masks, 0xFF]
    places = [*range(32), *crashed.last_three[::step]]
    last = crashed.last[::step]

    def count(what: str, logs: Iterable[bytes], allowed: dict[str, State | None]) -> dict[str, int]:
        outcomes: Counter[str] = Counter()
        for log in logs:
            found = crashed.outcome(log, scratch)
            kind = next((kind for kind, state in allowed.items() if state == found), None)
            if kind is None:
                raise Failed(f"{name}: {what} number {outcomes.total()}: a state that must not be")
            outcomes[kind] += 1
        say(f"{name}: {what}: {dict(outcomes)}")
        return dict(outcomes)

    return {
        "flips": count(
            "bytes flipped",
            flips(crashed, places, lambda _: wrong),
            {"refused": None, "harmless": whole},
        ),
        "cuts": count(
            "last commit cut",
            (crashed.data[:length] for length in last),
            {"read without it": without_last},
        ),
        "tears": count(
            "last commit torn by sectors",
            tears(crashed),
            {"read without it": without_last, "read with it": whole},
        ),
    }


def _cut(engine: str, cuts: int, say: Say) -> dict[str, object]:
    figures = cut_power_often(engine, cuts=cuts)
    if figures.losses:
        raise Failed(f"{engine}: {figures.losses[0]}")
    say(f"{engine}: {figures.cuts} power cuts, {figures.acknowledged:,} acknowledged, none lost")
    return _told(figures)


def _bite(engine: str, share: float, say: Say) -> dict[str, object]:
    """Without fsync the same loop must lose something, or it proves nothing."""
    cuts = max(5, round(POWER_CUTS_WITHOUT_FSYNC * share))
    figures = cut_power_often(engine, cuts=cuts, fsync=False)
    say(f"{engine} without fsync: {figures.lost_cycles} of {figures.cuts} cuts lose acknowledged")
    if not figures.lost_cycles:
        raise Failed(f"{engine}: {cuts} power cuts without fsync lost nothing: the loop is blind")
    return _told(figures)


def _fail(engine: str, say: Say) -> dict[str, object]:
    figures = fail_once(engine)
    if figures.losses:
        raise Failed(f"{engine}: {figures.losses[0]}")
    say(f"{engine}: read-only after {figures.acknowledged} acknowledged: stopped, none lost")
    return _told(figures)


def _told(figures: Figures) -> dict[str, object]:
    told = asdict(figures)
    del told["losses"]
    return told
