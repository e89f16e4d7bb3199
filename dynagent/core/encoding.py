"""The one door through which bytes from the wire or the disk become Python values.

cbor2 runs hardened: shallow, no indefinite lengths, no duplicate or integer map keys, no tags, no
trailing bytes (decision 0001 has the measurements: with default options one 900 kB frame burns
30 s of CPU). What comes back is only int, float, bytes, str, bool, None, list and dict, or one of
CBOR's nameless simple values, which no schema accepts; the caller checks the shape.
"""

from __future__ import annotations

from dynagent.core.cbor import CBORDecodeError, dumps, loads
from dynagent.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Never


class _NoTags(dict):  # type: ignore[type-arg]
    """A decoder table that refuses every tag before its content is decoded."""

    def __getitem__(self, tag: int) -> Never:
        raise ValueError(f"CBOR tag {tag} refused")


_NO_TAGS = _NoTags()

# cbor2 ignores what follows an item. So each is decoded as the first of a pair, whose second is a
# number that differs from process to process (string hashes are salted): it is at that place only
# if the item ends where it must. (To ask a decoder for its position costs a third of a frame.)
_DEPTH_MAX = 16
_PAIR = b"\x82"
_END = hash("the end of an item")
_ENCODED_END = dumps(_END)


def encode(value: object) -> bytes:
    """CBOR of plain values."""
    return dumps(value)


def decode(data: bytes) -> object:
    """The one CBOR item in `data`, whole; raises `ProtocolError` for anything else."""
    try:
        # `loads` makes a fresh decoder for each frame: a reused one has leaked values between
        # messages (GHSA-wcj4-jw5j-44wh). Its options are written out, here and in `_fault`: as
        # `**options` they cost a quarter of the decoding of a small frame.
        value, end = loads(
            b"".join((_PAIR, data, _ENCODED_END)),
            max_depth=_DEPTH_MAX + 1,  # the pair
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            semantic_decoders=_NO_TAGS,
        )
    except (CBORDecodeError, ValueError, RecursionError) as exc:
        raise _fault(data) from exc
    if end != _END:
        raise _fault(data)
    return value


def _fault(data: bytes) -> ProtocolError:
    """What is wrong with it, without the number behind it: a piece that ends too early would have
    swallowed some of that, and its error would be another in each process."""
    try:
        loads(
            data,
            max_depth=_DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            semantic_decoders=_NO_TAGS,
        )
    except (CBORDecodeError, ValueError, RecursionError) as exc:
        return ProtocolError(f"not valid CBOR: {exc}")
    return ProtocolError("bytes after the end of a CBOR item")
