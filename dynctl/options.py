"""The options of the command line, declared once.

`get`, `put` and `delete` are read by two parsers: the table parser (`fastpath`), which a script
waits 25 ms for, and Typer, which explains itself but takes six times as long. Both are made from
the `VERBS` of this file, and both only split the words: what a word means is decided by the
`read_*` functions here, so that the two cannot disagree (`tests/dynctl/test_parity.py`).

This file is on the start-up path: no typing, enum, dataclasses or re.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.errors import BadRequest, TooLarge
from dynctl import streams

Given = dict[str, str | bool | list[str] | None]  # what a parser hands to a verb

TEXT, FLAG, LIST = "text", "flag", "list"
FORMS = ("table", "plain", "json", "jsonl")
COLORS = ("auto", "always", "never")
TIMEOUT_S_MAX = limits.BUDGET_MS_MAX / 1000


class Option:
    """An option. `kind`: TEXT takes a word, FLAG none, LIST may be repeated."""

    __slots__ = ("choices", "flags", "help", "kind", "metavar", "name")

    def __init__(
        self,
        name: str,
        *flags: str,
        kind: str = TEXT,
        metavar: str = "",
        text: str,
        choices: tuple[str, ...] = (),  # what a shell offers for its word
    ) -> None:
        self.name = name
        self.flags = flags
        self.kind = kind
        self.metavar = metavar
        self.help = text
        self.choices = choices


class Argument:
    """A word at its place."""

    __slots__ = ("help", "metavar", "name", "required")

    def __init__(self, name: str, metavar: str, *, required: bool, text: str) -> None:
        self.name = name
        self.metavar = metavar
        self.required = required
        self.help = text


class Verb:
    """A verb that both parsers know."""

    __slots__ = ("arguments", "example", "help", "name", "options")

    def __init__(
        self,
        name: str,
        *,
        text: str,
        example: str,
        arguments: tuple[Argument, ...],
        options: tuple[Option, ...],
    ) -> None:
        self.name = name
        self.help = text
        self.example = example
        self.arguments = arguments
        self.options = options


ENDPOINT = Option(
    "endpoint",
    "--endpoint",
    kind=LIST,
    metavar="HOST:PORT",
    text="An agent to speak to; repeat it for more, each is tried. "
    "Default: DYNCTL_ENDPOINTS, the current context, the local cluster.",
)


def timeout(default: str) -> Option:
    return Option(
        "timeout",
        "--timeout",
        metavar="DURATION",
        text=f"Give up after this long: 5, 5s, 500ms or 2m. Default: {default}.",
    )


TIMEOUT = timeout("5s")
VERBOSE = Option(
    "verbose", "-v", "--verbose", kind=FLAG, text="Tell on stderr which agent answered."
)
DEBUG = Option("debug", "--debug", kind=FLAG, text="Show a stack trace with an error.")
FORM = Option(
    "form",
    "-o",
    "--output",
    metavar="FORM",
    text="table, plain (tab-separated), json or jsonl. "
    "Default: table on a terminal, plain elsewhere.",
    choices=FORMS,
)
COLOR = Option(
    "color",
    "--color",
    metavar="WHEN",
    text="auto, always or never. Default: auto.",
    choices=COLORS,
)
READ_QUORUM = Option(
    "r", "-r", "--r", metavar="N", text="Owners that must answer. Default: the cluster's R."
)
WRITE_QUORUM = Option(
    "w",
    "-w",
    "--w",
    metavar="N",
    text="Owners that must have the write on disk. Default: the cluster's W.",
)
STRICT = Option(
    "strict",
    "--strict",
    kind=FLAG,
    text="Count owners only, never a stand-in; with too few it fails.",
)
CONTEXT = Option(
    "context",
    "--context",
    metavar="C",
    text="Supersede what the get that printed this context has seen, nothing else.",
)
IN_FLIGHT = Option(
    "in_flight",
    "--in-flight",
    metavar="N",
    text=f"Records under way at once, 1 to {limits.BULK_IN_FLIGHT_MAX:,}. "
    f"Default: {limits.BULK_IN_FLIGHT_DEFAULT:,}.",
)
OP_ID = Option(
    "op_id",
    "--op-id",
    metavar="HEX",
    text="Repeat an earlier command whose outcome is unknown; it printed this id.",
)
TRACE = Option(
    "trace",
    "--trace",
    kind=FLAG,
    text="Tell on stderr which node answered what and when. "
    "What comes after the answer is not in it.",
)
_COMMON = (TRACE, ENDPOINT, TIMEOUT, VERBOSE, DEBUG)
_KEY = Argument("key", "KEY", required=True, text="The key: 1 to 1,024 bytes.")

VERBS: dict[str, Verb] = {
    "get": Verb(
        "get",
        text="Write the value of a key to stdout, byte for byte.\n\n"
        "A key with several concurrent values prints nothing and exits 4, unless --all is given.",
        example="dynctl get cart/7 > cart.json",
        arguments=(_KEY,),
        options=(
            Option("out", "--out", metavar="FILE", text="Write the value to FILE, whole or never."),
            Option(
                "print_context",
                "--print-context",
                kind=FLAG,
                text="Print the context instead of the value (which --out still writes); "
                "with --all that of several concurrent values.",
            ),
            Option(
                "all",
                "--all",
                kind=FLAG,
                text="Print every concurrent value as a record, with the context.",
            ),
            READ_QUORUM,
            STRICT,
            Option(
                "repair",
                "--repair",
                kind=FLAG,
                text="Answer only when W owners have on disk what is printed, so that no later "
                "read misses it; else exit 5.",
            ),
            Option(
                "form",
                "-o",
                "--output",
                metavar="FORM",
                text="For --all: table, plain, json or jsonl. "
                "Default: table on a terminal, jsonl elsewhere.",
                choices=FORMS,
            ),
            COLOR,
            *_COMMON,
        ),
    ),
    "put": Verb(
        "put",
        text="Write a value. It supersedes what is visible now, unless --context or --blind says "
        "otherwise: to see that, it first reads R owners (-r), whatever -w says.\n\n"
        "Prints nothing. Exit status 6 means that the outcome is unknown: repeat "
        "the same command with the --op-id that the error line names.",
        example="dynctl put cart/7 @cart.json",
        arguments=(
            _KEY,
            Argument(
                "value",
                "VALUE|-|@FILE",
                required=False,
                text="The value itself, - for stdin, @FILE for the bytes of a file.",
            ),
        ),
        options=(
            Option(
                "literal",
                "--value",
                metavar="V",
                text="The value as it stands, even if it begins with - or @.",
            ),
            CONTEXT,
            Option(
                "blind",
                "--blind",
                kind=FLAG,
                text="Supersede nothing: always one more concurrent value.",
            ),
            READ_QUORUM,
            WRITE_QUORUM,
            STRICT,
            OP_ID,
            Option(
                "print_context",
                "--print-context",
                kind=FLAG,
                text="Print the context that this write leaves, for the next --context.",
            ),
            *_COMMON,
        ),
    ),
    "delete": Verb(
        "delete",
        text="Delete a key: what is visible now, or what --context has seen.\n\n"
        "Deleting a key that does not exist succeeds.",
        example='dynctl delete cart/7 --context "$(dynctl get cart/7 --print-context)"',
        arguments=(_KEY,),
        options=(CONTEXT, READ_QUORUM, WRITE_QUORUM, STRICT, OP_ID, *_COMMON),
    ),
}


# --- what the words mean -------------------------------------------------------------------------


def word(given: Given, name: str) -> str | None:
    """The word given for a TEXT option or an argument."""
    value = given.get(name)
    assert value is None or isinstance(value, str)
    return value


def words(given: Given, name: str) -> list[str]:
    """The words given for a LIST option."""
    value = given.get(name)
    assert value is None or isinstance(value, list)
    return value or []


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def read_timeout(text: str | None, default_s: float) -> float:
    """Seconds; `BadRequest` unless over 0 and at most ten minutes."""
    return read_duration(text, "--timeout", default_s=default_s, high_s=TIMEOUT_S_MAX)


def read_duration(text: str | None, flag: str, *, default_s: float, high_s: float) -> float:
    """Seconds; `BadRequest` unless over 0 and at most `high_s`."""
    if text is None:
        return default_s
    number = text.rstrip("ms")
    unit = _UNITS.get(text[len(number) :] or "s")
    digits = number.replace(".", "", 1)
    if unit is None or not digits.isascii() or not digits.isdigit():
        raise BadRequest(f"{flag} {text!r} is not a duration; write 5, 5s, 500ms or 2m")
    if not 0 < float(number) * unit <= high_s:
        raise BadRequest(f"{flag} {text} is not over 0 and at most {high_s:.0f}s")
    return float(number) * unit


def read_number(text: str | None, flag: str, *, low: int, high: int, default: int = 0) -> int:
    """A whole number within bounds; `BadRequest` if it is none."""
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not low <= int(text[:12]) <= high:
        raise BadRequest(f"{flag} {text!r} is not a whole number in {low}..{high}")
    return int(text)


def read_quorum(text: str | None, flag: str) -> int:
    """How many owners; 0 if not given: the cluster's own R or W."""
    return read_number(text, flag, low=1, high=limits.N_MAX)


def read_capacity(text: str | None) -> int:
    """The weight of a node; −1 if not given."""
    return read_number(text, "--capacity", low=0, high=limits.CAPACITY_MAX, default=-1)


def read_form(text: str | None, *, default: str) -> str:
    """One of `FORMS`; `default` if not given."""
    if text is not None and text not in FORMS:
        raise BadRequest(f"-o {text!r} is unknown; choose one of {', '.join(FORMS)}")
    return text or default


def read_color(text: str | None) -> str:
    """auto, always or never."""
    if text not in (None, *COLORS):
        raise BadRequest(f"--color {text!r} is unknown; choose auto, always or never")
    return text or "auto"


def read_op_id(text: str | None, flag: str = "--op-id") -> bytes:
    """16 bytes from 32 hex digits; empty if not given."""
    if text is None:
        return b""
    try:
        op_id = bytes.fromhex(text)
    except ValueError:
        op_id = b""
    if len(op_id) != limits.OP_ID_BYTES:
        raise BadRequest(f"{flag} {text!r} is not 32 hex digits; copy it from the error line")
    return op_id


def check_key(key: bytes) -> bytes:
    """The same key; `BadRequest` or `TooLarge` if it cannot be one."""
    if not key:
        raise BadRequest("the key is empty; a key is 1 to 1,024 bytes")
    if len(key) > limits.KEY_BYTES_MAX:
        raise TooLarge(f"the key has {len(key):,} bytes; the limit is {limits.KEY_BYTES_MAX:,}")
    return key


def read_context(text: str, flag: str = "--context") -> bytes:
    """The bytes of a context; `BadRequest` if it is malformed or empty."""
    context = streams.decode_base64url(text, flag)
    if not context:  # an unset shell variable, most likely
        raise BadRequest(f"{flag} is empty; leave it out to supersede what is visible")
    return context
