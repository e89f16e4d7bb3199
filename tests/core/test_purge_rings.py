"""The end of deletes where the ring changes: who takes part, which moves count (decision 0019)."""

from __future__ import annotations

from dynagent.core.entry import encode_entry
from dynagent.core.messages import (
    MODE_OVERWRITE,
    BarrierMove,
    BarrierRequest,
    Get,
    Merge,
    PutReply,
)
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.preference import fallbacks
from dynagent.core.ring import Ring, token_of
from dynagent.core.ringentry import PhaseEntry, PolicyEntry
from dynagent.core.tombstones import holders
from dynagent.errors import BadRequest, NotReady, StaleBarrier
from tests.core.harness import IDS, KEY, Cluster, Packet, is_error, make_ring, put, values
from tests.core.joint import Changing, P
from tests.core.test_purge import REST_S, counts, deleted, down, order, run, up

A, B, C, D = IDS
ALL = IDS


def changing(*, n: int = 3) -> Changing:
    ring = make_ring(n, others=4 - n)
    return Changing(c=Cluster(ring, rest_s=REST_S), ring=ring, entries=[])


def standing(w: Changing, node: NodeId) -> int:
    return w.c.nodes[node].replica.barriers.standing(P)


def moved(w: Changing, owners: tuple[NodeId, ...], *nodes: NodeId) -> None:
    """P has changed its owners, all phases at once."""
    told = nodes or ALL
    w.move(owners, *told)
    w.ready(*owners)
    w.phase(1, *told)
    w.phase(2, *told)


def test_s_p_is_owners_and_fallbacks_until_the_ring_changes_and_all_members_afterwards() -> None:
    w = changing(n=2)
    ring = w.ring
    assert set(holders(ring, P)) == set(ALL)
    few = make_ring(1, others=3)
    assert len(holders(few, P)) == 2
    w.decide(PolicyEntry(id=bytes(16), name="x", value="y"))
    assert w.ring.placed == ring.placed
    w.move((A, C))
    assert w.ring.placed == w.ring.epoch
    assert set(holders(w.ring, P)) == set(ALL)
    w = changing()
    w.move((A, B, D), removed=(C,))
    assert set(holders(w.ring, P)) == {A, B, D}


def test_a_move_under_an_older_placement_does_not_count() -> None:
    w = changing()
    deleted(w.c)
    run(w.c, 0.5)  # all have moved to 1, and rest
    assert [standing(w, node) for node in ALL] == [1, 1, 1, 1]
    moved(w, (A, B, D))
    assert w.c.nodes[A].replica.barriers.is_void(P)
    w.c.nodes[D].replica.merge([(KEY, w.c.disks[A].record(KEY))], barrier=1)
    w.c.nodes[C].replica.drop(KEY, token_of(KEY))  # as a former owner does once all have it
    run(w.c)
    assert {standing(w, node) for node in ALL} == {2}
    assert all(disk.rows == {} for disk in w.c.disks.values())


def test_what_a_former_owner_still_holds_keeps_the_tombstone() -> None:
    """It has moved to 1 as an owner, with a value that the others have deleted since. What is read
    there under 1 must find the tombstone, or be refused."""
    w = changing()
    c = w.c
    assert isinstance(c.ask(A, put(b"v")), PutReply)
    old = encode_entry(KEY, c.disks[C].record(KEY))
    down(c, C)
    assert isinstance(c.ask(A, put(None, 2, mode=MODE_OVERWRITE)), PutReply)
    for node in c.nodes.values():
        for target in list(node.replica.hints.targets):
            node.replica.hints.remove(node.replica._open, target, token_of(KEY), KEY)
    c.settle()
    for id_ in ALL:
        c.nodes[id_].replica.move(P, 1)
    c.settle()
    up(c, C)
    c.nodes[D].replica.merge([(KEY, c.disks[A].record(KEY))], barrier=1)
    former = c.nodes[C].former
    assert former is not None
    c.nodes[C].machines.remove(former)  # it takes its time
    moved(w, (A, B, D))
    run(c)
    assert counts(c) == [1, 1, 0, 1]  # C holds something, and bars the way to 2
    late = Packet(C, A, 99, Merge(*w.ring.stamps[P], 1, [old]), 500)
    c.deliver(late)
    c.settle()
    assert values(c.ask(B, Get(KEY, r=3))) == []
    c.nodes[C].replica.drop(KEY, token_of(KEY))
    run(c)
    assert counts(c) == [0, 0, 0, 0]
    c.deliver(late)
    assert is_error(c.wire[-1].message, StaleBarrier)
    c.settle()
    assert values(c.ask(B, Get(KEY, r=3))) == []


def test_a_partition_that_moves_is_not_purged() -> None:
    w = changing()
    deleted(w.c)
    w.move((A, B, D), *ALL)
    w.unready(D)
    run(w.c)
    assert sum(counts(w.c)[:3]) == 3
    move = BarrierMove(w.ring.epoch, 2, [P], [1])
    assert is_error(order(w.c, B, move), BadRequest)


def test_who_is_away_holds_back_every_purge_once_the_ring_has_changed() -> None:
    w = changing(n=2)
    c = w.c
    moved(w, (A, C))
    run(c, 1)
    down(c, D)
    c.disks[D].rows.clear()
    deleted(c)
    purger = c.nodes[A].purger
    assert purger is not None
    run(c)
    assert purger.blocked == {P: ("away", [D])}
    up(c, D)
    run(c)
    assert counts(c) == [0, 0, 0, 0]


# --- partitions that are foreign -----------------------------------------------------------------


def far() -> Changing:
    """N=1: D is neither owner nor fallback of P as long as the ring has not changed; 1 is done."""
    w = changing(n=1)
    ring = w.ring
    outside = [node for node in ALL if node not in holders(ring, P)]
    assert outside == [C, D]
    deleted(w.c)
    run(w.c)
    assert [standing(w, node) for node in ALL] == [1, 1, 0, 0]
    return w


def fall_to(w: Changing, node: NodeId) -> None:
    """The next partition has another owner: by that one P has another fallback."""
    beside = PartitionId((P + 1) % 8)
    w.decide_moves({beside: (node,)}, *ALL, introduce=False)
    index = w.ring.epoch
    for phase in (1, 2):
        entry = PhaseEntry(index=index, phase=phase, partitions=(beside,))
        w.decide(entry, *ALL, introduce=False)
    assert fallbacks(w.ring, P) == (node,)


def test_a_node_stands_where_the_owners_stand_before_it_keeps_anything_for_others() -> None:
    w = far()
    c = w.c
    assert isinstance(c.ask(A, put(b"v", 9)), PutReply)
    fall_to(w, D)
    barriers = c.nodes[D].replica.barriers
    assert barriers.is_foreign(P)
    record = encode_entry(KEY, c.disks[A].record(KEY))
    hint = Merge(*w.ring.stamps[P], 1, [record], [], A)
    assert is_error(order(c, D, hint), NotReady)
    assert is_error(order(c, D, BarrierRequest(w.ring.epoch, 2, [P])), NotReady)
    run(c, 2)
    assert (barriers.standing(P), barriers.closed(P), barriers.is_void(P)) == (1, 1, True)
    assert not barriers.is_foreign(P)


def test_an_owner_and_who_has_moved_itself_are_no_strangers() -> None:
    w = far()
    fall_to(w, D)
    for node in (A, B):
        assert not w.c.nodes[node].replica.barriers.is_foreign(P)
    w.c.settle()
    # After a restart D, whose move is another's word, asks once more; A and B need not.
    assert [w.c.restart(node).replica.barriers.is_foreign(P) for node in (A, B)] == [False, False]


def test_what_was_told_is_taken_up_again_if_the_disk_has_refused_it() -> None:
    w = far()
    c = w.c
    fall_to(w, D)
    while not c.nodes[D].replica.barriers.is_dirty:
        if c.wire:
            c.deliver(c.wire[0])
        else:
            c.tick(c.now + 0.25)
    assert c.nodes[D].take_batch() is not None
    c.nodes[D].on_refused(c.now)
    assert c.nodes[D].replica.barriers.is_foreign(P)
    run(c, 3)
    assert standing(w, D) == 1
    assert not c.nodes[D].replica.barriers.is_foreign(P)


def test_a_single_owner_that_never_had_company_has_nobody_to_ask() -> None:
    ring: Ring = make_ring(1)
    c = Cluster(ring, rest_s=REST_S)
    run(c)
    assert not any(c.nodes[A].replica.barriers.is_foreign(PartitionId(at)) for at in range(8))
