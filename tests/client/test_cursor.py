"""The token that says what is left of a listing: it comes back as it was, or is refused."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynagent.client.cursor import Cursor, Run, joined
from dynagent.core.encoding import encode
from dynagent.core.ring import Ring
from dynagent.errors import BadRequest, DynagentError, Refused, WrongCluster
from tests.core.harness import CLUSTER_ID, IDS, make_ring

RING = make_ring(3)


@st.composite
def _runs(draw: st.DrawFn) -> list[Run]:
    edges = sorted(draw(st.sets(st.integers(0, 7), max_size=8)))
    return [(edge, edge, draw(st.binary(max_size=4))) for edge in edges]


@given(runs=_runs(), prefix=st.binary(max_size=5))
def test_a_token_comes_back_as_it_was(runs: list[Run], prefix: bytes) -> None:
    cursor = Cursor.start(RING, prefix).left(runs)
    again = Cursor.decode(cursor.encode(), RING, None)
    assert (again.prefix, again.todo) == (prefix, joined(runs))
    assert Cursor.decode(cursor.encode(), RING, prefix).todo == again.todo


@given(runs=_runs())
def test_joined_runs_cover_the_same_and_lose_no_place(runs: list[Run]) -> None:
    found = joined(runs)
    covered = [place for first, last, _ in found for place in range(first, last + 1)]
    assert covered == [first for first, _, _ in runs]
    places = {first: after for first, _, after in found if after}
    assert places == {first: after for first, _, after in runs if after}


@given(data=st.binary(max_size=40))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        Cursor.decode(data, RING, None)


def test_a_token_that_was_cut_or_changed_is_refused() -> None:
    token = Cursor.start(RING, b"p").encode()
    for place in range(len(token)):
        for wrong in (token[:place], token[:place] + b"!" + token[place + 1 :]):
            if wrong != token:
                with pytest.raises(BadRequest, match="resume token"):
                    Cursor.decode(wrong, RING, None)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        {},
        [2, CLUSTER_ID, 8, b"", []],
        [1, CLUSTER_ID, 8, b"", [0]],
        [1, CLUSTER_ID, 8, b"", [0, 8, b""]],  # beyond the last partition
        [1, CLUSTER_ID, 8, b"", [3, 2, b""]],
        [1, CLUSTER_ID, 8, b"", [0, 3, b"", 3, 5, b""]],  # one twice
        [1, CLUSTER_ID, 8, b"", [4, 5, b"", 0, 1, b""]],
        [1, CLUSTER_ID, 8, b"", [-1, 5, b""]],
        [1, CLUSTER_ID, 8, b"", [0, 5, "text"]],
        [1, CLUSTER_ID, 8, "text", []],
    ],
    ids=repr,
)
def test_a_forged_token_is_refused(fields: object) -> None:
    body = encode(fields)
    with pytest.raises(BadRequest):
        Cursor.decode(crc32(body).to_bytes(4, "big") + body, RING, None)


def test_a_token_is_of_one_cluster_one_prefix_and_one_number_of_partitions() -> None:
    token = Cursor.start(RING, b"cart/").encode()
    cases: list[tuple[Ring, bytes | None, type[DynagentError]]] = [
        (RING, b"", BadRequest),
        (RING, b"cart", BadRequest),
        (_ring(cluster_id=b"d" * 16), None, WrongCluster),
        (_ring(partitions=16), None, Refused),
    ]
    for ring, prefix, error in cases:
        with pytest.raises(error):
            Cursor.decode(token, ring, prefix)


def _ring(*, cluster_id: bytes = CLUSTER_ID, partitions: int = 8) -> Ring:
    return Ring(
        epoch=1,
        cluster_id=cluster_id,
        n=3,
        r=2,
        w=2,
        members=RING.members,
        lists=(IDS[:3],) * partitions,
    )
