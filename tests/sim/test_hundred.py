"""A hundred agents: what gossip costs at rest, and how fast all know a change of the ring.

These are the whole cores of level 1, not gossip alone as in benchmarks/gossip.py. It is one world,
and one test, because the start of a hundred nodes is most of its cost."""

from __future__ import annotations

import pytest

from dynagent import limits
from dynagent.core.messages import Facts, FactsReply, Gossip, GossipReply, Message
from dynagent.core.ringentry import PolicyEntry
from dynagent.core.ringlog import RingLog
from dynagent.errors import DynagentError
from dynagent.testing.profile import Profile
from dynagent.testing.simulation import Simulation
from dynagent.wire.codec import encode_frame

AGENTS = 100
INTERVAL_S = limits.GOSSIP_INTERVAL_S_DEFAULT
ROUNDS_MAX = 10
IDLE_BYTES_PER_S_MAX = 2 * limits.KIB
# For a minute after a start the share of the background grows, and all tell of theirs.
AT_REST_S = 75.0


def test_a_hundred_agents_know_a_change_within_ten_rounds_and_are_quiet_at_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = Simulation(1, profile=Profile(nodes=AGENTS))
    for node in simulation.nodes:
        node.start()
    simulation.world.run(until=AT_REST_S)

    cost = idle_bytes_per_s(simulation, monkeypatch)
    print(f"{AGENTS} agents: {cost:.0f} bytes of gossip per agent and second")
    assert 0 < cost <= IDLE_BYTES_PER_S_MAX

    told = rounds_until_known(simulation, number=1)
    # Whoever has had it decided tells all. If it dies before that, there is gossip.
    monkeypatch.setattr(RingLog, "_tell_all", lambda *_: None)
    untold = rounds_until_known(simulation, number=2)
    print(f"{AGENTS} agents know a change after {told:.1f} rounds, by gossip alone {untold:.1f}")
    assert told <= 1
    assert untold <= ROUNDS_MAX


def idle_bytes_per_s(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> float:
    """Sent and received by each agent."""
    sent: list[int] = []
    travel = simulation.network._travel

    def watched(connection: object, way: int, number: int, ms: int, message: Message) -> None:
        if isinstance(message, Gossip | GossipReply | Facts | FactsReply):
            sent.append(len(encode_frame(message, request_id=number, budget_ms=ms)))
        travel(connection, way, number, ms, message)  # type: ignore[arg-type]

    rounds = 10
    with monkeypatch.context() as patch:
        patch.setattr(simulation.network, "_travel", watched)
        simulation.world.run(until=simulation.world.now + rounds * INTERVAL_S)
    return 2 * sum(sent) / AGENTS / (rounds * INTERVAL_S)


def rounds_until_known(simulation: Simulation, *, number: int) -> float:
    """From the decision of a change that some agent proposes."""
    world, proposer = simulation.world, simulation.nodes[17]
    assert proposer.node is not None
    assert proposer.node.ringlog is not None
    told: list[DynagentError | None] = []
    change = PolicyEntry(id=b"change number %2d" % number, name="simulated", value=str(number))
    proposer.node.ringlog.propose(world.now, change, lambda _now, error: told.append(error))
    proposer.poke()
    world.run(until=world.now + 5, unless=lambda: bool(told))
    assert told == [None]
    began, epoch = world.now, simulation.ring.epoch

    def is_known() -> bool:
        return all(node.ring is not None and node.ring.epoch >= epoch for node in simulation.nodes)

    world.run(until=began + 2 * ROUNDS_MAX * INTERVAL_S, unless=is_known)
    assert is_known()
    return (world.now - began) / INTERVAL_S
