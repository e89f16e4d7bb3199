"""What a node has pledged, to whoever changes the ring: a fence, a vote, what it holds. Does it
keep to it?

    fences_hold       what is asked under a stamp below the minimum that its disk had when it came
                      is refused: no copy is acknowledged, and none is told
    pledges_last      who says that it is fenced, how it has voted, or that its tree is the same,
                      has that on its disk
    votes_grow        of one entry, no disk ever has an older promise, or an older vote, than before

These are the rules themselves (design §6). What comes of breaking one shows elsewhere in one run of
thousands, for it takes a coordinator that has missed a whole change; this shows in any.
"""

from __future__ import annotations

from dynagent.core.acceptor import NEVER
from dynagent.core.encoding import decode
from dynagent.core.messages import (
    Ballot,
    Fence,
    FenceReply,
    Merge,
    MergeAck,
    Message,
    Read,
    ReadReply,
    Sift,
    SiftReply,
    Vote,
)
from dynagent.core.ports import LinkId, NodeId
from dynagent.testing.rings import Rings
from dynagent.testing.world import World

_SUM_BYTES = 16  # before the row of votes
Asked = tuple[LinkId, int]


class Pledges:
    """Of one node, life after life."""

    def __init__(self, *, world: World, rings: Rings, node: NodeId) -> None:
        self._world = world
        self._rings = rings
        self._node = node
        self._index = 0  # of the entry that its disk has votes for
        self._promised = self._accepted = NEVER
        self.forget()

    def forget(self) -> None:
        """The process has ended, and with it all that it was asked."""
        self._asked: dict[Asked, Fence | Ballot] = {}
        self._below: dict[Asked, str] = {}  # what must be refused
        # The batch that makes all durable that was there. The wire may bring a request twice, and
        # each has its answer, in that order: the first one needs no more than was there with it.
        self._compared: dict[Asked, list[int]] = {}
        self._landed = 0  # the newest batch on the disk

    # --- what is asked, and answered -------------------------------------------------------------

    def on_request(
        self, link: LinkId, request_id: int, message: Message, *, newest_batch: int
    ) -> None:
        if isinstance(message, Fence | Ballot):
            self._asked[link, request_id] = message
        elif isinstance(message, Sift):
            self._compared.setdefault((link, request_id), []).append(newest_batch)
        elif isinstance(message, Merge | Read) and self._rings.epochs > 1:
            stamp = (message.stamp_change, message.stamp_phase)
            for key in _keys(message):
                minimum = self._rings.minimum(self._node, self._rings.partition_of(key))
                if stamp < minimum:
                    self._below[link, request_id] = f"{key!r} under {stamp}, below {minimum}"

    def on_answer(self, link: LinkId, request_id: int, message: Message) -> None:
        below = self._below.pop((link, request_id), None)
        if below is not None:
            is_no = not isinstance(message, MergeAck | ReadReply)
            self._check("fences_hold", is_no, f"takes {below}")
        compared = self._compared.get((link, request_id))
        newest_batch = compared.pop(0) if compared else 0
        if isinstance(message, SiftReply):
            what = f"tells of a tree that needs batch {newest_batch}, and has {self._landed}"
            self._check("pledges_last", self._landed >= newest_batch, what)
        asked = self._asked.pop((link, request_id), None)
        if isinstance(message, FenceReply) and isinstance(asked, Fence):
            stamp = (asked.stamp_change, asked.stamp_phase)
            for partition in asked.partitions:
                minimum = self._rings.minimum(self._node, partition)
                what = f"says that it refuses partition {partition} below {stamp}; its disk has"
                self._check("pledges_last", minimum >= stamp, f"{what} {minimum}")
        elif isinstance(message, Vote) and isinstance(asked, Ballot):
            promised = (message.round, message.proposer)
            accepted = (message.accepted_round, message.accepted_proposer)
            is_there = self._promised >= promised and self._accepted >= accepted
            is_over = self._index > asked.index  # decided, so that no vote on it matters any more
            what = f"tells of votes for entry {asked.index} that its disk does not have"
            is_kept = is_over or (self._index == asked.index and is_there)
            self._check("pledges_last", is_kept, what)

    # --- its disk --------------------------------------------------------------------------------

    def on_vote_row(self, row: bytes) -> None:
        """How it has voted is on the disk."""
        match decode(row[_SUM_BYTES:]):
            case [int(index), [int(one), int(two)], [int(three), int(four)], *_]:
                promised, accepted = (one, two), (three, four)
            case _:
                raise AssertionError("a row of votes that is none")
        if index == self._index:
            what = f"has forgotten votes for entry {index}"
            is_newer = promised >= self._promised and accepted >= self._accepted
            self._check("votes_grow", is_newer, what)
        self._index, self._promised, self._accepted = index, promised, accepted

    def on_landed(self, batch: int) -> None:
        """A batch is on the disk."""
        self._landed = batch

    def put_back(self) -> None:
        """Its store was put back from a backup."""
        self._index, self._promised, self._accepted = 0, NEVER, NEVER

    def _check(self, checker: str, holds: bool, what: str) -> None:
        self._world.verdicts.check(checker, holds, f"{self._node[:2]} {what}")


def _keys(message: Merge | Read) -> list[bytes]:
    if isinstance(message, Read):
        return [message.key, *message.keys]
    return [entry[0] for entry in message.entries if isinstance(entry[0], bytes)]
