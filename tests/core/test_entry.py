"""Records written down: what comes back is what went in, or a refusal; never a wrong value."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.entry import (
    Record,
    decode_context,
    decode_entry,
    decode_sibling,
    decode_stored,
    encode_context,
    encode_entry,
    encode_sibling,
    encode_stored,
)
from dynagent.core.siblings import EMPTY, Clock, Dot, Sibling, Siblings
from dynagent.core.version import Version
from dynagent.errors import BadRequest, CorruptRecord, ProtocolError

CLUSTER_ID = b"c" * 16
uint64 = st.integers(0, 2**64 - 1)
positive = st.integers(1, 2**64 - 1)
op_id_bytes = st.binary(min_size=16, max_size=16)
keys = st.binary(min_size=1, max_size=20)
clocks = st.dictionaries(positive, positive, max_size=4)


@st.composite
def siblings_of(draw: st.DrawFn, dot: Dot) -> Sibling:
    return encode_sibling(
        dot=dot,
        wall_ms=draw(uint64),
        content=draw(st.integers(0, 65_535)),
        expiry_ms=draw(uint64),
        op_id=draw(op_id_bytes),
        meta=draw(st.dictionaries(st.binary(max_size=5), st.binary(max_size=5), max_size=2)),
        value=draw(st.binary(max_size=40)),
    )


@st.composite
def records(draw: st.DrawFn) -> Record:
    clock = draw(clocks)
    dots = {(actor, draw(st.integers(1, last))) for actor, last in clock.items()}
    kept = sorted(dot for dot in dots if draw(st.booleans()))
    op_ids = draw(st.lists(op_id_bytes, max_size=limits.OP_IDS_KEPT))
    return Record(
        Siblings(clock, tuple(draw(siblings_of(dot)) for dot in kept)),
        op_ids=tuple(op_ids),
        mark=(draw(uint64), draw(uint64), draw(uint64)),
        since=draw(uint64),
        unknown=draw(st.booleans()),
    )


def local_parts(record: Record) -> tuple[object, ...]:
    return record.op_ids, record.mark, record.since, record.unknown


def sibling(dot: Dot = (7, 2), value: bytes = b"value", op_id: bytes = b"o" * 16) -> Sibling:
    return encode_sibling(
        dot=dot, wall_ms=9, content=1, expiry_ms=0, op_id=op_id, meta={b"a": b"b"}, value=value
    )


RECORD = Record(
    Siblings({7: 2, 9: 1}, (sibling(), sibling((9, 1), b""))),
    op_ids=(b"p" * 16, b"q" * 16),
    mark=(7, 2, 3),
    since=4,
)


# --- siblings ------------------------------------------------------------------------------------


@given(st.tuples(positive, positive).flatmap(siblings_of))
def test_a_sibling_decodes_to_what_was_encoded(one: Sibling) -> None:
    decoded = decode_sibling(one.data)
    assert decoded == one
    assert decoded.op_id == one.op_id
    version = Version(one.data)
    assert [version.actor, version.counter, version.wall_ms, 0, version.content] == (
        decode_list(one.data)[:5]
    )
    assert [version.expiry_ms, version.op_id, version.meta, version.value] == (
        decode_list(one.data)[5:]
    )


def decode_list(data: bytes) -> list[object]:
    fields = decode(data)
    assert isinstance(fields, list)
    return fields


def test_unknown_trailing_fields_of_a_sibling_are_kept_and_hashed() -> None:
    newer = encode([*decode_list(sibling().data), "from the future", 5])
    decoded = decode_sibling(newer)
    assert (decoded.dot, decoded.data) == ((7, 2), newer)
    record = Record(Siblings({7: 2}, (decoded,)))
    assert record.digest != Record(Siblings({7: 2}, (sibling(),))).digest
    _key, received = decode_entry(encode_entry(b"k", record))
    stored = encode_stored(received, cluster_id=CLUSTER_ID, key=b"k")
    kept = decode_stored(stored, cluster_id=CLUSTER_ID, key=b"k")
    assert kept.value.siblings[0].data == newer
    assert kept.digest == record.digest


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("wrong", [None, "text", [1], True, 1.5])
def test_a_sibling_with_a_field_of_the_wrong_type_is_refused(place: int, wrong: object) -> None:
    fields = decode_list(sibling().data)
    fields[place] = wrong
    with pytest.raises(ProtocolError):
        decode_sibling(encode(fields))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        None,
        7,
        "text",
        sibling().data[:-1],
        sibling().data + b"\x00",
        encode(decode_list(sibling().data)[:8]),
        encode([0, *decode_list(sibling().data)[1:]]),
        encode([7, 0, *decode_list(sibling().data)[2:]]),
        encode([-7, 2, *decode_list(sibling().data)[2:]]),
        encode({"actor": 7}),
    ],
)
def test_what_is_no_sibling_is_refused(data: object) -> None:
    with pytest.raises(ProtocolError):
        decode_sibling(data)


@pytest.mark.parametrize("size", [0, 23, 24, 254, 255, 256, 300, 65_535, 65_536])
def test_the_content_is_cbor_in_its_shortest_form_whatever_its_size(size: int) -> None:
    one = Sibling(7, 2, b"o" * 16, b"d" * size)
    content = Record(Siblings({7: 2, 9: 2**40}, (one,))).content
    assert content == encode([[7, 2, 9, 2**40], [one.data]])


# --- entries -------------------------------------------------------------------------------------


@given(keys, records())
def test_an_entry_decodes_to_the_record_without_its_local_parts(key: bytes, record: Record) -> None:
    on_the_wire = decode_list(encode(encode_entry(key, record)))
    got_key, got = decode_entry(on_the_wire)
    assert (got_key, got.value) == (key, record.value)
    assert got.digest == record.digest
    assert local_parts(got) == (record.op_ids, (0, 0, 0), 0, False)


def test_unknown_trailing_fields_of_an_entry_are_skipped() -> None:
    key, record = decode_entry([*encode_entry(b"key", RECORD), "from the future", 5])
    assert (key, record.value) == (b"key", RECORD.value)


ENTRY = encode_entry(b"key", RECORD)
CLOCK, DATAS = [7, 2, 9, 1], [s.data for s in RECORD.value.siblings]


def entry_of(clock: object, datas: object) -> list[object]:
    return [b"key", encode([clock, datas]), b""]


MALFORMED: dict[str, list[object]] = {
    "nothing": [],
    "two fields": ENTRY[:2],
    "key is text": ["key", *ENTRY[1:]],
    "key is empty": [b"", *ENTRY[1:]],
    "key is over its limit": [b"k" * 1_025, *ENTRY[1:]],
    "content is text": [b"key", "content", b""],
    "content is empty": [b"key", b"", b""],
    "content is cut": [b"key", encode([CLOCK, DATAS])[:-1], b""],
    "content has trailing garbage": [b"key", encode([CLOCK, DATAS]) + b"\x00", b""],
    "content is a map": [b"key", encode({"clock": CLOCK}), b""],
    "content has a long head": [b"key", b"\x98\x02" + encode([CLOCK, DATAS])[1:], b""],
    "content has no siblings": [b"key", encode([CLOCK]), b""],
    "content has three parts": [b"key", encode([CLOCK, DATAS, []]), b""],
    "clock is a map": entry_of({b"a": 1}, DATAS),
    "clock is odd": entry_of([7, 2, 9], DATAS),
    "clock has a zero": entry_of([5, 0, 7, 2, 9, 1], DATAS),
    "clock has a negative actor": entry_of([-5, 1, 7, 2, 9, 1], DATAS),
    "clock has a text": entry_of([7, 2, 9, 1, "a", 1], DATAS),
    "clock has a float": entry_of([7, 2, 9, 1.0], DATAS),
    "clock has a truth value": entry_of([7, 2, 9, True], DATAS),
    "clock is not sorted": entry_of([9, 1, 7, 2], DATAS),
    "an actor is there twice": entry_of([7, 1, 7, 2, 9, 1], DATAS),
    "clock does not claim a sibling": entry_of([7, 1, 9, 1], DATAS),
    "clock lacks an actor": entry_of([7, 2], DATAS),
    "siblings are not sorted": entry_of(CLOCK, DATAS[::-1]),
    "a dot is there twice": entry_of(CLOCK, [DATAS[0], DATAS[0]]),
    "a dot is there twice with different values": entry_of(
        CLOCK, [DATAS[0], sibling(value=b"other").data]
    ),
    "siblings are one byte string": entry_of(CLOCK, b"".join(DATAS)),
    "a sibling is a list": entry_of(CLOCK, [decode_list(DATAS[0])]),
    "a sibling has trailing garbage": entry_of(CLOCK, [DATAS[0] + b"\x00"]),
    "a sibling is cut": entry_of(CLOCK, [DATAS[0][:-1]]),
    "op-ids are none": [*ENTRY[:2], None],
    "op-ids are text": [*ENTRY[:2], "o" * 16],
    "op-ids are a list": [*ENTRY[:2], [b"o" * 16]],
    "an op-id is cut": [*ENTRY[:2], b"o" * 31],
    "too many op-ids": [*ENTRY[:2], b"o" * 16 * (limits.OP_IDS_KEPT + 1)],
    "a sibling's op-id is cut": entry_of(CLOCK, [sibling(op_id=b"o" * 15).data, DATAS[1]]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_entry_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        decode_entry(MALFORMED[name])


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=8,
)


@settings(max_examples=500)
@given(st.lists(junk, max_size=6), st.integers(0, 4))
def test_any_list_is_an_entry_or_a_protocol_error(parts: list[object], valid: int) -> None:
    try:
        decode_entry([*ENTRY[:valid], *parts])
    except ProtocolError:
        pass


@settings(max_examples=500)
@given(st.lists(junk, max_size=3), st.integers(0, 2))
def test_any_content_is_one_or_a_protocol_error(parts: list[object], valid: int) -> None:
    try:
        decode_entry([b"key", encode([*[CLOCK, DATAS][:valid], *parts]), []])
    except ProtocolError:
        pass


@given(keys, records())
def test_content_is_passed_on_byte_for_byte(key: bytes, record: Record) -> None:
    _key, got = decode_entry(encode_entry(key, record))
    stored = decode_stored(
        encode_stored(got, cluster_id=CLUSTER_ID, key=key), cluster_id=CLUSTER_ID, key=key
    )
    assert stored.content == got.content == Record(record.value).content


# --- the stored form -----------------------------------------------------------------------------


@given(keys, records())
def test_a_stored_record_decodes_to_what_was_encoded(key: bytes, record: Record) -> None:
    stored = encode_stored(record, cluster_id=CLUSTER_ID, key=key)
    got = decode_stored(stored, cluster_id=CLUSTER_ID, key=key)
    assert got.value == record.value
    assert [s.op_id for s in got.value.siblings] == [s.op_id for s in record.value.siblings]
    assert local_parts(got) == local_parts(record)
    assert got.content == record.content
    assert got.digest == record.digest == Record(record.value).digest


def test_every_flipped_bit_of_a_stored_record_is_found() -> None:
    stored = encode_stored(RECORD, cluster_id=CLUSTER_ID, key=b"key")
    for place in range(len(stored)):
        for bit in range(8):
            damaged = bytearray(stored)
            damaged[place] ^= 1 << bit
            with pytest.raises(CorruptRecord):
                decode_stored(bytes(damaged), cluster_id=CLUSTER_ID, key=b"key")


def test_every_changed_byte_of_a_stored_record_is_found() -> None:
    stored = encode_stored(Record(RECORD.value), cluster_id=CLUSTER_ID, key=b"key")
    for place in range(len(stored)):
        for wrong in set(range(256)) - {stored[place]}:
            damaged = stored[:place] + bytes([wrong]) + stored[place + 1 :]
            with pytest.raises(CorruptRecord):
                decode_stored(damaged, cluster_id=CLUSTER_ID, key=b"key")


def test_a_stored_record_cut_anywhere_is_found() -> None:
    stored = encode_stored(RECORD, cluster_id=CLUSTER_ID, key=b"key")
    for length in range(len(stored)):
        with pytest.raises(CorruptRecord):
            decode_stored(stored[:length], cluster_id=CLUSTER_ID, key=b"key")


def test_a_record_stored_under_another_key_or_in_another_cluster_is_found() -> None:
    stored = encode_stored(RECORD, cluster_id=CLUSTER_ID, key=b"key")
    for cluster_id, key in ((CLUSTER_ID, b"kez"), (b"d" * 16, b"key"), (b"", b"key")):
        with pytest.raises(CorruptRecord):
            decode_stored(stored, cluster_id=cluster_id, key=key)


def sealed(rest: bytes) -> bytes:
    """A stored form whose checksum holds, whatever it is."""
    return crc32(rest, crc32(b"key", crc32(CLUSTER_ID))).to_bytes(4, "big") + rest


FORM_AT, OP_IDS_AT, SIBLINGS_AT = 0, 2, 8  # in the head


@pytest.mark.parametrize(
    ("place", "size", "wrong"),
    [
        *((FORM_AT, 1, form) for form in (0, 2, 0x89)),
        *((OP_IDS_AT, 2, count) for count in (9, 65_535)),
        *((SIBLINGS_AT, 4, count) for count in (3, 2**32 - 1)),
    ],
)
def test_a_stored_form_that_is_not_ours_is_corrupt_even_if_its_checksum_holds(
    place: int, size: int, wrong: int
) -> None:
    stored = encode_stored(RECORD, cluster_id=CLUSTER_ID, key=b"key")
    assert sealed(stored[4:]) == stored
    rest = bytearray(stored[4:])
    rest[place : place + size] = wrong.to_bytes(size, "big")
    with pytest.raises(CorruptRecord):
        decode_stored(sealed(bytes(rest)), cluster_id=CLUSTER_ID, key=b"key")
    for length in range(len(rest)):
        with pytest.raises(CorruptRecord):
            decode_stored(sealed(bytes(rest[:length])), cluster_id=CLUSTER_ID, key=b"key")


def test_the_digest_is_of_clock_and_siblings_and_of_nothing_local() -> None:
    assert Record(RECORD.value).digest == RECORD.digest
    assert Record(RECORD.value, unknown=True, since=9).digest == RECORD.digest
    other_clock = Siblings({7: 3, 9: 1}, RECORD.value.siblings)
    assert Record(other_clock).digest != RECORD.digest
    other_value = Siblings({7: 2, 9: 1}, (sibling(value=b"x"), RECORD.value.siblings[1]))
    assert Record(other_value).digest != RECORD.digest
    assert Record(Siblings({9: 1, 7: 2}, RECORD.value.siblings)).digest == RECORD.digest
    assert len(Record(EMPTY).digest) == 32


# --- contexts ------------------------------------------------------------------------------------


@given(keys, clocks)
def test_a_context_decodes_to_the_clock_it_was_made_of(key: bytes, clock: Clock) -> None:
    assert decode_context(encode_context(clock, key=key), key=key) == clock


def test_an_empty_clock_has_the_empty_context() -> None:
    assert encode_context({}, key=b"key") == b""
    assert decode_context(b"", key=b"key") == {}


@given(keys, keys, clocks.filter(bool))
def test_a_context_of_another_key_is_a_bad_request(key: bytes, other: bytes, clock: Clock) -> None:
    context = encode_context(clock, key=key)
    if key != other:
        with pytest.raises(BadRequest):
            decode_context(context, key=other)


def test_a_context_cut_or_mistyped_anywhere_is_a_bad_request() -> None:
    context = encode_context({7: 2, 900: 70_000}, key=b"key")
    for place in range(len(context)):
        with pytest.raises(BadRequest):
            decode_context(
                context[:place] + bytes([context[place] ^ 0x20]) + context[place + 1 :], key=b"key"
            )
        with pytest.raises(BadRequest):
            decode_context(context[:place] + context[place + 1 :], key=b"key")
        if place:
            with pytest.raises(BadRequest):
                decode_context(context[:place], key=b"key")


def forged(encoded: bytes, key: bytes = b"key") -> bytes:
    """With the right checksum: not an accident."""
    return crc32(encoded, crc32(key)).to_bytes(4, "big") + encoded


@settings(max_examples=500)
@given(st.binary(max_size=40), st.booleans())
@example(b"", True)
@example(encode([1]), True)
@example(encode([1, 0]), True)
@example(encode({"a": 1}), True)
def test_any_bytes_are_a_context_or_a_bad_request(data: bytes, has_checksum: bool) -> None:
    try:
        clock = decode_context(forged(data) if has_checksum else data, key=b"key")
    except BadRequest:
        return
    assert all(actor > 0 and counter > 0 for actor, counter in clock.items())
