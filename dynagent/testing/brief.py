"""One line for each message, as the trace shows it.

Dots and clocks appear as `ab12c:3` (the first five digits of the actor, the counter), siblings as
`v17@ab12c:3` (written by operation 17).
"""

from __future__ import annotations

from dynagent.core.entry import decode_entry, encode_clock, unflatten
from dynagent.core.messages import (
    STATE_ABSENT,
    STATE_UNREADABLE,
    Error,
    Facts,
    FactsReply,
    Get,
    GetReply,
    GossipReply,
    Merge,
    Message,
    Put,
    PutReply,
    Read,
    ReadReply,
)
from dynagent.core.siblings import Dot
from dynagent.core.version import Version
from dynagent.errors import BY_CODE
from dynagent.testing.history import decode_value
from dynagent.testing.ledger import name_dot

_MODES = ("context", "overwrite", "blind")
_OPS = ("", " op unknown", " op present", " op superseded", " op forgotten")


def brief(message: Message) -> str:
    match message:
        case Get():
            repair = " repair" if message.repair else ""
            return f"Get {_shown(message.key)} r={message.r}{repair}"
        case GetReply():
            return f"GetReply {_siblings(message.siblings)} answered={message.answered}"
        case Put():
            what = "Delete" if message.value is None else "Put"
            return (
                f"{what} {_shown(message.key)} op={int.from_bytes(message.op_id, 'big')}"
                f".{message.attempt} {_MODES[message.mode]} w={message.w}"
            )
        case PutReply():
            dot = message.dot
            at = (int.from_bytes(dot[:8], "big"), int.from_bytes(dot[8:], "big"))
            return f"PutReply {name_dot(at) if dot else '-'} siblings={message.siblings}"
        case Merge():
            return "Merge " + " ".join(_entry(entry) for entry in message.entries)
        case Read():
            return f"Read {_shown(message.key)} {('digest', 'value')[message.want]}"
        case ReadReply():
            return f"ReadReply {_state(message)}{_OPS[message.op]}"
        case GossipReply():
            return f"GossipReply {message.differ:016b} {_editions(message.editions)}".rstrip()
        case Facts() | FactsReply():
            wanted = [node[:2] for node in message.wanted] if isinstance(message, Facts) else []
            facts = f"{len(message.facts)} facts"
            return (
                f"{type(message).__name__} {facts}{' wanted ' if wanted else ''}{' '.join(wanted)}"
            )
        case Error():
            return f"Error {BY_CODE[message.error].__name__}: {message.text}"
    return type(message).__name__


def _state(reply: ReadReply) -> str:
    if reply.state == STATE_ABSENT:
        return "absent"
    if reply.state == STATE_UNREADABLE:
        return "unreadable"
    if reply.entry is not None:
        return _entry(reply.entry)
    return f"{_clock(reply.clock)} [{_clock(reply.dots)[1:-1]}]"


def _entry(entry: list[object]) -> str:
    key, record = decode_entry(entry)
    value = record.value
    datas = [sibling.data for sibling in value.siblings]
    return f"{_shown(key)} {_clock(encode_clock(value.clock))} {_siblings(datas)}"


def _clock(numbers: object) -> str:
    dots: list[Dot] = unflatten(numbers)
    return "{" + " ".join(name_dot(dot) for dot in dots) + "}"


def _editions(rows: list[list[object]]) -> str:
    return " ".join(f"{str(node)[:2]}@{run}.{version}" for node, run, version in rows)


def _siblings(datas: list[bytes]) -> str:
    versions = [Version(data) for data in datas]
    names = (
        f"v{decode_value(version.value)}@{name_dot((version.actor, version.counter))}"
        for version in versions
    )
    return "[" + " ".join(names) + "]"


def _shown(key: bytes) -> str:
    """Hostile clients ask for keys that are no text."""
    return key.decode(errors="backslashreplace")
