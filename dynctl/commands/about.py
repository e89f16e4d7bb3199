"""`dynctl schema` and `dynctl completion`: what dynctl tells about itself."""

from __future__ import annotations

from typing import Annotated

import typer

from dynagent.errors import BadRequest
from dynctl import options, streams
from dynctl.declare import Debug, among

_SHELLS = ("bash", "zsh", "fish")


def schema(
    verb: Annotated[
        list[str], typer.Argument(metavar="VERB...", help="The verb, for example: node ls")
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FORM",
            help="Of json or of jsonl. Default: json, or what there is.",
            autocompletion=among(("json", "jsonl")),
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Print the JSON Schema of what a verb prints with -o json, or of a line of -o jsonl.

    example: dynctl schema node ls
    """
    import msgspec

    from dynctl.render import line_type
    from dynctl.views.catalogue import DOCUMENTS, LINES

    name = " ".join(verb)
    if name not in DOCUMENTS and name not in LINES:
        known = ", ".join(sorted({**DOCUMENTS, **LINES}))
        raise BadRequest(f"{name!r} prints no records; choose one of: {known}")
    chosen = options.read_form(form, default="jsonl" if name in LINES else "json")
    if chosen not in ("json", "jsonl"):
        raise BadRequest(f"-o {chosen} has no schema; choose json or jsonl")
    if name in LINES:
        if chosen == "json":
            raise BadRequest(f"{name} prints lines only; leave out -o json")
        described = msgspec.json.schema(LINES[name])
    else:
        document = DOCUMENTS[name]
        described = msgspec.json.schema(document if chosen == "json" else line_type(document))
    described = {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}
    streams.emit(msgspec.json.format(msgspec.json.encode(described), indent=2) + b"\n")


def completion(
    shell: Annotated[
        str,
        typer.Argument(metavar="SHELL", help="bash, zsh or fish.", autocompletion=among(_SHELLS)),
    ],
    debug: Debug = False,
) -> None:
    """Print the script that makes a shell complete dynctl's words.

    example: eval "$(dynctl completion bash)"
    """
    streams.emit_text(completion_script(shell))


def completion_script(shell: str) -> str:
    """Typer's script for a shell, by the way that is documented: its environment variable."""
    import contextlib
    import io
    import os

    from dynctl.app import command, know_shells

    if shell not in _SHELLS:
        raise BadRequest(f"no completion for {shell!r}; choose bash, zsh or fish")
    know_shells()
    variable = "_DYNCTL_COMPLETE"
    before = os.environ.get(variable)
    os.environ[variable] = f"source_{shell}"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            command().main(args=[], prog_name="dynctl")
    finally:
        del os.environ[variable]
        if before is not None:
            os.environ[variable] = before
    return printed.getvalue()
