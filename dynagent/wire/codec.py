"""Frames: `[code, request id, budget ms, ext, fields…]` in CBOR, after a length of 4 bytes.

`ext` is null or [trace id, class, principal, sender wall ms]. The size is checked against the bound
of the message's code before anything is decoded.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.cbor import dumps
from dynagent.core.encoding import decode
from dynagent.core.messages import Message, ReadReply
from dynagent.errors import ProtocolError, TooLarge
from dynagent.wire.registry import HEADER_FIELDS, REGISTRY

Ext = list[object] | None


class Frame:
    """A decoded frame. `message` is None for a code that this version does not know."""

    __slots__ = ("budget_ms", "code", "ext", "message", "request_id")

    def __init__(
        self, code: int, request_id: int, budget_ms: int, ext: Ext, message: Message | None
    ) -> None:
        self.code = code
        self.request_id = request_id
        self.budget_ms = budget_ms
        self.ext = ext
        self.message = message


def encode_frame(message: Message, *, request_id: int, budget_ms: int, ext: Ext = None) -> bytes:
    """Header and body, ready to be sent; raises `TooLarge` over the bound of this message."""
    row = REGISTRY[type(message).code]
    fields = [row.code, request_id, budget_ms, ext, *row.parts(message)]
    short = HEADER_FIELDS + row.required
    if fields[short:] == row.rare:  # what hardly ever is said costs nothing
        del fields[short:]
    body = dumps(fields)
    if len(body) > row.bytes_max:
        raise TooLarge(
            f"a {row.cls.__name__} of {len(body):,} bytes; the limit is {row.bytes_max:,}"
        )
    return len(body).to_bytes(limits.FRAME_HEADER_BYTES, "big") + body


def decode_frame(body: bytes) -> Frame:
    """A frame without its length; raises `ProtocolError` if it is malformed or over its bound."""
    if len(body) > limits.CONTROL_FRAME_BYTES_MAX:
        _check_size(_peek_code(body), body)  # before anything of it is decoded
    fields = decode(body)
    if type(fields) is not list or len(fields) < HEADER_FIELDS:
        raise ProtocolError("a frame that is not an array of at least 4")
    code, request_id, budget_ms, ext = fields[:HEADER_FIELDS]
    if type(code) is not int:
        raise ProtocolError("a frame that does not start with a message code")
    if type(request_id) is not int or not 0 <= request_id < 2**63:
        raise ProtocolError("a frame with a malformed request id")
    if type(budget_ms) is not int or not 0 <= budget_ms <= limits.BUDGET_MS_MAX:
        raise ProtocolError(f"a frame with a budget over {limits.BUDGET_MS_MAX} ms")
    if ext is not None and type(ext) is not list:
        raise ProtocolError("a frame with a malformed ext")
    row = REGISTRY.get(code)
    if row is None:
        return Frame(code, request_id, budget_ms, ext, None)
    if len(body) > row.bytes_max:
        _check_size(code, body)
    return Frame(code, request_id, budget_ms, ext, row.build(fields))


def unpack(reply: ReadReply) -> list[tuple[int, Message]]:
    """The further replies of a frame, each with its request id.

    Raises `ProtocolError` for what would be malformed in a frame of its own.
    """
    build = REGISTRY[ReadReply.code].build
    replies: list[tuple[int, Message]] = []
    for row in reply.also:
        request_id = row[0] if row else None
        if type(request_id) is not int or not 0 <= request_id < 2**63:
            raise ProtocolError("a packed reply with a malformed request id")
        replies.append((request_id, build([ReadReply.code, request_id, 0, None, *row[1:]])))
    return replies


def _check_size(code: int, body: bytes) -> None:
    row = REGISTRY.get(code)
    bytes_max = row.bytes_max if row is not None else limits.CONTROL_FRAME_BYTES_MAX
    if len(body) > bytes_max:
        name = row.cls.__name__ if row is not None else f"message {code}"
        raise ProtocolError(f"a {name} of {len(body):,} bytes; the limit is {bytes_max:,}")


def _peek_code(body: bytes) -> int:
    """The code, read from the first bytes: an array header, then a small unsigned integer."""
    head = body[:4]
    if len(head) >= 2 and 0x84 <= head[0] <= 0x97:
        place = 1
    elif len(head) >= 3 and head[0] == 0x98:
        place = 2
    else:
        raise ProtocolError("a frame that does not start with an array")
    if head[place] < 24:
        return head[place]
    if head[place] == 0x18 and len(head) > place + 1:
        return head[place + 1]
    raise ProtocolError("a frame that does not start with a message code")
