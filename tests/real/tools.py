"""The system's own tools (mount, ip, iptables), which an ordinary PATH may not reach."""

from __future__ import annotations

import os
import shutil
import subprocess

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def has_tool(name: str) -> bool:
    return shutil.which(name, path=_PATH) is not None


def run_tool(*command: str, given: str | None = None) -> str:
    """What it prints; `given` is its stdin. Raises `OSError` with what it says when it fails."""
    tools = {**os.environ, "PATH": _PATH}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=tools, input=given
    )
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()
