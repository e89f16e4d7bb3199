"""What the simulation has found, told again without dice: one scenario for each bug."""

from __future__ import annotations

import pytest

from dynagent.core.messages import (
    MODE_CONTEXT,
    MODE_OVERWRITE,
    Error,
    Get,
    GetReply,
    Message,
    Put,
    PutReply,
    Read,
)
from dynagent.core.version import Version
from dynagent.errors import WriteOutcomeUnknown
from tests.core.harness import IDS, Cluster, make_ring

A, B, C = IDS[:3]
KEY, OP = b"key", b"o" * 16


def _put(attempt: int) -> Message:
    return Put(KEY, b"value", MODE_CONTEXT, b"", OP, attempt)


@pytest.mark.parametrize("another_write_comes", [False, True])
def test_a_retry_is_not_acknowledged_by_a_copy_that_has_rotted_meanwhile(
    another_write_comes: bool,
) -> None:
    """The coordinator finds the write in its own copy and waits for a second
    owner; when that has answered, its own copy can no longer be read. It took the empty record for
    a delete that met nothing, and acknowledged a write of which no copy was left."""
    cluster = Cluster(make_ring(3))
    cluster.request(A, _put(1))
    cluster.commit(A)
    cluster.wire.clear()  # the others never hear of it
    cluster.tick(1.0)
    assert isinstance(cluster.answers.pop()[1], Error)

    cluster.request(A, _put(2))
    cluster.overwrite_row(A, b"rot!" + cluster.disks[A].rows[KEY][4:])
    if another_write_comes:
        looks, cluster.wire[:] = cluster.wire[:], []
        assert all(isinstance(packet.message, Read) for packet in looks)
        assert isinstance(
            cluster.ask(B, Put(KEY, b"other", MODE_CONTEXT, b"", b"p" * 16)), PutReply
        )
        cluster.answers.clear()
        cluster.wire += looks
    cluster.settle()
    [(_, answer)] = cluster.answers
    assert isinstance(answer, Error)
    assert answer.error == WriteOutcomeUnknown.code


def test_an_overwrite_that_its_own_retry_has_overtaken_does_not_overwrite_again() -> None:
    """The first attempt waits for another owner's clock; the client tries again
    and is answered; somebody reads that value and replaces it. Then the first attempt's wait ends:
    it minted a second time, and superseded the newer write."""
    cluster = Cluster(make_ring(3))
    cluster.request(A, Put(KEY, b"old", MODE_OVERWRITE, b"", OP, 1))
    late, cluster.wire[:] = cluster.wire[:], []
    reply = cluster.ask(A, Put(KEY, b"old", MODE_OVERWRITE, b"", OP, 2))
    assert isinstance(reply, PutReply)
    newer = cluster.ask(A, Put(KEY, b"new", MODE_CONTEXT, reply.context, b"p" * 16))
    assert isinstance(newer, PutReply)
    cluster.wire += late
    cluster.settle()
    got = cluster.ask(B, Get(KEY))
    assert isinstance(got, GetReply)
    assert [Version(data).value for data in got.siblings] == [b"new"]


def test_a_retry_is_not_acknowledged_by_a_copy_that_a_full_disk_has_refused_meanwhile() -> None:
    """Level 2. The coordinator finds the write in its own copy, which is not yet committed, and
    waits for a second owner; then its disk is full and that copy is gone. It took what was left for
    the write, found it superseded there, and acknowledged it."""
    cluster = Cluster(make_ring(3))
    earlier = cluster.ask(A, Put(KEY, b"earlier", MODE_CONTEXT, b"", b"e" * 16))
    assert isinstance(earlier, PutReply)
    cluster.answers.clear()
    cluster.request(A, _put(1))
    assert cluster.nodes[A].take_batch() is not None
    cluster.wire.clear()  # the others never hear of it
    cluster.tick(1.0)
    assert isinstance(cluster.answers.pop()[1], Error)

    cluster.request(A, _put(2))
    cluster.nodes[A].on_refused(1.0)
    cluster.tick(1.9)  # there is room again, and the look is answered
    cluster.settle()
    [(_, answer)] = cluster.answers
    assert isinstance(answer, Error)
    assert answer.error == WriteOutcomeUnknown.code
