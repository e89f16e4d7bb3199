"""The trace of one request: which node answered what, and when. Kept only where it was asked for.

    [[µs, node, what], …]      CBOR, in the order in which it happened

`µs` counts from the moment at which the writer of the trace took the request; `node` is the name
of the one that did it or said it; `what` is words for people, which may change. What comes after
the answer (stragglers) is not in it. Where a request was passed on, the events of the other agent
follow the one with which it was asked and count from that moment, as if the way took no time.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.messages import (
    OP_FORGOTTEN,
    OP_NOT_ASKED,
    OP_PRESENT,
    OP_SUPERSEDED,
    OP_UNKNOWN,
    STATE_ABSENT,
    STATE_UNREADABLE,
    WANT_VALUE,
    Error,
    GetReply,
    Message,
    PutReply,
    ReadReply,
)
from dynagent.errors import BY_CODE, DynagentError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynagent.core.siblings import Siblings

Event = tuple[int, str, str]  # µs since the start, node, what

_EVENT_BYTES = 16  # of one event, beside its words
_US_MAX = 2 * 1_000 * limits.BUDGET_MS_MAX


class Trace:
    """Events, added as they happen; `limits.TRACE_BYTES_MAX` bounds them."""

    __slots__ = ("_bytes", "_start", "events")

    def __init__(self, now: float) -> None:
        self._start = now
        self._bytes = 0
        self.events: list[Event] = []

    def add(self, now: float, node: str, what: str) -> None:
        self._append((round((now - self._start) * 1_000_000), node, what))

    def add_next(self, node: str, what: str) -> None:
        """What follows from the latest event, in the same moment."""
        self._append((self._latest_us, node, what))

    def include(self, data: bytes) -> None:
        """The events of the agent that was asked with our latest one, encoded; raises
        `ProtocolError` if they are malformed."""
        asked_us = self._latest_us
        for at_us, node, what in decode_trace(data):
            self._append((asked_us + at_us, node, what))

    def encode(self) -> bytes:
        return encode(self.events)

    @property
    def _latest_us(self) -> int:
        return self.events[-1][0] if self.events else 0

    def _append(self, event: Event) -> None:
        if self._bytes > limits.TRACE_BYTES_MAX:
            return
        self._bytes += _EVENT_BYTES + len(event[1].encode()) + len(event[2].encode())
        if self._bytes > limits.TRACE_BYTES_MAX:
            event = (event[0], event[1], "did more than a trace can hold")
        self.events.append(event)


def decode_trace(data: bytes) -> list[Event]:
    """The events; none of empty `data`. Raises `ProtocolError` if it is no trace."""
    if not data:
        return []
    if len(data) > 2 * limits.TRACE_BYTES_MAX:
        raise ProtocolError(f"a trace of {len(data):,} bytes")
    listed = decode(data)
    if type(listed) is not list:
        raise ProtocolError("a trace that is no list")
    events: list[Event] = []
    for event in listed:
        if type(event) is not list or [type(part) for part in event[:3]] != [int, str, str]:
            raise ProtocolError("a trace with a malformed event")
        if not 0 <= event[0] <= _US_MAX:
            raise ProtocolError("a trace with an event at an impossible time")
        events.append((event[0], event[1], event[2]))
    return events


# --- words ---------------------------------------------------------------------------------------

_WANTED = {True: "the record", False: "a digest"}
_OP_WORDS = {
    OP_NOT_ASKED: "",
    OP_UNKNOWN: "; does not know this write",
    OP_PRESENT: "; holds this write",
    OP_SUPERSEDED: "; held this write, which is superseded",
    OP_FORGOTTEN: "; does not know this write, but has forgotten older ones",
}
_PAIRS_SHOWN = 3  # of a clock


def clock_words(pairs: list[int]) -> str:
    """`clock 00000000000000a1:3`: actor and counter, as dynctl shows dots."""
    shown = [
        f"{actor:016x}:{counter}"
        for actor, counter in zip(pairs[: 2 * _PAIRS_SHOWN : 2], pairs[1::2], strict=False)
    ]
    more = len(pairs) // 2 - len(shown)
    return f"clock {' '.join(shown)}{f' and {more} more' if more > 0 else ''}"


def copy_words(value: Siblings, *, unreadable: bool) -> str:
    """Our own copy."""
    if unreadable:
        return "cannot read its own copy"
    if not value.clock:
        return "has nothing"
    pairs = [number for pair in sorted(value.clock.items()) for number in pair]
    return f"has {values_words(len(value.siblings))}, {clock_words(pairs)}"


def request_words(targets: str, want: int, *, op_id: bytes) -> str:
    asked = f"asks {targets} for {_WANTED[want == WANT_VALUE]}"
    return f"{asked}, and whether this write is known" if op_id else asked


def reply_words(message: Message, *, is_same: bool = False) -> str:
    """What a peer said. `is_same`: its digest is that of a copy in hand."""
    if isinstance(message, Error):
        return f"refuses: {error_name(message)}: {message.text}"
    if not isinstance(message, ReadReply):
        return f"answers with a {type(message).__name__}, which makes no sense"
    op = _OP_WORDS.get(message.op, "")
    if message.state == STATE_UNREADABLE:
        return f"cannot read its copy{op}"
    if message.state == STATE_ABSENT:
        return f"has nothing{op}"
    if message.entry is not None:
        return f"sends the record, {clock_words(message.clock)}{op}"
    if is_same:
        return f"has the same{op}"
    return f"has {values_words(len(message.dots) // 2)}, {clock_words(message.clock)}{op}"


def merge_words(targets: str, *, has_news: bool) -> str:
    """To whom our own copy goes; without news it is a delete that met nothing."""
    if not has_news:
        return "has nothing to delete"
    if not targets:
        return "sends its copy to nobody: no other owner is up"
    return f"sends its copy to {targets}"


def outcome_words(message: Message) -> str:
    """What the client is answered."""
    if isinstance(message, GetReply):
        values = values_words(len(message.siblings))
        owners = "1 owner" if message.answered == 1 else f"{message.answered} owners"
        return f"answers: {values}, from the copies of {owners}"
    if isinstance(message, PutReply):
        return f"answers: done; the key has {values_words(message.siblings)}"
    assert isinstance(message, Error)
    return f"answers: {error_name(message)}"


def error_name(error: Error) -> str:
    return BY_CODE.get(error.error, DynagentError).__name__


def values_words(number: int) -> str:
    return "no value" if not number else "1 value" if number == 1 else f"{number} values"
