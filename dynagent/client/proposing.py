"""Asking for a change: the ring log decides it, any agent carries the question (core.ringlog).

An answer can be lost while the entry is decided. A content with an id may be proposed again: the
log answers one that it has as decided. So `propose` asks on, one agent after the other, until it
knows; what it does not know at its deadline is told as such.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from dynagent.client.blocking import Client
from dynagent.client.changes import NOBODY
from dynagent.core.messages import (
    LogReply,
    LogRequest,
    Message,
    Propose,
    Proposed,
    RingReply,
    RingRequest,
)
from dynagent.core.ring import Ring
from dynagent.core.ringcodec import decode_ring
from dynagent.core.ringentry import Content, Entry, decode_log_entry, encode_log_entry
from dynagent.errors import (
    ConnectionLost,
    DynagentError,
    NotReady,
    Overloaded,
    ProtocolError,
    QuorumNotMet,
    Unreachable,
    WriteOutcomeUnknown,
)

_PAUSE_S = 0.2
_ANOTHER_MAY = (Unreachable, NotReady, Overloaded, QuorumNotMet)


def propose(
    client: Client,
    agents: Sequence[str],
    content: Content,
    *,
    epoch: int,
    timeout_s: float,
    force: bool = False,
) -> int:
    """Has it decided as the entry after `epoch` (0: of any); returns the epoch of a ring that has
    it. `force`: of voters only, by that agent alone (core.ringlog).

    Raises `Refused` if it does not fit the ring (any more), what the last agent answered (none that
    answered: why) if none could try, `WriteOutcomeUnknown` if it may still be decided.
    """
    entry = Entry(content=content, proposer=NOBODY, wall_ms=0)  # its proposer fills these in
    request = Propose(encode_log_entry(entry), epoch, force)
    deadline = time.monotonic() + timeout_s
    unknown: DynagentError | None = None
    failure: DynagentError | None = None
    while True:
        for agent in agents:
            try:
                reply = client.ask(agent, request)
            except (WriteOutcomeUnknown, ConnectionLost) as exc:
                unknown = exc
            except _ANOTHER_MAY as exc:
                # Why who was there could not says more than that somebody else was not there.
                if not isinstance(exc, Unreachable) or isinstance(failure, Unreachable | None):
                    failure = exc
            else:
                if not isinstance(reply, Proposed):
                    raise ProtocolError(f"{agent}: {type(reply).__name__} is no answer to that")
                return reply.epoch
            if time.monotonic() >= deadline:
                break
        if time.monotonic() + _PAUSE_S >= deadline:
            if unknown is None:
                assert failure is not None
                raise failure
            id_ = getattr(content, "id", b"").hex()
            raise WriteOutcomeUnknown(
                f"change {id_} may still be decided ({unknown.message}); see: dynctl ring history"
            ) from unknown
        time.sleep(_PAUSE_S)


def ring_of(client: Client, agent: str) -> Ring:
    """The ring that this agent has; raises `NotReady` if none, `Unreachable`, `ProtocolError`."""
    reply = client.ask(agent, RingRequest())
    if not isinstance(reply, RingReply):
        raise ProtocolError(f"{agent}: {type(reply).__name__} is not a ring")
    return decode_ring(reply.ring)


def history(client: Client, agent: str) -> list[tuple[int, Entry]]:
    """The entries of the log that this agent keeps, by index; raises as `ring_of`."""
    found: list[tuple[int, Entry]] = []
    after = 0
    while True:
        reply: Message = client.ask(agent, LogRequest(after, kept=True))
        if not isinstance(reply, LogReply):
            raise ProtocolError(f"{agent}: {type(reply).__name__} is not the log")
        found += enumerate(map(decode_log_entry, reply.entries), reply.first)
        if not reply.entries or found[-1][0] >= reply.epoch:
            return found
        after = found[-1][0]
