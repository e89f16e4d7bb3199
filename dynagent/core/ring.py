"""The ring: who is a member, which nodes own which partition, and the change that is under way.

A *value*: immutable, compared by content, encoded whole (`core.ringcodec`). Its epoch is the number
of entries of the ring log that it is made of; `core.ringentry` folds them. Here it is only looked
things up in.

The token of a key is 128 bits of BLAKE2b; the ring of 2^128 is cut into Q equal partitions (Dynamo
§6.2, strategy 3), so a partition is the token's first log2(Q) bits. Example with Q=8: a token that
starts with bits 101… lies in partition 5, and `lists[5]` names its N owners in order.

**A change under way** (design §6) moves partitions from a list L to a list L' in three phases, each
partition for itself. At most one change is unsettled at a time.

    phase 0  JOINT_OLD  a put needs W in L and W in L'; a get reads R of L
    phase 1  JOINT_NEW  puts still need both; a get reads R of L'
    phase 2  SETTLED    L' is the list

What nodes ask each other about a partition carries its **stamp**: (index of the change that
concerned it last, phase), compared as pairs. Example: partition 5 moves by entry 7. Its stamps are
(1, 2) since bootstrap, then (7, 0), (7, 1), (7, 2). An abort by entry 9 makes (7, 0) into (9, 2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

from dynagent import limits
from dynagent.core.ports import NodeId, PartitionId, Token
from dynagent.errors import BadRequest

JOINT_OLD, JOINT_NEW, SETTLED = 0, 1, 2
FIRST = 1  # the epoch of the bootstrap

Stamp = tuple[int, int]  # (index of the entry of the change, phase)
Owners = tuple[NodeId, ...]  # N nodes, in order of preference


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
class Move:
    """A partition on its way from the list that the ring has for it to another set of owners."""

    partition: PartitionId
    owners: Owners  # L'
    phase: int  # JOINT_OLD or JOINT_NEW


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The change that is not settled yet."""

    index: int  # of its entry in the log: the first part of its stamps
    id: bytes  # 16 bytes, minted by who asked for it
    verb: str  # join, leave, …: for people
    driver: NodeId  # who proposed it and drives it; any member takes over after its silence
    joined: tuple[NodeId, ...]  # members by this change
    before: tuple[Member, ...]  # the members that an abort brings back
    leaving_before: tuple[NodeId, ...]
    moves: tuple[Move, ...]  # what is not settled, sorted by partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """One epoch of the ring. `lists[p]` are the N owners of partition p, in order of preference."""

    epoch: int
    cluster_id: bytes  # 16 bytes
    n: int
    r: int
    w: int
    members: tuple[Member, ...]  # sorted by id
    lists: tuple[Owners, ...]  # length Q
    policies: tuple[tuple[str, str], ...] = ()
    version_min: int = 1
    lineage: int = 0  # counted up where a change was forced without a majority of voters
    voters: tuple[NodeId, ...] = ()  # sorted; a majority of them decides the next entry
    leaving: tuple[NodeId, ...] = ()  # members that give up all they own, then go
    removed: tuple[NodeId, ...] = ()  # members whose copies are lost; gone when this is settled
    changed: tuple[int, ...] = ()  # of each partition: the change that concerned it last; (): 1
    placed: int = FIRST  # since that epoch members and lists are what they are
    change: Change | None = None
    # Made of the above:
    stamps: tuple[Stamp, ...] = field(init=False, compare=False, repr=False)
    moves: dict[PartitionId, Move] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        moves = {move.partition: move for move in self.change.moves} if self.change else {}
        changed = self.changed or (1,) * len(self.lists)
        stamps = [(index, SETTLED) for index in changed]
        for partition, move in moves.items():
            assert self.change is not None
            stamps[partition] = (self.change.index, move.phase)
        object.__setattr__(self, "changed", changed)
        object.__setattr__(self, "stamps", tuple(stamps))
        object.__setattr__(self, "moves", moves)

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

    def counts(self, node: NodeId) -> bool:
        """Whether a node is a member, and not one whose copies were declared lost: such a one is
        named until that is settled, but acknowledges, votes and hands over nothing any more."""
        return self.member(node) is not None and node not in self.removed

    # --- who owns what ---------------------------------------------------------------------------

    def write_lists(self, partition: PartitionId) -> tuple[Owners, ...]:
        """In each of these a put needs W: (L,), or (L, L') while the partition moves."""
        move = self.moves.get(partition)
        return (self.lists[partition],) if move is None else (self.lists[partition], move.owners)

    def read_list(self, partition: PartitionId) -> Owners:
        """Of these a get needs R: L, or L' from phase 1 on."""
        move = self.moves.get(partition)
        if move is None or move.phase == JOINT_OLD:
            return self.lists[partition]
        return move.owners

    def all_owners(self, partition: PartitionId) -> Owners:
        """Everybody that a put goes to: L, then who is new in L'."""
        move = self.moves.get(partition)
        if move is None:
            return self.lists[partition]
        old = self.lists[partition]
        return old + tuple(node for node in move.owners if node not in old)

    def new_owners(self, partition: PartitionId) -> Owners:
        """Who is in L' and not in L: must fence and copy before phase 1. None if nothing moves."""
        return self.all_owners(partition)[self.n :]

    def owns(self, node: NodeId, partition: PartitionId) -> bool:
        """Whether a node is among `all_owners`."""
        move = self.moves.get(partition)
        return node in self.lists[partition] or (move is not None and node in move.owners)

    def owned_by(self, node: NodeId) -> frozenset[PartitionId]:
        """All partitions that a node `owns`."""
        owned = {PartitionId(at) for at, owners in enumerate(self.lists) if node in owners}
        owned.update(at for at, move in self.moves.items() if node in move.owners)
        return frozenset(owned)

    # --- guards ----------------------------------------------------------------------------------

    def check_partition(self, number: int) -> None:
        """Raises `BadRequest` unless it is one of ours."""
        if not 0 <= number < self.partitions:
            raise BadRequest(f"partition {number} is not in 0..{self.partitions - 1}")

    def check_member(self, node: str) -> None:
        """Raises `BadRequest` unless it is the id of a member."""
        if self.member(NodeId(node)) is None:
            raise BadRequest(f"{node} is no member of this cluster; see: dynctl node ls")


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
