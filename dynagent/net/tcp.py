"""TCP: one task serves all connections of an agent over a nested selector.

A trio task per connection costs 31 µs a request at 64 connections; one task that waits for a
selector's own descriptor and then takes every ready socket costs 11 (measured). So this class is a
small event loop of its own inside one trio task: recv what is ready, hand it out, end the turn,
send what was written, one send per connection. It goes back to trio when nothing comes any more, or
when trio's other tasks have waited for some milliseconds.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections import deque
from collections.abc import Callable

import trio

from dynagent import limits
from dynagent.address import format_address, parse_address
from dynagent.env import Accept, Handler
from dynagent.errors import StartError, Unreachable

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
# Trio's other tasks (the timer, signals, HTTP) have their go this often at least, by a turn and
# _LINGER_S; and after a turn the next bytes are waited for so long in this selector, because the
# way through trio costs 40 µs: without it, a twentieth of a put, a third of a lone request.
_HOLD_S = 0.005
_LINGER_S = 0.001
_ACCEPTS_MAX = 64  # connections taken in one turn
_ACCEPT_PAUSE_S = 0.1  # when descriptors or memory have run out


class TcpConnection:
    """One socket, its handler, and the bytes that wait to be sent."""

    __slots__ = (
        *("_closing", "_is_paused", "_out", "_socket", "_transport"),
        *("handler", "mask", "remote", "unsent"),
    )

    handler: Handler

    def __init__(self, transport: TcpTransport, sock: socket.socket, remote: str) -> None:
        self._transport = transport
        self._socket = sock
        self._out: list[bytes] = []
        self.unsent = 0
        self.mask = _READ  # what the selector is to tell of it
        self._closing = ""
        self._is_paused = False
        self.remote = remote

    def write(self, data: bytes) -> None:
        if self._closing:
            return
        size = len(data)
        transport = self._transport
        self._out.append(data)
        self.unsent += size
        transport.unsent += size
        transport.touched[self] = None
        if self.unsent > limits.OUTBOX_BYTES_MAX:
            self.give_up()
        elif transport.unsent > limits.OUTBOXES_BYTES_MAX:
            transport.make_room()

    def give_up(self) -> None:
        """Closes at the end of the turn, without what has been written."""
        self._out.clear()
        self._transport.unsent -= self.unsent
        self.unsent = 0
        self._closing = "the other end reads too slowly"
        self._transport.touched[self] = None

    def pause(self, *, is_paused: bool) -> None:
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            self._watch()

    def close(self, reason: str) -> None:
        if not self._closing:
            self._closing = reason
            self._transport.touched[self] = None

    def on_ready(self, mask: int) -> None:
        if mask & _WRITE:
            self._transport.touched[self] = None
        if mask & _READ and not self._closing:
            buffer = self._transport.buffer
            try:
                size = self._socket.recv_into(buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self.drop(exc.strerror or str(exc))
                return
            if size:
                self.handler.on_bytes(bytes(buffer[:size]))
            else:
                self.drop("closed by the other end")

    def flush(self) -> None:
        """Sends what the socket takes; registers for more, or closes, if that is due."""
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as exc:
                self.drop(exc.strerror or str(exc))
                return
            self.unsent -= sent
            self._transport.unsent -= sent
            self._out = [data[sent:]] if self.unsent else []
        if self._closing and not self._out:
            self.drop(self._closing)
        else:
            self._watch()

    def _watch(self) -> None:
        """Asks for readiness to write only while there is something left to send."""
        mask = (0 if self._is_paused else _READ) | (_WRITE if self._out else 0)
        if mask != self.mask:
            self._transport.watch(self._socket, self, mask)

    def drop(self, reason: str) -> None:
        """Closes now, whatever waits to be sent."""
        if self._transport.release(self._socket, self):
            self._closing = reason
            self._out.clear()
            self.unsent = 0
            self._socket.close()
            self.handler.on_closed(reason)


class TcpTransport:
    """The real network of one agent."""

    def __init__(self) -> None:
        self.touched: dict[TcpConnection, None] = {}  # written to in this turn, in that order
        # One for all: recv would allocate 64 KiB a time, and give most of it back.
        self.buffer = memoryview(bytearray(limits.RECEIVE_BYTES))
        self._selector = selectors.DefaultSelector()
        self._connections: dict[TcpConnection, None] = {}
        self.unsent = 0  # bytes in all outboxes
        self._listeners: list[tuple[socket.socket, Accept]] = []
        self._paused: list[tuple[socket.socket, Accept]] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_in, _READ, None)

    # --- addresses -------------------------------------------------------------------------------

    async def listen(self, address: str, accept: Accept) -> str:
        host, port = parse_address(address)
        try:
            infos = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, kind, proto, _, place = infos[0]
            listener = socket.socket(family, kind, proto)
        except OSError as exc:
            raise StartError(f"cannot listen on {address}: {exc.strerror or exc}") from exc
        try:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(1024)
        except OSError as exc:
            listener.close()
            hint = "; another process has it" if exc.errno == errno.EADDRINUSE else ""
            raise StartError(f"cannot listen on {address}: {exc.strerror or exc}{hint}") from exc
        self._listeners.append((listener, accept))
        self._selector.register(listener, _READ, accept)
        return format_address(*listener.getsockname()[:2])

    async def dial(self, address: str, accept: Accept) -> TcpConnection:
        host, port = parse_address(address)
        try:
            with trio.fail_after(limits.CONNECT_S_MAX):
                sock = await _connect(host, port)
        except (OSError, UnicodeError, trio.TooSlowError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc) or "no answer in time"
            raise Unreachable(f"{address}: {reason}") from exc
        return self._adopt(sock, format_address(host, port), accept)

    def stop_listening(self) -> None:
        for listener, _accept in self._listeners:
            if self.forget(listener):
                listener.close()
        self._listeners.clear()
        self._paused.clear()

    # --- turns -----------------------------------------------------------------------------------

    async def run(self, on_turn_end: Callable[[], None]) -> None:
        try:
            while True:
                if self._paused:
                    with trio.move_on_after(_ACCEPT_PAUSE_S):
                        await trio.lowlevel.wait_readable(self._selector.fileno())
                    self._resume_accepting()
                else:
                    await trio.lowlevel.wait_readable(self._selector.fileno())
                until = trio.current_time() + _HOLD_S
                while self._turn(on_turn_end) and trio.current_time() < until:
                    pass
        finally:
            self._close()

    def _turn(self, on_turn_end: Callable[[], None]) -> bool:
        """Everything that is ready now, or soon; False if nothing was."""
        ready = self._selector.select(_LINGER_S)
        if not ready:
            return False
        for key, mask in ready:
            if isinstance(key.data, TcpConnection):
                key.data.on_ready(mask)
            elif key.data is None:
                self._run_soon()
            else:
                self._accept(key.fileobj, key.data)  # type: ignore[arg-type]
        on_turn_end()
        while self.touched:
            touched, self.touched = self.touched, {}
            for connection in touched:
                connection.flush()
        return True

    def call_soon(self, job: Callable[[], None]) -> None:
        self._soon.append(job)
        try:
            self._wake_out.send(b"\0")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups already

    def request_turn(self) -> None:
        self.call_soon(_nothing)

    def _run_soon(self) -> None:
        self._wake_in.recv(4096)
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    # --- sockets ---------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket, accept: Accept) -> None:
        for _ in range(_ACCEPTS_MAX):
            try:
                sock, place = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors or memory: present connections go on
                if self.forget(listener):
                    self._paused.append((listener, accept))
                return
            self._adopt(sock, format_address(*place[:2]), accept)

    def _resume_accepting(self) -> None:
        for listener, accept in self._paused:
            self._selector.register(listener, _READ, accept)
        self._paused.clear()

    def _adopt(self, sock: socket.socket, remote: str, accept: Accept) -> TcpConnection:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = TcpConnection(self, sock, remote)
        connection.handler = accept(connection)
        self._connections[connection] = None
        self._selector.register(sock, _READ, connection)
        if self.touched:
            self.request_turn()  # a dialled connection has its Hello to send
        return connection

    def watch(self, sock: socket.socket, connection: TcpConnection, mask: int) -> None:
        """What the selector is to tell of it from now on; 0: nothing."""
        was, connection.mask = connection.mask, mask
        if not mask:
            self._selector.unregister(sock)
        elif was:
            self._selector.modify(sock, mask, connection)
        else:
            self._selector.register(sock, mask, connection)

    def release(self, sock: socket.socket, connection: TcpConnection) -> bool:
        """It is closed; False if that is known already."""
        if connection not in self._connections:
            return False
        del self._connections[connection]
        if connection.mask:
            self._selector.unregister(sock)
        self.unsent -= connection.unsent
        return True

    def make_room(self) -> None:
        """All outboxes together are too large: who reads the least is given up."""
        max(self._connections, key=lambda connection: connection.unsent).give_up()

    def forget(self, listener: socket.socket) -> bool:
        """No more events of this one; False if it is forgotten already."""
        try:
            self._selector.unregister(listener)
        except (KeyError, ValueError):
            return False
        return True

    def _close(self) -> None:
        for connection in list(self._connections):
            connection.flush()
            connection.drop("the agent stops")
        self.stop_listening()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()


async def _connect(host: str, port: int) -> socket.socket:
    """A connected socket, by whichever of the name's addresses answers first in their order."""
    infos = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for place, info in enumerate(infos):
        try:
            return await _connect_to(info[0], info[1], info[2], info[4])
        except OSError:
            if place == len(infos) - 1:
                raise
    raise OSError(errno.EADDRNOTAVAIL, f"{host} has no address")


async def _connect_to(family: int, kind: int, proto: int, place: object) -> socket.socket:
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(place)  # type: ignore[arg-type]
        if code == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def _nothing() -> None:
    pass
