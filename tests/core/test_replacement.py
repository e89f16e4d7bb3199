"""Who has lost its store takes its old place, if that is what it looks like; a node says where it
is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynagent.core.messages import Enter, RingReply
from dynagent.core.ports import NodeId
from dynagent.core.replacement import POLICY, check_replacement, find, member_of, plan_replacement
from dynagent.core.ring import JOINT_OLD, Member, Ring
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.core.ringentry import Entry, fold
from dynagent.core.whereabouts import plan_address
from dynagent.errors import BadRequest, Refused
from tests.core.harness import IDS, Cluster, is_error, make_ring

A, B, C, D = IDS
NEW = NodeId("e" * 16)


def enter(**changed: object) -> Enter:
    fields = {
        "node": NEW,
        "name": "n-c",
        "address": "h:9",
        "zone": "",
        "host": C,
        "capacity": 7,
        "replaces": "",
    }
    return Enter(**(fields | changed))  # type: ignore[arg-type]


def ring_of_three() -> Ring:
    """Everybody owns everything, at addresses of their own."""
    ring = make_ring(3, voters=(A, B, C))
    members = tuple(replace(m, address=f"h:{at}") for at, m in enumerate(ring.members, 1))
    return replace(ring, members=members)


def settle(ring: Ring, new: Member, up: tuple[NodeId, ...] = (A, B), old: str = "") -> Ring:
    """The ring after the change, or raises `Refused`."""
    gone = find(ring, new, NodeId(old))
    check_replacement(ring, gone, new, up)
    content = plan_replacement(ring, gone, new)
    return fold(ring, Entry(content=content, proposer=A, wall_ms=0))


def test_a_new_store_takes_the_places_name_and_capacity_of_the_old_one() -> None:
    ring = settle(ring_of_three(), member_of(enter()))
    assert ring.removed == (C,)
    assert C not in ring.voters
    [new] = [member for member in ring.members if member.id == NEW]
    assert (new.name, new.address, new.capacity) == ("n-c", "h:9", 1)
    assert all(move.owners == (A, B, NEW) for move in ring.moves.values())
    assert {move.phase for move in ring.moves.values()} == {JOINT_OLD}
    assert len(ring.moves) == ring.partitions
    assert decode_ring(encode_ring(ring)) == ring  # in which two members have one name


def test_a_store_that_was_set_aside_is_known_by_its_id_whatever_the_name() -> None:
    ring = settle(ring_of_three(), member_of(enter(name="other", replaces=C)), old=C)
    assert ring.removed == (C,)


@pytest.mark.parametrize(
    ("changed", "ring_changed", "up", "told"),
    [
        ({"name": "n9"}, {}, (A, B), "no member of this cluster is named n9.*dynctl join h:9"),
        ({}, {}, (A, B, C), "is up at h:3.*another name"),
        ({}, {}, (A,), "too few other copies"),
        ({}, {"policies": ((POLICY, "no"),)}, (A, B), "dynctl replace n-c h:9"),
        ({}, {"removed": (C,)}, (A, B), "is going already"),
        ({"address": "h:1"}, {}, (A, B), "another member has"),
        ({"host": A}, {}, (A, B), f"on host {A} there is another copy.*dynctl remove n-c"),
    ],
)
def test_what_does_not_look_like_it_is_refused_with_what_to_do(
    changed: dict[str, object],
    ring_changed: dict[str, object],
    up: tuple[NodeId, ...],
    told: str,
) -> None:
    ring = replace(ring_of_three(), **ring_changed)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=told):
        settle(ring, member_of(enter(**changed)), up)


def test_nothing_is_replaced_while_a_change_is_under_way() -> None:
    ring = settle(ring_of_three(), member_of(enter()))
    with pytest.raises(Refused, match="a change is under way"):
        settle(ring, member_of(enter(node="f" * 16, name="n-b", host=B)), (A, NEW))


def test_who_enters_says_who_and_where_it_is() -> None:
    with pytest.raises(BadRequest):
        member_of(enter(address=""))


def cluster_without_c() -> Cluster:
    c = Cluster(ring_of_three())
    c.settle()
    del c.nodes[C]
    for node in (A, B):
        c.nodes[node].on_peer_down(c.now, C)
    return c


def settle_among(c: Cluster, nodes: tuple[NodeId, ...]) -> None:
    """As `Cluster.settle`, while the others are dead."""
    while c.wire or any(c.commit(node) for node in nodes):
        while c.wire:
            packet = c.wire.pop(0)
            if packet.target in nodes:
                c.deliver(packet)


def test_any_member_has_it_decided_and_gives_the_ring_however_often_it_is_asked() -> None:
    c = cluster_without_c()
    for _ in range(2):
        number = c.request(B, enter())
        settle_among(c, (A, B))
        [answer] = [message for request_id, message in c.answers if request_id == number]
        assert isinstance(answer, RingReply)
        ring = decode_ring(answer.ring)
        assert (ring.epoch, ring.removed) == (2, (C,))
    assert c.nodes[A].ring == ring


def test_a_member_that_is_up_is_not_replaced() -> None:
    c = Cluster(ring_of_three())
    c.settle()
    number = c.request(B, enter())
    assert is_error(next(m for at, m in c.answers if at == number), Refused)


# --- where a node is ------------------------------------------------------------------------------


def test_a_node_at_another_address_has_the_ring_changed_once() -> None:
    c = Cluster(ring_of_three())
    c.settle()
    c.nodes[C].about["address"] = "h:99"
    for step in range(3):
        c.tick(c.now + 10 * step)
        c.settle()
    for node in (A, B, C):
        ring = c.nodes[node].ring
        assert ring is not None
        assert [m.address for m in ring.members] == ["h:1", "h:2", "h:99"]
        assert (ring.epoch, ring.change) == (2, None)


def test_what_an_operator_has_set_stays() -> None:
    """The node is where it was; that it is reached elsewhere it does not know."""
    c = Cluster(ring_of_three())
    c.settle()
    c.nodes[C].about["address"] = "h:3"
    c.tick(c.now + 1)
    c.settle()
    ring = c.nodes[C].ring
    assert ring is not None
    entry = plan_address(ring, C, "proxy:1")
    assert entry is not None
    log = c.nodes[A].ringlog
    assert log is not None
    log.propose(c.now, entry, lambda _now, _error: None)
    c.settle()
    for step in range(3):
        c.tick(c.now + 10 * step)
        c.settle()
    c.restart(C)
    c.settle()
    c.nodes[C].about["address"] = "h:3"
    c.tick(c.now + 10)
    c.settle()
    present = c.nodes[C].ring
    assert present is not None
    assert present.epoch == 2


def test_an_address_that_the_ring_has_needs_no_change() -> None:
    ring = ring_of_three()
    assert plan_address(ring, C, "h:3") is None
    assert plan_address(ring, C, "") is None
    assert plan_address(ring, NEW, "h:9") is None
