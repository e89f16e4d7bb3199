"""How fast gossip is and what it costs: the product's own machine and frames, in virtual time.

    python -m benchmarks.gossip

For 5 to 200 nodes: rounds until all know what all have said at their start, and until all know one
change, without loss and with a tenth of all messages lost; bytes sent and received per node and
second while nothing changes, and while every node changes its load as often as it may. A frame
counts as many bytes as it has on the wire, without TCP's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import log2
from random import Random

from dynagent import limits
from dynagent.core.facts import Portrait
from dynagent.core.gossip import Gossiper
from dynagent.core.messages import Facts, Gossip, Message
from dynagent.core.peer import ALIVE, Peer
from dynagent.core.ports import LinkId, NodeId
from dynagent.wire.codec import encode_frame

SIZES = (5, 10, 20, 50, 100, 200)
INTERVAL_S = limits.GOSSIP_INTERVAL_S_DEFAULT
SEEDS = 10
TRIP_S = 0.005
LATE_S = 0.01  # timers are late
LOSS = 0.1
# At most so many rounds for S nodes: FACTOR × log2(S) + ROUNDS, a fifth over the worst of 10 seeds
# of each size. An exchange of much news is four messages: one lost costs all of it.
PROMISED = {  # what, loss: FACTOR, ROUNDS
    ("start", 0.0): (0.8, 2.0),
    ("change", 0.0): (0.6, 1.5),
    ("start", LOSS): (1.8, 3.0),
    ("change", LOSS): (1.0, 3.5),
}
IDLE_BYTES_PER_S_MAX = 2 * limits.KIB

Request = tuple["Host", "Host", int, Message]


class World:
    """All nodes, linked with each other."""

    def __init__(self, nodes: int, *, loss: float = 0.0, seed: int = 1) -> None:
        self.now = 0.0
        self.bytes = 0  # of all frames
        self._dice = Random(f"{nodes} {loss} {seed}")
        self._loss = loss
        self._heap: list[tuple[float, int, Host | tuple[bool, Host, Host, int, Message]]] = []
        self._scheduled = 0
        ids = [NodeId(f"{self._dice.getrandbits(64):016x}") for _ in range(nodes)]
        self.hosts = {node: Host(self, node, ids, Random(f"{seed} {node}")) for node in ids}
        for host in self.hosts.values():
            self.after(self._dice.random() * LATE_S, host)

    def after(self, delay_s: float, event: Host | tuple[bool, Host, Host, int, Message]) -> None:
        self._scheduled += 1
        heappush(self._heap, (self.now + delay_s, self._scheduled, event))

    def travel(
        self, is_reply: bool, source: Host, target: Host, number: int, message: Message
    ) -> None:
        frame = encode_frame(message, request_id=number, budget_ms=0 if is_reply else 1_000)
        self.bytes += len(frame)
        if self._dice.random() >= self._loss:
            delay_s = TRIP_S * (0.5 + self._dice.random())
            self.after(delay_s, (is_reply, source, target, number, message))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._heap[0][0] <= until:
            self.now, _, event = heappop(self._heap)
            if isinstance(event, Host):
                event.gossip.on_tick(self.now)
                self.after(event.gossip.due - self.now + self._dice.random() * LATE_S, event)
            else:
                is_reply, source, target, number, message = event
                if is_reply:
                    target.gossip.on_reply(self.now, source.id, number, message)
                else:
                    target.take(source, number, message)
        self.now = until

    def rounds_until_equal(self) -> float:
        """Until all tables are the same; looked at every twentieth of a round."""
        begun = self.now
        hosts = list(self.hosts.values())
        while True:
            editions = {node: host.edition for node, host in self.hosts.items()}
            if all(host.knows(editions) for host in hosts):
                return (self.now - begun) / INTERVAL_S
            assert self.now - begun < 1_000 * INTERVAL_S, "gossip does not converge"
            self.run(INTERVAL_S / 20)


class Host:
    """One node, of which there is nothing but gossip."""

    def __init__(self, world: World, node: NodeId, ids: Sequence[NodeId], dice: Random) -> None:
        self.id = node
        self.portrait = Portrait(
            name=f"node-{node[:4]}",
            address="192.168.100.100:7411",
            zone="zone-1",
            host=f"machine-{node[:4]}.example",
            release="1.0.0",
            epoch=17,
            started_ms=1_700_000_000_000,
            draining=False,
            keys=1_234_567,
            stored_bytes=1_234_567_890,
            requests_per_s=12_345,
            in_flight=123,
            hints=0,
            background_permille=1_000,
        )
        self._world = world
        self._last = 0
        self._asking: tuple[Host, int] | None = None
        peers = {other: Peer(other) for other in sorted(ids) if other != node}
        for peer in peers.values():
            peer.is_linked, peer.state = True, ALIVE
        self.gossip = Gossiper(
            node_id=node,
            cluster_id=b"c" * 16,
            run=3,
            peers=peers,
            draw=lambda _now: self.portrait,
            effects=self,
            dice=dice,
            interval_s=INTERVAL_S,
            take_number=self._take_number,
        )

    @property
    def edition(self) -> tuple[int, int]:
        return self.gossip.own.edition if self.gossip.own is not None else (0, 0)

    def knows(self, editions: dict[NodeId, tuple[int, int]]) -> bool:
        facts = self.gossip.facts
        return len(facts) == len(editions) and all(
            fact.edition == editions[node] for node, fact in facts.items()
        )

    def _take_number(self) -> int:
        self._last += 1
        return self._last

    def take(self, source: Host, number: int, message: Message) -> None:
        self._asking = (source, number)
        if isinstance(message, Gossip):
            self.gossip.on_gossip(LinkId(1), number, message)
        else:
            assert isinstance(message, Facts)
            self.gossip.on_facts(self._world.now, LinkId(1), number, message)

    def send(
        self, targets: Sequence[NodeId], request_id: int, budget_ms: int, message: Message
    ) -> None:
        for target in targets:
            self._world.travel(False, self, self._world.hosts[target], request_id, message)

    def answer(self, link: LinkId, request_id: int, message: Message) -> None:
        assert self._asking is not None
        self._world.travel(True, self, self._asking[0], request_id, message)

    def reconnect(self, ring: object) -> None: ...

    def adopt(self, ring: bytes, link: LinkId, request_id: int) -> None:
        raise AssertionError

    def note(self, event: str, **fields: object) -> None:
        raise AssertionError(f"{event} {fields}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Of one world."""

    start: float  # until all know all, from nothing
    change: float  # until all know one change


def converge(nodes: int, *, loss: float, seed: int) -> Rounds:
    world = World(nodes, loss=loss, seed=seed)
    start = world.rounds_until_equal()
    world.run(INTERVAL_S)
    host = world.hosts[min(world.hosts)]
    before = host.edition
    host.portrait = replace(host.portrait, epoch=18)
    while host.edition == before:
        world.run(INTERVAL_S / 20)  # its own timer; from there on it is gossip's
    return Rounds(start=start, change=world.rounds_until_equal())


def rounds_max(what: str, nodes: int, *, loss: float) -> float:
    """What is promised of the `start` or of a `change`."""
    factor, rounds = PROMISED[what, loss]
    return factor * log2(nodes) + rounds


def idle_bytes_per_s(nodes: int, *, rounds: int = 20) -> float:
    """Sent and received by each node and second, while nobody has anything new to say."""
    world = World(nodes)
    world.rounds_until_equal()
    world.run(INTERVAL_S)
    return _bytes_per_s(world, rounds)


def busy_bytes_per_s(nodes: int, *, rounds: int = 20) -> float:
    """The same while the load of each node is news as often as it is told."""
    world = World(nodes)
    world.rounds_until_equal()
    world.bytes = 0
    every = int(limits.LOAD_S / INTERVAL_S)
    for number in range(rounds):
        for place, host in enumerate(world.hosts.values()):
            if place % every == number % every:
                host.portrait = replace(host.portrait, requests_per_s=number)
        world.run(INTERVAL_S)
    return 2 * world.bytes / nodes / (rounds * INTERVAL_S)


def _bytes_per_s(world: World, rounds: int) -> float:
    world.bytes = 0
    world.run(rounds * INTERVAL_S)
    return 2 * world.bytes / len(world.hosts) / (rounds * INTERVAL_S)  # who sends, who receives


def main() -> None:
    print("rounds until all know all after a start, and one change: mean, worst, promised")
    print("nodes  loss  start               one change")
    for loss in (0.0, LOSS):
        for nodes in SIZES:
            runs = [converge(nodes, loss=loss, seed=seed) for seed in range(SEEDS)]
            columns = []
            for what in ("start", "change"):
                rounds = [getattr(run, what) for run in runs]
                promised = rounds_max(what, nodes, loss=loss)
                columns.append(f"{sum(rounds) / SEEDS:5.1f} {max(rounds):5.1f} {promised:5.1f}")
            print(f"{nodes:5} {loss:5.0%}  {'   '.join(columns)}", flush=True)
    print("\nbytes per node and second, sent and received: idle, and while all loads change")
    for nodes in SIZES:
        print(
            f"{nodes:5} {idle_bytes_per_s(nodes):6.0f} {busy_bytes_per_s(nodes):6.0f}", flush=True
        )


if __name__ == "__main__":
    main()
