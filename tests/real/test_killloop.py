"""kill -9 under load: a few cycles of the loop that the acceptance run does a hundred times."""

import pytest

from tests.real import killloop

pytestmark = pytest.mark.real


def test_nothing_acknowledged_is_lost_when_agents_are_killed_under_load() -> None:
    outcome = killloop.run(4, print)
    assert outcome["lost"] == 0
    assert outcome["acknowledged"] > 20 and outcome["kills"] == 8


def test_agents_that_acknowledge_before_they_submit_do_lose_writes() -> None:
    """The loop bites: the same cycles against a patched copy of the source."""
    lost = killloop.run_early(4, print)["lost"]
    assert lost, "the loop cannot tell an early acknowledgement from a right one"
