"""Who can be used right now? Local and soft: it decides who gets a request, never who owns what.

Two things are watched: whether a peer answers *probes* (SWIM, Das et al. 2002), and whether it
answers *requests* (gray failure, Huang et al. 2017: pings pass, data hangs). A verdict changes the
set of nodes that are up, and lets operations that wait for the node fail over. No link is closed.

    ALIVE ──its link is down; a probe went unanswered──────▶ SUSPECT ──suspicion_s──▶ DEAD (a word)
      │ ▲                                                     │    any answer ◀───────┘
      │ └───── answered, as often in a row as it has earned ──┘
      │ ▲
      │ └──────── after a backoff it answers a Read: ALIVE, on trial
      ▼                                                    │
    GRAY ◀── GRAY_REQUESTS data requests unanswered for gray_s; on trial: one, for half of that

Peers have their turns in a **sweep**, an order of the dice's choice that is kept: so each has one
in every interval. SWIM (§4.3) draws a new order for each sweep, and a peer that is first in one and
last in the next waits for almost two. Members that join are let in at random places. One that is
new is suspect until its link is up, as everybody is at a start; of one that has gone nothing is
kept.

A **probe** of a peer from which nothing was heard of late has phases, each of them one
`probe_timeout_s`; any answer of any kind from the peer itself ends it:

    DIRECT    Pings, a third of the phase apart
    INDIRECT  the same, and k others are asked to ping it for us
    LAST      the same, if they had an answer: it lives, and only our way to it may be broken

In the end it is suspect, vouched or not: a request would hang as the Pings do. Who is vouched for
is not called dead. So a one-way cut makes both ends suspect each other, and nobody else.

**Local health** (Lifeguard, Dadgar et al. 2018), 0..8: our own tick comes late, helpers give no
sign, several peers time out at once: then it is rather us. Timeouts are (1 + health) times as long,
an answered probe takes one off. After a late tick whatever was due begins anew, so a paused node
accuses nobody of what it has slept through.

**Hysteresis**: who became suspect n times within a minute answers up to n − FLAPS_FREE probes in a
row, a quarter of an interval apart, before it is up again.

Time is the caller's monotonic clock; nothing here knows the hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from dynagent import limits
from dynagent.core.messages import (
    WANT_DIGEST,
    Error,
    Message,
    Ping,
    PingFor,
    Pong,
    Read,
    ReadReply,
    RingIs,
)
from dynagent.core.peer import ALIVE, DEAD, GRAY, SUSPECT, Peer, Timing
from dynagent.core.ports import Dice, Effects, LinkId, NodeId
from dynagent.core.relays import Relays
from dynagent.core.ring import Ring, Stamp
from dynagent.core.shuffle import shuffled
from dynagent.errors import Unreachable

IDLE, DIRECT, INDIRECT, LAST, PAUSE = range(5)
GRAY_KEY = b"\x00dynagent.probe"  # a Read of it goes the way of all data


def other_members(ring: Ring, node_id: NodeId) -> dict[NodeId, str]:
    """The names of all members that count, but `node_id`."""
    ids = {member.id: member.name for member in ring.members if member.id != node_id}
    return {node: name for node, name in ids.items() if node not in ring.removed}


class Detector:
    """The verdicts of one node about the others. `on_up` and `on_down` are told each change."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        names: dict[NodeId, str],
        effects: Effects,
        dice: Dice,
        timing: Timing,
        take_number: Callable[[], int],
        probe_stamp: Callable[[], Stamp],
        on_up: Callable[[float, NodeId], None],
        on_down: Callable[[float, NodeId], None],
    ) -> None:
        """`names` are the other members; `take_number` gives request ids that nobody else uses;
        `probe_stamp` the stamp under which `GRAY_KEY` is read now."""
        self.peers = {node: Peer(node) for node in sorted(names)}
        self.health = 0
        self.counts = {"probes": 0, "indirect_probes": 0, "suspicions": 0, "late_ticks": 0}
        self.relays = Relays(effects, take_number)
        self._node_id = node_id
        self._names = names
        self._effects = effects
        self._dice = dice
        self._timing = timing
        self._take_number = take_number
        self._probe_stamp = probe_stamp
        self._on_up = on_up
        self._on_down = on_down
        self._slot_s = self._slot_of(len(names))
        self._order: deque[Peer] = deque()  # of the sweeps; whose turn is next comes first
        self._probing: dict[NodeId, Peer] = {}  # in a phase other than IDLE
        self._asked_for: dict[int, tuple[Peer, NodeId]] = {}  # PingFor under way: target, helper
        self._visit_at = inf  # from the first link on
        self._round_at = inf
        self.due = inf  # when `on_tick` has something to do
        self._now = 0.0  # at the last tick
        self._timed_out_at = -inf  # when a direct probe last went unanswered

    # --- what the node feeds ---------------------------------------------------------------------

    def on_link_up(self, now: float, node: NodeId) -> None:
        """Its link has been greeted: a round trip."""
        peer = self.peers.get(node)
        if peer is None:
            return
        if self.due == inf:
            self._visit_at = now + self._slot_s * (1 + self._dice.getrandbits(8) / 256)
            self._round_at = self.due = self._visit_at
        peer.is_linked = True
        peer.heard_at = now
        if peer.state == GRAY:
            self._become(now, peer, SUSPECT)  # perhaps it has been started anew
        if not peer.is_alive:
            self._consider(now, peer, is_probe=False)

    def on_link_down(self, now: float, node: NodeId) -> None:
        peer = self.peers.get(node)
        if peer is None:
            return
        peer.is_linked = peer.is_vouched = False
        peer.asked = 0  # what was under way has failed
        self._rest(peer)
        if peer.is_alive:
            self._go_down(now, peer, SUSPECT)
        else:
            self._on_down(now, node)

    def on_ring(self, now: float, ring: Ring) -> None:
        """Members have come, gone, or changed their names."""
        names = other_members(ring, self._node_id)
        for node in sorted(self.peers.keys() - names):
            self._forget(now, node)
        for node in sorted(names.keys() - self.peers):
            peer = self.peers[node] = Peer(node)
            peer.since = now
            if self._order:  # otherwise the first sweep has not begun
                place = self._dice.getrandbits(16) % (len(self._order) + 1)
                self._order.insert(place, peer)
        self._names = names
        self._slot_s = self._slot_of(len(names))

    def _forget(self, now: float, node: NodeId) -> None:
        """It is no member any more: what waits for it fails."""
        peer = self.peers.pop(node)
        self._rest(peer)
        for number, (_, helper) in list(self._asked_for.items()):
            if helper == node:
                del self._asked_for[number]
        for other in self.peers.values():
            other.helpers.discard(node)
        if peer in self._order:
            self._order.remove(peer)
        self._on_down(now, node)

    def _slot_of(self, count: int) -> float:
        slots = min(max(1, count), limits.PROBES_PER_INTERVAL_MAX)
        return self._timing.probe_interval_s / slots

    def on_reply(self, now: float, node: NodeId, number: int, message: Message) -> None:
        """An answer for which no operation waits: to a probe, or of a straggler."""
        peer = self.peers.get(node)
        if peer is None:
            return
        kind = type(message)
        if kind is Pong and self.relays.on_pong(number):
            self.on_answer(now, peer, is_data=False)
        elif (asked := self._asked_for.pop(number, None)) is not None:
            target, helper = asked
            target.helpers.discard(helper)
            target.is_vouched |= kind is Pong
            self.on_answer(now, peer, is_data=False)
        else:
            is_probe = peer.phase in (DIRECT, INDIRECT, LAST) and (
                kind is Pong or (kind is ReadReply and peer.state == GRAY)
            )
            if is_probe:
                self.health = max(0, self.health - 1)
            # A refusal needs no disk: it is no sign that requests do not hang.
            is_straggler = kind not in (Pong, Error, RingIs) and not is_probe
            self.on_answer(now, peer, is_data=is_straggler, is_probe=is_probe)

    def on_answer(self, now: float, peer: Peer, *, is_data: bool, is_probe: bool = False) -> None:
        """Something came from the peer itself: it is refuted that it does not answer."""
        peer.heard_at = now
        if is_data:
            peer.asked = 0
            peer.backoff_s = 0.0
            peer.is_on_trial = False
            peer.is_unwell = not peer.is_alive
        if peer.phase not in (IDLE, PAUSE):
            self._rest(peer)
        if not peer.is_alive and (is_data or is_probe or peer.state != GRAY):
            self._consider(now, peer, is_probe=is_probe)

    def on_ping_for(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, target: str
    ) -> None:
        """Raises `Unreachable` or `Overloaded`."""
        peer = self.peers.get(NodeId(target))
        if peer is None or not peer.is_linked:
            raise Unreachable(f"no link to {target}")
        deadline = now + min(budget_ms, limits.BUDGET_MS_MAX) / 1000
        self.relays.begin(link, request_id, peer.node, deadline=deadline)
        self.due = min(self.due, deadline)

    def on_tick(self, now: float) -> None:
        self._now = now
        if now < self.due:
            return
        if now - self.due > self._timing.probe_interval_s / 2:
            self._wake(now)
        self.relays.on_tick(now)
        for peer in list(self._probing.values()):
            if peer.deadline <= now:
                self._expire(now, peer)
        if now >= self._visit_at:
            self._visit_at = max(now, self._visit_at + self._slot_s)  # late timers do not add up
            self._visit(now)
        if now >= self._round_at:
            self._round_at = now + self._timing.probe_interval_s
            self._look_round(now)
        first = min((peer.deadline for peer in self._probing.values()), default=inf)
        self.due = min(self._visit_at, self._round_at, first, self.relays.next_deadline)

    def peers_document(self) -> dict[str, dict[str, object]]:
        """For the status of the node, see inspect.py."""
        return {
            peer.node: {
                "state": peer.state,
                "since_s": round(max(0.0, self._now - peer.since), 3),
                "linked": peer.is_linked,
            }
            for peer in self.peers.values()
        }

    # --- probes ----------------------------------------------------------------------------------

    def _visit(self, now: float) -> None:
        """The next peer of the sweep; one that was heard from of late needs no probe."""
        if not self._order:
            self._order.extend(shuffled(self._dice, self.peers.values()))
        if not self._order:
            return  # all others have left
        peer = self._order[0]
        self._order.rotate(-1)
        is_fresh = peer.is_alive and now - peer.heard_at < self._timing.probe_interval_s / 2
        if not is_fresh:
            self._probe(now, peer)

    def _probe(self, now: float, peer: Peer) -> None:
        is_free = peer.is_linked and peer.phase in (IDLE, PAUSE)
        if is_free and (peer.state != GRAY or now >= peer.retry_at):
            peer.is_vouched &= not peer.is_alive
            self._enter(now, peer, DIRECT)

    def _enter(self, now: float, peer: Peer, phase: int) -> None:
        """Begins a phase with one more probe of our own."""
        peer.phase = phase
        peer.pings_left = limits.PINGS_A_PHASE
        self._probing[peer.node] = peer
        self._ping(now, peer)

    def _ping(self, now: float, peer: Peer) -> None:
        timeout_s = self._timing.probe_timeout_s * (1 + self.health)
        peer.pings_left -= 1
        peer.deadline = now + timeout_s / limits.PINGS_A_PHASE
        self.counts["probes"] += 1
        is_gray = peer.state == GRAY
        probe = Read(*self._probe_stamp(), GRAY_KEY, WANT_DIGEST) if is_gray else Ping()
        self._effects.send([peer.node], self._take_number(), int(timeout_s * 1000), probe)

    def _expire(self, now: float, peer: Peer) -> None:
        """The phase, or a part of it, has ended without an answer."""
        if peer.phase == PAUSE:
            self._probe(now, peer)
        elif peer.pings_left:
            self._ping(now, peer)
        elif not peer.is_alive:
            peer.streak = 0
            self._rest(peer)
        elif peer.phase == DIRECT:
            if now - self._timed_out_at < self._timing.probe_interval_s:
                self._doubt_ourselves()  # several at once
            self._timed_out_at = now
            self._enter(now, peer, INDIRECT)
            self._ask_helpers(peer)
        elif peer.phase == INDIRECT and peer.is_vouched:
            self._enter(now, peer, LAST)
        else:
            if peer.helpers:
                self._doubt_ourselves()  # not even a nack
            self._rest(peer)
            self._go_down(now, peer, SUSPECT, why="its probes have no answer")

    def _ask_helpers(self, peer: Peer) -> None:
        others = [other for other in self.peers.values() if other is not peer and other.is_alive]
        peer.helpers = {
            other.node for other in shuffled(self._dice, others)[: limits.PROBE_HELPERS]
        }
        # A little less than we wait ourselves, so that the nack comes in time.
        budget_ms = int(self._timing.probe_timeout_s * (1 + self.health) * 800)
        for helper in sorted(peer.helpers):
            number = self._take_number()
            self._asked_for[number] = (peer, helper)
            self.counts["indirect_probes"] += 1
            self._effects.send([helper], number, budget_ms, PingFor(peer.node))

    def _rest(self, peer: Peer) -> None:
        """No probe is under way, or none is any more."""
        peer.phase = IDLE
        self._probing.pop(peer.node, None)
        if peer.helpers or self._asked_for:
            peer.helpers.clear()
            over = [number for number, (target, _) in self._asked_for.items() if target is peer]
            for number in over:
                del self._asked_for[number]

    # --- ourselves -------------------------------------------------------------------------------

    def _doubt_ourselves(self) -> None:
        self.health = min(limits.LOCAL_HEALTH_MAX, self.health + 1)

    def _wake(self, now: float) -> None:
        """We have slept, or been busy: what was due meanwhile begins anew."""
        self.counts["late_ticks"] += 1
        self._doubt_ourselves()
        timeout_s = self._timing.probe_timeout_s * (1 + self.health)
        for peer in self._probing.values():
            peer.deadline = now + timeout_s
        for peer in self.peers.values():
            peer.hang_at = now

    # --- verdicts --------------------------------------------------------------------------------

    def _look_round(self, now: float) -> None:
        """Once in an interval: who hangs, who is dead, whom do requests wait for?"""
        timing = self._timing
        for peer in self.peers.values():
            if peer.state == SUSPECT:
                if now - peer.since >= timing.suspicion_s and not peer.is_vouched:
                    peer.state = DEAD
            elif peer.asked and peer.is_alive:
                if self._hangs(now, peer):
                    self._go_down(now, peer, GRAY, why="it answers pings, but no data requests")
                elif now - peer.heard_at >= timing.probe_interval_s:
                    self._probe(now, peer)  # in a large cluster its turn may be far away

    def _hangs(self, now: float, peer: Peer) -> bool:
        patience_s = self._timing.gray_s * (1 + self.health)
        if now - peer.asked_at > 2 * patience_s:
            return False  # long ago, perhaps on another link: it matters once it is asked again
        if peer.is_on_trial:
            patience_s /= 2
        elif peer.asked < limits.GRAY_REQUESTS:
            return False
        # Without a pong since then it is a matter of the probe.
        return now - peer.hang_at >= patience_s and peer.heard_at >= peer.hang_at

    def _go_down(self, now: float, peer: Peer, state: str, *, why: str = "") -> None:
        """`why` is for the log; the links tell themselves of their end."""
        self.counts["suspicions"] += 1
        peer.flaps.append(now)
        peer.streak = 0
        if state == GRAY:
            low, high = limits.GRAY_BACKOFF_S_MIN, limits.GRAY_BACKOFF_S_MAX
            peer.backoff_s = min(high, max(low, 2 * peer.backoff_s))
            peer.retry_at = now + peer.backoff_s
            peer.is_on_trial = True
            self._rest(peer)
        self._become(now, peer, state)
        if why:
            peer.is_accused = True
            name = self._names[peer.node]
            self._effects.note("peer.suspect", peer=name, state=state, reason=why)
        self._on_down(now, peer.node)

    def _consider(self, now: float, peer: Peer, *, is_probe: bool) -> None:
        """It has answered: is it up again?"""
        peer.streak += is_probe
        if not peer.is_linked:
            return
        if peer.streak >= self._needed(now, peer):
            was = peer.state
            self._rest(peer)
            self._become(now, peer, ALIVE)
            peer.asked = 0
            peer.is_vouched = False
            if peer.is_accused:
                peer.is_accused = False
                self._effects.note("peer.alive", peer=self._names[peer.node], was=was)
            self._on_up(now, peer.node)
        else:
            peer.phase = PAUSE
            peer.deadline = now + self._timing.probe_interval_s / 4
            self._probing[peer.node] = peer
            self.due = min(self.due, peer.deadline)

    def _needed(self, now: float, peer: Peer) -> int:
        """Probes that it must answer in a row."""
        while peer.flaps and now - peer.flaps[0] > limits.FLAP_WINDOW_S:
            peer.flaps.popleft()
        return max(0, len(peer.flaps) - limits.FLAPS_FREE)

    def _become(self, now: float, peer: Peer, state: str) -> None:
        peer.state = state
        peer.since = now
        peer.is_unwell = state != ALIVE or peer.is_on_trial
