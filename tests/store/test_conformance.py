"""Every engine keeps the contract of `Store`."""

import random
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent import limits
from dynagent.core.ports import Batch, NodeId, Token
from dynagent.errors import Refused
from dynagent.store.markers import Hint
from dynagent.store.protocol import Store
from tests.store.conformance import (
    ENGINES,
    FIRST,
    LAST,
    OTHER,
    OWNER,
    Engine,
    Record,
    contents,
    markers,
    token,
    write,
)

A, B, C = token(1), token(2), token(3)


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]()


@pytest.fixture
def store(engine: Engine, tmp_path: Path) -> Iterator[Store]:
    store = engine.open(tmp_path / "store")
    yield store
    store.close()


def test_the_engine_says_its_name(engine: Engine, store: Store) -> None:
    assert store.name == engine.name


def test_a_record_that_was_never_written_is_none(store: Store) -> None:
    assert store.get(A, b"key") is None
    assert store.get_meta("ring") is None
    assert contents(store) == []
    assert store.count() == 0


def test_a_written_record_comes_back(store: Store) -> None:
    write(store, (A, b"key", b"stored"))
    assert store.get(A, b"key") == b"stored"
    assert store.get(A, b"other") is None
    assert store.get(B, b"key") is None
    assert store.count() == 1


def test_a_later_write_replaces_the_record(store: Store) -> None:
    write(store, (A, b"key", b"first"))
    write(store, (A, b"key", b"second and longer"))
    assert store.get(A, b"key") == b"second and longer"
    assert contents(store) == [(A, b"key", b"second and longer")]
    assert store.count() == 1


def test_the_largest_merged_record_survives_a_restart(engine: Engine, tmp_path: Path) -> None:
    stored = random.Random(1).randbytes(limits.RECORD_BYTES_MERGED_MAX)
    store = engine.open(tmp_path / "large")
    write(store, (A, b"key", stored))
    store.close()
    store = engine.open(tmp_path / "large")
    assert store.get(A, b"key") == stored
    store.close()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 17, 64, 200])
def test_what_is_read_ahead_is_what_get_finds(store: Store, count: int) -> None:
    """Some keys of these are absent, some collide, some come twice."""
    places = [(token(number // 3), b"key %d" % number) for number in range(count)]
    written = {place: b"stored %d" % at for at, place in enumerate(places) if at % 5}
    write(store, *[(*place, stored) for place, stored in written.items()])
    asked = [*places, *places[:7]]
    for place, found in zip(asked, store.read_ahead(asked), strict=False):
        assert found in (None, written.get(place, b""))


def test_an_empty_stored_form_removes_the_record(store: Store) -> None:
    write(store, (A, b"a", b"1"), (B, b"b", b"2"))
    write(store, (A, b"a", b""), (C, b"c", b"3"))
    assert store.get(A, b"a") is None
    assert contents(store) == [(B, b"b", b"2"), (C, b"c", b"3")]
    assert store.count() == 2


def test_numbered_rows_are_kept_beside_the_records(engine: Engine, tmp_path: Path) -> None:
    store = engine.open(tmp_path / "sums")
    assert store.sums() == []
    write(store, (A, b"a", b"1"), sums=[(0, b"head"), (7, b"x" * 5_000), (20_000, b"")])
    write(store, (A, b"a", b""), (B, b"b", b"2"), sums=[(7, b"y"), (3, b"z")])
    write(store, sums=[(3, b"zz")], meta=(("ring", b"r"),), hints=[(OWNER, A, b"k", True)])
    expected = {0: b"head", 3: b"zz", 7: b"y", 20_000: b""}
    assert contents(store) == [(B, b"b", b"2")]
    assert store.count() == 1
    assert dict(store.sums()) == expected
    store.snapshot(tmp_path / "copy")
    store.close()
    for opened in (engine.open(tmp_path / "sums"), engine.open_copy(tmp_path / "copy")):
        assert dict(opened.sums()) == expected
        assert contents(opened) == [(B, b"b", b"2")]
        opened.close()


@pytest.mark.parametrize("records", [0, 1, 2, 16, 17, 255, 256, 257, 600])
def test_numbered_rows_come_with_batches_of_any_size(store: Store, records: int) -> None:
    rows = [(token(number), b"key", b"stored") for number in range(records)]
    write(store, *rows, sums=[(1, b"one"), (2, b"two")])
    assert contents(store) == rows
    assert dict(store.sums()) == {1: b"one", 2: b"two"}
    write(store, *rows, sums=[(1, b"ONE")])
    assert dict(store.sums()) == {1: b"ONE", 2: b"two"}


def test_removing_what_is_not_there_changes_nothing(store: Store) -> None:
    write(store, (A, b"a", b"1"))
    write(store, (B, b"a", b""), (A, b"other", b""))
    assert contents(store) == [(A, b"a", b"1")]


def test_an_empty_batch_is_a_write_of_nothing(store: Store) -> None:
    write(store)
    assert contents(store) == []


def test_meta_rows_are_written_with_the_records_and_replaced_by_name(store: Store) -> None:
    write(store, (A, b"a", b"1"), meta=(("ring", b"epoch 1"), ("tree", b"")))
    write(store, meta=(("ring", b"epoch 2"),))
    assert store.get_meta("ring") == b"epoch 2"
    assert store.get_meta("tree") == b""
    assert store.get(A, b"a") == b"1"
    assert store.count() == 1


def test_a_stray_row_is_removed_and_no_other_of_its_key(store: Store) -> None:
    write(store, (A, b"key", b"1"), (B, b"key", b"2"))
    batch = Batch(2)
    batch.records.append((C, b"other", b"3"))
    batch.strays += [(B, b"key"), (B, b"")]
    store.write(batch)
    assert contents(store) == [(A, b"key", b"1"), (C, b"other", b"3")]


@pytest.mark.parametrize("key", [b"", b"\x00", b"k" * 1024, b"\xff" * 1024])
def test_keys_of_every_length_and_byte_come_back(store: Store, key: bytes) -> None:
    write(store, (A, key, b"stored"))
    assert store.get(A, key) == b"stored"
    assert contents(store) == [(A, key, b"stored")]


def test_large_records_come_back_whole(store: Store) -> None:
    large = random.Random(1).randbytes(1 << 20)
    write(store, (A, b"a", large), (B, b"b", large[::-1]))
    write(store, (C, b"c", large[:-1]))
    assert store.get(A, b"a") == large
    assert store.get(B, b"b") == large[::-1]
    assert [stored for _, _, stored in contents(store)] == [large, large[::-1], large[:-1]]


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 255, 256, 257, 5_000])
def test_a_batch_of_any_size_is_written_whole(store: Store, rows: int) -> None:
    dice = random.Random(rows)
    records: list[Record] = [
        (Token(dice.randbytes(16)), b"key %d" % i, b"stored %d" % i) for i in range(rows)
    ]
    write(store, *records)
    assert contents(store) == sorted(records)
    assert store.count() == rows
    assert all(store.get(place, key) == stored for place, key, stored in records)
    write(store, *((place, key, b"") for place, key, _ in records))
    assert contents(store) == []


def test_a_scan_is_in_token_then_key_order(store: Store) -> None:
    records = [(place, key, b"x") for place in (C, A, B) for key in (b"b", b"", b"ab", b"a")]
    write(store, *records)
    assert contents(store) == sorted(records)


def test_both_ends_of_a_scan_are_included_to_the_last_bit(store: Store) -> None:
    places = [token(high, low) for high in (6, 7) for low in (0, 1, 2**64, 2**65 - 1)]
    write(store, *((place, b"k", b"x") for place in places))
    for first in range(len(places)):
        for last in range(len(places)):
            found = [place for place, _, _ in store.scan(places[first], places[last])]
            assert found == places[first : last + 1]


def test_a_scan_of_the_whole_ring_reaches_both_ends(store: Store) -> None:
    write(store, (LAST, b"z", b"1"), (FIRST, b"", b"2"))
    assert contents(store) == [(FIRST, b"", b"2"), (LAST, b"z", b"1")]


def test_a_scan_beside_writes_keeps_order_and_misses_nothing_that_stayed(store: Store) -> None:
    staying = [(token(2 * i), b"key", b"x" * 100) for i in range(3_000)]
    write(store, *staying)
    found: list[Token] = []
    for place, _, _ in store.scan(FIRST, LAST):
        found.append(place)
        if len(found) % 500 == 0:
            write(store, (token(2 * len(found) + 1), b"new", b"y"), (token(0), b"key", b"z"))
    assert found == sorted(set(found))
    assert {place for place, _, _ in staying} <= set(found)


def test_keys_whose_tokens_collide_are_kept_apart(store: Store) -> None:
    same = token(7)
    write(store, (same, b"a", b"1"))
    write(store, (same, b"b", b"2"), (A, b"x", b"3"))
    write(store, (same, b"c", b"4"))
    write(store, (same, b"b", b"5"), (same, b"a", b"6"))
    assert [store.get(same, key) for key in (b"a", b"b", b"c", b"d")] == [b"6", b"5", b"4", None]
    assert contents(store) == [
        (A, b"x", b"3"),
        (same, b"a", b"6"),
        (same, b"b", b"5"),
        (same, b"c", b"4"),
    ]
    assert store.count() == 4


def test_colliding_keys_in_one_batch_are_kept_apart(store: Store) -> None:
    records = [(token(i // 3), b"key %d" % i, b"stored") for i in range(900)]
    write(store, *records)
    assert contents(store) == sorted(records)


def test_tokens_that_differ_in_their_low_bits_only_are_kept_apart_and_in_order(
    store: Store,
) -> None:
    places = [token(high, low) for high in (8, 9) for low in (5, 1, 2**64, 2**63)]
    records = [(place, b"key", b"stored %d" % i) for i, place in enumerate(places)]
    write(store, *records)
    assert contents(store) == sorted(records)
    assert all(store.get(place, key) == stored for place, key, stored in records)


def test_the_first_of_two_colliding_keys_can_go_and_come_back(store: Store) -> None:
    same = token(7)
    write(store, (same, b"a", b"1"), (same, b"b", b"2"))
    write(store, (same, b"a", b""))
    write(store, (same, b"b", b"3"))
    assert contents(store) == [(same, b"b", b"3")]
    write(store, (same, b"a", b"4"), (same, b"b", b""))
    assert contents(store) == [(same, b"a", b"4")]
    write(store, (same, b"a", b""))
    write(store, (same, b"b", b"5"))
    assert contents(store) == [(same, b"b", b"5")]
    assert store.get(same, b"b") == b"5"


def test_a_scan_pages_through_many_keys_on_one_place(store: Store) -> None:
    records = [(token(7), b"key %05d" % i, b"x") for i in range(1_200)]
    write(store, *records)
    assert contents(store) == records


def test_a_store_without_hints_owes_nobody_anything(store: Store) -> None:
    write(store, (A, b"a", b"1"), meta=(("ring", b"epoch"),))
    assert store.hint_counts() == {}
    assert store.hints(OWNER, b"", 10) == []
    assert not store.has_hint(OWNER, A, b"a")


def test_a_hint_is_there_until_it_is_removed(store: Store) -> None:
    write(store, (A, b"a", b"1"), hints=[(OWNER, A, b"a", True), (OTHER, B, b"", True)])
    assert markers(store) == {OWNER: [(A, b"a")], OTHER: [(B, b"")]}
    assert store.has_hint(OWNER, A, b"a")
    assert store.has_hint(OTHER, B, b"")
    assert not store.has_hint(OTHER, A, b"a")
    assert not store.has_hint(OWNER, A, b"b")
    assert not store.has_hint(OWNER, B, b"a")
    write(store, hints=[(OWNER, A, b"a", False)])
    assert markers(store) == {OTHER: [(B, b"")]}
    assert not store.has_hint(OWNER, A, b"a")
    assert store.get(A, b"a") == b"1"


def test_adding_a_hint_again_and_removing_what_is_not_there_change_nothing(store: Store) -> None:
    for _ in range(2):
        write(store, hints=[(OWNER, A, b"a", True), (OWNER, B, b"a", False)])
        assert markers(store) == {OWNER: [(A, b"a")]}
    for _ in range(2):
        write(store, hints=[(OWNER, A, b"a", False)])
        assert markers(store) == {}


def test_the_last_change_of_a_hint_in_a_batch_counts(store: Store) -> None:
    write(store, hints=[(OWNER, A, b"a", True), (OWNER, A, b"a", False)])
    assert markers(store) == {}
    write(store, hints=[(OWNER, A, b"a", owed) for owed in (True, False, True)])
    assert markers(store) == {OWNER: [(A, b"a")]}
    write(store, hints=[(OWNER, A, b"a", owed) for owed in (False, True, True, False)])
    assert markers(store) == {}


def test_hints_are_read_page_by_page_in_token_then_key_order(store: Store) -> None:
    same = token(7)
    places = [(same, key) for key in (b"", b"\0", b"\0\0", b"a", b"a\0", b"b", b"\xff" * 1024)]
    places += [(FIRST, b""), (token(7, 1), b"a"), (token(7, 2**64), b"a"), (LAST, b"z")]
    write(store, hints=[(target, *place, True) for target in (OWNER, OTHER) for place in places])
    for count in (1, 2, 3, 100):
        found: list[tuple[Token, bytes]] = []
        after = b""
        while page := store.hints(OWNER, after, count):
            assert len(page) <= count
            found += page
            after = b"".join(page[-1])
        assert found == sorted(places)
    assert store.hints(OWNER, same + b"a and not there", 1) == [(same, b"b")]
    assert store.hints(OWNER, same, 1) == [(same, b"\0")]
    assert store.hints(NodeId("c" * 16), b"", 1) == []


def test_hints_are_neither_records_nor_counted(store: Store) -> None:
    write(store, (A, b"a", b"1"), hints=[(OWNER, B, b"b", True), (OTHER, LAST, b"b", True)])
    assert contents(store) == [(A, b"a", b"1")]
    assert store.count() == 1
    write(store, (A, b"a", b""))
    assert store.count() == 0
    assert store.hint_counts() == {OWNER: 1, OTHER: 1}


@pytest.mark.parametrize("rows", [1, 2, 3, 255, 256, 257, 3_000])
def test_a_batch_of_any_number_of_hints_is_written_whole(store: Store, rows: int) -> None:
    dice = random.Random(rows)
    places = [(Token(dice.randbytes(16)), b"key %d" % i) for i in range(rows)]
    targets = [dice.choice([OWNER, OTHER]) for _ in places]
    hints = [(target, *place) for target, place in zip(targets, places, strict=True)]
    write(store, *((*place, b"stored") for place in places), hints=[(*h, True) for h in hints])
    found = markers(store)
    assert sorted((target, *place) for target in found for place in found[target]) == sorted(hints)
    kept = hints[::3]
    gone = [hint for hint in hints if hint not in kept]
    write(store, hints=[(*hint, False) for hint in gone])
    assert all(store.has_hint(*hint) for hint in kept)
    assert sum(store.hint_counts().values()) == len(kept)
    assert store.count() == rows


def test_everything_is_there_after_a_restart(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "store"
    same = token(7)
    store = engine.open(path)
    first = [(OWNER, A, b"a", True), (OWNER, same, b"a", True)]
    write(store, (A, b"a", b"1"), (same, b"a", b"2"), meta=(("ring", b"epoch"),), hints=first)
    write(store, (same, b"b", b"3"), hints=[(OWNER, A, b"a", False), (OTHER, same, b"b", True)])
    store.close()
    store = engine.open(path)
    assert markers(store) == {OWNER: [(same, b"a")], OTHER: [(same, b"b")]}
    assert contents(store) == [(A, b"a", b"1"), (same, b"a", b"2"), (same, b"b", b"3")]
    assert store.get_meta("ring") == b"epoch"
    write(store, (same, b"b", b"4"))
    assert store.get(same, b"b") == b"4"
    store.close()
    store.close()


def test_a_snapshot_is_a_store_of_its_own(engine: Engine, store: Store, tmp_path: Path) -> None:
    same = token(7)
    write(store, (A, b"a", b"1"), (same, b"a", b"2"), (same, b"b", b"3"), meta=(("m", b"4"),))
    write(store, hints=[(OWNER, A, b"a", True), (OTHER, same, b"a", True)])
    before, owed = contents(store), markers(store)
    store.snapshot(tmp_path / "copy")
    write(store, (A, b"a", b"changed"), (B, b"new", b"5"), hints=[(OWNER, A, b"a", False)])
    copy = engine.open_copy(tmp_path / "copy")
    assert contents(copy) == before
    assert markers(copy) == owed == {OWNER: [(A, b"a")], OTHER: [(same, b"a")]}
    assert copy.get_meta("m") == b"4"
    copy.close()


def test_a_snapshot_never_overwrites(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.write_bytes(b"precious")
    with pytest.raises(Refused, match="exists"):
        store.snapshot(target)
    assert target.read_bytes() == b"precious"


def test_a_reader_sees_each_batch_whole_while_another_thread_writes(store: Store) -> None:
    keys = [(token(i << 58), b"key %d" % i) for i in range(32)]
    write(store, *((*key, b"0000") for key in keys))
    failures: list[Exception] = []

    def write_all() -> None:
        try:
            for number in range(1, 200):
                write(store, *((*key, b"%04d" % number) for key in keys), number=number)
        except Exception as exc:
            failures.append(exc)

    writer = threading.Thread(target=write_all)
    writer.start()
    latest = b"0000"
    dice = random.Random(1)
    while writer.is_alive():
        # If a batch became visible in part, a read of an unwritten part would go back in time.
        for place, key in dice.sample(keys, 8):
            stored = store.get(place, key)
            assert stored is not None
            assert stored >= latest
            latest = stored
        for _, _, stored in store.scan(FIRST, LAST):
            assert stored >= latest
            latest = stored
    writer.join()
    assert failures == []
    assert {stored for _, _, stored in contents(store)} == {b"0199"}


_PLACES = [token(high, low) for high in (0, 5, 2**63 - 1) for low in (0, 2**64 + 9)]
_KEYS = [b"\x00", b"a", b"b"]
_puts = st.dictionaries(
    st.tuples(st.sampled_from(_PLACES), st.sampled_from(_KEYS)),
    st.sampled_from([b"", b"one", b"two" * 50]),
    max_size=8,
)
_metas = st.dictionaries(st.sampled_from(["m", "n"]), st.binary(max_size=3), max_size=2)
_hints = st.lists(
    st.tuples(
        st.sampled_from([OWNER, OTHER]),
        st.sampled_from(_PLACES),
        st.sampled_from(_KEYS),
        st.booleans(),
    ),
    max_size=6,
)
_Step = tuple[dict[tuple[Token, bytes], bytes], dict[str, bytes], list[Hint]] | str
_steps = st.lists(st.one_of(st.tuples(_puts, _metas, _hints), st.just("restart")), max_size=8)


@pytest.mark.parametrize("name", sorted(ENGINES))
@settings(max_examples=40, deadline=None)
@given(steps=_steps, first=st.sampled_from(_PLACES), last=st.sampled_from(_PLACES))
def test_a_store_behaves_as_a_sorted_dict(
    name: str,
    steps: list[_Step],
    first: Token,
    last: Token,
) -> None:
    engine = ENGINES[name]()
    records: dict[tuple[Token, bytes], bytes] = {}
    meta: dict[str, bytes] = {}
    owed: set[tuple[NodeId, Token, bytes]] = set()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store"
        store = engine.open(path)
        for step in steps:
            if isinstance(step, str):
                store.close()
                store = engine.open(path)
            else:
                puts, metas, hints = step
                write(
                    store,
                    *((*place, stored) for place, stored in puts.items()),
                    meta=tuple(metas.items()),
                    hints=hints,
                )
                for target, place, key, is_owed in hints:
                    (owed.add if is_owed else owed.discard)((target, place, key))
                records = {p: stored for p, stored in (records | puts).items() if stored}
                meta |= metas
            expected = [(*place, records[place]) for place in sorted(records)]
            assert contents(store) == expected
            assert list(store.scan(first, last)) == [
                row for row in expected if first <= row[0] <= last
            ]
            assert store.count() == len(records)
            assert markers(store) == {
                target: sorted((place, key) for owner, place, key in owed if owner == target)
                for target in {owner for owner, _, _ in owed}
            }
            assert all(
                store.get(place, key) == records.get((place, key))
                for place in _PLACES
                for key in _KEYS
            )
            assert all(store.get_meta(row) == meta.get(row) for row in ("m", "n"))
        store.close()
