"""Should this node be sent requests? What a load balancer or a supervisor asks.

Ready is a node that belongs to a ring, whose start is registered (`core.registration`), that does
not drain, and reaches R and W owners (the larger of the two, itself counted) of at least half of
all partitions. Half, because the question is on which side of a broken network this node is: the
small side should get no traffic, while a cluster that has lost some nodes goes on with the keys it
can serve, and must not declare all of itself unready.
"""

from __future__ import annotations

from dynagent.core.coordinator import Coordinator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynagent.core.node import Node


def unready_reason(node: Node) -> str:
    """Why this node should get no requests; empty if it is ready."""
    coordinator = node.coordinator
    if node.is_removed:
        return "this agent is no member of its cluster any more; move its data directory away"
    if coordinator is None:
        return "this agent belongs to no cluster yet"
    if node.draining:
        return "this agent is stopping"
    if node.registration is not None and (reason := node.registration.reason()):
        return reason
    short, partitions = below_quorum(coordinator), coordinator.ring.partitions
    if 2 * short > partitions:
        return f"too few owners are reachable for {short} of {partitions} partitions"
    return ""


def below_quorum(coordinator: Coordinator) -> int:
    """How many partitions have fewer than R or W owners within this node's reach."""
    ring, up = coordinator.ring, coordinator.up
    needed = max(ring.r, ring.w)
    return sum(len(up.intersection(owners)) < needed for owners in ring.lists)
