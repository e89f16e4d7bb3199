"""What the points of an issue share."""

from __future__ import annotations


class Failed(AssertionError):
    """A point of the issue does not hold."""


def hold(condition: bool, what: str) -> None:
    """Raises `Failed` with `what` is the case instead."""
    if not condition:
        raise Failed(what)
