"""What an owner answers to those that copy its partitions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dynagent import limits
from dynagent.core.entry import encode_entry
from dynagent.core.messages import (
    PULL_RECORDS,
    PULL_ROWS,
    PULL_VERSIONS,
    Error,
    Fence,
    FenceReply,
    Merge,
    Message,
    Pull,
    PullReply,
    RingIs,
    Sift,
    SiftReply,
)
from dynagent.core.ports import LinkId, PartitionId
from dynagent.core.ring import token_of
from dynagent.errors import BadRequest, DiskFull, DynagentError, Overloaded, Unhealthy
from tests.core.harness import IDS, Cluster, make_ring
from tests.core.moving import World, version

A, B, C, D = IDS
FROM_D = LinkId(3)
STAMP = (1, 2)  # of every partition since the bootstrap


class Source:
    """A, as D asks it."""

    def __init__(self) -> None:
        self.cluster = Cluster(make_ring(3, others=1))
        self.node = self.cluster.nodes[A]
        self._number = 100
        self.cluster.now = 10.0
        self.node.budget.grant(0.0, 1)

    def ask(self, message: Message) -> Message | None:
        """The answer, if there is one at once."""
        self._number += 1
        self.cluster.wire.clear()
        self.node.on_message(self.cluster.now, FROM_D, self._number, 5_000, message)
        return self.answer()

    def answer(self) -> Message | None:
        found = [packet.message for packet in self.cluster.wire if packet.number == self._number]
        assert len(found) <= 1
        return found[0] if found else None

    def error(self, message: Message) -> type[DynagentError] | None:
        reply = self.ask(message)
        kinds = (BadRequest, DiskFull, Overloaded, Unhealthy)
        assert isinstance(reply, Error), reply
        return next((kind for kind in kinds if kind.code == reply.error), None)

    def fill(self, count: int) -> list[bytes]:
        """Records of one partition, in the order of their places."""
        keys = [b"key %d" % at for at in range(8 * count)]
        keys = sorted((key for key in keys if self.partition_of(key) == 0), key=token_of)
        self.node.replica.merge([(key, version(1)) for key in keys], barrier=0)
        self.cluster.commit(A)
        return keys

    def partition_of(self, key: bytes) -> PartitionId:
        return self.cluster.ring.partition_of(token_of(key))  # type: ignore[union-attr]


def pull(
    want: int = PULL_RECORDS,
    leaves: Sequence[int] = (),
    after: bytes = b"",
    keys: Sequence[bytes] = (),
) -> Pull:
    return Pull(*STAMP, 0, want, list(leaves), after, list(keys))


# --- fences --------------------------------------------------------------------------------------


def test_a_fence_is_answered_when_all_that_was_accepted_before_it_is_on_the_disk() -> None:
    source = Source()
    source.ask(Merge(*STAMP, 0, [encode_entry(b"key", version(1))]))
    assert source.ask(Fence(*STAMP, [0, 3])) is None
    assert source.node.replica.stamps.fenced(PartitionId(3)) == (0, 0)
    source.cluster.commit(A)
    reply = source.answer()
    assert reply == FenceReply([0, 0], [0, 0], reply.records)  # type: ignore[union-attr]
    assert source.node.replica.stamps.fenced(PartitionId(3)) == STAMP
    assert b"key" in source.cluster.disks[A].rows


def test_a_fence_waits_for_the_batch_that_is_being_written_too() -> None:
    source = Source()
    source.ask(Merge(*STAMP, 0, [encode_entry(b"key", version(1))]))
    under_way = source.node.take_batch()
    assert under_way is not None
    assert source.ask(Fence(*STAMP, [0])) is None
    fencing = source.node.take_batch()
    assert fencing is not None
    source.cluster.finish(A, under_way)
    assert source.answer() is None
    source.cluster.finish(A, fencing)
    assert isinstance(source.answer(), FenceReply)


def test_a_fence_never_runs_ahead_of_the_log() -> None:
    source = Source()
    assert source.ask(Fence(7, 0, [0])) == RingIs(1)
    assert source.node.replica.stamps.minimum(PartitionId(0)) == (0, 0)


def test_a_fence_that_finds_no_room_on_the_disk_says_so() -> None:
    source = Source()
    assert source.ask(Fence(*STAMP, [0])) is None
    assert source.node.take_batch() is not None
    source.node.on_refused(source.cluster.now)
    reply = source.answer()
    assert isinstance(reply, Error) and reply.error == DiskFull.code
    assert source.node.replica.stamps.minimum(PartitionId(0)) == (0, 0)


def test_a_fence_tells_where_the_owner_stands() -> None:
    source = Source()
    source.fill(10)
    source.node.replica.move(PartitionId(0), 4)
    source.node.replica.close(PartitionId(0), 3)
    source.ask(Fence(*STAMP, [0]))
    source.cluster.commit(A)
    reply = source.answer()
    assert isinstance(reply, FenceReply)
    assert (reply.barriers, reply.floors) == ([4], [3])
    assert reply.records == [source.node.replica.forest.counts(PartitionId(0))]


# --- pulls ---------------------------------------------------------------------------------------


def test_pages_of_leaves_have_just_their_records_and_each_once() -> None:
    source = Source()
    keys = source.fill(300)
    forest = source.node.replica.forest
    leaves = list(range(3, 256, 4))
    wanted = [key for key in keys if forest.leaf_of(token_of(key)) in leaves]
    assert len(wanted) > limits.TRANSFER_PAGE_ROWS
    found: list[object] = []
    after = b""
    while after or not found:
        reply = source.ask(pull(leaves=leaves, after=after))
        assert isinstance(reply, PullReply)
        found += [entry[0] for entry in reply.entries]
        after = reply.position
        source.cluster.now += 1
    assert found == wanted


def test_pages_go_from_one_end_to_the_other_and_have_every_record_once() -> None:
    source = Source()
    keys = source.fill(100)
    found: list[object] = []
    after = b""
    while True:
        reply = source.ask(pull(after=after))
        assert isinstance(reply, PullReply)
        assert len(reply.entries) <= limits.TRANSFER_PAGE_ROWS
        found += [entry[0] for entry in reply.entries]
        after = reply.position
        source.cluster.now += 1  # the budget fills up
        if not after:
            break
    assert found == keys


def test_a_pull_of_leaves_has_just_these() -> None:
    source = Source()
    keys = source.fill(100)
    forest = source.node.replica.forest
    leaves = sorted({forest.leaf_of(token_of(key)) for key in keys[::7]})[:10]
    wanted = [key for key in keys if forest.leaf_of(token_of(key)) in leaves]
    reply = source.ask(pull(leaves=leaves))
    assert isinstance(reply, PullReply)
    assert [entry[0] for entry in reply.entries] == wanted
    rows = source.ask(pull(PULL_ROWS, leaves=leaves))
    assert isinstance(rows, PullReply)
    assert rows.rows == [[key, version(1).digest] for key in wanted]
    versions = source.ask(pull(PULL_VERSIONS, keys=[*wanted[:2], _absent_key(source)]))
    assert isinstance(versions, PullReply)
    assert versions.copies == [[version(1).digest, [1, 1], [1, 1]]] * 2 + [[b"", [], []]]


def _absent_key(source: Source) -> bytes:
    return next(
        key for key in map(b"absent %d".__mod__, range(100)) if source.partition_of(key) == 0
    )


def test_copies_that_cannot_be_read_are_named_and_not_there() -> None:
    source = Source()
    keys = source.fill(20)
    source.cluster.without_healer(A)
    source.cluster.disks[A].rows[keys[3]] = b"\0" * 40
    source.node.replica.forget(keys[3])
    reply = source.ask(pull())
    assert isinstance(reply, PullReply)
    assert reply.excepted == [keys[3]]
    assert [entry[0] for entry in reply.entries] == keys[:3] + keys[4:]
    reply = source.ask(pull(keys=keys[2:5]))
    assert isinstance(reply, PullReply)
    assert (reply.looked_at, reply.excepted) == (3, [keys[3]])


def test_a_partition_of_which_records_may_be_missing_is_no_source() -> None:
    source = Source()
    source.fill(20)
    source.node.replica.note_lost(PartitionId(0))
    assert source.error(pull()) is Unhealthy


def test_a_partition_with_a_row_that_lies_elsewhere_is_no_source() -> None:
    source = Source()
    keys = source.fill(20)
    token = token_of(keys[0])
    source.cluster.disks[A].strays.append((token, b"misplaced", b"x"))
    assert source.error(pull()) is Unhealthy


def test_a_pull_waits_until_the_budget_of_the_source_grants_it() -> None:
    source = Source()
    source.fill(100)
    source.node.budget.spend(source.cluster.now, 100 * limits.MIB)
    assert source.ask(pull()) is None
    due = source.node.sources.due
    assert due > source.cluster.now
    source.cluster.now = due
    source.node.on_tick(due)
    assert isinstance(source.answer(), PullReply) == (due < 15.0)  # unless its time was over


def test_a_pull_whose_time_has_passed_while_it_waited_has_an_answer_too() -> None:
    source = Source()
    source.fill(100)
    source.node.budget.spend(source.cluster.now, 100 * limits.MIB)
    assert source.ask(pull()) is None
    source.cluster.now += 3_600.0
    source.node.on_tick(source.cluster.now)
    reply = source.answer()
    assert isinstance(reply, Error)
    assert reply.error == Overloaded.code
    assert isinstance(source.ask(pull()), PullReply)


def test_no_more_pulls_wait_than_may() -> None:
    source = Source()
    source.node.budget.spend(source.cluster.now, 100 * limits.MIB)
    for _ in range(limits.TRANSFER_PULLS_WAITING_MAX):
        assert source.ask(pull()) is None
    assert source.error(pull()) is Overloaded


@pytest.mark.parametrize(
    "message",
    [
        pull(want=9),
        pull(leaves=[5, 4]),
        pull(leaves=[100_000]),
        pull(PULL_ROWS),
        pull(PULL_VERSIONS),
        pull(after=b"short"),
        pull(keys=[b"key %d" % at for at in range(20)]),  # of other partitions too
        Pull(*STAMP, 99, PULL_RECORDS),
        Sift(*STAMP, 0, 9, [0], [b""]),
        Sift(*STAMP, 0, 1, [0, 1], [b""]),
        Sift(*STAMP, 0, 1, [16], [b""]),
        Fence(*STAMP, [8]),
    ],
)
def test_malformed_requests_are_refused(message: Message) -> None:
    assert Source().error(message) is BadRequest


# --- trees ---------------------------------------------------------------------------------------


def test_a_sift_names_what_differs_once_that_is_on_the_disk() -> None:
    source = Source()
    keys = source.fill(50)
    forest = source.node.replica.forest
    same = [forest.children(PartitionId(0), 0, 0)[node] for node in range(16)]
    assert source.ask(Sift(*STAMP, 0, 1, list(range(16)), same)) == SiftReply()
    source.node.replica.merge([(keys[0], version(2, base=version(1)))], barrier=0)
    batch = source.node.take_batch()  # the tree speaks of it from now on
    assert batch is not None
    assert source.ask(Sift(*STAMP, 0, 1, list(range(16)), same)) is None
    source.cluster.finish(A, batch)
    leaf = forest.leaf_of(token_of(keys[0]))
    assert source.answer() == SiftReply([leaf // 16])
    reply = source.ask(Sift(*STAMP, 0, 2, [leaf], [b"other"]))
    count = forest.leaf(PartitionId(0), leaf)
    assert count is not None
    assert reply == SiftReply([leaf], [count[0]])


def test_whoever_has_another_ring_is_told_so() -> None:
    world = World()
    world.change({PartitionId(0): (A, B, D)})
    node = world.cluster.nodes[A]
    world.cluster.wire.clear()
    node.on_message(world.cluster.now, FROM_D, 900, 1_000, pull())
    assert [p.message for p in world.cluster.wire if p.number == 900] == [
        RingIs(world.ring().epoch)
    ]
