"""Connections that others dialled to us: bytes in, requests to the node, answers out."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dynagent import limits
from dynagent.core.messages import ROLE_PEER, Error, Get, Hello, Merge, Put, Read
from dynagent.core.node import Node
from dynagent.core.ports import LinkId, Token
from dynagent.core.ring import token_of
from dynagent.env import Connection
from dynagent.errors import BadRequest, DynagentError, Overloaded
from dynagent.obs.log import log
from dynagent.wire.codec import Frame, encode_frame
from dynagent.wire.registry import PEER_ONLY, VERSION_MAX, VERSION_MIN
from dynagent.wire.session import Session, farewell

BUDGET_MS_DEFAULT = 5_000  # for a request that names none

_KEYED = (Get, Put, Read)  # a tuple: to make the union Get | Put | Read costs 0.3 µs each time

ReadAhead = Callable[[list[tuple[Token, bytes]]], None]  # `Store.read_ahead`


class Links:
    """All accepted connections, by the id under which the node answers them."""

    def __init__(
        self,
        node: Node,
        hello: Callable[[], Hello],
        monotonic: Callable[[], float],
        read_ahead: ReadAhead,
    ) -> None:
        self.node = node
        self.monotonic = monotonic
        self.inbox: list[tuple[AcceptedLink, Frame]] = []  # requests of this turn
        self._read_ahead = read_ahead
        self.by_id: dict[LinkId, AcceptedLink] = {}
        self.greeting: dict[LinkId, AcceptedLink] = {}  # those that have not said Hello yet
        self._hello = hello
        self._last_id = 0

    def accept(self, connection: Connection) -> AcceptedLink:
        self._last_id += 1
        link = AcceptedLink(
            self, LinkId(self._last_id), connection, Session(self._hello(), dialled=False)
        )
        self.by_id[link.id] = link
        self.greeting[link.id] = link
        if len(self.by_id) > limits.CONNECTIONS_MAX:
            link.end(Overloaded(f"{limits.CONNECTIONS_MAX} connections are open"))
        return link

    def dispatch(self) -> None:
        """Hands the requests of a turn to the node; their records are read in one go."""
        inbox, self.inbox = self.inbox, []
        if not inbox:
            return
        is_at_hand = self.node.replica.is_at_hand
        missing = [key for key in _keys(inbox) if not is_at_hand(key)]
        if missing:
            self._read_ahead([(token_of(key), key) for key in missing])
        now = self.monotonic()
        for link, frame in inbox:
            link.dispatch(now, frame)
        if missing:
            self._read_ahead([])

    def write(self, link: LinkId, frame: bytes) -> None:
        """Queues a frame; dropped if the link is gone."""
        accepted = self.by_id.get(link)
        if accepted is not None:
            accepted.connection.write(frame)

    def drop_silent(self, now: float) -> None:
        """Closes connections that have not said Hello in time."""
        for link in list(self.greeting.values()):
            if now - link.opened > limits.HELLO_S_MAX:
                link.connection.close("no Hello in time")


class AcceptedLink:
    """One of them (`env.Handler`)."""

    __slots__ = ("_links", "_session", "connection", "id", "opened")

    def __init__(
        self, links: Links, link_id: LinkId, connection: Connection, session: Session
    ) -> None:
        self._links = links
        self._session = session
        self.id = link_id
        self.connection = connection
        self.opened = links.monotonic()

    def on_bytes(self, data: bytes) -> None:
        try:
            frames = self._session.receive(data)
            if hello := self._session.take_hello():
                self._links.greeting.pop(self.id, None)
                self.connection.write(hello)
        except DynagentError as error:
            self.end(error)
            return
        inbox = self._links.inbox
        inbox += [(self, frame) for frame in frames]
        if len(inbox) >= limits.INBOX_REQUESTS_MAX:
            self._links.dispatch()

    def dispatch(self, now: float, frame: Frame) -> None:
        """One request; raises nothing."""
        message, links, remote = frame.message, self._links, self._session.remote
        assert remote is not None
        try:
            if message is None:
                self._refuse(
                    frame,
                    f"unknown message {frame.code}; this agent speaks protocol versions "
                    f"{VERSION_MIN}..{VERSION_MAX}",
                )
            elif remote.role != ROLE_PEER and type(message) in PEER_ONLY:
                self._refuse(frame, f"{type(message).__name__} is for peers only")
            else:
                budget_ms = frame.budget_ms or BUDGET_MS_DEFAULT
                links.node.on_message(now, self.id, frame.request_id, budget_ms, message)
        except Exception:  # our own bug: it costs this connection, not the agent
            logging.getLogger("dynagent").exception("link.crashed")
            self.end(DynagentError("internal error; see the agent's log"))

    def _refuse(self, frame: Frame, why: str) -> None:
        error = Error(BadRequest.code, why)
        self.connection.write(encode_frame(error, request_id=frame.request_id, budget_ms=0))

    def end(self, error: DynagentError) -> None:
        """Tells the other end why, and closes."""
        log(logging.WARNING, "link.refused", remote=self.connection.remote, reason=error.message)
        self.connection.write(farewell(error))
        self.connection.close(error.message)

    def on_closed(self, reason: str) -> None:
        self._links.by_id.pop(self.id, None)
        self._links.greeting.pop(self.id, None)


def _keys(inbox: list[tuple[AcceptedLink, Frame]]) -> list[bytes]:
    """Of the records that these requests read first; what is malformed is left to the node."""
    keys: list[bytes] = []
    for _, frame in inbox:
        message = frame.message
        if isinstance(message, Merge):
            keys += [entry[0] for entry in message.entries if entry and type(entry[0]) is bytes]
        elif isinstance(message, _KEYED):
            keys.append(message.key)
            if type(message) is Read:
                keys += message.keys
    return keys
