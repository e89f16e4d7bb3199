"""What the points of an issue share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dynagent.errors import DynagentError

Say = Callable[[str], None]
Parts = Mapping[str, Callable[[float, Say], dict[str, object]]]


class Failed(AssertionError):
    """A point of the issue does not hold."""


def hold(condition: bool, what: str) -> None:
    """Raises `Failed` with `what` is the case instead."""
    if not condition:
        raise Failed(what)


def run_parts(parts: Parts, chosen: Sequence[str], share: float, say: Say) -> dict[str, object]:
    """The figures of those that were chosen. Every one runs, whatever became of the others; raises
    `Failed` with all that do not hold."""
    figures: dict[str, object] = {}
    failures: list[str] = []
    for name in chosen:
        try:
            figures[name] = parts[name](share, say)
        except (AssertionError, TimeoutError, ConnectionError, DynagentError) as exc:
            failures.append(f"{name}: {exc}")
            say(f"FAILED: {failures[-1]}")
    if failures:
        raise Failed("; ".join(failures))
    return figures
