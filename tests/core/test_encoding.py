"""The hardened decoder: whatever the bytes, the outcome is a value or a ProtocolError."""

from __future__ import annotations

import cbor2
import pytest
from cbor2 import CBORSimpleValue, undefined
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dynagent import limits
from dynagent.core import cbor
from dynagent.core.encoding import decode, encode
from dynagent.core.entry import decode_entry, decode_sibling
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.core.version import Version
from dynagent.errors import ProtocolError
from tests.core.harness import make_ring

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=20)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=5) | st.binary(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)

BIG_INTS_THAT_COLLIDE = b"".join(
    b"\xc2\x50" + (k * (2**61 - 1)).to_bytes(16, "big") + b"\x00" for k in range(1, 20_001)
)
SMALL_INTS_THAT_COLLIDE = b"".join(
    b"\x1b" + (k * (2**61 - 1)).to_bytes(8, "big") + b"\x00" for k in range(1, 8)
)

HOSTILE: dict[str, bytes | str] = {
    "map with 20,000 big-int keys that collide": b"\xb9\x4e\x20" + BIG_INTS_THAT_COLLIDE,
    "map with integer keys that collide": b"\xa7" + SMALL_INTS_THAT_COLLIDE,
    "integer key": "a10102",
    "negative integer key": "a12002",
    "float key": "a1f93c0002",
    "null key": "a1f602",
    "array key": "a18002",
    "map key": "a1a002",
    "duplicate text key": "a2616101616102",
    "duplicate bytes key": "a2416101416102",
    "duplicate key deep inside": "8181a2616101616102",
    "decimal with a huge mantissa (tag 4)": b"\xc4\x82\x00\xc2\x5a\x00\x04\x93\xe0"
    + b"\x99" * 300_000,
    "decimal with a huge exponent": "c4821b016345785d8a000001",
    "bigfloat (tag 5)": "c5822003",
    "regular expression (tag 35)": b"\xd8\x23\x7a\x00\x0f\x42\x40" + b"(" * 1_000_000,
    "MIME message (tag 36)": b"\xd8\x24\x7a\x00\x0f\x42\x40" + b"a" * 1_000_000,
    "set (tag 258)": "d9010280",
    "250,000 empty sets": b"\x9a\x00\x03\xd0\x90" + bytes.fromhex("d9010280") * 250_000,
    "unknown tags": b"\x9a\x00\x05\x16\x15" + b"\xd8\x63\x00" * 333_333,
    "date (tag 0)": b"\xc0\x74" + b"2013-03-21T20:04:00Z",
    "epoch (tag 1)": "c11a514b67b0",
    "positive bignum (tag 2)": "c249010000000000000000",
    "negative bignum (tag 3)": "c349010000000000000000",
    "URI (tag 32)": "d82063613a62",
    "UUID (tag 37)": b"\xd8\x25\x50" + b"u" * 16,
    "IP address (tag 260)": "d9010444c00a0a01",
    "self-described CBOR (tag 55799)": "d9d9f700",
    "embedded CBOR (tag 24)": "d8184100",
    "shared references that double": "d81c82d81c80d81d01",
    "a list that contains itself": "d81c81d81d00",
    "reference to nothing": "d81d05",
    "string reference (tags 256, 25)": "d90100826161d81900",
    "depth of a million arrays": b"\x81" * 1_000_000,
    "depth of a million maps": b"\xa1\x61\x61" * 333_333,
    "depth of a million tags": b"\xc0" * 1_000_000,
    "one array too deep": b"\x81" * 17 + b"\x00",
    "indefinite bytes": "5f4100ff",
    "indefinite bytes of 500,000 chunks": b"\x5f" + b"\x41\x00" * 500_000 + b"\xff",
    "indefinite text": "7f6161ff",
    "indefinite array": "9f00ff",
    "indefinite map": "bf616100ff",
    "indefinite and never ended": "9f",
    "break alone": "ff",
    "break inside an array": "81ff",
    "bytes of a declared 8 GB": "5b0000000200000000",
    "text of a declared 2^63 bytes": "7b8000000000000000",
    "text of a declared 2^64-1 bytes": "7bffffffffffffffff",
    "array of a declared 2^40 items": b"\x9b\x00\x00\x01\x00\x00\x00\x00\x00" + b"\x00" * 100_000,
    "array of a declared 2^64-1 items": "9bffffffffffffffff",
    "map of a declared 2^60 pairs": "bb1000000000000000",
    "map of a declared 2^64-1 pairs": "bbffffffffffffffff",
    "trailing byte": "0102",
    "trailing item after an array": "8000",
    "trailing 5,000 bytes": b"\x00" * 5_001,
    "nothing": "",
    "array cut short": "8201",
    "map cut short": "a16161",
    "bytes cut short": "4301",
    "length cut short": "59ff",
    "float cut short": "fb7ff0",
    "text that is not UTF-8": "61ff",
    "text with a surrogate": "63eda080",
    "reserved length 28": "1c",
    "reserved simple value": "fc",
    "two-byte simple value below 32": "f818",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_payload_is_refused_with_a_protocol_error(name: str) -> None:
    payload = HOSTILE[name]
    with pytest.raises(ProtocolError):
        decode(payload if isinstance(payload, bytes) else bytes.fromhex(payload))


def test_a_frame_full_of_empty_containers_decodes_and_is_bounded_by_the_frame_limit() -> None:
    # No option of the decoder stops these; the cap on control frames does (limits.py).
    count = limits.CONTROL_FRAME_BYTES_MAX - 5
    assert decode(b"\x9a" + count.to_bytes(4, "big") + b"\x80" * count) == [[]] * count


def test_the_deepest_allowed_nesting_decodes() -> None:
    assert decode(b"\x81" * 15 + b"\x00") is not None
    assert decode(encode(["x" * 70_000, b"y" * 70_000])) == ["x" * 70_000, b"y" * 70_000]


@given(plain)
def test_what_was_encoded_decodes_to_the_same_value(value: object) -> None:
    assert decode(encode(value)) == value


KNOWN = (int, float, bytes, str, bool, type(None), list, dict, type(undefined), CBORSimpleValue)


def assert_known_types(value: object) -> None:
    assert type(value) in KNOWN
    parts = value if isinstance(value, list) else []
    if isinstance(value, dict):
        parts = [*value, *value.values()]
        assert all(type(key) in (str, bytes) for key in value)
    for part in parts:
        assert_known_types(part)


@settings(max_examples=1_000)
@given(st.binary(max_size=64))
@example(b"\xf7")
@example(b"\xe0")
def test_random_bytes_give_a_value_or_a_protocol_error(data: bytes) -> None:
    _assert_value_or_protocol_error(data)


SIBLINGS = [
    encode([7, 2, 1_000, 0, 1, 0, b"o" * 16, {b"type": b"text"}, b"value"]),
    encode([9, 1, 1_000, 0, 0, 0, b"p" * 16, {}, b""]),
]
ENTRY = [b"key", encode([[7, 2, 9, 1], SIBLINGS]), [b"q" * 16]]
MERGE = encode([20, 5, 1_000, None, 1, 2, 0, [ENTRY]])
MESSAGES = [SIBLINGS[0], encode(ENTRY), MERGE, encode_ring(make_ring(3))]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message with a few bytes changed, added, taken or swapped for another piece."""
    data = bytearray(draw(st.sampled_from(MESSAGES)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 4)))
        data[start:end] = draw(st.binary(max_size=4))
    return bytes(data)


@settings(max_examples=1_000)
@given(mutated())
def test_a_damaged_message_gives_a_value_or_a_protocol_error(data: bytes) -> None:
    _assert_value_or_protocol_error(data)


def _assert_value_or_protocol_error(data: bytes) -> None:
    try:
        value = decode(data)
    except ProtocolError:
        return
    assert_known_types(value)
    for check in (decode_sibling, Version, decode_ring):
        try:
            check(data)
        except ProtocolError:
            pass
    if isinstance(value, list):
        try:
            decode_entry(value)
        except ProtocolError:
            pass


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        *[(data, "premature end") for data in ("1a01", "58056162", "8201")],
        *[(data, "bytes after the end") for data in ("0102", "818100ff")],
    ],
)
def test_a_fault_is_told_alike_in_every_process(data: str, fault: str) -> None:
    """Nothing of the salted number that marks the end gets into the words."""
    with pytest.raises(ProtocolError, match=fault):
        decode(bytes.fromhex(data))


def test_the_extension_that_is_loaded_without_its_package_is_the_package_s_own() -> None:
    names = ("CBORDecodeError", "dumps", "loads")
    assert all(getattr(cbor, name) is getattr(cbor2, name) for name in names)
