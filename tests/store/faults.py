"""SQLite connections that fail at the Nth operation, through the store's `connect` seam."""

import sqlite3
from collections.abc import Iterable
from typing import Any


class Faults:
    """Counts operations from `arm` on and makes one of them fail, before or after it is done."""

    def __init__(self) -> None:
        self.connections: list[sqlite3.Connection] = []
        self.done = 0
        self._fail_at = 0
        self._after = False

    def arm(self, fail_at: int, *, after: bool) -> None:
        self.done, self._fail_at, self._after = 0, fail_at, after

    @property
    def struck(self) -> bool:
        return 0 < self._fail_at <= self.done

    def begin(self) -> None:
        self.done += 1
        if self.done == self._fail_at and not self._after:
            raise sqlite3.OperationalError("disk I/O error (injected)")

    def end(self) -> None:
        if self.done == self._fail_at and self._after:
            raise sqlite3.OperationalError("disk I/O error (injected)")

    def connect(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        faults = self

        class FaultyConnection(sqlite3.Connection):
            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                faults.begin()
                cursor = super().execute(sql, parameters)
                faults.end()
                return cursor

            def executemany(self, sql: str, rows: Iterable[Any], /) -> sqlite3.Cursor:
                faults.begin()
                cursor = super().executemany(sql, rows)
                faults.end()
                return cursor

        connection = sqlite3.connect(*args, factory=FaultyConnection, **kwargs)
        self.connections.append(connection)
        return connection
