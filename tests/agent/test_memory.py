"""The memory that an agent may use, and the share of it that its cache takes."""

import os
from pathlib import Path

import pytest

from dynagent import limits
from dynagent.config import load, resolved
from dynagent.errors import ConfigError
from dynagent.memory import usable_bytes

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
_VERSION_2 = "0::/system/dynagent.service\n"
_VERSION_1 = "5:cpu,cpuacct:/else\n4:memory:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "found", "usable"),
    [
        (_VERSION_2, {}, MACHINE),
        (_VERSION_2, {"system/dynagent.service/memory.max": "max\n"}, MACHINE),
        (_VERSION_2, {"system/dynagent.service/memory.max": "70000\n"}, 70_000),
        (
            _VERSION_2,
            {"system/dynagent.service/memory.max": "max", "system/memory.max": "60000"},
            60_000,
        ),
        (_VERSION_2, {"memory.max": "50000"}, 50_000),  # a container's own group
        (_VERSION_1, {"memory/docker/abc/memory.limit_in_bytes": str(2**63 - 4_096)}, MACHINE),
        (_VERSION_1, {"memory/docker/abc/memory.limit_in_bytes": "40000"}, 40_000),
        (_VERSION_1, {"memory/memory.limit_in_bytes": "30000"}, 30_000),
        ("junk\n\n0::/a\u2028b\n0::/c", {"a\u2028b/memory.max": "20000"}, 20_000),
        (_VERSION_1, {"cpu/memory.limit_in_bytes": "1", "memory/else": "1"}, MACHINE),
    ],
)
def test_the_least_limit_of_all_groups_counts(
    tmp_path: Path, groups: str, found: dict[str, str], usable: int
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, limit in found.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(limit)
    assert usable_bytes(tmp_path / "groups", tmp_path / "mount") == usable


def test_a_group_with_a_strange_name_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "groups").write_bytes(b"0::/caf\xe9\n")
    (tmp_path / "memory.max").write_text("10000")
    assert usable_bytes(tmp_path / "groups", tmp_path) == 10_000


def test_without_cgroups_the_machine_counts(tmp_path: Path) -> None:
    assert usable_bytes(tmp_path / "none", tmp_path) == MACHINE
    assert 0 < usable_bytes() <= MACHINE


def test_the_cache_takes_a_share_unless_it_is_told() -> None:
    def cache_bytes(**settings: int) -> int:
        return resolved(load(None, {"data_dir": "d", **settings})).cache_bytes

    assert cache_bytes() == cache_bytes(cache_bytes=-1) == usable_bytes() // limits.CACHE_SHARE
    assert cache_bytes(cache_bytes=0) == 0
    assert cache_bytes(cache_bytes=5_000_000) == 5_000_000
    for bad in (-2, 2**63):
        with pytest.raises(ConfigError, match="cache_bytes"):
            cache_bytes(cache_bytes=bad)
