"""Weeks that pass in an instant: what the world does to a node's timer."""

from __future__ import annotations

from dynagent import limits
from dynagent.testing.manners import LATE_S
from dynagent.testing.profile import Profile
from dynagent.testing.simulation import Simulation


def test_a_timer_that_was_set_before_a_leap_is_due_after_it() -> None:
    """It was put off with everything that was to happen, and the node's deadlines were not: until
    then none of them was looked at, and answers came too late."""
    simulation = Simulation(1, profile=Profile())
    world, node = simulation.world, simulation.nodes[0]
    for each in simulation.nodes:
        each.start()
    world.run(until=0.3)
    assert node.node is not None
    before = node.node.next_deadline()
    assert before is not None
    simulation.nemesis._leap(7 * 86_400)
    world.run(until=world.now + LATE_S)
    after = node.node.next_deadline()
    assert after is not None
    assert after > world.now > before + limits.GOSSIP_INTERVAL_S_DEFAULT
