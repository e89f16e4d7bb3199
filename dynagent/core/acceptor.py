"""The acceptor: how a voter votes for the next entry of the ring log, and keeps its word.

Single-decree Paxos (Lamport 2001) for each entry. The rules are three functions, and the exhaustive
model of the tests runs on just these:

    vote      a ballot that is older than the one promised changes nothing; a newer one is promised,
              and accepted if it carries an entry
    choose    a proposer whose ballot a majority has promised must propose the entry of the newest
              ballot that one of them has accepted; only if there is none, its own
    is_majority

An entry that a majority has accepted in one ballot is decided. Where a voter stands is one row of
its store, written in the batch after which it answers: a promise that a crash can take back decides
two entries of one index (`tests/core/ringlog_model.py` prints how). For the same reason a voter
without its store is no voter any more: node id and store are minted and die together.

A voter votes for one index only, the next one, and forgets how it stood when it knows that entry.
The row has a checksum: one that is damaged says nothing, and such a voter sits out this entry. One
that is empty says that this store has lost its newest batches: its node never votes again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import blake2b
from typing import NamedTuple

from dynagent.core.encoding import decode, encode
from dynagent.core.hints import DURABLE
from dynagent.core.ports import NodeId, Reader
from dynagent.core.replica import Replica
from dynagent.errors import ProtocolError

ROW = "ringlog/vote"
LOST = b""  # in that row: what it said is lost, and so may be the ring on which it voted
_SUM_BYTES = 16
_FOR_EVER = 2**63

Number = tuple[int, int]  # of a ballot: its round, and the random number of its proposer
NEVER: Number = (0, 0)  # below every ballot


class Standing(NamedTuple):
    """Where a voter stands."""

    promised: Number = NEVER
    accepted: Number = NEVER
    entry: bytes = b""


def vote(standing: Standing, number: Number, entry: bytes) -> Standing:
    """Where a voter stands after a ballot; b"": it has no entry yet."""
    if number < standing.promised:
        return standing
    if not entry:
        return standing._replace(promised=number)
    return Standing(number, number, entry)


def is_granted(standing: Standing, number: Number, entry: bytes) -> bool:
    """Whether that is a vote for this ballot."""
    return (standing.accepted if entry else standing.promised) == number


def choose(promises: Iterable[Standing], own: bytes) -> bytes:
    """The entry that a ballot may carry which a majority has promised."""
    newest = max(promises, key=lambda standing: standing.accepted)
    return own if newest.accepted == NEVER else newest.entry


def is_majority(nodes: Collection[NodeId], voters: Collection[NodeId]) -> bool:
    return 2 * len(set(voters).intersection(nodes)) > len(voters)


class Acceptor:
    """One node's votes for the entry of `index`, on its disk."""

    def __init__(self, replica: Replica, reader: Reader) -> None:
        self.index = 0
        self.standing = Standing()
        self.sits_out = 0  # up to this index it cannot know how it has voted
        self._replica = replica
        self._reader = reader
        self._under_way: set[int] = set()  # batches that bring this standing to the disk

    def serve(self, index: int) -> None:
        """`index` is that of the next entry, and what the disk says of it is all there is: at a
        start, and when the disk has refused a batch."""
        self.on_ring(index)
        row = self._reader.get_meta(ROW)
        if row is None:
            return
        if row == LOST:
            self.sits_out = _FOR_EVER
            return
        try:
            voted_for, standing = _decode_row(row)
        except ProtocolError:
            self.sits_out = max(self.sits_out, index)
        else:
            self.standing = standing if voted_for == index else Standing()

    def on_ring(self, index: int) -> None:
        """The entries before `index` are known, be it not yet durably."""
        self.index, self.standing = index, Standing()
        self._under_way.clear()

    def take(self, number: Number, entry: bytes) -> int:
        """A ballot for the entry of `index`. Returns the batch that makes durable how this node
        stands now; `DURABLE` if it is."""
        standing = vote(self.standing, number, entry)
        if standing != self.standing:
            self.standing = standing
            row = _encode_row(self.index, standing)
            self._under_way.add(self._replica.keep_row(ROW, row))
        return max(self._under_way, default=DURABLE)

    def on_committed(self, batch: int) -> None:
        self._under_way.discard(batch)


def _encode_row(index: int, standing: Standing) -> bytes:
    content = encode([index, [*standing.promised], [*standing.accepted], standing.entry])
    return blake2b(content, digest_size=_SUM_BYTES).digest() + content


def _decode_row(row: bytes) -> tuple[int, Standing]:
    """Raises `ProtocolError` if it is damaged."""
    content = row[_SUM_BYTES:]
    if blake2b(content, digest_size=_SUM_BYTES).digest() != row[:_SUM_BYTES]:
        raise ProtocolError("a row of votes does not match its checksum")
    match decode(content):
        case [int(index), [int(one), int(two)], [int(three), int(four)], bytes(entry), *_]:
            return index, Standing((one, two), (three, four), entry)
        case _:
            raise ProtocolError("a row of votes is malformed")
