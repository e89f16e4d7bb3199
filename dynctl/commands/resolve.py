"""`dynctl resolve`: one value in place of several concurrent ones."""

from __future__ import annotations

from typing import Annotated

import typer

from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.client.requests import Receipt, Result
from dynagent.core.version import Version
from dynagent.errors import (
    BadRequest,
    Conflict,
    DynagentError,
    NotFound,
    QuorumNotMet,
    Refused,
    WriteOutcomeUnknown,
)
from dynctl import data, endpoints, options, streams
from dynctl.declare import Debug, Endpoints, Timeout, Verbose, option
from dynctl.faults import say
from dynctl.views.siblings import dot_text


def resolve(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key: 1 to 1,024 bytes.")],
    pick: Annotated[
        str | None,
        typer.Option(
            "--pick",
            metavar="DOT",
            help="Keep this value, with its type and headers: a dot as get --all prints it, "
            "its beginning, or its end (:3).",
        ),
    ] = None,
    value: Annotated[
        str | None,
        typer.Option(
            "--value",
            metavar="VALUE|-|@FILE",
            help="Write this value instead: itself, - for stdin, @FILE for the bytes of a file.",
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the key instead: all of its values.")
    ] = False,
    print_context: Annotated[
        bool,
        typer.Option(
            "--print-context", help="Print the context that this leaves, for the next --context."
        ),
    ] = False,
    r: Annotated[str | None, option(options.READ_QUORUM)] = None,
    w: Annotated[str | None, option(options.WRITE_QUORUM)] = None,
    strict: Annotated[bool, option(options.STRICT)] = False,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Put one value in place of a key's concurrent ones: a picked one, or a new one.

    It reads them all and supersedes exactly these. A write that comes in between is not lost: it
    stays beside the chosen value, and the exit status is 4. A key that has the picked value alone
    is left as it is. The chosen value has a new dot from then on.

    example: dynctl resolve cart/7 --pick :3
    """
    name = data.read_key(key)
    if sum((pick is not None, value is not None, delete)) != 1:
        raise BadRequest("say one of --pick DOT, --value VALUE and --delete")
    r_asked, w_asked = options.read_quorum(r, "-r"), options.read_quorum(w, "-w")
    timeout_s = options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    new = data.read_value(value) if value is not None else None
    found = endpoints.find(endpoint or [])
    with Client(found, timeout_s=timeout_s, learn_ring=False) as client:
        result = client.get(name, r=r_asked, strict=strict)
        _check(name, result)
        picked = _pick(name, result, pick) if pick is not None else None
        context = result.context
        if _is_done(result, picked, new):
            say(f"dynctl: resolve: {streams.show_key(name)} has that value alone; nothing to do")
        else:
            receipt = _write(client, name, picked, new, context, w=w_asked, strict=strict)
            context = receipt.context
            if verbose:
                say(f"dynctl: resolve: {receipt.agent} answered; op-id {receipt.op_id.hex()}")
            _look_again(client, name, receipt, r=r_asked, strict=strict)
    if print_context and context:
        streams.emit_text(streams.encode_base64url(context) + "\n")
    elif print_context:
        say("dynctl: resolve: warning: no context to print; see: dynctl get --print-context")


def _check(key: bytes, result: Result) -> None:
    shown = streams.show_key(key)
    if result.versions and result.partial:
        say(f"dynctl: resolve: warning: partial: {data.copies_words(result)} of {shown} answered")
    elif result.partial:
        raise QuorumNotMet(f"{shown} was not found, but {data.copies_words(result)} answered")
    elif not result.versions:
        raise NotFound(f"key {shown} not found")


def _pick(key: bytes, result: Result, text: str) -> Version:
    """The one version whose dot is, or begins with, `text`; or ends with it, if that is a colon
    and a counter: values that one node coordinated differ in nothing else."""
    plain = text.strip().lower()
    actor, _, counter = plain.partition(":")
    is_hex = set(actor) <= set("0123456789abcdef")
    if not ((actor or counter) and is_hex and (counter + "0").isdigit()):
        raise BadRequest(f"--pick {text!r} is no dot; copy one from: dynctl get --all KEY")
    by_dot = {dot_text(version.actor, version.counter): version for version in result.versions}
    if plain in by_dot:
        return by_dot[plain]
    near = [dot for dot in by_dot if (dot.startswith(plain) if actor else dot.endswith(plain))]
    if len(near) > 1:
        raise BadRequest(f"--pick {text} may mean {', '.join(near)}; write more of it")
    if not near:
        listed = ", ".join(by_dot)
        if len(by_dot) == 1:
            raise Refused(
                f"{streams.show_key(key)} has no value {text}, and no conflict: it already has one "
                f"value alone, {listed}"
            )
        raise Refused(f"{streams.show_key(key)} has no value {text}; choose one of {listed}")
    return by_dot[near[0]]


def _is_done(result: Result, picked: Version | None, new: bytes | None) -> bool:
    """Is there one value, and is it the wanted one?"""
    if len(result.versions) > 1:
        return False
    return picked is not None or result.versions[0].value == new


def _write(
    client: Client,
    key: bytes,
    picked: Version | None,
    new: bytes | None,
    context: bytes,
    *,
    w: int,
    strict: bool,
) -> Receipt:
    try:
        if picked is None:
            return client.put(key, new, context=context, w=w, strict=strict)
        return client.put(
            key,
            picked.value,
            context=context,
            w=w,
            strict=strict,
            content=picked.content,
            meta=picked.meta,
            expiry_ms=picked.expiry_ms,
        )
    except WriteOutcomeUnknown as exc:
        # Its own remedy, the op-id, is of the write alone; this command reads first.
        raise WriteOutcomeUnknown(
            f"{exc.message}; see: dynctl get --all KEY, then resolve again"
        ) from exc


def _look_again(client: Client, key: bytes, receipt: Receipt, *, r: int, strict: bool) -> None:
    """Raises `Conflict` if another write has come in between: its coordinator need not be ours."""
    left = receipt.siblings
    try:
        left = max(left, len(client.get(key, r=r, strict=strict).versions))
    except DynagentError:
        pass  # the write is done, and its coordinator has told what it knew
    if left > 1:
        raise Conflict(
            f"{streams.show_key(key)} was written to meanwhile, and has {left} concurrent values; "
            f"see: dynctl get --all KEY, then resolve again"
        )
