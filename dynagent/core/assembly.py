"""What a node is made of once it has a ring: every machine that lives in time, and how they know
each other.

Each decides one thing and has the same three handles: `due`, when it wants to be called next,
`on_tick`, and `on_ring`, when the ring has changed. The node calls them in the order of this page,
and knows no more of most of them.

When the ring changes, a machine keeps what still means something (who is up, what was verified,
what is owed), forgets what does not (members that are gone, partitions that are not its own), and
lets go of what it was doing under the old ring where that was about one partition's owners: what it
has moved is moved, and the rest is begun anew. Afterwards each has the tables that it would have
had if the node had just started with that ring.
"""

from __future__ import annotations

from typing import Protocol

from dynagent.core.antientropy import AntiEntropy
from dynagent.core.coordinator import Coordinator
from dynagent.core.delivery import Delivery
from dynagent.core.detector import GRAY_KEY, Detector, other_members
from dynagent.core.driver import Driver
from dynagent.core.electors import Electors
from dynagent.core.facts import Fact
from dynagent.core.former import Former
from dynagent.core.gossip import Gossiper
from dynagent.core.heal import Healer
from dynagent.core.jobs import Jobs, Kind
from dynagent.core.newcomer import Newcomer
from dynagent.core.portrait import SelfPortrait
from dynagent.core.ports import NodeId
from dynagent.core.purge import Purger
from dynagent.core.reaim import Reaimer
from dynagent.core.registration import REGISTERED, STARTING, Registration
from dynagent.core.repair import Repair
from dynagent.core.ring import Ring, token_of
from dynagent.core.ringlog import RingLog
from dynagent.core.scrub import Scrubber
from dynagent.core.transfer import Transfers
from dynagent.core.whereabouts import Whereabouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynagent.core.node import Node


class Machine(Protocol):
    """Lives in time: feeds on `on_tick`."""

    @property
    def due(self) -> float:
        """When `on_tick` is; infinite: not before something else happens."""

    def on_tick(self, now: float) -> None: ...

    def on_ring(self, now: float, ring: Ring) -> None:
        """The ring is another; the replica, and the machines before this one, know it already."""


def assemble(node: Node, ring: Ring) -> None:
    """Makes all of them for a node that has just learnt its ring."""
    settings, counterpart = node.settings, node.counterpart
    node.coordinator = coordinator = Coordinator(
        node_id=node.node_id,
        ring=ring,
        replica=node.replica,
        effects=node.effects,
        wall_ms=node.wall_ms,
        value_bytes_max=settings.value_bytes_max,
        siblings_max=settings.siblings_max,
        budget=node.budget,
        admission=node.admission,
        count_error=node.count_error,
    )
    coordinator.begin = node.begin
    node.copies.coordinator = counterpart.coordinator = coordinator
    node.sources.coordinator = coordinator
    node.purge_answers.coordinator = coordinator
    node.delivery = delivery = Delivery(coordinator)
    counterpart.is_serving = delivery.is_serving
    node.healer = healer = Healer(coordinator)
    node.antientropy = antientropy = AntiEntropy(
        coordinator,
        busy=counterpart.busy,
        is_serving=delivery.is_serving,
        interval_s=settings.antientropy_interval_s,
        is_draining=lambda: node.draining,
    )
    node.purger = purger = Purger(
        coordinator,
        node.purge_answers,
        rest_s=settings.tombstone_rest_s,
        is_draining=lambda: node.draining,
    )
    node.transfers = transfers = Transfers(
        coordinator, node.reader, is_draining=lambda: node.draining
    )
    node.copies.has_fenced = transfers.accepts
    node.former = former = Former(coordinator, is_draining=lambda: node.draining)
    reaimer = Reaimer(coordinator, former, is_draining=lambda: node.draining)
    delivery.on_misaimed = reaimer.look_again
    delivery.on_settled = former.look_again

    def on_up(now: float, peer: NodeId) -> None:
        """The detector has found that a peer can be used."""
        coordinator.up.add(peer)
        if registration.state == REGISTERED:
            wake(now, peer)

    def wake(now: float, peer: NodeId) -> None:
        delivery.wake(now, peer)
        healer.wake(now)
        antientropy.wake(now, peer)
        purger.wake(now, peer)
        transfers.wake(now, peer)
        former.wake(now, peer)

    gray_token = token_of(GRAY_KEY)
    node.detector = detector = Detector(
        node_id=node.node_id,
        names=other_members(ring, node.node_id),
        effects=node.effects,
        dice=node.probe_dice,
        timing=settings.timing,
        take_number=coordinator.take_number,
        probe_stamp=lambda: coordinator.aim_of(gray_token).stamp,
        on_up=on_up,
        on_down=coordinator.on_peer_down,
    )
    coordinator.peers = detector.peers
    node.ringlog = ringlog = RingLog(
        ring=ring,
        coordinator=coordinator,
        reader=node.reader,
        dice=node.ring_dice,
        on_ring=node.on_ring,
    )

    def on_fact(now: float, fact: Fact) -> None:
        """Gossip has news of a member."""
        if fact.portrait.epoch > ringlog.ring.epoch:
            ringlog.on_ring_is(now, fact.node, fact.portrait.epoch)

    node.gossip = gossip = Gossiper(
        node_id=node.node_id,
        cluster_id=ring.cluster_id,
        run=node.replica.run,
        peers=detector.peers,
        draw=SelfPortrait(node, started_ms=node.started_ms).draw,
        effects=node.effects,
        dice=node.gossip_dice,
        interval_s=settings.timing.gossip_interval_s,
        take_number=coordinator.take_number,
        on_fact=on_fact,
        on_refuted=lambda now: registration.doubt(now),
    )
    node.driver = driver = Driver(
        coordinator,
        ringlog,
        transfers,
        node.sources,
        may_retire=lambda: former.is_empty and reaimer.is_done and not node.replica.hints.targets,
        is_draining=lambda: node.draining,
    )
    node.electors = electors = Electors(ringlog, coordinator, gossip.facts)
    node.scrubber = scrubber = Scrubber(
        coordinator, node.reader, interval_s=settings.scrub_interval_s
    )
    kinds: dict[str, Kind] = {
        "repair": Repair(coordinator, antientropy, moves=True),
        "verify": Repair(coordinator, antientropy, moves=False),
        "scrub": scrubber,
    }
    node.jobs = jobs = Jobs(coordinator, node.reader, kinds)
    jobs.load()
    node.replacements.log, node.replacements.coordinator = ringlog, coordinator
    node.registrar.is_up = coordinator.up.__contains__

    def where() -> str:
        return str(node.about.get("address", ""))

    machines: list[Machine] = [
        *(coordinator, detector, delivery, node.rebuilder, healer),
        *(gossip, antientropy, jobs, purger),
        *(ringlog, electors, Whereabouts(ringlog, coordinator, node.reader, where)),
        *(node.sources, transfers, driver, reaimer, former, Newcomer(coordinator)),
    ]

    def on_registered(now: float) -> None:
        node.machines = [*machines, registration]
        node.on_registered(now)
        for peer in sorted(coordinator.up - {node.node_id}):
            wake(now, peer)

    node.registration = registration = Registration(
        coordinator=coordinator,
        starts=node.starts,
        address=where,
        on_registered=on_registered,
        on_refused=node.on_start_refused,
        on_double=lambda address: node.meet_double(address),
    )
    # First who is there: the coordinator aims anew at once, also at those that have just joined.
    node.followers = [detector, *(one for one in machines if one is not detector), registration]
    # Until its start is registered a node does nothing by itself that concerns its store.
    is_starting = registration.state == STARTING
    node.machines = [*([coordinator, detector, ringlog] if is_starting else machines), registration]
