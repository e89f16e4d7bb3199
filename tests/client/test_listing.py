"""Merging owners' pages: whatever their sizes and whoever fails, a key has a quorum's verdict."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent import limits
from dynagent.client.listing import Listed, PartitionMerge, merge_copies, owners_needed
from dynagent.core.entry import Record, encode_clock, encode_stored, flatten
from dynagent.core.listing import list_page
from dynagent.core.messages import ListReply
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import token_of
from dynagent.core.siblings import EMPTY, Sibling, Siblings
from dynagent.errors import ProtocolError
from tests.core.harness import CLUSTER_ID, IDS, Disk, make_ring

N, NEEDED, PARTITION = 3, 2, PartitionId(0)
RING = make_ring(N)
OWNERS = RING.lists[PARTITION]


def _keys(count: int) -> list[bytes]:
    found = [key for key in map(b"%d".__mod__, range(50 * count)) if _is_here(key)][:count]
    return sorted(found, key=_place)


def _is_here(key: bytes) -> bool:
    return RING.partition_of(token_of(key)) == PARTITION


def _place(key: bytes) -> bytes:
    return token_of(key) + key


KEYS = _keys(6)

# --- the model: copies that can come to be -------------------------------------------------------


@st.composite
def _copies(draw: st.DrawFn) -> list[Siblings]:
    """What each owner holds of one key: writes and deletes at some of them, merged to others."""
    copies = [EMPTY] * N
    for step in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, N - 1))
        context = draw(st.sampled_from(copies)).clock
        if draw(st.booleans()):
            actor = at + 1
            counter = max(copy.clock.get(actor, 0) for copy in copies) + 1
            data = b"%d.%d" % (actor, counter)
            changed = copies[at].write(context, Sibling(actor, counter, b"%d" % step, data))
        else:
            changed = copies[at].delete(context)
        copies[at] = changed
        for other in draw(st.sets(st.integers(0, N - 1))):
            copies[other] = copies[other].merge(changed)
    return copies


_WORLD = st.lists(_copies(), min_size=len(KEYS), max_size=len(KEYS))
_UNREADABLE = st.sets(st.tuples(st.integers(0, N - 1), st.integers(0, len(KEYS) - 1)), max_size=3)


def _disks(world: list[list[Siblings]], unreadable: set[tuple[int, int]]) -> dict[NodeId, Disk]:
    disks = {owner: Disk() for owner in OWNERS}
    for place, (key, copies) in enumerate(zip(KEYS, world, strict=True)):
        for number, (owner, copy) in enumerate(zip(OWNERS, copies, strict=True)):
            if copy.clock:
                record = Record(copy, unknown=(number, place) in unreadable)
                stored = encode_stored(record, cluster_id=CLUSTER_ID, key=key)
                disks[owner].rows[key] = stored
    return disks


def _merge(**how: bytes) -> PartitionMerge:
    return PartitionMerge(
        PARTITION,
        partitions=RING.partitions,
        owners=OWNERS,
        needed=NEEDED,
        prefix=how.get("prefix", b""),
        after=how.get("after", b""),
    )


def _play(merge: PartitionMerge, disks: dict[NodeId, Disk], data: st.DataObject) -> list[Listed]:
    """Pages of any size; some requests fail."""
    found: list[Listed] = []
    steps = 0
    while (asked := merge.next_request(look_max=data.draw(st.integers(0, 4)))) is not None:
        steps += 1
        assert steps < 200
        node, request = asked
        if data.draw(st.integers(0, 12)) == 12:
            merge.add_failure(node)
        else:
            merge.add_page(node, list_page(disks[node], RING, node, request))
        found += merge.take()
    return found


def _dots(copies: tuple[Siblings, ...]) -> list[tuple[int, int]]:
    merged = EMPTY
    for copy in copies:
        merged = merged.merge(copy)
    return merged.dots()


# --- properties ----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(world=_WORLD, data=st.data())
def test_without_failures_a_key_is_listed_if_a_quorum_read_finds_a_value(
    world: list[list[Siblings]], data: st.DataObject
) -> None:
    merge, disks = _merge(), _disks(world, set())
    found: list[Listed] = []
    while (asked := merge.next_request(look_max=data.draw(st.integers(0, 4)))) is not None:
        merge.add_page(asked[0], list_page(disks[asked[0]], RING, *asked))
        found += merge.take()
    expected = {
        key: dots
        for key, copies in zip(KEYS, world, strict=True)
        if (dots := _dots(tuple(copies[:NEEDED])))
    }
    assert {listed.key: listed.dots for listed in found} == expected
    assert [listed.key for listed in found] == [key for key in KEYS if key in expected]
    assert merge.is_complete and not merge.is_stuck


@settings(max_examples=150, deadline=None)
@given(world=_WORLD, unreadable=_UNREADABLE, data=st.data())
def test_whoever_fails_each_key_has_the_verdict_of_some_quorum_and_comes_once(
    world: list[list[Siblings]], unreadable: set[tuple[int, int]], data: st.DataObject
) -> None:
    merge = _merge()
    found = _play(merge, _disks(world, unreadable), data)
    keys = [listed.key for listed in found]
    assert keys == sorted(set(keys), key=_place)
    assert merge.is_complete != merge.is_stuck
    by_key = {listed.key: listed for listed in found}
    for place, (key, copies) in enumerate(zip(KEYS, world, strict=True)):
        if _place(key) > merge.decided:
            assert key not in by_key
            continue
        listed = by_key.get(key)
        if listed is not None and listed.doubtful:
            assert any((number, place) in unreadable for number in range(N))
            continue
        dots = listed.dots if listed is not None else []
        readable = [
            copy
            for number, copy in enumerate(copies)
            if not copy.clock or (number, place) not in unreadable
        ]
        assert dots in [_dots(quorum) for quorum in combinations(readable, NEEDED)]


@settings(max_examples=60, deadline=None)
@given(world=_WORLD, data=st.data())
def test_a_listing_that_was_cut_short_goes_on_where_it_was(
    world: list[list[Siblings]], data: st.DataObject
) -> None:
    disks = _disks([[copies[0]] * N for copies in world], set())  # all owners are equal
    whole = _play_calmly(_merge(), disks)
    first = _merge()
    part: list[bytes] = []
    for _ in range(data.draw(st.integers(0, 8))):
        if (asked := first.next_request(look_max=2)) is None:
            break
        first.add_page(asked[0], list_page(disks[asked[0]], RING, *asked))
        part += [listed.key for listed in first.take()]
    rest = [] if first.is_complete else _play_calmly(_merge(after=first.decided), disks)
    assert part + rest == whole


def _play_calmly(merge: PartitionMerge, disks: dict[NodeId, Disk]) -> list[bytes]:
    found: list[bytes] = []
    while (asked := merge.next_request()) is not None:
        merge.add_page(asked[0], list_page(disks[asked[0]], RING, *asked))
        found += [listed.key for listed in merge.take()]
    return found


@given(copies=_copies())
def test_merging_by_dots_alone_leaves_what_merging_values_leaves(copies: list[Siblings]) -> None:
    clock, dots = merge_copies([(copy.clock, copy.dots()) for copy in copies])
    merged = EMPTY
    for copy in copies:
        merged = merged.merge(copy)
    assert (clock, dots) == (merged.clock, merged.dots())


def test_as_many_owners_decide_as_a_get_asks_and_as_meet_every_write() -> None:
    assert owners_needed(n=3, r=2, w=2) == 2
    assert owners_needed(n=3, r=1, w=1) == 3
    assert owners_needed(n=3, r=3, w=2) == 3
    assert owners_needed(n=1, r=1, w=1) == 1
    for n in range(1, 6):
        for w in range(1, n + 1):
            assert owners_needed(n=n, r=1, w=w) + w > n


# --- one owner is behind, gone, or wrong ---------------------------------------------------------

ONE: list[object] = [KEYS[0], [7, 1], [7, 1]]
TWO: list[object] = [KEYS[1], [7, 1], [7, 1]]


def test_a_write_that_one_owner_missed_is_listed_and_so_is_no_delete_that_it_missed() -> None:
    merge = _merge()
    merge.add_page(OWNERS[0], ListReply([[KEYS[0], [7, 2], []], TWO], b"", 2))
    merge.add_page(OWNERS[1], ListReply([ONE], b"", 1))
    (listed,) = merge.take()
    assert (listed.key, listed.dots, listed.clock) == (KEYS[1], [(7, 1)], {7: 1})


def test_nothing_is_decided_until_enough_owners_have_spoken_of_it() -> None:
    merge = _merge()
    merge.add_page(OWNERS[0], ListReply([ONE, TWO], b"", 2))
    assert merge.take() == []
    merge.add_page(OWNERS[1], ListReply([], _place(KEYS[0]), 1))
    assert [listed.key for listed in merge.take()] == [KEYS[0]]
    asked = merge.next_request()
    assert asked is not None
    assert (asked[0], asked[1].after) == (OWNERS[1], _place(KEYS[0]))


def test_an_owner_that_takes_over_begins_where_all_is_decided() -> None:
    merge = _merge()
    merge.add_page(OWNERS[0], ListReply([ONE, TWO], b"", 2))
    merge.add_page(OWNERS[1], ListReply([], _place(KEYS[0]), 1))
    merge.take()
    merge.add_failure(OWNERS[1])
    merge.add_failure(OWNERS[1])  # told twice
    asked = merge.next_request()
    assert asked is not None
    assert (asked[0], asked[1].after) == (OWNERS[2], _place(KEYS[0]))
    merge.add_page(OWNERS[2], ListReply([TWO], b"", 1))
    assert [listed.key for listed in merge.take()] == [KEYS[1]]
    assert merge.is_complete


def test_with_too_few_owners_left_it_is_stuck_and_keeps_its_place() -> None:
    merge = _merge()
    merge.add_page(OWNERS[0], ListReply([ONE], _place(KEYS[0]), 1))
    merge.add_page(OWNERS[1], ListReply([ONE], _place(KEYS[0]), 1))
    merge.take()
    merge.add_failure(OWNERS[0])
    merge.add_failure(OWNERS[2])
    assert merge.is_stuck and merge.next_request() is None and merge.take() == []
    assert merge.decided == _place(KEYS[0])


def test_a_page_of_an_owner_that_was_given_up_is_dropped() -> None:
    merge = _merge()
    merge.add_failure(OWNERS[0])
    merge.add_page(OWNERS[0], ListReply([ONE], b"", 1))
    assert merge.take() == []


@pytest.mark.parametrize(
    "page",
    [
        ListReply([[]], b"", 1),
        ListReply([["text", [7, 1], [7, 1]]], b"", 1),
        ListReply([[b"", [7, 1], [7, 1]]], b"", 1),
        ListReply([[b"k" * (limits.KEY_BYTES_MAX + 1), [7, 1], [7, 1]]], b"", 1),
        ListReply([[KEYS[0], [7], []]], b"", 1),
        ListReply([[KEYS[0], [7, 1], [7, 0]]], b"", 1),
        ListReply([[KEYS[0], [7, 1], None]], b"", 1),
        ListReply([[next(k for k in (b"a", b"b", b"c", b"d") if not _is_here(k)), [], []]], b"", 1),
        ListReply([TWO, ONE], b"", 2),
        ListReply([ONE, ONE], b"", 2),
        ListReply([ONE, TWO], _place(KEYS[0]), 2),  # rows behind the position
        ListReply([], b"\0", 1),  # does not move on: `after` is the first key's place
        ListReply([], b"\xff" * 2_000, 1),
    ],
    ids=repr,
)
def test_an_owner_that_sends_nonsense_has_failed(page: ListReply) -> None:
    merge = _merge(after=_place(KEYS[0])[:16] if page.rows else _place(KEYS[0]))
    with pytest.raises(ProtocolError):
        merge.add_page(OWNERS[0], page)
    assert {asked[0] for asked in [merge.next_request()] if asked} <= set(OWNERS[1:])
    assert not merge.is_stuck


def test_a_row_without_the_prefix_is_nonsense() -> None:
    with pytest.raises(ProtocolError, match="prefix"):
        _merge(prefix=b"other").add_page(OWNERS[0], ListReply([ONE], b"", 1))


def test_an_unreadable_row_is_doubtful_and_never_an_absence() -> None:
    merge = _merge()
    merge.add_page(OWNERS[0], ListReply([[KEYS[0], [], []]], b"", 1))
    merge.add_page(OWNERS[1], ListReply([], b"", 0))
    (listed,) = merge.take()
    assert (listed.key, listed.doubtful, listed.dots) == (KEYS[0], True, [])


def test_what_the_wire_carries_is_what_the_merge_takes() -> None:
    value = Siblings({1: 2, 5: 1}, (Sibling(1, 2, b"", b"x"),))
    row: list[object] = [KEYS[0], encode_clock(value.clock), flatten(value.dots())]
    merge = _merge()
    for owner in OWNERS[:NEEDED]:
        merge.add_page(owner, ListReply([row], b"", 1))
    (listed,) = merge.take()
    assert (listed.clock, listed.dots) == (value.clock, value.dots())
    assert IDS[:N] == OWNERS
