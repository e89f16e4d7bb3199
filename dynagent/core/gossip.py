"""Gossip: what every node says about itself comes to know everybody (Dynamo §4.8.1).

Each node has a table of the newest fact (`facts.py`) of each member. Once in an interval it picks
another member, each in turn in an order of the dice's choice, and both come to know what either
knew (push and pull, Demers et al. 1987):

    A ── Gossip: the digests of my 16 buckets ─────────────────▶ B
    A ◀─ GossipReply: my editions in the buckets that differ ───── B     nothing: the end
    A ── Facts: what you lack, and the ids of what I lack ─────▶ B
    A ◀─ FactsReply: those ────────────────────────────────────── B

So news of one node has reached all S after about log2(S) rounds, and while there is none a round
costs one small pair of messages. In turn: no two rounds in which a node asks a certain other one
are further apart than 2 (S − 1), whatever the dice say.

What holds:

- A fact stands here only as its subject has sealed it; we assert facts about ourselves only.
- Of two facts of a member the higher edition wins: what we hold never gets older, in our life.
- Who is no member has no fact here, and none of one that has left is taken again. A message with a
  fact that is malformed, damaged or of another cluster is refused whole.
- Is there a fact about ourselves that is newer than our own? We have not made it, or have forgotten
  it (a restored disk, a twin): we assert anew, above it.

Whether somebody can be used is the detector's business: no fact says that a node is alive, and the
age of a fact says nothing, because who has nothing new to say says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from hashlib import blake2b
from math import inf

from dynagent import limits
from dynagent.core.facts import (
    SEAL_BYTES,
    Edition,
    Fact,
    Portrait,
    assert_fact,
    check_edition,
    read_fact,
)
from dynagent.core.messages import Error, Facts, FactsReply, Gossip, GossipReply, Message
from dynagent.core.peer import ALIVE, GRAY, Peer
from dynagent.core.ports import Dice, Effects, LinkId, NodeId
from dynagent.core.ring import Ring
from dynagent.core.shuffle import shuffled
from dynagent.errors import BadRequest, NotReady, ProtocolError

_ANSWERS = (ALIVE, GRAY)  # who answers pings takes gossip too
_DIGESTS_BYTES = limits.GOSSIP_BUCKETS * SEAL_BYTES


class Gossiper:
    """The facts that one node knows, and how it spreads them."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        cluster_id: bytes,
        run: int,
        peers: Mapping[NodeId, Peer],
        draw: Callable[[float], Portrait],
        effects: Effects,
        dice: Dice,
        interval_s: float,
        take_number: Callable[[], int],
        on_fact: Callable[[float, Fact], None] = lambda _now, _fact: None,
        on_refuted: Callable[[float], None] = lambda _now: None,
    ) -> None:
        """`peers` are the detector's rows of all other members; `draw` says how we are;
        `take_number` gives request ids that nobody else uses; `on_fact` hears of each fact that is
        news."""
        self.own: Fact | None = None  # as last asserted, from the first tick on
        self.facts: dict[NodeId, Fact] = {}  # the newest of each member, ours too
        self.counts = {"rounds": 0, "exchanges": 0, "facts_taken": 0, "refused": 0, "refuted": 0}
        self.due = 0.0  # when `on_tick` has something to do
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._edition: Edition = (run, 0)  # of our last assertion
        self._peers = peers
        self._draw = draw
        self._effects = effects
        self._dice = dice
        self._interval_s = interval_s
        self._take_number = take_number
        self._on_fact = on_fact
        self._on_refuted = on_refuted
        self._buckets = {node: _bucket(node) for node in (node_id, *peers)}
        self._digests = [0] * limits.GOSSIP_BUCKETS
        self._taken_at: dict[NodeId, float] = {}
        self._order: list[Peer] = []  # who is still to be asked in this turn
        self._open: dict[int, tuple[NodeId, float]] = {}  # requests under way: of whom, since when
        self._noted_at: dict[str, float] = {}
        self._now = 0.0  # at the last tick

    # --- what the node feeds ---------------------------------------------------------------------

    def on_tick(self, now: float) -> None:
        self._now = now
        if now < self.due:
            return
        is_first = self.own is None
        self._renew(now)
        if is_first:  # nodes that start at once shall not go in step
            self.due = now + self._interval_s * self._dice.getrandbits(8) / 256
            return
        self.due = now + self._interval_s
        patience_s = 2 * self._interval_s
        for number, (_, since) in list(self._open.items()):
            if now - since > patience_s:
                del self._open[number]
        self.counts["rounds"] += 1
        if (peer := self._next_peer()) is not None:
            digests = b"".join(digest.to_bytes(SEAL_BYTES, "big") for digest in self._digests)
            self._ask(now, peer.node, Gossip(digests))

    def on_gossip(self, link: LinkId, request_id: int, message: Gossip) -> None:
        """Raises `BadRequest`."""
        theirs = message.digests
        if len(theirs) != _DIGESTS_BYTES:
            raise BadRequest(f"digests of {len(theirs)} bytes; there are {_DIGESTS_BYTES}")
        differ = 0
        for bucket, digest in enumerate(self._digests):
            start = bucket * SEAL_BYTES
            if digest != int.from_bytes(theirs[start : start + SEAL_BYTES], "big"):
                differ |= 1 << bucket
        editions: list[list[object]] = [
            [node, *fact.edition]
            for node, fact in self._sorted()
            if differ >> self._buckets[node] & 1
        ]
        self._effects.answer(link, request_id, GossipReply(editions, differ))

    def on_facts(self, now: float, link: LinkId, request_id: int, message: Facts) -> None:
        """Raises `ProtocolError`."""
        try:
            self._take_all(now, message.facts)
        except ProtocolError:
            self.counts["refused"] += 1
            raise
        found = (self.facts.get(NodeId(node)) for node in message.wanted)
        page = _page(fact for fact in found if fact is not None)
        self._effects.answer(link, request_id, FactsReply(page))

    def on_reply(self, now: float, source: NodeId, number: int, message: Message) -> bool:
        """True if this is an answer to gossip, be it a late one."""
        is_awaited = self._open.get(number, ("", 0.0))[0] == source
        if is_awaited:
            del self._open[number]
        try:
            if is_awaited and isinstance(message, GossipReply):
                self._compare(now, source, message)
            elif is_awaited and isinstance(message, FactsReply):
                self._take_all(now, message.facts)
            elif is_awaited and isinstance(message, Error) and message.error != NotReady.code:
                self._note(now, "gossip.refused", peer=source, reason=message.text)
        except ProtocolError as exc:
            self.counts["refused"] += 1
            self._note(now, "gossip.malformed", peer=source, reason=exc.message)
        return is_awaited or isinstance(message, GossipReply | FactsReply)

    def document(self) -> dict[str, dict[str, object]]:
        """For the status of the node, see inspect.py."""
        return {
            node: {
                "run": fact.edition[0],
                "version": fact.edition[1],
                "age_s": round(max(0.0, self._now - self._taken_at[node]), 3),
                **asdict(fact.portrait),
            }
            for node, fact in self._sorted()
        }

    def on_ring(self, now: float, ring: Ring) -> None:
        """Members have come or gone (`peers` says so already), and our epoch is news."""
        members = {self._node_id, *self._peers}
        for node in self.facts.keys() - members:
            self._digests[self._buckets[node]] ^= self.facts.pop(node).seal
            del self._taken_at[node]
        self._buckets = {node: _bucket(node) for node in members}
        self._order = [peer for peer in self._order if peer.node in members]
        self._open = {n: asked for n, asked in self._open.items() if asked[0] in members}
        if self.own is not None:
            self._renew(now)

    # --- our own rounds --------------------------------------------------------------------------

    def _renew(self, now: float) -> None:
        """Asserts how we are, if that is news."""
        portrait = self._draw(now)
        if self.own is None or portrait != self.own.portrait:
            self._assert(now, portrait)

    def _assert(self, now: float, portrait: Portrait) -> None:
        run, version = self._edition
        self._edition = edition = (run, version + 1)
        self.own = assert_fact(self._node_id, edition, portrait, cluster_id=self._cluster_id)
        self._keep(now, self.own)

    def _next_peer(self) -> Peer | None:
        """The next one in turn who can be asked; None if there is none."""
        for _ in range(2):
            while self._order:
                peer = self._order.pop()
                if peer.is_linked and peer.state in _ANSWERS:
                    return peer
            self._order = shuffled(self._dice, self._peers.values())
        return None

    def _compare(self, now: float, source: NodeId, reply: GossipReply) -> None:
        """What does the other one lack, and what do we? Raises `ProtocolError`."""
        theirs = {NodeId(node): edition for node, edition in map(_read_edition, reply.editions)}
        if self.own is not None and theirs.get(self._node_id, (0, 0)) > self.own.edition:
            self._refute(now, theirs[self._node_id])
        news = [
            fact
            for node, fact in self._sorted()
            if reply.differ >> self._buckets[node] & 1 and fact.edition > theirs.get(node, (0, 0))
        ]
        wanted: list[str] = [
            node
            for node, edition in theirs.items()
            if node in self._peers
            and (node not in self.facts or edition > self.facts[node].edition)
        ]
        if news or wanted:
            self.counts["exchanges"] += 1
            self._ask(now, source, Facts(_page(news), wanted))

    def _ask(self, now: float, node: NodeId, message: Message) -> None:
        number = self._take_number()
        self._open[number] = (node, now)
        self._effects.send([node], number, int(1000 * min(60.0, self._interval_s)), message)

    # --- the table -------------------------------------------------------------------------------

    def _take_all(self, now: float, sealed: Iterable[bytes]) -> None:
        """Takes those that are newer than what we have. Raises `ProtocolError`, and takes none."""
        for fact in [read_fact(data, cluster_id=self._cluster_id) for data in sealed]:
            if fact.node == self._node_id:
                self._meet_ourselves(now, fact)
            elif fact.node in self._peers and self._is_newer(fact):
                self.counts["facts_taken"] += 1
                self._keep(now, fact)
                self._on_fact(now, fact)

    def _is_newer(self, fact: Fact) -> bool:
        known = self.facts.get(fact.node)
        return known is None or fact.edition > known.edition

    def _keep(self, now: float, fact: Fact) -> None:
        node, bucket = fact.node, self._buckets[fact.node]
        if node in self.facts:
            self._digests[bucket] ^= self.facts[node].seal
        self._digests[bucket] ^= fact.seal
        self.facts[node] = fact
        self._taken_at[node] = now

    def _meet_ourselves(self, now: float, fact: Fact) -> None:
        if (
            self.own is not None
            and fact.edition >= self.own.edition
            and fact.sealed != self.own.sealed
        ):
            self._refute(now, fact.edition)

    def _refute(self, now: float, edition: Edition) -> None:
        """Somebody has said more about us than we have."""
        assert self.own is not None
        self.counts["refuted"] += 1
        self._note(now, "gossip.refuted", run=edition[0], version=edition[1])
        run, version = edition
        self._edition = edition if version < limits.EDITION_MAX else (run + 1, 0)
        self._assert(now, self.own.portrait)
        self._on_refuted(now)

    def _sorted(self) -> list[tuple[NodeId, Fact]]:
        return sorted(self.facts.items())

    def _note(self, now: float, event: str, **fields: object) -> None:
        if now - self._noted_at.get(event, -inf) >= limits.GOSSIP_NOTE_S:
            self._noted_at[event] = now
            self._effects.note(event, **fields)


def _bucket(node: NodeId) -> int:
    return blake2b(node.encode(), digest_size=8).digest()[0] % limits.GOSSIP_BUCKETS


def _read_edition(row: list[object]) -> tuple[str, Edition]:
    match row:
        case [str(node), run, version, *_]:
            return node, check_edition(run, version)
        case _:
            raise ProtocolError("an edition that is not [node id, run, version]")


def _page(facts: Iterable[Fact]) -> list[bytes]:
    """As many as go into one message; the next round brings the rest."""
    page: list[bytes] = []
    room = limits.GOSSIP_PAGE_BYTES
    for fact in facts:
        room -= len(fact.sealed)
        if room < 0:
            break
        page.append(fact.sealed)
    return page
