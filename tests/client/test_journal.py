"""The client's own part of a trace, and what agents may send as theirs."""

from __future__ import annotations

import pytest

from dynagent.client.journal import Journal
from dynagent.core.encoding import encode
from dynagent.core.messages import GetReply
from dynagent.errors import NotReady, ProtocolError, Unreachable


def reply(trace: bytes) -> GetReply:
    return GetReply(b"", [], False, 2, trace)


def test_the_events_of_an_agent_follow_the_try_that_asked_it() -> None:
    journal = Journal(10.0)
    journal.on_try(10.0, "a:1", 1)
    journal.on_failure(10.001, "a:1", Unreachable("a:1: refused"))
    journal.on_try(10.002, "b:1", 2)
    journal.on_reply(10.009, "b:1", reply(encode([[0, "n2", "takes"], [5000, "n2", "answers"]])))
    assert journal.events == [
        (0, "client", "asks a:1"),
        (1000, "client", "has no answer of a:1: Unreachable: a:1: refused"),
        (2000, "client", "asks b:1, attempt 2"),
        (2000, "n2", "takes"),
        (7000, "n2", "answers"),
        (9000, "client", "has the answer of b:1"),
    ]


def test_an_agent_that_knows_no_traces_is_told_apart() -> None:
    journal = Journal(0.0)
    journal.on_reply(0.001, "a:1", reply(b""))
    assert journal.events[-1][2].endswith("without a trace: it is older than this client")


def test_an_error_brings_what_its_agent_went_through() -> None:
    journal = Journal(0.0)
    error = NotReady("not yet")
    error.trace_data = encode([[5, "n2", "has no more time"]])
    journal.on_failure(0.001, "a:1", error)
    assert [who for _at_us, who, _what in journal.events] == ["n2", "client"]
    assert journal.sign(error).trace == journal.events


def test_a_malformed_trace_of_an_answer_names_the_agent() -> None:
    journal = Journal(0.0)
    journal.on_try(0.0, "a:1", 1)
    with pytest.raises(ProtocolError, match="a:1 sent a trace that is no list") as raised:
        journal.on_reply(0.001, "a:1", reply(encode(7)))
    assert raised.value.trace == [(0, "client", "asks a:1")]


def test_a_malformed_trace_of_an_error_does_not_hide_the_error() -> None:
    journal = Journal(0.0)
    error = NotReady("not yet")
    error.trace_data = b"\xff"
    journal.on_failure(0.001, "a:1", error)
    assert journal.events[0][2].startswith("cannot read what a:1 sent: not valid CBOR")
    assert journal.events[1][2] == "has no answer of a:1: NotReady: not yet"
