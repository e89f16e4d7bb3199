"""Making a failing run small: fewer faults, fewer clients, less of everything, same violation.

    python -m tests.sim --seed 155 --shrink                 says which conditions are enough
    python -m tests.sim --seed 155 --shrink --keep NAME     and keeps them in scenarios/NAME.json

A run is its seed and its profile, so a smaller profile is a smaller run. Every simplification that
still shows the same checker's violation is taken, until none does. A kept scenario is replayed by
`test_kept_scenarios.py` for ever, and must show no violation once the bug is mended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

from dynagent.testing.profile import Profile
from tests.sim.levels import PROFILES

SCENARIOS = Path(__file__).parent / "scenarios"
RUNS_MAX = 400  # of one shrinking: minutes at level 2
_LEAST = {"operations": 5, "clients": 1, "keys": 1, "nodes": 3}


def shrink(
    profile: Profile, fails: Callable[[Profile], bool], *, runs_max: int = RUNS_MAX
) -> Profile:
    """The simplest profile found that still `fails`."""
    runs = 0
    progress = True
    while progress:
        progress = False
        for candidate in simpler(profile):
            runs += 1
            if runs > runs_max:
                return profile
            if fails(candidate):
                profile, progress = candidate, True
                break
    return profile


def simpler(profile: Profile) -> Iterator[Profile]:
    """Profiles that have a little less of something, the boldest steps first."""
    for name, least in _LEAST.items():
        value = getattr(profile, name)
        for less in {(value + least) // 2, value - 1}:
            if least <= less < value:
                yield replace(profile, **_field(name, less))
    for field in fields(profile):
        value = getattr(profile, field.name)
        if isinstance(value, dict):
            for key in sorted(value):
                rest: dict[str, Any] = {k: value[k] for k in value if k != key}
                yield replace(profile, **_field(field.name, rest))
        elif field.name not in _LEAST and field.default is not MISSING and value != field.default:
            yield replace(profile, **_field(field.name, field.default))


def _field(name: str, value: object) -> dict[str, Any]:
    return {name: value}


def violated(level: int, seed: int, profile: Profile | None) -> tuple[str, ...]:
    """The checkers that a run violates, in order."""
    simulate = PROFILES[level]()[0]
    report = simulate(seed, profile)
    return tuple(dict.fromkeys(line.partition(":")[0] for line in report.violations))


def shrink_run(level: int, seed: int) -> tuple[str, Profile] | None:
    """The first checker that the seed violates, and the least profile; None if it violates none."""
    found = violated(level, seed, None)
    if not found:
        return None
    checker = found[0]
    drawn = PROFILES[level]()[1](seed)
    return checker, shrink(drawn, lambda profile: checker in violated(level, seed, profile))


def keep(name: str, *, level: int, seed: int, checker: str, profile: Profile) -> Path:
    """Writes a scenario; what it is about is added to `why` by hand."""
    SCENARIOS.mkdir(exist_ok=True)
    path = SCENARIOS / f"{name}.json"
    document = {
        "why": "",
        "level": level,
        "seed": seed,
        "checker": checker,
        "profile": asdict(profile),
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def replay(path: Path) -> tuple[str, ...]:
    """The checkers that a kept scenario violates now."""
    document = json.loads(path.read_text(encoding="utf-8"))
    level = document["level"]
    profile = PROFILES[level]()[2](**document["profile"])
    return violated(level, document["seed"], profile)
