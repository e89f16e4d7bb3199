"""A connection's conversation, without the connection: the same object at both ends.

    side that dialled      Hello ──▶            requests may follow at once, in the same segment
    side that accepted           ◀── Hello      after it has checked the other's
    both                   frames …             until one end closes

`receive` takes bytes as they come and returns the frames after the Hello. What it raises ends the
connection; `farewell` is the frame that tells the other end why.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.messages import Error, Hello
from dynagent.errors import (
    DynagentError,
    ProtocolError,
    UnsupportedVersion,
    WrongCluster,
    from_wire,
)
from dynagent.wire.codec import Frame, decode_frame, encode_frame
from dynagent.wire.framing import FrameBuffer
from dynagent.wire.registry import VERSION_MAX, VERSION_MIN


class Session:
    """One end. `hello` is what we say; `remote` is what the other end said, once it has."""

    __slots__ = ("_buffer", "_dialled", "_hello", "_hello_due", "remote", "version")

    def __init__(self, hello: Hello, *, dialled: bool) -> None:
        self._hello = hello
        self._dialled = dialled
        self._hello_due = not dialled  # an accepted connection answers Hello with Hello
        self._buffer = FrameBuffer(limits.HELLO_FRAME_BYTES_MAX)
        self.remote: Hello | None = None
        self.version = 0

    def hello(self) -> bytes:
        """Our Hello as a frame: the first bytes of the dialling side."""
        return encode_frame(self._hello, request_id=0, budget_ms=0)

    def take_hello(self) -> bytes:
        """Our Hello if it is due now (once, after the other's has come); else nothing."""
        if not self._hello_due or self.remote is None:
            return b""
        self._hello_due = False
        return self.hello()

    def receive(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, without the Hello.

        Raises `ProtocolError` for malformed bytes, `UnsupportedVersion` and `WrongCluster` for a
        Hello that does not fit ours, and whatever error the other end gave instead of a Hello.
        """
        if self.remote is not None:
            return [decode_frame(body) for body in self._buffer.feed(data)]
        first = self._buffer.feed(data, most=1)
        if not first:
            return []
        self._greet(decode_frame(first[0]))
        self._buffer.bytes_max = limits.DATA_FRAME_BYTES_MAX
        return self.receive(b"")

    def _greet(self, frame: Frame) -> None:
        remote = frame.message
        if isinstance(remote, Error):
            raise from_wire(remote.error, remote.text)
        if not isinstance(remote, Hello):
            raise ProtocolError("the first frame is not a Hello")
        version = min(VERSION_MAX, remote.version_max)
        if version < max(VERSION_MIN, remote.version_min):
            raise UnsupportedVersion(
                f"this end speaks protocol versions {VERSION_MIN}..{VERSION_MAX}, the other "
                f"{remote.version_min}..{remote.version_max}; upgrade the older one"
            )
        ours, theirs = self._hello.cluster_id, remote.cluster_id
        if ours and theirs and ours != theirs:
            dialler, agent = (ours, theirs) if self._dialled else (theirs, ours)
            raise WrongCluster(f"asked for cluster {dialler.hex()}, met one of {agent.hex()}")
        self.version = version
        self.remote = remote


def farewell(error: DynagentError) -> bytes:
    """The last frame before we close: why."""
    code = error.code or ProtocolError.code
    return encode_frame(Error(code, error.message), request_id=0, budget_ms=0)
