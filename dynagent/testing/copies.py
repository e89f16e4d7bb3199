"""What the copies of a key hold, each alone and all together."""

from __future__ import annotations

from collections.abc import Iterable

from dynagent.core.siblings import Clock, Dot, join
from dynagent.testing.ledger import is_covered

# One copy of a key, as its disk has it: its clock and its dots.
Copy = tuple[Clock, frozenset[Dot]]
NO_COPY: Copy = ({}, frozenset())


def merge_copies(copies: Iterable[Copy]) -> Copy:
    """All of them in one: the rule of `core/siblings.py`, told again."""
    copies = list(copies)
    known: Clock = {}
    for clock, _ in copies:
        known = join(known, clock)
    held = frozenset(dot for _, dots in copies for dot in dots)
    survive = frozenset(
        dot
        for dot in held
        if all(dot in dots or not is_covered(dot, clock) for clock, dots in copies)
    )
    return known, survive


def adds_to(own: Copy, others: Iterable[Copy]) -> bool:
    """Does a copy hold anything that the others do not? A value, or that one is superseded: a
    tombstone has the very clock of what it supersedes, so clocks alone do not tell."""
    held = merge_copies(others)
    return merge_copies([held, own]) != held
