"""The manners of a node: what it owes those who ask it, whatever it decides.

    answered_once           every request that reaches it has one answer, a client's by its deadline
    unreadable_is_unknown   a rotten copy is neither a value nor its absence, and no get counts it
    settling_passes         no number of siblings keeps them from being superseded
    nothing_left            when all is quiet, no request is without its answer

It sees each request before the node does, and each answer before it travels. What a reply claims is
handed on to who judges it: the ledger, and the judge of repairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from dynagent.core.entry import decode_context
from dynagent.core.messages import (
    MODE_OVERWRITE,
    STATE_UNREADABLE,
    WANT_DIGEST,
    BarrierMove,
    Compare,
    CompareReply,
    Error,
    Get,
    GetReply,
    LeafKeys,
    LeafKeysReply,
    Look,
    LookReply,
    Merge,
    MergeAck,
    Message,
    Purge,
    Put,
    PutReply,
    Read,
    ReadReply,
    Register,
    RingIs,
    StartRefused,
)
from dynagent.core.ports import LinkId, NodeId
from dynagent.core.ring import Ring
from dynagent.errors import Overloaded, TooManySiblings
from dynagent.testing.ledger import Ledger
from dynagent.testing.network import Network
from dynagent.testing.repairs import Repairs
from dynagent.testing.rings import Rings
from dynagent.testing.world import World

LATE_S = 0.01  # an event loop under load looks at its timer up to that late
_EXCHANGE = (Compare, LeafKeys, Look)
_EXCHANGE_REPLIES = (CompareReply, LeafKeysReply, LookReply)
# Requests that are answered with a MergeAck.
_WAIT_FOR_DISK = (Merge, BarrierMove, Purge, Register)


class Manners:
    """Watches one node, life after life."""

    def __init__(
        self,
        *,
        world: World,
        network: Network,
        ledger: Ledger,
        repairs: Repairs,
        rings: Rings,
        node: NodeId,
        is_routed: Callable[[LinkId, int], bool],
    ) -> None:
        """`is_routed`: whether a request was passed on: what is answered is another's answer."""
        self._world = world
        self._network = network
        self._ledger = ledger
        self._repairs = repairs
        self._node = node
        self._rings = rings
        self._is_routed = is_routed
        self.forget()

    def forget(self) -> None:
        """The process has ended, and with it all that it owed."""
        # Of clients: what, until when, and its place in the order of all things.
        self._requests: dict[tuple[LinkId, int], tuple[Message, float, int]] = {}
        self._merges: Counter[tuple[LinkId, int]] = Counter()
        self._others: Counter[tuple[LinkId, int]] = Counter()
        self._handling: Message | None = None

    def leap(self, seconds: float) -> None:
        """The world has leapt: clients wait for their answers as if it had not."""
        for what, (message, deadline, order) in self._requests.items():
            self._requests[what] = (message, deadline + seconds, order)

    def on_resume(self) -> None:
        """The process was stopped, and its answers could not but be late."""
        for what, (message, deadline, order) in self._requests.items():
            late = max(deadline, self._world.now + 2 * LATE_S)
            self._requests[what] = (message, late, order)

    # --- what is fed and what comes out ----------------------------------------------------------

    def on_request(self, link: LinkId, request_id: int, budget_ms: int, message: Message) -> None:
        """The node is about to be given this; `on_handled` is called when it has taken it."""
        if isinstance(message, Get | Put):
            deadline = self._world.now + budget_ms / 1000 + 2 * LATE_S
            self._requests[link, request_id] = (message, deadline, self._world.order())
        elif isinstance(message, _WAIT_FOR_DISK):
            self._merges[link, request_id] += 1
        elif not isinstance(message, Read | Compare | LeafKeys | Look):
            self._others[link, request_id] += 1
        self._handling = message

    def on_handled(self, message: Message) -> None:
        if isinstance(message, Read):
            self._answered_once(self._handling is None, "a Read has no answer")
        self._handling = None

    def on_answer(self, link: LinkId, request_id: int, message: Message) -> None:
        is_late_no = isinstance(message, Error) and self._handling is None
        if self._others[link, request_id]:
            self._others[link, request_id] -= 1
        elif isinstance(message, MergeAck) or (is_late_no and self._merges.get((link, request_id))):
            also = message.also if isinstance(message, MergeAck) else []
            for number in (request_id, *also):
                self._merges[link, number] -= 1
                self._answered_once(self._merges[link, number] >= 0, "a Merge is answered twice")
        elif isinstance(message, ReadReply):
            self._watch_read_reply(message)
        elif isinstance(message, Error | RingIs | StartRefused) and isinstance(
            self._handling, (*_WAIT_FOR_DISK, Read)
        ):
            self._merges[link, request_id] -= isinstance(self._handling, _WAIT_FOR_DISK)
            if isinstance(self._handling, Merge) and self._handling.hint_for:
                is_full = isinstance(message, Error) and message.error == Overloaded.code
                self._world.faults["hint_refused"] += is_full
            self._handling = None
        elif isinstance(message, _EXCHANGE_REPLIES) or isinstance(self._handling, _EXCHANGE):
            self._watch_exchange(link, message)
        else:
            self._watch_client(link, request_id, message)

    def _watch_exchange(self, link: LinkId, reply: Message) -> None:
        asked = self._handling
        self._answered_once(isinstance(asked, _EXCHANGE), "an exchange is answered twice")
        self._handling = None
        if not isinstance(asked, Look) or not isinstance(reply, LookReply):
            return
        asker = self._network.dialer_of(link)
        if asked.want == WANT_DIGEST:
            self._repairs.on_looked(asker, self._node, asked.keys[: reply.looked_at])
        for entry in reply.entries:
            self._ledger.see_entry(self._node, entry)
            self._repairs.on_moved(asker, self._node, key_of(entry))

    def _watch_read_reply(self, reply: ReadReply) -> None:
        read = self._handling
        self._answered_once(isinstance(read, Read), "a Read is answered twice")
        self._handling = None
        if isinstance(read, Read) and (self._node, read.key) in self._ledger.rotten:
            self._unreadable(
                reply.state == STATE_UNREADABLE and reply.entry is None,
                f"says of its unreadable {read.key!r}: state {reply.state}",
            )

    def _watch_client(self, link: LinkId, request_id: int, reply: Message) -> None:
        request, deadline, since = self._requests.pop((link, request_id), (None, 0.0, 0))
        self._answered_once(request is not None, f"answers twice: {reply}")
        if request is None:
            return
        self._answered_once(self._world.now <= deadline, f"answers {request} too late")
        rings = [] if self._is_routed(link, request_id) else self._rings.since(self._node, since)
        if isinstance(request, Put) and isinstance(reply, PutReply):
            self._watch_put_reply(request, reply, rings)
        if isinstance(request, Put) and request.strict:
            self.check_settling(request, reply)
        if isinstance(request, Get) and isinstance(reply, GetReply):
            self._watch_get_reply(request, reply, rings, since)

    def _watch_put_reply(self, put: Put, reply: PutReply, rings: list[Ring]) -> None:
        partition = self._rings.partition_of(put.key)
        self._ledger.on_put_reply(
            self._node,
            put,
            reply,
            w=put.w or self._rings.present.w,
            reply_clock=decode_context(reply.context, key=put.key) if reply.context else None,
            lists=[ring.write_lists(partition) for ring in rings if put.strict],
        )

    def _watch_get_reply(self, get: Get, reply: GetReply, rings: list[Ring], since: int) -> None:
        partition = self._rings.partition_of(get.key)
        self._ledger.on_get_reply(self._node, get.key, reply.siblings)
        if get.repair and rings:
            self._ledger.on_repaired(
                self._node,
                get.key,
                decode_context(reply.context, key=get.key),
                lists=[ring.write_lists(partition) for ring in rings],
                w=self._rings.present.w,
            )
        rotten = {
            node
            for (node, key), order in self._ledger.rotten.items()
            if key == get.key and order < since
        }
        if rotten and get.strict and rings:  # of a sloppy one a stand-in's copy counts too
            sound = [set(ring.read_list(partition)) - rotten for ring in rings]
            self._unreadable(
                reply.answered <= max(map(len, sound)),
                f"counts {reply.answered} copies of {get.key!r}; {sorted(rotten)} are unreadable",
            )

    def check_settling(self, put: Put, reply: Message) -> None:
        """However many siblings there are: what supersedes all of them is not refused."""
        is_refused = isinstance(reply, Error) and reply.error == TooManySiblings.code
        self._world.faults["crowded"] += is_refused
        if put.value is None or put.mode == MODE_OVERWRITE:
            self._world.verdicts.check(
                "settling_passes", not is_refused, self._node, f"refuses {put}: {reply}"
            )

    def check_nothing_left(self) -> None:
        """At the end of a run, when all is quiet."""
        open_merges = sum(self._merges.values())
        self._answered_once(not self._requests, f"has not answered {self._requests}")
        self._answered_once(not open_merges, f"has not answered {open_merges} Merges")
        others = sum(self._others.values())
        self._answered_once(not others, f"has not answered {others} other requests")

    def _answered_once(self, holds: bool, what: str) -> None:
        self._world.verdicts.check("answered_once", holds, self._node, what)

    def _unreadable(self, holds: bool, what: str) -> None:
        self._world.verdicts.check("unreadable_is_unknown", holds, self._node, what)


def key_of(entry: list[object]) -> bytes:
    key = entry[0]
    assert isinstance(key, bytes)
    return key
