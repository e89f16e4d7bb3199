"""The ring: who is a member, and which nodes own which partition.

A *value*: immutable, compared by content, encoded whole. It is made by `claim.plan` (bootstrap, and
later each ring change), decided elsewhere, and only looked things up in here.

The token of a key is 128 bits of BLAKE2b; the ring of 2^128 is cut into Q equal partitions (Dynamo
§6.2, strategy 3), so a partition is the token's first log2(Q) bits. Example with Q=8: a token that
starts with bits 101… lies in partition 5, and `lists[5]` names its N owners in order.
"""

from dataclasses import dataclass
from hashlib import blake2b

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.ports import NodeId, PartitionId, Token
from dynagent.errors import BadRequest, ProtocolError

_FORMAT = 1


def token_of(key: bytes) -> Token:
    """The key's place on the ring: 16 bytes."""
    return Token(blake2b(key, digest_size=16, person=b"dyn-ring").digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node as the ring knows it. `capacity` is a weight ≥ 0; 0 stores nothing and only routes."""

    id: NodeId
    name: str
    address: str  # host:port
    zone: str
    host: str
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """One epoch of the ring. `lists[p]` are the N owners of partition p, in order of preference."""

    epoch: int
    cluster_id: bytes  # 16 bytes
    n: int
    r: int
    w: int
    members: tuple[Member, ...]  # sorted by id
    lists: tuple[tuple[NodeId, ...], ...]  # length Q
    policies: tuple[tuple[str, str], ...] = ()
    version_min: int = 1

    @property
    def partitions(self) -> int:
        """Q."""
        return len(self.lists)

    def partition_of(self, token: Token) -> PartitionId:
        """The partition in which a token lies: its first log2(Q) bits."""
        bits = self.partitions.bit_length() - 1
        return PartitionId(int.from_bytes(token[:4], "big") >> (32 - bits))

    def member(self, node: NodeId) -> Member | None:
        return next((member for member in self.members if member.id == node), None)

    def check_partition(self, number: int) -> None:
        """Raises `BadRequest` unless it is one of ours."""
        if not 0 <= number < self.partitions:
            raise BadRequest(f"partition {number} is not in 0..{self.partitions - 1}")

    def check_member(self, node: str) -> None:
        """Raises `BadRequest` unless it is the id of a member."""
        if self.member(NodeId(node)) is None:
            raise BadRequest(f"{node} is no member of this cluster; see: dynctl node ls")

    def encode(self) -> bytes:
        """The ring as bytes, at most `limits.RING_BYTES_MAX`."""
        places = {member.id: place for place, member in enumerate(self.members)}
        owners = b"".join(places[node].to_bytes(2, "big") for owned in self.lists for node in owned)
        return encode(
            [
                _FORMAT,
                self.epoch,
                self.cluster_id,
                [self.n, self.r, self.w],
                [[m.id, m.name, m.address, m.zone, m.host, m.capacity] for m in self.members],
                owners,
                [list(policy) for policy in self.policies],
                self.version_min,
            ]
        )


def check_quorums(*, n: int, r: int, w: int) -> None:
    """Raises `BadRequest` unless 1 ≤ R, W ≤ N ≤ 16."""
    if not 1 <= n <= limits.N_MAX:
        raise BadRequest(f"N={n} is not in 1..{limits.N_MAX}")
    for name, value in (("R", r), ("W", w)):
        if not 1 <= value <= n:
            raise BadRequest(f"{name}={value} is not in 1..N, and N={n}")


def check_partitions(partitions: int) -> None:
    """Raises `BadRequest` unless Q is a power of two within the limits."""
    low, high = limits.PARTITIONS_MIN, limits.PARTITIONS_MAX
    if not low <= partitions <= high or partitions & (partitions - 1):
        raise BadRequest(f"{partitions} partitions: must be a power of two in {low}..{high}")


def decode_ring(data: bytes) -> Ring:
    """The ring in `data`; raises `ProtocolError` if malformed or against a rule of the ring."""
    if len(data) > limits.RING_BYTES_MAX:
        raise ProtocolError(f"a ring of {len(data)} bytes; the limit is {limits.RING_BYTES_MAX}")
    match decode(data):
        case [
            1,
            int(epoch),
            bytes(cluster_id),
            [int(n), int(r), int(w)],
            list(rows),
            bytes(owners),
            list(policies),
            int(version_min),
            *_,
        ]:
            pass
        case [int(other), *_] if other != _FORMAT:
            raise ProtocolError(f"ring format {other} is newer than this agent; upgrade it")
        case _:
            raise ProtocolError("not an encoded ring")
    try:
        check_quorums(n=n, r=r, w=w)
        if len(owners) % (2 * n):
            raise ProtocolError("the preference lists are cut short")
        check_partitions(len(owners) // (2 * n))
    except BadRequest as exc:
        raise ProtocolError(f"not a valid ring: {exc}") from exc
    members = tuple(_decode_member(row) for row in rows)
    if len(cluster_id) != 16 or epoch < 1 or not 0 < len(members) <= limits.MEMBERS_MAX:
        raise ProtocolError("not a valid ring: cluster id, epoch or number of members")
    if len({m.id for m in members}) < len(members) or len({m.name for m in members}) < len(members):
        raise ProtocolError("not a valid ring: two members share an id or a name")
    places = [int.from_bytes(owners[i : i + 2], "big") for i in range(0, len(owners), 2)]
    if max(places) >= len(members):
        raise ProtocolError("not a valid ring: an owner is not a member")
    lists = tuple(
        tuple(members[place].id for place in places[i : i + n]) for i in range(0, len(places), n)
    )
    if any(len(set(owned)) < n for owned in lists):
        raise ProtocolError("not a valid ring: a node is twice in one preference list")
    return Ring(
        epoch=epoch,
        cluster_id=cluster_id,
        n=n,
        r=r,
        w=w,
        members=members,
        lists=lists,
        policies=tuple(_decode_policy(policy) for policy in policies),
        version_min=version_min,
    )


def _decode_member(row: object) -> Member:
    match row:
        case [str(id_), str(name), str(address), str(zone), str(host), int(capacity), *_] if (
            0 < len(id_) <= 64 and 0 < len(name) <= 255 and capacity >= 0
        ):
            return Member(
                id=NodeId(id_), name=name, address=address, zone=zone, host=host, capacity=capacity
            )
        case _:
            raise ProtocolError("not a valid ring: malformed member")


def _decode_policy(policy: object) -> tuple[str, str]:
    match policy:
        case [str(name), str(value)]:
            return name, value
        case _:
            raise ProtocolError("not a valid ring: malformed policy")
