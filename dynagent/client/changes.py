"""Planning a change of the ring: who gets what, as the entry that the log is asked to decide.

Pure functions of a ring and of what is wanted; `claim.plan` finds the placement, this file says
what it is asked for. A plan is for one epoch: when the ring has moved on, plan again.

    join     fresh nodes become members and take their share
    leave    members give up what they own, then go; until then they serve, and are copied from
    replace  a fresh node takes exactly the places of another, which leaves, or is removed
    remove   members are gone for good, and their copies with them; others take their places
    set      another capacity (0: a router, which stores nothing), zone, host or address

**Least movement.** `moved` counts the places that are new to their holder: each is a partition to
be copied. No balanced placement has fewer: the certificate of `claim.plan` is checked here. (A
replacement that keeps the places needs none: all places of the old node have to go somewhere.)

**Replace keeps places** unless a rule of hosts or zones forbids it for the new node; then the
places are planned anew and `notes` says so. The new node takes over the old one's capacity as well,
so that the ring is as balanced as it was.

Nobody's liveness is looked at here: `client.guards` does that before a change is proposed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dynagent.core import claim
from dynagent.core.claim_rules import fault, rules
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Member, Owners, Ring
from dynagent.core.ringentry import ChangeEntry, Entry, check_unchanging, fold
from dynagent.errors import BadRequest, PlanInfeasible, Refused

_NAMED = 5
NOBODY = NodeId("-")  # the proposer of an entry that is not proposed yet


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlan:
    """What to propose for the ring of one epoch, and what it means."""

    ring: Ring  # that it was made for
    entry: ChangeEntry
    after: Ring  # that this entry makes of it: with the change under way, if anything moves
    moved: int  # places that are new to their holder: the fewest there can be, certified
    bound: int  # a simple lower bound of that: what nodes lack to the floor of their shares
    notes: tuple[str, ...] = ()  # what an operator should know of it

    @property
    def lists(self) -> tuple[Owners, ...]:
        """Who owns what when it is settled."""
        moves = self.after.moves
        return tuple(
            moves[at].owners if (at := PartitionId(p)) in moves else owners
            for p, owners in enumerate(self.after.lists)
        )

    @property
    def places(self) -> dict[NodeId, tuple[int, int]]:
        """Of each member, old and new: its places before and after."""
        before = Counter(node for row in self.ring.lists for node in row)
        after = Counter(node for row in self.lists for node in row)
        return {member.id: (before[member.id], after[member.id]) for member in self.entry.members}

    @property
    def gains(self) -> Counter[NodeId]:
        """How many places each node has to copy."""
        after = self.after
        return Counter(node for p in after.moves for node in after.new_owners(p))


def plan_join(
    ring: Ring, joining: Sequence[Member], *, id: bytes, allow_colocated: bool = False
) -> ChangePlan:
    """Fresh nodes become members. Raises `Refused` if one cannot, `PlanInfeasible`."""
    check_unchanging(ring)
    if not joining:
        raise BadRequest("no node is named that should join")
    members = list(ring.members)
    for node in joining:
        _check_unlike(node, members)
        members.append(node)
    verb = f"join {_some(node.name for node in joining)}"
    change = _entry(ring, verb, members, id=id)
    return _planned(ring, change, notes=_shared_hosts(joining, members), allow=allow_colocated)


def plan_leave(
    ring: Ring, leaving: Sequence[NodeId], *, id: bytes, allow_colocated: bool = False
) -> ChangePlan:
    """Members give up all they own, then go. Raises `Refused`, `PlanInfeasible`."""
    check_unchanging(ring)
    _check_named(ring, leaving)
    for node in leaving:
        if node in ring.leaving:
            raise Refused(f"{name_of(ring, node)} is leaving already; see: dynctl transfers")
    verb = f"leave {_some(name_of(ring, node) for node in leaving)}"
    change = _entry(ring, verb, ring.members, id=id, leaving=leaving)
    return _planned(ring, change, allow=allow_colocated)


def plan_remove(
    ring: Ring, removed: Sequence[NodeId], *, id: bytes, allow_colocated: bool = False
) -> ChangePlan:
    """Members are gone for good, and their copies are lost. Raises `Refused`, `PlanInfeasible`."""
    check_unchanging(ring)
    _check_named(ring, removed)
    verb = f"remove {_some(name_of(ring, node) for node in removed)}"
    change = _entry(ring, verb, ring.members, id=id, removed=removed)
    return _planned(ring, change, allow=allow_colocated)


def plan_replace(
    ring: Ring,
    old: NodeId,
    new: Member,
    *,
    id: bytes,
    removed: bool = False,
    allow_colocated: bool = False,
) -> ChangePlan:
    """`new`, a fresh node, takes the places of `old`, which leaves; or is `removed`, and its copies
    are lost. Raises `Refused`, `PlanInfeasible`."""
    return plan_replacements(
        ring, {old: new}, id=id, removed=removed, allow_colocated=allow_colocated
    )


def plan_replacements(
    ring: Ring,
    heirs: Mapping[NodeId, Member],
    *,
    id: bytes,
    removed: bool = False,
    allow_colocated: bool = False,
) -> ChangePlan:
    """The same of several nodes at once, as is needed if too many owners are lost to replace one
    after the other."""
    check_unchanging(ring)
    _check_named(ring, list(heirs))
    members, pairs, notes = list(ring.members), [], []
    # Of one that is removed, the name and address may be taken over: a machine with a new disk.
    others = [member for member in ring.members if not (removed and member.id in heirs)]
    for old, new in heirs.items():
        was = ring.member(old)
        assert was is not None
        if old in ring.leaving and not removed:
            raise Refused(f"{was.name} is leaving already; see: dynctl transfers")
        _check_unlike(new, others)
        others.append(new)
        members.append(replace(new, capacity=was.capacity))
        pairs.append(f"{was.name} by {new.name}")
        if new.capacity != was.capacity:
            notes.append(
                f"{new.name} takes over the capacity of {was.name}, {was.capacity}; its own is "
                f"{new.capacity}: dynctl node set {new.name} --capacity {new.capacity}"
            )
    gone = {"removed": list(heirs)} if removed else {"leaving": list(heirs)}
    change = _entry(ring, f"replace {_some(pairs)}", members, id=id, **gone)
    ids = {old: new.id for old, new in heirs.items()}
    lists = tuple(tuple(ids.get(node, node) for node in row) for row in ring.lists)
    if broken := _broken(ring, change, lists, allow_colocated):
        notes.append(f"the places cannot be taken over as they are: {broken}")
        return _planned(ring, change, notes=notes, allow=allow_colocated)
    places = sum(node in ids for row in ring.lists for node in row)
    return _folded(ring, change, lists, moved=places, bound=places, notes=notes)


def plan_members(
    ring: Ring, changed: Sequence[Member], *, id: bytes, allow_colocated: bool = False
) -> ChangePlan:
    """These members get other attributes. Raises `BadRequest` if one is no member, `Refused`,
    `PlanInfeasible`."""
    check_unchanging(ring)
    _check_named(ring, [member.id for member in changed])
    anew = {member.id: member for member in changed}
    members = [anew.get(member.id, member) for member in ring.members]
    for member in changed:
        _check_unlike(member, [other for other in members if other is not member])
    if tuple(members) == ring.members:
        raise Refused("that is how the ring has it already; see: dynctl node ls")
    verb = f"set {_some(member.name for member in changed)}"
    change = _entry(ring, verb, members, id=id)
    if all(_is_placed_as(was, now) for was, now in zip(ring.members, members, strict=True)):
        return _folded(ring, change, ring.lists, moved=0, bound=0)
    return _planned(ring, change, allow=allow_colocated)


def recall(ring: Ring, entry: ChangeEntry) -> ChangePlan:
    """The plan that an entry for this very ring was; raises `Refused` if it does not fit it."""
    lists = list(ring.lists)
    for partition, owners in entry.moves:
        ring.check_partition(partition)
        lists[partition] = owners
    pairs = list(zip(ring.lists, lists, strict=True))
    before = Counter(node for was, _ in pairs for node in was)
    after = Counter(node for _, now in pairs for node in now)
    return _folded(
        ring,
        entry,
        lists,
        moved=sum(node not in was for was, now in pairs for node in now),
        bound=sum((after - before).values()),
    )


def name_of(ring: Ring, node: NodeId) -> str:
    """What people call a node; its id if it is no member."""
    member = ring.member(node)
    return member.name if member is not None else node


def _some(names: Iterable[str]) -> str:
    """Names for people: not all of a hundred."""
    known = list(names)
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more


# --- checks --------------------------------------------------------------------------------------


def _check_named(ring: Ring, nodes: Sequence[NodeId]) -> None:
    if not nodes:
        raise BadRequest("no node is named")
    for node in nodes:
        ring.check_member(node)
        if nodes.count(node) > 1:
            raise BadRequest(f"{name_of(ring, node)} is named twice; write each node once")


def _check_unlike(node: Member, others: Sequence[Member]) -> None:
    """Raises `Refused` if it is one of the others, or would be mistaken for one."""
    for other in others:
        if node.id == other.id:
            raise Refused(f"{node.name} ({node.address}) is a member already; see: dynctl node ls")
        if node.name == other.name:
            raise Refused(
                f"{node.address} is named {node.name}, as the member at {other.address} is; "
                f"start it with another --name"
            )
        if node.address == other.address:
            raise Refused(f"{node.name} has the address of {other.name}, {other.address}")


def _shared_hosts(joining: Sequence[Member], members: Sequence[Member]) -> list[str]:
    """A host with two nodes is worth a word: it gets no more safety, only more room."""
    told = []
    for node in joining:
        beside = [m.name for m in members[: members.index(node)] if m.host == node.host]
        if beside:
            told.append(
                f"{node.name} is on host {node.host}, as {', '.join(beside)}: "
                "they never hold copies of the same key"
            )
    return told


def _broken(
    ring: Ring,
    change: ChangeEntry,
    lists: Sequence[Owners],
    allow_colocated: bool,
) -> str:
    """The first rule that these lists break where they are new; empty if they keep all."""
    staying = _staying(change)
    terms = rules(staying, partitions=ring.partitions, n=ring.n, allow_colocated=allow_colocated)
    number = {node: i for i, node in enumerate(terms.nodes)}
    for partition, owners in enumerate(lists):
        if owners == ring.lists[partition]:
            continue
        if why := fault(terms, [number[node] for node in owners]):
            return f"partition {partition} {why}"
    return ""


def _is_placed_as(was: Member, now: Member) -> bool:
    return (was.capacity, was.zone, was.host) == (now.capacity, now.zone, now.host)


# --- the entry -----------------------------------------------------------------------------------


def _entry(
    ring: Ring,
    verb: str,
    members: Sequence[Member],
    *,
    id: bytes,
    leaving: Sequence[NodeId] = (),
    removed: Sequence[NodeId] = (),
) -> ChangeEntry:
    """Without its moves. Who was leaving already still is, unless it is removed now."""
    return ChangeEntry(
        id=id,
        verb=verb,
        members=tuple(sorted(members, key=lambda member: member.id)),
        leaving=tuple(sorted({*ring.leaving, *leaving}.difference(removed))),
        removed=tuple(sorted(removed)),
        moves=(),
    )


def _staying(change: ChangeEntry) -> list[Member]:
    gone = {*change.leaving, *change.removed}
    return [member for member in change.members if member.id not in gone]


def _planned(
    ring: Ring, change: ChangeEntry, *, allow: bool, notes: Sequence[str] = ()
) -> ChangePlan:
    """With the best placement there is for those that stay, certified."""
    staying = _staying(change)
    try:
        best = claim.plan(
            members=staying,
            partitions=ring.partitions,
            n=ring.n,
            old=ring.lists,
            allow_colocated=allow,
        )
    except PlanInfeasible as exc:
        gone = [m.name for m in change.members if m not in staying and m.id not in ring.leaving]
        if not gone:
            raise
        raise PlanInfeasible(
            f"without {', '.join(gone)}: {exc.message}, or see: dynctl replace --help"
        ) from exc
    claim.certify(
        best,
        members=staying,
        partitions=ring.partitions,
        n=ring.n,
        old=ring.lists,
        allow_colocated=allow,
    )
    return _folded(ring, change, best.lists, moved=best.moved, bound=best.bound, notes=notes)


def _folded(
    ring: Ring,
    change: ChangeEntry,
    lists: Sequence[Owners],
    *,
    moved: int,
    bound: int,
    notes: Sequence[str] = (),
) -> ChangePlan:
    pairs = enumerate(zip(ring.lists, lists, strict=True))
    entry = replace(
        change, moves=tuple((PartitionId(p), now) for p, (was, now) in pairs if now != was)
    )
    after = fold(ring, Entry(content=entry, proposer=NOBODY, wall_ms=0))
    return ChangePlan(
        ring=ring, entry=entry, after=after, moved=moved, bound=bound, notes=tuple(notes)
    )
