"""A node's own copy, told to people: every state that it can have."""

from __future__ import annotations

from dynagent.core.entry import Record, encode_stored
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_OVERWRITE,
    STATE_ABSENT,
    STATE_PRESENT,
    STATE_UNREADABLE,
    Error,
    Inspect,
    InspectReply,
    Message,
    Put,
)
from dynagent.core.siblings import Siblings
from dynagent.errors import BadRequest, NotReady, TooLarge
from tests.core.harness import CLUSTER_ID, IDS, Cluster, make_ring

A, B, C, D = IDS
KEY = b"key"


def put(number: int, value: bytes | None = b"v", mode: int = MODE_BLIND) -> Put:
    return Put(KEY, value, mode, b"", bytes([number]) * 16)


def look(cluster: Cluster, node: str = A) -> InspectReply:
    answer = ask(cluster, node, Inspect(KEY))
    assert isinstance(answer, InspectReply)
    return answer


def ask(cluster: Cluster, node: str, message: Message) -> Message:
    """Without letting anything else go on."""
    number = cluster.request(next(id_ for id_ in IDS if id_ == node), message)
    (answer,) = [message for request, message in cluster.answers if request == number]
    return answer


def test_equal_copies_have_equal_digests_clocks_and_dots() -> None:
    c = Cluster(make_ring(3))
    c.ask(A, put(1, b"one"))
    c.ask(B, put(2, b"three"))
    copies = [look(c, node) for node in (A, B, C)]
    assert {copy.state for copy in copies} == {STATE_PRESENT}
    assert len({copy.digest for copy in copies}) == 1
    assert sorted(copies[0].sizes) == [3, 5]
    assert len(copies[0].dots) == 4
    assert copies[0].stored_bytes == len(c.disks[A].rows[KEY])
    assert (copies[0].pending, copies[0].writable) == (False, True)


def test_a_tombstone_is_a_copy_without_dots_and_absent_is_something_else() -> None:
    c = Cluster(make_ring(3, others=1))
    c.ask(A, put(1))
    c.ask(A, put(2, None, MODE_OVERWRITE))
    copy = look(c)
    assert (copy.state, copy.dots, copy.sizes) == (STATE_PRESENT, [], [])
    assert copy.clock and copy.digest
    assert look(c, D) == InspectReply(STATE_ABSENT, b"", [], [], [], 0, False, True)


def test_a_copy_that_waits_for_its_fsync_is_pending_and_not_shown() -> None:
    c = Cluster(make_ring(3))
    c.request(A, put(1))
    copy = look(c)
    assert (copy.state, copy.pending) == (STATE_ABSENT, True)


def test_an_unreadable_copy_tells_its_size_and_nothing_else() -> None:
    c = Cluster(make_ring(3))
    c.ask(A, put(1))
    size = len(c.disks[A].rows[KEY])
    c.disks[A].rows[KEY] = b"rot!" + c.disks[A].rows[KEY][4:]
    expected = InspectReply(STATE_UNREADABLE, b"", [], [], [], size, False, True)
    assert look(c) == expected
    lost = Record(Siblings({1: 1}, ()), unknown=True)
    c.disks[A].rows[KEY] = encode_stored(lost, cluster_id=CLUSTER_ID, key=KEY)
    assert look(c).state == STATE_UNREADABLE


def test_a_full_disk_and_a_drain_take_no_writes() -> None:
    c = Cluster(make_ring(3))
    c.request(A, put(1))
    assert c.nodes[A].take_batch() is not None
    c.nodes[A].on_refused(0.0)
    assert not look(c).writable
    c.nodes[B].draining = True
    assert not look(c, B).writable
    assert look(c, C).writable


def test_a_key_out_of_bounds_and_a_fresh_agent_are_refused() -> None:
    c = Cluster(make_ring(3))
    for key, error in ((b"", BadRequest), (b"k" * 1_025, TooLarge)):
        answer = ask(c, A, Inspect(key))
        assert isinstance(answer, Error) and answer.error == error.code
    answer = ask(Cluster(None), A, Inspect(KEY))
    assert isinstance(answer, Error) and answer.error == NotReady.code


def test_it_tells_for_whom_a_copy_is_kept() -> None:
    c = Cluster(make_ring(3, others=1))
    c.nodes[A].on_peer_down(0, C)
    c.ask(A, put(1))
    stand_in = look(c, D)
    assert (stand_in.state, stand_in.owed) == (STATE_PRESENT, [C])
    assert look(c, A).owed == look(c, C).owed == []


def test_an_owner_tells_who_has_missed_its_write_while_nobody_stands_in() -> None:
    c = Cluster(make_ring(3))
    c.nodes[A].on_peer_down(0, C)
    c.ask(A, put(1))
    assert look(c, A).owed == [C]
