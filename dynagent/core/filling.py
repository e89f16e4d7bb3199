"""One pass through a hollow partition: what do the other owners hold there? (`core.heal`)

They are listed one after the other, page by page, until as many of them as a healed copy takes have
been listed to the end. What one of them holds of which this node has no copy, or only an old one,
waits to be healed from then on. An owner that misses records there itself refuses to be listed: a
page of what it has left would say that the rest was never there.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.admission import Gate
from dynagent.core.coordinator import Operation
from dynagent.core.entry import unflatten
from dynagent.core.messages import Error, List, ListReply, Message
from dynagent.core.ports import LinkId, NodeId, PartitionId
from dynagent.core.ring import token_of
from dynagent.errors import Unhealthy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynagent.core.heal import Healer

_NO_LINK = LinkId(-1)


class Filling:
    """One pass through a hollow partition at as many other owners as a healed copy takes."""

    def __init__(self, healer: Healer, partition: PartitionId) -> None:
        self.partition = partition
        self.healer = healer
        self._coordinator = healer.coordinator
        self._unknown = healer.coordinator.replica.unknown
        owners = healer.coordinator.ring.read_list(partition)
        self._others, self._needed = healer.quorum(owners)
        self._listed: list[NodeId] = []  # who has been listed to the end
        self._refused: set[NodeId] = set()  # in this round
        self._unsure: set[NodeId] = set()  # who miss records there too, as they last said
        self._after = b""
        self._operation: ListOperation | None = None

    @property
    def is_listed(self) -> bool:
        """What is left are the keys that wait."""
        return len(self._listed) >= self._needed

    @property
    def is_stuck(self) -> bool:
        """Too many of the others do not know either."""
        return len(self._others) - len(self._unsure) < self._needed <= len(self._others)

    @property
    def can_go_on(self) -> bool:
        """There is something to do now."""
        if self._operation is not None:
            return False
        if self.is_listed:
            return not self._unknown.waiting_in(self.partition)
        return len(self._unknown.keys) < limits.HEAL_KEYS_MAX // 2

    def on_tick(self, now: float) -> None:
        if not self.can_go_on:
            return
        if self.is_listed:
            self.healer.on_filled(now, self.partition)
            return
        up = [
            node
            for node in self._others
            if node in self._coordinator.up
            and node not in self._listed
            and node not in self._refused
        ]
        if not up:
            self._refused.clear()
            self.healer.set_aside(now, self)
            return
        self._operation = ListOperation(self, now, up[0])
        message = List(self.partition, self._after)
        budget_ms = self._operation.budget_ms(now)
        self._coordinator.send(now, [up[0]], self._operation.number, budget_ms, message)

    def stop(self) -> None:
        """The page under way finds nobody."""
        if self._operation is not None:
            self._operation.finish()

    def on_page(self, now: float, source: NodeId, page: ListReply) -> None:
        if page.unreadable:  # it may hold keys that it cannot name
            self.on_failure(now, source, is_unsure=True)
            return
        self._operation = None
        self._unsure.discard(source)
        replica = self._coordinator.replica
        self._coordinator.budget.spend(now, 0, page.looked_at)
        for key, clock, _dots in page.rows:
            assert isinstance(key, bytes)
            own = replica.newest(key, token_of(key))
            its = dict(unflatten(clock))
            if own.unknown or any(n > own.value.clock.get(actor, 0) for actor, n in its.items()):
                replica.wants(key)
        self._after = page.position
        if not page.position:
            self._listed.append(source)
        self.healer.go_on(now)

    def on_failure(self, now: float, source: NodeId, *, is_unsure: bool) -> None:
        self._operation = None
        self._refused.add(source)
        if is_unsure:
            self._unsure.add(source)
        self._after = b""


class ListOperation(Operation):
    """One page of one owner's keys under way."""

    __slots__ = ("filling", "source")

    def __init__(self, filling: Filling, now: float, source: NodeId) -> None:
        coordinator = filling.healer.coordinator
        super().__init__(coordinator, _NO_LINK, 0, now + limits.HEAL_READ_S, gate=Gate())
        self.answered = True  # no client waits, and no gate counts it
        self.filling = filling
        self.source = source

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if source != self.source:
            return
        self.finish()
        if isinstance(message, ListReply):
            self.filling.on_page(now, source, message)
        else:
            is_unsure = isinstance(message, Error) and message.error == Unhealthy.code
            self.filling.on_failure(now, source, is_unsure=is_unsure)

    def on_failure(self, now: float, source: NodeId) -> None:
        if source == self.source:
            self.finish()
            self.filling.on_failure(now, source, is_unsure=False)

    def on_deadline(self, now: float) -> None:
        self.filling.on_failure(now, self.source, is_unsure=False)
