"""Anti-entropy: all owners of each partition are compared with each other, again and again.

Of each two owners of a partition the one that is earlier in its preference list begins. With each
peer this node has one **tour** under way at most: a job's (`core.jobs`), or a round of its own,
soon after the peer has come up and then once in an interval. (A little earlier each time, by which
rounds scatter: those of agents that were started together held up clients in the same second.)
A round takes the partitions in which that peer has missed too much to note (`core.hints`), then
those that were verified longest ago, as many as fit one message of roots.
Where nothing differs a round is one small message pair with each peer.

    due, or a job ──▶ Exchange ──▶ verdict by verdict ──▶ done … due again after the interval
            │            │ └─ under comparison with another owner: a little later
            │            └─ the link breaks, no answer, a full disk: pause, doubled each time
            └─ one of the two delivers hints to the other: not before these have arrived

What holds:

- A partition counts as verified with a peer since the *beginning* of the exchange that found, or
  made, all of it equal. What could not be (an unreadable copy) leaves it unverified.
- Everything it sends is granted by the background budget (design §8): clients come first.
- It stops while the agent drains.
- No two nodes begin to compare while a node that was away catches up with the other's hints: all of
  these would be found to differ, leaf by leaf, and be moved twice. Who delivers does not begin, and
  answers NotReady if it is asked (`core.counterpart`); either way the next attempt is
  `EXCHANGE_LATER_S` later. It is no failure. That it ends: `Delivery.is_serving`.
- A partition that was answered leaves its round. So a round ends under any load of writes, although
  these make roots stale all the time, and roots are told a few at a time then (`core.descent`).

The ring changes: exchanges under way end, since both sides must have the same ring, and begin anew.
Partitions that move are compared with nobody before they are settled: their copies are on the way.
What was verified stays so for two nodes that own it as they did.

Nothing of it is kept on disk: after a restart all counts as unverified since the start.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from zlib import crc32

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.counterpart import Busy, hints_first
from dynagent.core.exchange import Exchange
from dynagent.core.messages import Error, Message
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Ring
from dynagent.core.tour import AskOperation, Running, Tour
from dynagent.core.verdict import FIGURES, Verdict
from dynagent.errors import DynagentError


class _Pair:
    """This node and a peer."""

    __slots__ = (
        "due",
        "mine",
        "peer",
        "put_off_until",
        "round",
        "running",
        "tours",
        "verified",
        "wake_at",
    )

    def __init__(self, peer: NodeId, mine: list[PartitionId]) -> None:
        self.peer = peer
        self.mine = mine  # partitions that we compare with it
        self.verified: dict[PartitionId, float] = {}  # → when
        self.tours: list[Tour] = []  # of jobs
        self.round: Tour | None = None  # our own, while something is left of it
        self.running: Running | None = None
        self.due = inf  # of the next round; until the peer has come up: never
        self.put_off_until = -inf  # one of us delivers hints to the other
        self.wake_at = inf  # of the exchange under way


class AntiEntropy:
    """What this node compares with others. `interval_s`: between two rounds; 0: none by itself."""

    def __init__(
        self,
        coordinator: Coordinator,
        *,
        busy: Busy,
        is_serving: Callable[[NodeId], bool],
        interval_s: float,
        is_draining: Callable[[], bool],
    ) -> None:
        self.due = inf  # when `on_tick` is
        self.counts = dict.fromkeys(("rounds", "partitions", "failures", *FIGURES), 0)
        self._coordinator = coordinator
        self._replica = coordinator.replica
        self._busy = busy
        self._is_serving = is_serving  # `Delivery.is_serving`
        self.interval_s = interval_s
        self._is_draining = is_draining
        self._started: float | None = None
        self._pairs = {
            peer: _Pair(peer, mine)
            for peer, mine in compared_partitions(coordinator.ring, coordinator.node_id).items()
        }

    def on_ring(self, now: float, ring: Ring) -> None:
        """Jobs take their tours with peers that are gone away themselves (`core.repair`)."""
        before, self._pairs = self._pairs, {}
        for pair in before.values():
            if pair.running is not None:
                self._end(pair)
        for peer, mine in compared_partitions(ring, self._coordinator.node_id).items():
            pair = self._pairs[peer] = before.get(peer) or _Pair(peer, mine)
            if peer not in before and peer in self._coordinator.up:
                pair.due = now + min(self.interval_s, limits.ANTIENTROPY_UP_S)
            pair.mine = mine
            if pair.round is not None:
                pair.round, pair.due = None, now
            pair.verified = {at: when for at, when in pair.verified.items() if at in mine}
        self._reckon()

    def mine(self, peer: NodeId) -> list[PartitionId]:
        """The partitions that this node compares with that peer."""
        pair = self._pairs.get(peer)
        return pair.mine if pair is not None else []

    @property
    def peers(self) -> list[NodeId]:
        """With whom this node compares partitions."""
        return sorted(self._pairs)

    # --- what the node feeds ---------------------------------------------------------------------

    def wake(self, now: float, node: NodeId) -> None:
        """`node` has come up."""
        if self._started is None:
            self._started = now
        if (pair := self._pairs.get(node)) is None:
            return
        pair.due = now + min(self.interval_s, limits.ANTIENTROPY_UP_S)
        pair.round = None
        self._reckon()

    def on_tick(self, now: float) -> None:
        if self._is_draining():
            self.due = inf
            return
        if now < self.due:
            return
        for pair in self._pairs.values():
            if pair.running is None:
                self._begin(now, pair)
            elif now >= pair.wake_at:
                self._advance(now, pair)
        self._reckon()

    def add(self, now: float, tour: Tour) -> None:
        """A job's tour; it begins after those before it."""
        self._pairs[tour.peer].tours.append(tour)
        self._reckon()

    def cancel(self, tour: Tour) -> None:
        """It goes no further; what it has sent is merged nevertheless."""
        if (pair := self._pairs.get(tour.peer)) is None:
            return  # it owns nothing with us any more
        if tour in pair.tours:
            pair.tours.remove(tour)
        if pair.running is not None and pair.running.tour is tour:
            self._end(pair)
        self._reckon()

    # --- tours -----------------------------------------------------------------------------------

    def _begin(self, now: float, pair: _Pair) -> None:
        """The next tour, if one is due and hints do not come first."""
        if pair.peer not in self._coordinator.up or now < self._due_of(pair):
            return
        if self._is_serving(pair.peer):
            coordinator = self._coordinator
            self._put_off(now, pair, hints_first(coordinator.ring, coordinator.node_id, pair.peer))
            return
        tour = self._next_tour(now, pair)
        if tour is None or not tour.left:
            return
        tour.began, tour.since = now, self._replica.hints.committed
        exchange = Exchange(
            replica=self._replica,
            ring=self._coordinator.ring,
            node_id=self._coordinator.node_id,
            peer=pair.peer,
            partitions=tour.next_partitions(),
            on_verdict=tour.tell,
            busy=self._busy,
            prefix=tour.prefix,
            moves=tour.moves,
        )
        pair.running = Running(tour, exchange)
        self._advance(now, pair)

    def _next_tour(self, now: float, pair: _Pair) -> Tour | None:
        """The first one that is due: of jobs, else a round. A new round takes the place of the one
        before: what is left of that is part of it, and comes first."""
        tour = next((tour for tour in pair.tours if tour.due <= now), None)
        if tour is not None or not self.interval_s:
            return tour
        if now >= pair.due:
            self.counts["rounds"] += 1
            pair.due = now + self._rest_s(pair.peer)
            pair.round = Tour(pair.peer, self._round(pair), self._on_verdict)
        return pair.round if pair.round is not None and pair.round.due <= now else None

    def _rest_s(self, peer: NodeId) -> float:
        """Until the next round with that peer: another time for each pair and each round."""
        name = f"{self._coordinator.node_id} {peer} {self.counts['rounds']}"
        return self.interval_s * (1 - limits.ANTIENTROPY_SPREAD * crc32(name.encode()) / 2**32)

    def _round(self, pair: _Pair) -> list[PartitionId]:
        dirty = self._replica.hints.dirty.get(pair.peer, ())
        order = sorted(pair.mine, key=lambda at: (at not in dirty, pair.verified.get(at, -inf), at))
        return order[: limits.EXCHANGE_PARTITIONS_MAX]

    def _advance(self, now: float, pair: _Pair) -> None:
        """Sends what the exchange asks next, as far as the budget goes."""
        running, budget = pair.running, self._coordinator.budget
        assert running is not None
        exchange = running.exchange
        try:
            while not self._is_draining():
                if pair.peer not in self._coordinator.up:
                    self._fail(now, pair, "the peer is down")
                    return
                budget.spend(now, *exchange.take_spent())
                if not budget.grant(now, limits.BACKGROUND_GRANT_BYTES_MIN):
                    pair.wake_at = budget.next_grant_at(now)
                    return
                ask = exchange.take(now)
                if ask is None:
                    break
                operation = AskOperation(self._coordinator, now, pair.peer, ask, self._on_answer)
                running.operations.add(operation)
                budget_ms = operation.budget_ms(now)
                self._coordinator.send(now, [pair.peer], operation.number, budget_ms, ask.message)
        except DynagentError as exc:
            self._fail(now, pair, exc.message)
            return
        budget.spend(now, *exchange.take_spent())
        if exchange.is_done:
            self._end(pair)
            running.tour.due = now + limits.EXCHANGE_LATER_S  # if something is left of it
        else:
            pair.wake_at = exchange.due if exchange.due is not None else inf

    def _on_answer(self, now: float, operation: AskOperation, answer: Message | str | None) -> None:
        pair = self._pairs.get(operation.peer)
        if pair is None or pair.running is None or operation not in pair.running.operations:
            return
        running = pair.running
        if isinstance(answer, str):
            self._fail(now, pair, answer)
        elif isinstance(answer, Error):
            self._end(pair)
            self._put_off(now, pair, answer.text)
        else:
            try:
                batch = 0
                if answer is None:
                    running.exchange.on_durable(now, operation.ask)
                elif (found := running.exchange.on_reply(now, operation.ask, answer)) is not None:
                    batch = found
                    if not self._replica.when_durable(batch, (None, operation.number)):
                        running.exchange.on_durable(now, operation.ask)
            except DynagentError as exc:
                self._fail(now, pair, exc.message)
            else:
                if not batch:
                    running.operations.discard(operation)
                    operation.finish()
                self._advance(now, pair)
        self._reckon()

    def _end(self, pair: _Pair) -> None:
        """The exchange is over: whatever is still under way finds nobody. So is its tour if nothing
        is left of that, even if the peer went down just after the last verdict: a tour that stayed
        would bar the way to all behind it."""
        assert pair.running is not None
        tour = pair.running.tour
        for operation in pair.running.operations:
            operation.finish()
        pair.running, pair.wake_at = None, inf
        if not tour.left and tour in pair.tours:
            pair.tours.remove(tour)
        if not tour.left and tour is pair.round:
            pair.round = None

    def _fail(self, now: float, pair: _Pair, problem: str) -> None:
        assert pair.running is not None
        tour = pair.running.tour
        self._end(pair)
        self.counts["failures"] += 1
        tour.fail(now, problem)
        if tour is pair.round:  # the next one tries again
            pair.round = None
            pair.due = max(pair.due, now + tour.pause_s)

    def _put_off(self, now: float, pair: _Pair, problem: str) -> None:
        """These two are not to be compared yet. Jobs say so; it is no failure, and the pause does
        not grow: when it may begin, it does so soon."""
        for tour in pair.tours:
            tour.problem = problem
        pair.put_off_until = now + limits.EXCHANGE_LATER_S

    # --- verdicts --------------------------------------------------------------------------------

    def _on_verdict(self, now: float, tour: Tour, verdict: Verdict) -> None:
        self.note(tour, verdict)

    def note(self, tour: Tour, verdict: Verdict) -> None:
        """Counts a verdict, of a round or of a job."""
        self.counts["partitions"] += 1
        for figure in FIGURES:
            self.counts[figure] += getattr(verdict, figure)
        if verdict.is_verified and not tour.prefix:
            self._pairs[tour.peer].verified[verdict.partition] = tour.began

    def oldest_unverified_s(self, now: float) -> float:
        """How long ago the partition was verified that has waited longest; of those that this node
        compares."""
        since = [
            pair.verified.get(partition, self._started or now)
            for pair in self._pairs.values()
            for partition in pair.mine
        ]
        return max(0.0, now - min(since, default=now))

    def verified_s(self, now: float, partition: PartitionId) -> float:
        """How long ago it was verified with the last of the peers that this node compares it with;
        0: not with all of them since the start, or there are none."""
        since = [
            pair.verified.get(partition, inf)
            for pair in self._pairs.values()
            if partition in pair.mine
        ]
        return max(0.0, now - min(since)) if since and inf not in since else 0.0

    def document(self, now: float) -> dict[str, object]:
        """For the status of this node."""
        return {
            "interval_s": self.interval_s,
            "oldest_unverified_s": self.oldest_unverified_s(now),
            "under_way": [pair.peer for pair in self._pairs.values() if pair.running is not None],
            **self.counts,
        }

    def _reckon(self) -> None:
        """When `on_tick` is due: a peer that is down is waited for by `wake`."""
        due = inf
        for pair in self._pairs.values():
            if pair.running is not None:
                due = min(due, pair.wake_at)
            elif pair.peer in self._coordinator.up:
                due = min(due, self._due_of(pair))
        self.due = due

    def _due_of(self, pair: _Pair) -> float:
        """When to begin something with that peer."""
        waiting = [tour.due for tour in pair.tours]
        if self.interval_s:
            waiting += [pair.due, pair.round.due] if pair.round is not None else [pair.due]
        return max(pair.put_off_until, min(waiting, default=inf))


def compared_partitions(ring: Ring, node_id: NodeId) -> dict[NodeId, list[PartitionId]]:
    """By peer, the partitions that `node_id` compares with it: those that do not move, and of which
    it is the earlier owner of the two."""
    found: dict[NodeId, list[PartitionId]] = {}
    for number, owners in enumerate(ring.lists):
        if node_id in owners and number not in ring.moves:
            for peer in owners[owners.index(node_id) + 1 :]:
                found.setdefault(peer, []).append(PartitionId(number))
    return found
