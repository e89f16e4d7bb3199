"""How much memory this process may use: the machine's, or less where its cgroup says so."""

from __future__ import annotations

import os
from pathlib import Path

_OWN_GROUPS = Path("/proc/self/cgroup")  # a line for each: number:controllers:path
_MOUNT = Path("/sys/fs/cgroup")


def usable_bytes(groups: Path = _OWN_GROUPS, mount: Path = _MOUNT) -> int:
    """The least of the machine's memory and the limits of our cgroups, those above them included
    (version 1 and 2). In a container the path may be one of the host's, which is not there: then
    the root of the mount is the container's own group."""
    found = [max(0, os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")]
    for line in _read(groups).split("\n"):
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            root, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for directory in (group, *group.parents):
            limit = _read(directory / name).strip()
            if limit.isdigit():  # not "max"
                found.append(int(limit))
            if directory == root:
                break
    return min(found)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""  # no such group, or no cgroups here
