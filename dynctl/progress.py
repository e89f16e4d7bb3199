"""How far a long command is, on a terminal's stderr; silent everywhere else."""

from __future__ import annotations

import os
import stat
import time
from typing import Any

_REFRESH_S = 0.1


class Progress:
    """`with Progress("mput") as progress: progress.show(records, bytes_read)`, as often as one
    likes: it draws ten times a second. Where stdin is a file there is a bar over its bytes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None
        self._task: Any = None
        self._next = 0.0

    def __enter__(self) -> Progress:
        # Records on the same terminal are progress enough, and a bar would run through them.
        if _is_terminal(2) and not _is_terminal(1) and os.environ.get("TERM") != "dumb":
            self._begin()
        return self

    def _begin(self) -> None:
        from rich import progress
        from rich.console import Console

        size = _stdin_bytes()
        columns: list[Any] = [progress.TextColumn("{task.description} {task.fields[records]:,}")]
        if size:
            columns += [progress.BarColumn(), progress.TaskProgressColumn()]
        columns += [progress.TextColumn("{task.fields[rate]:,.0f}/s"), progress.TimeElapsedColumn()]
        console = Console(stderr=True, highlight=False)
        self._bar = progress.Progress(
            *columns, console=console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._task = self._bar.add_task(self._name, total=size or None, records=0, rate=0.0)
        self._bar.start()

    def show(self, records: int, bytes_read: int) -> None:
        if self._bar is None:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _REFRESH_S
        elapsed = self._bar.tasks[0].elapsed or 0
        rate = records / elapsed if elapsed else 0.0
        self._bar.update(self._task, completed=bytes_read, records=records, rate=rate)
        self._bar.refresh()

    def __exit__(self, *_exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _stdin_bytes() -> int:
    """The size of the file that stdin is; 0 if it is none."""
    try:
        found = os.fstat(0)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
