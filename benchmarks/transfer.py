"""What a join costs: four of the product's own nodes, with frames and SQLite, in one process.

    python -m benchmarks.transfer [RECORDS] [VALUE_BYTES]

Three nodes hold all records (50,000 of 100 bytes, if not told otherwise), and a fourth takes over
three quarters of the places. Told are the bytes of all frames that the change cost, against those
of the records that the new owner had to get, for the copying and for the clearing at the former
owners; and the CPU time of each side, with frames and stores, without fsync. Nobody writes
meanwhile, and messages arrive at once: what the budget allows is not looked at.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from dynagent.core.entry import Record, encode_sibling
from dynagent.core.messages import Merge, Message, Propose, PullReply
from dynagent.core.node import Node
from dynagent.core.ports import LinkId, NodeId, PartitionId
from dynagent.core.ring import Member, Ring, token_of
from dynagent.core.ringentry import ChangeEntry, Entry, encode_log_entry
from dynagent.core.settings import Settings
from dynagent.core.siblings import EMPTY
from dynagent.store.sqlite import SqliteStore
from dynagent.wire.codec import decode_frame, encode_frame

PARTITIONS = 256
BYTES_MAX = 1.05  # of those of the records that move
IDS = tuple(NodeId(letter * 16) for letter in "abcd")
OLD, NEW = IDS[:3], IDS[3]
_CLIENT = LinkId(len(IDS))
_TRANSFER = range(90, 102)  # codes of its messages
_STEP_S = 0.05


class World:
    """Four nodes, whose messages arrive at once."""

    def __init__(self, directory: Path) -> None:
        self.now = 0.0
        self.bytes = self.frames = self.records = 0
        self.cpu_s = dict.fromkeys(IDS, 0.0)
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
                tuple(OLD[(at + place) % 3] for place in range(3)) for at in range(PARTITIONS)
            ),
            voters=OLD,
        )
        self.stores = {
            node: SqliteStore(directory / f"{node}.sqlite", synchronous="OFF") for node in IDS
        }
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
            ring_dice=Random(node_id),
            wall_ms=lambda: 1_700_000_000_000,
            run=1,
            clean_from_run=1,
            settings=Settings(antientropy_interval_s=0, tombstone_rest_s=0),
        )

    def fill(self, count: int, value_bytes: int) -> None:
        """The old owners have so many records, the same ones."""
        replica = self.nodes[OLD[0]].replica
        for start in range(0, count, 500):
            numbers = range(start, min(count, start + 500))
            records = [(b"key/%d" % at, _record(b"key/%d" % at, value_bytes)) for at in numbers]
            replica.merge(records, barrier=0)
            batch = replica.take_batch()
            assert batch is not None
            for node in OLD:
                self.stores[node].write(batch)
            self.nodes[OLD[0]].on_committed(self.now, batch)
        for node in OLD:  # that their trees know
            self.nodes[node] = self._node(node)
            for peer in IDS:
                self.nodes[node].on_peer_up(self.now, peer)
        self.pass_time(10.0)
        self.cpu_s = dict.fromkeys(IDS, 0.0)

    def join(self) -> None:
        """The new node takes the last place of three partitions in four, whoever has that."""
        moves = []
        for at, owners in enumerate(self.ring.lists):
            if at % 4:
                moves.append((PartitionId(at), (*owners[:2], NEW)))
        entry = ChangeEntry(
            id=b"j" * 16, verb="join", members=self.ring.members, leaving=(), removed=(),
            moves=tuple(moves),
        )  # fmt: skip
        content = encode_log_entry(Entry(content=entry, proposer=OLD[0], wall_ms=0))
        self.nodes[OLD[0]].on_message(self.now, _CLIENT, 1, 5_000, Propose(content, 1))

    @property
    def is_settled(self) -> bool:
        rings = [node.ring for node in self.nodes.values()]
        return all(ring is not None and ring.epoch > 1 and ring.change is None for ring in rings)

    @property
    def is_cleared(self) -> bool:
        formers = [node.former for node in self.nodes.values()]
        return all(former is not None and former.is_empty for former in formers)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += _STEP_S
            for id_, node in self.nodes.items():
                due = node.next_deadline()
                if due is not None and due <= self.now:
                    self._charge(id_, lambda node=node: node.on_tick(self.now))  # type: ignore[misc]
            self._settle()

    def _charge(self, id_: NodeId, work: object) -> None:
        began = time.process_time()
        work()  # type: ignore[operator]
        self.cpu_s[id_] += time.process_time() - began

    def _settle(self) -> None:
        while self.queue or self._commit():
            while self.queue:
                source, target, number, budget_ms, message = self.queue.pop(0)
                began = time.process_time()
                frame = encode_frame(message, request_id=number, budget_ms=budget_ms or 0)
                self.cpu_s[source] += time.process_time() - began
                if message.code in _TRANSFER or isinstance(message, Merge):
                    self.frames += 1
                    self.bytes += len(frame)
                    if isinstance(message, PullReply):
                        self.records += len(message.entries)
                began = time.process_time()
                message = decode_frame(frame[4:]).message
                node = self.nodes[target]
                if budget_ms is None:
                    node.on_reply(self.now, source, number, message)
                else:
                    link = LinkId(IDS.index(source))
                    node.on_message(self.now, link, number, budget_ms, message)
                self.cpu_s[target] += time.process_time() - began

    def _commit(self) -> bool:
        has_written = False
        for id_, node in self.nodes.items():
            began = time.process_time()
            if (batch := node.take_batch()) is not None:
                self.stores[id_].write(batch)
                node.on_committed(self.now, batch)
                has_written = True
            self.cpu_s[id_] += time.process_time() - began
        return has_written


class _Effects:
    def __init__(self, world: World, node: NodeId) -> None:
        self._world = world
        self._node = node

    def send(
        self, targets: Sequence[NodeId], request_id: int, budget_ms: int, message: Message
    ) -> None:
        for target in targets:
            self._world.queue.append((self._node, target, request_id, budget_ms, message))

    def answer(self, link: LinkId, request_id: int, message: Message) -> None:
        if link != _CLIENT:
            self._world.queue.append((self._node, IDS[link], request_id, None, message))

    def reconnect(self, ring: Ring) -> None: ...

    def adopt(self, ring: bytes, link: LinkId, request_id: int) -> None:
        raise AssertionError("these nodes have their ring")

    def note(self, event: str, **fields: object) -> None: ...


def _record(key: bytes, value_bytes: int) -> Record:
    sibling = encode_sibling(
        dot=(int.from_bytes(token_of(key)[:7], "big") + 1, 1),
        wall_ms=1_700_000_000_000,
        content=0,
        expiry_ms=0,
        op_id=token_of(key),
        meta={},
        value=key.ljust(value_bytes, b"."),
    )
    return Record(EMPTY.write({}, sibling))


def main() -> int:
    """Prints the figures; exit status 1 if too many bytes were moved, or too few records."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    value_bytes = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        world.fill(count, value_bytes)
        world.join()
        while not world.is_settled:
            world.pass_time(_STEP_S)
        joiner = world.nodes[NEW]
        assert joiner.transfers is not None
        share = joiner.replica.forest.records
        figures = joiner.transfers.document(world.now)
        ratio = world.bytes / figures["bytes"]  # type: ignore[operator]
        print(
            f"join: {share:,} records of {value_bytes} bytes, {world.records:,} moved in "
            f"{world.frames:,} frames; {world.bytes:,} bytes of frames for {figures['bytes']:,} "
            f"of records, {ratio:.3f} times; {world.now:.1f} s of the budget's time"
        )
        sources = sum(world.cpu_s[node] for node in OLD)
        print(
            f"CPU a record: {1e6 * world.cpu_s[NEW] / share:.1f} µs at the new owner, "
            f"{1e6 * sources / share:.1f} µs at all sources"
        )
        is_good = ratio <= BYTES_MAX and world.records <= BYTES_MAX * share
        world.cpu_s = dict.fromkeys(IDS, 0.0)
        before = world.bytes
        while not world.is_cleared:
            world.pass_time(_STEP_S)
        print(
            f"former owners: {world.bytes - before:,} bytes of frames; CPU a record dropped: "
            f"{1e6 * sum(world.cpu_s.values()) / share:.1f} µs at all nodes"
        )
        return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
