"""The one tree of errors: what went wrong, did it surely not happen, and how `dynctl` exits.

Every class carries

- ``code``: its number on the wire (0: never sent); append-only, held by `tests/wire/lock.txt`;
- ``definite``: True when the request surely had no effect and never will. When in doubt an error is
  indefinite: the client then retries with the same op-id (decision 0002);
- ``exit_status``: the exit status of `dynctl` (the table in `docs/exit-status.md`);
- a doc line (the first line of the docstring) that the protocol page and the man page print.

A message names the thing, the number and the next step.
"""

from __future__ import annotations

from collections.abc import Sequence


class DynagentError(Exception):
    """Something failed inside the agent; the agent's log tells more."""

    code = 1
    definite = False
    exit_status = 1
    trace_data = b""  # what the agent that answered it went through, if that was asked (core.trace)
    trace: Sequence[tuple[int, str, str]] = ()  # the same of the whole request; set by the client

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else (self.__doc__ or "").splitlines()[0]


# --- the request was wrong -----------------------------------------------------------------------


class BadRequest(DynagentError):
    """The request breaks a rule of the protocol or of the ring: nothing was done."""

    code = 2
    definite = True
    exit_status = 2


class TooLarge(BadRequest):
    """A key, a value, or all siblings of a key together are over their limit: nothing was done."""

    code = 3


class ProtocolError(DynagentError):
    """The bytes on this connection are not the protocol; the connection is closed."""

    code = 4
    definite = False
    exit_status = 1


class UnsupportedVersion(ProtocolError):
    """The two ends have no protocol version in common."""

    code = 5
    definite = True
    exit_status = 10


# --- the answer is a kind of no ------------------------------------------------------------------


class NotFound(DynagentError):
    """The key has no value."""

    code = 6
    definite = True
    exit_status = 3


class Conflict(DynagentError):
    """The key has siblings where one value was asked."""

    code = 7
    definite = True
    exit_status = 4


# --- the cluster cannot do it now ----------------------------------------------------------------


class QuorumNotMet(DynagentError):
    """Too few owners answered a get, or were up for a put before anything was written."""

    code = 8
    definite = True
    exit_status = 5


class Overloaded(DynagentError):
    """A bound of the agent is reached; nothing was done, try again later."""

    code = 9
    definite = True
    exit_status = 5


class WriteOutcomeUnknown(DynagentError):
    """Fewer than W owners acknowledged in time: the write may still appear."""

    code = 10
    definite = False
    exit_status = 6
    op_id = b""  # set by the client: the same put with this op-id is safe to repeat


class NotReady(DynagentError):
    """The agent does not serve (no cluster yet, starting, or draining): nothing was done."""

    code = 11
    definite = True
    exit_status = 8


class NotYetOwner(NotReady):
    """The agent is to own this key, but may not take copies yet: nothing was done."""

    code = 22


class Unreachable(DynagentError):
    """No agent could be reached at any known address."""

    code = 12
    definite = True
    exit_status = 7


class ConnectionLost(DynagentError):
    """The connection broke, or no answer came in time, after the request was sent."""

    code = 13
    definite = False
    exit_status = 7


class TimedOut(DynagentError):
    """What was waited for did not happen in time."""

    code = 14
    definite = False
    exit_status = 124


# --- refused by a guard --------------------------------------------------------------------------


class Refused(DynagentError):
    """A guard refused the command; nothing was done."""

    code = 15
    definite = True
    exit_status = 10


class WrongCluster(Refused):
    """The other end belongs to another cluster; the connection is closed."""

    code = 16


class PlanInfeasible(Refused):
    """No placement can satisfy the rules for these members."""

    code = 17


class TooManySiblings(Refused):
    """The key has as many concurrent values as a put may leave beside it: nothing was done."""

    code = 20


class Unhealthy(DynagentError):
    """The cluster answers, but not all of it is well."""

    code = 18
    definite = True
    exit_status = 8


class StaleBarrier(Refused):
    """This content was read before tombstones were purged here, and must be read again."""

    code = 21


class DiskFull(Overloaded):
    """The disk of an agent is full: no writes until there is room; nothing was done."""

    code = 19


# --- only ever told by dynctl ---------------------------------------------------------------------


class Partial(DynagentError):
    """Some of what was asked for was not done, or could not be had; what could is printed."""

    code = 0
    exit_status = 11


class Different(DynagentError):
    """Replicas differ, or what was checked again is no longer as it was."""

    code = 0
    exit_status = 12


# --- the node's own disk and configuration (never sent) ------------------------------------------


class StartError(DynagentError):
    """The agent cannot start with this configuration, address or data directory."""

    code = 0
    definite = True


class ConfigError(StartError):
    """The configuration is malformed or contradicts itself."""

    exit_status = 2


class DataDirError(StartError):
    """The data directory cannot be used: locked, read-only, foreign or of an unknown format."""


class UnknownEntry(ProtocolError):
    """The ring log has an entry that this release does not know; the agent stops: upgrade it."""

    code = 0
    exit_status = 10


class StoreLost(DataDirError):
    """The store in this directory is not the one that its node last wrote."""


class TwinStore(StartError):
    """Another agent runs with a copy of this store."""

    exit_status = 10


class OutdatedStore(StartError):
    """The cluster knows later starts of this node than its store: it was put back, or copied."""

    exit_status = 10


class StoreFailed(DynagentError):
    """A write or fsync of the store failed; the agent stops (a failed fsync is never retried)."""

    code = 0


class CorruptRecord(DynagentError):
    """A stored record or slot does not match its checksum: its content is unknown."""

    code = 0


def _tree(root: type[DynagentError]) -> list[type[DynagentError]]:
    found = [root]
    for child in root.__subclasses__():
        found.extend(_tree(child))
    return found


# Wire code to class, for every error that may be sent.
BY_CODE: dict[int, type[DynagentError]] = {
    cls.code: cls for cls in _tree(DynagentError) if cls.code
}


def from_wire(code: int, message: str, trace_data: bytes = b"") -> DynagentError:
    """The error that a peer sent; an unknown code (a newer peer) is an indefinite DynagentError."""
    error = BY_CODE.get(code, DynagentError)(message)
    error.trace_data = trace_data
    return error
