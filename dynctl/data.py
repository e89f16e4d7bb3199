"""What get, put and delete do, whichever parser read the command line.

On the start-up path: the blocking client, and nothing that it does not need.
"""

from __future__ import annotations

import os

from dynagent import limits
from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.client.requests import Receipt, Result
from dynagent.errors import BadRequest, Conflict, NotFound, QuorumNotMet, TooLarge
from dynctl import endpoints, options, streams
from dynctl.faults import LocalFailure, NothingSent, say, say_trace
from dynctl.options import Given, word, words


def run(verb: str, given: Given) -> int:
    """Does it and returns the exit status 0; every other outcome is an error that is raised."""
    match verb:
        case "get":
            _get(given)
        case "put":
            _put(given)
        case _:
            _delete(given)
    return 0


# --- get -----------------------------------------------------------------------------------------


def _get(given: Given) -> None:
    key = _key(given)
    form, color = word(given, "form"), options.read_color(word(given, "color"))
    options.read_form(form, default="plain")
    out = word(given, "out")
    if given["all"] and out is not None:
        raise BadRequest("--out takes one value, and --all may print several; leave one out")
    if form is not None and not given["all"]:
        raise BadRequest("-o is for the records of --all; a value alone is written as it is")
    if form is not None and given["print_context"]:
        raise BadRequest("-o and --print-context print different things; leave one out")
    with _client(given) as client:
        r = options.read_quorum(word(given, "r"), "-r")
        result = client.get(
            key,
            r=r,
            strict=bool(given["strict"]),
            repair=bool(given["repair"]),
            trace=bool(given["trace"]),
        )
    say_trace(result.trace)
    if given["verbose"]:
        held = f"; {result.held} have it on disk" if given["repair"] else ""
        copies = f"the copies of {result.answered} owners{held}"
        say(f"dynctl: get: {result.agent} answered, with {copies}")
    _check(key, result, several=bool(given["all"]))
    if given["print_context"]:
        streams.emit_text(streams.encode_base64url(result.context) + "\n")
    elif given["all"]:
        _print_records(key, result, form, color)
    elif out is None:
        streams.emit(result.versions[0].value)
    if out is not None:
        streams.write_file(out, result.versions[0].value)


def copies_words(result: Result) -> str:
    """How many copies a partial read has met."""
    return f"only {result.answered} cop{'y' if result.answered == 1 else 'ies'}"


def _check(key: bytes, result: Result, *, several: bool) -> None:
    """Raises unless there is what was asked for: a value, and one value unless `several`."""
    shown, count = streams.show_key(key), len(result.versions)
    if result.partial and not count:
        raise QuorumNotMet(f"{shown} was not found, but {copies_words(result)} answered")
    if not count:
        raise NotFound(f"key {shown} not found")
    if result.partial:
        say(
            f"dynctl: get: warning: partial: {copies_words(result)} of {shown} answered; "
            "a newer value may exist"
        )
    if count > 1 and not several:
        raise Conflict(
            f"key {shown} has {count} concurrent values; see them with --all, then keep one with: "
            f"dynctl resolve KEY --pick DOT"
        )


def _print_records(key: bytes, result: Result, form: str | None, color: str) -> None:
    from dynctl.render import show  # msgspec and rich: not needed for a value alone
    from dynctl.views.siblings import siblings_view

    default = "table" if streams.stdout_is_terminal() else "jsonl"
    show(siblings_view(key, result), form or default, color)


# --- put and delete ------------------------------------------------------------------------------


def _put(given: Given) -> None:
    key = _key(given)
    context = _context(given)
    if context is not None and given["blind"]:
        raise BadRequest("--context and --blind contradict each other; leave one out")
    with _client(given) as client:
        receipt = client.put(
            key,
            _value(given),
            context=context,
            blind=bool(given["blind"]),
            r=options.read_quorum(word(given, "r"), "-r"),
            w=options.read_quorum(word(given, "w"), "-w"),
            strict=bool(given["strict"]),
            op_id=options.read_op_id(word(given, "op_id")),
            trace=bool(given["trace"]),
        )
    _tell(given, "put", receipt)
    if receipt.siblings >= limits.SIBLINGS_WARN:
        say(
            f"dynctl: put: warning: {streams.show_key(key)} has {receipt.siblings} concurrent "
            f"values; a put that adds one more may soon be refused. Keep one with: dynctl resolve"
        )
    if given["print_context"] and receipt.context:
        streams.emit_text(streams.encode_base64url(receipt.context) + "\n")
    elif given["print_context"]:
        say(
            f"dynctl: put: warning: no context to print: the key has {receipt.siblings} concurrent "
            f"values; see: dynctl get --all"
        )


def _delete(given: Given) -> None:
    key = _key(given)
    context = _context(given)
    with _client(given) as client:
        receipt = client.delete(
            key,
            context=context,
            r=options.read_quorum(word(given, "r"), "-r"),
            w=options.read_quorum(word(given, "w"), "-w"),
            strict=bool(given["strict"]),
            op_id=options.read_op_id(word(given, "op_id")),
            trace=bool(given["trace"]),
        )
    _tell(given, "delete", receipt)


def _tell(given: Given, verb: str, receipt: Receipt) -> None:
    say_trace(receipt.trace)
    if given["verbose"]:
        attempts = f", at attempt {receipt.attempts}" if receipt.attempts > 1 else ""
        say(f"dynctl: {verb}: {receipt.agent} answered{attempts}; op-id {receipt.op_id.hex()}")


# --- the words they share ------------------------------------------------------------------------


def _client(given: Given) -> Client:
    # One request: learning the ring first would cost a second one.
    timeout_s = options.read_timeout(word(given, "timeout"), TIMEOUT_S_DEFAULT)
    return Client(endpoints.find(words(given, "endpoint")), timeout_s=timeout_s, learn_ring=False)


def _key(given: Given) -> bytes:
    return read_key(word(given, "key") or "")


def read_key(text: str) -> bytes:
    """The bytes of a key as it stands on the command line; raises `BadRequest` or `TooLarge`."""
    return options.check_key(os.fsencode(text))


def _context(given: Given) -> bytes | None:
    text = word(given, "context")
    return None if text is None else options.read_context(text)


def _value(given: Given) -> bytes:
    """The value from its place, stdin or a file.

    Stdin is read only where `-` says so: a put inside `while read` would else swallow the input of
    the loop, and one under cron would write an empty value.
    """
    text, literal = word(given, "value"), word(given, "literal")
    if text is not None and literal is not None:
        raise BadRequest("VALUE and --value are both given; leave one out")
    if literal is not None:
        return _checked(os.fsencode(literal))
    if text is None:
        raise BadRequest("no value; write VALUE, - for stdin, @FILE, or --value V")
    try:
        return read_value(text)
    except KeyboardInterrupt as exc:
        raise NothingSent from exc
    except LocalFailure as exc:
        if not text.startswith("@"):
            raise
        raise LocalFailure(f"{exc.message}; write a text that begins with @ as --value") from exc


def read_value(text: str) -> bytes:
    """The bytes that a word stands for: itself, - for stdin, @FILE for a file."""
    if text == "-":
        value = streams.read_stdin(limits.VALUE_BYTES_HARD_MAX)
    elif text == "@":
        raise BadRequest("@ names no file; write @FILE")
    elif text.startswith("@"):
        value = streams.read_file(text[1:], limits.VALUE_BYTES_HARD_MAX)
    else:
        value = os.fsencode(text)
    return _checked(value)


def _checked(value: bytes) -> bytes:
    if len(value) > limits.VALUE_BYTES_HARD_MAX:
        raise TooLarge(f"the value is over {limits.VALUE_BYTES_HARD_MAX:,} bytes")
    return value
