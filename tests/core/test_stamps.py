"""Minimum stamps: what was refused once is refused for good."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynagent.core.encoding import encode
from dynagent.core.ports import Batch, NodeId, PartitionId
from dynagent.core.ring import Ring
from dynagent.core.ringentry import AbortEntry, ChangeEntry, Content, Entry, PhaseEntry, fold
from dynagent.core.stamps import Stamps, is_taken, row_names, rows_at
from dynagent.errors import CorruptRecord
from tests.core.harness import IDS, Disk, cluster, make_ring

A, B, C, D = IDS
P, Q = PartitionId(3), PartitionId(4)


def then(ring: Ring, *contents: Content) -> Ring:
    for content in contents:
        ring = fold(ring, Entry(content=content, proposer=A, wall_ms=0))
    return ring


def moving(*, owners: tuple[NodeId, ...] = (B, C, D)) -> Ring:
    """Partition P has begun to move: its stamp is (2, 0)."""
    ring = make_ring(3, others=1)
    change = ChangeEntry(
        id=b"i" * 16,
        verb="ring",
        members=ring.members,
        leaving=(),
        removed=(),
        moves=((P, owners),),
    )
    return then(ring, change)


def served(disk: Disk, ring: Ring) -> Stamps:
    stamps = Stamps(disk)
    stamps.serve(ring)
    return stamps


def test_a_request_is_taken_between_the_minimum_and_what_is_known() -> None:
    taken = [
        (change, phase)
        for change in range(5)
        for phase in range(3)
        if is_taken((change, phase), minimum=(2, 1), known=(3, 0))
    ]
    assert taken == [(2, 1), (2, 2), (3, 0)]


def test_a_node_that_was_never_fenced_takes_old_stamps_and_no_newer_ones() -> None:
    stamps = served(Disk(), moving())
    assert stamps.check(P, (1, 2))
    assert stamps.check(P, (2, 0))
    assert not stamps.check(P, (2, 1))
    assert not stamps.check(Q, (2, 0))
    assert stamps.fenced(P) == stamps.minimum(P) == (0, 0)


def test_a_fence_holds_from_now_on_and_survives_a_restart() -> None:
    disk, ring = Disk(), moving()
    stamps, batch = served(disk, ring), Batch(1)
    stamps.raise_to(batch, P, (2, 0))
    assert stamps.is_dirty
    assert not stamps.check(P, (1, 2))
    assert stamps.fenced(P) == (0, 0)
    stamps.seal(batch)
    disk.write(batch)
    stamps.on_committed(batch)
    assert stamps.fenced(P) == (2, 0)
    again = served(disk, ring)
    assert not again.check(P, (1, 2))
    assert again.check(P, (2, 0))
    assert again.check(Q, (1, 2))


def test_a_minimum_never_goes_down() -> None:
    stamps = served(Disk(), moving())
    stamps.raise_to(Batch(1), P, (2, 0))
    stamps.raise_to(Batch(1), P, (1, 2))
    assert stamps.minimum(P) == (2, 0)


def test_a_fence_that_a_full_disk_has_refused_was_never_raised() -> None:
    disk, ring = Disk(), moving()
    stamps, batch = served(disk, ring), Batch(1)
    stamps.raise_to(batch, P, (1, 2))
    stamps.seal(batch)
    disk.write(batch)
    stamps.on_committed(batch)
    stamps.raise_to(Batch(2), P, (2, 0))
    stamps.on_refused()
    assert stamps.minimum(P) == stamps.fenced(P) == (1, 2)
    assert not stamps.is_dirty


def test_a_fence_ahead_of_the_log_is_our_own_bug() -> None:
    stamps = served(Disk(), moving())
    with pytest.raises(AssertionError):
        stamps.raise_to(Batch(1), P, (2, 1))


def test_a_newer_ring_is_known_from_when_it_is_served() -> None:
    ring = moving()
    stamps = served(Disk(), ring)
    stamps.raise_to(Batch(1), P, (2, 0))
    later = then(ring, PhaseEntry(index=2, phase=1, partitions=(P,)))
    stamps.serve(later)
    assert stamps.check(P, (2, 1))
    assert stamps.check(P, (2, 0))
    assert not stamps.check(P, (1, 2))


def test_an_abort_takes_a_higher_stamp_that_passes_the_fence() -> None:
    ring = moving()
    stamps = served(Disk(), ring)
    stamps.raise_to(Batch(1), P, (2, 0))
    stamps.serve(then(ring, AbortEntry(index=2, id=b"a" * 16)))
    assert stamps.check(P, (3, 2))
    assert not stamps.check(P, (1, 2))


def test_rows_hold_64_partitions_each() -> None:
    ring = replace(make_ring(3), lists=(IDS[:3],) * 128, changed=())
    disk, batch = Disk(), Batch(1)
    stamps = served(disk, ring)
    for partition in (0, 63, 64, 127):
        stamps.raise_to(batch, PartitionId(partition), (1, 2))
    stamps.seal(batch)
    assert [name for name, _ in batch.meta] == row_names(128) == ["stamps/0", "stamps/1"]
    disk.write(batch)
    again = served(disk, ring)
    raised = [at for at in range(128) if again.minimum(PartitionId(at)) == (1, 2)]
    assert raised == [0, 63, 64, 127]


@pytest.mark.parametrize("row", [b"no row", encode([[1], [1, 2]]), encode([["a"], [1]])])
def test_a_damaged_row_is_found(row: bytes) -> None:
    disk = Disk()
    disk.meta["stamps/0"] = row
    with pytest.raises(CorruptRecord, match="minimum stamps"):
        served(disk, make_ring(3))


def test_a_rebuilt_store_refuses_what_is_older_than_its_ring_and_its_rows() -> None:
    ring = moving()
    disk, batch = Disk(), Batch(1)
    stamps = served(disk, then(ring, PhaseEntry(index=2, phase=1, partitions=(P,))))
    stamps.raise_to(batch, P, (2, 1))
    stamps.seal(batch)
    disk.meta.update(rows_at(ring, dict(batch.meta)))
    again = served(disk, ring)
    assert again.minimum(P) == (2, 1)
    assert again.minimum(Q) == (1, 2)


# --- at the replica ------------------------------------------------------------------------------


def test_a_fence_waits_for_all_that_was_accepted_before_it() -> None:
    c = cluster(n=3)
    replica = c.nodes[A].replica
    number = replica.fence(P, (1, 2))
    assert replica.is_dirty
    batch = c.nodes[A].take_batch()
    assert batch is not None
    assert batch.number == number
    assert [name for name, _ in batch.meta] == ["stamps/0"]
    c.disks[A].write(batch)
    c.nodes[A].on_committed(0.0, batch)
    assert replica.stamps.fenced(P) == (1, 2)
    c.restart(A)
    assert c.nodes[A].replica.stamps.minimum(P) == (1, 2)
