"""What a request is made of, and what its reply means: pure, the same for every client.

Where it goes is `client.routing`; who sends it and waits is the blocking client or `client.bulk`.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_CONTEXT,
    MODE_OVERWRITE,
    ROLE_CLIENT,
    Get,
    GetReply,
    Hello,
    Message,
    Put,
    PutReply,
)
from dynagent.core.version import Version
from dynagent.errors import ProtocolError, UnsupportedVersion
from dynagent.wire.registry import VERSION_MAX, VERSION_MIN
from dynagent.wire.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynagent.core.trace import Event


class Result:
    """The answer to a get. `versions`: all concurrent values, none if the key has no value."""

    __slots__ = ("agent", "answered", "context", "epoch", "held", "partial", "trace", "versions")

    def __init__(self, reply: GetReply, agent: str) -> None:
        self.versions = [Version(data) for data in reply.siblings]
        self.context = reply.context  # for the next put of this key
        self.partial = reply.partial
        self.answered = reply.answered  # owners whose copies are in this answer
        self.held = reply.held  # owners that have it on disk, if repair was asked for
        self.agent = agent  # who answered
        self.epoch = reply.epoch  # of that one's ring, if it had to pass the request on; else 0
        self.trace: Sequence[Event] = ()  # what happened on the way, if that was asked


class Receipt:
    """The answer to a put or delete that W owners have fsynced."""

    __slots__ = ("agent", "attempts", "context", "dot", "epoch", "op_id", "siblings", "trace")

    def __init__(self, reply: PutReply, *, op_id: bytes, attempts: int, agent: str) -> None:
        self.context = reply.context  # empty while siblings are left
        self.siblings = reply.siblings
        self.dot = reply.dot
        self.op_id = op_id
        self.attempts = attempts
        self.agent = agent
        self.epoch = reply.epoch  # as in a Result
        self.trace: Sequence[Event] = ()  # too


def make_get(key: bytes, r: int, strict: bool, repair: bool, trace: bool) -> Get:
    """A get; `r` 0: the cluster's own."""
    return Get(key, r, strict, trace, 0, repair)


def make_put(
    key: bytes,
    value: bytes | None,
    *,
    op_id: bytes,
    context: bytes | None = None,
    blind: bool = False,
    r: int = 0,
    w: int = 0,
    strict: bool = False,
    content: int = 0,
    expiry_ms: int = 0,
    meta: dict[bytes, bytes] | None = None,
    trace: bool = False,
) -> Put:
    """The first attempt of a put, of a delete if `value` is None. With a `context` it supersedes
    what that get returned, `blind` nothing, otherwise what R owners hold now. `r` and `w` 0: the
    cluster's own."""
    mode = MODE_CONTEXT if context is not None else MODE_BLIND if blind else MODE_OVERWRITE
    return Put(
        *(key, value, mode, context or b"", op_id, 1, r, w, strict),
        *(content, expiry_ms, meta or {}, trace),
    )


def read_result(reply: Message, *, agent: str, repair: bool = False) -> Result:
    """What a get was answered; raises `ProtocolError` if that is not the answer to one, and
    `UnsupportedVersion` if the agent does not know what was asked with `repair`."""
    if not isinstance(reply, GetReply):
        raise ProtocolError(f"{agent}: {type(reply).__name__} is not the answer to a get")
    if repair and not reply.held:
        raise UnsupportedVersion(f"{agent} is too old to repair before it answers; upgrade it")
    return Result(reply, agent)


def read_receipt(reply: Message, put: Put, *, attempts: int, agent: str) -> Receipt:
    """What a put was answered; raises `ProtocolError` if that is not the answer to one."""
    if not isinstance(reply, PutReply):
        raise ProtocolError(f"{agent}: {type(reply).__name__} is not the answer to a put")
    return Receipt(reply, op_id=put.op_id, attempts=attempts, agent=agent)


def new_session(cluster_id: bytes, *, wall_ms: int) -> Session:
    """A client's end of a connection that it has dialled. With a `cluster_id` (else empty) agents
    of another cluster are refused."""
    hello = Hello(
        VERSION_MIN,
        VERSION_MAX,
        ROLE_CLIENT,
        cluster_id,
        "",
        b"",
        [],
        limits.DATA_FRAME_BYTES_MAX,
        wall_ms,
    )
    return Session(hello, dialled=True)


def budget_ms(timeout_s: float) -> int:
    """What the agent gets of a try's time: a little less than all of it, so that its own, better
    answer comes before our time-out."""
    return min(max(1, int(timeout_s * 950)), limits.BUDGET_MS_MAX)
