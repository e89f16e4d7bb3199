"""A node that is reached at another address than before has the ring changed (design §6).

Name and address are attributes: the same store with another port or IP is the same node. It dials
the others, so it can register, and then proposes a change of the ring that moves nothing: they dial
it there from then on, and clients learn it with the ring. While another change is under way, or
where too few voters can be reached, it tries again.

A row of the store has the address that was told last. A node that is where it was says nothing,
even if the ring has another address for it: an operator knows of proxies that it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from math import inf

from dynagent import limits
from dynagent.core.coordinator import Coordinator
from dynagent.core.ports import NodeId, Reader
from dynagent.core.ring import Ring
from dynagent.core.ringentry import ChangeEntry
from dynagent.core.ringlog import RingLog
from dynagent.errors import DynagentError

ROW = "address"  # the named row of the store


class Whereabouts:
    """One node's watch over where it is. `address`: where it is reached; "": that is not known."""

    def __init__(
        self,
        log: RingLog,
        coordinator: Coordinator,
        reader: Reader,
        address: Callable[[], str],
    ) -> None:
        self.due = 0.0  # once it is registered
        self._log = log
        self._coordinator = coordinator
        self._address = address
        self._told = (reader.get_meta(ROW) or b"").decode(errors="replace")
        self._is_proposing = False

    def on_ring(self, now: float, ring: Ring) -> None:
        """What it has to say it says until it is so, whatever the ring becomes."""

    def on_tick(self, now: float) -> None:
        if now < self.due:
            return
        address, ring = self._address(), self._log.durable
        entry = plan_address(ring, self._coordinator.node_id, address)
        if address == self._told or entry is None:
            self.due = inf
            if address != self._told:
                self._told = address
                self._coordinator.replica.keep_row(ROW, address.encode())
            return
        self.due = now + limits.ADDRESS_REST_S
        if not self._is_proposing and ring.change is None:
            self._is_proposing = True
            self._coordinator.effects.note("node.moved", address=address)
            self._log.propose(now, entry, self._on_done)

    def _on_done(self, now: float, error: DynagentError | None) -> None:
        self._is_proposing = False
        if error is None:
            self.due = now
        else:
            self._coordinator.effects.note("node.not_moved", reason=error.message)


def plan_address(ring: Ring, node: NodeId, address: str) -> ChangeEntry | None:
    """The change that says so; None if there is nothing to say."""
    member = ring.member(node)
    if member is None or not address or member.address == address:
        return None
    here = replace(member, address=address)
    content = f"{node} {address} {ring.epoch}".encode()
    return ChangeEntry(
        id=blake2b(content, digest_size=16, person=b"dyn-address").digest(),
        verb=f"{member.name} is at {address}",
        members=tuple(here if other is member else other for other in ring.members),
        leaving=ring.leaving,
        removed=ring.removed,
        moves=(),
    )
