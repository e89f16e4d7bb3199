"""Partitions that change their owners: fences, copies, phases, and what former owners do."""

from __future__ import annotations

from functools import partial
from math import inf
from random import Random

import pytest

from dynagent import limits
from dynagent.core.messages import PULL_VERSIONS, LogReply, Pull, RingIs, Sift
from dynagent.core.ports import PartitionId
from dynagent.core.ring import JOINT_NEW, token_of
from dynagent.core.ringentry import AbortEntry
from dynagent.errors import StaleBarrier
from dynagent.wire.codec import encode_frame
from tests.core.harness import Packet
from tests.core.moving import PARTITIONS, A, B, C, D, World, pulled, rot, tombstone, version


def test_a_new_owner_has_all_copies_before_it_is_one_and_the_former_one_has_none() -> None:
    world = World()
    records = world.fill()
    world.change({PartitionId(0): (A, B, D), PartitionId(5): (D, B, C)})
    world.run(world.is_settled)
    moved = {key for key in records if world.partition_of(key) in (0, 5)}
    assert len(moved) > 50
    assert world.keys_at(D) == moved
    assert world.ring().lists[0] == (A, B, D)
    assert world.ring().lists[5] == (D, B, C)
    world.run(lambda: world.keys_at(C) == {k for k in records if world.partition_of(k) != 0})
    world.run(lambda: world.keys_at(A) == {k for k in records if world.partition_of(k) != 5})
    assert world.keys_at(B) == set(records)
    for key in moved:
        assert world.cluster.disks[D].record(key).digest == records[key].digest


# --- copying -------------------------------------------------------------------------------------


def test_each_record_is_pulled_once_although_two_sources_are_gone_through() -> None:
    world = World()
    records = world.fill()
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    world.run(world.is_settled)
    assert sorted(pulled(world, D)) == sorted(records)
    asked = {packet.target for packet in world.of(Pull) if packet.source == D}
    assert asked == {A, B, C}  # no source is asked for all of it


def test_what_only_one_of_the_old_owners_has_comes_too() -> None:
    world = World()
    records = world.fill()
    extra = {
        b"of %b %d" % (id_.encode()[:1], at): version(1_000 + 10 * at + place)
        for place, id_ in enumerate((A, B, C))
        for at in range(5)
    }
    for key, record in extra.items():
        world.hold({b"a": A, b"b": B, b"c": C}[key[3:4]], key, record)
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    world.run(world.is_settled)
    # Of any two of three: whatever two of them had, and perhaps more.
    assert world.keys_at(D) >= set(records)
    # What only the former owner had has been pushed by it before it went.
    world.run(lambda: not world.keys_at(C))
    for key, record in extra.items():
        if key.startswith(b"of c"):
            for id_ in (A, B, D):
                assert world.cluster.disks[id_].record(key).digest == record.digest


def test_a_new_owner_that_crashes_goes_on_where_it_was() -> None:
    world = World()
    records = world.fill(count=1_000)
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    for count in (100, 400, 700):
        world.run(partial(world.holds, D, at_least=count))
        world.crash(D)
    world.run(world.is_settled)
    assert world.keys_at(D) == set(records)
    assert len(pulled(world, D)) <= 1.1 * len(records)


def test_a_source_that_crashes_or_goes_is_replaced_by_another() -> None:
    world = World()
    records = world.fill(count=1_000)
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    world.run(lambda: len(world.keys_at(D)) >= 100)
    world.crash(B)
    world.run(lambda: len(world.keys_at(D)) >= 300)
    world.take_down(C)
    world.run(world.is_settled)
    assert world.keys_at(D) == set(records)
    world.bring_back(C)
    world.run(lambda: not world.keys_at(C))


def test_lost_and_repeated_messages_change_nothing() -> None:
    world = World()
    records = world.fill()
    dice = Random(7)

    def loses(packet: Packet) -> bool:
        if dice.random() < 0.1:
            world.cluster.wire.append(packet)  # it comes again, later
        return dice.random() < 0.1

    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    world.loses = loses
    world.run(world.is_settled, seconds=2_000)
    world.run(lambda: not world.keys_at(C), seconds=2_000)
    for id_ in (A, B, D):
        assert world.keys_at(id_) == set(records)
    transfers = world.cluster.nodes[D].transfers
    assert transfers is not None
    moved = transfers.document(0.0)["records"]
    assert isinstance(moved, int) and moved <= 1.1 * len(records)  # each once, but for repetitions


def test_a_source_that_has_not_heard_of_the_change_is_told_before_it_is_fenced() -> None:
    world = World()
    world.fill(count=50)
    # Entries do not reach B by themselves: it learns of the change only from whom it refuses.
    world.loses = lambda packet: packet.target == B and isinstance(packet.message, LogReply)
    world.change({PartitionId(0): (A, B, D)})
    world.run(lambda: any(isinstance(p.message, RingIs) and p.source == B for p in world.sent))
    assert world.ring(B).epoch == 1
    world.loses = lambda packet: False
    world.run(world.is_settled)


def test_a_copy_that_a_source_cannot_read_comes_from_the_others() -> None:
    world = World()
    records = world.fill(count=60)
    for id_ in (A, B, C):
        world.cluster.without_healer(id_)
    # Each of the three has lost another copy: no source is sure of everything.
    keys = sorted(records)
    for id_, key in zip((A, B, C), keys[:3], strict=True):
        rot(world, id_, key)
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    world.run(world.is_settled)
    for key in records:
        assert world.cluster.disks[D].record(key).digest == records[key].digest


def test_a_copy_that_too_few_sources_are_sure_of_is_waited_for() -> None:
    world = World()
    records = world.fill(ids=(A, B), count=60)
    key = min(records)
    rot(world, A, key)
    world.take_down(B)
    world.change({world.partition_of(key): (A, C, D)})
    world.run(seconds=20)
    assert world.ring().change is not None  # C alone says that there is nothing
    transfers = world.cluster.nodes[D].transfers
    assert transfers is not None
    assert "cannot be read" in str(transfers.document(0.0)["problems"])
    world.bring_back(B)
    world.run(world.is_settled)
    assert world.cluster.disks[D].record(key).digest == records[key].digest


# --- barriers ------------------------------------------------------------------------------------


def test_a_new_owner_refuses_what_its_sources_refuse_before_it_takes_anything() -> None:
    world = World()
    old = version(1)
    key = b"deleted"
    partition = world.partition_of(key)
    for id_ in (A, B, C):
        replica = world.cluster.nodes[id_].replica
        replica.move(partition, 3)
        replica.close(partition, 3)
        world.cluster.commit(id_)
    accepted_at: list[int] = []

    def watch() -> None:
        node = world.cluster.nodes[D]
        assert node.transfers is not None
        is_gaining = node.ring is not None and node.ring.change is not None
        if not accepted_at and is_gaining and node.transfers.accepts(partition):
            accepted_at.append(node.replica.barriers.closed(partition))

    world.on_step = watch
    world.change({partition: (A, B, D)})
    world.run(world.is_settled)
    assert accepted_at == [3]
    replica = world.cluster.nodes[D].replica
    assert replica.barriers.standing(partition) == 3
    with pytest.raises(StaleBarrier):
        replica.merge([(key, old)], barrier=2)


def test_tombstones_travel_and_are_noted_where_they_come_to() -> None:
    world = World()
    record = version(1)
    key = b"deleted"
    world.fill(count=20)
    for id_ in (A, B, C):
        world.hold(id_, key, tombstone(record))
    world.change({world.partition_of(key): (D, A, B)})
    world.run(world.is_settled)
    assert world.cluster.disks[D].record(key).digest == tombstone(record).digest
    assert world.cluster.nodes[D].replica.tombstones.counts == {world.partition_of(key): 1}
    world.run(lambda: key not in world.keys_at(C))
    assert not world.cluster.nodes[C].replica.tombstones.page(b"", 10)  # its marker went with it


# --- aborts --------------------------------------------------------------------------------------


def test_after_an_abort_what_was_copied_goes_again() -> None:
    world = World()
    records = world.fill(count=1_000)
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    world.run(lambda: len(world.keys_at(D)) >= 200)
    index = world.ring().epoch
    world.propose(AbortEntry(index=index, id=b"a" * 16), at=B)
    assert world.ring(B).change is None
    # It took a write that nobody else has heard of: that one is not lost.
    world.run(lambda: not world.keys_at(D))
    for id_ in (A, B, C):
        assert world.keys_at(id_) == set(records)


def test_what_only_a_new_owner_had_when_the_change_was_taken_back_is_given_to_the_owners() -> None:
    world = World()
    world.fill(count=200)
    world.take_down(B)
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    world.run(lambda: len(world.keys_at(D)) >= 20)
    only = version(77)
    world.hold(D, b"only here", only)
    world.propose(AbortEntry(index=world.ring().epoch, id=b"a" * 16))
    world.run(seconds=20)
    assert b"only here" in world.keys_at(D)  # B is away: not all owners have it
    world.bring_back(B)
    world.run(lambda: not world.keys_at(D))
    for id_ in (A, B, C):
        assert world.cluster.disks[id_].record(b"only here").digest == only.digest


# --- the driver ----------------------------------------------------------------------------------


def test_another_drives_when_the_driver_dies_in_any_step() -> None:
    """Killed and gone after each number of steps; the others end it nevertheless."""
    steps = 0
    while True:
        world = World()
        records = world.fill(count=100)
        world.change(dict.fromkeys(PARTITIONS, (B, C, D)), at=A)
        for _ in range(steps):
            world.step()
        ended = world.ring(B).change is None
        world.take_down(A)
        world.run(world.is_settled)
        for id_ in (B, C, D):
            assert world.keys_at(id_) == set(records), steps
        world.bring_back(A)
        world.run(partial(world.holds, A, at_most=0))
        if ended:
            return
        steps += 1


@pytest.mark.plain
def test_two_drivers_do_no_harm() -> None:
    world = World()
    records = world.fill(count=200)
    for node in world.cluster.nodes.values():
        assert node.driver is not None
        node.driver._is_my_turn = lambda now, ring: True  # type: ignore[method-assign]
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    world.run(world.is_settled)
    assert world.keys_at(D) == set(records)


@pytest.mark.plain
def test_a_driver_that_is_up_and_does_nothing_is_not_waited_for() -> None:
    world = World()
    world.fill(count=20)
    driver = world.cluster.nodes[A].driver
    assert driver is not None
    driver._is_my_turn = lambda now, ring: False  # type: ignore[method-assign]
    world.change({PartitionId(0): (A, B, D)}, at=A)
    world.run(seconds=limits.DRIVER_SILENCE_S / 2)
    assert world.ring().change is not None
    world.run(world.is_settled, seconds=2 * limits.DRIVER_SILENCE_S)


def test_a_new_owner_that_is_away_is_waited_for_and_named() -> None:
    world = World()
    world.fill(count=20)
    world.take_down(D)
    world.change({PartitionId(0): (A, B, D)})
    world.run(seconds=30)
    assert world.ring().change is not None
    driver = world.cluster.nodes[A].driver
    assert driver is not None
    assert driver.document()["waiting_for"] == [D]
    world.bring_back(D)
    world.run(world.is_settled)


def test_a_removed_owner_is_neither_fenced_nor_waited_for() -> None:
    world = World()
    records = world.fill(count=100)
    world.take_down(C)
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)), removed=[C])
    world.run(world.is_settled)
    assert world.ring().member(C) is None
    assert world.keys_at(D) == set(records)


def test_a_leaver_goes_when_it_owns_and_holds_nothing() -> None:
    world = World()
    records = world.fill(count=100)
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)), leaving=[C])
    world.run(lambda: world.ring().member(C) is None)
    assert not world.keys_at(C)
    for id_ in (A, B, D):
        assert world.keys_at(id_) == set(records)


# --- former owners -------------------------------------------------------------------------------


def test_a_former_owner_that_crashes_ends_its_work() -> None:
    world = World()
    records = world.fill(count=1_000)
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    world.run(world.is_settled)
    for at_most in (900, 500, 100):
        world.run(partial(world.holds, C, at_most=at_most))
        world.crash(C)
    world.run(lambda: not world.keys_at(C))
    for id_ in (A, B, D):
        assert world.keys_at(id_) == set(records)


def test_a_former_owner_drops_nothing_that_an_owner_lacks() -> None:
    world = World()
    world.fill(count=50)
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    world.run(
        lambda: (
            world.ring().moves[PartitionId(0)].phase == JOINT_NEW if world.ring().moves else True
        )
    )
    late = version(500)
    world.hold(C, b"late", late)

    def check() -> None:
        if b"late" not in world.keys_at(C):
            for id_ in (A, B, D):
                assert world.cluster.disks[id_].record(b"late").digest == late.digest

    world.on_step = check
    world.run(lambda: not world.keys_at(C))


def test_a_copy_that_changes_while_it_is_compared_is_not_dropped() -> None:
    world = World()
    records = world.fill(count=50)
    key = min(records)
    newer = version(900, base=records[key])
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    world.run(world.is_settled)
    world.run(lambda: bool(world.of(Sift)) and any(p.source == C for p in world.of(Sift)))
    world.hold(C, key, newer)
    world.run(lambda: not world.keys_at(C))
    for id_ in (A, B, D):
        assert world.cluster.disks[id_].record(key).digest == newer.digest


@pytest.mark.parametrize("key_bytes", [1, 900])
def test_many_unlike_copies_are_asked_for_in_pages_that_everybody_takes(key_bytes: int) -> None:
    world = World()
    at = PartitionId(0)
    names = (b"%b %d" % (b"k" * key_bytes, number) for number in range(3_000))
    keys = [key for key in names if world.partition_of(key) == at][:200]
    assert len(keys) == 200
    olds = {key: version(number + 1) for number, key in enumerate(keys)}
    owned = {key: version(1_000 + number, base=olds[key]) for number, key in enumerate(keys)}
    news = {key: version(2_000 + number, base=owned[key]) for number, key in enumerate(keys)}
    world.hold_all(D, olds)
    for id_ in (A, B, C):
        world.hold_all(id_, owned)
    world.change({at: (A, B, D)})
    world.run(lambda: not world.ring().moves or world.ring().moves[at].phase == JOINT_NEW)
    world.hold_all(C, news)
    world.run(lambda: not world.keys_at(C))
    for id_ in (A, B, D):
        for key in keys:
            assert world.cluster.disks[id_].record(key).digest == news[key].digest
    asked = [packet.message for packet in world.of(Pull)]
    assert any(message.want == PULL_VERSIONS for message in asked if isinstance(message, Pull))
    for message in asked:
        frame = encode_frame(message, request_id=1, budget_ms=1)
        assert len(frame) <= limits.CONTROL_FRAME_BYTES_MAX


# --- hints ---------------------------------------------------------------------------------------


def test_a_hint_for_one_that_owns_the_partition_no_longer_goes_to_all_owners() -> None:
    world = World()
    world.fill(count=30)
    key, record = b"hinted", version(300)
    partition = world.partition_of(key)
    node = world.cluster.nodes[D]  # a stand-in of every partition
    node.replica.merge([(key, record)], barrier=0)
    node.replica.owe([C], key, token_of(key))
    world.cluster.commit(D)
    for id_ in (A, B, C, D):
        delivery = world.cluster.nodes[id_].delivery
        assert delivery is not None
        delivery.is_paused = True
    world.take_down(C)
    world.change({partition: (A, B, D)})
    world.run(world.is_settled)
    # D owns it by now: the copy is its own, and A and B are owed it.
    world.run(lambda: set(node.replica.hints.owed(token_of(key), key)) == {A, B})
    for id_ in (A, B, D):
        delivery = world.cluster.nodes[id_].delivery
        assert delivery is not None
        delivery.is_paused = False
        delivery.wake(world.cluster.now, A)
        delivery.wake(world.cluster.now, B)
    world.run(lambda: all(key in world.keys_at(id_) for id_ in (A, B, D)))


def test_a_pass_whose_source_goes_while_nothing_is_asked_of_it_ends() -> None:
    """Between two pages it waits for the budget, and no failure of a message tells it."""
    world = World()
    records = world.fill(count=2_000)
    world.change(dict.fromkeys(PARTITIONS, (A, B, D)))
    node = world.cluster.nodes[D]
    transfers = node.transfers
    assert transfers is not None

    def waits_for_c() -> bool:
        node.budget.spend(world.cluster.now, 64 * limits.KIB)
        passes = [gained.running for gained in transfers._gained.values() if gained.running]
        return any(one.source == C and one.due < inf and one._is_all for one in passes)

    world.run(waits_for_c)
    world.take_down(C)
    world.run(world.is_settled)
    assert world.keys_at(D) == set(records)
