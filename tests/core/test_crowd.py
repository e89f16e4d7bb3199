"""The bound on concurrent values: who is refused, who never is, and what it means for a record."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent import limits
from dynagent.core.coordinator import SETTLED
from dynagent.core.crowd import Crowd, check_crowd, record_bytes_max
from dynagent.core.entry import Record, encode_entry, encode_sibling
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_CONTEXT,
    MODE_OVERWRITE,
    Error,
    Get,
    GetReply,
    Merge,
    MergeAck,
    Message,
    PutReply,
)
from dynagent.core.ports import NodeId
from dynagent.core.siblings import Siblings
from dynagent.errors import NotReady, TooLarge, TooManySiblings
from dynagent.wire.codec import encode_frame
from tests.core.harness import (
    IDS,
    KEY,
    Cluster,
    Packet,
    cluster,
    is_error,
    op,
    put,
    values,
)

A, B, C = IDS[:3]
CAP = 3


def crowded(cap: int = CAP, *, n: int = 3) -> Cluster:
    c = cluster(n=n)
    for node in c.nodes.values():
        assert node.coordinator is not None
        node.coordinator.siblings_max = cap
    return c


def filled(c: Cluster, cap: int = CAP) -> None:
    for number in range(1, cap + 1):
        assert isinstance(c.ask(A, put(b"v%d" % number, number)), PutReply)


def context_of(c: Cluster, node: NodeId = A) -> bytes:
    reply = c.ask(node, Get(KEY, 3))
    assert isinstance(reply, GetReply)
    return reply.context


def test_a_blind_put_over_the_bound_is_refused_and_leaves_nothing() -> None:
    c = crowded()
    filled(c)
    reply = c.ask(A, put(b"one more", 9))
    assert is_error(reply, TooManySiblings)
    assert isinstance(reply, Error)
    for word in ("'key'", "3 concurrent values", "dynctl resolve"):
        assert word in reply.text
    assert values(c.ask(B, Get(KEY, 3))) == [b"v1", b"v2", b"v3"]


def test_the_refusal_is_definite_and_a_guards() -> None:
    assert TooManySiblings.definite
    assert TooManySiblings.exit_status == 10


def test_a_context_that_does_not_cover_what_is_there_is_refused_too() -> None:
    c = crowded()
    c.ask(A, put(b"v1", 1))
    old = context_of(c)
    for number in (2, 3, 4):
        c.ask(A, put(b"v%d" % number, number))
    assert isinstance(c.ask(A, put(b"in place of v1", 5, mode=MODE_CONTEXT, context=old)), PutReply)
    again = put(b"in place of nothing", 6, mode=MODE_CONTEXT, context=old)
    assert is_error(c.ask(A, again), TooManySiblings)


def test_what_supersedes_the_siblings_always_passes() -> None:
    for request in ("context", "overwrite", "delete"):
        c = crowded()
        filled(c)
        context = context_of(c)
        mode = MODE_OVERWRITE if request == "overwrite" else MODE_CONTEXT
        value = None if request == "delete" else b"settled"
        assert isinstance(c.ask(A, put(value, 9, mode=mode, context=context)), PutReply), request
        assert values(c.ask(B, Get(KEY, 3))) == ([] if value is None else [b"settled"])
        assert isinstance(c.ask(A, put(b"room again", 10)), PutReply)


def test_merges_are_never_refused_and_what_they_make_can_be_settled() -> None:
    c = crowded()
    for number, node in enumerate((A, B, C) * CAP, 1):
        c.request(node, put(b"v%d" % number, number))  # nobody has heard of the others yet
        c.commit(node)
    c.settle()
    assert not [answer for _, answer in c.answers if isinstance(answer, Error)]
    for disk in c.disks.values():
        assert len(disk.record(KEY).value.siblings) == 3 * CAP
    for node in (A, B, C):
        assert is_error(c.ask(node, put(b"no", 90)), TooManySiblings)
    assert isinstance(c.ask(B, put(b"settled", 91, mode=MODE_OVERWRITE)), PutReply)
    assert values(c.ask(C, Get(KEY, 3))) == [b"settled"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("put", "deliver", "drop", "commit", "crash", "read")),
        st.integers(0, 2),
        st.sampled_from((MODE_BLIND, MODE_BLIND, MODE_CONTEXT)),
        st.integers(0, 50),
    ),
    max_size=80,
)


@settings(deadline=None, max_examples=150)
@given(STEPS)
def test_no_actor_has_more_siblings_of_a_record_than_the_bound(
    steps: list[tuple[str, int, int, int]],
) -> None:
    c = crowded(2)
    contexts = [b""]
    for number, (what, place, mode, pick) in enumerate(steps, 1):
        node = IDS[place]
        if what == "put":
            context = contexts[pick % len(contexts)] if mode == MODE_CONTEXT else b""
            c.request(node, put(b"%d" % number, number, mode=mode, context=context))
        elif what == "read":
            c.request(node, Get(KEY, 1))
            contexts += [a.context for _, a in c.answers[-1:] if isinstance(a, GetReply)]
        elif what == "commit":
            c.commit(node)
        elif what == "crash":
            restarted = c.restart(node)
            assert restarted.coordinator is not None
            restarted.coordinator.siblings_max = 2
        elif c.wire and what == "deliver":
            c.deliver(c.wire[pick % len(c.wire)])
        elif c.wire:
            del c.wire[pick % len(c.wire)]
        for disk in c.disks.values():
            minted = Counter(actor for actor, _ in disk.record(KEY).value.dots())
            assert max(minted.values(), default=0) <= 2


def test_an_unreadable_copy_leaves_the_put_to_another_owner() -> None:
    c = crowded(1)
    c.ask(A, put(b"v", 1))
    c.overwrite_row(A, b"rot")
    assert isinstance(c.ask(A, put(b"hidden", 2)), PutReply)
    assert is_error(c.ask(A, put(b"w", 3)), NotReady)
    assert isinstance(c.ask(A, put(b"settled", 4, mode=MODE_OVERWRITE)), PutReply)


# --- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, limits.N_MAX + 1))
def test_what_all_owners_allow_at_once_still_fits_one_frame(n: int) -> None:
    share = record_bytes_max(n)
    assert limits.VALUE_BYTES_DEFAULT_MAX < share <= limits.RECORD_BYTES_MAX
    together = n * (share + limits.META_BYTES_MAX + 128)
    beside = max(limits.PACKED_BYTES_MAX, limits.HINT_PAGE_BYTES) + limits.KEY_BYTES_MAX
    assert together + beside < limits.DATA_FRAME_BYTES_MAX
    assert 2 * n * limits.SIBLINGS_HARD_MAX <= 65_536  # the dots of one list on the wire


def full_record(n: int, siblings_max: int) -> Record:
    """What N coordinators that know nothing of each other allow at the most."""
    each = record_bytes_max(n) // siblings_max
    siblings = [
        encode_sibling(
            dot=(2**63 + actor, counter),
            wall_ms=2**41,
            content=0,
            expiry_ms=0,
            op_id=op(actor * siblings_max + counter),
            meta={},
            value=bytes(each - 60),
        )
        for actor in range(n)
        for counter in range(1, siblings_max + 1)
    ]
    return Record(Siblings({2**63 + actor: siblings_max for actor in range(n)}, tuple(siblings)))


@pytest.mark.parametrize("n", [3, limits.N_MAX])
def test_the_largest_merged_record_can_be_sent_stored_and_repaired(n: int) -> None:
    record = full_record(n, limits.SIBLINGS_DEFAULT_MAX)
    entry = encode_entry(KEY, record)
    assert encode_frame(Merge(1, SETTLED, 0, [entry]), request_id=1, budget_ms=1)
    c = crowded(limits.SIBLINGS_DEFAULT_MAX)
    assert isinstance(peer_ask(c, A, B, Merge(1, SETTLED, 0, [entry])), MergeAck)
    read = c.ask(A, Get(KEY, 2))  # of B, which has nothing
    assert isinstance(read, GetReply)
    assert len(read.siblings) == n * limits.SIBLINGS_DEFAULT_MAX
    assert encode_frame(read, request_id=1, budget_ms=0)
    assert c.disks[B].record(KEY).digest == record.digest  # by read repair
    assert isinstance(c.ask(A, put(b"settled", 99_999, mode=MODE_OVERWRITE)), PutReply)
    assert values(c.ask(B, Get(KEY, 3))) == [b"settled"]


def peer_ask(c: Cluster, node: NodeId, peer: NodeId, message: Message) -> Message:
    """A peer's request, run to its end; its answer."""
    c.deliver(Packet(peer, node, 10_000, message, 1_000))
    c.commit(node)
    [answer] = [packet.message for packet in c.wire if packet.number == 10_000]
    c.wire.clear()
    return answer


def test_bytes_are_bounded_before_the_count() -> None:
    kept = full_record(1, 4)
    request = put(bytes(record_bytes_max(1) // 4))
    for siblings_max in (4, 5):
        with pytest.raises(TooManySiblings):
            check_crowd(request, kept, {}, siblings_max=siblings_max, bytes_max=record_bytes_max(1))
    check_crowd(request, kept, {2**63: 4}, siblings_max=4, bytes_max=record_bytes_max(1))
    check_crowd(put(b"", 1), kept, {}, siblings_max=5, bytes_max=record_bytes_max(1) + 500)


def test_in_a_ring_of_many_owners_one_value_may_be_too_large_for_a_key() -> None:
    c = cluster(n=4)
    for node in c.nodes.values():
        assert node.coordinator is not None
        node.coordinator.value_bytes_max = limits.VALUE_BYTES_HARD_MAX
    assert is_error(c.ask(A, put(bytes(record_bytes_max(4) + 1))), TooLarge)
    assert isinstance(c.ask(A, put(bytes(record_bytes_max(4)), 2)), PutReply)


# --- what stats shows ----------------------------------------------------------------------------


def test_the_node_knows_its_most_crowded_key_until_that_is_settled() -> None:
    c = cluster()
    filled(c, 5)
    told = c.nodes[B].replica.crowd.document()
    assert (told["most"], told["key"]) == (5, KEY)
    c.ask(A, put(b"settled", 9, mode=MODE_OVERWRITE))
    assert c.nodes[B].replica.crowd.document() == {"most": 0, "bytes": 0, "key": b""}


def test_of_many_crowded_keys_the_worst_are_remembered() -> None:
    crowd = Crowd()
    for number in range(2, 100):
        crowd.note(b"%d" % number, number, 10 * number)
    assert len(crowd.keys) == limits.CROWDED_KEPT
    assert crowd.document() == {"most": 99, "bytes": 990, "key": b"99"}
    crowd.note(b"99", 1, 5)
    assert crowd.document()["most"] == 98
