"""The guard of the hot path: what a put, a get, a merge and a frame cost in CPU, without sockets.

    python -m benchmarks.guard             compares with benchmarks/guard.json; 1 if one is worse
    python -m benchmarks.guard --record    writes benchmarks/guard.json
    python -m benchmarks.guard --profile put_context

Three nodes in one process speak to each other in encoded frames, as agents do; the store is memory.
Each has two figures:

- *units*: CPU time of this thread divided by that of a fixed piece of Python that runs in turn with
  it, the least of many rounds of each. The ratio hardly moves from machine to machine, but a busy
  one adds up to a fifth to it: caches are shared;
- *calls*: how many functions are called, of Python and of C, counted exactly: always the same.

A change that makes a figure worse than its tolerance is either mended or recorded anew, with its
reason in the commit.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dynagent import limits
from dynagent.agent.links import Links
from dynagent.agent.packing import Packer
from dynagent.core.claim import plan
from dynagent.core.messages import (
    MODE_CONTEXT,
    MODE_OVERWRITE,
    ROLE_CLIENT,
    ROLE_PEER,
    Get,
    GetReply,
    Hello,
    Message,
    Put,
    PutReply,
    ReadReply,
)
from dynagent.core.node import Node
from dynagent.core.ports import LinkId, NodeId
from dynagent.core.ring import Member, Ring
from dynagent.store.memory import MemoryStore
from dynagent.wire.codec import Frame, decode_frame, encode_frame, unpack
from dynagent.wire.session import Session

BASELINE = Path(__file__).with_name("guard.json")
TOLERANCES = {"units": 0.15, "calls": 0.02}
ROUNDS = 100
KEYS = 1_000
IN_FLIGHT = 64  # operations of one round
VALUE = random.Random(1).randbytes(1_024)

Work = Callable[[], float]  # runs one round; CPU seconds per operation


class Pipe:
    """A connection (`env.Connection`) that keeps what is written to it."""

    remote = "memory"
    unsent = 0

    def __init__(self) -> None:
        self.out: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.out.append(data)

    def pause(self, *, is_paused: bool) -> None:
        assert not is_paused

    def close(self, reason: str) -> None:
        raise AssertionError(reason)

    def take(self) -> bytes:
        data = b"".join(self.out)
        self.out.clear()
        return data


class Host:
    """One agent without its sockets: the node, the links accepted by it, sessions to its peers."""

    def __init__(self, node_id: NodeId, ring: Ring, seed: int) -> None:
        self.store = MemoryStore()
        self.node = Node(
            node_id=node_id,
            ring=ring,
            reader=self.store,
            effects=self,
            dice=random.Random(seed),
            probe_dice=random.Random(seed),
            gossip_dice=random.Random(seed),
            ring_dice=random.Random(seed),
            wall_ms=lambda: 1_700_000_000_000,
            run=1,
            clean_from_run=1,
        )
        self.links = Links(self.node, lambda: _hello(ROLE_PEER, node_id), lambda: 0.0)
        self.peers: dict[NodeId, Dialled] = {}
        self.requests: Packer[NodeId] = Packer(lambda node, frame: self.peers[node].write(frame))
        self.replies = Packer(self.links.write)

    def connect(self, peers: Sequence[Host]) -> None:
        for peer in peers:
            if peer is not self:
                self.peers[peer.node.node_id] = Dialled(peer, ROLE_PEER, self.node.node_id)
                self.node.on_peer_up(0.0, peer.node.node_id)

    def turn(self) -> bool:
        """Everything that has come from the peers, then a commit; False if nothing was to do."""
        busy = bool(self.links.inbox)
        self.links.dispatch()
        self.requests.flush()
        self.replies.flush()
        for node_id, peer in self.peers.items():
            for frame in peer.exchange():
                message = frame.message
                assert message is not None
                self.node.on_reply(0.0, node_id, frame.request_id, message)
                if type(message) is ReadReply:
                    for request_id, reply in unpack(message):
                        self.node.on_reply(0.0, node_id, request_id, reply)
                busy = True
        if (batch := self.node.take_batch()) is not None:
            self.store.write(batch)
            self.node.on_committed(0.0, batch)
            busy = True
        return busy

    # --- effects (core.ports.Effects) ------------------------------------------------------------

    def send(
        self, targets: Sequence[NodeId], request_id: int, budget_ms: int, message: Message
    ) -> None:
        if not self.requests.add(targets, request_id, budget_ms, message):
            frame = encode_frame(message, request_id=request_id, budget_ms=budget_ms)
            for target in targets:
                self.peers[target].write(frame)

    def answer(self, link: LinkId, request_id: int, message: Message) -> None:
        if not self.replies.add((link,), request_id, 0, message):
            self.links.write(link, encode_frame(message, request_id=request_id, budget_ms=0))

    def reconnect(self, ring: Ring) -> None: ...

    def adopt(self, ring: bytes, link: LinkId, request_id: int) -> None:
        raise AssertionError("the ring is there from the start")

    def note(self, event: str, **fields: object) -> None:
        raise AssertionError(f"{event} {fields}")


class Dialled:
    """The dialling end of a link to a host: frames out, frames back."""

    def __init__(self, host: Host, role: int, node_id: str) -> None:
        self.out: list[bytes] = []
        self._pipe = Pipe()
        self._link = host.links.accept(self._pipe)
        self._session = Session(_hello(role, node_id), dialled=True)
        self._link.on_bytes(self._session.hello())
        self._session.receive(self._pipe.take())

    def write(self, frame: bytes) -> None:
        self.out.append(frame)

    def exchange(self) -> list[Frame]:
        """Delivers what waits, as one piece; the answers that have come so far."""
        if self.out:
            data = b"".join(self.out)
            self.out.clear()
            self._link.on_bytes(data)
        return self._session.receive(self._pipe.take()) if self._pipe.out else []


def _hello(role: int, node_id: str) -> Hello:
    return Hello(1, 1, role, b"", node_id, b"", [], limits.DATA_FRAME_BYTES_MAX, 0)


class Cluster:
    """Three hosts with `KEYS` keys, and a client of each."""

    def __init__(self) -> None:
        members = tuple(
            Member(
                id=NodeId(f"{n:016x}"), name=f"n{n}", address="", zone="", host=f"h{n}", capacity=1
            )
            for n in (1, 2, 3)
        )
        lists = plan(members=members, partitions=64, n=3).lists
        ring = Ring(
            epoch=1, cluster_id=b"guard" * 3 + b"!", n=3, r=2, w=2, members=members, lists=lists
        )
        self.hosts = [Host(member.id, ring, place) for place, member in enumerate(members)]
        for host in self.hosts:
            host.connect(self.hosts)
        self.clients = [Dialled(host, ROLE_CLIENT, "") for host in self.hosts]
        self.contexts: dict[bytes, bytes] = {}
        self.keys = [b"key-%d" % number for number in range(KEYS)]
        self._dice = random.Random(2)
        for start in range(0, KEYS, IN_FLIGHT):
            keys = self.keys[start : start + IN_FLIGHT]
            self.run([(key, _put(key, MODE_OVERWRITE, b"")) for key in keys])

    def pick(self) -> list[bytes]:
        return self._dice.sample(self.keys, IN_FLIGHT)

    def run(self, requests: Sequence[tuple[bytes, Message]]) -> float:
        """All of them at once; CPU seconds until nothing is left to do, without the client's."""
        for place, (_key, message) in enumerate(requests):
            frame = encode_frame(message, request_id=place + 1, budget_ms=5_000)
            self.clients[place % 3].out.append(frame)
        inbound = [(client, b"".join(client.out)) for client in self.clients]
        start = time.thread_time()
        for client, data in inbound:
            client.out.clear()
            client._link.on_bytes(data)
        while sum(host.turn() for host in self.hosts):  # each has its turn
            pass
        spent = time.thread_time() - start
        replies = [frame for client in self.clients for frame in client.exchange()]
        assert len(replies) == len(requests)
        for frame in replies:
            reply = frame.message
            assert isinstance(reply, PutReply | GetReply), reply
            self.contexts[requests[frame.request_id - 1][0]] = reply.context
        return spent / len(requests)


def _put(key: bytes, mode: int, context: bytes) -> Put:
    return Put(key, VALUE, mode, context, os.urandom(16))


def figures() -> dict[str, Work]:
    """What is guarded, by name."""
    return {**figures_of(Cluster()), "frame": _frames()}


def figures_of(cluster: Cluster) -> dict[str, Work]:
    """What is guarded of a cluster."""
    kept = cluster.contexts
    return {
        "put_context": lambda: cluster.run(
            [(key, _put(key, MODE_CONTEXT, kept[key])) for key in cluster.pick()]
        ),
        "put_overwrite": lambda: cluster.run(
            [(key, _put(key, MODE_OVERWRITE, b"")) for key in cluster.pick()]
        ),
        "get": lambda: cluster.run([(key, Get(key)) for key in cluster.pick()]),
    }


def _frames() -> Work:
    message = Put(b"key", VALUE, MODE_CONTEXT, b"c" * 20, b"o" * 16)

    def work() -> float:
        start = time.thread_time()
        for number in range(IN_FLIGHT):
            decode_frame(encode_frame(message, request_id=number, budget_ms=5_000)[4:])
        return (time.thread_time() - start) / IN_FLIGHT

    return work


def calibration() -> float:
    """A fixed piece of Python of the same kind: calls, attributes, dicts, bytes."""
    start = time.thread_time()
    table: dict[int, _Item] = {}
    for number in range(2_000):
        table[number % 97] = item = _Item(number, b"x" * (number % 50))
        item.double()
    return (time.thread_time() - start) / 2_000


class _Item:
    __slots__ = ("data", "number")

    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self.data = data

    def double(self) -> None:
        self.number += self.number
        self.data = self.data + b"-" + self.data[:10]


def measure() -> dict[str, dict[str, float]]:
    """Both figures of each piece of work."""
    works = figures()
    calls = {name: count_calls(work) for name, work in works.items()}
    unit = min(calibration() for _ in range(20))
    least = dict.fromkeys(works, 1.0)
    for _ in range(ROUNDS):
        unit = min(unit, calibration())
        for name, work in works.items():
            least[name] = min(least[name], work())
    print(f"one unit is {unit * 1e6:.3f} µs here")
    return {
        name: {"units": round(least[name] / unit, 1), "calls": round(calls[name], 1)}
        for name in works
    }


def count_calls(work: Work) -> float:
    """Functions called in one round, for each operation of it; with what the round itself does."""
    count = 0

    def on_event(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count / IN_FLIGHT


def main() -> int:
    """Compares, records or profiles."""
    parser = argparse.ArgumentParser(description="guard of the hot path")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--profile", metavar="FIGURE")
    options = parser.parse_args()
    if options.profile:
        _profile(figures()[options.profile])
        return 0
    got = measure()
    if options.record:
        BASELINE.write_text(json.dumps(got, indent=2) + "\n", encoding="utf-8")
    recorded: dict[str, dict[str, float]] = json.loads(BASELINE.read_text(encoding="utf-8"))
    worse = False
    for name, kinds in got.items():
        for kind, figure in kinds.items():
            change = figure / recorded[name][kind] - 1
            is_worse = change > TOLERANCES[kind]
            worse |= is_worse
            print(
                f"{name:14} {figure:8.1f} {kind}, recorded {recorded[name][kind]:8.1f} "
                f"{change:+7.1%}{'  WORSE' if is_worse else ''}"
            )
    return int(worse)


def _profile(work: Work) -> None:
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(50):
        work()
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    sys.exit(main())
