"""The bounds of hints: a stand-in that may keep no more, an owner that notes partitions instead."""

from __future__ import annotations

from dynagent.core.hints import ROW, decode_row
from dynagent.core.messages import MODE_OVERWRITE, Merge, MergeAck, PutReply
from dynagent.core.node import Node
from dynagent.core.ports import NodeId
from dynagent.core.ring import token_of
from dynagent.errors import Overloaded
from tests.core.harness import IDS, KEY, Cluster, cluster, is_error, put

A, B, C, D = IDS


def lose(world: Cluster, *lost: NodeId) -> None:
    """Nobody uses them any more."""
    for id_, node in world.nodes.items():
        for peer in lost:
            if id_ != peer:
                node.on_peer_down(world.now, peer)


def come_back(world: Cluster, back: NodeId) -> None:
    for id_, node in world.nodes.items():
        if id_ != back:
            node.on_peer_up(world.now, back)


def pass_time(world: Cluster, seconds: float) -> None:
    """In steps, so that what is due in between happens."""
    until = world.now + seconds
    while world.now < until:
        world.tick(world.now + 0.25)
        world.settle()


def held(node: Node) -> int:
    return node.replica.hints.copy_bytes


def dirty(node: Node) -> dict[NodeId, int]:
    return {target: len(places) for target, places in node.replica.hints.dirty.items()}


def with_dirty_partition() -> Cluster:
    """A wrote while C was away, and may note no key; B holds the write too."""
    world = cluster(owner_hints_max=0)
    lose(world, C)
    assert isinstance(world.ask(A, put(b"one")), PutReply)
    assert dirty(world.nodes[A]) == {C: 1}
    return world


# --- a stand-in ----------------------------------------------------------------------------------


def test_a_copy_that_has_been_delivered_and_dropped_is_owed_to_nobody() -> None:
    """A put's deadline may come after the delivery of what it has left here."""
    world = cluster(n=2, others=2)
    node = world.nodes[C]
    node.replica.owe([B], KEY, token_of(KEY))
    assert node.replica.hints.counts == {}
    assert not node.replica.take_batch()


def test_what_a_stand_in_keeps_is_counted_over_a_restart_and_until_it_is_delivered() -> None:
    world = cluster(n=2, others=2)
    lose(world, B)
    assert isinstance(world.ask(A, put(b"x" * 100)), PutReply)
    [keeper] = [id_ for id_ in (C, D) if world.disks[id_].rows]
    size = len(world.disks[keeper].record(KEY).content)
    assert size > 100
    assert held(world.nodes[keeper]) == held(world.restart(keeper)) == size
    come_back(world, B)
    pass_time(world, 3)
    assert not world.disks[keeper].rows
    assert held(world.nodes[keeper]) == held(world.restart(keeper)) == 0
    assert world.disks[B].record(KEY).value.dots() == world.disks[A].record(KEY).value.dots()


def test_a_copy_that_shrinks_leaves_room() -> None:
    world = cluster(n=2, others=2)
    lose(world, B)
    world.ask(A, put(b"x" * 1_000))
    [keeper] = [id_ for id_ in (C, D) if world.disks[id_].rows]
    before = held(world.nodes[keeper])
    reply = world.ask(A, put(b"y", 2, mode=MODE_OVERWRITE))
    assert isinstance(reply, PutReply)
    assert held(world.nodes[keeper]) < before - 900


def test_a_stand_in_at_its_bound_refuses_and_the_next_one_is_asked() -> None:
    world = cluster(n=2, others=2)
    lose(world, B)
    world.request(A, put(b"x"))
    first = next(p.target for p in world.wire if isinstance(p.message, Merge))
    world.nodes[first].replica.hints.bytes_max = 0
    world.settle()
    [(_, reply)] = world.answers
    assert isinstance(reply, PutReply)
    [other] = {C, D} - {first}
    assert not world.disks[first].rows
    assert world.disks[other].rows
    assert world.nodes[first].replica.hints.refused == 1
    assert world.nodes[other].replica.hints.counts == {B: 1}


def test_a_stand_in_at_its_bound_acknowledges_again_what_it_keeps() -> None:
    world = cluster(n=2, others=2)
    lose(world, B)
    world.request(A, put(b"x"))
    [merge] = [p for p in world.wire if isinstance(p.message, Merge)]
    world.settle()
    keeper = world.nodes[merge.target]
    keeper.replica.hints.bytes_max = held(keeper)
    world.deliver(merge)
    [answer] = [p for p in world.wire if p.source == merge.target]
    assert isinstance(answer.message, MergeAck)


def test_a_coordinator_that_stands_in_itself_refuses_before_it_writes() -> None:
    world = cluster(n=2, others=2, hint_bytes_max=0)
    lose(world, A, B)
    assert is_error(world.ask(C, put(b"x")), Overloaded)
    assert not any(disk.rows for disk in world.disks.values())


# --- an owner ------------------------------------------------------------------------------------


def test_past_its_bound_an_owner_notes_the_partition_and_hands_it_over_later() -> None:
    world = with_dirty_partition()
    assert not world.disks[A].markers.counts()
    come_back(world, C)
    pass_time(world, 3)
    assert values_of(world, C) == values_of(world, A)
    assert dirty(world.nodes[A]) == {}
    assert decode_row(world.disks[A].get_meta(ROW)) == (0, 0, {})


def test_a_dirty_partition_survives_a_restart() -> None:
    world = with_dirty_partition()
    node = world.restart(A)
    node.on_peer_down(world.now, C)
    assert dirty(node) == {C: 1}
    come_back(world, C)
    pass_time(world, 3)
    assert values_of(world, C) == values_of(world, A)


def test_a_write_that_is_owed_during_the_walk_keeps_the_mark() -> None:
    world = with_dirty_partition()
    come_back(world, C)
    world.tick(world.now + 1.1)  # the end of its hints, then the walk
    world.tick(world.now)
    [page] = [p for p in world.wire if p.target == C and isinstance(p.message, Merge)]
    world.wire.remove(page)
    world.request(A, put(b"two", 2))
    world.commit(A)
    for packet in [p for p in world.wire if p.target == C]:  # C misses it
        world.wire.remove(packet)
    while world.wire:
        world.deliver(world.wire[0])
    world.commit(B)
    while world.wire:
        world.deliver(world.wire[0])
    world.tick(world.now + 1.1)  # the put's deadline: it is owed
    world.deliver(page)
    world.settle()
    assert values_of(world, C) != values_of(world, A)
    assert dirty(world.nodes[A]) == {C: 1}
    pass_time(world, 3)
    assert values_of(world, C) == values_of(world, A)
    assert dirty(world.nodes[A]) == {}


def test_a_page_that_is_lost_is_sent_again() -> None:
    world = with_dirty_partition()
    come_back(world, C)
    world.tick(world.now + 1.1)
    world.tick(world.now)
    assert [p.target for p in world.wire] == [C]
    world.wire.clear()
    lose(world, C)
    come_back(world, C)
    pass_time(world, 5)
    assert values_of(world, C) == values_of(world, A)
    assert dirty(world.nodes[A]) == {}


def test_a_copy_that_cannot_be_read_is_owed_on_by_itself_when_its_partition_is_clean() -> None:
    world = with_dirty_partition()
    world.overwrite_row(A, b"rotten")
    world.without_healer(A)  # it would have it healed by then
    come_back(world, C)
    pass_time(world, 3)
    assert dirty(world.nodes[A]) == {}
    assert world.disks[A].markers.has(C, token_of(KEY), KEY)


def test_a_partition_is_not_handed_to_who_does_not_own_it() -> None:
    """A put under an older ring may still mark it for a former owner, which refuses every page of
    it: the walk would never end, nor any hint come to that node meanwhile (seed 2828)."""
    world = cluster(others=1, owner_hints_max=0)
    world.ask(A, put(b"one"))
    node = world.nodes[A]
    node.replica.owe([D], KEY, token_of(KEY))
    assert dirty(node) == {D: 1}
    while world.now < 5:
        world.tick(world.now + 0.25)
        assert not [p for p in world.wire if p.target == D and isinstance(p.message, Merge)]
        world.settle()
    assert dirty(node) == {}


def test_up_to_its_bound_an_owner_notes_keys() -> None:
    world = cluster(owner_hints_max=1)
    lose(world, C)
    world.ask(A, put(b"one"))
    node = world.restart(A)
    assert node.replica.hints.own == 1
    assert node.replica.hints.counts == {C: 1}
    assert dirty(node) == {}


def test_a_mark_that_a_full_disk_refused_is_none() -> None:
    world = cluster(owner_hints_max=0)
    lose(world, C)
    world.request(A, put(b"one"))
    node = world.nodes[A]
    assert node.take_batch() is not None
    node.on_refused(world.now)
    assert dirty(node) == {}


def values_of(world: Cluster, id_: NodeId) -> frozenset[tuple[int, int]]:
    return frozenset(world.disks[id_].record(KEY).value.dots())
