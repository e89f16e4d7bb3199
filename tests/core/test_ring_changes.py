"""A running node whose ring changes has the tables of one that has just started with that ring.

Random histories of rings (`ring_histories.py`) under puts, deletes, hints, gossip and exchanges, of
which messages are lost and batches refused. After each entry a node of the dice's choice either is
held against a new one on the same disk, or crashes and is held against the disk.
"""

from __future__ import annotations

from random import Random

import pytest

from dynagent.core.entry import decode_stored
from dynagent.core.messages import (
    JOB_START,
    MODE_OVERWRITE,
    Get,
    Invite,
    JobRequest,
    LogReply,
    Message,
    Put,
)
from dynagent.core.node import Node
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Member, token_of
from dynagent.core.ringcodec import encode_ring
from dynagent.core.ringentry import Entry, encode_log_entry, fold
from dynagent.core.tombstones import TOMBSTONES, is_tombstone
from tests.core.harness import CLUSTER_ID, IDS, Cluster, make_ring, op
from tests.core.ring_histories import next_content

KEYS = [b"k%d" % number for number in range(24)]  # three in each partition
FIRST = make_ring(2, others=1)
SPARE = Member(id=IDS[3], name="n-d", address="h:1", zone="", host=IDS[3], capacity=1)


class World:
    """Three members of a ring with N=2, and a fourth node that may join."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.c = Cluster(FIRST, bounds={"owner_hints_max": 5})
        self.ring = FIRST
        self.entries: list[bytes] = []
        self.puts = 0

    # --- the ring ------------------------------------------------------------------------------

    def change(self) -> None:
        """The next entry, and who learns it now: whoever does not hears of it with a later one."""
        spare = [] if self.ring.member(SPARE.id) or SPARE.id in self.c.nodes else [SPARE]
        content = next_content(self.dice, self.ring, spare)
        entry = Entry(content=content, proposer=IDS[0], wall_ms=0)
        self.ring = fold(self.ring, entry)
        self.entries.append(encode_log_entry(entry))
        if self.ring.member(SPARE.id) is not None and SPARE.id not in self.c.nodes:
            self.join()
        for id_ in self.c.nodes:
            if self.dice.random() < 0.8:
                self.tell(id_)

    def join(self) -> None:
        self.c.add(SPARE.id)
        self.c.request(SPARE.id, Invite(encode_ring(self.ring)))
        self.c.adopt()

    def tell(self, id_: NodeId) -> None:
        ringlog = self.c.nodes[id_].ringlog
        if ringlog is None or self.c.nodes[id_].is_removed:
            return
        ringlog.take(self.c.now, LogReply(self.ring.epoch, 2, self.entries))
        self.c.commit(id_)
        if self.dice.random() < 0.2:  # what the new ring makes of the rows is not on the disk yet
            self.crash(id_)

    # --- everything else -----------------------------------------------------------------------

    def work(self) -> None:
        dice, c = self.dice, self.c
        for _ in range(dice.randint(1, 6)):
            c.request(dice.choice(list(c.nodes)), self.request())
        if dice.random() < 0.2:
            one, other = dice.sample(list(c.nodes), 2)
            c.nodes[one].on_peer_down(c.now, other)
        if dice.random() < 0.2:
            id_ = f"{dice.getrandbits(64):016x}"
            kind = dice.choice(["repair", "scrub"])
            c.request(dice.choice(list(c.nodes)), JobRequest(JOB_START, id_, kind))
        for _ in range(dice.randint(0, 80)):
            self.step()
        c.tick(c.now + dice.choice([0.05, 0.3, 2.0]))

    def request(self) -> Message:
        key = self.dice.choice(KEYS)
        if self.dice.random() < 0.3:
            return Get(key)
        self.puts += 1
        value = self.dice.randbytes(5) if self.dice.random() < 0.6 else None
        return Put(key, value, MODE_OVERWRITE, b"", op(self.puts))

    def step(self) -> None:
        """Something arrives, or is lost; a batch becomes durable, or is refused."""
        dice, c = self.dice, self.c
        if c.wire and dice.random() < 0.8:
            packet = c.wire[dice.randrange(min(3, len(c.wire)))]
            if dice.random() < 0.9:
                c.deliver(packet)
            else:
                c.wire.remove(packet)
            return
        id_ = dice.choice(list(c.nodes))
        if (batch := c.nodes[id_].take_batch()) is not None:
            if dice.random() < 0.95:
                c.finish(id_, batch)
            else:
                c.nodes[id_].on_refused(c.now)

    def examine(self) -> None:
        id_ = self.dice.choice(list(self.c.nodes))
        if self.dice.random() < 0.5:
            while self.c.commit(id_):
                pass
            node = self.c.nodes[id_]
            check_figures(self.c, id_, node)
            newborn = self.c.newborn(id_)
            assert tables(node) == tables(newborn)
            # One that starts may look once more for copies where none are left; never less often.
            assert node.is_removed or node.replica.hints.former <= newborn.replica.hints.former
            check_kept(node)
        else:
            self.crash(id_)

    def crash(self, id_: NodeId) -> None:
        check_figures(self.c, id_, self.c.newborn(id_))
        self.c.restart(id_)


# --- what is held against what -------------------------------------------------------------------


def tables(node: Node) -> dict[str, object]:
    """Whatever a node derives from its ring and its disk."""
    ring, replica = node.ring, node.replica
    assert ring is not None
    if node.is_removed:
        return {"ring": ring, "removed": True}
    rebuild(node)
    hints, barriers, forest = replica.hints, replica.barriers, replica.forest
    partitions = [PartitionId(at) for at in range(ring.partitions)]
    assert node.coordinator is not None
    assert node.detector is not None
    assert node.gossip is not None
    assert node.antientropy is not None
    return {
        "ring": ring,
        "owned": hints.owned,
        "hints": (hints.counts, hints.dirty, hints.copy_bytes, hints.own),
        "trees": {at: (forest.root(at), forest.counts(at)) for at in forest.partitions},
        "tombstones": (replica.tombstones.counts, replica.tombstones._others),
        "stamps": [replica.stamps.minimum(at) for at in partitions],
        "barriers": [
            (barriers.standing(at), barriers.closed(at), barriers.is_void(at), barriers.owns(at))
            for at in partitions
        ],
        "coordinator": (
            node.coordinator.ring,
            node.coordinator.record_bytes_max,
            {m.id: node.coordinator.names([m.id]) for m in ring.members},
            [
                (aim.stamp, aim.lists, aim.readers, aim.owners)
                for aim in (node.coordinator.aim_of(token_of(key)) for key in KEYS)
            ],
        ),
        "peers": (sorted(node.detector.peers), node.detector._names, node.detector._slot_s),
        "buckets": node.gossip._buckets,
        "compared": {peer: node.antientropy.mine(peer) for peer in node.antientropy.peers},
    }


def rebuild(node: Node) -> None:
    """What is unknown of the trees, as `core.rebuild` does when there is time."""
    forest = node.replica.forest
    for partition, leaf in sorted(forest.unknown):
        forest.rebuild(partition, leaf)


def check_kept(node: Node) -> None:
    """Of what a running node has learnt by itself nothing concerns who or what is gone."""
    if node.is_removed:
        return
    ring = node.ring
    assert ring is not None
    members = {member.id for member in ring.members if ring.counts(member.id)}
    assert node.coordinator is not None
    assert node.coordinator.up <= members
    assert node.gossip is not None
    assert node.gossip.facts.keys() <= members
    digests = [0] * len(node.gossip._digests)
    for id_, fact in node.gossip.facts.items():
        digests[node.gossip._buckets[id_]] ^= fact.seal
    assert node.gossip._digests == digests
    assert node.detector is not None
    assert {peer.node for peer in node.detector._order} <= members
    assert node.detector._probing.keys() <= members
    assert node.antientropy is not None
    for peer, pair in node.antientropy._pairs.items():
        assert pair.verified.keys() <= set(pair.mine)
        tours = [*pair.tours, *([pair.round] if pair.round is not None else [])]
        assert all(tour.left.keys() <= set(pair.mine) for tour in tours), peer
    assert node.jobs is not None
    owned = node.replica.hints.owned
    for job in node.jobs.jobs.values():
        for label, units in job.todo.items():
            mine = set(node.antientropy.mine(NodeId(label))) if label else owned
            assert units.keys() <= mine
    assert node.healer is not None
    assert node.healer._filling is None
    assert node.scrubber is not None
    assert node.scrubber._partition is None or node.scrubber._partition in owned


def check_figures(c: Cluster, id_: NodeId, node: Node) -> None:
    """The figures are those of the disk."""
    ring, replica, disk = node.ring, node.replica, c.disks[id_]
    assert ring is not None
    if node.is_removed:
        return
    hints, forest = replica.hints, replica.forest
    records = {
        key: decode_stored(stored, cluster_id=CLUSTER_ID, key=key)
        for key, stored in disk.rows.items()
    }
    guests = [key for key in records if hints.is_guest(token_of(key))]
    targets = [target for target in disk.hint_counts() if target != TOMBSTONES]
    markers = [key for target in targets for _, key in disk.hints(target, b"", 1_000)]
    if targets:  # a copy stays after its last hint where its target owns the key no longer
        assert 0 <= hints.copy_bytes <= sum(len(records[key].content) for key in guests)
        assert hints.own == sum(hints.owns(token_of(key)) for key in markers)
    for partition in forest.partitions:
        for leaf in range(forest.leaves):
            if forest.is_known(partition, leaf):
                assert forest.leaf(partition, leaf) == forest.recompute(partition, leaf)
    noted = {key for _, key in disk.hints(TOMBSTONES, b"", 1_000)}
    assert noted == {key for key, record in records.items() if is_tombstone(record)}
    counts = {**replica.tombstones.counts, **replica.tombstones._others}
    assert sum(counts.values()) == len(noted)
    assert replica.tombstones.counts.keys() <= hints.owned


@pytest.mark.parametrize("seed", range(40))
def test_tables_are_those_of_a_node_that_has_just_started(seed: int) -> None:
    world = World(seed)
    for _ in range(25):
        world.change()
        world.work()
        world.examine()
        if sum(world.ring.counts(id_) for id_ in world.c.nodes) < 2:
            break
