"""A sibling as clients read it; apart from `entry` because `dynctl get` needs only this."""

from __future__ import annotations

from dynagent.core.encoding import decode
from dynagent.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Version:
    """A sibling in full, as clients see it: `data` decoded; `ProtocolError` if it is none."""

    __slots__ = ("actor", "content", "counter", "expiry_ms", "meta", "op_id", "value", "wall_ms")

    def __init__(self, data: bytes) -> None:
        fields = sibling_fields(data)
        self.actor: int = fields[0]
        self.counter: int = fields[1]
        self.wall_ms: int = fields[2]  # of its coordinator, for information only
        self.content: int = fields[4]  # type of the value, free for applications
        self.expiry_ms: int = fields[5]
        self.op_id: bytes = fields[6]
        self.meta: dict[bytes, bytes] = fields[7]
        self.value: bytes = fields[8]


_SIBLING_TYPES = [int, int, int, int, int, int, bytes, dict, bytes]


def sibling_fields(data: object) -> list[Any]:
    """`[actor, counter, wall ms, flags, type, expiry ms, op-id, meta, value]`, checked."""
    fields = decode(data) if type(data) is bytes else None
    if type(fields) is not list or list(map(type, fields[:9])) != _SIBLING_TYPES:
        raise ProtocolError("not an encoded sibling")
    if fields[0] <= 0 or fields[1] <= 0:
        raise ProtocolError("a sibling without a dot")
    return fields
