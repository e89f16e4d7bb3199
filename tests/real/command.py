"""`dynctl` as a process, with its CPU time and peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.real.cluster import ROOT

_POLL_S = 0.01


class Usage:
    """What one run took. `peak_kib`: the largest resident memory; `told`: its stderr."""

    def __init__(self, *, status: int, cpu_s: float, elapsed_s: float, peak_kib: int) -> None:
        self.status = status
        self.cpu_s = cpu_s
        self.elapsed_s = elapsed_s
        self.peak_kib = peak_kib
        self.told = ""


def run_dynctl(
    *words: str,
    endpoints: Sequence[str],
    stdin: Path,
    stdout: Path,
    on_poll: Callable[[], None] = lambda: None,
) -> Usage:
    """Runs it to its end, with `on_poll` called a hundred times a second."""
    environment = {**os.environ, "DYNCTL_ENDPOINTS": ",".join(endpoints), "PYTHONPATH": str(ROOT)}
    told = stdout.with_suffix(".stderr")
    start = time.perf_counter()
    with stdin.open("rb") as given, stdout.open("wb") as taken, told.open("wb") as words_said:
        process = subprocess.Popen(
            [sys.executable, "-m", "dynctl", *words],
            stdin=given,
            stdout=taken,
            stderr=words_said,
            env=environment,
        )
    peak_kib = 0
    while True:
        pid, code, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        peak_kib = max(peak_kib, _peak_kib(process.pid))
        on_poll()
        time.sleep(_POLL_S)
    process.returncode = os.waitstatus_to_exitcode(code)  # waited for here, not by Popen
    usage = Usage(
        status=process.returncode,
        cpu_s=used.ru_utime + used.ru_stime,
        elapsed_s=time.perf_counter() - start,
        peak_kib=peak_kib,
    )
    usage.told = told.read_text(encoding="utf-8")
    return usage


def _peak_kib(pid: int) -> int:
    """Not ru_maxrss: that begins with the memory of the process that forked it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
