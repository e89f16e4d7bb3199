"""The connections of a load: non-blocking, reopened with growing pauses when they break.

    connecting ──▶ greeting (our Hello is out) ──▶ ready ──▶ closed ──(pause)──▶ connecting

An `Agent` is what a load knows of one agent: its connections, and how busy they are.
"""

from __future__ import annotations

import socket
from collections import deque

from dynagent import limits
from dynagent.address import parse_address
from dynagent.core.messages import ROLE_CLIENT, Hello, Message
from dynagent.errors import ConnectionLost, DynagentError, Unreachable
from dynagent.wire.codec import Frame
from dynagent.wire.registry import VERSION_MAX, VERSION_MIN
from dynagent.wire.session import Session
from dynctl.faults import LocalFailure

_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # before a connection is opened again

Request = tuple[bytes, Message]  # the key by which it is routed, and what to send


class Agent:
    """One agent: its connections, those with room, and what became of it."""

    __slots__ = ("address", "free", "in_flight", "losses", "ready")

    def __init__(self, address: str) -> None:
        self.address = address
        self.ready: deque[Wire] = deque()
        self.free: deque[Wire] = deque()  # a connection as often as it may take a request
        self.in_flight = 0
        self.losses = 0  # connections that broke after they had been ready

    def joins(self, wire: Wire, room: int) -> None:
        self.ready.append(wire)
        self.free.extend([wire] * room)

    def leaves(self, wire: Wire) -> None:
        self.losses += 1
        self.ready.remove(wire)
        self.free = deque(other for other in self.free if other is not wire)

    def take(self) -> Wire:
        """A connection with room; if none has any, the one whose turn it is."""
        if self.free:
            return self.free.popleft()
        self.ready.rotate(-1)
        return self.ready[0]


class Wire:
    """One connection. `pending`: number → (request, when it began, when it is given up)."""

    __slots__ = (
        *("agent", "cluster_id", "due_at", "failures", "is_open", "is_ready", "last_id"),
        *("output", "pending", "session", "socket", "watches_output"),
    )

    def __init__(self, agent: Agent, cluster_id: bytes) -> None:
        self.agent = agent
        self.cluster_id = cluster_id
        self.pending: dict[int, tuple[Request, float, float]] = {}
        self.output = bytearray()
        self.failures = 0  # in a row
        self.is_open = False
        self.is_ready = False
        self.watches_output = False
        self.last_id = 0
        self.due_at = 0.0  # closed: when to open again; not yet ready: when to give up

    def open(self, now: float) -> None:
        """Begins to connect; raises `Unreachable`, or `LocalFailure` if we have no sockets left."""
        host, port = parse_address(self.agent.address)
        try:
            family, kind, proto, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )[0]
        except OSError as exc:
            raise Unreachable(f"{self.agent.address}: {exc.strerror}") from exc
        try:
            self.socket = socket.socket(family, kind, proto)
        except OSError as exc:
            raise LocalFailure(
                f"cannot open so many connections: {exc.strerror}; try fewer --connections"
            ) from exc
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)  # its outcome shows at the first reading or writing
        hello = Hello(
            *(VERSION_MIN, VERSION_MAX, ROLE_CLIENT, self.cluster_id, "", b"", []),
            *(limits.DATA_FRAME_BYTES_MAX, 0),
        )
        self.session = Session(hello, dialled=True)
        self.output = bytearray(self.session.hello())
        self.is_open = True
        self.due_at = now + limits.CONNECT_S_MAX

    def close(self, now: float) -> list[tuple[Request, float, float]]:
        """Closes it and sets the time of the next try; returns what was pending."""
        if self.is_open:
            self.socket.close()
        if self.is_ready:
            self.agent.leaves(self)
        self.agent.in_flight -= len(self.pending)
        lost = list(self.pending.values())
        self.pending.clear()
        self.output.clear()
        self.is_open = self.is_ready = self.watches_output = False
        self.due_at = now + _PAUSES_S[min(self.failures, len(_PAUSES_S) - 1)]
        self.failures += 1
        return lost

    def flush(self) -> None:
        """Sends what fits; raises `ConnectionLost`."""
        try:
            sent = self.socket.send(self.output)
        except BlockingIOError:
            return
        except OSError as exc:
            raise self._lost(exc) from exc
        del self.output[:sent]

    def receive(self) -> list[Frame]:
        """The frames that have come; raises `ConnectionLost` or what the session raises."""
        try:
            data = self.socket.recv(limits.RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError as exc:
            raise self._lost(exc) from exc
        if not data:
            raise ConnectionLost(f"{self.agent.address}: closed by the agent")
        return self.session.receive(data)

    def _lost(self, exc: OSError) -> DynagentError:
        kind = ConnectionLost if self.is_ready else Unreachable
        return kind(f"{self.agent.address}: {exc.strerror or exc}")
