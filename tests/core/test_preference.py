"""Owners, fallbacks and the active preference list."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dynagent.core.claim import plan
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.preference import Place, active, fallbacks
from dynagent.core.ring import Change, Member, Ring

A, B, C, D, E, F = (NodeId(letter) for letter in "abcdef")
P0 = PartitionId(0)


def ring_of(
    lists: Sequence[str], *, hosts: dict[str, str] | None = None, extra: Sequence[Member] = ()
) -> Ring:
    """A ring of one-letter nodes: "abc" is a preference list. A node's host is named like it."""
    names = sorted(set("".join(lists)))
    members = [member(name, host=(hosts or {}).get(name, name)) for name in names]
    return Ring(
        epoch=1,
        cluster_id=bytes(16),
        n=len(lists[0]),
        r=1,
        w=1,
        members=tuple(sorted((*members, *extra), key=lambda m: m.id)),
        lists=tuple(tuple(NodeId(name) for name in owned) for owned in lists),
    )


def member(name: str, *, host: str = "", capacity: int = 1) -> Member:
    return Member(
        id=NodeId(name), name=name, address="", zone="", host=host or name, capacity=capacity
    )


def planned_ring(*, nodes: int, partitions: int, n: int, per_host: int = 1) -> Ring:
    members = tuple(
        member(f"{i:03}", host=f"host-{i // per_host}", capacity=1) for i in range(nodes)
    )
    lists = plan(members=members, partitions=partitions, n=n).lists
    return Ring(epoch=1, cluster_id=bytes(16), n=n, r=1, w=1, members=members, lists=lists)


def test_fallbacks_are_met_clockwise_and_round_the_end_of_the_ring() -> None:
    ring = ring_of(["abc", "dab", "ecb", "fac"])
    assert fallbacks(ring, P0) == (D, E, F)
    assert fallbacks(ring, PartitionId(2)) == (F, A, D)
    assert fallbacks(ring, PartitionId(3)) == (B, D, E)


def test_fallbacks_on_hosts_of_their_own_come_first() -> None:
    # d sits with owner a, and f with e.
    ring = ring_of(["abc", "def"], hosts={"d": "a", "f": "e"})
    assert fallbacks(ring, P0) == (E, D, F)


def test_a_node_without_capacity_is_no_fallback() -> None:
    ring = ring_of(["abc", "bcd"], extra=[member("r", capacity=0)])
    assert fallbacks(ring, P0) == (D,)


def test_who_joins_keeps_nothing_for_others_until_that_is_settled() -> None:
    settled = ring_of(["abc", "bcd"], extra=[member("x")])
    assert NodeId("x") in fallbacks(settled, PartitionId(0))
    joining = replace(
        settled,
        change=Change(
            index=1,
            id=bytes(16),
            verb="join",
            driver=NodeId("a"),
            joined=(NodeId("x"),),
            before=settled.members[:-1],
            leaving_before=(),
            moves=(),
        ),
    )
    assert fallbacks(joining, PartitionId(0)) == (NodeId("d"),)


def test_a_node_with_capacity_that_owns_nothing_is_the_last_fallback() -> None:
    ring = ring_of(["bcd", "cde"], extra=[member("a"), member("f")])
    assert fallbacks(ring, P0) == (E, A, F)


def test_where_every_node_is_an_owner_there_is_no_fallback() -> None:
    assert fallbacks(ring_of(["abc", "bca"]), P0) == ()


def test_a_partition_has_as_many_fallbacks_as_owners_each_on_a_host_of_its_own() -> None:
    ring = planned_ring(nodes=24, partitions=32, n=3, per_host=2)
    host_of = {m.id: m.host for m in ring.members}
    for p in range(32):
        everyone = ring.lists[p] + fallbacks(ring, PartitionId(p))
        assert len(everyone) == 6
        assert len({host_of[node] for node in everyone}) == 6


def test_the_stand_ins_of_one_node_are_spread() -> None:
    ring = planned_ring(nodes=20, partitions=256, n=3)
    down = ring.members[0].id
    stand_ins = Counter(
        place.node
        for p in range(256)
        for place in active(ring, PartitionId(p), lambda node: node != down)
        if place.is_hinted
    )
    assert sum(stand_ins.values()) == sum(down in owned for owned in ring.lists)
    assert max(stand_ins.values()) <= sum(stand_ins.values()) // 4


def test_with_all_owners_up_the_active_list_is_the_preference_list() -> None:
    assert active(ring_of(["abc", "bcd"]), P0, lambda node: node != D) == (
        Place(A, A),
        Place(B, B),
        Place(C, C),
    )


def test_a_fallback_takes_the_place_of_an_owner_that_is_down() -> None:
    places = active(ring_of(["abc", "dae"]), P0, lambda node: node != B)
    assert places == (Place(A, A), Place(B, D), Place(C, C))
    assert [place.is_hinted for place in places] == [False, True, False]


def test_a_fallback_that_is_down_is_passed_over() -> None:
    places = active(ring_of(["abc", "dae"]), P0, lambda node: node not in (B, D))
    assert places == (Place(A, A), Place(B, E), Place(C, C))


def test_a_place_stays_empty_where_no_fallback_is_up() -> None:
    places = active(ring_of(["abc", "dab"]), P0, lambda node: node in (A, D))
    assert places == (Place(A, A), Place(B, D), Place(C, None))
    assert places[2].is_hinted


def test_a_stand_in_never_shares_a_host_with_another_place() -> None:
    ring = ring_of(["abc", "def"], hosts={"d": "a", "e": "x", "f": "x"})
    # d sits with a, which is up; f sits with e, which already stands in for b.
    assert active(ring, P0, lambda node: node in (A, D, E, F)) == (
        Place(A, A),
        Place(B, E),
        Place(C, None),
    )


def test_a_stand_in_may_come_from_the_host_of_the_owner_that_is_down() -> None:
    ring = ring_of(["abc", "bcd"], hosts={"d": "a"})
    assert active(ring, P0, lambda node: node != A) == (Place(A, D), Place(B, B), Place(C, C))


def test_stand_ins_may_share_a_host_where_the_owners_do() -> None:
    ring = ring_of(["abc", "bcd"], hosts={"a": "x", "b": "x", "c": "y", "d": "y"})
    assert active(ring, P0, lambda node: node != A) == (Place(A, D), Place(B, B), Place(C, C))


_RING = planned_ring(nodes=9, partitions=16, n=3, per_host=2)


@given(up=st.sets(st.sampled_from([m.id for m in _RING.members])), p=st.integers(0, 15))
def test_an_active_list_has_distinct_live_nodes_and_no_idle_one_that_would_fit(
    up: set[NodeId], p: int
) -> None:
    partition = PartitionId(p)
    host_of = {m.id: m.host for m in _RING.members}
    asked: list[NodeId] = []

    def is_up(node: NodeId) -> bool:
        asked.append(node)
        return node in up

    places = active(_RING, partition, is_up)
    nodes = [place.node for place in places if place.node is not None]
    assert tuple(place.owner for place in places) == _RING.lists[partition]
    assert all(place.node == place.owner for place in places if place.owner in up)
    assert set(nodes) <= up
    assert len({host_of[node] for node in nodes}) == len(nodes)
    assert len(set(asked)) == len(asked)
    if len(nodes) < 3:
        able = up.intersection(_RING.lists[partition] + fallbacks(_RING, partition))
        assert {host_of[node] for node in able} == {host_of[node] for node in nodes}


def test_the_same_ring_always_gives_the_same_walk() -> None:
    dice = random.Random(1)
    for _ in range(20):
        p = PartitionId(dice.randrange(16))
        assert fallbacks(_RING, p) == fallbacks(_RING, p)
