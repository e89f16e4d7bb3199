"""The commit thread: the one thread besides the loop, and it runs no Python worth the name.

It takes a job (the engine's write, which releases the GIL for the fsync), runs it, and hands the
outcome back to the loop. Two threads that both run Python stall each other for milliseconds, so
everything else stays on the loop (design §2).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from dynagent.env import Transport

Job = Callable[[], None]
Done = Callable[[BaseException | None], None]


class ThreadWriter:
    """`env.Writer` by one thread; outcomes come back through the transport's turn."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        self._jobs.put((job, done))

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (task := self._jobs.get()) is not None:
            job, done = task
            error: BaseException | None = None
            try:
                job()
            except BaseException as exc:
                error = exc
            self._transport.call_soon(lambda done=done, error=error: done(error))  # type: ignore[misc]
