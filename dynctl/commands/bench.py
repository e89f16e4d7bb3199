"""`dynctl bench`: how fast this cluster is, and what an operation costs."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from dynagent import limits
from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.errors import BadRequest, TooLarge
from dynctl import endpoints, options, streams
from dynctl.declare import Color, Debug, Endpoints, Form, Timeout, Verbose, among, option
from dynctl.faults import LocalFailure, say

_DURATION_S, _DURATION_S_MAX = 10.0, 86_400.0
_WARMUP_S = 2.0
_KEYS_MAX = 10_000_000  # the contexts of all of them stay in memory
_SHARES = {"put": 0.0, "get": 1.0}
_PRESETS = {"A": 0.5, "B": 0.95, "C": 1.0}  # YCSB's core workloads
_UNITS = {"": 1, "b": 1, "k": limits.KIB, "kib": limits.KIB, "m": limits.MIB, "mib": limits.MIB}


def bench(
    workload: Annotated[
        str,
        typer.Argument(
            metavar="put|get|mixed",
            help="What to load with.",
            autocompletion=among((*_SHARES, "mixed")),
        ),
    ],
    connections: Annotated[
        str | None, typer.Option("--connections", metavar="N", help="Default: 64.")
    ] = None,
    in_flight: Annotated[
        str | None,
        typer.Option(
            "--in-flight", metavar="N", help="Requests under way per connection. Default: 1."
        ),
    ] = None,
    value_size: Annotated[
        str | None,
        typer.Option("--value-size", metavar="SIZE", help="100, 1k or 1KiB. Default: 1KiB."),
    ] = None,
    keys: Annotated[
        str | None, typer.Option("--keys", metavar="N", help="Different keys. Default: 10000.")
    ] = None,
    distribution: Annotated[
        str | None,
        typer.Option(
            "--distribution",
            metavar="NAME",
            help="uniform, or zipfian (0.99, as in YCSB). Default: uniform.",
        ),
    ] = None,
    read_share: Annotated[
        str | None,
        typer.Option(
            "--read-share",
            metavar="SHARE",
            help="Of gets in mixed: 0 to 1, or YCSB's A (0.5), B (0.95), C (1). Default: 0.5.",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            metavar="MODE",
            help="Of puts: context (of the last reply), overwrite (a read first), or blind (one "
            "more concurrent value each time). Default: context.",
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option("--duration", metavar="DURATION", help="Measure for this long. Default: 10s."),
    ] = None,
    ops: Annotated[
        str | None,
        typer.Option("--ops", metavar="N", help="Measure this many operations instead."),
    ] = None,
    warmup: Annotated[
        str | None,
        typer.Option(
            "--warmup", metavar="DURATION", help="Load before measuring; 0: do not. Default: 2s."
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate",
            metavar="N",
            help="Requests per second of an open loop: latency counts from the moment at which a "
            "request was due. Default: a closed loop, as fast as answers come.",
        ),
    ] = None,
    no_preload: Annotated[
        bool, typer.Option("--no-preload", help="Do not write every key first.")
    ] = False,
    cleanup: Annotated[bool, typer.Option("--cleanup", help="Delete the keys afterwards.")] = False,
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", metavar="P", help="Of the keys it uses. Default: bench/."),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option("--seed", metavar="N", help="Of keys and values. Default: 1."),
    ] = None,
    r: Annotated[str | None, option(options.READ_QUORUM)] = None,
    w: Annotated[str | None, option(options.WRITE_QUORUM)] = None,
    strict: Annotated[bool, option(options.STRICT)] = False,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Put a cluster under load, as YCSB does, and tell throughput, latency and CPU per operation.

    Every key bench/0 ... is written first; no other key is touched. Requests go to an owner of
    their key. A request that fails is counted by its error and has no latency. --timeout is for
    each request. ^C ends the measurement early, and what was measured is told.

    example: dynctl bench mixed --read-share B --distribution zipfian --duration 30s
    """
    # Here: `dynctl bench --help` can do without them.
    from dynctl.load.bench import Settings, measure
    from dynctl.load.keys import DISTRIBUTIONS
    from dynctl.load.report import document, page, warnings
    from dynctl.load.workload import MODES, Shape, Workload
    from dynctl.render import show

    if workload not in (*_SHARES, "mixed"):
        raise BadRequest(f"{workload!r} is no load; choose put, get or mixed")
    if read_share is not None and workload != "mixed":
        raise BadRequest(f"--read-share is of a mixed load, not of {workload}; leave it out")
    if ops is not None and duration is not None:
        raise BadRequest("--ops and --duration contradict each other; leave one out")
    chosen = form and options.read_form(form, default="")
    when = options.read_color(color)
    number = options.read_number
    shape = Shape(
        read_share=_SHARES.get(workload, _read_share(read_share)),
        mode=_one_of(mode, "--mode", tuple(MODES)),
        distribution=_one_of(distribution, "--distribution", DISTRIBUTIONS),
        keys=number(keys, "--keys", low=1, high=_KEYS_MAX, default=10_000),
        value_bytes=_read_size(value_size),
        prefix=_read_prefix(prefix),
        seed=number(seed, "--seed", low=0, high=10**11, default=1),
        r=options.read_quorum(r, "-r"),
        w=options.read_quorum(w, "-w"),
        strict=strict,
    )
    operations = number(ops, "--ops", low=1, high=10**9)
    settings = Settings(
        connections=number(
            connections, "--connections", low=1, high=limits.CONNECTIONS_MAX, default=64
        ),
        in_flight=number(in_flight, "--in-flight", low=1, high=1_000, default=1),
        duration_s=0.0 if operations else _read_duration(duration, "--duration", _DURATION_S),
        operations=operations,
        warmup_s=0.0 if warmup == "0" else _read_duration(warmup, "--warmup", _WARMUP_S),
        rate=number(rate, "--rate", low=1, high=10**6),
        timeout_s=options.read_timeout(timeout, TIMEOUT_S_DEFAULT),
        preload=not no_preload,
        cleanup=cleanup,
    )

    def tell(text: str) -> None:
        if verbose or streams.stdout_is_terminal() or text.startswith("warning"):
            say(f"dynctl: bench: {text}")

    with Client(endpoints.find(endpoint or []), timeout_s=settings.timeout_s) as client:
        outcome = measure(client, Workload(shape), settings, tell)
    found = document(workload, shape, settings, outcome)
    if (chosen or ("table" if streams.stdout_is_terminal() else "plain")) == "table":
        streams.emit_text(page(found, outcome, when))
    else:
        show(found, chosen or "plain", when)
    for warning in warnings(found, outcome):
        say(f"dynctl: bench: warning: {warning}")
    if outcome.is_cut_short:
        say("dynctl: bench: interrupted; these are the figures until then")
        raise KeyboardInterrupt
    if not found.operations:
        raise LocalFailure("nothing was answered; see: dynctl health")


def _one_of(text: str | None, flag: str, known: tuple[str, ...]) -> str:
    if text is not None and text not in known:
        raise BadRequest(f"{flag} {text!r} is unknown; choose {' or '.join(known)}")
    return text or known[0]


def _read_share(text: str | None) -> float:
    if text is None:
        return 0.5
    if text.upper() in _PRESETS:
        return _PRESETS[text.upper()]
    if not text.replace(".", "", 1).isdigit() or not text.isascii() or not float(text) <= 1:
        raise BadRequest(f"--read-share {text!r} is not in 0..1; write 0.95, or A, B or C")
    return float(text)


def _read_duration(text: str | None, flag: str, default_s: float) -> float:
    return options.read_duration(text, flag, default_s=default_s, high_s=_DURATION_S_MAX)


def _read_size(text: str | None) -> int:
    if text is None:
        return limits.KIB
    number = text.rstrip("bBiIkKmM")
    unit = _UNITS.get(text[len(number) :].lower())
    if unit is None or not number.isascii() or not number.isdigit() or len(number) > 9:
        raise BadRequest(f"--value-size {text!r} is not a size; write 100, 1k or 1KiB")
    size = int(number) * unit
    if size > limits.VALUE_BYTES_HARD_MAX:
        raise TooLarge(f"--value-size {text} is over {limits.VALUE_BYTES_HARD_MAX:,} bytes")
    return size


def _read_prefix(text: str | None) -> bytes:
    prefix = b"bench/" if text is None else os.fsencode(text)
    if len(prefix) + len(str(_KEYS_MAX)) > limits.KEY_BYTES_MAX:
        raise TooLarge(f"--prefix has {len(prefix):,} bytes; keys have {limits.KEY_BYTES_MAX:,}")
    return prefix
