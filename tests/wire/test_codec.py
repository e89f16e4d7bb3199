"""Frames: what is encoded comes back, and nothing else than a ProtocolError comes of bad bytes."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynagent import limits
from dynagent.core.messages import (
    Error,
    Get,
    GetReply,
    Hello,
    Install,
    Merge,
    MergeAck,
    Message,
    Ping,
    Put,
    PutReply,
    Read,
    ReadReply,
    RingReply,
)
from dynagent.errors import ProtocolError
from dynagent.wire.codec import decode_frame, encode_frame, unpack
from dynagent.wire.registry import REGISTRY

SAMPLES: list[Message] = [
    Hello(1, 1, 0, b"", "", b"boot", ["a"], 1_000, 1_700_000_000_000),
    Error(8, "2 of R=2 owners"),
    Error(8, "2 of R=2 owners", b"trace"),
    Ping(),
    Get(b"k", 2, True),
    Get(b"k", 2, True, True),
    GetReply(b"ctx", [b"one", b"two"], False, 2),
    Put(b"k", None, 1, b"", b"o" * 16),
    Put(b"k", b"v", 0, b"ctx", b"o" * 16, 2, 1, 3, True, 7, 5, {b"type": b"text"}),
    PutReply(b"ctx", 1, b"d" * 16),
    PutReply(b"ctx", 1, b"d" * 16, b"trace"),
    Merge(1, 2, 0, [[b"k", [5, 1], [b"sibling"], []]]),
    MergeAck(),
    Read(1, 2, b"k", 1),
    ReadReply(1, b"d" * 32, [5, 1], [5, 1], None, 0),
    Read(1, 2, b"k", 0, b"", [8, 9], [b"l", b"m"]),
    ReadReply(1, b"d" * 32, [5, 1], [5, 1], [b"k", [5, 1], [b"sibling"], []], 2),
    ReadReply(0, b"", [], [], None, 0, [[8, 1, b"d" * 32, [5, 1], [5, 1], None]]),
    RingReply(3, b"ring"),
    Install(b"ring"),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    frame = encode_frame(message, request_id=7, budget_ms=250, ext=[b"trace", 0, "me", 1])
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    decoded = decode_frame(frame[4:])
    assert decoded.message == message
    assert (decoded.request_id, decoded.budget_ms) == (7, 250)
    assert decoded.ext == [b"trace", 0, "me", 1]


def test_missing_trailing_fields_take_their_defaults() -> None:
    decoded = decode_frame(cbor2.dumps([Get.code, 1, 0, None, b"k"]))
    assert decoded.message == Get(b"k", 0, False)


def test_fields_that_all_have_their_defaults_are_left_out() -> None:
    """So that asking for no trace costs nothing, nor does a put without special wishes."""
    for message, fields in (
        (Get(b"k"), [b"k"]),
        (Get(b"k", 2, True), [b"k", 2, True, False, 0, False]),
        (Put(b"k", b"v", 0, b"", b"o"), [b"k", b"v", 0, b"", b"o"]),
        (Put(b"k", b"v", 0, b"", b"o", 2), [b"k", b"v", 0, b"", b"o", 2, *_PUT_DEFAULTS[1:]]),
        (Read(1, 2, b"k", 0), [1, 2, b"k", 0]),
        (Read(1, 2, b"k", 0, b"", [7], [b"l"]), [1, 2, b"k", 0, b"", [7], [b"l"]]),
        (Get(b"k", 2, True, True), [b"k", 2, True, True, 0, False]),
        (GetReply(b"c", [], False, 2), [b"c", [], False, 2]),
        (PutReply(b"c", 1, b"d"), [b"c", 1, b"d"]),
        (Error(8, "why"), [8, "why"]),
        (MergeAck(), []),
        (MergeAck([7]), [[7]]),
        (Hello(1, 1, 0, b"", "", b"", [], 9, 0), [1, 1, 0, b"", "", b"", [], 9, 0]),
    ):
        frame = encode_frame(message, request_id=1, budget_ms=0)
        assert cbor2.loads(frame[4:])[4:] == fields
        assert decode_frame(frame[4:]).message == message


_PUT_DEFAULTS = [1, 0, 0, False, 0, 0, {}, False, 0]


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (Get(b"k", 2, True), [b"k", 2, True]),
        (GetReply(b"c", [], False, 2), [b"c", [], False, 2]),
        (PutReply(b"c", 1, b"d"), [b"c", 1, b"d"]),
        (Error(8, "why"), [8, "why"]),
        (Put(b"k", b"v", 0, b"", b"o"), [b"k", b"v", 0, b"", b"o", 1, 0, 0, False, 0, 0, {}]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_peer_without_traces_is_understood(message: Message, fields: list[object]) -> None:
    assert decode_frame(cbor2.dumps([type(message).code, 1, 0, None, *fields])).message == message


def test_unknown_trailing_fields_are_skipped() -> None:
    decoded = decode_frame(
        cbor2.dumps([Get.code, 1, 0, None, b"k", 2, True, True, 1, False, "new", {}])
    )
    assert decoded.message == Get(b"k", 2, True, True, 1)


def test_an_unknown_code_is_no_error_of_the_connection() -> None:
    decoded = decode_frame(cbor2.dumps([200, 9, 0, None, "whatever"]))
    assert decoded.message is None
    assert (decoded.code, decoded.request_id) == (200, 9)


@pytest.mark.parametrize(
    "frame",
    [
        [Get.code, 1, 0, None],  # the key is missing
        [Get.code, 1, 0, None, "text"],
        [Get.code, 1, 0, None, b"k", True],  # a bool is not a number
        [Get.code, 1, 0, None, b"k", 70_000],
        [Get.code, 1, 0, None, b"k", -1],
        [Get.code, 1, 0, None, b"k", 2, True, 1],  # a number is not a flag
        [GetReply.code, 1, 0, None, b"", [], False, 1, "text"],
        [Get.code, -1, 0, None, b"k"],
        [Get.code, "1", 0, None, b"k"],
        [Get.code, 1, limits.BUDGET_MS_MAX + 1, None, b"k"],
        [Get.code, 1, 0, "ext", b"k"],
        [GetReply.code, 1, 0, None, b"", ["text"], False, 1],
        [Put.code, 1, 0, None, b"k", 5, 0, b"", b""],
        [Put.code, 1, 0, None, b"k", b"v", 0, b"", b"", 1, 0, 0, False, 0, 0, {"text": b""}],
        [Merge.code, 1, 0, None, 1, 2, 0, [b"not a list"]],
        {"not": "an array"},
        [],
        "text",
    ],
    ids=repr,
)
def test_a_frame_against_the_schema_is_refused(frame: object) -> None:
    with pytest.raises(ProtocolError):
        decode_frame(cbor2.dumps(frame))


def test_a_control_frame_over_its_bound_is_refused_before_it_is_decoded() -> None:
    garbage = cbor2.dumps([Get.code])[:-1].replace(b"\x81", b"\x84") + bytes([Get.code])
    body = garbage + b"\xff" * limits.CONTROL_FRAME_BYTES_MAX  # not CBOR at all behind the code
    with pytest.raises(ProtocolError, match="the limit is 65,536"):
        decode_frame(body)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_decoded(body: bytes) -> None:
    _decode(body)


@given(st.sampled_from(SAMPLES), st.data())
def test_mutated_frames_are_refused_or_decoded(message: Message, data: st.DataObject) -> None:
    body = bytearray(encode_frame(message, request_id=1, budget_ms=5)[4:])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    _decode(bytes(body[: data.draw(st.integers(0, len(body)))]))
    _decode(bytes(body))


def _decode(body: bytes) -> None:
    try:
        frame = decode_frame(body)
    except ProtocolError:
        return
    assert frame.message is None or type(frame.message) is REGISTRY[frame.code].cls


def test_packed_replies_come_apart() -> None:
    rows = [[8, 1, b"d", [5, 1], [5, 1], None], [9, 0, b"", [], [], None, 1, [], 5, "newer"]]
    assert unpack(ReadReply(0, b"", [], [], None, 0, rows)) == [
        (8, ReadReply(1, b"d", [5, 1], [5, 1], None)),
        (9, ReadReply(0, b"", [], [], None, 1, [], 5)),
    ]
    assert unpack(ReadReply(0, b"", [], [], None)) == []


@pytest.mark.parametrize(
    "row",
    [
        [],
        [b"8", 0, b"", [], [], None],
        [-1, 0, b"", [], [], None],
        [2**63, 0, b"", [], [], None],
        [8, 0, b"", []],
        [8, 0, 7, [], [], None],
        [8, 0, b"", [b"actor"], [], None],
    ],
)
def test_a_packed_reply_is_checked_as_one_of_its_own(row: list[object]) -> None:
    with pytest.raises(ProtocolError):
        unpack(ReadReply(0, b"", [], [], None, 0, [row]))
