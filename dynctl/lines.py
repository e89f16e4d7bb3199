"""Lines of stdin as they come, without ever waiting: what the bulk verbs read.

Memory holds one chunk and the unfinished line, whatever comes. Stdin stays as it is: making it
non-blocking would do so for the shell and everybody else who has the same terminal open.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

from dynagent import limits
from dynctl.faults import LocalFailure

# A value as text may be written \\u0000, six signs a byte; beside it stand key and context.
LINE_BYTES_MAX = 6 * (limits.VALUE_BYTES_HARD_MAX + limits.KEY_BYTES_MAX) + limits.MIB

STDIN = 0


class Lines:
    """Iterate over it for (number from 1, line without its end). A line is None if it was longer
    than `LINE_BYTES_MAX`; instead of a pair None comes where there is nothing to read yet."""

    def __init__(self) -> None:
        self.bytes_read = 0
        try:
            os.fstat(STDIN)  # closed: the next thing to be opened would be taken for stdin
        except OSError as exc:
            raise LocalFailure(f"stdin: {exc.strerror}") from exc
        self._poll = select.poll()
        self._poll.register(STDIN, select.POLLIN)

    def __iter__(self) -> Iterator[tuple[int, bytes | None] | None]:
        number = 0
        rest: list[bytes] = []  # of the unfinished line
        rest_bytes = 0
        while True:
            if not self._poll.poll(0):
                yield None
                continue
            chunk = self._read()
            first, *others = chunk.split(b"\n")
            rest_bytes += len(first)
            if rest_bytes <= LINE_BYTES_MAX:
                rest.append(first)
            else:
                rest.clear()
            if chunk and not others:
                continue
            if others or rest_bytes:  # at the end there may be a last line without its end
                number += 1
                yield number, b"".join(rest) if rest_bytes <= LINE_BYTES_MAX else None
            if not chunk:
                return
            last = others.pop()
            for line in others:
                number += 1
                yield number, line
            rest, rest_bytes = [last], len(last)

    def _read(self) -> bytes:
        try:
            chunk = os.read(STDIN, limits.RECEIVE_BYTES)
        except OSError as exc:
            raise LocalFailure(f"stdin: {exc.strerror}") from exc
        self.bytes_read += len(chunk)
        return chunk
