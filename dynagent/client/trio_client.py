"""The trio client: for applications that are structured by nurseries; many tasks share it.

    async with TrioClient(["127.0.0.1:7411"]) as client:
        await client.put(b"cart/7", b"apples")
        result = await client.get(b"cart/7")

The verbs, their arguments, results and errors are those of `client.blocking`. All tasks share one
connection to each agent, with many requests under way on it. Whoever asks may be cancelled at any
moment, which harms nobody else; a put that was cancelled may still take effect. All that the client
runs lives in a nursery which the `async with` opens and closes, and nothing outlives it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

import trio

from dynagent import limits
from dynagent.client.journal import Journal
from dynagent.client.lane import Costs
from dynagent.client.outages import Outages
from dynagent.client.requests import (
    Receipt,
    Result,
    make_get,
    make_put,
    read_receipt,
    read_result,
)
from dynagent.client.routing import Addresses, Plan
from dynagent.client.trio_link import Call, TrioLink, Turns
from dynagent.core.messages import Message, RingReply, RingRequest
from dynagent.core.ring import Ring
from dynagent.core.ringcodec import decode_ring
from dynagent.env import Transport
from dynagent.errors import DynagentError, ProtocolError, Unreachable, WriteOutcomeUnknown
from dynagent.net.tcp import TcpTransport

TIMEOUT_S_DEFAULT = 5.0


class TrioClient:
    """A cluster. `endpoints`: `host:port` of any of its agents; raises nothing until it is used.

    `timeout_s` bounds each request over all its attempts. With `learn_ring` false it speaks to the
    endpoints only, in their order. With a `cluster_id` agents of another cluster are refused.
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
        self._learning: _Learning | None = None
        self._links: dict[str, TrioLink] = {}
        self._outages = Outages()
        self._costs = Costs()
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Self:
        assert self._nursery is None, "one `async with` at a time"
        self._turns = Turns(self._make_transport())
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self._turns.run)
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        manager, nursery = self._manager, self._nursery
        assert manager is not None
        assert nursery is not None
        self._nursery = None
        nursery.cancel_scope.cancel()
        # The block's own exception stays out of the nursery, which would wrap it in a group.
        await manager.__aexit__(None, None, None)

    # --- data ------------------------------------------------------------------------------------

    async def get(
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
        plan = await self._plan(key, is_write=False)
        journal = Journal(trio.current_time()) if trace else None
        reply, agent = await self._run(plan, make_get(key, r, strict, repair, trace), journal)
        result = read_result(reply, agent=agent, repair=repair)
        self._told = max(self._told, result.epoch)
        return result if journal is None else journal.sign(result)

    async def put(
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
        plan = await self._plan(key, is_write=True, repeats=bool(op_id))
        put = make_put(
            key,
            value,
            op_id=op_id or self._new_op_id(),
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
        journal = Journal(trio.current_time()) if trace else None
        try:
            reply, agent = await self._run(plan, put, journal)
        except WriteOutcomeUnknown as exc:
            exc.op_id = put.op_id
            raise
        receipt = read_receipt(reply, put, attempts=plan.attempt, agent=agent)
        self._told = max(self._told, receipt.epoch)
        return receipt if journal is None else journal.sign(receipt)

    async def delete(
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
        return await self.put(
            key, None, context=context, r=r, w=w, strict=strict, op_id=op_id, trace=trace
        )

    # --- the cluster -----------------------------------------------------------------------------

    async def ring(self) -> Ring:
        """The ring, learnt from any agent; raises `Unreachable` or `NotReady`."""
        known = self._addresses
        addresses = known.anybody if known is not None else self._endpoints
        plan = Plan(self._in_order(addresses), deadline=self._deadline(), is_write=False)
        reply, agent = await self._run(plan, RingRequest())
        if not isinstance(reply, RingReply):
            raise ProtocolError(f"{agent}: {type(reply).__name__} is not a ring")
        ring = decode_ring(reply.ring)
        if known is None or ring.epoch > known.epoch:
            self._addresses = Addresses(ring, self._endpoints)
        self._told = 0
        self._cluster_id = self._cluster_id or ring.cluster_id
        return ring

    async def ask(self, address: str, message: Message) -> Message:
        """One request to one agent, without retries; raises its error or `Unreachable`."""
        plan = Plan([address], deadline=self._deadline(), is_write=False)
        return await self._try(address, message, plan, self._timeout_s)

    # --- how -------------------------------------------------------------------------------------

    async def _plan(self, key: bytes, *, is_write: bool, repeats: bool = False) -> Plan:
        deadline = self._deadline()
        known = self._addresses
        if self._learn_ring and (known is None or self._told > known.epoch):
            known = await self._follow(known)
        addresses = known.of(key) if known is not None else self._endpoints
        return Plan(
            self._in_order(addresses), deadline=deadline, is_write=is_write, repeats=repeats
        )

    async def _follow(self, known: Addresses | None) -> Addresses | None:
        """Learns the ring. With an old one requests are served too, so that one is kept if there is
        no newer one to be had."""
        try:
            await self._learn()
        except DynagentError:
            if known is None:
                raise
            self._told = 0  # until somebody tells again
        return self._addresses

    def _deadline(self) -> float:
        return trio.current_time() + self._timeout_s

    def _in_order(self, addresses: Sequence[str]) -> Sequence[str]:
        outages = self._outages
        return outages.in_order(addresses, trio.current_time()) if outages else addresses

    async def _run(
        self, plan: Plan, message: Message, journal: Journal | None = None
    ) -> tuple[Message, str]:
        while (step := plan.next(trio.current_time())) is not None:
            address, timeout_s = step
            if journal is not None:
                journal.on_try(trio.current_time(), address, plan.attempt)
            try:
                reply = await self._try(address, message, plan, timeout_s)
            except DynagentError as exc:
                if journal is not None:
                    journal.on_failure(trio.current_time(), address, exc)
                plan.failed(exc)
                if pause_s := plan.pause_s(trio.current_time(), self._dice()):
                    await trio.sleep(pause_s)
            else:
                if journal is not None:
                    journal.on_reply(trio.current_time(), address, reply)
                return reply, address
        raise plan.error() if journal is None else journal.sign(plan.error())

    async def _try(self, address: str, message: Message, plan: Plan, timeout_s: float) -> Message:
        link = self._links.get(address)
        if link is None or link.error is not None:
            link = self._dial(address)
        now = trio.current_time()
        return await link.request(Call(message, plan, now=now, timeout_s=timeout_s), now=now)

    # --- tasks of the nursery --------------------------------------------------------------------

    def _dial(self, address: str) -> TrioLink:
        if self._nursery is None:
            raise Unreachable("the client is closed: use it within its `async with`")
        link = self._links[address] = TrioLink(
            address,
            self._turns,
            self._costs,
            cluster_id=self._cluster_id,
            wall_ms=self._wall_ms(),
        )
        self._nursery.start_soon(self._connect, link)
        return link

    async def _connect(self, link: TrioLink) -> None:
        began = trio.current_time()
        await link.connect(timeout_s=min(self._timeout_s / 2, limits.CONNECT_S_MAX))
        if link.error is None:
            self._outages.on_answer(link.address)
        else:
            now = trio.current_time()
            self._outages.on_failure(link.address, now, took_s=now - began)

    async def _learn(self) -> None:
        """Learns the ring; tasks that come meanwhile wait for the same answer."""
        if self._nursery is None:
            raise Unreachable("the client is closed: use it within its `async with`")
        learning = self._learning
        if learning is None:
            learning = self._learning = _Learning()
            self._nursery.start_soon(self._learn_for_all, learning)
        await learning.has_ended.wait()
        if learning.error is not None:
            raise type(learning.error)(learning.error.message)

    async def _learn_for_all(self, learning: _Learning) -> None:
        try:
            await self.ring()
        except DynagentError as exc:
            learning.error = exc
        finally:
            self._learning = None
            learning.has_ended.set()

    # --- what the simulator replaces -------------------------------------------------------------

    def _make_transport(self) -> Transport:
        return TcpTransport()

    def _new_op_id(self) -> bytes:
        return os.urandom(limits.OP_ID_BYTES)

    def _dice(self) -> float:
        """0 to 1."""
        return os.urandom(1)[0] / 255

    def _wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class _Learning:
    """A request for the ring, and how it ended."""

    def __init__(self) -> None:
        self.has_ended = trio.Event()
        self.error: DynagentError | None = None
