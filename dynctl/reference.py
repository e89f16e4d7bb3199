"""The reference pages, made from the program itself: `python -m dynctl.reference [--check]`.

    man/dynctl.1  docs/cli.md                        the command line, as Typer has it
    man/dynagent.8                                   the agent's flags, as argparse has them
    man/dynagent.toml.5  docs/configuration.md       the agent's knobs (`dynagent.config`)
    docs/metrics.md                                  the table of `dynagent.obs.metrics`
    docs/exit-status.md                              the classes of `dynagent.errors`
    completions/…                                    Typer's scripts for bash, zsh and fish

What is written depends on the program only, never on the terminal, the locale or the user. With
`--check` nothing is written; stale files are named and the exit status is 1.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynagent import errors
from dynagent.errors import DynagentError
from dynagent.main import _parser as dynagent_parser
from dynctl.app import command
from dynctl.commands.about import completion_script

ROOT = Path(__file__).resolve().parent.parent

# Exit statuses without an error class of their own.
_OTHER_STATUSES = {
    0: "Everything asked for was done.",
    1: "A file, pipe or process of this machine failed.",
    2: "The command line is wrong: nothing was done.",
    130: "Interrupted (^C). A put or delete under way may still take effect.",
    141: "The reader of the output went away.",
}

ENVIRONMENT = [
    ("DYNCTL_ENDPOINTS", "Agents to speak to: host:port, separated by commas."),
    ("XDG_CONFIG_HOME", "Where dynctl/config is looked for. Default: ~/.config."),
    ("XDG_STATE_HOME", "Where dynctl/cluster and dynctl/local are. Default: ~/.local/state."),
    ("NO_COLOR", "If set and not empty: no colour, unless --color always is given."),
]

FILES = [
    (
        "$XDG_CONFIG_HOME/dynctl/config",
        "Named contexts, a key=value on each line: current=prod, prod.endpoints=a:7411,b:7411.",
    ),
    ("$XDG_STATE_HOME/dynctl/cluster", "The cluster that dynctl up started last."),
    ("$XDG_STATE_HOME/dynctl/local/", "That cluster's data and logs, unless --dir named others."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """An argument or option: how it is written, and its help."""

    usage: str
    help: str
    required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a verb tells of itself. `name`: `ring status`."""

    name: str
    help: str
    example: str
    arguments: tuple[Parameter, ...]
    options: tuple[Parameter, ...]

    @property
    def synopsis(self) -> str:
        words = [item.usage if item.required else f"[{item.usage}]" for item in self.arguments]
        return " ".join([self.name, "[OPTIONS]", *words])


def pages() -> list[Page]:
    """All verbs, in the order of `dynctl --help`."""
    return list(_walk(command(), ""))


def _walk(found: Any, name: str) -> Iterator[Page]:
    """Typer's commands, known by their shape: their classes are private to Typer."""
    if hasattr(found, "list_commands"):
        for child in found.list_commands(None):
            yield from _walk(found.get_command(None, child), f"{name} {child}".strip())
        return
    parameters = [(item.param_type_name, _parameter(item)) for item in found.params]
    yield Page(
        name=name,
        help=inspect.cleandoc(found.help or ""),
        example=(found.epilog or "").removeprefix("example: "),
        arguments=tuple(item for kind, item in parameters if kind == "argument"),
        options=tuple(item for kind, item in parameters if kind == "option"),
    )


def _parameter(item: Any) -> Parameter:
    if item.param_type_name == "argument":
        return Parameter(usage=item.metavar, help=item.help or "", required=item.required)
    flags = ", ".join(sorted(item.opts, key=len))
    usage = flags if item.is_flag else f"{flags} {item.metavar}"
    return Parameter(usage=usage, help=item.help or "", required=False)


def exit_statuses() -> list[tuple[int, list[tuple[str, str]]]]:
    """(status, [(error class, its line), …]) in order; the class name is empty where there is
    none."""
    found: dict[int, list[tuple[str, str]]] = {
        status: [("", text)] for status, text in _OTHER_STATUSES.items()
    }
    for cls in _tree(DynagentError):
        line = (cls.__doc__ or "").splitlines()[0]
        found.setdefault(cls.exit_status, []).append((cls.__name__, line))
    return sorted(found.items())


def _tree(root: type[DynagentError]) -> Iterator[type[DynagentError]]:
    if root.__module__ == errors.__name__:  # not the command line's own
        yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def agent_pages() -> tuple[list[Page], list[Parameter]]:
    """The commands of `dynagent` and its own options."""
    parser = dynagent_parser()
    commands: list[Page] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, child in action.choices.items():
                commands += _agent_pages(name, helps.get(name, ""), child)
    return commands, list(_flags(parser))


def _agent_pages(name: str, text: str, parser: argparse.ArgumentParser) -> Iterator[Page]:
    """The page of a command, or those of its verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for verb, child in action.choices.items():
                yield from _agent_pages(f"{name} {verb}", helps.get(verb, ""), child)
            return
    yield Page(
        name=name,
        help=text,
        example=(parser.epilog or "").removeprefix("example: "),
        arguments=tuple(
            Parameter(usage=str(action.metavar), help=action.help or "", required=True)
            for action in parser._actions
            if not action.option_strings
        ),
        options=_flags(parser),
    )


def _flags(parser: argparse.ArgumentParser) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(usage=_flag_usage(action), help=action.help or "", required=False)
        for action in parser._actions
        if action.option_strings
    )


def _flag_usage(action: argparse.Action) -> str:
    flags = ", ".join(action.option_strings)
    if action.nargs == 0:
        return flags
    return f"{flags} {action.metavar or action.dest.upper()}"


def files() -> dict[str, str]:
    """Every generated file: path from the root of the repository, and content."""
    from dynctl import manual, markdown

    return {
        "man/dynctl.1": manual.dynctl(),
        "man/dynagent.8": manual.dynagent(),
        "man/dynagent.toml.5": manual.dynagent_toml(),
        "docs/cli.md": markdown.cli(),
        "docs/configuration.md": markdown.configuration(),
        "docs/metrics.md": markdown.metrics(),
        "docs/exit-status.md": markdown.exit_status(),
        "completions/dynctl.bash": completion_script("bash"),
        "completions/_dynctl": completion_script("zsh"),
        "completions/dynctl.fish": completion_script("fish"),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dynctl.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    options = parser.parse_args(argv)
    stale = []
    for name, text in files().items():
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"stale: {name}" if options.check else f"wrote {name}")
    if stale and options.check:
        print("run: python -m dynctl.reference", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
