"""The mutants of the ring log (`core.ringlog` and the files beside it)."""

from __future__ import annotations

from tests.mutants.table import Mutant, _mutant

RINGLOG_MUTANTS: tuple[Mutant, ...] = (
    _mutant(
        "P1",
        "a voter takes part in ballots older than the one that it has promised",
        ("core/acceptor.py", "    if number < standing.promised:\n", "    if False:\n"),
        seeds=(3, 13, 48),
    ),
)
