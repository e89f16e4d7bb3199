"""What `dynctl bench` prints: the record, and the page for people."""

from __future__ import annotations

from dynctl.load import plot
from dynctl.load.bench import Outcome, Settings
from dynctl.load.histogram import Histogram
from dynctl.load.workload import Shape
from dynctl.views.bench import BenchCount, BenchDocument, BenchLatency

BUSY_MAX = 0.8  # above this share of a core the generator measures itself
_PLOT_WIDTH_MAX = 100
_PLOT_HEIGHT = 6
_TABLE_WIDTH = 200  # more than it needs


def document(name: str, shape: Shape, settings: Settings, outcome: Outcome) -> BenchDocument:
    tally, span_s = outcome.tally, outcome.span_s
    outcomes = max(1, tally.answered + tally.errors.total())
    took_s = outcome.run.ended - outcome.run.began
    in_time = tally.in_time.total()
    cpu_s, why_no_cpu, cpu_us = outcome.agents_cpu_s, outcome.why_no_cpu, None
    if cpu_s is not None and tally.answered:
        cpu_us = round(cpu_s / tally.answered * 1e6, 1)
    elif cpu_s is not None:
        why_no_cpu = "nothing was answered"
    seconds = range(max(tally.per_second, default=-1) + 1)
    return BenchDocument(
        workload=name,
        loop="open" if settings.rate else "closed",
        rate=settings.rate or None,
        connections=settings.connections,
        in_flight=settings.in_flight,
        value_bytes=shape.value_bytes,
        keys=shape.keys,
        distribution=shape.distribution,
        read_share=shape.read_share,
        mode=shape.mode,
        seed=str(shape.seed),
        duration_s=round(span_s, 3),
        operations=tally.answered,
        per_s=round(in_time / span_s, 1),
        agents=outcome.agents,
        agents_cpu_us=cpu_us,
        agents_cpu_unknown=why_no_cpu,
        generator_cpu_us=round(outcome.generator_cpu_s / outcomes * 1e6, 1),
        generator_busy=round(outcome.generator_cpu_s / took_s, 3),
        missing=tally.missing,
        siblings=tally.siblings,
        after_end=tally.answered - in_time,
        unsent=outcome.run.unsent,
        answered_per_second=[tally.per_second[second] for second in seconds],
        latencies=[_latency(kind, histogram, rate) for kind, histogram, rate in _kinds(outcome)],
        errors=[BenchCount(name=name, count=n) for name, n in tally.errors.most_common()],
        lost=[BenchCount(name=name, count=n) for name, n in sorted(outcome.losses.items())],
    )


def _kinds(outcome: Outcome) -> list[tuple[str, Histogram, float]]:
    """(name, latencies, answered in time per second) of get and put; if both, of all too."""
    tally = outcome.tally
    found = [
        (kind, histogram, tally.in_time[kind] / outcome.span_s)
        for kind, histogram in sorted(tally.latencies.items())
    ]
    if len(found) > 1:
        both = Histogram()
        for _kind, histogram, _rate in found:
            both.merge(histogram)
        found.append(("all", both, tally.in_time.total() / outcome.span_s))
    return found


def _latency(kind: str, histogram: Histogram, per_s: float) -> BenchLatency:
    def in_ms(percent: float) -> float:
        return histogram.percentile(percent) / 1000

    return BenchLatency(
        operation=kind,
        count=histogram.count,
        per_s=round(per_s, 1),
        mean_ms=round(histogram.mean() / 1000, 3),
        p50_ms=in_ms(50),
        p90_ms=in_ms(90),
        p99_ms=in_ms(99),
        p999_ms=in_ms(99.9),
        max_ms=histogram.maximum / 1000,
    )


# --- for people ----------------------------------------------------------------------------------


def page(found: BenchDocument, outcome: Outcome, color: str) -> str:
    """Figures, distributions and throughput, as wide as the terminal."""
    from rich.text import Text

    from dynctl.render import new_console, trimmed

    console = new_console(color)
    width = min(console.width, _PLOT_WIDTH_MAX)
    with console.capture() as capture:
        console.print(Text(_headline(found), style="bold"))
        console.print()
        console.print(_latencies(found), width=_TABLE_WIDTH, crop=False)  # figures stay whole
        for kind, histogram, _rate in _kinds(outcome)[:2]:
            console.print()
            console.print(Text(f"{kind}: how often which latency came", style="bold"))
            *rows, axis, names = plot.distribution(histogram, width=width, height=_PLOT_HEIGHT)
            console.print(Text("\n".join(rows), style="cyan"))
            console.print(Text(f"{axis}\n{names}"))
        seconds = found.answered_per_second[: int(found.duration_s)]  # whole ones
        if len(seconds) > 1:
            line = plot.sparkline(seconds, width - 40)
            console.print()
            console.print(
                Text("op/s ", style="bold"),
                Text(line, style="cyan"),
                Text(f" {min(seconds):,} to {max(seconds):,} in a second"),
                sep="",
            )
        console.print()
        for name, words in _facts(found):
            console.print(Text(f"{name:11}", style="bold"), Text(words), sep="", soft_wrap=True)
    return trimmed(capture.get())


def _headline(found: BenchDocument) -> str:
    loop = f"open loop at {found.rate:,}/s" if found.rate else "closed loop"
    window = f"{found.connections} connections × {found.in_flight} in flight"
    parts = [found.workload, loop, window, f"{found.keys:,} keys, {found.distribution}"]
    if found.read_share < 1:
        parts.append(f"puts of {found.value_bytes:,} bytes, mode {found.mode}")
    return "; ".join([*parts, f"{found.duration_s:.1f}s"])


def _latencies(found: BenchDocument) -> object:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("COUNT", "OP/S", "MEAN ms", "P50", "P90", "P99", "P99.9", "MAX"):
        table.add_column(name, justify="right")
    for row in found.latencies:
        times = (row.mean_ms, row.p50_ms, row.p90_ms, row.p99_ms, row.p999_ms, row.max_ms)
        words = [plot.milliseconds(time * 1000).removesuffix(" ms") for time in times]
        table.add_row(row.operation, f"{row.count:,}", f"{row.per_s:,.0f}", *words)
    return table


def _facts(found: BenchDocument) -> list[tuple[str, str]]:
    cpu = (
        f"- ({found.agents_cpu_unknown})"
        if found.agents_cpu_us is None
        else f"{found.agents_cpu_us:,.0f} µs of CPU per operation, all {found.agents} together"
    )
    own = f"{found.generator_cpu_us:,.0f} µs of CPU per operation, "
    own += f"{found.generator_busy:.0%} of one core"
    errors = ", ".join(f"{row.count:,} {row.name}" for row in found.errors) or "none"
    facts = [("agents", cpu), ("this load", own), ("errors", errors)]
    # A closed loop always ends with its window full; that is no news.
    late = found.after_end if found.rate else 0
    told = [
        (found.missing, "gets found no value"),
        (found.siblings, "answers were about keys with several concurrent values"),
        (late, "were answered after the end; they count in the latencies, not in op/s"),
        (found.unsent, "were due and never sent: the cluster is slower than --rate"),
    ]
    facts += [("note", f"{count:,} {words}") for count, words in told if count]
    facts += [("lost", f"{row.count:,} connections to {row.name}") for row in found.lost]
    return facts


def warnings(found: BenchDocument, outcome: Outcome) -> list[str]:
    """What must not be overlooked, whatever the form."""
    told: list[str] = []
    if found.generator_busy > BUSY_MAX:
        told.append(
            f"the generator used {found.generator_busy:.0%} of a core: the figures are its own as "
            f"much as the agents'; use fewer --connections, or run several at once"
        )
    if found.errors:
        told.append(
            f"{sum(row.count for row in found.errors):,} requests failed, the first with: "
            f"{outcome.tally.first_error}"
        )
    return told
