"""Every checker of the ring bites: each is shown what only a broken product can do, after something
that differs from it in one thing, and is sound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynagent.core.encoding import encode
from dynagent.core.entry import Record
from dynagent.core.messages import MODE_CONTEXT, Put, PutReply
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import JOINT_NEW, JOINT_OLD, Change, Move, Ring
from dynagent.core.ringentry import Entry, PolicyEntry, encode_log_entry
from dynagent.core.siblings import Siblings
from dynagent.testing.history import PUT, UNKNOWN, encode_value
from dynagent.testing.rings import Rings
from dynagent.testing.simulation import make_ring
from dynagent.testing.world import World
from tests.sim.test_checkers import A1, B1, KEY, Story, calm, objections

RING = make_ring(5)
A, B, C, D, E = (member.id for member in RING.members)


class Host:
    """A node of which there is nothing but its ring."""

    def __init__(self, node: NodeId, ring: Ring | None) -> None:
        self.id = node
        self.ring = ring


def moving(phase: int) -> Ring:
    """Partition 0 of A, B, C goes to A, B, D."""
    move = Move(partition=PartitionId(0), owners=(A, B, D), phase=phase)
    change = Change(
        index=2,
        id=b"i" * 16,
        verb="set",
        driver=A,
        joined=(),
        before=RING.members,
        leaving_before=(),
        moves=(move,),
    )
    return replace(RING, epoch=2, change=change)


def has_copied(rings: Rings, *, index: int = 2, is_copied: bool = True) -> None:
    """D has written down, for that change, how far it is with partition 0."""
    row = encode([[index, 0], [], [], is_copied])
    rings.on_row(D, "transfer/0", row, moving(JOINT_OLD))


def key_in(partition: int) -> bytes:
    rings = Rings(World(0), RING)
    keys = (b"%d" % number for number in range(1_000))
    return next(key for key in keys if rings.partition_of(key) == partition)


def test_two_rings_of_one_epoch() -> None:
    world = World(0)
    rings = Rings(world, RING)
    second = replace(RING, epoch=2)
    rings.look(Host(A, RING))
    rings.look(Host(A, second))
    rings.look(Host(B, second))
    assert objections(world) == set()
    assert rings.present is second
    rings.look(Host(C, replace(second, version_min=2)))
    assert objections(world) == {"one_ring"}


def test_two_entries_of_one_index() -> None:
    world = World(0)
    rings = Rings(world, RING)

    def row(value: str) -> bytes:
        content = PolicyEntry(id=b"i" * 16, name="name", value=value)
        entry = encode_log_entry(Entry(content=content, proposer=A, wall_ms=0))
        return encode([2, 1, entry])

    rings.on_row(A, "ringlog/2", row("one"), RING)
    rings.on_row(B, "ringlog/2", row("one"), RING)
    rings.on_row(B, "ringlog/vote", b"whatever", RING)
    assert objections(world) == set()
    rings.on_row(C, "ringlog/2", row("another"), RING)
    assert objections(world) == {"one_ring"}


def test_a_node_goes_back_to_an_older_ring() -> None:
    world = World(0)
    rings = Rings(world, RING)
    rings.look(Host(A, replace(RING, epoch=2)))
    rings.look(Host(A, None))  # it has died
    rings.look(Host(B, RING))
    assert objections(world) == set()
    rings.look(Host(A, RING))
    assert objections(world) == {"epoch_grows"}


def test_a_record_comes_to_who_is_to_keep_nothing_of_it() -> None:
    world = World(0)
    rings = Rings(world, make_ring(9))
    key = next(b"%d" % n for n in range(1_000) if rings.partition_of(b"%d" % n) == 0)
    members = [member.id for member in rings.present.members]
    for node in members[:6]:  # three owners, and as many fallbacks
        rings.on_record(node, key)
    assert objections(world) == set()
    assert rings.was_owner(members[0], key)
    assert not rings.was_owner(members[5], key)
    rings.on_record(members[6], key)
    assert objections(world) == {"kept_as_planned"}


@pytest.mark.parametrize(
    ("minimum", "objects"),
    [((2, 0), set()), ((1, 2), {"fences_grow"}), ((2, 1), {"fences_follow"})],
)
def test_a_minimum_falls_or_runs_ahead(minimum: tuple[int, int], objects: set[str]) -> None:
    world = World(0)
    rings, ring = Rings(world, RING), moving(JOINT_OLD)

    def row(stamp: tuple[int, int]) -> bytes:
        return encode([[stamp[0]], [stamp[1]]])

    rings.on_row(C, "stamps/0", row((2, 0)), ring)
    rings.on_row(C, "stamps/0", row(minimum), ring)
    assert objections(world) == objects


@pytest.mark.parametrize(
    ("is_copied", "index", "objects"),
    [(True, 2, set()), (False, 2, {"copied_first"}), (True, 1, {"copied_first"})],
)
def test_phase_1_comes_before_a_new_owner_has_copied(
    is_copied: bool, index: int, objects: set[str]
) -> None:
    world = World(0)
    rings = Rings(world, RING)
    rings.look(Host(A, moving(JOINT_OLD)))
    has_copied(rings, index=index, is_copied=is_copied)
    rings.look(Host(A, replace(moving(JOINT_NEW), epoch=3)))
    assert objections(world) == objects


def test_a_new_owner_coordinates_too_early() -> None:
    world, key = World(0), key_in(0)
    rings = Rings(world, RING)
    rings.on_write(Host(A, moving(JOINT_OLD)), key)
    rings.on_write(Host(D, moving(JOINT_NEW)), key)
    rings.on_write(Host(D, moving(JOINT_OLD)), key_in(1))
    assert objections(world) == set()
    rings.on_write(Host(D, moving(JOINT_OLD)), key)
    assert objections(world) == {"newcomers_wait"}


@pytest.mark.parametrize(("new", "objects"), [((A, C), set()), ((A, D), {"ack_is_joint"})])
def test_an_acknowledgement_lacks_w_of_the_new_owners(
    new: tuple[NodeId, ...], objects: set[str]
) -> None:
    story = Story()
    put = story.begin(PUT)
    sibling = story.mint(put, A1, {1: 1})
    for node in (A, C):
        story.ledger.on_durable(node, KEY, Record(Siblings({1: 1}, (sibling,))))
    message = Put(KEY, encode_value(put.number), MODE_CONTEXT, b"", put.op_id)
    reply = PutReply(b"", 1, (1).to_bytes(8, "big") + (1).to_bytes(8, "big"))
    lists = [((A, B, C), (*new, E))]
    story.ledger.on_put_reply(A, message, reply, w=2, reply_clock=None, lists=lists)
    assert objections(story.world) == objects


@pytest.mark.parametrize(
    ("holders", "objects"), [((A, D), set()), ((A, C), set()), ((A, B), {"retried_once"})]
)
def test_what_has_reached_w_of_both_lists_is_written_again(
    holders: tuple[NodeId, ...], objects: set[str]
) -> None:
    story = Story()
    rings = Rings(story.world, RING)
    has_copied(rings)
    rings.look(Host(A, moving(JOINT_NEW)))
    put = story.begin(PUT)
    sibling = story.mint(put, A1, {1: 1})
    for node in holders:
        story.ledger.on_durable(node, KEY, Record(Siblings({1: 1}, (sibling,))))
    story.retry(put)
    story.mint(put, B1, {2: 1})
    story.end(put, dot=B1)
    lists = [(since, ring.write_lists(PartitionId(0))) for since, ring in rings.tenures]
    assert story.verdict(A1, B1, lists=lists) == objects


def test_what_was_acknowledged_is_written_again() -> None:
    for acknowledges, objects in ((False, set[str]()), (True, {"retried_once"})):
        story = Story()
        put = story.begin(PUT)
        sibling = story.mint(put, A1, {1: 1})
        story.ledger.on_durable(A, KEY, Record(Siblings({1: 1}, (sibling,))))
        if acknowledges:  # by the ring before, where one of the disks had an owner's place
            story.ledger.acknowledged[put.number] = story.world.now
        story.retry(put)
        story.mint(put, B1, {2: 1})
        story.end(put, dot=B1)
        assert story.verdict(A1, B1) == objects


def test_a_request_fails_in_a_quiet_world() -> None:
    story = Story()
    simulation = calm()
    simulation.history = story.history
    story.put(A1, {1: 1})
    simulation._check_available()
    assert objections(simulation.world) == set()
    story.end(story.begin(PUT), outcome=UNKNOWN)
    simulation._check_available()
    assert objections(simulation.world) == {"available"}


def test_a_change_does_not_end() -> None:
    simulation = calm()
    for node in simulation.nodes:
        node.start()
    simulation.operators.judge()
    assert objections(simulation.world) == set()
    simulation.rings.present = replace(simulation.ring, leaving=(simulation.nodes[0].id,))
    simulation.operators.judge()
    assert objections(simulation.world) == {"changes_end"}
