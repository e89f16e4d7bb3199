"""The ring as bytes, and back: what travels in RingReply and Install and lies in the store.

    [format 2, epoch, cluster id, [N, R, W], members, owners, policies, version_min, lineage,
     voters, leaving, removed, changed, change, placed]

Members are `[id, name, address, zone, host, capacity]`. Owners are a byte string of Q × N members'
places in that list, 2 bytes each, partition by partition; voters, leaving and removed are such byte
strings too. `changed` has 4 bytes for each partition: the index of the change that concerned it
last. `change` is null or

    [index, id, verb, driver, joined, before, leaving before, moves]

with the joined and the leaving as node ids, `before` as members are, and moves
`[[partition, phase, owners], …]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import (
    JOINT_NEW,
    JOINT_OLD,
    Change,
    Member,
    Move,
    Owners,
    Ring,
    check_partitions,
    check_quorums,
)
from dynagent.errors import BadRequest, ProtocolError

FORMAT = 2  # 1 knew no changes; it was never released


def encode_ring(ring: Ring) -> bytes:
    """At most `limits.RING_BYTES_MAX`."""
    places_of, change = placer(ring.members), ring.change
    return encode(
        [
            FORMAT,
            ring.epoch,
            ring.cluster_id,
            [ring.n, ring.r, ring.w],
            [encode_member(member) for member in ring.members],
            b"".join([places_of(owned) for owned in ring.lists]),
            [list(policy) for policy in ring.policies],
            ring.version_min,
            ring.lineage,
            places_of(ring.voters),
            places_of(ring.leaving),
            places_of(ring.removed),
            b"".join([index.to_bytes(4, "big") for index in ring.changed]),
            None
            if change is None
            else [
                change.index,
                change.id,
                change.verb,
                change.driver,
                list(change.joined),
                [encode_member(member) for member in change.before],
                list(change.leaving_before),
                [[move.partition, move.phase, places_of(move.owners)] for move in change.moves],
            ],
            ring.placed,
        ]
    )


def placer(members: Sequence[Member]) -> Callable[[Sequence[NodeId]], bytes]:
    """Encodes lists of these members: their places, 2 bytes each."""
    places = {member.id: place.to_bytes(2, "big") for place, member in enumerate(members)}
    return lambda nodes: b"".join([places[node] for node in nodes])


def decode_ring(data: bytes) -> Ring:
    """The ring in `data`; raises `ProtocolError` if malformed or against a rule of the ring."""
    if len(data) > limits.RING_BYTES_MAX:
        raise ProtocolError(f"a ring of {len(data)} bytes; the limit is {limits.RING_BYTES_MAX}")
    match decode(data):
        case [
            2,
            int(epoch),
            bytes(cluster_id),
            [int(n), int(r), int(w)],
            list(rows),
            bytes(owners),
            list(policies),
            int(version_min),
            int(lineage),
            bytes(voters),
            bytes(leaving),
            bytes(removed),
            bytes(changed),
            change,
            int(placed),
            *_,
        ]:
            pass
        case [int(other), *_] if other > FORMAT:
            raise ProtocolError(f"ring format {other} is newer than this agent; upgrade it")
        case [int(other), *_] if other < FORMAT:
            raise ProtocolError(f"ring format {other} was made before the first release")
        case _:
            raise ProtocolError("not an encoded ring")
    try:
        check_quorums(n=n, r=r, w=w)
        if len(owners) % (2 * n):
            raise _invalid("the preference lists are cut short")
        check_partitions(len(owners) // (2 * n))
    except BadRequest as exc:
        raise _invalid(exc.message) from exc
    members = decode_members(rows)
    partitions = len(owners) // (2 * n)
    if len(cluster_id) != 16 or epoch < 1 or lineage < 0 or not members:
        raise _invalid("cluster id, epoch, lineage or number of members")
    if not 1 <= placed <= epoch:
        raise _invalid("the epoch since which its members are placed so")
    if len(changed) != 4 * partitions:
        raise _invalid("not one change for each partition")
    indexes = tuple(int.from_bytes(changed[i : i + 4], "big") for i in range(0, len(changed), 4))
    if not 1 <= min(indexes) <= max(indexes) <= epoch:
        raise _invalid("the index of a change is not in the log")
    gone = decode_places(members, removed)
    names = [member.name for member in members if member.id not in gone]
    if len(set(names)) < len(names):
        raise _invalid("two members share a name")
    size = 2 * n
    return Ring(
        epoch=epoch,
        cluster_id=cluster_id,
        n=n,
        r=r,
        w=w,
        members=members,
        lists=tuple(_owners(members, owners[i : i + size], n) for i in range(0, len(owners), size)),
        policies=tuple(decode_policy(policy) for policy in policies),
        version_min=version_min,
        lineage=lineage,
        voters=decode_places(members, voters),
        leaving=decode_places(members, leaving),
        removed=gone,
        changed=indexes,
        placed=placed,
        change=_decode_change(change, members, n, partitions, epoch)
        if change is not None
        else None,
    )


def _decode_change(
    fields: object, members: tuple[Member, ...], n: int, partitions: int, epoch: int
) -> Change:
    match fields:
        case [
            int(index),
            bytes(id_),
            str(verb),
            str(driver),
            list(joined),
            list(before),
            list(leaving_before),
            list(rows),
            *_,
        ] if 1 < index <= epoch:
            pass
        case _:
            raise _invalid("malformed change")
    moves = []
    for row in rows:
        match row:
            case [int(partition), int(phase), bytes(places)] if (
                0 <= partition < partitions and phase in (JOINT_OLD, JOINT_NEW)
            ):
                owners = _owners(members, places, n)
                moves.append(Move(partition=PartitionId(partition), owners=owners, phase=phase))
            case _:
                raise _invalid("malformed move")
    numbers = [move.partition for move in moves]
    if not numbers or numbers != sorted(set(numbers)):
        raise _invalid("the moves are not in the order of their partitions")
    return Change(
        index=index,
        id=id_,
        verb=verb,
        driver=NodeId(driver),
        joined=decode_ids(joined),
        before=decode_members(before),
        leaving_before=decode_ids(leaving_before),
        moves=tuple(moves),
    )


def encode_member(member: Member) -> list[object]:
    """[id, name, address, zone, host, capacity]"""
    return [
        *(member.id, member.name, member.address),
        *(member.zone, member.host, member.capacity),
    ]


def decode_members(rows: list[object]) -> tuple[Member, ...]:
    """Members with different ids, in the order given; raises `ProtocolError`. Only who is removed
    may have the name of another one: of who takes its place."""
    members = tuple(_decode_member(row) for row in rows)
    if len(members) > limits.MEMBERS_MAX:
        raise _invalid(f"{len(members)} members; the limit is {limits.MEMBERS_MAX}")
    if len({m.id for m in members}) < len(members):
        raise _invalid("two members share an id")
    return members


def decode_ids(ids: list[object]) -> tuple[NodeId, ...]:
    """Node ids; raises `ProtocolError`."""
    if not all(isinstance(node, str) and 0 < len(node) <= 64 for node in ids):
        raise _invalid("malformed node id")
    return tuple(NodeId(str(node)) for node in ids)


def decode_policy(policy: object) -> tuple[str, str]:
    """(name, value); raises `ProtocolError`."""
    match policy:
        case [str(name), str(value)]:
            return name, value
        case _:
            raise _invalid("malformed policy")


def _decode_member(row: object) -> Member:
    match row:
        case [str(id_), str(name), str(address), str(zone), str(host), int(capacity), *_] if (
            0 < len(id_) <= 64 and 0 < len(name) <= 255 and capacity >= 0
        ):
            return Member(
                id=NodeId(id_), name=name, address=address, zone=zone, host=host, capacity=capacity
            )
        case _:
            raise _invalid("malformed member")


def _owners(members: tuple[Member, ...], places: bytes, n: int) -> Owners:
    owners = decode_places(members, places)
    if len(owners) != n or len(set(owners)) < n:
        raise _invalid("a list does not name N different nodes")
    return owners


def decode_places(members: Sequence[Member], places: bytes) -> tuple[NodeId, ...]:
    """What `placer` has encoded; raises `ProtocolError`."""
    numbers = [int.from_bytes(places[i : i + 2], "big") for i in range(0, len(places), 2)]
    if numbers and max(numbers) >= len(members):
        raise _invalid("a node that is not a member")
    return tuple(members[number].id for number in numbers)


def _invalid(what: str) -> ProtocolError:
    return ProtocolError(f"not a valid ring: {what}")
