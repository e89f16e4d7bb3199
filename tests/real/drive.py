"""Many requests through real agents from one thread: connections in a closed loop.

Not the client of the product (that is `dynagent.client`): it neither routes nor retries, so that a
load or a check sees exactly what each agent answers.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence

from dynagent import limits
from dynagent.address import parse_address
from dynagent.core.messages import Hello, Message
from dynagent.wire.codec import encode_frame
from dynagent.wire.session import Session

Request = tuple[bytes, Message]  # a name for the caller, and what to send
OnReply = Callable[[bytes, Message, float], None]  # the name, the reply, seconds it took
SILENCE_S_MAX = 30.0


class Stream:
    """One connection with one request in flight."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.create_connection(parse_address(address))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hello = Hello(1, 1, 0, b"", "", b"", [], limits.DATA_FRAME_BYTES_MAX, 0)
        self._session = Session(hello, dialled=True)
        self.socket.sendall(self._session.hello())
        self._name = b""
        self._sent = 0.0

    def send(self, request: Request) -> None:
        self._name, message = request
        self._sent = time.perf_counter()
        self.socket.sendall(encode_frame(message, request_id=1, budget_ms=20_000))

    def receive(self, on_reply: OnReply) -> bool:
        """True if the reply has come (and has been handed over)."""
        data = self.socket.recv(limits.RECEIVE_BYTES)
        if not data:
            raise ConnectionError(f"{self.address} closed the connection")
        frames = self._session.receive(data)
        for frame in frames:
            assert frame.message is not None
            on_reply(self._name, frame.message, time.perf_counter() - self._sent)
        return bool(frames)


def drive(
    addresses: Sequence[str],
    requests: Iterator[Request],
    on_reply: OnReply,
    *,
    connections: int = 64,
) -> None:
    """Sends every request to some agent, one at a time per connection, until all are answered.

    Raises `ConnectionError` if an agent goes away and `TimeoutError` if one goes silent.
    """
    streams = [Stream(addresses[place % len(addresses)]) for place in range(connections)]
    selector = selectors.DefaultSelector()
    try:
        for stream in streams:
            if (request := next(requests, None)) is not None:
                stream.send(request)
                selector.register(stream.socket, selectors.EVENT_READ, stream)
        while selector.get_map():
            ready = selector.select(SILENCE_S_MAX)
            if not ready:
                raise TimeoutError(f"no agent answered for {SILENCE_S_MAX} s")
            for key, _mask in ready:
                stream = key.data
                if not stream.receive(on_reply):
                    continue
                if (request := next(requests, None)) is not None:
                    stream.send(request)
                else:
                    selector.unregister(stream.socket)
    finally:
        selector.close()
        for stream in streams:
            stream.socket.close()
