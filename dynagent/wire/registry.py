"""The registry: what each field of each message may hold, and how large its frame may be.

The message classes of `core.messages` are the table; this module adds the bounds of their schema
names and turns both into encoders and checkers. `wire.reference` writes the protocol page from it.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from dynagent import limits
from dynagent.core.messages import (
    Ballot,
    Compare,
    ExportReply,
    Facts,
    Fence,
    GetReply,
    Gossip,
    Hello,
    InspectReply,
    Install,
    Invite,
    JobsReply,
    LeafKeys,
    ListReply,
    LogReply,
    Look,
    LookReply,
    Merge,
    Message,
    PingFor,
    Propose,
    Pull,
    PullReply,
    Put,
    Read,
    ReadReply,
    Register,
    RingReply,
    Sift,
    StatusReply,
    TransferRequest,
    Vote,
    catalogue,
)
from dynagent.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION_MIN = 1
VERSION_MAX = 1

HEADER_FIELDS = 4  # code, request id, budget ms, ext: before the message's own

_U64 = 2**64 - 1
_DATA = limits.DATA_FRAME_BYTES_MAX


class Schema:
    """What a field may hold: `kinds` of Python value; `high` bounds an integer or a length."""

    __slots__ = ("cddl", "doc", "high", "items", "kinds")

    def __init__(
        self,
        *kinds: type,
        high: int,
        cddl: str,
        doc: str,
        items: tuple[type, ...] | None = None,
    ) -> None:
        self.kinds = frozenset(kinds)
        self.high = high
        self.items = frozenset(items) if items is not None else None
        self.cddl = cddl
        self.doc = doc


_NONE = type(None)

# Sizes of keys, values and headers are checked by the coordinator, which answers with an error
# that names the limit; here only the frame bounds them, because a bad frame costs the connection.
SCHEMAS: dict[str, Schema] = {
    "Key": Schema(bytes, high=_DATA, cddl="bstr", doc="1 to 1,024 bytes"),
    "Value": Schema(bytes, _NONE, high=_DATA, cddl="bstr / null", doc="null: a delete"),
    "ContextBytes": Schema(bytes, high=_DATA, cddl="bstr", doc="opaque; empty: nothing seen"),
    "OpId": Schema(bytes, high=64, cddl="bstr", doc="16 bytes"),
    "Uint": Schema(int, high=_U64, cddl="uint", doc="0 to 2^64−1"),
    "Small": Schema(int, high=65_535, cddl="uint .size 2", doc="0 to 65,535"),
    "Flag": Schema(bool, high=1, cddl="bool", doc="true or false"),
    "Text": Schema(str, high=4_096, cddl="tstr", doc="at most 4,096 characters"),
    "Blob": Schema(bytes, high=_DATA, cddl="bstr", doc="bytes"),
    "Texts": Schema(list, high=64, items=(str,), cddl="[* tstr]", doc="at most 64"),
    "Meta": Schema(
        dict, high=64, items=(bytes,), cddl="{* bstr => bstr}", doc="small headers of a value"
    ),
    "Flat": Schema(
        list, high=65_536, items=(int,), cddl="[* uint]", doc="actor, counter, actor, counter, …"
    ),
    "RequestIds": Schema(
        list,
        high=limits.PACKED_MAX,
        items=(int,),
        cddl="[* uint]",
        doc="ids of further requests",
    ),
    "Keys": Schema(
        list, high=limits.PACKED_MAX, items=(bytes,), cddl="[* bstr]", doc="keys, as `key`"
    ),
    "Replies": Schema(
        list,
        high=limits.PACKED_MAX,
        items=(list,),
        cddl="[* [id: uint, state: uint, digest: bstr, clock: [* uint], dots: [* uint], "
        "entry: entry / null, ? op: uint]]",
        doc="request id and fields of further replies",
    ),
    "SiblingBytes": Schema(
        list, high=65_536, items=(bytes,), cddl="[* bstr .cbor sibling]", doc="encoded siblings"
    ),
    "Entries": Schema(
        list, high=4_096, items=(list,), cddl="[* entry]", doc="whole records; see Entries below"
    ),
    "Uints": Schema(list, high=65_536, items=(int,), cddl="[* uint]", doc="numbers"),
    "Nonces": Schema(
        list, high=limits.STARTS_KEPT, items=(bytes,), cddl="[* bstr .size 8]", doc="8 bytes each"
    ),
    "TombstoneRows": Schema(
        list,
        high=limits.TOMBSTONE_PAGE_ROWS,
        items=(list,),
        cddl="[* [key: bstr, digest: bstr, barrier: uint]]",
        doc="tombstones, each with its digest and a barrier",
    ),
    "Rows": Schema(
        list,
        high=4_096,
        items=(list,),
        cddl="[* [key: bstr, clock: [* uint], dots: [* uint]]]",
        doc="what an owner holds of each key, without the values",
    ),
    "Hashes": Schema(
        list, high=4_096, items=(bytes,), cddl="[* bstr]", doc="32 bytes each; empty: not known"
    ),
    "LeafRows": Schema(
        list,
        high=4_096,
        items=(list,),
        cddl="[* [key: bstr, digest: bstr]]",
        doc="keys and the digests of their records; empty: unreadable or unknown",
    ),
    "Looks": Schema(
        list,
        high=4_096,
        items=(list,),
        cddl="[* [? digest: bstr, clock: [* uint], dots: [* uint]]]",
        doc="copies; empty: unreadable or unknown",
    ),
    "FactBytes": Schema(
        list,
        high=limits.MEMBERS_MAX,
        items=(bytes,),
        cddl="[* bstr]",
        doc="sealed facts, see Facts",
    ),
    "Editions": Schema(
        list,
        high=limits.MEMBERS_MAX,
        items=(list,),
        cddl="[* [node: tstr, run: uint, version: uint]]",
        doc="which facts a node has",
    ),
    "NodeIds": Schema(list, high=limits.MEMBERS_MAX, items=(str,), cddl="[* tstr]", doc="node ids"),
    "LogEntries": Schema(
        list,
        high=limits.LOG_KEPT,
        items=(bytes,),
        cddl="[* bstr]",
        doc="entries of the ring log, see The ring and its log",
    ),
    "MaybeEntry": Schema(list, _NONE, high=64, cddl="entry / null", doc="a whole record"),
}

# Frames that carry user data or a ring; every other one is a control frame.
_LARGE: dict[type[Message], int] = {
    Put: _DATA,
    GetReply: _DATA,
    Merge: _DATA,
    ReadReply: _DATA,
    ListReply: _DATA,  # one row may be that large: a clock has no bound of its own
    InspectReply: _DATA,
    LookReply: _DATA,
    PullReply: _DATA,
    ExportReply: _DATA,
    JobsReply: limits.RING_BYTES_MAX,  # each job tells of each member
    RingReply: limits.RING_BYTES_MAX + limits.KIB,
    Install: limits.RING_BYTES_MAX + limits.KIB,
    Invite: limits.RING_BYTES_MAX + limits.KIB,
    StatusReply: limits.RING_BYTES_MAX,  # it tells of each member
    Propose: limits.ENTRY_BYTES_MAX + limits.KIB,
    Ballot: limits.ENTRY_BYTES_MAX + limits.KIB,
    Vote: limits.ENTRY_BYTES_MAX + limits.KIB,
    LogReply: max(limits.RING_BYTES_MAX, limits.ENTRY_BYTES_MAX) + limits.LOG_PAGE_BYTES,
    Hello: limits.HELLO_FRAME_BYTES_MAX,
}

PEER_ONLY: frozenset[type[Message]] = frozenset(
    {
        *(Ballot, Compare, Facts, Fence, Gossip, LeafKeys, LogReply, Look, Merge, PingFor),
        *(Pull, Read, Register, Sift, TransferRequest),
    }
)  # refused on links of clients


class Row:
    """One message: how to take it apart, check it and put it together again."""

    __slots__ = ("build", "bytes_max", "cls", "code", "parts", "rare", "required", "schemas")

    def __init__(self, cls: type[Message]) -> None:
        self.cls = cls
        self.code = cls.code
        self.bytes_max = _LARGE.get(cls, limits.CONTROL_FRAME_BYTES_MAX)
        self.schemas = [(name, SCHEMAS[schema]) for name, schema in _fields(cls)]
        self.required = len(cls.field_names) - len(cls.defaults)
        self.rare = list(cls.defaults)  # left out of the frame if all of them are as here
        self.parts = _taker(cls.field_names)
        self.build: Callable[[list[object]], Message] = self._build_first

    def _build_first(self, fields: list[object]) -> Message:
        """The first message of its kind: a command that meets three kinds compiles three."""
        self.build = _builder(self)
        return self.build(fields)

    def fit(self, fields: list[object]) -> list[object]:
        """Missing trailing fields take their defaults, unknown ones are skipped.

        Raises `ProtocolError` if one is missing that has no default.
        """
        given = len(fields) - HEADER_FIELDS
        if given < self.required:
            raise ProtocolError(f"{self.cls.__name__} has {given} fields, not {self.required}")
        fields = [*fields, *self.cls.defaults[given - self.required :]]
        return fields[: HEADER_FIELDS + len(self.schemas)]

    def check(self, place: int, value: object) -> None:
        """Raises `ProtocolError` if the value of that field is not of its schema."""
        name, schema = self.schemas[place]
        if type(value) not in schema.kinds:
            raise ProtocolError(f"{self.cls.__name__}.{name} is a {type(value).__name__}")
        if type(value) is int:
            if not 0 <= value <= schema.high:
                raise ProtocolError(f"{self.cls.__name__}.{name} is out of range")
        elif type(value) is not bool and value is not None:
            _check_size(self.cls, name, schema, value)


def _builder(row: Row) -> Callable[[list[object]], Message]:
    """From the fields of a frame, header included, to the message; raises `ProtocolError`.

    Written out for each message: the loop over its schemas cost 4 µs a put, a sixth of its frames.
    """
    lines = ["def build(fields):"]
    if row.rare:
        lines += [f"    if len(fields) == {HEADER_FIELDS + row.required}:"]
        lines += [f"        {line}" for line in _taking(row, row.required)]
    lines += [f"    if len(fields) != {HEADER_FIELDS + len(row.schemas)}:"]
    lines += ["        fields = fit(fields)"]
    lines += [f"    {line}" for line in _taking(row, len(row.schemas))]
    scope: dict[str, Any] = {"cls": row.cls, "fit": row.fit, "check": row.check}
    exec("\n".join(lines), scope)
    build: Callable[[list[object]], Message] = scope["build"]
    return build


def _taking(row: Row, count: int) -> list[str]:
    """Lines that make the message from a header and so many fields."""
    names = row.cls.field_names[:count]
    lines = [f"{', '.join([*['_'] * HEADER_FIELDS, *names])} = fields"]
    for place, (name, schema) in enumerate(row.schemas[:count]):
        lines.append(f"if not ({_is_surely_right(name, schema)}):")
        lines.append(f"    check({place}, {name})")
    return [*lines, f"return cls({', '.join(names)})"]


def _is_surely_right(name: str, schema: Schema) -> str:
    """An expression that is true only for values of the schema; `Row.check` looks at the rest."""
    if int in schema.kinds:
        return f"type({name}) is int and 0 <= {name} <= {schema.high}"
    if bool in schema.kinds:
        return f"type({name}) is bool"
    if bytes in schema.kinds and schema.high >= _DATA:  # the frame bounds it
        return f"type({name}) is bytes"
    if bytes in schema.kinds:
        return f"type({name}) is bytes and len({name}) <= {schema.high}"
    if _NONE in schema.kinds:
        return f"{name} is None"
    return f"not {name} and type({name}) in ({', '.join(kind.__name__ for kind in schema.kinds)},)"


def _check_size(cls: type[Message], name: str, schema: Schema, value: object) -> None:
    if len(value) > schema.high:  # type: ignore[arg-type]
        raise ProtocolError(f"{cls.__name__}.{name} is over its bound of {schema.high:,}")
    if schema.items is None:
        return
    items = [*value, *value.values()] if isinstance(value, dict) else value
    for item in items:  # type: ignore[attr-defined]
        if type(item) not in schema.items:
            raise ProtocolError(f"{cls.__name__}.{name} holds a {type(item).__name__}")


def _fields(cls: type[Message]) -> list[tuple[str, str]]:
    return list(zip(cls.field_names, cls.schema_names, strict=True))


def _taker(names: tuple[str, ...]) -> Callable[[Message], tuple[object, ...]]:
    if not names:
        return lambda _message: ()
    if len(names) == 1:
        only = attrgetter(names[0])
        return lambda message: (only(message),)
    return attrgetter(*names)


REGISTRY: dict[int, Row] = {cls.code: Row(cls) for cls in catalogue()}
