"""Asking for a change until it is known what became of it: agents that answer this and that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dynagent.client import proposing
from dynagent.client.blocking import Client
from dynagent.client.proposing import history, propose
from dynagent.core.messages import LogReply, LogRequest, Message, Propose, Proposed
from dynagent.core.ports import NodeId
from dynagent.core.ringentry import Entry, PolicyEntry, decode_log_entry, encode_log_entry
from dynagent.errors import (
    ConnectionLost,
    DynagentError,
    NotReady,
    Refused,
    Unreachable,
    WriteOutcomeUnknown,
)

CONTENT = PolicyEntry(id=b"p" * 16, name="name", value="value")
Answer = Message | DynagentError


class Agents(Client):
    """Answers by address; a list is answered one after the other, the last one for ever."""

    def __init__(self, **answers: list[Answer] | Callable[[Message], Answer]) -> None:
        super().__init__([], learn_ring=False)
        self.answers = answers
        self.asked: list[tuple[str, Message]] = []

    def ask(self, address: str, message: Message) -> Message:
        self.asked.append((address, message))
        told = self.answers[address]
        if callable(told):
            answer = told(message)
        else:
            answer = told.pop(0) if len(told) > 1 else told[0]
        if isinstance(answer, DynagentError):
            raise answer
        return answer


class Clock:
    """Time passes in pauses, and where a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(proposing, "time", clock)
    return clock


def asked(agents: Agents, *, timeout_s: float = 2.0) -> int:
    return propose(agents, ["a", "b"], CONTENT, epoch=7, timeout_s=timeout_s)


def test_the_content_goes_to_the_first_agent_that_can() -> None:
    agents = Agents(a=[Unreachable("a: refused")], b=[Proposed(8)])
    assert asked(agents) == 8
    assert [address for address, _ in agents.asked] == ["a", "b"]
    request = agents.asked[0][1]
    assert isinstance(request, Propose)
    assert (request.epoch, decode_log_entry(request.content).content) == (7, CONTENT)


def test_a_lost_answer_is_asked_for_again_with_the_same_id() -> None:
    agents = Agents(a=[ConnectionLost("a: closed"), Proposed(8)], b=[NotReady("behind")])
    assert asked(agents) == 8
    assert len({bytes(m.content) for _, m in agents.asked if isinstance(m, Propose)}) == 1


def test_a_refusal_is_the_end() -> None:
    with pytest.raises(Refused, match="under way"):
        asked(Agents(a=[Refused("a change is under way")], b=[Proposed(8)]))


def test_what_nobody_could_try_is_definite_and_what_somebody_tried_is_unknown_with_its_id() -> None:
    with pytest.raises(NotReady, match="behind"):
        asked(Agents(a=[Unreachable("a: refused")], b=[NotReady("behind")]))
    agents = Agents(a=[WriteOutcomeUnknown("1 of 3 voters")], b=[NotReady("behind")])
    with pytest.raises(WriteOutcomeUnknown, match=f"change {(b'p' * 16).hex()} may still be"):
        asked(agents)


def test_what_an_agent_answered_is_told_rather_than_that_another_was_not_there(
    clock: Clock,
) -> None:
    def refused_late(_: Message) -> Answer:
        clock.now += 1.5
        return Unreachable("a: refused")

    agents = Agents(a=refused_late, b=[NotReady("behind")])
    with pytest.raises(NotReady, match="behind"):
        asked(agents)
    assert [address for address, _ in agents.asked] == ["a", "b", "a"]  # no time left to ask b
    with pytest.raises(Unreachable, match="b: no answer"):
        asked(Agents(a=[Unreachable("a: refused")], b=[Unreachable("b: no answer")]))


def test_the_history_is_read_page_by_page() -> None:
    entry = Entry(content=CONTENT, proposer=NodeId("n"), wall_ms=1)

    def pages(message: Message) -> Answer:
        assert isinstance(message, LogRequest) and message.kept
        first = max(message.after + 1, 4)  # older ones are kept no longer
        count = min(2, 8 - first)
        return LogReply(7, first, [encode_log_entry(entry)] * count)

    assert [index for index, _ in history(Agents(a=pages), "a")] == [4, 5, 6, 7]
    assert history(Agents(a=[LogReply(1)]), "a") == []
