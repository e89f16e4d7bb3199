"""`dynctl`: picks the short way or Typer, and turns every ending into an exit status.

0 … 12, 124     see docs/exit-status.md; from the classes of dynagent.errors
130             interrupted (^C)
141             the reader of our output went away, silently (128 + SIGPIPE)
"""

from __future__ import annotations

import os
import sys

from dynagent.errors import DynagentError
from dynctl import fastpath
from dynctl.faults import LocalFailure, NothingSent, ReaderGone, report, say

NOUNS = ("ring", "node", "hints", "jobs", "wait")  # verbs of two words


def main() -> int:
    """The console script: runs the command line and returns its exit status."""
    argv = sys.argv[1:]
    debug = "--debug" in argv
    try:
        status = _dispatch(argv)
    except NothingSent:
        status = 130
        say(f"dynctl: {argv[0]}: interrupted; nothing was sent")
    except KeyboardInterrupt:
        status = 130
        if argv[:1] in (["put"], ["delete"]):
            say(f"dynctl: {argv[0]}: interrupted; it may still take effect, see: dynctl get")
    except ReaderGone:
        status = 141
    except DynagentError as error:
        status = report(_verb(argv), error, debug=debug)
    except Exception as error:
        trace = "" if debug else "; the stack trace: --debug"
        failure = LocalFailure(f"internal error: {type(error).__name__}: {error}{trace}")
        failure.__cause__ = error
        status = report(_verb(argv), failure, debug=debug)
    return status


def _dispatch(argv: list[str]) -> int:
    if "_DYNCTL_COMPLETE" not in os.environ:
        status = fastpath.run(argv)
        if status is not None:
            return status
    from dynctl.app import run

    return run(argv, _verb(argv))


def _verb(argv: list[str]) -> str:
    """The verb for error lines: its one or two words."""
    count = 2 if argv[:1] and argv[0] in NOUNS else 1
    found = argv[:count]
    return " ".join(found) if not any(text.startswith("-") for text in found) else ""


if __name__ == "__main__":
    sys.exit(main())
