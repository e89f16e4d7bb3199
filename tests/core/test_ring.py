"""The ring value: its bytes, its rules, and the way from a key to a partition."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.ports import NodeId, Token
from dynagent.core.ring import Member, Ring, check_partitions, check_quorums, token_of
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.errors import BadRequest, ProtocolError

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def rings(draw: st.DrawFn) -> Ring:
    ids = draw(st.sets(st.text("0123456789abcdef", min_size=16, max_size=16), min_size=1))
    n = draw(st.integers(1, min(len(ids), limits.N_MAX)))
    members = tuple(
        Member(
            id=NodeId(id_),
            name=f"{draw(_TEXT)}{number}",
            address=draw(_TEXT),
            zone=draw(_TEXT),
            host=draw(_TEXT),
            capacity=draw(st.integers(0, 1 << 20)),
        )
        for number, id_ in enumerate(sorted(ids))
    )
    owned = st.permutations([m.id for m in members]).map(lambda order: tuple(order[:n]))
    lists = draw(st.lists(owned, min_size=8, max_size=8))
    return Ring(
        epoch=draw(st.integers(1, 1 << 40)),
        cluster_id=draw(st.binary(min_size=16, max_size=16)),
        n=n,
        r=draw(st.integers(1, n)),
        w=draw(st.integers(1, n)),
        members=members,
        lists=tuple(lists * draw(st.sampled_from([1, 2, 16]))),
        policies=tuple(draw(st.lists(st.tuples(_TEXT, _TEXT), max_size=3))),
        version_min=draw(st.integers(1, 100)),
    )


def small_ring(*, partitions: int = 8) -> Ring:
    members = tuple(
        Member(
            id=NodeId(f"{i:016x}"),
            name=f"n{i}",
            address=f"10.0.0.{i}:7411",
            zone="",
            host=f"h{i}",
            capacity=1,
        )
        for i in range(4)
    )
    lists = tuple(tuple(members[(p + i) % 4].id for i in range(3)) for p in range(partitions))
    return Ring(epoch=1, cluster_id=b"c" * 16, n=3, r=2, w=2, members=members, lists=lists)


# --- bytes ---------------------------------------------------------------------------------------


@given(rings())
def test_a_ring_comes_back_from_its_bytes_as_it_was(ring: Ring) -> None:
    assert decode_ring(encode_ring(ring)) == ring


@given(rings())
def test_the_same_ring_has_the_same_bytes(ring: Ring) -> None:
    assert encode_ring(decode_ring(encode_ring(ring))) == encode_ring(ring)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_no_ring(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_ring(data)


@given(st.data())
def test_a_damaged_ring_is_refused_or_is_another_valid_ring(data: st.DataObject) -> None:
    encoded = bytearray(encode_ring(small_ring()))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        damaged = decode_ring(bytes(encoded))
    except ProtocolError:
        return
    assert decode_ring(encode_ring(damaged)) == damaged


def test_fields_that_a_newer_agent_appends_are_skipped() -> None:
    ring = small_ring()
    fields = decode(encode_ring(ring))
    assert isinstance(fields, list)
    fields[4][0].append("a field of a newer member")
    assert decode_ring(encode([*fields, "a newer field"])) == ring


def set_field(*path: int, to: object) -> Callable[[list[object]], None]:
    """A change of one value inside the encoded list."""

    def change(fields: list[object]) -> None:
        inner = fields
        for step in path[:-1]:
            deeper = inner[step]
            assert isinstance(deeper, list)
            inner = deeper
        inner[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (set_field(0, to=1), "ring format 1 was made before"),
        (set_field(0, to=3), "ring format 3 is newer than this agent"),
        (set_field(0, to="1"), "not an encoded ring"),
        (set_field(1, to="1"), "not an encoded ring"),
        (set_field(1, to=0), "cluster id, epoch, lineage or number of members"),
        (set_field(2, to=b"short"), "cluster id, epoch, lineage or number of members"),
        (set_field(3, to=[3, 2]), "not an encoded ring"),
        (set_field(3, to=[0, 0, 0]), "N=0 is not in 1..16"),
        (set_field(3, to=[17, 2, 2]), "N=17 is not in 1..16"),
        (set_field(3, to=[3, 4, 2]), "R=4 is not in 1..N"),
        (set_field(3, to=[3, 2, 0]), "W=0 is not in 1..N"),
        (set_field(4, to=[]), "cluster id, epoch, lineage or number of members"),
        (set_field(4, 0, to="no member"), "malformed member"),
        (set_field(4, 0, 0, to=""), "malformed member"),
        (set_field(4, 0, 1, to=""), "malformed member"),
        (set_field(4, 0, 5, to=-1), "malformed member"),
        (set_field(4, 0, 5, to=1.5), "malformed member"),
        (set_field(4, 1, 0, to=f"{0:016x}"), "share an id"),
        (set_field(4, 1, 1, to="n0"), "share a name"),
        (set_field(5, to=b""), "0 partitions: must be a power of two"),
        (set_field(5, to=b"\0\0" * 23), "cut short"),
        (set_field(5, to=b"\0\0\0\1\0\2" * 9), "9 partitions: must be a power of two"),
        (set_field(5, to=b"\0\0\0\1\0\4" * 8), "a node that is not a member"),
        (set_field(5, to=b"\0\0\0\1\0\0" * 8), "does not name N different nodes"),
        (set_field(6, to=[["only a name"]]), "malformed policy"),
        (set_field(6, to=["no pair"]), "malformed policy"),
        (set_field(7, to=None), "not an encoded ring"),
        (set_field(8, to=-1), "lineage"),
        (set_field(9, to=b"\0\7"), "a node that is not a member"),
        (set_field(12, to=b""), "not one change for each partition"),
        (set_field(12, to=b"\0\0\0\2" * 8), "not in the log"),
        (set_field(13, to=[]), "not a valid ring"),
    ],
)
def test_a_ring_that_breaks_a_rule_is_refused(
    change: Callable[[list[object]], None], complaint: str
) -> None:
    fields = decode(encode_ring(small_ring()))
    assert isinstance(fields, list)
    change(fields)
    with pytest.raises(ProtocolError) as caught:
        decode_ring(encode(fields))
    assert complaint in caught.value.message


def test_a_ring_that_is_no_list_is_refused() -> None:
    not_rings: list[object] = [{}, [], None, [2]]
    for value in not_rings:
        with pytest.raises(ProtocolError, match="not an encoded ring"):
            decode_ring(encode(value))


def test_a_ring_over_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ProtocolError, match=f"the limit is {limits.RING_BYTES_MAX}"):
        decode_ring(b"\xff" * (limits.RING_BYTES_MAX + 1))


def test_the_largest_usual_ring_is_within_the_limit() -> None:
    ring = small_ring(partitions=limits.PARTITIONS_MAX)
    assert len(encode_ring(ring)) < limits.RING_BYTES_MAX // 2


def test_quorums_and_partitions_outside_their_range_are_bad_requests() -> None:
    check_quorums(n=16, r=1, w=16)
    check_partitions(limits.PARTITIONS_MIN)
    check_partitions(limits.PARTITIONS_MAX)
    for n, r, w in [(0, 1, 1), (17, 1, 1), (3, 0, 1), (3, 1, 4)]:
        with pytest.raises(BadRequest):
            check_quorums(n=n, r=r, w=w)
    for partitions in (0, 4, 12, 100, 2 * limits.PARTITIONS_MAX):
        with pytest.raises(BadRequest):
            check_partitions(partitions)


# --- from a key to a partition -------------------------------------------------------------------


def test_the_partition_is_the_first_bits_of_the_token() -> None:
    ring = small_ring()
    assert ring.partition_of(Token(b"\xa0" + bytes(15))) == 0b101
    assert ring.partition_of(Token(b"\xbf" + b"\xff" * 15)) == 0b101
    assert ring.partition_of(Token(bytes(16))) == 0
    assert ring.partition_of(Token(b"\xff" * 16)) == 7


@given(
    tokens=st.lists(st.binary(min_size=16, max_size=16), min_size=2),
    partitions=st.sampled_from([8, 64, 1024, limits.PARTITIONS_MAX]),
)
def test_partitions_follow_each_other_as_tokens_do(tokens: list[bytes], partitions: int) -> None:
    ring = _RINGS[partitions]
    for low, high in pairwise(sorted(tokens)):
        assert ring.partition_of(Token(low)) <= ring.partition_of(Token(high)) < partitions


_RINGS = {q: small_ring(partitions=q) for q in (8, 64, 1024, limits.PARTITIONS_MAX)}


@pytest.mark.parametrize("partitions", sorted(_RINGS))
def test_each_partition_is_one_arc_of_the_same_length(partitions: int) -> None:
    ring = _RINGS[partitions]
    arc = (1 << 128) // partitions
    for p in {0, 1, partitions // 2, partitions - 1}:
        first, last = p * arc, (p + 1) * arc - 1
        assert ring.partition_of(Token(first.to_bytes(16, "big"))) == p
        assert ring.partition_of(Token(last.to_bytes(16, "big"))) == p


@given(st.binary(max_size=64))
def test_doubling_the_partitions_splits_each_in_two(key: bytes) -> None:
    token = token_of(key)
    assert len(token) == 16
    assert _RINGS[1024].partition_of(token) // 16 == _RINGS[64].partition_of(token)


def test_a_key_keeps_its_token_for_ever() -> None:
    # Stored data lies where this says: a change of the hash would lose every key.
    assert token_of(b"cart:42").hex() == "8ac38465efe886e7e13841e0fac70e51"


def test_members_are_found_by_id() -> None:
    ring = small_ring()
    assert ring.member(ring.members[2].id) == ring.members[2]
    assert ring.member(NodeId("nobody")) is None
    assert replace(ring, members=()).member(ring.members[2].id) is None
