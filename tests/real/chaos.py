"""A TCP proxy between agents for the faults that the kernel here cannot make.

    delay      each way, with jitter; the bytes of one direction keep their order
    gray       frames that carry data vanish, while control frames (Hello, Ping, Pong, …) pass: the
               peer looks well and does nothing
    deaf       one end of each connection is closed without the other's notice: its bytes go nowhere
    reset      both ends get a reset, in the middle of whatever they say

One thread serves all connections of a proxy. `ProxiedCluster` puts one in front of every agent:
agents know each other by the proxies' addresses (`--advertise`); `cluster.addresses` are the
agents' own, so a client that does not learn the ring sees the agents as they are.
"""

from __future__ import annotations

import heapq
import random
import selectors
import socket
import struct
import threading
import time
from collections import deque
from pathlib import Path

from dynagent import limits
from dynagent.errors import ProtocolError
from dynagent.wire.codec import decode_frame
from dynagent.wire.framing import FrameBuffer
from tests.real.cluster import RealAgent, RealCluster, free_ports

DATA_CODES = range(10, 30)  # requests of clients and between owners, and their replies
_TICK_S = 0.02
_HEADER = limits.FRAME_HEADER_BYTES


class _End:
    """One socket of a pair, what waits to be sent on it, and what has come in as frames."""

    def __init__(self, sock: socket.socket, *, is_target: bool) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.is_target = is_target
        self.other: _End | None = None  # None: nobody is behind it any more
        self.output = bytearray()
        self.frames = FrameBuffer(limits.DATA_FRAME_BYTES_MAX)
        self.due = 0.0  # when its last bytes are handed on: later ones never overtake them
        self.is_open = True


class Proxy:
    """Listens on `address` and passes everything on to `target`. Faults are set at any time, from
    any thread: `delay_s`, `jitter_s`, `is_gray`."""

    def __init__(self, address: str, target: str) -> None:
        self.address = address
        self.target = target
        self.delay_s = 0.0
        self.jitter_s = 0.0
        self.is_gray = False
        self.swallowed = 0  # frames
        self._dice = random.Random(address)
        self._selector = selectors.DefaultSelector()
        self._ends: dict[_End, None] = {}
        self._waiting: list[tuple[float, int, _End, bytes]] = []  # a heap: due, number, to, what
        self._number = 0
        self._orders: deque[str] = deque()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._listener = socket.create_server(_place(address), backlog=128)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, None)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._done.set()
        self._thread.join()

    def deafen(self) -> None:
        """The target's ends of all connections are closed; those who dialled are not told."""
        self._orders.append("deafen")

    def reset(self) -> None:
        """All connections end with a reset at both ends."""
        self._orders.append("reset")

    # --- the thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._done.is_set():
            wait_s = self._waiting[0][0] - time.monotonic() if self._waiting else _TICK_S
            for key, mask in self._selector.select(max(0.0, min(wait_s, _TICK_S))):
                if key.data is None:
                    self._accept()
                elif key.data.is_open:
                    self._on_ready(key.data, mask)
            while self._orders:
                self._obey(self._orders.popleft())
            self._hand_on(time.monotonic())
        for end in list(self._ends):
            self._close(end)
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            dialler = _End(self._listener.accept()[0], is_target=False)
        except OSError:
            return
        try:
            reached = socket.create_connection(_place(self.target), timeout=1.0)
        except OSError:
            dialler.sock.close()  # as if nobody listened
            return
        target = _End(reached, is_target=True)
        dialler.other, target.other = target, dialler
        for end in (dialler, target):
            self._ends[end] = None
            self._selector.register(end.sock, selectors.EVENT_READ, end)

    def _on_ready(self, end: _End, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush(end)
        if not mask & selectors.EVENT_READ or not end.is_open:
            return
        try:
            data = end.sock.recv(limits.RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if end.other is None:
            if not data:
                self._close(end)
            return  # nobody hears it
        if not data:
            self._queue(end, end.other, b"")
        elif kept := self._filter(end, data):
            self._queue(end, end.other, kept)

    def _filter(self, end: _End, data: bytes) -> bytes:
        """Whole frames only, so that the way may turn gray between any two."""
        kept = bytearray()
        for body in end.frames.feed(data):
            if self.is_gray and _is_data(body):
                self.swallowed += 1
            else:
                kept += len(body).to_bytes(_HEADER, "big") + body
        return bytes(kept)

    def _queue(self, source: _End, target: _End, data: bytes) -> None:
        """Empty: the source has closed its end."""
        due = time.monotonic() + self.delay_s + self._dice.uniform(0, self.jitter_s)
        source.due = max(source.due, due)
        self._number += 1
        heapq.heappush(self._waiting, (source.due, self._number, target, data))

    def _hand_on(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            _, _, target, data = heapq.heappop(self._waiting)
            if not target.is_open:
                continue
            if data:
                target.output += data
                self._flush(target)
            else:
                self._close(target)

    def _flush(self, end: _End) -> None:
        try:
            sent = end.sock.send(end.output) if end.output else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(end)
            return
        del end.output[:sent]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if end.output else 0)
        self._selector.modify(end.sock, events, end)

    def _close(self, end: _End) -> None:
        """This end, and the other one if it still has somebody behind it."""
        if not end.is_open:
            return
        end.is_open = False
        del self._ends[end]
        self._selector.unregister(end.sock)
        end.sock.close()
        if end.other is not None:
            self._close(end.other)

    def _obey(self, order: str) -> None:
        targets = [end for end in self._ends if end.is_target and end.other is not None]
        for end in targets:
            dialler = end.other
            assert dialler is not None
            if order == "reset":
                # Lingering for no time: close sends a reset, and drops what waits.
                for one in (end, dialler):
                    at_once = struct.pack("ii", 1, 0)
                    one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            else:
                dialler.other = end.other = None
            self._close(end)


def _is_data(body: bytes) -> bool:
    try:
        return decode_frame(body).code in DATA_CODES
    except ProtocolError:
        return False


def _place(address: str) -> tuple[str, int]:
    host, port = address.rsplit(":", 1)
    return host, int(port)


class ProxiedCluster(RealCluster):
    """Agents that reach each other through `proxies`, which are in the order of the agents."""

    def __init__(self, directory: Path, count: int, *flags: str, partitions: int = 64) -> None:
        ports = free_ports(2 * count)
        self.proxies = [
            Proxy(f"127.0.0.1:{outer}", f"127.0.0.1:{inner}")
            for outer, inner in zip(ports[:count], ports[count:], strict=True)
        ]
        agents = [
            RealAgent(
                directory / f"n{place + 1}",
                f"n{place + 1}",
                ports[count + place],
                *("--advertise", proxy.address, *flags),
            )
            for place, proxy in enumerate(self.proxies)
        ]
        super().__init__(directory, count, partitions=partitions, agents=agents)

    def __enter__(self) -> ProxiedCluster:
        for proxy in self.proxies:
            proxy.__enter__()
        try:
            super().__enter__()
        except BaseException:
            self._stop_proxies()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            super().__exit__()
        finally:
            self._stop_proxies()

    def _stop_proxies(self) -> None:
        for proxy in self.proxies:
            proxy.__exit__()
