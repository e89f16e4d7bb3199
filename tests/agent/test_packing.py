"""What one turn sends to the same end is one frame, and every request in it keeps its answer."""

from __future__ import annotations

import pytest

from dynagent import limits
from dynagent.agent.packing import Packer
from dynagent.core.messages import WANT_DIGEST, WANT_VALUE, Get, Merge, Message, Read, ReadReply
from dynagent.core.ports import NodeId
from dynagent.wire.codec import Frame, decode_frame, unpack

B, C, D = (NodeId(letter * 16) for letter in "bcd")


class Wire:
    def __init__(self) -> None:
        self.sent: list[tuple[NodeId, Frame]] = []
        self.packer: Packer[NodeId] = Packer(self.write)

    def write(self, node: NodeId, frame: bytes) -> None:
        self.sent.append((node, decode_frame(frame[limits.FRAME_HEADER_BYTES :])))

    def told(self) -> list[tuple[NodeId, int, list[int], int]]:
        """(to whom, request id, the others, entries) of each frame."""
        found = []
        for node, frame in self.sent:
            assert isinstance(frame.message, Merge)
            found.append((node, frame.request_id, frame.message.also, len(frame.message.entries)))
        return found


def merge(number: int, size: int = 10, barrier: int = 0) -> Merge:
    return Merge(1, 2, barrier, [[b"key-%d" % number, b"c" * size, []]])


def test_nothing_leaves_before_the_turn_ends() -> None:
    wire = Wire()
    wire.packer.add([B, C], 1, 500, merge(1))
    assert wire.sent == []
    wire.packer.flush()
    assert wire.told() == [(B, 1, [], 1), (C, 1, [], 1)]
    wire.packer.flush()
    assert len(wire.sent) == 2


def test_merges_to_the_same_owners_share_a_frame_with_the_longest_budget() -> None:
    wire = Wire()
    first = merge(1)
    for number, budget_ms in ((1, 500), (2, 900), (3, 100)):
        wire.packer.add([B, C], number, budget_ms, first if number == 1 else merge(number))
    wire.packer.add([C, D], 4, 50, merge(4))
    wire.packer.flush()
    assert wire.told() == [(B, 1, [2, 3], 3), (C, 1, [2, 3], 3), (C, 4, [], 1), (D, 4, [], 1)]
    assert [frame.budget_ms for _, frame in wire.sent] == [900, 900, 50, 50]
    assert len(first.entries) == 1 and first.also == []  # what was handed over is left as it was


def test_merges_read_under_different_barriers_share_a_frame_that_has_each() -> None:
    wire = Wire()
    wire.packer.add([B], 1, 500, merge(1, barrier=7))
    wire.packer.add([B], 2, 500, merge(2, barrier=4))
    wire.packer.add([B], 3, 500, Merge(1, 2, 3, merge(3).entries * 2, [], "", [5, 3]))
    wire.packer.add([C], 4, 500, merge(4, barrier=6))
    wire.packer.add([C], 5, 500, merge(5, barrier=6))
    wire.packer.flush()
    assert wire.told() == [(B, 1, [2, 3], 4), (C, 4, [5], 2)]
    packed = [frame.message for _, frame in wire.sent if isinstance(frame.message, Merge)]
    assert [(merge.barrier, merge.barriers) for merge in packed] == [(3, [7, 4, 5, 3]), (6, [])]


def test_replies_to_reads_keep_their_barriers_in_one_frame() -> None:
    wire = Wire()
    for number, barrier in ((1, 4), (2, 0), (3, 9)):
        reply = ReadReply(1, b"d" * 32, [7, 1], [7, 1], None, 0, [], barrier)
        wire.packer.add([B], number, 0, reply)
    wire.packer.flush()
    [(_, frame)] = wire.sent
    assert isinstance(frame.message, ReadReply)
    further = [reply for _, reply in unpack(frame.message) if isinstance(reply, ReadReply)]
    assert [frame.message.barrier, *(reply.barrier for reply in further)] == [4, 0, 9]


@pytest.mark.parametrize(("size", "fit"), [(limits.MIB // 2, 2), (limits.MIB // 4, 4), (1, 1_024)])
def test_a_frame_that_is_full_leaves_at_once(size: int, fit: int) -> None:
    wire = Wire()
    for number in range(fit + 1):
        wire.packer.add([B], number, 500, merge(number, size))
    assert [len(also) + 1 for _, _, also, _ in wire.told()] == [fit]
    wire.packer.flush()
    assert [len(also) + 1 for _, _, also, _ in wire.told()] == [fit, 1]


def read(number: int, want: int = WANT_DIGEST, op_id: bytes = b"", key: bytes = b"k") -> Read:
    return Read(1, 2, key + b"%d" % number, want, op_id)


def test_reads_of_the_same_owners_share_a_frame() -> None:
    wire = Wire()
    for number, targets in enumerate(([B], [B], [C], [B]), start=1):
        assert wire.packer.add(targets, number, 100 * number, read(number))
    wire.packer.flush()
    assert [(node, frame.request_id, frame.budget_ms) for node, frame in wire.sent] == [
        (B, 1, 400),
        (C, 3, 300),
    ]
    assert [frame.message for _, frame in wire.sent] == [
        Read(1, 2, b"k1", WANT_DIGEST, b"", [2, 4], [b"k2", b"k4"]),
        read(3),
    ]


def test_reads_that_want_different_things_do_not_share_a_frame() -> None:
    wire = Wire()
    wire.packer.add([B], 1, 500, read(1))
    wire.packer.add([B], 2, 500, read(2, WANT_VALUE))
    wire.packer.flush()
    assert [frame.message for _, frame in wire.sent] == [read(1), read(2, WANT_VALUE)]


@pytest.mark.parametrize(
    "message",
    [
        read(1, op_id=b"o"),
        Get(b"k"),
        ReadReply(1, b"d", [5, 1], [5, 1], [b"k", b"content", []]),
        ReadReply(1, b"d", [5, 1], [5, 1], None, 2),
    ],
)
def test_what_others_cannot_share_is_left_to_the_caller(message: Message) -> None:
    wire = Wire()
    assert not wire.packer.add([B], 1, 500, message)
    wire.packer.flush()
    assert wire.sent == []


def test_keys_packed_into_a_read_stay_within_a_control_frame() -> None:
    wire = Wire()
    for number in range(100):
        wire.packer.add([B], number, 500, read(number, key=b"k" * 1_000))
    wire.packer.flush()
    ids = [[frame.request_id, *read_of(frame).also] for _, frame in wire.sent]
    assert len(ids) == 4 and [number for some in ids for number in some] == list(range(100))


def read_of(frame: Frame) -> Read:
    assert isinstance(frame.message, Read)
    return frame.message


def test_replies_on_one_link_share_a_frame() -> None:
    wire = Wire()
    replies = [ReadReply(1, b"%d" % n, [5, n], [5, n], None) for n in (1, 2, 3)]
    for number, reply in enumerate(replies, start=1):
        assert wire.packer.add([D], number, 0, reply)
    wire.packer.flush()
    [(_, frame)] = wire.sent
    assert isinstance(frame.message, ReadReply) and frame.request_id == 1
    assert unpack(frame.message) == [(2, replies[1]), (3, replies[2])]
    frame.message.also = []
    assert frame.message == replies[0]


def test_a_record_over_the_frame_costs_only_its_own_message() -> None:
    wire = Wire()
    wire.packer.add([B], 1, 500, merge(1, size=limits.DATA_FRAME_BYTES_MAX))
    assert wire.sent == []
    wire.packer.add([B], 2, 500, merge(2))
    wire.packer.flush()
    assert [frame.request_id for _, frame in wire.sent] == [2]
