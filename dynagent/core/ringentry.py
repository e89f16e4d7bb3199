"""The entries of the ring log, and what each makes of the ring (design §6).

A *value* each, encoded whole; `fold` is a pure function, so all who have the same entries have the
same ring. Entry number e+1 is decided by the voters of the ring of epoch e (`core.ringlog`), and
proposed only by who has folded it onto that very ring: what is decided always folds. The first
entry is the bootstrap: a ring, installed by an operator, never decided.

    Change   another set of members, and the partitions that move for it; the ring may have no other
             unsettled change
    Phase    some of its moves take the next step: 0 → 1, or 1 → settled
    Abort    its moves in phase 0 are given up, and its new members that got nothing
    Voters   who decides from the next entry on
    Policy   a named setting of the cluster
    Retire   leavers that own nothing any more, and owe nothing, are members no longer
    Forced   other voters, decided by one agent alone: a majority of the old ones is lost for good

A **forced** entry begins a new lineage of the log. Its index is not the next one but the next whole
multiple of `limits.LINEAGE_ENTRIES_MAX`: so no index, and no stamp, of the old lineage comes again
in the new one, and whatever compares two epochs finds the newer lineage newer. It names the epoch
onto which it was forced. Who has gone on from there in the old lineage cannot fold it, and stays
where it is (decision 0018 has what that gives up).

A list that names the same nodes in another order needs no copying: such a move settles at once.

Encoded: `[kind, wall ms of its proposer, proposer's node id, fields…]`, fields in the order of the
classes; members, and the owners of moves by their places among them, as in the ring.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import JOINT_NEW, JOINT_OLD, SETTLED, Change, Member, Move, Owners, Ring
from dynagent.core.ringcodec import (
    decode_ids,
    decode_members,
    decode_places,
    decode_policy,
    encode_member,
    placer,
)
from dynagent.core.voters import replace_voters
from dynagent.errors import ProtocolError, Refused, UnknownEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEntry:
    """`members`: all of them from now on, sorted by id. `leaving`: those that shall give up what
    they own and then go. `removed`: those whose copies are declared lost; members until it is
    settled, so that the old lists can name them. `moves`: (partition, L') where L' is another."""

    id: bytes  # 16 bytes; the same change proposed twice is one
    verb: str
    members: tuple[Member, ...]
    leaving: tuple[NodeId, ...]
    removed: tuple[NodeId, ...]
    moves: tuple[tuple[PartitionId, Owners], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEntry:
    """These partitions of the change of that index enter `phase` (JOINT_NEW or SETTLED)."""

    index: int
    phase: int
    partitions: tuple[PartitionId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortEntry:
    """The change of that index is given up, as far as it still can be."""

    index: int
    id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VotersEntry:
    voters: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEntry:
    id: bytes
    name: str
    value: str  # empty: back to the default


@dataclass(frozen=True, slots=True, kw_only=True)
class RetireEntry:
    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcedEntry:
    """Who votes in the lineage that begins with it, on the ring of the epoch `after`."""

    voters: tuple[NodeId, ...]
    after: int


Content = (
    ChangeEntry | PhaseEntry | AbortEntry | VotersEntry | PolicyEntry | RetireEntry | ForcedEntry
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the log, with who proposed it and when (for people only)."""

    content: Content
    proposer: NodeId
    wall_ms: int


# --- what each makes of the ring -----------------------------------------------------------------


def fold(ring: Ring, entry: Entry) -> Ring:
    """The ring of the next epoch. Raises `Refused` if the entry does not fit this one."""
    folded = _fold(ring, entry)
    if isinstance(entry.content, VotersEntry | PolicyEntry):
        return folded
    return replace(folded, placed=folded.epoch)


def _fold(ring: Ring, entry: Entry) -> Ring:
    content = entry.content
    if isinstance(content, ForcedEntry):
        return _fold_forced(ring, content)
    if (ring.epoch + 1) % limits.LINEAGE_ENTRIES_MAX == 0:
        raise Refused("the ring log is full; a forced entry begins the next lineage")
    if isinstance(content, ChangeEntry):
        return _fold_change(ring, content, entry.proposer)
    if isinstance(content, PhaseEntry):
        return _fold_phase(ring, content)
    if isinstance(content, AbortEntry):
        return _fold_abort(ring, content)
    if isinstance(content, VotersEntry):
        if content.voters == ring.voters:
            raise Refused("just these nodes vote already")
        return replace(ring, epoch=ring.epoch + 1, voters=_check_voters(ring, content.voters))
    if isinstance(content, PolicyEntry):
        policies = {name: value for name, value in ring.policies if name != content.name}
        if content.value:
            policies[content.name] = content.value
        return replace(ring, epoch=ring.epoch + 1, policies=tuple(sorted(policies.items())))
    return _fold_retire(ring, content)


def check_unchanging(ring: Ring) -> None:
    """Raises `Refused` while a change is under way: there is at most one at a time."""
    if ring.change is not None:
        raise Refused(
            f"a change is under way ({ring.change.verb}, entry {ring.change.index}); wait until it"
            " is settled (dynctl wait settled), or take it back (dynctl ring abort)"
        )


def _fold_change(ring: Ring, entry: ChangeEntry, proposer: NodeId) -> Ring:
    check_unchanging(ring)
    _check_change(ring, entry)
    index = ring.epoch + 1
    known = {member.id for member in ring.members}
    lists = list(ring.lists)
    moves = []
    for partition, owners in entry.moves:
        if set(owners) == set(lists[partition]):
            lists[partition] = owners
        else:
            moves.append(Move(partition=partition, owners=owners, phase=JOINT_OLD))
    change = Change(
        index=index,
        id=entry.id,
        verb=entry.verb,
        driver=proposer,
        joined=tuple(member.id for member in entry.members if member.id not in known),
        before=ring.members,
        leaving_before=ring.leaving,
        moves=tuple(moves),
    )
    changed = replace(
        ring,
        epoch=index,
        members=entry.members,
        lists=tuple(lists),
        leaving=entry.leaving,
        removed=entry.removed,
        change=change if moves else None,
    )
    return _settle(changed, change.joined)


def _check_change(ring: Ring, entry: ChangeEntry) -> None:
    ids = [member.id for member in entry.members]
    if ids != sorted(set(ids)):
        raise Refused("the members of a change must be sorted by their ids")
    left = {member.id for member in ring.members}.difference(ids)
    if left:
        raise Refused("a change keeps all members; those that go are leaving or removed")
    if not {*entry.leaving, *entry.removed} <= set(ids):
        raise Refused("a node that is no member cannot leave or be removed")
    if len(ids) == len({*entry.leaving, *entry.removed}):
        raise Refused("the last member cannot go")
    staying = set(ids).difference(entry.leaving, entry.removed)
    names = [member.name for member in entry.members if member.id not in entry.removed]
    if len(set(names)) < len(names):
        raise Refused("two members that stay cannot have one name")
    partitions = [partition for partition, _ in entry.moves]
    if partitions != sorted(set(partitions)):
        raise Refused("the moves of a change must be in the order of their partitions")
    lists = {PartitionId(p): owners for p, owners in enumerate(ring.lists)}
    for partition, owners in entry.moves:
        if partition not in lists:
            raise Refused(f"partition {partition} is not in 0..{ring.partitions - 1}")
        if len(owners) != ring.n or len(set(owners)) < ring.n:
            raise Refused(f"partition {partition} needs N={ring.n} different owners")
        lists[partition] = owners
    for partition, owners in lists.items():
        if not staying.issuperset(owners):
            raise Refused(f"partition {partition} would be left with a node that goes")


def _fold_phase(ring: Ring, entry: PhaseEntry) -> Ring:
    change = _the_change(ring, entry.index)
    before = {JOINT_NEW: JOINT_OLD, SETTLED: JOINT_NEW}.get(entry.phase)
    lists, changed = list(ring.lists), list(ring.changed)
    moves = dict(ring.moves)
    for partition in entry.partitions:
        move = moves.get(partition)
        if move is None or move.phase != before:
            raise Refused(f"partition {partition} cannot enter phase {entry.phase} now")
        if entry.phase == SETTLED:
            lists[partition], changed[partition] = move.owners, change.index
            del moves[partition]
        else:
            moves[partition] = replace(move, phase=entry.phase)
    left = tuple(move for _, move in sorted(moves.items()))
    settled = replace(
        ring,
        epoch=ring.epoch + 1,
        lists=tuple(lists),
        changed=tuple(changed),
        change=replace(change, moves=left) if left else None,
    )
    return _settle(settled, change.joined)


def _fold_abort(ring: Ring, entry: AbortEntry) -> Ring:
    change = _the_change(ring, entry.index)
    if ring.removed:
        raise Refused("a removal cannot be taken back: the copies of that node are declared lost")
    index = ring.epoch + 1
    changed = list(ring.changed)
    left = []
    for move in change.moves:
        if move.phase == JOINT_OLD:
            changed[move.partition] = index
        else:
            left.append(move)
    owning = {node for owners in ring.lists for node in owners}
    owning.update(node for move in left for node in move.owners)
    before = {member.id: member for member in change.before}
    members = [
        before.get(member.id, member)
        for member in ring.members
        if member.id in before or member.id in owning
    ]
    kept = {member.id for member in members}
    return replace(
        ring,
        epoch=index,
        members=tuple(members),
        changed=tuple(changed),
        leaving=change.leaving_before,
        voters=tuple(voter for voter in ring.voters if voter in kept),
        change=replace(change, moves=tuple(left)) if left else None,
    )


def _fold_forced(ring: Ring, entry: ForcedEntry) -> Ring:
    if entry.after != ring.epoch:
        raise Refused(
            f"this entry was forced onto epoch {entry.after}, and this ring is of epoch"
            f" {ring.epoch}: it has gone on in the lineage that was given up"
        )
    lineage = ring.epoch // limits.LINEAGE_ENTRIES_MAX + 1
    return replace(
        ring,
        epoch=lineage * limits.LINEAGE_ENTRIES_MAX,
        lineage=lineage,
        voters=_check_voters(ring, entry.voters),
    )


def _check_voters(ring: Ring, voters: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
    members = {member.id for member in ring.members}
    staying = members.difference(ring.leaving, ring.removed)
    if list(voters) != sorted(set(voters)) or not staying.issuperset(voters):
        raise Refused("voters are members that stay, each once, sorted by their ids")
    if not 1 <= len(voters) <= limits.VOTERS_MAX:
        raise Refused(f"{len(voters)} voters are not in 1..{limits.VOTERS_MAX}")
    return voters


def _fold_retire(ring: Ring, entry: RetireEntry) -> Ring:
    gone = set(entry.nodes)
    if not gone or not gone.issubset(ring.leaving):
        raise Refused("only a node that is leaving can retire")
    if any(ring.owns(node, PartitionId(p)) for p in range(ring.partitions) for node in gone):
        raise Refused("a node that owns partitions cannot retire")
    if ring.change is not None:
        raise Refused("nobody retires while a change is under way")
    return _without(replace(ring, epoch=ring.epoch + 1), gone)


def _the_change(ring: Ring, index: int) -> Change:
    if ring.change is None or ring.change.index != index:
        raise Refused(f"the change of entry {index} is not under way any more")
    return ring.change


def _settle(ring: Ring, joined: Collection[NodeId]) -> Ring:
    """Others vote in place of who was removed, and once nothing moves any more of who leaves. Then
    nobody needs to name the removed ones either.

    A leaver votes until then, since its change may be taken back, and since whoever takes its place
    has all entries by that time. `joined`: by this change, or the one that this settles.
    """
    is_settled = ring.change is None
    voters = replace_voters(
        ring.voters,
        ring.members,
        gone={*ring.removed, *ring.leaving} if is_settled else ring.removed,
        leaving=ring.leaving,
        joined=joined,
    )
    ring = replace(ring, voters=voters)
    return _without(ring, set(ring.removed)) if is_settled else ring


def _without(ring: Ring, gone: set[NodeId]) -> Ring:
    return replace(
        ring,
        members=tuple(member for member in ring.members if member.id not in gone),
        voters=tuple(node for node in ring.voters if node not in gone),
        leaving=tuple(node for node in ring.leaving if node not in gone),
        removed=tuple(node for node in ring.removed if node not in gone),
    )


# --- bytes ---------------------------------------------------------------------------------------

_KINDS: dict[int, type[Content]] = {
    1: ChangeEntry,
    2: PhaseEntry,
    3: AbortEntry,
    4: VotersEntry,
    5: PolicyEntry,
    6: RetireEntry,
    7: ForcedEntry,
}
_KIND_OF = {cls: kind for kind, cls in _KINDS.items()}


def encode_log_entry(entry: Entry) -> bytes:
    content = entry.content
    fields: list[object]
    if isinstance(content, ChangeEntry):
        places_of = placer(content.members)
        fields = [
            content.id,
            content.verb,
            [encode_member(member) for member in content.members],
            list(content.leaving),
            list(content.removed),
            [[partition, places_of(owners)] for partition, owners in content.moves],
        ]
    elif isinstance(content, PhaseEntry):
        fields = [content.index, content.phase, list(content.partitions)]
    elif isinstance(content, AbortEntry):
        fields = [content.index, content.id]
    elif isinstance(content, VotersEntry):
        fields = [list(content.voters)]
    elif isinstance(content, PolicyEntry):
        fields = [content.id, content.name, content.value]
    elif isinstance(content, RetireEntry):
        fields = [list(content.nodes)]
    else:
        fields = [list(content.voters), content.after]
    return encode([_KIND_OF[type(content)], entry.wall_ms, entry.proposer, *fields])


def decode_log_entry(data: bytes) -> Entry:
    """Raises `ProtocolError`, and `UnknownEntry` for one of a kind of a later release: who has to
    follow that one cannot go on."""
    match decode(data):
        case [int(kind), int(wall_ms), str(proposer), *fields] if 0 < len(proposer) <= 64:
            pass
        case _:
            raise ProtocolError("not an entry of the ring log")
    if kind not in _KINDS:
        raise UnknownEntry(
            f"the ring log has an entry of kind {kind}, which this agent does not know; upgrade it"
        )
    content = _decode_content(kind, fields)
    return Entry(content=content, proposer=NodeId(proposer), wall_ms=wall_ms)


def _decode_content(kind: int, fields: list[object]) -> Content:
    match (kind, *fields):
        case (1, bytes(id_), str(verb), list(rows), list(leaving), list(removed), list(moves), *_):
            members = decode_members(rows)
            return ChangeEntry(
                id=id_,
                verb=verb,
                members=members,
                leaving=decode_ids(leaving),
                removed=decode_ids(removed),
                moves=tuple(_decode_move(move, members) for move in moves),
            )
        case (2, int(index), int(phase), list(partitions), *_):
            return PhaseEntry(index=index, phase=phase, partitions=_decode_partitions(partitions))
        case (3, int(index), bytes(id_), *_):
            return AbortEntry(index=index, id=id_)
        case (4, list(voters), *_):
            return VotersEntry(voters=decode_ids(voters))
        case (5, bytes(id_), str(name), str(value), *_):
            decode_policy([name, value])
            return PolicyEntry(id=id_, name=name, value=value)
        case (6, list(nodes), *_):
            return RetireEntry(nodes=decode_ids(nodes))
        case (7, list(voters), int(after), *_):
            return ForcedEntry(voters=decode_ids(voters), after=after)
        case _:
            raise ProtocolError("an entry of the ring log is malformed")


def _decode_move(move: object, members: tuple[Member, ...]) -> tuple[PartitionId, Owners]:
    match move:
        case [int(partition), bytes(places)]:
            return PartitionId(partition), decode_places(members, places)
        case _:
            raise ProtocolError("an entry of the ring log is malformed: a move")


def _decode_partitions(partitions: list[object]) -> tuple[PartitionId, ...]:
    numbers = [number for number in partitions if isinstance(number, int)]
    if len(numbers) != len(partitions):
        raise ProtocolError("an entry of the ring log is malformed: a partition")
    return tuple(PartitionId(number) for number in numbers)
