"""Who sees every frame and every durable batch of level 2, and feeds the ledger with them.

What agents and clients write is decoded once more here, on its way, so the checkers that speak of
an instant see the same as in level 1: a dot when it is first sent, an acknowledgement when it is
about to be told. Four more checkers live here:

- answered_once: a request is answered once, a client's by its deadline; and, at the end, each was;
- failed_is_silent: once an agent knows that its disk has failed it acknowledges nothing any more;
- bad_frame_costs_one: an agent closes no connection but that of who sent it nonsense;
- unreadable_is_unknown: a rotten copy is neither a value nor its absence.
"""

from __future__ import annotations

from collections import Counter, deque

from dynagent.core.entry import ABSENT, decode_context, decode_stored
from dynagent.core.logrows import RING_ROW
from dynagent.core.messages import (
    STATE_UNREADABLE,
    Error,
    Facts,
    Get,
    GetReply,
    Gossip,
    Hello,
    Merge,
    MergeAck,
    Message,
    Ping,
    PingFor,
    Put,
    PutReply,
    Read,
    ReadReply,
)
from dynagent.core.ports import Batch, NodeId, Token
from dynagent.core.ring import Ring, token_of
from dynagent.limits import FRAME_HEADER_BYTES
from dynagent.testing.brief import brief
from dynagent.testing.disk import hints_of, may_be_anew, owes_any
from dynagent.testing.ledger import Ledger
from dynagent.testing.level2.disk import SimDisk
from dynagent.testing.level2.logstore import LogStore
from dynagent.testing.level2.transport import SimTransport
from dynagent.testing.level2.wires import End, Line
from dynagent.testing.world import World
from dynagent.wire.codec import Frame, decode_frame, unpack

PING_S_MAX = 4.0  # of a ping or gossip under way, for an agent that finds itself slow
LATE_S = 0.01  # a timer fires up to that late, see clock.py
# Why an agent may close a connection although nothing bad came: it never said Hello.
_INNOCENT = ("no Hello in time", "it is wanted no more")
_FIRST, _LAST = Token(bytes(16)), Token(b"\xff" * 16)


class Talk:
    """What was asked and answered on one connection."""

    def __init__(self) -> None:
        self.requests: dict[int, list[Message]] = {}
        self.replies: Counter[int] = Counter()
        self.on_the_way: deque[tuple[int, int, int]] = deque()  # end in the stream, id, budget
        self.due: dict[int, float] = {}  # when an answer is due
        self.pinged: dict[int, float] = {}  # when pings and gossip were sent


class Watch:
    """The watcher of all connections (`wires.Watcher`) and all stores."""

    def __init__(self, world: World, ledger: Ledger, keys: list[bytes]) -> None:
        self.ring: Ring | None = None
        self.ledger = ledger
        self._dropping: set[tuple[NodeId, bytes]] = set()  # drops that may have reached a disk
        self.keys = keys
        self.world = world
        self._talks: dict[int, Talk] = {}
        self._silenced: dict[SimTransport, int] = {}  # since which turn it knows of its failed disk

    @property
    def cluster_id(self) -> bytes:
        return self.ring.cluster_id if self.ring is not None else b""

    # --- frames ----------------------------------------------------------------------------------

    def on_write(self, end: End, data: bytes) -> None:
        if end.line.is_hostile:
            return
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + FRAME_HEADER_BYTES], "big")
            at += FRAME_HEADER_BYTES + size
            self._on_frame(end, decode_frame(data[at - size : at]))

    def _on_frame(self, end: End, frame: Frame) -> None:
        message = frame.message
        assert message is not None
        self.world.messages += 1
        if self.world.trace is not None:
            arrow = "⇒" if end.is_dialler else "→"
            where = f"{end.owner.place} {arrow} {end.remote}"
            self.world.log(f"{where} #{end.line.number}/{frame.request_id} {brief(message)}")
        if isinstance(message, Hello) or frame.request_id == 0:
            return
        talk = self._talks.setdefault(end.line.number, Talk())
        if end.is_dialler:
            for request_id, request in _requests_in(frame.request_id, message):
                talk.requests.setdefault(request_id, []).append(request)
            if isinstance(message, Get | Put):
                place = (end.written_bytes, frame.request_id, frame.budget_ms)
                talk.on_the_way.append(place)
            if isinstance(message, Ping | PingFor | Gossip | Facts):
                talk.pinged[frame.request_id] = self.world.now
            if isinstance(message, Merge):
                self._see_entries(NodeId(end.owner.place), message)
        else:
            for request_id, reply in _replies_in(frame.request_id, message):
                self._on_reply(end, talk, request_id, reply)

    def on_read(self, end: End) -> None:
        """An agent has taken bytes: from here on the deadlines of the requests in them run."""
        talk = self._talks.get(end.line.number)
        if talk is not None and not end.is_dialler:
            while talk.on_the_way and talk.on_the_way[0][0] <= end.read_bytes:
                _, request_id, budget_ms = talk.on_the_way.popleft()
                talk.due[request_id] = self.world.now + budget_ms / 1000 + LATE_S

    def _see_entries(self, node: NodeId, merge: Merge) -> None:
        for entry in merge.entries:
            if entry[0] in self.keys:
                self.ledger.see_entry(node, entry)

    def _on_reply(self, end: End, talk: Talk, request_id: int, reply: Message) -> None:
        requests = talk.requests.get(request_id, [])
        talk.replies[request_id] += 1
        where = f"#{end.line.number}/{request_id} of {end.remote} by {end.owner.place}"
        self._answered_once(
            talk.replies[request_id] <= len(requests), f"{where}: answered twice: {reply}"
        )
        if not requests:
            return
        node = NodeId(end.owner.place)
        request = requests[-1]
        due = talk.due.pop(request_id, None)
        self._answered_once(
            due is None or self.world.now <= due, f"{where}: answered too late: {reply}"
        )
        if isinstance(reply, MergeAck | PutReply):
            end.will_ack = True
            self._failed_is_silent(end)
        if isinstance(request, Put | Get) and request.key not in self.keys:
            return  # one of the hostile client's, passed on
        if isinstance(request, Put) and isinstance(reply, PutReply):
            assert self.ring is not None
            clock = decode_context(reply.context, key=request.key) if reply.context else None
            w = request.w or self.ring.w
            self.ledger.on_put_reply(node, request, reply, w=w, reply_clock=clock)
        elif isinstance(request, Get) and isinstance(reply, GetReply):
            self.ledger.on_get_reply(node, request.key, reply.siblings)
        elif isinstance(request, Read) and isinstance(reply, ReadReply):
            self._unreadable_is_unknown(node, request, reply)
        elif isinstance(request, Read | Merge):
            known = isinstance(reply, Error | MergeAck)
            self._answered_once(known, f"{where}: {request} was answered {reply}")

    def _answered_once(self, holds: bool, what: str) -> None:
        self.world.verdicts.check("answered_once", holds, what)

    def silence(self, transport: SimTransport) -> None:
        """This agent has just been told that its disk has failed."""
        self._silenced[transport] = transport.turns

    def _failed_is_silent(self, end: End) -> None:
        assert isinstance(end.owner, SimTransport)
        since = self._silenced.get(end.owner)
        self.world.verdicts.check(
            "failed_is_silent",
            since is None or end.owner.turns <= since,
            f"{end.owner.place} acknowledges although it knows that its disk has failed",
        )

    def _unreadable_is_unknown(self, node: NodeId, read: Read, reply: ReadReply) -> None:
        if (node, read.key) in self.ledger.rotten:
            self.world.verdicts.check(
                "unreadable_is_unknown",
                reply.state == STATE_UNREADABLE and reply.entry is None,
                f"{node} says of its unreadable {read.key!r}: state {reply.state}",
            )

    def on_close(self, end: End, reason: str) -> None:
        if isinstance(end.owner, SimTransport):
            self.world.log(f"{end.owner.place} closes #{end.line.number}: {reason}")
            self.world.verdicts.check(
                "bad_frame_costs_one",
                end.line.is_hostile or reason in _INNOCENT,
                f"{end.owner.place} closes #{end.line.number} to {end.remote}: {reason}",
            )

    def check_all_answered(self, lines: list[Line]) -> None:
        """When all is quiet: on whole connections every request has its answer."""
        for line in lines:
            talk = self._talks.get(line.number)
            if talk is None or line.is_hostile or any(end.is_gone for end in line.ends):
                continue
            for request_id, requests in talk.requests.items():
                if self.world.now - talk.pinged.get(request_id, 0.0) < PING_S_MAX:
                    continue  # it never is quite quiet
                self._answered_once(
                    talk.replies[request_id] == len(requests),
                    f"#{line.number}/{request_id} of {line.ends[0].owner.place}: "
                    f"{requests} got {talk.replies[request_id]} answers",
                )

    # --- disks -----------------------------------------------------------------------------------

    def on_recovered(self, node: NodeId, store: LogStore) -> None:
        """A store has been opened: it must hold all that it ever made durable."""
        self.on_durable(node, list(store.scan(_FIRST, _LAST)))
        for key in self.keys:
            if store.get(token_of(key), key) is None:
                if (node, key) in self._dropping:
                    self._on_dropped(node, store, key)
                else:
                    self.ledger.on_durable(node, key, ABSENT)

    def see(self, node: NodeId, batch: Batch) -> None:
        """A batch is on its way to a disk."""
        self._dropping |= {(node, key) for key in self._anew(node, batch)}
        for _, key, stored in batch.records:
            if not stored:
                self._dropping.add((node, key))
            elif key in self.keys:
                record = decode_stored(stored, cluster_id=self.cluster_id, key=key)
                datas = [sibling.data for sibling in record.value.siblings]
                self.ledger.see(key, datas, record.value.clock)

    def on_durable(self, node: NodeId, records: list[tuple[Token, bytes, bytes]]) -> None:
        for _, key, stored in records:
            if key in self.keys and stored:
                record = decode_stored(stored, cluster_id=self.cluster_id, key=key)
                may_be_anew = (node, key) in self._dropping
                self._dropping.discard((node, key))
                self.ledger.on_durable(node, key, record, may_be_anew=may_be_anew)

    def on_hints(self, node: NodeId, store: LogStore, batch: Batch) -> None:
        """A batch is durable: what it settles and drops must be safe elsewhere."""
        for target, _token, key, is_owed in hints_of(batch):
            if is_owed:
                self.world.faults["hint"] += 1
            elif key in self.keys:
                self.ledger.on_hint_removed(node, self._place_of(target), key)
        for _, key, stored in batch.records:
            if key in self.keys and not stored:
                self._on_dropped(node, store, key)
        for key in self._anew(node, batch) - {key for _, key, _ in batch.records}:
            self._dropping.discard((node, key))

    def _anew(self, node: NodeId, batch: Batch) -> set[bytes]:
        if self.ring is None:
            return set()  # nothing is owed before there is a ring
        [id_] = [member.id for member in self.ring.members if member.name == node]
        return may_be_anew(batch, self.ring, id_)

    def _place_of(self, node: NodeId) -> NodeId:
        """The ledger knows a host by its place, which is its name in the ring."""
        assert self.ring is not None
        member = self.ring.member(node)
        assert member is not None
        return NodeId(member.name)

    def _on_dropped(self, node: NodeId, store: LogStore, key: bytes) -> None:
        self._dropping.discard((node, key))
        self.ledger.on_dropped(node, key, owes=owes_any(store, token_of(key), key))


class WatchedStore(LogStore):
    """A log of which the watch learns what is durable; adopting a ring passes its points."""

    def __init__(self, disk: SimDisk, watch: Watch, node: NodeId) -> None:
        super().__init__(disk)
        self._watch = watch
        self._node = node
        watch.on_recovered(node, self)

    def write(self, batch: Batch) -> None:
        adopts = any(name == RING_ROW for name, _ in batch.meta)
        if adopts:
            self._disk.point("adoption.before")
        self._watch.see(self._node, batch)
        super().write(batch)
        self._watch.on_hints(self._node, self, batch)
        self._watch.on_durable(self._node, batch.records)
        if adopts:
            self._disk.point("adoption.after")


def _requests_in(request_id: int, message: Message) -> list[tuple[int, Message]]:
    """Every request of a frame by its id."""
    if isinstance(message, Merge):
        return [(number, message) for number in (request_id, *message.also)]
    if isinstance(message, Read):
        stamp = message.stamp_change, message.stamp_phase
        reads = zip((request_id, *message.also), (message.key, *message.keys), strict=True)
        return [(n, Read(*stamp, key, message.want, message.op_id)) for n, key in reads]
    return [(request_id, message)]


def _replies_in(request_id: int, message: Message) -> list[tuple[int, Message]]:
    """Every reply of a frame by the id of its request."""
    if isinstance(message, MergeAck):
        return [(number, message) for number in (request_id, *message.also)]
    if isinstance(message, ReadReply):
        return [(request_id, message), *unpack(message)]
    return [(request_id, message)]
