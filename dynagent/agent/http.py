"""The agent's HTTP endpoint: /metrics, /healthz and /readyz for scrapers and probes, nothing else.

It reads, and what it reads it reads when asked. It must never harm the agent, so everything about a
connection is bounded (`limits.HTTP_…`): how many there are, the size of a request head, the time
until it is there, the time an answer may take. At the bound the connection that has idled longest
makes room, so clients that are slow on purpose keep nobody out. An exception costs one connection.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from http import HTTPStatus

import h11
import trio

from dynagent import limits
from dynagent.address import DEFAULT_HTTP_PORT, format_address, parse_address
from dynagent.core.inspect import status_fields
from dynagent.core.node import Node
from dynagent.core.readiness import unready_reason
from dynagent.errors import StartError
from dynagent.obs.exposition import CONTENT_TYPE, own_metrics

_RECEIVE_BYTES = 4_096
_ACCEPT_PAUSE_S = 0.1  # when descriptors have run out
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_METHODS = (b"GET", b"HEAD")

_INDEX = b"""dynagent: a node of a dynctl cluster
/metrics  Prometheus text
/healthz  200 while the event loop runs
/readyz   200 if this node should get requests, else 503 and why
"""

Answer = tuple[int, str, bytes]  # status, content type, body


class _BadHead(Exception):
    """A request that is answered with `status` and costs its connection."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.answer: Answer = (status, _TEXT, f"{why}\n".encode())


class HttpServer:
    """Serves one node's state. `await listen(…)`, then `await serve()` until cancelled."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._metrics = own_metrics(lambda: status_fields(node))
        self._listeners: list[trio.SocketListener] = []
        self._open = 0
        self._waiting: dict[_Conversation, None] = {}  # for their client; longest first
        self._pages: dict[bytes, Callable[[], Answer]] = {
            b"/": lambda: (200, _TEXT, _INDEX),
            b"/metrics": lambda: (200, CONTENT_TYPE, self._metrics()),
            b"/healthz": lambda: (200, _TEXT, b"ok\n"),
            b"/readyz": self._readyz,
        }

    async def listen(self, address: str) -> str:
        """Takes the address; returns it with the real port. Raises `StartError`."""
        host, port = parse_address(address, default_port=DEFAULT_HTTP_PORT)
        try:
            self._listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise StartError(
                f"cannot serve HTTP on {address}: {reason}; choose another address with --http"
            ) from exc
        return format_address(*self._listeners[0].socket.getsockname()[:2])

    async def serve(self) -> None:
        """Until cancelled. If it fails it is gone, and the agent goes on."""
        try:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, nursery)
        except Exception:
            logging.getLogger("dynagent").exception("http.failed")
        finally:
            for listener in self._listeners:
                listener.socket.close()

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError:  # out of descriptors or memory: the agent goes on
                await trio.sleep(_ACCEPT_PAUSE_S)
                continue
            if self._open >= limits.HTTP_CONNECTIONS_MAX and not self._make_room():
                await trio.aclose_forcefully(stream)
                continue
            self._open += 1
            conversation = _Conversation(stream, self._page, self._waiting)
            nursery.start_soon(self._converse, conversation)

    def _make_room(self) -> bool:
        if not self._waiting:
            return False
        longest = next(iter(self._waiting))
        del self._waiting[longest]
        longest.scope.cancel()
        return True

    async def _converse(self, conversation: _Conversation) -> None:
        try:
            with conversation.scope:
                await conversation.run()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone
        except Exception:  # our own bug: it costs this connection, not the agent
            logging.getLogger("dynagent").exception("http.crashed")
        finally:
            self._open -= 1
            self._waiting.pop(conversation, None)
            await trio.aclose_forcefully(conversation.stream)

    # --- pages -----------------------------------------------------------------------------------

    def _page(self, request: h11.Request) -> Answer:
        page = self._pages.get(request.target.partition(b"?")[0])
        if page is None:
            return 404, _TEXT, b"no such page; see /\n"
        try:
            return page()
        except Exception:
            logging.getLogger("dynagent").exception("http.crashed")
            return 500, _TEXT, b"internal error; see the agent's log\n"

    def _readyz(self) -> Answer:
        reason = unready_reason(self._node)
        body = {"ready": False, "reason": reason} if reason else {"ready": True}
        return 503 if reason else 200, _JSON, json.dumps(body).encode() + b"\n"


class _Conversation:
    """One connection: requests one after the other, each within its time."""

    def __init__(
        self,
        stream: trio.SocketStream,
        page: Callable[[h11.Request], Answer],
        waiting: dict[_Conversation, None],
    ) -> None:
        self.stream = stream
        self.scope = trio.CancelScope()
        self._page = page
        self._http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=limits.HTTP_HEAD_BYTES_MAX
        )
        self._wants_body = True  # not after HEAD
        self._waiting = waiting
        waiting[self] = None

    async def run(self) -> None:
        while True:
            self._waiting[self] = None
            try:
                request = await self._next_request()
            except _BadHead as bad:
                await self._refuse(bad.answer)
                return
            if request is None:
                return
            self._waiting.pop(self, None)
            if not await self._send(self._page(request), keep=True):
                return
            if self._http.our_state is not h11.DONE:
                return  # the client wants no more
            self._http.start_next_cycle()

    async def _next_request(self) -> h11.Request | None:
        """A whole and sound request; None if the client has gone or takes too long."""
        request: h11.Request | None = None
        self._wants_body = True
        with trio.move_on_after(limits.HTTP_IDLE_S_MAX):
            while True:
                try:
                    event = self._http.next_event()
                except h11.RemoteProtocolError as exc:
                    raise self._malformed(exc) from exc
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self.stream.receive_some(_RECEIVE_BYTES))
                elif isinstance(event, h11.Request):
                    request = event
                    self._wants_body = event.method != b"HEAD"
                    _check(event)
                elif isinstance(event, h11.EndOfMessage):
                    return request
                else:
                    return None
        return None

    def _malformed(self, exc: h11.RemoteProtocolError) -> _BadHead:
        status = exc.error_status_hint
        if status == 431 and b"\n" not in self._http.trailing_data[0]:
            status = 414  # not even the first line has ended
        return _BadHead(status, str(exc))

    async def _refuse(self, answer: Answer) -> None:
        """The answer, and then the rest of what the client sends: closed over unread bytes, the
        connection would be reset, and the answer lost. It may make room for others meanwhile."""
        if not await self._send(answer, keep=False):
            return
        with trio.move_on_after(limits.HTTP_LINGER_S_MAX):
            await self.stream.send_eof()
            left = limits.HTTP_LINGER_BYTES_MAX
            while left > 0 and (data := await self.stream.receive_some(_RECEIVE_BYTES)):
                left -= len(data)

    async def _send(self, answer: Answer, *, keep: bool) -> bool:
        """False if the client did not take it in time."""
        status, kind, body = answer
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        headers.append(("Cache-Control", "no-store"))
        if status == 405:
            headers.append(("Allow", "GET, HEAD"))
        if not keep:
            headers.append(("Connection", "close"))
        phrase = HTTPStatus(status).phrase
        parts: list[h11.Event] = [
            h11.Response(status_code=status, headers=headers, reason=phrase.encode()),
            h11.Data(body if self._wants_body else b""),
            h11.EndOfMessage(),
        ]
        data = b"".join(self._http.send(part) or b"" for part in parts)
        with trio.move_on_after(limits.HTTP_SEND_S_MAX):
            await self.stream.send_all(data)
            return True
        return False


def _check(request: h11.Request) -> None:
    """Raises `_BadHead` for what h11 lets pass and we do not."""
    headers = request.headers.raw_items()
    if not request.http_version.startswith(b"1."):
        raise _BadHead(505, "only versions 1.0 and 1.1 of HTTP")
    if len(request.target) > limits.HTTP_TARGET_BYTES_MAX:
        raise _BadHead(414, f"the target is over {limits.HTTP_TARGET_BYTES_MAX} bytes")
    if sum(len(name) + len(value) + 4 for name, value in headers) > limits.HTTP_HEAD_BYTES_MAX:
        raise _BadHead(431, f"the head is over {limits.HTTP_HEAD_BYTES_MAX} bytes")
    if request.method not in _METHODS:
        raise _BadHead(405, "only GET and HEAD")
    lengths = dict(request.headers)
    if lengths.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in lengths:
        raise _BadHead(400, "a request takes no body here")
