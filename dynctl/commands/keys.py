"""`dynctl keys`: which keys have a value, one by one as they are found, however many there are."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from dynagent import limits
from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.client.keys import Keys
from dynagent.client.listing import Listed
from dynagent.errors import BadRequest, QuorumNotMet
from dynctl import endpoints, options, streams
from dynctl.declare import Debug, Endpoints, among
from dynctl.faults import say
from dynctl.keywriter import KeyWriter

_COUNT_MAX = 10**11


def keys(
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="P", help="Only keys that begin with P.")
    ] = None,
    null: Annotated[
        bool,
        typer.Option(
            "-0", "--null", help="The bytes of each key as they are, each ended by a NUL."
        ),
    ] = False,
    limit: Annotated[
        str | None,
        typer.Option(
            "--limit", metavar="COUNT", help="Stop after that many, and tell how to go on."
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="TOKEN", help="Go on where an earlier listing told to go on."
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate",
            metavar="COUNT",
            help="Let each owner look at no more than that many keys a second. "
            "Default: no limit, but one request at a time.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FORM",
            help="plain (a key on each line), table, json or jsonl. Default: plain.",
            autocompletion=among(options.FORMS),
        ),
    ] = None,
    endpoint: Endpoints = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            help="Give one owner up after this long without an answer. Default: 5s.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Tell on stderr how many keys were listed.")
    ] = False,
    debug: Debug = False,
) -> None:
    """List the keys that have a value. Deleted keys are not among them.

    Each key is decided by as many owners as a get asks, so that no acknowledged write is missed and
    no deleted key comes back. The order is that of the ring, partition by partition; it is no
    snapshot: a key that is written meanwhile may be listed or not. In plain lines, what would break
    them is written as printf %b reads it: \\t, \\n, \\xff, \\\\.

    It goes page by page, one request at a time. What cannot be listed because too few owners answer
    is left out, and the exit status is 5. Then, after --limit and after ^C, stderr names the
    --resume TOKEN that lists what is left; after ^C the last keys may come twice.

    example: dynctl keys --prefix cart/ -0 | xargs -0 -n1 dynctl delete
    """
    chosen = options.read_form(form, default="plain")
    if null and form not in (None, "plain"):
        raise BadRequest(f"-0 and -o {form} contradict each other; leave one out")
    wanted = options.read_number(limit, "--limit", low=1, high=_COUNT_MAX)
    token = streams.decode_base64url(resume, "--resume") if resume is not None else b""
    if resume is not None and not token:
        raise BadRequest("--resume is empty; leave it out to begin at the first key")
    per_s = options.read_number(rate, "--rate", low=1, high=_COUNT_MAX)
    timeout_s = options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    begins = _prefix(prefix)
    with Client(endpoints.find(endpoint or []), timeout_s=timeout_s) as client:
        found = client.keys(prefix=begins, resume=token, rate=per_s or None)
        writer = KeyWriter("null" if null else chosen, prefix)
        _list(found, writer, limit=wanted)
    if verbose:
        say(f"dynctl: keys: {writer.count:,} keys")


def _prefix(text: str | None) -> bytes | None:
    prefix = os.fsencode(text) if text is not None else None
    if prefix and len(prefix) > limits.KEY_BYTES_MAX:
        raise BadRequest(f"--prefix has {len(prefix):,} bytes; no key has over 1,024")
    return prefix


def _list(found: Keys, writer: KeyWriter, *, limit: int) -> None:
    """Writes all keys; whatever cuts it short, the token for the rest is told."""
    try:
        is_all = _write(found, writer, limit=limit)
    except (KeyboardInterrupt, QuorumNotMet):
        _end(found, writer, is_all=False)
        raise
    _end(found, writer, is_all=is_all)


def _write(found: Keys, writer: KeyWriter, *, limit: int) -> bool:
    for page in found.pages():
        part: list[Listed] = page[: limit - writer.count] if limit else page
        writer.write(part)
        found.done(part[-1])
        if writer.count == limit:
            return False
    return True


def _end(found: Keys, writer: KeyWriter, *, is_all: bool) -> None:
    token = None if is_all else streams.encode_base64url(found.token)
    writer.end(token)
    if found.copies_unreadable:
        say(
            f"dynctl: keys: warning: {found.copies_unreadable} copies cannot be read; "
            f"other owners have decided for them"
        )
    if token is not None:
        say(f"dynctl: keys: to list what is left: --resume {token}")
