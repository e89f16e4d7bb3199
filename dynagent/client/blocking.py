"""The blocking client: for scripts, threads and `dynctl`.

    with Client(["127.0.0.1:7411"]) as client:
        client.put(b"cart/7", b"apples")
        result = client.get(b"cart/7")
        for version in result.versions:
            print(version.value)
        client.put(b"cart/7", b"pears", context=result.context)

It learns the ring from any agent, goes straight to an owner of the key, falls back through the
members, and repeats a put whose outcome is unknown under the same op-id. Connections are kept and
may be used from several threads at once (each request takes one for itself).
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Sequence

from dynagent import limits
from dynagent.address import parse_address
from dynagent.client.outages import Outages
from dynagent.client.requests import (
    Receipt,
    Result,
    budget_ms,
    make_get,
    make_put,
    new_session,
    read_receipt,
    read_result,
)
from dynagent.client.routing import Addresses, Plan
from dynagent.core.messages import Error, Message, Put, RingReply, RingRequest
from dynagent.errors import (
    ConnectionLost,
    DynagentError,
    ProtocolError,
    Unreachable,
    WriteOutcomeUnknown,
    from_wire,
)
from dynagent.wire.codec import encode_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynagent.client.journal import Journal
    from dynagent.client.keys import Keys
    from dynagent.core.ring import Ring

TIMEOUT_S_DEFAULT = 5.0


class Connection:
    """One connection to one agent, one request at a time. Raises `Unreachable`."""

    __slots__ = ("_last_id", "_session", "_socket", "address", "is_open")

    def __init__(self, address: str, *, timeout_s: float, cluster_id: bytes = b"") -> None:
        self.address = address
        self.is_open = True
        self._last_id = 0
        self._session = new_session(cluster_id, wall_ms=time.time_ns() // 1_000_000)
        host, port = parse_address(address)
        try:
            # As bytes: a str host makes Python load the IDNA tables (4 ms of a 25 ms command).
            self._socket = socket.create_connection(
                (host.encode(), port),  # type: ignore[arg-type]
                timeout=min(timeout_s, limits.CONNECT_S_MAX),
            )
        except (OSError, UnicodeError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise Unreachable(f"{address}: {reason}") from exc
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def request(self, message: Message, *, timeout_s: float) -> Message:
        """Sends a request and waits for its reply; raises the error that the agent answered,
        `ConnectionLost` if none came in time (then this connection is closed), `ProtocolError`
        if the other end is no agent."""
        deadline = time.monotonic() + timeout_s
        self._last_id += 1
        data = encode_frame(message, request_id=self._last_id, budget_ms=budget_ms(timeout_s))
        if self._session.remote is None and self._last_id == 1:
            data = self._session.hello() + data
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(data)
            reply = self._receive(deadline)
        except OSError as exc:
            self.close()
            reason = "no answer in time" if isinstance(exc, TimeoutError) else exc.strerror or exc
            raise ConnectionLost(f"{self.address}: {reason}") from exc
        except DynagentError as exc:
            self.close()
            if isinstance(exc, ProtocolError) and self._session.remote is None:
                raise Unreachable(f"{self.address} is no agent: {exc.message}") from exc
            raise
        if isinstance(reply, Error):
            raise from_wire(reply.error, reply.text, reply.trace)
        return reply

    def _receive(self, deadline: float) -> Message:
        while True:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._socket.recv(limits.RECEIVE_BYTES)
            if not data:
                raise ConnectionLost(f"{self.address}: closed by the agent")
            for frame in self._session.receive(data):
                if frame.message is not None and frame.request_id == self._last_id:
                    return frame.message
                if isinstance(frame.message, Error):  # a farewell
                    raise from_wire(frame.message.error, frame.message.text)

    @property
    def is_stale(self) -> bool:
        """Nothing should come while no request is under way: then the agent has closed it."""
        try:
            self._socket.setblocking(False)
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        self.is_open = False
        self._socket.close()


class Client:
    """A cluster. `endpoints`: `host:port` of any of its agents; raises nothing until it is used.

    `timeout_s` bounds each request over all its attempts. With `learn_ring` false it speaks to the
    endpoints only, in their order: right for one request, when the ring would cost a second one.
    With a `cluster_id` agents of another cluster are refused.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout_s: float = TIMEOUT_S_DEFAULT,
        learn_ring: bool = True,
        cluster_id: bytes = b"",
    ) -> None:
        self._endpoints = list(endpoints)
        self._timeout_s = timeout_s
        self._learn_ring = learn_ring
        self._cluster_id = cluster_id
        self._addresses: Addresses | None = None  # once the ring has been learnt
        self._told = 0  # the newest epoch that an agent has told of
        self._outages = Outages()
        self._idle: dict[str, deque[Connection]] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all idle connections."""
        for connections in self._idle.values():
            while connections:
                connections.pop().close()

    # --- data ------------------------------------------------------------------------------------

    def get(
        self,
        key: bytes,
        *,
        r: int = 0,
        strict: bool = False,
        repair: bool = False,
        trace: bool = False,
    ) -> Result:
        """All concurrent values of a key. `r`: owners that must answer (0: the cluster's R).
        `repair`: returns only when W owners have on disk what it returns, so that no later read
        goes behind it. `trace`: also which node answered what and when, on the result or on the
        error.

        Raises `QuorumNotMet` (with `repair` also if a value was read, but is not at W owners),
        `BadRequest`, `Unreachable`, `ConnectionLost`; with `repair`, `UnsupportedVersion`.
        """
        plan = self._plan(key, is_write=False)
        journal = _new_journal() if trace else None
        reply, agent = self._run(plan, make_get(key, r, strict, repair, trace), journal)
        result = read_result(reply, agent=agent, repair=repair)
        self._told = max(self._told, result.epoch)
        return result if journal is None else journal.sign(result)

    def put(
        self,
        key: bytes,
        value: bytes | None,
        *,
        context: bytes | None = None,
        blind: bool = False,
        r: int = 0,
        w: int = 0,
        strict: bool = False,
        op_id: bytes = b"",
        content: int = 0,
        meta: dict[bytes, bytes] | None = None,
        expiry_ms: int = 0,
        trace: bool = False,
    ) -> Receipt:
        """Writes a value. With a `context` it supersedes what that get returned, `blind` nothing,
        otherwise what R owners hold now. `op_id`: repeats an earlier put whose outcome is unknown.
        `trace`: as for a get.

        Raises `WriteOutcomeUnknown` (its `op_id` attribute repeats the put safely), `QuorumNotMet`,
        `Overloaded`, `BadRequest`, `TooLarge`, `Unreachable`.
        """
        plan = self._plan(key, is_write=True, repeats=bool(op_id))
        put = make_put(
            key,
            value,
            op_id=op_id or os.urandom(limits.OP_ID_BYTES),
            context=context,
            blind=blind,
            r=r,
            w=w,
            strict=strict,
            content=content,
            expiry_ms=expiry_ms,
            meta=meta,
            trace=trace,
        )
        journal = _new_journal() if trace else None
        try:
            reply, agent = self._run(plan, put, journal)
        except WriteOutcomeUnknown as exc:
            exc.op_id = put.op_id
            raise
        receipt = read_receipt(reply, put, attempts=plan.attempt, agent=agent)
        self._told = max(self._told, receipt.epoch)
        return receipt if journal is None else journal.sign(receipt)

    def delete(
        self,
        key: bytes,
        *,
        context: bytes | None = None,
        r: int = 0,
        w: int = 0,
        strict: bool = False,
        op_id: bytes = b"",
        trace: bool = False,
    ) -> Receipt:
        """A put of nothing; the same arguments and errors. Deleting a missing key succeeds."""
        return self.put(
            key, None, context=context, r=r, w=w, strict=strict, op_id=op_id, trace=trace
        )

    def keys(
        self, *, prefix: bytes | None = None, resume: bytes = b"", rate: float | None = None
    ) -> Keys:
        """All keys that have a value, partition by partition; see `client/keys.py`.

        `resume`: the `token` of an earlier listing, which goes on (with `prefix` None: its own);
        `rate`: at most so many keys a second are looked at by each owner. Raises like `ring`, and
        `BadRequest`, `WrongCluster` or `Refused` for a token that is not of here.
        """
        from dynagent.client.keys import Keys  # here: `dynctl get` can do without it

        return Keys(self, prefix=prefix, resume=resume, rate=rate)

    # --- the cluster -----------------------------------------------------------------------------

    def ring(self) -> Ring:
        """The ring, learnt from any agent; raises `Unreachable` or `NotReady`."""
        from dynagent.core.ringcodec import decode_ring  # here: `dynctl get` can do without it

        known = self._addresses
        addresses = known.anybody if known is not None else self._endpoints
        plan = Plan(self._in_order(addresses), deadline=self._deadline(), is_write=False)
        reply, agent = self._run(plan, RingRequest())
        if not isinstance(reply, RingReply):
            raise ProtocolError(f"{agent}: {type(reply).__name__} is not a ring")
        ring = decode_ring(reply.ring)
        if known is None or ring.epoch > known.epoch:
            self._addresses = Addresses(ring, self._endpoints)
        self._told = 0
        self._cluster_id = self._cluster_id or ring.cluster_id
        return ring

    def ask(self, address: str, message: Message) -> Message:
        """One request to one agent, without retries; raises its error or `Unreachable`."""
        return self._try(address, message, self._timeout_s)

    # --- how -------------------------------------------------------------------------------------

    def _plan(self, key: bytes, *, is_write: bool, repeats: bool = False) -> Plan:
        deadline = self._deadline()
        known = self._addresses
        if self._learn_ring and (known is None or self._told > known.epoch):
            known = self._follow(known)
        addresses = known.of(key) if known is not None else self._endpoints
        return Plan(
            self._in_order(addresses), deadline=deadline, is_write=is_write, repeats=repeats
        )

    def _in_order(self, addresses: Sequence[str]) -> Sequence[str]:
        outages = self._outages
        return outages.in_order(addresses, time.monotonic()) if outages else addresses

    def _follow(self, known: Addresses | None) -> Addresses | None:
        """Learns the ring. With an old one requests are served too, so that one is kept if there is
        no newer one to be had."""
        try:
            self.ring()
        except DynagentError:
            if known is None:
                raise
            self._told = 0  # until somebody tells again
        return self._addresses

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s

    def _run(
        self, plan: Plan, message: Message, journal: Journal | None = None
    ) -> tuple[Message, str]:
        while (step := plan.next(time.monotonic())) is not None:
            address, timeout_s = step
            if isinstance(message, Put):
                message.attempt = plan.attempt
            if journal is not None:
                journal.on_try(time.monotonic(), address, plan.attempt)
            try:
                reply = self._try(address, message, timeout_s)
            except DynagentError as exc:
                if journal is not None:
                    journal.on_failure(time.monotonic(), address, exc)
                plan.failed(exc)
                if pause_s := plan.pause_s(time.monotonic(), os.urandom(1)[0] / 255):
                    time.sleep(pause_s)
            else:
                if journal is not None:
                    journal.on_reply(time.monotonic(), address, reply)
                return reply, address
        raise plan.error() if journal is None else journal.sign(plan.error())

    def _try(self, address: str, message: Message, timeout_s: float) -> Message:
        began = time.monotonic()
        try:
            connection = self._take(address, timeout_s)
            try:
                reply = connection.request(message, timeout_s=timeout_s)
            finally:
                self._give_back(connection)
        except (Unreachable, ConnectionLost):
            now = time.monotonic()
            self._outages.on_failure(address, now, took_s=now - began)
            raise
        if self._outages:
            self._outages.on_answer(address)
        return reply

    def _take(self, address: str, timeout_s: float) -> Connection:
        idle = self._idle.setdefault(address, deque())
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread was faster
                break
            if not connection.is_stale:
                return connection
            connection.close()
        return Connection(address, timeout_s=timeout_s, cluster_id=self._cluster_id)

    def _give_back(self, connection: Connection) -> None:
        idle = self._idle.setdefault(connection.address, deque())
        if connection.is_open and len(idle) < limits.POOL_CONNECTIONS_MAX:
            idle.append(connection)
        else:
            connection.close()


def _new_journal() -> Journal:
    from dynagent.client.journal import Journal  # here: others need not load it

    return Journal(time.monotonic())
