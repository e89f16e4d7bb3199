"""What it costs to compare replicas: the product's own nodes and frames, three of them in memory.

    python -m benchmarks.exchange [KEYS] [DIFFERING]

An idle pass: every pair of three owners compares all 256 partitions, and nothing differs. Then one
owner has missed some keys (20,000 and 100 of them, if not told otherwise), and a repair job runs on
all three. Bytes are those of the frames, without TCP's own; CPU time is of all three, with the
encoding of what they send; the rest before the second look costs none.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from random import Random

from dynagent import limits
from dynagent.core.entry import Record, encode_sibling
from dynagent.core.messages import JOB_START, JobRequest, LookReply, Merge, Message
from dynagent.core.node import Node
from dynagent.core.ports import Batch, LinkId, NodeId
from dynagent.core.ring import Member, Ring, token_of
from dynagent.core.settings import Settings
from dynagent.core.siblings import EMPTY
from dynagent.store.memory import MemoryStore
from dynagent.wire.codec import encode_frame

PARTITIONS = 256
IDLE_BYTES_MAX = 64 * limits.KIB
IDLE_CPU_S_MAX = 1.0
REPAIR_BYTES_MAX = limits.MIB
IDS = tuple(NodeId(letter * 16) for letter in "abc")
_ORDERS = LinkId(-1)


class World:
    """Three nodes, whose messages arrive at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.bytes = self.frames = self.moved = self.jobs = 0
        self.ring = Ring(
            epoch=1,
            cluster_id=b"c" * 16,
            n=3,
            r=2,
            w=2,
            members=tuple(
                Member(id=node, name=node[0], address="h:1", zone="", host=node, capacity=1)
                for node in IDS
            ),
            lists=tuple(
                tuple(IDS[(at + place) % 3] for place in range(3)) for at in range(PARTITIONS)
            ),
        )
        self.stores = {node: MemoryStore() for node in IDS}
        self.queue: list[tuple[NodeId, NodeId, int, int | None, Message]] = []
        self.nodes = {node: self._node(node) for node in IDS}
        for node in self.nodes.values():
            for peer in IDS:
                node.on_peer_up(self.now, peer)

    def _node(self, node_id: NodeId) -> Node:
        return Node(
            node_id=node_id,
            ring=self.ring,
            reader=self.stores[node_id],
            effects=_Effects(self, node_id),
            dice=Random(1),
            probe_dice=Random(1),
            gossip_dice=Random(1),
            ring_dice=Random(1),
            wall_ms=lambda: 1_700_000_000_000,
            run=1,
            clean_from_run=1,
            settings=Settings(
                antientropy_interval_s=0,
                tombstone_rest_s=0,
            ),
        )

    def fill(self, keys: Sequence[bytes], nodes: Sequence[NodeId]) -> None:
        """Those nodes have a record of 100 bytes of each key, the same one."""
        replica = self.nodes[nodes[0]].replica
        for start in range(0, len(keys), 1_000):
            replica.merge([(key, _record(key)) for key in keys[start : start + 1_000]], barrier=0)
            batch = replica.take_batch()
            assert batch is not None
            for node in nodes:
                self.stores[node].write(batch)
            self.nodes[nodes[0]].on_committed(self.now, batch)

    def start_again(self) -> None:
        """All nodes, on what their stores hold."""
        self.queue.clear()
        self.nodes.update({node: self._node(node) for node in IDS})
        for node in self.nodes.values():
            for peer in IDS:
                node.on_peer_up(self.now, peer)
        self.pass_time(5.0)
        self.bytes = self.frames = self.moved = 0

    def repair(self) -> float:
        """A repair job on all; the CPU seconds that it took."""
        began = time.process_time()
        self.jobs += 1
        request = JobRequest(JOB_START, f"{self.jobs:016x}", "repair")
        for node in self.nodes.values():
            node.on_message(self.now, _ORDERS, 0, 1_000, request)
        while any(node.jobs is not None and node.jobs.under_way for node in self.nodes.values()):
            self.pass_time(0.1)
        return time.process_time() - began

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.05
            for node in self.nodes.values():
                due = node.next_deadline()
                if due is not None and due <= self.now:
                    node.on_tick(self.now)
            self._settle()

    def _settle(self) -> None:
        while self.queue or self._commit():
            while self.queue:
                source, target, number, budget_ms, message = self.queue.pop(0)
                node = self.nodes[target]
                if budget_ms is None:
                    node.on_reply(self.now, source, number, message)
                else:
                    link = LinkId(IDS.index(source))
                    node.on_message(self.now, link, number, budget_ms, message)

    def _commit(self) -> bool:
        batches: list[tuple[NodeId, Batch]] = []
        for node_id, node in self.nodes.items():
            if (batch := node.take_batch()) is not None:
                self.stores[node_id].write(batch)
                batches.append((node_id, batch))
        for node_id, batch in batches:
            self.nodes[node_id].on_committed(self.now, batch)
        return bool(batches)

    def send(self, source: NodeId, target: NodeId, number: int, budget_ms: int | None,
             message: Message) -> None:  # fmt: skip
        if message.code >= 50 or message.code in (Merge.code, Merge.code + 1):
            self.frames += 1
            self.bytes += len(encode_frame(message, request_id=number, budget_ms=budget_ms or 0))
            if isinstance(message, Merge | LookReply):
                self.moved += len(message.entries)
        self.queue.append((source, target, number, budget_ms, message))


class _Effects:
    def __init__(self, world: World, node: NodeId) -> None:
        self._world = world
        self._node = node

    def send(
        self, targets: Sequence[NodeId], request_id: int, budget_ms: int, message: Message
    ) -> None:
        for target in targets:
            self._world.send(self._node, target, request_id, budget_ms, message)

    def answer(self, link: LinkId, request_id: int, message: Message) -> None:
        if link != _ORDERS:
            self._world.send(self._node, IDS[link], request_id, None, message)

    def reconnect(self, ring: Ring) -> None: ...

    def adopt(self, ring: bytes, link: LinkId, request_id: int) -> None:
        raise AssertionError("these nodes have their ring")

    def note(self, event: str, **fields: object) -> None:
        pass


def _record(key: bytes) -> Record:
    sibling = encode_sibling(
        dot=(int.from_bytes(token_of(key)[:7], "big") + 1, 1),
        wall_ms=1_700_000_000_000,
        content=0,
        expiry_ms=0,
        op_id=token_of(key),
        meta={},
        value=key.ljust(100, b"."),
    )
    return Record(EMPTY.write({}, sibling))


def main() -> int:
    """Prints the figures; exit status 1 if one of them is over its bound."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    differing = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    keys = [b"key/%d" % number for number in range(count)]
    world = World()
    world.fill(keys[differing:], IDS)
    world.start_again()
    cpu_s = world.repair()
    idle_bytes = world.bytes
    print(
        f"idle pass of 3 pairs × {PARTITIONS} partitions, {count:,} keys: {world.frames} frames, "
        f"{idle_bytes:,} bytes, {cpu_s * 1000:.0f} ms of CPU"
    )
    idle_holds = idle_bytes <= IDLE_BYTES_MAX and cpu_s <= IDLE_CPU_S_MAX and not world.moved
    world.start_again()
    world.fill(keys[:differing], IDS[:2])
    world.start_again()
    cpu_s = world.repair()
    print(
        f"repair of {differing} keys that one owner has missed: {world.frames} frames, "
        f"{world.bytes:,} bytes, {world.moved} records moved, {cpu_s * 1000:.0f} ms of CPU"
    )
    equal = len({tuple(node.replica.forest.root(at) for at in range(PARTITIONS))  # type: ignore[arg-type]
                 for node in world.nodes.values()}) == 1  # fmt: skip
    repair_holds = world.bytes <= REPAIR_BYTES_MAX and world.moved == differing and equal
    return 0 if idle_holds and repair_holds else 1


if __name__ == "__main__":
    sys.exit(main())
