"""Two sessions wired back to back, and strangers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynagent import limits
from dynagent.core.messages import Error, Get, Hello, Ping, Put
from dynagent.errors import (
    DynagentError,
    Overloaded,
    ProtocolError,
    UnsupportedVersion,
    WrongCluster,
)
from dynagent.wire.codec import Frame, encode_frame
from dynagent.wire.framing import FrameBuffer
from dynagent.wire.session import Session, farewell


def hello(*, low: int = 1, high: int = 1, cluster: bytes = b"") -> Hello:
    return Hello(low, high, 0, cluster, "", b"boot", [], limits.DATA_FRAME_BYTES_MAX, 0)


def pair(one: Hello | None = None, two: Hello | None = None) -> tuple[Session, Session]:
    return Session(one or hello(), dialled=True), Session(two or hello(), dialled=False)


def shake(dialler: Session, acceptor: Session) -> None:
    acceptor.receive(dialler.hello())
    dialler.receive(acceptor.take_hello())


def test_both_ends_learn_who_the_other_is() -> None:
    dialler, acceptor = pair()
    shake(dialler, acceptor)
    assert dialler.remote == acceptor.remote == hello()
    assert dialler.version == acceptor.version == 1
    assert acceptor.take_hello() == b""  # once


def test_a_large_request_may_follow_the_hello_in_the_same_bytes() -> None:
    dialler, acceptor = pair()
    put = Put(b"k", b"v" * 1_000_000, 0, b"", b"o" * 16)
    frames = acceptor.receive(dialler.hello() + encode_frame(put, request_id=1, budget_ms=9))
    assert [frame.message for frame in frames] == [put]


def test_bytes_may_come_one_by_one() -> None:
    dialler, acceptor = pair()
    data = dialler.hello() + b"".join(
        encode_frame(Get(b"k%d" % number), request_id=number, budget_ms=0) for number in range(3)
    )
    frames: list[Frame] = []
    for place in range(len(data)):
        frames += acceptor.receive(data[place : place + 1])
    assert [frame.request_id for frame in frames] == [0, 1, 2]


@given(st.lists(st.binary(max_size=40), max_size=12), st.data())
def test_any_cut_of_the_stream_gives_the_same_frames(
    bodies: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    buffer, found = FrameBuffer(64), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += buffer.feed(stream[:size])
        stream = stream[size:]
    assert found == bodies


def test_the_highest_common_version_is_used() -> None:
    dialler, acceptor = pair(hello(low=1, high=9), hello(low=1, high=1))
    shake(dialler, acceptor)
    assert acceptor.version == 1


def test_no_common_version_is_an_error_that_names_both_ranges() -> None:
    dialler, acceptor = pair(hello(low=7, high=9))
    with pytest.raises(UnsupportedVersion, match=r"1\.\.1, the other 7\.\.9"):
        acceptor.receive(dialler.hello())


def test_another_cluster_is_refused() -> None:
    dialler, acceptor = pair(hello(cluster=b"a" * 16), hello(cluster=b"b" * 16))
    with pytest.raises(WrongCluster, match="61616161"):
        acceptor.receive(dialler.hello())


def test_a_client_that_names_no_cluster_is_welcome() -> None:
    shake(*pair(hello(), hello(cluster=b"b" * 16)))


def test_the_reason_for_a_refusal_reaches_the_other_end() -> None:
    dialler, _acceptor = pair()
    with pytest.raises(Overloaded, match="full house"):
        dialler.receive(farewell(Overloaded("full house")))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS ClientHello
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x02\xff\xff",
        encode_frame(Ping(), request_id=1, budget_ms=0),
        encode_frame(Error(250, "from the future"), request_id=0, budget_ms=0),
    ],
)
def test_what_is_not_a_hello_ends_the_session(data: bytes) -> None:
    _dialler, acceptor = pair()
    with pytest.raises(DynagentError):
        acceptor.receive(data)


def test_before_hello_only_a_small_frame_is_read() -> None:
    _dialler, acceptor = pair()
    with pytest.raises(ProtocolError, match="4,096 allowed"):
        acceptor.receive((limits.HELLO_FRAME_BYTES_MAX + 1).to_bytes(4, "big"))


def test_a_huge_announced_frame_is_refused_at_its_length() -> None:
    dialler, acceptor = pair()
    shake(dialler, acceptor)
    with pytest.raises(ProtocolError, match="4,294,967,295 bytes announced"):
        acceptor.receive(b"\xff\xff\xff\xff")
