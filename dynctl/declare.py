"""Typer declarations made from the option table, so that an option is written down once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dynctl import options
from dynctl.options import FLAG, LIST, Option, Verb

HELP_FLAGS = {"help_option_names": ["-h", "--help"]}


def option(declared: Option) -> Any:
    """The Typer declaration of an option of the table."""
    if declared.kind == FLAG:
        return typer.Option(*declared.flags, help=declared.help)
    return typer.Option(
        *declared.flags,
        metavar=declared.metavar,
        help=declared.help,
        autocompletion=among(declared.choices) if declared.choices else None,
    )


def among(words: Iterable[str]) -> Callable[[str], list[str]]:
    """For `autocompletion`: what a shell may put in place of the beginning of one of the words."""
    known = list(words)
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


Endpoints = Annotated[list[str] | None, option(options.ENDPOINT)]
Timeout = Annotated[str | None, option(options.TIMEOUT)]
Timeout30 = Annotated[str | None, option(options.timeout("30s"))]
Timeout60 = Annotated[str | None, option(options.timeout("60s"))]
Timeout10m = Annotated[str | None, option(options.timeout("10m"))]
Verbose = Annotated[bool, option(options.VERBOSE)]
Debug = Annotated[bool, option(options.DEBUG)]
ReadQuorum = Annotated[str | None, option(options.READ_QUORUM)]
WriteQuorum = Annotated[str | None, option(options.WRITE_QUORUM)]
Strict = Annotated[bool, option(options.STRICT)]
InFlight = Annotated[str | None, option(options.IN_FLIGHT)]
Form = Annotated[str | None, option(options.FORM)]
Color = Annotated[str | None, option(options.COLOR)]

# Of verbs that change the ring.
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")]
PlanOut = Annotated[
    str | None,
    typer.Option(
        "--out", metavar="FILE", help="Write the plan there and change nothing; see ring apply."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")]
Settle = Annotated[
    bool, typer.Option("--wait", help="Return when it is settled; exit 124 at the --timeout.")
]
AllowColocated = Annotated[
    bool, typer.Option("--allow-colocated", help="Accept two copies of a key on one host.")
]


class Group(TyperGroup):
    """Lists each verb with the whole first sentence of its help; Typer would cut it at a width."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = self.find(ctx, cmd_name)
        if found is not None and found.help:
            first, _, _ = " ".join(found.help.split("\n\n", 1)[0].split()).partition(". ")
            found.short_help = first.removesuffix(".") + "."
        return found

    def find(self, ctx: Any, name: str) -> Any:
        return super().get_command(ctx, name)


def new_app(**settings: Any) -> typer.Typer:
    """A Typer application in the manner of this command line: plain help, no tracebacks of its
    own, no completion options (there is `dynctl completion`)."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings=HELP_FLAGS,
        **{"cls": Group, **settings},
    )


def single(name: str, function: Callable[..., Any]) -> Any:
    """The Typer command of one function. Its docstring is the help, its last line the example."""
    text, _, example = inspect.cleandoc(function.__doc__ or "").rpartition("\n\n")
    app = new_app()
    app.command(name, help=text, epilog=example)(function)
    return typer.main.get_command(app)


def tabled(verb: Verb, run: Callable[[str, options.Given], int]) -> Any:
    """The Typer command of a verb of the table; it hands its words to `run`."""

    def function(**given: Any) -> int:
        return run(verb.name, given)

    parameters = [
        inspect.Parameter(
            argument.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if argument.required else None,
            annotation=Annotated[
                str if argument.required else (str | None),
                typer.Argument(metavar=argument.metavar, help=argument.help),
            ],
        )
        for argument in verb.arguments
    ]
    for declared in verb.options:
        kind = {FLAG: bool, LIST: list[str] | None}.get(declared.kind, str | None)
        parameters.append(
            inspect.Parameter(
                declared.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if declared.kind == FLAG else None,
                annotation=Annotated[kind, option(declared)],
            )
        )
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    function.__doc__ = f"{verb.help}\n\nexample: {verb.example}"
    return single(verb.name, function)
