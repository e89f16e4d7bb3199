"""The first ring of a simulated cluster, handed to fresh agents over the wire."""

from __future__ import annotations

from collections.abc import Callable

import trio

from dynagent.client.routing import Plan
from dynagent.core.messages import Install, Installed, Message
from dynagent.core.ring import Member, Ring
from dynagent.core.ringcodec import encode_ring
from dynagent.core.voters import choose_voters
from dynagent.errors import DynagentError
from dynagent.testing.level2.clients import Caller
from dynagent.testing.level2.host import SimHost
from dynagent.testing.level2.watch import Watch
from dynagent.testing.level2.wires import Wires
from dynagent.testing.world import World

N, R, W = 3, 2, 2
PARTITIONS = 8
_POLL_S = 0.05


async def until(holds: Callable[[], bool]) -> None:
    """Waits for something that does not know that anybody waits for it."""
    while not holds():  # noqa: ASYNC110 - virtual time: looking costs next to nothing
        await trio.sleep(_POLL_S)


async def bootstrap(world: World, wires: Wires, watch: Watch, hosts: list[SimHost]) -> Ring:
    """Every host gets its first ring, however often that takes."""
    await until(lambda: all(host.node_id for host in hosts))
    ring = watch.ring = make_ring(hosts)
    operator = Caller(world, wires, "operator")
    for host in hosts:
        while True:
            if await _install(world, operator, host, ring):
                break
            await trio.sleep(_POLL_S)
    return ring


async def _install(world: World, operator: Caller, host: SimHost, ring: Ring) -> bool:
    answered = trio.Event()
    results: list[Message | DynagentError] = []

    def outcome(result: Message | DynagentError) -> None:
        results.append(result)
        answered.set()

    operator.run(
        Plan([host.address], deadline=world.now + 2.0, is_write=False),
        Install(encode_ring(ring)),
        outcome=outcome,
        on_try=lambda _address, _timeout_s: None,
        on_failed=lambda error: world.log(f"operator is told {error.message}"),
    )
    await answered.wait()
    return isinstance(results[0], Installed)


def make_ring(hosts: list[SimHost]) -> Ring:
    """A ring of these hosts; with more than N, each owns some keys and routes the others."""
    ids = [host.node_id for host in hosts]
    members = [
        Member(
            id=host.node_id,
            name=host.place,
            address=host.address,
            zone="",
            host=host.place,
            capacity=1,
        )
        for host in hosts
    ]
    return Ring(
        epoch=1,
        cluster_id=b"simulated world.",
        n=N,
        r=R,
        w=W,
        members=tuple(sorted(members, key=lambda member: member.id)),
        lists=tuple(
            tuple(ids[(partition + place) % len(ids)] for place in range(N))
            for partition in range(PARTITIONS)
        ),
        voters=choose_voters(members),
    )
