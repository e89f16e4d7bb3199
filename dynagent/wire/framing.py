"""Cutting a byte stream into frames: 4 bytes of length, big-endian, then as many bytes."""

from __future__ import annotations

from dynagent import limits
from dynagent.errors import ProtocolError

_HEADER = limits.FRAME_HEADER_BYTES


class FrameBuffer:
    """Bytes in, whole frame bodies out. Holds at most one incomplete frame."""

    __slots__ = ("_rest", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max  # of a frame; raised once the other end has said Hello
        self._rest = bytearray()

    def feed(self, data: bytes, *, most: int | None = None) -> list[bytes]:
        """The frames that `data` completes, at most `most` (what is left waits for the next call).

        Raises `ProtocolError` at a length over the bound.
        """
        whole: bytes | bytearray = data
        if self._rest:
            self._rest += data
            whole = self._rest
        frames: list[bytes] = []
        start, end = 0, len(whole)
        while end - start >= _HEADER and (most is None or len(frames) < most):
            size = int.from_bytes(whole[start : start + _HEADER], "big")
            if size > self.bytes_max:
                raise ProtocolError(
                    f"not a frame of this protocol, or too large: {size:,} bytes announced, "
                    f"{self.bytes_max:,} allowed here"
                )
            if end - start < _HEADER + size:
                break
            frames.append(bytes(whole[start + _HEADER : start + _HEADER + size]))
            start += _HEADER + size
        if whole is self._rest:
            del self._rest[:start]
        elif start < end:
            self._rest += data[start:]
        return frames
