"""The Typer application: what `dynctl` is when the command line is more than a plain get or put.

Verbs are loaded one by one: `dynctl ring status` imports `commands.ring` and no other noun.
"""

from __future__ import annotations

import importlib
import io
import os
from contextlib import redirect_stdout
from difflib import get_close_matches
from typing import Annotated, Any

import typer

import dynagent
from dynagent.errors import BadRequest
from dynctl import data, streams
from dynctl.declare import Group, new_app, single, tabled
from dynctl.faults import report, say
from dynctl.options import VERBS

# Verb to (module of `commands`, function or Typer application in it), in the order of `--help`.
_LAZY = {
    "demo": ("demo", "demo"),
    "up": ("up", "up"),
    "down": ("up", "down"),
    "bootstrap": ("cluster", "bootstrap"),
    "join": ("change", "join"),
    "leave": ("change", "leave"),
    "replace": ("change", "replace_node"),
    "remove": ("change", "remove"),
    "put": ("", ""),
    "get": ("", ""),
    "delete": ("", ""),
    "mput": ("bulk", "mput"),
    "mget": ("bulk", "mget"),
    "mdelete": ("bulk", "mdelete"),
    "keys": ("keys", "keys"),
    "resolve": ("resolve", "resolve"),
    "explain": ("explain", "explain"),
    "ring": ("ring", "app"),
    "node": ("node", "app"),
    "transfers": ("transfers", "transfers"),
    "hints": ("hints", "app"),
    "tombstones": ("tombstones", "tombstones"),
    "repair": ("repair", "repair"),
    "verify": ("repair", "verify"),
    "recheck": ("repair", "recheck"),
    "scrub": ("scrub", "scrub"),
    "jobs": ("jobs", "app"),
    "export": ("export", "export"),
    "health": ("cluster", "health"),
    "doctor": ("doctor", "doctor"),
    "stats": ("stats", "stats"),
    "wait": ("wait", "app"),
    "bench": ("bench", "bench"),
    "schema": ("about", "schema"),
    "completion": ("about", "completion"),
}


class LazyGroup(Group):
    """Imports a verb's module when the verb is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_LAZY)

    def find(self, ctx: Any, name: str) -> Any:
        if name in VERBS:
            return tabled(VERBS[name], data.run)
        if name not in _LAZY:
            return None
        module, attribute = _LAZY[name]
        found = getattr(importlib.import_module(f"dynctl.commands.{module}"), attribute)
        if isinstance(found, typer.Typer):
            group = typer.main.get_command(found)
            group.name = name
            return group
        return single(name, found)


root = new_app(
    cls=LazyGroup,
    help="Use and run a dynctl cluster: a highly available key-value store after Amazon's Dynamo.",
    epilog='example: eval "$(dynctl up)" && dynctl put hello world && dynctl get hello',
)


def _print_version(wanted: bool) -> None:
    if wanted:
        streams.emit_text(f"dynctl {dynagent.__version__}\n")
        raise typer.Exit


@root.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def command() -> Any:
    """The whole command line as Typer's command object."""
    return typer.main.get_command(root)


def know_shells() -> None:
    """Makes Typer answer the shells' questions (`_DYNCTL_COMPLETE`). It learns to only while it
    builds an application with its own completion options, which ours does not have."""
    other = typer.Typer(add_completion=True)
    other.command()(lambda: None)
    typer.main.get_command(other)


def run(argv: list[str], verb: str) -> int:
    """Runs a command line; usage errors are told in our own words and exit 2."""
    if "_DYNCTL_COMPLETE" in os.environ:
        know_shells()
    printed = io.StringIO()  # what Typer itself prints: help, and answers to shells
    status: object = 0
    try:
        with redirect_stdout(printed):
            status = command().main(args=argv, prog_name="dynctl", standalone_mode=False)
    except SystemExit as end:
        status = end.code
    except Exception as error:
        # Typer's usage errors: their classes are private to it, so they are known by their shape.
        if not hasattr(error, "format_message"):
            raise
        return _tell_usage(error, argv, verb)
    streams.emit_text(printed.getvalue())
    return status if isinstance(status, int) else 0


def _tell_usage(error: Any, argv: list[str], verb: str) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        say(error.format_message())
        return 2
    if argv and not argv[0].startswith("-") and argv[0] not in _LAZY:
        return report("", BadRequest(f"{argv[0]!r} is not a verb; {_instead(argv)}"), debug=False)
    text = error.format_message().rstrip(".")
    if text.startswith("No such command"):
        noun, word = argv[:2]
        wrong = BadRequest(f"{word!r} is no verb of {noun}; see: dynctl {noun} --help")
        return report(noun, wrong, debug=False)
    remedy = f"see: dynctl {verb} --help" if verb else "options follow their verb"
    cause = f"{text[:1].lower()}{text[1:]}; {remedy}"
    return report(verb, BadRequest(cause), debug=False)


# What people's fingers know from other tools.
_HABITS = {
    "ls": "keys",
    "list": "keys",
    "scan": "keys",
    "set": "put",
    "rm": "delete",
    "start": "up",
    "stop": "down",
    "status": "health",
    "nodes": "node ls",
    "members": "node ls",
    "add": "join",
    "decommission": "leave",
    "evict": "remove",
}


def _instead(argv: list[str]) -> str:
    """The remedy for a word that is no verb."""
    if argv[0] == "help":
        verb = argv[1] if len(argv) > 1 and argv[1] in _LAZY else ""
        return f"see: dynctl {verb} --help" if verb else "see: dynctl --help"
    if argv[0] == "version":
        return "see: dynctl --version"
    near = [_HABITS.get(argv[0], ""), *get_close_matches(argv[0], _LAZY, n=1)]
    found = next(filter(None, near), "")
    return f"did you mean {found}? see: dynctl --help" if found else "see: dynctl --help"
