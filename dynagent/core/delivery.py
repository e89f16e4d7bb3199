"""Hint delivery: giving back what was kept for an owner while it was away (Dynamo §4.6).

For each target that is up and is owed something, at most one Merge of a bounded page of its hints
is under way. Its acknowledgement means that the copies sent are durable there; each hint whose copy
is still that one is settled, and a copy that nobody is owed any more goes, unless we own the key.
Then the next page follows.

    target up, hints ──▶ page read ──▶ Merge ──ack──▶ settled ──▶ next page … none left
                              ▲          ├─failure, refusal, no answer─▶ pause, doubled each time
                              │          └─not yet (decision 0020)─▶ pause, never a long one
                              └────────────────────────────────────────────┘

What holds:

- A hint is removed only when its target has acknowledged, durably, the copy that lies here then. A
  copy that has changed meanwhile keeps its hint, and is sent again.
- An unreadable copy is no source: its hint stays until the copy is healed.
- A crash of either side costs the page under way: it is sent again, and merged again.
- An operator may pause the delivery to a target, or all of it; that lasts until the agent restarts.
- The ring changes: a page under way goes on, for its target keeps it, or refuses it. To who is no
  member any more nothing is sent; what it was owed is for others then.

Where a target has missed more than could be noted, a whole partition is dirty for it: those come
when its hints have been gone through, one partition after the other (`core.walk`).

The bytes are granted by the background budget (design §8).

While a target that was away catches up (`is_serving`), its trees are not compared with ours
(`core.antientropy`, `core.counterpart`): what it lacks is on its way to it already.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from dynagent import limits
from dynagent.core.admission import Gate
from dynagent.core.coordinator import Coordinator, Operation
from dynagent.core.entry import encode_entry
from dynagent.core.messages import (
    HINTS_NOW,
    HINTS_PAUSE,
    HINTS_RESUME,
    MergeAck,
    Message,
)
from dynagent.core.ports import LinkId, NodeId, PartitionId, Token
from dynagent.core.ring import Ring, Stamp
from dynagent.core.walk import Walk
from dynagent.errors import BadRequest, CorruptRecord

_NO_LINK = LinkId(-1)

# What was sent of a key: where it lies, and the digest of its copy (b"": there is none any more).
_Sent = tuple[Token, bytes, bytes]


class _Target:
    """One node that is owed something."""

    __slots__ = ("after", "catches_up", "due", "operation", "pause_s", "walk")

    def __init__(self, due: float) -> None:
        self.after = b""  # the place up to which its hints have been gone through
        self.due = due  # when to send the next page
        self.pause_s = 0.0  # after the last failure
        # It was away, or failed, or a partition is dirty for it: all that it is owed is gone
        # through, and not yet to the end. Not: a straggler's few hints.
        self.catches_up = False
        self.operation: PageOperation | None = None
        self.walk: Walk | None = None  # through a dirty partition; no hints are sent meanwhile


class Delivery:
    """Delivers all hints of this node. `wake` is to be called whenever a target comes up."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.delivered = 0  # hints settled since the start
        self.walked = 0  # dirty partitions cleared since then
        self.paused: set[NodeId] = set()
        self.is_paused = False  # all of it
        # Told of a target that is owed something of a partition that it does not own.
        self.on_misaimed: Callable[[NodeId], None] = lambda _target: None
        # Told of a partition that is not ours where a hint has gone: what it explained may go too.
        self.on_settled: Callable[[PartitionId], None] = lambda _partition: None
        self.coordinator = coordinator
        self._hints = coordinator.replica.hints
        self._targets: dict[NodeId, _Target] = {}

    def wake(self, now: float, node: NodeId) -> None:
        """`node` has come up, or what it is owed shall be delivered at once."""
        if node in self._hints.targets:
            target = self._targets.setdefault(node, _Target(now))
            target.due, target.pause_s, target.after = now, 0.0, b""
            target.catches_up = True

    def on_ring(self, now: float, ring: Ring) -> None:
        """A walk through a partition that its target does not own any more ends; the mark stays
        until somebody else has been given what it stands for."""
        self.paused = {node for node in self.paused if ring.member(node) is not None}
        for node, target in self._targets.items():
            if target.walk is not None and not ring.owns(node, target.walk.partition):
                target.walk = None

    def is_serving(self, node: NodeId) -> bool:
        """Does `node` catch up with what it missed, from here, and does that progress? Whoever
        waits for this to end does not wait for ever, whatever the state:

        - nobody sends: it is down, an operator has paused it, or it is owed nothing: False;
        - a page has failed, or was refused: False until the next one is acknowledged; so a page
          without an answer bars others for `HINT_PAGE_S`, once;
        - a page is under way, or waits for the budget, which always grants more in the end: True.
          With each page the place gets on, and the list has an end;
        - at the end of the list: False, also if hints are left that cannot be delivered (copies
          that are unreadable, or too large). They are tried again, but do not count any more;
        - a walk has come to its end and more was owed meanwhile: False for `HINT_REST_S`, then it
          is walked again.
        """
        target = self._targets.get(node)
        return (
            target is not None
            and target.catches_up
            and not target.pause_s
            and (node in self._hints.counts or node in self._hints.dirty)
            and node in self.coordinator.up
            and not self.is_paused
            and node not in self.paused
        )

    @property
    def due(self) -> float:
        """When `on_tick` is; infinite if nobody is owed anything, or nobody can be given it."""
        if not self._hints.counts and not self._hints.dirty:
            return inf
        dues = [
            target.due if (target := self._targets.get(node)) else 0.0
            for node in self._hints.targets
            if self._may_send(node)
        ]
        return min(dues, default=inf)

    def on_tick(self, now: float) -> None:
        owed = self._hints.targets
        for node in owed:
            target = self._targets.get(node)
            if target is None:  # young hints: their writes are hardly over
                target = self._targets[node] = _Target(now + limits.HINT_REST_S)
            if target.due <= now and self._may_send(node):
                budget = self.coordinator.budget
                if room := budget.grant(now, limits.HINT_PAGE_BYTES):
                    self._send_page(now, node, target, room)
                else:
                    target.due = budget.next_grant_at(now)
        for node in [node for node in self._targets if node not in owed]:
            if self._targets[node].operation is None:
                del self._targets[node]

    def order(self, now: float, action: int, node: NodeId | None) -> None:
        """An operator's order for one target, or for all; raises `BadRequest`."""
        if action not in (HINTS_PAUSE, HINTS_RESUME, HINTS_NOW):
            raise BadRequest(f"unknown order {action} for hints")
        if action == HINTS_PAUSE and node is not None:
            self.paused.add(node)
        elif action == HINTS_PAUSE:
            self.is_paused = True
        elif node is not None:
            self.paused.discard(node)
            self.wake(now, node)
        else:
            self.is_paused = False
            self.paused.clear()
            for target in self._hints.targets:
                self.wake(now, target)

    def document(self) -> dict[str, object]:
        """For the status of this node."""
        return {
            "delivered": self.delivered,
            "walked": self.walked,
            "is_paused": self.is_paused,
            "paused": sorted(self.paused),
            "under_way": sorted(
                node for node, target in self._targets.items() if target.operation is not None
            ),
        }

    def _may_send(self, node: NodeId) -> bool:
        target = self._targets.get(node)
        return (
            node in self.coordinator.up
            and not self.is_paused
            and node not in self.paused
            and (target is None or target.operation is None)
        )

    def _send_page(self, now: float, node: NodeId, target: _Target, room: int) -> None:
        try:
            if target.walk is not None:
                self._send_partition(now, target, target.walk, room)
            else:
                self._send_hints(now, node, target, room)
        except CorruptRecord as exc:
            self.coordinator.effects.note("hints.unreadable", target=node, reason=exc.message)
            self._pause(now, target)

    def _send_hints(self, now: float, node: NodeId, target: _Target, room: int) -> None:
        rows = self._hints.page(node, target.after, limits.HINT_PAGE_ROWS)
        sent, entries, barriers, stamp = self._page(node, target, rows, room)
        if rows and entries:
            self._send(now, node, target, sent, entries, barriers, stamp)
        elif rows:
            self._settle(node, sent)
            target.due = now
        else:  # at the end: what has been left is tried again, but not at once
            target.after = b""
            target.due = now + limits.HINT_REST_S
            target.catches_up = False
            self._begin_walk(now, node, target)

    def _begin_walk(self, now: float, node: NodeId, target: _Target) -> None:
        """Through the first partition that is dirty for it. Not through one that it does not own
        (any more, as a put under an older ring may have marked it): it would refuse every page."""
        ring, dirty = self.coordinator.ring, self._hints.dirty.get(node, set())
        its_own = [partition for partition in dirty if ring.owns(node, partition)]
        if its_own:
            target.walk = Walk(self.coordinator.replica, node, min(its_own))
            target.due = now
            target.catches_up = True
        if len(its_own) < len(dirty):
            self.on_misaimed(node)

    def _send_partition(self, now: float, target: _Target, walk: Walk, room: int) -> None:
        entries, barriers = walk.page(self.coordinator.ring.partitions, room)
        if entries:
            stamp = self.coordinator.ring.stamps[walk.partition]
            self._send(now, walk.target, target, [], entries, barriers, stamp)
            return
        target.walk = None
        if walk.finish():
            self.walked += 1
            target.due = now
            if walk.partition not in self._hints.owned:
                self.on_settled(walk.partition)
        else:
            target.due = now + limits.HINT_REST_S
            target.catches_up = False

    def _send(
        self,
        now: float,
        node: NodeId,
        target: _Target,
        sent: list[_Sent],
        entries: list[list[object]],
        barriers: list[int],
        stamp: Stamp,
    ) -> None:
        size = sum(len(entry[1]) for entry in entries if isinstance(entry[1], bytes))
        self.coordinator.budget.spend(now, size, len(entries))
        target.operation = PageOperation(self, now, node, sent)
        merge = self.coordinator.make_merge(stamp, entries, barriers)
        budget_ms = target.operation.budget_ms(now)
        self.coordinator.send(now, [node], target.operation.number, budget_ms, merge)

    def _page(
        self, node: NodeId, target: _Target, rows: list[tuple[Token, bytes]], room: int
    ) -> tuple[list[_Sent], list[list[object]], list[int], Stamp]:
        """What of these rows goes into the next Merge, the entries of it, their barriers, and the
        stamp that their partitions share."""
        replica, aim_of = self.coordinator.replica, self.coordinator.aim_of
        stamp = aim_of(rows[0][0]).stamp if rows else (0, 0)
        sent: list[_Sent] = []
        entries: list[list[object]] = []
        barriers: list[int] = []
        size = 0
        replica.read_ahead([key for _, key in rows])
        for token, key in rows:
            aim = aim_of(token)
            if aim.stamp != stamp:
                break
            target.after = token + key
            if not self._hints.is_kept(node, token, key):
                continue
            if node not in aim.owners:
                self.on_misaimed(node)
                continue
            record = replica.newest(key, token)
            if record.unknown or len(record.content) > limits.RECORD_BYTES_MERGED_MAX:
                continue  # no source, or (decision 0010) too large until somebody settles the key
            if not record.value.clock:
                sent.append((token, key, b""))
                continue
            sent.append((token, key, record.digest))
            entries.append(encode_entry(key, record))
            barriers.append(replica.barriers.read_under(token))
            size += len(record.content)
            if size >= room:
                break
        return sent, entries, barriers, stamp

    def on_ack(self, now: float, node: NodeId, sent: list[_Sent]) -> None:
        """The page is durable there."""
        target = self._targets[node]
        target.operation = None
        target.pause_s = 0.0
        target.due = now
        if target.walk is not None:
            target.walk.advance()
        self._settle(node, sent)
        self.on_tick(now)

    def on_failure(self, now: float, node: NodeId) -> None:
        target = self._targets[node]
        target.operation = None
        target.after = b""
        self._pause(now, target)

    def on_put_off(self, now: float, node: NodeId) -> None:
        """It cannot take the page yet, and no more (decision 0020): it fences the old owners of
        what it gains, or one of us lacks an entry of the ring log."""
        target = self._targets[node]
        target.operation = None
        target.after = b""
        self._pause(now, target, limits.HINT_PUT_OFF_S_MAX)

    def _pause(
        self, now: float, target: _Target, pause_s_max: float = limits.HINT_PAUSE_S_MAX
    ) -> None:
        target.pause_s = min(2 * target.pause_s or limits.HINT_REST_S, pause_s_max)
        target.due = now + target.pause_s
        target.catches_up = True

    def _settle(self, node: NodeId, sent: list[_Sent]) -> None:
        """Removes the hints whose copy is still the one that was sent."""
        coordinator, hints = self.coordinator, self._hints
        replica = coordinator.replica
        for token, key, digest in sent:
            record = replica.newest(key, token)
            now_there = record.digest if record.value.clock else b""
            if record.unknown or now_there != digest:
                continue
            replica.settle(node, key, token)
            self.delivered += 1
            if not digest or hints.owns(token) or hints.owed(token, key):
                continue
            if hints.is_guest(token):
                replica.drop(key, token)
            else:  # in a partition that was given up, and goes as a whole
                self.on_settled(replica.barriers.partition_of(token))


class PageOperation(Operation):
    """One Merge of hints under way; it stands in the table so that its answer finds it."""

    __slots__ = ("delivery", "sent", "target")

    def __init__(self, delivery: Delivery, now: float, target: NodeId, sent: list[_Sent]) -> None:
        coordinator = delivery.coordinator
        super().__init__(coordinator, _NO_LINK, 0, now + limits.HINT_PAGE_S, gate=Gate())
        self.answered = True  # no client waits, and no gate counts it
        self.delivery = delivery
        self.target = target
        self.sent = sent

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if source != self.target:
            return
        self.finish()
        if isinstance(message, MergeAck):
            self.delivery.on_ack(now, self.target, self.sent)
        elif self.coordinator.is_put_off(source, message):
            self.delivery.on_put_off(now, self.target)
        else:
            self.delivery.on_failure(now, self.target)

    def on_failure(self, now: float, source: NodeId) -> None:
        if source == self.target:
            self.finish()
            self.delivery.on_failure(now, self.target)

    def on_deadline(self, now: float) -> None:
        self.delivery.on_failure(now, self.target)
