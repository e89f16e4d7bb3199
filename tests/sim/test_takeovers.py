"""The judge of new owners bites: shown what they must have, and then a copy too few."""

from __future__ import annotations

from dynagent.core.entry import Record
from dynagent.core.ports import NodeId
from dynagent.core.ring import JOINT_NEW, JOINT_OLD
from dynagent.core.siblings import Siblings
from dynagent.testing.copies import NO_COPY, Copy
from dynagent.testing.history import DELETE, PUT
from dynagent.testing.takeovers import Takeovers
from tests.sim.test_checkers import A1, Story, objections
from tests.sim.test_ring_checkers import RING, A, B, C, D, key_in, moving

KEY = key_in(0)
VALUE: Copy = ({1: 1}, frozenset({A1}))
TOMBSTONE: Copy = ({1: 1}, frozenset())
TOMBSTONE_RECORD = Record(Siblings({1: 1}, ()))


def judged(story: Story, copies: dict[NodeId, Copy], *, damaged: bool = False) -> set[str]:
    """Partition 0 goes from A, B, C to A, B, D, and is read from those now."""
    if damaged:
        story.ledger.ever_rotten.add(KEY)
    takeovers = Takeovers(
        world=story.world,
        history=story.history,
        ledger=story.ledger,
        keys=[KEY],
        copy_of=lambda node, key: copies.get(node, NO_COPY),
    )
    takeovers.on_ring(RING, moving(JOINT_OLD))
    assert objections(story.world) == set(), "they are not read yet"
    takeovers.on_ring(moving(JOINT_OLD), moving(JOINT_NEW))
    return objections(story.world)


def acknowledged(kind: str, *, w: int = 2, strict: bool = True) -> Story:
    story = Story()
    write = story.begin(kind, w=w, seen={1: 1} if kind == DELETE else None)
    write.key, write.strict = KEY, strict
    story.end(write, dot=A1 if kind == PUT else None)
    return story


def test_a_write_is_at_one_of_three_new_owners() -> None:
    assert judged(acknowledged(PUT), {A: VALUE, D: VALUE}) == set()
    assert judged(acknowledged(PUT), {A: VALUE, C: VALUE}) == {"owners_hold_all"}
    assert judged(acknowledged(PUT), {B: VALUE, D: TOMBSTONE}) == set(), "superseded meanwhile"


def test_a_delete_has_come_to_nobody_who_still_holds_its_value() -> None:
    assert judged(acknowledged(DELETE), {A: TOMBSTONE, B: VALUE, D: TOMBSTONE}) == set()
    assert judged(acknowledged(DELETE), {A: TOMBSTONE, B: VALUE, D: VALUE}) == {"owners_hold_all"}


def test_what_nobody_promised_is_not_missed() -> None:
    assert judged(acknowledged(PUT, w=1), {A: VALUE}) == set()
    assert judged(acknowledged(PUT, strict=False), {A: VALUE}) == set()
    assert judged(acknowledged(PUT), {A: VALUE}, damaged=True) == set()
    purged = acknowledged(PUT)
    for node in (A, B, C):
        purged.ledger.on_durable(node, KEY, TOMBSTONE_RECORD)
        purged.ledger.on_purged(node, KEY)
    assert judged(purged, {}) == set()
