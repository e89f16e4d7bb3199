"""One exchange between two nodes: what it finds, what it moves, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from dynagent import limits
from dynagent.core.coordinator import SETTLED
from dynagent.core.counterpart import Busy, leaf_ranges
from dynagent.core.entry import Record, encode_sibling, encode_stored
from dynagent.core.merkle import ARITY
from dynagent.core.messages import (
    WANT_VALUE,
    Compare,
    CompareReply,
    Inspect,
    InspectReply,
    LeafKeys,
    LeafKeysReply,
    Look,
    LookReply,
    Merge,
    Message,
    RingIs,
)
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import token_of
from dynagent.core.siblings import EMPTY
from dynagent.core.tour import Tour
from dynagent.core.verdict import Verdict
from dynagent.errors import BadRequest
from dynagent.wire.codec import encode_frame
from tests.core.harness import CLUSTER_ID, IDS, Cluster, at_once, cluster, is_error

A, B, C = IDS[:3]
ALL = [PartitionId(number) for number in range(8)]


def version(
    actor: int, counter: int = 1, *, value: bytes = b"v", base: Record | None = None
) -> Record:
    """A record with one write more than `base`, which it supersedes."""
    old = base.value if base is not None else EMPTY
    sibling = encode_sibling(
        dot=(actor, counter),
        wall_ms=1,
        content=0,
        expiry_ms=0,
        op_id=actor.to_bytes(8, "big") + counter.to_bytes(8, "big"),
        meta={},
        value=value,
    )
    return Record(old.write(old.clock, sibling))


def hold(world: Cluster, node: NodeId, key: bytes, record: Record) -> None:
    """`node` has that copy, durably."""
    world.nodes[node].replica.merge([(key, record)], barrier=0)
    world.commit(node)


def keys_at(world: Cluster, node: NodeId) -> set[bytes]:
    return set(world.disks[node].rows)


class Watch:
    """One tour from A to B, and all that went over the wire."""

    def __init__(
        self,
        world: Cluster,
        *,
        partitions: Iterable[PartitionId] = ALL,
        prefix: bytes = b"",
        moves: bool = True,
    ) -> None:
        self.world = world
        self.verdicts: dict[PartitionId, Verdict] = {}
        self.sent: list[Message] = []
        self.tour = Tour(B, partitions, self._on_verdict, prefix=prefix, moves=moves)
        antientropy = world.nodes[A].antientropy
        assert antientropy is not None
        self.antientropy = antientropy
        for node in world.nodes.values():
            node.budget.grant(world.now, 1)
        world.now += 10  # the budget fills up
        antientropy.add(world.now, self.tour)

    def _on_verdict(self, now: float, tour: Tour, verdict: Verdict) -> None:
        assert verdict.partition not in self.verdicts
        self.verdicts[verdict.partition] = verdict

    def step(self) -> None:
        """Everything that can happen now."""
        self.world.tick(self.world.now)
        while self.world.wire or any(self.world.commit(node) for node in self.world.nodes):
            while self.world.wire:
                packet = self.world.wire[0]
                self.sent.append(packet.message)
                self.world.deliver(packet)
            self.world.tick(self.world.now)

    def run(self) -> Watch:
        """To the end of the tour."""
        for _ in range(200):
            self.step()
            if not self.tour.left:
                return self
            self.world.now += limits.EXCHANGE_REST_S / 2
        raise AssertionError(f"does not end: {self.tour.left}")

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.sent if type(message) is kind]

    def total(self, figure: str) -> int:
        return sum(getattr(verdict, figure) for verdict in self.verdicts.values())

    @property
    def moved(self) -> list[bytes]:
        """Keys of the records that went either way."""
        entries = [
            entry
            for message in self.sent
            if isinstance(message, Merge | LookReply)
            for entry in message.entries
        ]
        return sorted(entry[0] for entry in entries if isinstance(entry[0], bytes))


def roots(world: Cluster, node: NodeId) -> list[bytes]:
    return [world.nodes[node].replica.forest.root(partition) for partition in ALL]


def test_roots_to_be_made_anew_are_asked_for_in_parts_so_that_no_loop_stalls() -> None:
    world = cluster()
    forest = world.nodes[A].replica.forest
    assert all(forest.stale(partition) for partition in ALL)
    watch = Watch(world).run()
    asked = [message.nodes for message in watch.of(Compare) if isinstance(message, Compare)]
    assert list(chain.from_iterable(asked)) == ALL
    assert len(asked) == len(ALL) * forest.leaves // ARITY // limits.EXCHANGE_STALE_MAX
    assert not any(forest.stale(partition) for partition in ALL)


def test_equal_copies_cost_one_message_pair() -> None:
    world = cluster()
    for number in range(100):
        for node in (A, B):
            hold(world, node, b"k%d" % number, version(number + 1))
    roots(world, A), roots(world, B)
    watch = Watch(world).run()
    assert [type(message) for message in watch.sent] == [Compare, CompareReply]
    assert watch.total("keys") == 100
    assert all(verdict.is_verified for verdict in watch.verdicts.values())
    assert len(watch.verdicts) == 8


def test_what_a_peer_lacks_goes_to_it_and_what_we_lack_comes() -> None:
    world = cluster()
    for number in range(200):
        for node in (A, B):
            hold(world, node, b"k%d" % number, version(number + 1))
    hold(world, A, b"only at a", version(1000))
    hold(world, B, b"only at b", version(1001))
    watch = Watch(world).run()
    assert roots(world, A) == roots(world, B)
    assert b"only at a" in keys_at(world, B) and b"only at b" in keys_at(world, A)
    assert watch.moved == [b"only at a", b"only at b"]
    figures = [watch.total(name) for name in ("differing", "sent", "fetched", "healed")]
    assert figures == [2, 1, 1, 2]


def test_where_both_have_news_both_get_all() -> None:
    world = cluster()
    hold(world, A, b"k", version(1))
    hold(world, B, b"k", version(2))
    watch = Watch(world).run()
    assert roots(world, A) == roots(world, B) != [b""] * 8
    assert len(world.disks[B].record(b"k").value.siblings) == 2
    assert (watch.total("fetched"), watch.total("sent"), watch.total("healed")) == (1, 1, 1)


def test_a_newer_version_goes_one_way() -> None:
    world = cluster()
    old = version(1)
    hold(world, A, b"k", old)
    hold(world, B, b"k", version(1, 2, base=old))
    hold(world, B, b"j", old)
    hold(world, A, b"j", version(1, 2, base=old))
    watch = Watch(world).run()
    assert roots(world, A) == roots(world, B)
    assert (watch.total("fetched"), watch.total("sent")) == (1, 1)


def test_a_delete_is_news() -> None:
    world = cluster()
    old = version(1)
    hold(world, A, b"k", Record(old.value.delete(old.value.clock)))
    hold(world, B, b"k", old)
    watch = Watch(world).run()
    assert not world.disks[B].record(b"k").value.siblings
    assert (watch.total("fetched"), watch.total("sent")) == (0, 1)


def test_the_same_dots_in_other_bytes_come_together() -> None:
    world = cluster()
    hold(world, A, b"k", version(1, value=b"one"))
    hold(world, B, b"k", version(1, value=b"other"))
    Watch(world).run()
    assert roots(world, A) == roots(world, B)
    assert len(world.disks[A].record(b"k").value.siblings) == 2


def test_a_write_in_flight_is_not_moved() -> None:
    world = cluster()
    hold(world, A, b"k", version(1))
    watch = Watch(world)
    watch.step()
    assert watch.of(LeafKeysReply)
    hold(world, B, b"k", version(1))  # its own Merge has arrived
    watch.run()
    assert watch.moved == []
    assert watch.total("changed") == 1
    assert all(verdict.is_verified for verdict in watch.verdicts.values())


def test_a_key_that_is_being_written_is_left_alone() -> None:
    world = cluster()
    old = version(1)
    hold(world, A, b"k", old)
    watch = Watch(world)
    watch.step()
    hold(world, A, b"k", version(1, 2, base=old))
    watch.run()
    assert (watch.moved, watch.total("changed"), watch.total("differing")) == ([], 1, 0)


def test_a_preview_moves_nothing() -> None:
    world = cluster()
    hold(world, A, b"k", version(1))
    hold(world, B, b"j", version(2))
    watch = Watch(world, moves=False).run()
    assert (watch.moved, watch.total("differing"), watch.total("healed")) == ([], 2, 0)
    assert sum(verdict.is_verified for verdict in watch.verdicts.values()) >= 6


def test_only_keys_with_the_prefix() -> None:
    world = cluster()
    hold(world, A, b"cart/1", version(1))
    hold(world, A, b"user/1", version(2))
    watch = Watch(world, prefix=b"cart/").run()
    assert watch.moved == [b"cart/1"]
    assert watch.total("differing") == 1


def test_only_some_partitions() -> None:
    world = cluster()
    for number in range(50):
        hold(world, A, b"k%d" % number, version(1))
    ring = world.ring
    assert ring is not None
    watch = Watch(world, partitions=[PartitionId(3)]).run()
    assert {ring.partition_of(token_of(key)) for key in watch.moved} == {3}
    assert list(watch.verdicts) == [3]


def test_an_unreadable_copy_is_no_source_and_no_difference() -> None:
    world = cluster()
    hold(world, A, b"k", version(1))
    hold(world, B, b"k", version(1))
    world.disks[B].rows[b"k"] = b"rotten" + world.disks[B].rows[b"k"]
    world.nodes[B].replica.forget(b"k")
    partition = PartitionId(world.ring.partition_of(token_of(b"k")))  # type: ignore[union-attr]
    forest = world.nodes[B].replica.forest
    forest.rebuild(partition, forest.leaf_of(token_of(b"k")))
    assert forest.root(partition) == b""
    watch = Watch(world).run()
    assert (watch.moved, watch.total("unreadable"), watch.total("differing")) == ([], 1, 0)
    assert not watch.verdicts[partition].is_verified


def test_an_unknown_leaf_is_compared_by_its_keys() -> None:
    world = cluster()
    for node in (A, B):
        hold(world, node, b"k", version(1))
    hold(world, A, b"only at a", version(2))
    # As a store of before there were trees.
    world.disks[B].numbered.clear()
    world.restart(B)
    assert world.nodes[B].replica.forest.unknown
    watch = Watch(world).run()
    assert watch.moved == [b"only at a"]


def test_many_keys_come_in_pages_and_none_twice() -> None:
    world = cluster()
    for number in range(700):
        world.nodes[A].replica.merge([(b"k%d" % number, version(number + 1))], barrier=0)
        if number % 50 == 0:
            world.commit(A)
    world.commit(A)
    watch = Watch(world).run()
    assert roots(world, A) == roots(world, B)
    assert len(watch.moved) == len(set(watch.moved)) == 700
    for message in watch.sent:
        bound = (
            2 * limits.EXCHANGE_PAGE_BYTES
            if isinstance(message, Merge | LookReply)
            else limits.CONTROL_FRAME_BYTES_MAX
        )
        assert len(encode_frame(message, request_id=1, budget_ms=1)) <= bound


def test_records_are_asked_for_in_pages_that_stall_nobody() -> None:
    world = cluster()
    for number in range(700):
        world.nodes[B].replica.merge([(b"k%d" % number, version(number + 1))], barrier=0)
    world.commit(B)
    watch = Watch(world).run()
    looks = [message for message in watch.sent if isinstance(message, Look)]
    pages = [len(look.keys) for look in looks if look.want == WANT_VALUE]
    assert sum(pages) == 700
    assert max(pages) <= limits.EXCHANGE_PAGE_ROWS


def test_leaves_that_adjoin_are_scanned_as_one_also_across_partitions() -> None:
    forest = cluster().nodes[A].replica.forest
    last = forest.leaves - 1
    found = leaf_ranges(forest, [0, 1, 2, 5, last, last + 1])
    of = [forest.leaf_range(PartitionId(at), leaf) for at, leaf in ((0, 0), (0, 2), (0, 5))]
    tail, head = forest.leaf_range(ALL[0], last), forest.leaf_range(ALL[1], 0)
    assert found == [(of[0][0], of[1][1]), of[2], (tail[0], head[1])]
    assert leaf_ranges(forest, []) == []


def test_large_records_are_moved_in_bounded_frames() -> None:
    world = cluster()
    for number in range(12):
        hold(world, B, b"k%d" % number, version(number + 1, value=bytes(100_000)))
    watch = Watch(world).run()
    assert roots(world, A) == roots(world, B)
    replies = [message for message in watch.sent if isinstance(message, LookReply)]
    sizes = [len(encode_frame(reply, request_id=1, budget_ms=1)) for reply in replies]
    assert max(sizes) < limits.EXCHANGE_PAGE_BYTES + 110_000
    # Nor is more read in one turn to tell their versions.
    assert max(reply.looked_at for reply in replies) * 100_000 < limits.EXCHANGE_LOOK_BYTES_MAX + (
        100_000
    )


def test_a_lost_answer_ends_the_exchange_and_the_tour_goes_on() -> None:
    world = cluster()
    for number in range(40):
        hold(world, A, b"k%d" % number, version(number + 1))
    watch = Watch(world)
    world.tick(world.now)
    [packet] = world.wire
    world.wire.clear()  # the first Compare is lost
    world.now += limits.EXCHANGE_ANSWER_S + 0.1
    watch.step()
    assert watch.tour.problem == "no answer in time"
    watch.run()
    assert roots(world, A) == roots(world, B)
    assert packet.message not in watch.sent[1:] or len(watch.moved) == 40


def test_a_peer_that_goes_down_ends_it_and_one_that_comes_up_resumes_it() -> None:
    world = cluster()
    for number in range(40):
        hold(world, A, b"k%d" % number, version(number + 1))
    watch = Watch(world)
    watch.step()
    world.nodes[A].on_peer_down(world.now, B)
    world.now += 60
    watch.step()
    assert watch.antientropy.document(world.now)["under_way"] == []
    assert watch.tour.left
    world.nodes[A].on_peer_up(world.now, B)
    watch.run()
    assert roots(world, A) == roots(world, B)


def test_what_is_under_comparison_with_another_waits() -> None:
    world = cluster()
    hold(world, C, b"k", version(1))
    hold(world, B, b"k", version(1))
    watch = Watch(world)
    watch.step()  # A and B are at it now
    other = world.nodes[C].antientropy
    assert other is not None
    verdicts: list[Verdict] = []
    tour = Tour(A, ALL, lambda now, tour, verdict: verdicts.append(verdict))
    other._pairs[A] = type(watch.antientropy._pairs[B])(A, ALL)
    other.add(world.now, tour)
    watch.step()
    partition = PartitionId(world.ring.partition_of(token_of(b"k")))  # type: ignore[union-attr]
    assert list(tour.left) == [partition]
    assert len(verdicts) == 7
    watch.run()
    assert watch.moved == [b"k"]


def test_who_was_refused_has_the_next_turn() -> None:
    busy = Busy()
    assert busy.begin(0.0, 3, A)
    assert busy.begin(1.0, 3, A)
    assert not busy.begin(1.0, 3, B)
    assert busy.begin(1.0, 4, B)
    busy.end(3, A)
    assert not busy.begin(1.5, 3, A)  # it would keep B away for ever
    assert busy.begin(2.0, 3, B)
    assert not busy.begin(2.0, 3, A)
    again = 2.0 + limits.EXCHANGE_BUSY_S
    assert busy.begin(again, 3, A)
    assert not busy.begin(again + 1, 3, C)  # and if C does not come again:
    assert busy.begin(again + limits.EXCHANGE_BUSY_S + limits.EXCHANGE_TURN_S, 3, A)


def test_cancelled_tours_stop() -> None:
    world = cluster()
    hold(world, A, b"k", version(1))
    watch = Watch(world)
    watch.step()
    watch.antientropy.cancel(watch.tour)
    world.now += 5
    watch.step()
    assert b"k" not in keys_at(world, B)
    assert not world.nodes[A].coordinator.operations  # type: ignore[union-attr]


def test_what_a_counterpart_refuses() -> None:
    world = cluster(n=2, others=1)
    epoch = world.ring.epoch  # type: ignore[union-attr]
    stamp = (epoch, SETTLED)
    refused = [
        (Compare(*stamp, 3, [0], [b""]), BadRequest),
        (Compare(*stamp, 0, [0, 1], [b""]), BadRequest),
        (Compare(*stamp, 0, [8], [b""]), BadRequest),
        (LeafKeys(*stamp, [2, 1]), BadRequest),
        (LeafKeys(*stamp, [1], b"short"), BadRequest),
        (LeafKeys(*stamp, list(range(limits.EXCHANGE_LEAVES_MAX + 1))), BadRequest),
        (Look(*stamp, [], 0), BadRequest),
    ]
    for message, error in refused:
        assert is_error(at_once(world, A, message), error), message
    other_rings = [Compare(epoch + 1, SETTLED, 0, [0], [b""]), Look(epoch, 1, [b"k"], 0)]
    for message in other_rings:
        assert at_once(world, A, message) == RingIs(epoch)
    assert is_error(at_once(world, C, Compare(*stamp, 0, [0], [b""])), BadRequest)


def test_a_stored_record_has_its_digest() -> None:
    world = cluster()
    record = version(1)
    world.disks[A].rows[b"k"] = encode_stored(record, cluster_id=CLUSTER_ID, key=b"k")
    token = token_of(b"k")
    rows = list(world.nodes[A].replica.survey.digests(token, token, b""))
    assert [(place, digest) for place, digest, _ in rows] == [(token + b"k", record.digest)]


def test_explain_tells_when_a_partition_was_verified() -> None:
    world = cluster()
    for node in (A, B):
        hold(world, node, b"k", version(1))
    antientropy = world.nodes[A].antientropy
    assert antientropy is not None
    partition = PartitionId(world.ring.partition_of(token_of(b"k")))  # type: ignore[union-attr]
    Watch(world).run()
    assert antientropy.verified_s(world.now, partition) == 0.0  # not with C yet
    hold(world, C, b"k", version(1))
    antientropy.add(
        world.now, Tour(C, ALL, lambda now, tour, verdict: antientropy.note(tour, verdict))
    )
    antientropy.add(
        world.now, Tour(B, ALL, lambda now, tour, verdict: antientropy.note(tour, verdict))
    )
    for _ in range(4):
        world.tick(world.now)
        world.settle()
    assert antientropy.verified_s(world.now + 3, partition) == 3.0
    reply = at_once(world, A, Inspect(b"k"))
    assert isinstance(reply, InspectReply)
    world.now += 2
    reply = at_once(world, A, Inspect(b"k"))
    assert isinstance(reply, InspectReply) and reply.verified_ms == 2_000
