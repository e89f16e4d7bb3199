"""What a voter knows of the starts of others, and says to each new one (`core.registration`).

One row of the store for each member, `start/<node id>`: [nonce, run, address] of the last start
that was recorded here. It is written before the answer goes out, and goes with the member. Every
node answers, starting or not: else a whole cluster could not start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.messages import Message, Register, RingIs, StartRefused
from dynagent.core.ports import Effects, LinkId, NodeId, Reader
from dynagent.core.registration import DOUBLE_UP, OTHER_START, REMOVED
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring
from dynagent.errors import BadRequest, CorruptRecord, NotReady, ProtocolError

ROW = "start/"  # and the node id


class Start(NamedTuple):
    """A recorded start. `address`: where that node was reached."""

    nonce: bytes
    run: int
    address: str


class Registrar:
    """The node's handler of Register. `ring` is None before the bootstrap."""

    def __init__(self, replica: Replica, reader: Reader, effects: Effects) -> None:
        self.ring: Ring | None = None
        self.is_up: Callable[[NodeId], bool] = lambda _node: False
        self.boots: dict[NodeId, bytes] = {}  # whom we have met at the end of our links, by nonce
        self._replica = replica
        self._reader = reader
        self._effects = effects
        self._starts: dict[NodeId, Start | None] = {}  # the newest, be it durable or not

    def on_ring(self, ring: Ring) -> None:
        """Forgets the starts of who is a member no more: such an id never starts again."""
        before, self.ring = self.ring, ring
        left = {member.id for member in ring.members}
        for member in before.members if before is not None else ():
            if member.id not in left:
                self._starts.pop(member.id, None)
                self._replica.keep_row(f"{ROW}{member.id}", b"")

    def on_register(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Register)
        _check(message)
        verdict = self._judge(message)
        if verdict is not None:
            self._effects.answer(link, request_id, verdict)
            return
        self._replica.check_room(now)
        node = NodeId(message.node)
        start = Start(message.starts[-1], message.run, message.address)
        self._starts[node] = start
        # The same start asks again if an answer was lost: it is written again, and waited for.
        batch = self._replica.keep_row(f"{ROW}{node}", encode(list(start)))
        self._replica.when_durable(batch, (link, request_id))

    def _judge(self, message: Register) -> StartRefused | RingIs | None:
        """None: the start may be recorded. RingIs: one of us must learn a newer ring first."""
        ring, node = self.ring, NodeId(message.node)
        if ring is None:
            raise NotReady("this agent belongs to no cluster yet")
        member = ring.member(node)
        if member is None or node in ring.removed:
            if ring.epoch < message.epoch:
                return RingIs(ring.epoch)
            return StartRefused(REMOVED, 0, "", ring.epoch)
        known = self._known(node)
        if known is not None and not is_past_of(known, message.run, message.starts):
            return StartRefused(OTHER_START, known.run, known.address, ring.epoch)
        if message.epoch < ring.epoch:
            return RingIs(ring.epoch)  # it asks who voted once; who does so now may know better
        boot = self.boots.get(node)
        if boot not in (None, message.starts[-1]) and self.is_up(node):
            return StartRefused(DOUBLE_UP, known.run if known else 0, member.address, ring.epoch)
        return None

    def _known(self, node: NodeId) -> Start | None:
        if node not in self._starts:
            try:
                self._starts[node] = decode_start(self._reader.get_meta(f"{ROW}{node}"))
            except CorruptRecord as exc:
                raise NotReady(f"{exc.message}; others may have it") from exc
        return self._starts[node]


def is_past_of(known: Start, run: int, starts: Sequence[bytes]) -> bool:
    """Whether a store of which these are the last starts has made that one, as far as it shows."""
    first = run - len(starts) + 1
    return known.run < first or (known.run <= run and starts[known.run - first] == known.nonce)


def decode_start(row: bytes | None) -> Start | None:
    """Raises `CorruptRecord`."""
    if not row:
        return None
    try:
        match decode(row):
            case [bytes(nonce), int(run), str(address), *_]:
                return Start(nonce, run, address)
    except ProtocolError as exc:
        raise CorruptRecord(f"a row of a node's start is damaged: {exc.message}") from exc
    raise CorruptRecord("a row of a node's start is damaged")


def _check(message: Register) -> None:
    """Raises `BadRequest`."""
    nonces = message.starts
    if not 1 <= len(nonces) <= message.run or {*map(len, nonces)} != {limits.NONCE_BYTES}:
        raise BadRequest("a start shows a nonce of 8 bytes for each of its last runs")
