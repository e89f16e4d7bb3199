"""Reading around damage: every record of a range that the engine can still read, and the gaps.

An engine that meets a damaged page or block ends the scan there (`CorruptRecord`), although what
lies behind it may be whole; and what lies just before it may be lost with the rows that it reads at
once. So the range is halved until it can be read, up to the damage; then places behind that are
tried, each twice as far away, until one can be read: the **gap** ends there or before, and is cut
short by halving again. After it ranges grow again. A gap costs some 80 small scans, however much
there is; it may hold any number of keys, or none.

Nothing here says what a record means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from dynagent.core.ports import Token
from dynagent.errors import CorruptRecord

TOKEN_BYTES = 16
FIRST = Token(bytes(TOKEN_BYTES))
LAST = Token(b"\xff" * TOKEN_BYTES)
_GAP_WIDTH = 2**100  # holds one of 2^28 keys: less than that is not halved any more

Row = tuple[Token, bytes, bytes]
Scan = Callable[[Token, Token], Iterator[Row]]


class Gap(NamedTuple):
    """A range of tokens in which nothing can be read."""

    first: Token
    last: Token
    reason: str


def salvage(scan: Scan, first: Token = FIRST, last: Token = LAST) -> Iterator[Row | Gap]:
    """What `scan` (a `Reader`'s) has from `first` to `last`, in order, with gaps where it fails."""
    at, end = int.from_bytes(first, "big"), int.from_bytes(last, "big")
    width = end - at + 1
    after = b""
    while at <= end:
        up_to = min(at + width - 1, end)
        try:
            for row in scan(_token(at), _token(up_to)):
                if row[0] + row[1] > after:
                    yield row
                    at, after = int.from_bytes(row[0], "big"), row[0] + row[1]
            at = up_to + 1
            width *= 2
        except CorruptRecord as exc:
            width = (up_to - at + 1) // 2
            if width < _GAP_WIDTH:
                behind = _first_readable(scan, at, end)
                yield Gap(_token(at), _token(behind - 1), exc.message)
                at, width = behind, _GAP_WIDTH


def _first_readable(scan: Scan, bad: int, end: int) -> int:
    """A place behind `bad` that can be read, at most so much too far as a gap may be too wide; one
    behind `end` if there is none."""
    step = _GAP_WIDTH
    while not _is_readable(scan, good := bad + step, end):
        step *= 2
    low = bad if step == _GAP_WIDTH else bad + step // 2
    while good - low > _GAP_WIDTH:
        middle = (low + good) // 2
        if _is_readable(scan, middle, end):
            good = middle
        else:
            low = middle
    return min(good, end + 1)


def _is_readable(scan: Scan, at: int, end: int) -> bool:
    if at > end:
        return True
    try:
        for _row in scan(_token(at), _token(min(at + _GAP_WIDTH, end))):
            pass
    except CorruptRecord:
        return False
    return True


def _token(number: int) -> Token:
    return Token(number.to_bytes(TOKEN_BYTES, "big"))
