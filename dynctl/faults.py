"""How a failure is told: one line, `dynctl: VERB: cause; remedy`.

The exit status comes from the class (`dynagent.errors`), the remedy from the one table here. A
message that already ends in its own next step gets no second one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dynagent.errors import (
    BadRequest,
    ConfigError,
    Conflict,
    ConnectionLost,
    DataDirError,
    Different,
    DynagentError,
    NotFound,
    NotReady,
    Overloaded,
    Partial,
    PlanInfeasible,
    ProtocolError,
    QuorumNotMet,
    Refused,
    TimedOut,
    TooLarge,
    Unhealthy,
    Unreachable,
    UnsupportedVersion,
    WriteOutcomeUnknown,
    WrongCluster,
)


class LocalFailure(DynagentError):
    """Something on this machine failed: a file, a pipe, a process. Nothing was sent."""

    code = 0
    definite = True
    exit_status = 1


class NothingSent(KeyboardInterrupt):
    """^C before the request of a put went out: nobody has heard of it."""


class ReaderGone(Exception):
    """Whoever read our stdout has closed it. No OSError: Typer would take that for its own."""


# Class to (words before the cause, remedy); the nearest class in the tree counts.
_TOLD: dict[type[DynagentError], tuple[str, str]] = {
    DynagentError: ("", "the agent's log tells more"),
    LocalFailure: ("", ""),
    BadRequest: ("", "see: dynctl {verb} --help"),
    TooLarge: ("", "keep large objects elsewhere and their place here"),
    ConfigError: ("", "correct that line"),
    DataDirError: ("", ""),
    NotFound: ("", ""),
    Conflict: ("", ""),
    QuorumNotMet: ("quorum not met: ", "see: dynctl health"),
    Overloaded: ("overloaded: ", "try again later"),
    WriteOutcomeUnknown: ("outcome unknown: ", "retry safely with --op-id {op_id}"),
    NotReady: ("not ready: ", "see: dynctl health"),
    Unreachable: (
        "no agent reachable: ",
        "is it running? dynctl up starts a local cluster, --endpoint names others",
    ),
    ConnectionLost: ("connection lost: ", "try again, or give it longer with --timeout"),
    TimedOut: ("timed out: ", "give it longer with --timeout"),
    Refused: ("refused: ", ""),
    PlanInfeasible: ("refused: ", ""),
    WrongCluster: ("refused: ", "name endpoints of one cluster"),
    Unhealthy: ("unhealthy: ", ""),
    Partial: ("", "see the records that are not ok"),
    Different: ("", "see: dynctl repair"),
    ProtocolError: ("", "is that address an agent of this version?"),
    UnsupportedVersion: ("", ""),
}


def line(verb: str, error: DynagentError) -> str:
    """The line without its newline."""
    return f"dynctl: {verb}: {told(verb, error)}" if verb else f"dynctl: {told(verb, error)}"


def told(verb: str, error: DynagentError) -> str:
    """Cause and remedy: the line without who speaks."""
    prefix, remedy = next(_TOLD[cls] for cls in type(error).__mro__ if cls in _TOLD)
    cause = " ".join(error.message.split())
    op_id = error.op_id.hex() if isinstance(error, WriteOutcomeUnknown) else ""
    if remedy and (op_id or not _has_next_step(cause)):
        if isinstance(error, WriteOutcomeUnknown) and not op_id:  # it stands beside, in a record
            remedy = "repeat it safely with its op_id"
        cause += "; " + remedy.format(verb=verb, op_id=op_id)
    return prefix + cause


# How the last part of a message begins if it says what to do.
_STEPS = (
    *("see: ", "try ", "say ", "write ", "choose ", "repeat ", "copy ", "leave ", "name ", "use "),
    *("options ", "move ", "stop ", "start ", "remove ", "upgrade ", "store ", "did you "),
)


def _has_next_step(cause: str) -> bool:
    _head, semicolon, tail = cause.rpartition("; ")
    return bool(semicolon) and tail.startswith(_STEPS)


def report(verb: str, error: DynagentError, *, debug: bool) -> int:
    """Tells an error on stderr and returns the exit status."""
    if debug:
        import traceback

        traceback.print_exception(error)
    say_trace(error.trace)
    say(line(verb, error))
    return error.exit_status


def say_trace(events: Sequence[tuple[int, str, str]]) -> None:
    """What a traced request went through, a line for each event, in columns."""
    if not events:
        return
    shown = [(f"{at_us / 1_000:9.3f} ms", plain(who), plain(what)) for at_us, who, what in events]
    width = max(len(who) for _moment, who, _what in shown)
    say("\n".join(f"{moment}  {who:{width}}  {what}" for moment, who, what in shown))


def plain(text: str) -> str:
    """On one line, and without what a terminal would obey: it comes from an agent."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def say(text: str) -> None:
    """A line of words on stderr; a closed stderr is no reason to fail."""
    try:
        print(text, file=sys.stderr, flush=True)  # stderr escapes what it cannot show
    except (OSError, AttributeError, ValueError):
        pass
