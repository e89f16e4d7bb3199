"""kill -9 under load: a few cycles of the loop that the acceptance run does a hundred times."""

from dataclasses import replace

import pytest

from tests.mutants.runner import patched
from tests.mutants.table import MUTANTS, Mutant, Patch
from tests.real import killloop

pytestmark = pytest.mark.real


def test_nothing_acknowledged_is_lost_when_agents_are_killed_under_load() -> None:
    outcome = killloop.run(4, print)
    assert outcome["lost"] == 0
    assert outcome["acknowledged"] > 20 and outcome["kills"] == 8


def _on_a_slow_disk(mutant: Mutant) -> Mutant:
    """The same fault where each commit takes 50 ms more: what has been acknowledged early is then
    in memory for most of the time, on however fast a disk the test runs."""
    slow = Patch(
        file="agent/writer.py",
        old="                job()\n",
        new='                __import__("time").sleep(0.05)\n                job()\n',
    )
    return replace(mutant, patches=(*mutant.patches, slow))


def test_agents_that_acknowledge_before_they_submit_do_lose_writes() -> None:
    """The loop bites: the same cycles against a patched copy of the source."""
    early = next(mutant for mutant in MUTANTS if mutant.name == "M1-submit")
    with patched(_on_a_slow_disk(early)) as source:
        lost = killloop.run(4, print, source=source)["lost"]
    assert lost, "the loop cannot tell an early acknowledgement from a right one"
