"""`dynctl demo`: the tour, from the first step to the last or to the one that did not hold."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from dynagent.errors import DynagentError
from dynctl import options
from dynctl.declare import Color, Debug, among
from dynctl.demo.narrator import Narrator
from dynctl.demo.steps import STEPS
from dynctl.demo.tour import Step, StepFailed, Tour
from dynctl.faults import LocalFailure, ReaderGone, say
from dynctl.render import show
from dynctl.spawn import SIGNALS
from dynctl.views.demo import DemoDocument, DemoStep


def demo(
    directory: Annotated[
        str | None,
        typer.Option("--dir", metavar="D", help="An empty directory to use. Default: a new one."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave data and logs there; the agents are stopped.")
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FORM",
            help="Print only a record of each step: table, plain, json or jsonl. Default: tell "
            "the tour.",
            autocompletion=among(options.FORMS),
        ),
    ] = None,
    color: Color = None,
    debug: Debug = False,
) -> None:
    """See it work: a tour of half a minute on a cluster of its own, which is gone afterwards.

    Every step says what it shows and why, runs the commands that you would type, and checks what
    they did. Exits 0 only if all of it held. Your own clusters and files are not touched.

    example: dynctl demo
    """
    if form is not None:
        options.read_form(form, default="")
    when = options.read_color(color)
    home = Path(os.path.abspath(directory)) if directory is not None else None  # noqa: PTH100
    tour = Tour(home, Narrator(when, silent=form is not None), keep=keep)
    steps = run(tour, STEPS)
    ok = all(step.ok for step in steps)
    kept = str(tour.root) if keep or not ok else ""
    if form is not None:
        show(DemoDocument(ok=ok, directory=kept, steps=steps), form, when)
    if not ok:
        last = steps[-1]
        raise LocalFailure(f"step {last.step} ({last.title}): {last.problem}; see: {kept}")
    if kept:
        say(f"kept: {kept}; start its agents with: dynctl up --dir {tour.home}")


def run(tour: Tour, steps: Sequence[Step]) -> list[DemoStep]:
    """Takes the steps until one does not hold. Afterwards, and whatever ends it, no agent runs; its
    directory is left only if a step failed, or if that was asked for."""
    taken: list[DemoStep] = []
    ok = False
    with _signals_end_it():
        try:
            for number, step in enumerate(steps, 1):
                tour.tell.title(f"{number}/{len(steps)}", step.title, step.why)
                taken.append(_take(tour, number, step))
                if not taken[-1].ok:
                    return taken
            ok = True
        except (KeyboardInterrupt, ReaderGone):
            ok = True  # nothing failed: there is nothing to be looked at
            raise
        finally:
            for number in SIGNALS:  # a second ^C must not leave agents behind
                signal.signal(number, signal.SIG_IGN)
            tour.stop()
            if ok and not tour.keep:
                tour.remove()
    return taken


def _take(tour: Tour, number: int, step: Step) -> DemoStep:
    start = time.monotonic()
    problem = ""
    try:
        held = step.run(tour)
    except StepFailed as exc:
        problem = str(exc)
    except DynagentError as exc:
        problem = f"{type(exc).__name__}: {exc.message}"
    seconds = round(time.monotonic() - start, 2)
    if problem:
        tour.tell.failed(problem)
    else:
        tour.tell.held(held, seconds)
    return DemoStep(step=number, title=step.title, ok=not problem, seconds=seconds, problem=problem)


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """SIGTERM and SIGHUP end the tour as ^C does: with its agents stopped."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
