"""The end of deletes: when a tombstone may go (design §7), and where this node's tombstones are.

"Every owner has it" is not enough to drop a tombstone: a Merge that was on its way for a week, a
late read repair, or a stand-in's hint could bring back what it had superseded. No grace period
helps, because nothing bounds a delay. So each node keeps a number for each partition P, its
**barrier** (`core.barriers`), and whatever content travels carries the barrier under which it was
*read*. The members that may hold content of P are S_P (`holders`).

    all of S_P stand at b−1
       │  each moves to b: an owner at any time, a stand-in once it holds nothing of P; from then
       │  on a stand-in refuses what was read under less than b
    all of S_P stand at b
       │  the owners *close* what is before b: from now on they too refuse it
       │  every owner that has done so holds the same tombstone, last changed before its move to b
    purge: each owner drops it, unless its copy has changed meanwhile

**When the ring changes** (decision 0019). As long as it never has, S_P is the owners and the
fallbacks. Later anybody may hold what it kept or owned under an older ring, so S_P is all members.
A move counts only under the placement of members in which it was made: after any change all of S_P
move once more before something is purged. For a former owner has moved as an owner, who may hold
anything; it moves again once it has dropped all of the partition. A partition that moves is not
purged. Who is removed takes no part: what it sends is not taken.

Why that is safe. Let v be superseded by a tombstone t that is purged under b.

- At its move to b each owner held t already (it has not changed since). Copies only grow, so what
  is read at an owner under b or later has seen t, or comes from after the drop.
- A stand-in held nothing when it moved, and takes only what was read under b or later.
- So v travels under less than b, or not at all; and who has said that it holds t refuses that,
  whether it has dropped t, or t has rotted since, or was lost.

An owner closes no earlier, because a stand-in that has not moved may hold a hint for it. And nobody
is refused for long: all stand at b, so whoever reads again reads under b.

Nothing depends on time, on order, or on who asks (`core.purge`): barriers only grow, and so does
"has moved". Each clause is needed; `tests/core/test_purge_model.py` searches every order of
everything on the functions below, and finds a way back for v as soon as one of them forgets one.

Example, N=3. A client deletes k: a, b, c hold the tombstone, changed under 4. All of S_P move to 5.
The owners refuse less than 5, and say: the same, since 4. All drop it. The Merge with k's old value
that has been stuck since Monday says "read under 4": refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dynagent import limits
from dynagent.core.ports import Batch, NodeId, PartitionId, Reader, Token
from dynagent.core.preference import fallbacks
from dynagent.core.ring import FIRST, Ring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynagent.core.entry import Record

# The target of the markers that tell where tombstones are: they lie among the hints (no node has
# such an id), in the batch that makes or drops the tombstone.
TOMBSTONES = NodeId("tombstones")


# --- the rules: pure, and all that the exhaustive model needs ------------------------------------


def held_by(rings: Iterable[Ring], partition: PartitionId) -> tuple[NodeId, ...]:
    """S_P: whoever was an owner or a fallback of the partition in one of these rings."""
    members: dict[NodeId, None] = {}
    for ring in rings:
        members.update(dict.fromkeys(ring.lists[partition]))
        members.update(dict.fromkeys(fallbacks(ring, partition)))
    return tuple(members)


def holders(ring: Ring, partition: PartitionId) -> tuple[NodeId, ...]:
    """S_P of a node that has this ring, and may know nothing of those before it."""
    present = held_by([ring], partition)
    if ring.placed == FIRST:
        return present
    others = (member.id for member in ring.members if member.id not in present)
    return tuple(node for node in (*present, *others) if node not in ring.removed)


def must_refuse(least: int, read_under: int) -> bool:
    """Whether content that was read under that barrier may bring back what has been purged here."""
    return read_under < least


def next_barrier(standings: Collection[int]) -> int:
    """The barrier to move to, given where each of S_P stands: all of them stand just before it, or
    some have moved already."""
    return min(standings) + 1


def may_move(barrier: int, to: int, *, owns: bool, holds: bool) -> bool:
    """Whether a node may move to the next barrier. `holds`: any copy of that partition."""
    return barrier == to - 1 and (owns or not holds)


def least_after_move(least: int, to: int, *, owns: bool) -> int:
    """What a node that has moved refuses from then on: a stand-in all that is older."""
    return least if owns else to


def since_after(barrier: int) -> int:
    """What a copy that changes now says about when it has last changed."""
    return barrier


def may_end(*, is_void: bool) -> bool:
    """Whether a barrier at which all of S_P stand may end tombstones. `is_void`: one of them has
    not moved to it under the present placement of members."""
    return not is_void


def may_close(standings: Collection[int], barrier: int) -> bool:
    """Whether the owners may refuse what was read before a barrier: all of S_P stand there."""
    return min(standings) >= barrier


def least_after_close(least: int, barrier: int) -> int:
    """What an owner refuses from then on."""
    return max(least, barrier)


def is_settled(*, is_tombstone: bool, since: int, barrier: int) -> bool:
    """Whether an owner that has closed what is before `barrier` held just that already when it
    moved there."""
    return is_tombstone and since < barrier


def may_purge(settled: Collection[bool]) -> bool:
    """Whether the owners may drop a tombstone: each holds that very one, settled, on its disk."""
    return all(settled)


# --- this node's tombstones ----------------------------------------------------------------------


def is_tombstone(record: Record) -> bool:
    """A record whose values are all superseded, and that can be read."""
    return bool(record.value.clock) and not record.value.siblings and not record.unknown


class Tombstones:
    """Where the tombstones of this node are: a count for each partition, and pages of their keys.
    Those in partitions that it does not own go when they are delivered, or dropped: nobody purges
    them, but they are noted, for it may come to own them."""

    def __init__(self, reader: Reader) -> None:
        # Those on their way to the disk included.
        self.counts: dict[PartitionId, int] = {}  # of partitions that it owns
        self.purged = 0  # since the start
        self._others: dict[PartitionId, int] = {}  # of those that it does not
        self._owned: frozenset[PartitionId] = frozenset()
        self._reader = reader
        self._shift = 0

    def serve(self, ring: Ring, owned: frozenset[PartitionId]) -> None:
        self._shift = 33 - ring.partitions.bit_length()
        self._owned = owned
        self.recount()

    def on_ring(self, owned: frozenset[PartitionId]) -> None:
        """It owns others from now on."""
        self._owned = owned
        self._sort({**self.counts, **self._others})

    def note(
        self, batch: Batch, token: Token, key: bytes, *, was_there: bool, is_there: bool
    ) -> None:
        """A copy of ours has become a tombstone, or is none any more."""
        if was_there == is_there:
            return
        partition = PartitionId(int.from_bytes(token[:4], "big") >> self._shift)
        batch.hints.append((TOMBSTONES, token, key, is_there))
        counts = self.counts if partition in self._owned else self._others
        count = counts.get(partition, 0) + (1 if is_there else -1)
        if count > 0:
            counts[partition] = count
        else:
            counts.pop(partition, None)

    def page(self, after: bytes, count: int) -> list[tuple[Token, bytes]]:
        """The committed tombstones behind a place (token and key), in that order; some may have
        changed since. Raises `CorruptRecord` if the engine cannot read them."""
        return self._reader.hints(TOMBSTONES, after, count)

    def recount(self) -> None:
        """What is committed is all there is: at the start, and when a batch was refused."""
        counts: dict[PartitionId, int] = {}
        after = b""
        while rows := self.page(after, limits.TOMBSTONE_PAGE_ROWS):
            for token, key in rows:
                partition = PartitionId(int.from_bytes(token[:4], "big") >> self._shift)
                counts[partition] = counts.get(partition, 0) + 1
                after = token + key
        self._sort(counts)

    def _sort(self, counts: dict[PartitionId, int]) -> None:
        owned = self._owned
        self.counts = {at: count for at, count in counts.items() if at in owned}
        self._others = {at: count for at, count in counts.items() if at not in owned}
