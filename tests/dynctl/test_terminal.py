"""On a terminal there are tables and colour; nowhere else."""

from __future__ import annotations

import pexpect  # type: ignore[import-untyped]
import pytest

from tests.dynctl.conftest import Cluster

pytestmark = pytest.mark.real


def _on_terminal(cluster: Cluster, *words: str, **environment: str) -> str:
    output, status = pexpect.run(
        " ".join([*cluster.command, *words]),
        env=cluster.environment | {"TERM": "xterm-256color"} | environment,
        withexitstatus=True,
        encoding="utf-8",
        timeout=60,
    )
    assert status == 0, output
    return str(output)


def test_a_terminal_gets_a_table_with_colour(cluster: Cluster) -> None:
    table = _on_terminal(cluster, "node", "ls")
    assert "NAME" in table
    assert "\x1b[" in table


@pytest.mark.parametrize(
    ("words", "environment"),
    [([], {"NO_COLOR": "1"}), (["--color", "never"], {}), ([], {"TERM": "dumb"})],
)
def test_colour_can_be_switched_off(
    cluster: Cluster, words: list[str], environment: dict[str, str]
) -> None:
    table = _on_terminal(cluster, "node", "ls", *words, **environment)
    assert "NAME" in table
    assert "\x1b" not in table


@pytest.mark.parametrize("words", [["node", "ls"], ["ring", "status"], ["stats"]], ids=" ".join)
def test_a_narrow_terminal_breaks_no_word_of_a_table(cluster: Cluster, words: list[str]) -> None:
    table = _on_terminal(cluster, *words, "--color", "never", COLUMNS="40")
    row = next(line for line in table.splitlines() if line.startswith("local-1 "))
    header = next(line for line in table.splitlines() if line.startswith("NAME "))
    assert len(row.split()) >= len(header.split()) - 1  # zone is empty


def test_what_a_value_holds_cannot_steer_the_terminal(cluster: Cluster) -> None:
    cluster("put", "escape", "-", stdin=b"\x1b]0;owned\x07")
    table = _on_terminal(cluster, "get", "escape", "--all", "--color", "never")
    assert "\\x1b]0;owned" in table
    assert "\x1b" not in table
