"""Merges of one turn to the same owners are one frame, and every one of them keeps its answer."""

from __future__ import annotations

import pytest

from dynagent import limits
from dynagent.agent.merges import Merges
from dynagent.core.messages import Merge
from dynagent.core.ports import NodeId
from dynagent.wire.codec import Frame, decode_frame

B, C, D = (NodeId(letter * 16) for letter in "bcd")


class Wire:
    def __init__(self) -> None:
        self.sent: list[tuple[NodeId, Frame]] = []
        self.merges = Merges(self.write)

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
    wire.merges.add([B, C], 1, 500, merge(1))
    assert wire.sent == []
    wire.merges.flush()
    assert wire.told() == [(B, 1, [], 1), (C, 1, [], 1)]
    wire.merges.flush()
    assert len(wire.sent) == 2


def test_merges_to_the_same_owners_share_a_frame_with_the_longest_budget() -> None:
    wire = Wire()
    first = merge(1)
    for number, budget_ms in ((1, 500), (2, 900), (3, 100)):
        wire.merges.add([B, C], number, budget_ms, first if number == 1 else merge(number))
    wire.merges.add([C, D], 4, 50, merge(4))
    wire.merges.flush()
    assert wire.told() == [(B, 1, [2, 3], 3), (C, 1, [2, 3], 3), (C, 4, [], 1), (D, 4, [], 1)]
    assert [frame.budget_ms for _, frame in wire.sent] == [900, 900, 50, 50]
    assert len(first.entries) == 1 and first.also == []  # what was handed over is left as it was


def test_merges_read_under_different_barriers_do_not_share_a_frame() -> None:
    wire = Wire()
    wire.merges.add([B], 1, 500, merge(1))
    wire.merges.add([B], 2, 500, merge(2, barrier=1))
    wire.merges.flush()
    assert wire.told() == [(B, 1, [], 1), (B, 2, [], 1)]


@pytest.mark.parametrize(("size", "fit"), [(limits.MIB // 2, 2), (limits.MIB // 4, 4), (1, 1_024)])
def test_a_frame_that_is_full_leaves_at_once(size: int, fit: int) -> None:
    wire = Wire()
    for number in range(fit + 1):
        wire.merges.add([B], number, 500, merge(number, size))
    assert [len(also) + 1 for _, _, also, _ in wire.told()] == [fit]
    wire.merges.flush()
    assert [len(also) + 1 for _, _, also, _ in wire.told()] == [fit, 1]
