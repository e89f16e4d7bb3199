"""A node that has lost its store comes back under a new id (design §6, "Identity").

Its old id may never be used again, so a new one takes its places: by a change of the ring that
declares the copies of the old one lost. The joint phase of that change is the recovery. Whoever has
lost a store asks any member (`Enter`), which checks that this is what it looks like and has it
decided:

    whose     the member with that id, where a store was set aside and its identity file tells it;
              else the one with that name: a new disk in the same machine
    not alive nobody is replaced who can be reached: two agents with one name are an oversight
    possible  of each of its partitions so many other owners are up that every acknowledged put and
              get has met one of them, N − min(R, W) + 1: else the change would only wait
    allowed   the policy `auto-replace` is not `no`

Otherwise the answer says what to do by hand. The same node may ask again: once it is a member, it
is given the ring.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from hashlib import blake2b

from dynagent.core.coordinator import Coordinator
from dynagent.core.messages import Enter, Error, Message, RingReply
from dynagent.core.ports import Effects, LinkId, NodeId, PartitionId
from dynagent.core.ring import Member, Ring
from dynagent.core.ringcodec import encode_ring
from dynagent.core.ringentry import ChangeEntry, check_unchanging
from dynagent.core.ringlog import RingLog
from dynagent.errors import BadRequest, DynagentError, NotReady, Refused

POLICY = "auto-replace"
_NO = "no"  # anything else, and nothing: yes


class Replacements:
    """The node's handler of Enter. `log` is None before the bootstrap."""

    def __init__(self, effects: Effects) -> None:
        self.log: RingLog | None = None
        self.coordinator: Coordinator | None = None
        self._effects = effects

    def on_enter(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Enter)
        if self.log is None or self.coordinator is None:
            raise NotReady("this agent belongs to no cluster yet")
        log, ring = self.log, self.log.durable
        new = member_of(message)

        def on_done(now: float, error: DynagentError | None) -> None:
            if error is None:
                reply: Message = RingReply(log.durable.epoch, encode_ring(log.durable))
            else:
                reply = Error(error.code, error.message)
            self._effects.answer(link, request_id, reply)

        if ring.member(new.id) is not None:
            on_done(now, None)
            return
        old = find(ring, new, NodeId(message.replaces))
        check_replacement(ring, old, new, self.coordinator.up)
        self._effects.note("node.replacing", old=old.id, name=old.name, new=new.id)
        log.propose(now, plan_replacement(ring, old, new), on_done, epoch=ring.epoch)


def member_of(message: Enter) -> Member:
    """Who asks; raises `BadRequest`."""
    if not message.node or not message.address or not message.host:
        raise BadRequest("who enters a cluster says its node id, address and host")
    return Member(
        id=NodeId(message.node),
        name=message.name or message.node,
        address=message.address,
        zone=message.zone,
        host=message.host,
        capacity=message.capacity,
    )


def find(ring: Ring, new: Member, old: NodeId) -> Member:
    """Whom it replaces: that member, if there is one, or the one of its name. Raises `Refused`."""
    found = ring.member(old) or next((m for m in ring.members if m.name == new.name), None)
    if found is None:
        raise Refused(
            f"no member of this cluster is named {new.name}, so there is nobody to replace; to add"
            f" a node: dynctl join {new.address}"
        )
    return found


def check_replacement(ring: Ring, old: Member, new: Member, up: Collection[NodeId]) -> None:
    """Raises `Refused`, with what to do by hand."""
    check_unchanging(ring)
    if dict(ring.policies).get(POLICY) == _NO:
        raise Refused(
            f"{old.name} is not replaced by itself, as the policy {POLICY} says;"
            f" dynctl replace {old.name} {new.address}"
        )
    if old.id in up:
        raise Refused(
            f"the member {old.name} ({old.id}) is up at {old.address}, so {new.address} cannot be"
            " it; give this agent another name"
        )
    if old.id in ring.removed or old.id in ring.leaving:
        raise Refused(f"{old.name} is going already; to add a node: dynctl join {new.address}")
    if any(m.name == new.name or m.address == new.address for m in ring.members if m is not old):
        raise Refused(f"another member has the name {new.name}, or the address {new.address}")
    needed = ring.n - min(ring.r, ring.w) + 1
    for owners in ring.lists:
        if old.id in owners:
            others = [node for node in owners if node != old.id]
            if sum(node in up for node in others) < min(needed, len(others)) or not others:
                raise Refused(
                    f"too few other copies of what {old.name} held can be reached now; start the"
                    " nodes that are down"
                )
    _check_hosts(ring, old, new)


def _check_hosts(ring: Ring, old: Member, new: Member) -> None:
    host_of = {member.id: member.host for member in ring.members}
    for owners in ring.lists:
        others = [host_of[node] for node in owners if node != old.id]
        if old.id in owners and new.host in others and old.host not in others:
            raise Refused(
                f"on host {new.host} there is another copy of what {old.name} held; start this"
                f" agent elsewhere, or: dynctl remove {old.name} --force"
            )


def plan_replacement(ring: Ring, old: Member, new: Member) -> ChangeEntry:
    """The change that puts `new` into the places of `old`, whose copies are lost. It takes over the
    capacity too, so that the ring is as balanced as it was."""
    members = (*ring.members, replace(new, capacity=old.capacity))
    moves = tuple(
        (PartitionId(p), tuple(new.id if node == old.id else node for node in owners))
        for p, owners in enumerate(ring.lists)
        if old.id in owners
    )
    return ChangeEntry(
        id=blake2b(f"{old.id} {new.id}".encode(), digest_size=16, person=b"dyn-replace").digest(),
        verb=f"replace {old.name} by itself",
        members=tuple(sorted(members, key=lambda member: member.id)),
        leaving=ring.leaving,
        removed=(*ring.removed, old.id),
        moves=moves,
    )
