"""One non-blocking connection of the bulk client: it carries a lane, and is made again after a
pause whenever it is lost."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections import deque

from dynagent import limits
from dynagent.address import parse_address
from dynagent.client.lane import Lane, Request
from dynagent.client.pipeline import Pipeline
from dynagent.client.requests import new_session
from dynagent.core.messages import Error
from dynagent.errors import ConnectionLost, DynagentError, Unreachable, WrongCluster
from dynagent.wire.session import Session

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_IN_PROGRESS = (0, errno.EINPROGRESS)


class Link:
    """The connection of one lane. It reports to the pipeline what becomes of it and what comes."""

    __slots__ = (
        *("_candidates", "_cluster_id", "_dial_ends", "_dial_s_max", "_is_open", "_mask"),
        *("_pause_s", "_pipeline", "_retry_at", "_selector", "_session", "_socket", "_unsent"),
        "lane",
    )

    _session: Session

    def __init__(
        self,
        lane: Lane[Request],
        pipeline: Pipeline,
        selector: selectors.BaseSelector,
        *,
        cluster_id: bytes,
        dial_s_max: float,
    ) -> None:
        self.lane = lane
        self._pipeline = pipeline
        self._selector = selector
        self._cluster_id = cluster_id
        self._dial_s_max = dial_s_max  # for the way from the first packet to its Hello
        self._dial_ends = 0.0
        self._retry_at = 0.0
        self._pause_s = limits.RECONNECT_S_MIN
        # (family, place) still to be tried: a name may have several.
        self._candidates: deque[tuple[int, tuple[object, ...]]] = deque()
        self._socket: socket.socket | None = None
        self._is_open = False  # connected; the lane is up once its Hello has come
        self._mask = 0  # what the selector watches it for
        self._unsent: memoryview | None = None

    def tick(self, now: float) -> None:
        """Dials when that is due, and gives up a dial that takes too long."""
        if self._socket is None:
            if now >= self._retry_at:
                self._dial(now)
        elif not self.lane.is_up and now >= self._dial_ends:
            self.drop(now, "no answer in time")

    def on_ready(self, now: float, mask: int) -> None:
        """The selector has something for it."""
        if not self._is_open:
            self._on_connected(now)
        elif mask & _WRITE:
            self.flush(now)
        if mask & _READ and self._is_open:
            self._receive(now)

    def flush(self, now: float) -> None:
        """Sends what the lane has, as far as the socket takes it."""
        lane = self.lane
        if self._socket is None or not lane.is_up:
            return
        try:
            while self._unsent or lane.frames:
                if not self._unsent:
                    frames, lane.frames = lane.frames, []
                    self._unsent = memoryview(b"".join(frames))
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            self.drop(now, exc.strerror or str(exc))
            return
        self._watch(_READ | _WRITE if self._unsent else _READ)

    def drop(self, now: float, reason: str | DynagentError) -> None:
        """Closes it; its requests go elsewhere, and it is dialled again after a pause."""
        was_up = self.lane.is_up
        if isinstance(reason, str):
            kind = ConnectionLost if was_up else Unreachable
            reason = kind(f"{self.lane.address}: {reason}")
        self.close()
        if was_up:
            self._pause_s = limits.RECONNECT_S_MIN
        self._retry_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, limits.RECONNECT_S_MAX)
        self._pipeline.on_lost(now, self.lane, reason)

    def close(self) -> None:
        self._watch(0)
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._is_open = False
        self._unsent = None

    # --- from dial to Hello ----------------------------------------------------------------------

    def _dial(self, now: float) -> None:
        self._dial_ends = now + self._dial_s_max
        host, port = parse_address(self.lane.address)
        try:
            # It may wait for a name server; names are looked up when an agent is lost, not before.
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            self.drop(now, getattr(exc, "strerror", None) or str(exc))
            return
        self._candidates = deque((family, place) for family, _, _, _, place in found)
        self._connect(now, "it has no address")

    def _connect(self, now: float, reason: str) -> None:
        """Tries the next of its addresses; `reason`: why the one before failed."""
        while self._candidates:
            family, place = self._candidates.popleft()
            self._socket = socket.socket(family, socket.SOCK_STREAM)
            self._socket.setblocking(False)
            code = self._socket.connect_ex(place)
            if code in _IN_PROGRESS:
                self._watch(_WRITE)
                return
            reason = os.strerror(code)
            self.close()
        self.drop(now, reason)

    def _on_connected(self, now: float) -> None:
        assert self._socket is not None
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.close()
            self._connect(now, os.strerror(code))
            return
        self._is_open = True
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._session = new_session(self._cluster_id, wall_ms=time.time_ns() // 1_000_000)
        self._watch(_READ)
        try:
            self._socket.send(self._session.hello())  # the first bytes: there is room for them
        except OSError as exc:
            self.drop(now, exc.strerror or str(exc))

    # --- frames ----------------------------------------------------------------------------------

    def _receive(self, now: float) -> None:
        lane = self.lane
        assert self._socket is not None
        try:
            data = self._socket.recv(limits.RECEIVE_BYTES)
            frames = self._session.receive(data)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self.drop(now, exc.strerror or str(exc))
            return
        except DynagentError as exc:
            wrong = isinstance(exc, WrongCluster)
            told = exc.message if lane.is_up else f"it is no agent: {exc.message}"
            self.drop(now, exc if wrong else told)
            return
        if not data:
            self.drop(now, "closed by the agent")
            return
        lane.heard_at = now
        if not lane.is_up and self._session.remote is not None:
            self._pause_s = limits.RECONNECT_S_MIN
            self._pipeline.on_up(now, lane)
        on_reply = self._pipeline.on_reply
        for frame in frames:
            if frame.request_id == 0 and isinstance(frame.message, Error):
                self.drop(now, frame.message.text)  # a farewell
                return
            on_reply(now, lane, frame.request_id, frame.message)

    def _watch(self, mask: int) -> None:
        if mask == self._mask:
            return
        assert self._socket is not None
        if not self._mask:
            self._selector.register(self._socket, mask, self)
        elif not mask:
            self._selector.unregister(self._socket)
        else:
            self._selector.modify(self._socket, mask, self)
        self._mask = mask
