"""Connections that others dialled to us: bytes in, requests to the node, answers out.

No client costs the others more than its share. One that sends faster than it is served, or does not
read its answers, is not read any further until it is (`_room`): what it has sent waits in this
process up to one reading, and for the rest in its own socket. Peers are always read.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from dynagent import limits
from dynagent.core.messages import ROLE_PEER, Error, Get, Hello, Merge, Put, Read
from dynagent.core.node import Node
from dynagent.core.ports import LinkId
from dynagent.env import Connection
from dynagent.errors import BadRequest, DynagentError, Overloaded, WrongCluster
from dynagent.obs.log import log
from dynagent.wire.codec import Frame, encode_frame
from dynagent.wire.registry import PEER_ONLY, VERSION_MAX, VERSION_MIN
from dynagent.wire.session import Session, farewell

BUDGET_MS_DEFAULT = 5_000  # for a request that names none

_BY_CLIENTS = (Get, Put)
_KEYED = (Get, Put, Read)  # a tuple: to make the union Get | Put | Read costs 0.3 µs each time


class Links:
    """All accepted connections, by the id under which the node answers them."""

    def __init__(
        self,
        node: Node,
        hello: Callable[[], Hello],
        monotonic: Callable[[], float],
    ) -> None:
        self.node = node
        self.monotonic = monotonic
        self.inbox: list[tuple[AcceptedLink, Frame]] = []  # requests of this turn
        self.held: dict[AcceptedLink, None] = {}  # not read until what they have sent is taken
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

    def end_turn(self) -> bool:
        """Hands the rest of a turn's requests to the node; True if another turn is due at once."""
        for link in list(self.held):
            link.take()
        while self.inbox:
            self.dispatch()
        return any(link.has_room for link in self.held)

    def dispatch(self) -> None:
        """Hands requests of a turn to the node; their records are read in one go."""
        inbox, self.inbox = self.inbox, []
        if not inbox:
            return
        if len(inbox) > limits.INBOX_REQUESTS_MAX:
            self.inbox = inbox[limits.INBOX_REQUESTS_MAX :]
            del inbox[limits.INBOX_REQUESTS_MAX :]
        self.node.replica.read_ahead(_keys(inbox))
        now = self.monotonic()
        admission = self.node.admission
        admission.begin(now)
        if admission.late_s:
            for link in (*[link for link, _ in inbox], *self.held):
                link.be_late(int(admission.late_s * 1000))
        for link, frame in inbox:
            link.dispatch(now, frame)

    def on_ring(self) -> None:
        """Others are members now."""
        for link in self.by_id.values():
            link.recognise()

    def write(self, link: LinkId, frame: bytes) -> None:
        """Queues a frame; dropped if the link is gone."""
        accepted = self.by_id.get(link)
        if accepted is not None:
            accepted.under_way -= 1
            accepted.connection.write(frame)

    def drop_silent(self, now: float) -> None:
        """Closes connections that have not said Hello in time."""
        for link in list(self.greeting.values()):
            if now - link.opened > limits.HELLO_S_MAX:
                link.connection.close("no Hello in time")


class AcceptedLink:
    """One of them (`env.Handler`)."""

    __slots__ = (
        *("_held", "_is_client", "_is_stranger", "_last_size", "_late_bytes", "_late_ms"),
        *("_links", "_session"),
        *("connection", "id", "opened", "under_way"),
    )

    def __init__(
        self, links: Links, link_id: LinkId, connection: Connection, session: Session
    ) -> None:
        self._links = links
        self._session = session
        self.id = link_id
        self.connection = connection
        self.opened = links.monotonic()
        self.under_way = 0  # requests of a client without an answer; of a peer nothing
        self._is_client = False  # once it has said so
        self._is_stranger = False  # a peer that is no member
        self._held: deque[Frame] = deque()  # read, but not yet taken
        self._last_size = 0  # of what was read
        self._late_ms = 0  # for how long nobody looked at what is now read of it
        self._late_bytes = 0  # that may still come from that time

    def on_bytes(self, data: bytes) -> None:
        try:
            frames = self._session.receive(data)
            if hello := self._session.take_hello():
                self._links.greeting.pop(self.id, None)
                self.connection.write(hello)
                assert self._session.remote is not None
                self._is_client = self._session.remote.role != ROLE_PEER
                self.recognise()
        except DynagentError as error:
            self.end(error)
            return
        size = len(data)
        if self._late_ms:
            self._late_bytes -= size
            if self._last_size < limits.RECEIVE_BYTES or self._late_bytes <= 0:
                self._late_ms = 0  # that reading has emptied the socket: this is news
        self._last_size = size
        links = self._links
        if self._is_client and (
            self._held
            or len(frames) > limits.CONNECTION_REQUESTS_A_TURN
            or self.under_way + len(frames) > links.node.admission.one_connection_max
            or self.connection.unsent > limits.CONNECTION_OUTBOX_PAUSE_BYTES
        ):
            self._held += frames
            links.held[self] = None
            return
        inbox = links.inbox
        inbox += [(self, frame) for frame in frames]
        if len(inbox) >= limits.INBOX_REQUESTS_MAX:
            links.dispatch()

    def recognise(self) -> None:
        """Is the other end a member?"""
        remote = self._session.remote
        if remote is not None and not self._is_client:
            self._is_stranger = self._links.node.is_stranger(remote.node_id)

    # --- no more than its share ------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        return self._room() > 0

    def _room(self) -> int:
        """How many more requests of this client may be taken now."""
        if self.connection.unsent > limits.CONNECTION_OUTBOX_PAUSE_BYTES:
            return 0
        most = self._links.node.admission.one_connection_max - self.under_way
        return min(most, limits.CONNECTION_REQUESTS_A_TURN)

    def take(self) -> None:
        """Takes what there is room for of what is held; it is read no further while some is."""
        held = self._held
        count = min(max(0, self._room()), len(held))
        self._links.inbox += [(self, held.popleft()) for _ in range(count)]
        self.connection.pause(is_paused=bool(held))
        if not held:
            del self._links.held[self]

    def be_late(self, late_ms: int) -> None:
        """What has been read last, and what may wait behind it, had to wait for so long."""
        self._late_ms = late_ms
        self._late_bytes = limits.SOCKET_BYTES_MAX

    # --- requests --------------------------------------------------------------------------------

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
                if self._late_ms and type(message) in _BY_CLIENTS:
                    budget_ms -= self._late_ms
                self.under_way += 1
                node = links.node
                take = node.on_stranger if self._is_stranger else node.on_message
                take(now, self.id, frame.request_id, budget_ms, message)
        except Exception:  # our own bug: it costs this connection, not the agent
            logging.getLogger("dynagent").exception("link.crashed")
            self.end(DynagentError("internal error; see the agent's log"))

    def _refuse(self, frame: Frame, why: str) -> None:
        error = Error(BadRequest.code, why)
        self.connection.write(encode_frame(error, request_id=frame.request_id, budget_ms=0))

    def end(self, error: DynagentError) -> None:
        """Tells the other end why, and closes."""
        reason = error.message
        if isinstance(error, WrongCluster):
            reason = f"{reason}, at {self._links.node.about.get('address')}"
        log(logging.WARNING, "link.refused", remote=self.connection.remote, reason=reason)
        self.connection.write(farewell(error))
        self.connection.close(error.message)

    def on_closed(self, reason: str) -> None:
        self._links.by_id.pop(self.id, None)
        self._links.greeting.pop(self.id, None)
        self._links.held.pop(self, None)  # nobody would hear the answers
        self._held.clear()


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
