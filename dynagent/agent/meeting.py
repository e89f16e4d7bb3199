"""One question to an agent that is no peer yet: who are you, and what do you say to this?

For the start of a node: a fresh one asks members of the cluster that it was told of, a refused one
asks whether its double is there. One connection, one answer, and it is closed.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from dynagent import limits
from dynagent.core.messages import ROLE_CLIENT, Hello, Message
from dynagent.env import Connection, Transport
from dynagent.errors import ConnectionLost, DynagentError, TimedOut
from dynagent.wire.codec import encode_frame
from dynagent.wire.registry import VERSION_MAX, VERSION_MIN
from dynagent.wire.session import Session


async def meet(
    transport: Transport,
    address: str,
    question: Message | None = None,
    *,
    check: Callable[[Hello], None] = lambda _hello: None,
    budget_s: float = limits.HELLO_S_MAX,
) -> tuple[Hello, Message | None]:
    """What the agent at `address` says of itself, and its answer if there is a question.

    `check` may raise what it dislikes of its Hello: then nothing is asked. Raises that,
    `Unreachable`, `TimedOut`, `ConnectionLost`, or what the other end says instead of a Hello.
    """
    meetings: list[_Meeting] = []

    def accept(connection: Connection) -> _Meeting:
        meetings.append(_Meeting(connection, question, check, budget_s))
        return meetings[0]

    with trio.move_on_after(budget_s):
        await transport.dial(address, accept)
        meeting = meetings[0]
        try:
            await meeting.ended.wait()
        finally:
            meeting.connection.close("that was all")
            transport.request_turn()
        if meeting.error is not None:
            raise meeting.error
        assert meeting.remote is not None
        return meeting.remote, meeting.answer
    raise TimedOut(f"{address} did not answer in {budget_s:g} s")


class _Meeting:
    """The connection (`env.Handler`)."""

    def __init__(
        self,
        connection: Connection,
        question: Message | None,
        check: Callable[[Hello], None],
        budget_s: float,
    ) -> None:
        hello = Hello(
            *(VERSION_MIN, VERSION_MAX, ROLE_CLIENT, b"", "", b"", []),
            limits.DATA_FRAME_BYTES_MAX,
            0,
        )
        self.connection = connection
        self.ended = trio.Event()
        self.remote: Hello | None = None
        self.answer: Message | None = None
        self.error: DynagentError | None = None
        self._question = question
        self._check = check
        self._budget_ms = int(1000 * budget_s)
        self._session = Session(hello, dialled=True)
        connection.write(self._session.hello())

    def on_bytes(self, data: bytes) -> None:
        try:
            frames = self._session.receive(data)
            if self.remote is None and self._session.remote is not None:
                self._greet(self._session.remote)
            if frames:
                self.answer = frames[0].message
                self.ended.set()
        except DynagentError as error:
            self.error = error
            self.ended.set()

    def _greet(self, remote: Hello) -> None:
        self._check(remote)
        self.remote = remote
        if self._question is None:
            self.ended.set()
        else:
            frame = encode_frame(self._question, request_id=1, budget_ms=self._budget_ms)
            self.connection.write(frame)

    def on_closed(self, reason: str) -> None:
        if not self.ended.is_set():
            self.error = self.error or ConnectionLost(reason)
            self.ended.set()
