"""`dynctl mput`, `mget` and `mdelete`: JSON Lines in, a record for each out, in their order."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from dynagent import limits
from dynagent.client.bulk import TIMEOUT_S_DEFAULT, BulkClient
from dynagent.client.lane import Request
from dynagent.errors import Partial
from dynctl import endpoints, options, streams
from dynctl.declare import (
    Debug,
    Endpoints,
    InFlight,
    ReadQuorum,
    Strict,
    Timeout30,
    Verbose,
    WriteQuorum,
)
from dynctl.faults import say
from dynctl.interrupt import Interrupt
from dynctl.jsonlines import Reader, get_record, put_record
from dynctl.lines import STDIN, Lines
from dynctl.progress import Progress
from dynctl.views.siblings import GetRecord, PutRecord

_WRITE_BYTES = 256 * limits.KIB  # records that leave in one write
_GARBAGE_OBJECTS = 50_000  # nothing here is cyclic: looking for cycles so often costs a twentieth

_Render = Callable[[str, Request], PutRecord | GetRecord]


def mput(
    r: ReadQuorum = None,
    w: WriteQuorum = None,
    strict: Strict = False,
    in_flight: InFlight = None,
    endpoint: Endpoints = None,
    timeout: Timeout30 = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Write many records: JSON Lines from stdin, a record for each to stdout, in their order.

    A line: {"key": K, "value": V}, and if wanted "context": C or "mode": "blind" (as put has
    them), and "op_id" to repeat a line whose outcome was unknown. Keys and values that are not
    text are {"base64": "..."}. Blank lines are passed over; lines of one key take effect in order.
    What mget prints can be put in; a key that it did not find, or in conflict, then fails.

    A record: {"key", "status", "context"?, "error"?, "op_id"?}; status is ok, unknown or failed.
    Exits 11 if one is not ok. --timeout is for each record. ^C stops reading, and waits for the
    records under way.

    example: printf '{"key": "a", "value": "1"}\\n' | dynctl mput
    """
    reader = Reader(
        "mput",
        r=options.read_quorum(r, "-r"),
        w=options.read_quorum(w, "-w"),
        strict=strict,
    )
    return _run("mput", reader, put_record, endpoint, timeout, in_flight, verbose)


def mget(
    r: ReadQuorum = None,
    strict: Strict = False,
    in_flight: InFlight = None,
    endpoint: Endpoints = None,
    timeout: Timeout30 = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Read many keys: JSON Lines from stdin, a record for each to stdout, in their order.

    A line: {"key": K}, or the key alone as a JSON string; a key that is not text is
    {"base64": "..."}. Blank lines are passed over. What keys -o jsonl prints can be put in.

    A record: {"key", "status", "value"?, "context"?, "siblings"?, "partial"?, "error"?}; status is
    ok, not_found, conflict (then siblings has all values) or failed. Values that are not text are
    {"base64": "..."}. Exits 11 if one failed; not_found and conflict are answers. --timeout is for
    each record.

    example: dynctl keys --prefix cart/ -o jsonl | dynctl mget
    """
    reader = Reader("mget", r=options.read_quorum(r, "-r"), strict=strict)
    return _run("mget", reader, get_record, endpoint, timeout, in_flight, verbose)


def mdelete(
    r: ReadQuorum = None,
    w: WriteQuorum = None,
    strict: Strict = False,
    in_flight: InFlight = None,
    endpoint: Endpoints = None,
    timeout: Timeout30 = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> int:
    """Delete many keys: JSON Lines from stdin, a record for each to stdout, in their order.

    A line: {"key": K}, and if wanted "context": C (as delete has it) and "op_id" to repeat a line
    whose outcome was unknown; or the key alone as a JSON string. What keys -o jsonl
    prints can be put in, and what mget prints: then what it has read is deleted, and nothing newer.

    Records, exit status, --timeout and ^C are those of mput. Deleting a missing key is ok.

    example: dynctl mget < keys.jsonl | dynctl mdelete
    """
    reader = Reader(
        "mdelete",
        r=options.read_quorum(r, "-r"),
        w=options.read_quorum(w, "-w"),
        strict=strict,
    )
    return _run("mdelete", reader, put_record, endpoint, timeout, in_flight, verbose)


def _run(
    verb: str,
    reader: Reader,
    render: _Render,
    endpoint: list[str] | None,
    timeout: str | None,
    in_flight: str | None,
    verbose: bool,
) -> int:
    """The loop of all three; returns the exit status, or raises `Partial`."""
    timeout_s = options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    most = options.read_number(
        in_flight,
        "--in-flight",
        low=1,
        high=limits.BULK_IN_FLIGHT_MAX,
        default=limits.BULK_IN_FLIGHT_DEFAULT,
    )
    found = endpoints.find(endpoint or [])
    tally: Counter[str] = Counter()
    lines = Lines()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS)
    if os.isatty(STDIN):
        say(f"dynctl: {verb}: reading JSON Lines from this terminal; ^D ends them")
    with BulkClient(found, timeout_s=timeout_s, in_flight=most) as bulk:
        bulk.connect()
        with Interrupt() as interrupt, Progress(verb) as progress:
            try:
                for batch in bulk.batches(_requests(lines, reader, interrupt), source=STDIN):
                    _write(verb, batch, render, tally)
                    progress.show(tally.total(), lines.bytes_read)
            except KeyboardInterrupt:
                interrupt.unfinished = bulk.unfinished
        if verbose:
            shares = [f"{address} {count:,}" for address, count in bulk.answered.items()]
            say(f"dynctl: {verb}: replies: {', '.join(shares) or 'none'}")
    return _end(verb, tally, interrupt)


def _requests(lines: Lines, reader: Reader, interrupt: Interrupt) -> Iterator[Request | None]:
    """The lines as requests, until they end or are interrupted; None where none is there yet."""
    for found in lines:
        if interrupt.has_come:
            return
        if found is None:
            yield None
        elif (request := reader.read(*found)) is not None:
            yield request


def _write(verb: str, batch: list[Request], render: _Render, tally: Counter[str]) -> None:
    """Everything that has ended goes out at once: whoever waits for it gets it."""
    encode = msgspec.json.Encoder().encode_into
    buffer = bytearray()
    for request in batch:
        record = render(verb, request)
        tally[record.status] += 1
        encode(record, buffer, len(buffer))
        buffer += b"\n"
        if len(buffer) > _WRITE_BYTES:
            streams.emit(buffer)
            buffer = bytearray()
    if buffer:
        streams.emit(buffer)


_GOOD = ("ok", "not_found", "conflict")


def _end(verb: str, tally: Counter[str], interrupt: Interrupt) -> int:
    names = [name for name in (*_GOOD, "unknown", "failed") if tally[name] or name == "ok"]
    told = ", ".join(f"{tally[name]:,} {name.replace('_', ' ')}" for name in names)
    if interrupt.has_come:
        rest = interrupt.unfinished
        more = f"; {rest:,} more were under way and may still take effect" if rest else ""
        say(f"dynctl: {verb}: interrupted: {told}{more}")
        return 130
    if any(tally[name] for name in tally if name not in _GOOD):
        raise Partial(told)
    return 0
