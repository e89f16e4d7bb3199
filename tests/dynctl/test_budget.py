"""Start-up is a promise: a module budget guards it, not a clock."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dynctl.conftest import Cluster, Dynctl

_SLOW = {
    *("typer", "rich", "trio", "pydantic", "asyncio", "ssl", "msgspec", "pathlib"),
    *("dataclasses", "json", "tomllib", "argparse", "logging", "inspect", "subprocess"),
    *("typing", "re", "contextlib"),  # cbor2's package would load them: see core/cbor.py
}
# What `socket` needs of these is enough; our own modules must not ask for them.
_NOT_OURS = {"typing", "enum", "re", "dataclasses", "json", "tomllib", "base64", "pathlib"}

_REPORT = """
import sys
from dynctl.__main__ import main
sys.argv = ["dynctl", *sys.argv[1:]]
status = main()
modules = [(name, getattr(module, "__file__", "") or "") for name, module in sys.modules.items()]
print("\\n".join(f"{name} {file}" for name, file in modules), file=sys.stderr)
sys.exit(status)
"""


def _modules(dynctl: Dynctl, *words: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, *words],
        capture_output=True,
        env=dynctl.environment,
        check=True,
        timeout=60,
    )
    return dict(line.split(" ", 1) for line in done.stderr.decode().splitlines())


@pytest.mark.real
@pytest.mark.parametrize("trace", [[], ["--trace"]], ids=["", "trace"])
@pytest.mark.parametrize("words", [["put", "budget", "v"], ["get", "budget"], ["delete", "budget"]])
def test_one_shot_verbs_load_nothing_slow(
    cluster: Cluster, words: list[str], trace: list[str]
) -> None:
    cluster("put", "budget", "v")
    loaded = _modules(cluster, *words, *trace)
    assert ("dynagent.core.trace" in loaded) == bool(trace)
    assert not _SLOW & {name.partition(".")[0] for name in loaded}
    ours = {n: f for n, f in loaded.items() if n.partition(".")[0] in ("dynctl", "dynagent") and f}
    assert len(ours) > 10
    for name, file in ours.items():
        assert not _imports(Path(file)) & _NOT_OURS, name


def _imports(path: Path) -> set[str]:
    """Modules that a file imports when it is loaded."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_help_of_one_verb_loads_no_other_noun(bare: Dynctl) -> None:
    loaded = _modules(bare, "ring", "show", "--help")
    assert "dynctl.commands.ring" in loaded
    assert "dynctl.commands.up" not in loaded
    assert "rich" not in loaded
    assert "trio" not in loaded
