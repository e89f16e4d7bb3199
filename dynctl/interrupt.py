"""^C for verbs that have something to tell when they are interrupted."""

from __future__ import annotations

import signal
from typing import Any


class Interrupt:
    """^C: the first ends what is under way in good order, the second stops whatever is going on."""

    def __init__(self) -> None:
        self.has_come = False
        self.unfinished = 0
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_exc: object) -> None:
        # Once it has come only words are left to say, and one more would hide them.
        signal.signal(signal.SIGINT, signal.SIG_IGN if self.has_come else self._before)

    def _note(self, _number: int, _frame: object) -> None:
        self.has_come = True
        signal.signal(signal.SIGINT, self._stop)

    def _stop(self, _number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt
