"""What the core asks of the world around it: a disk to read, dice, a clock face, a way out.

The trio shells implement these with sockets and SQLite, the simulator with one event heap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NewType, Protocol

from dynagent.core.messages import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynagent.core.ring import Ring

NodeId = NewType("NodeId", str)  # 16 hex digits, minted with the store (design §6)
PartitionId = NewType("PartitionId", int)  # 0 .. Q-1
Token = NewType("Token", bytes)  # 16 bytes, the key's place on the ring
LinkId = NewType("LinkId", int)  # an accepted connection; answers go back on it


class Batch:
    """What one group commit makes durable, all or nothing.

    `records`: (token, key, stored form), at most one per key; a stored form of b"" removes the key.
    `strays`: (token, key) of rows to be removed that are no copies: they lie at a token that is not
    their key's, or are so damaged that `Reader.scan` shows them with a key of b"".
    `hints`: (target, token, key, owed): True adds the marker that this record is owed to `target`,
    False removes it; either may be so already. Of several for one marker the last one counts.
    `meta`: named rows of the node itself (the ring; later barriers, ring log).
    `sums`: numbered rows (from 0 on) of the trees' journal, at most one per number.
    """

    __slots__ = ("hints", "meta", "number", "records", "strays", "sums")

    def __init__(self, number: int) -> None:
        self.number = number
        self.records: list[tuple[Token, bytes, bytes]] = []
        self.hints: list[tuple[NodeId, Token, bytes, bool]] = []
        self.meta: list[tuple[str, bytes]] = []
        self.sums: list[tuple[int, bytes]] = []
        self.strays: list[tuple[Token, bytes]] = []


class Reader(Protocol):
    """The committed state of the node's disk, as clients and the core see it."""

    def get(self, token: Token, key: bytes) -> bytes | None:
        """The stored form or None; raises `CorruptRecord` if the engine cannot read it."""

    def read_ahead(self, places: Sequence[tuple[Token, bytes]]) -> Sequence[bytes | None]:
        """The stored forms at the first of these places, as many as are cheaper in one go than by
        `get`: perhaps none. b"" where there is no record; None where only `get` can tell."""

    def get_meta(self, name: str) -> bytes | None:
        """A named row or None."""

    def sums(self) -> list[tuple[int, bytes]]:
        """All numbered rows, in any order; raises `CorruptRecord`."""

    def scan(self, first: Token, last: Token) -> Iterator[tuple[Token, bytes, bytes]]:
        """(token, key, stored form) for first ≤ token ≤ last, in (token, key) order.

        A row so damaged that its key is unknown has b"" for key and form; one of which only the
        form is lost, b"" for that. Raises `CorruptRecord` if the engine cannot read on.
        """

    def hints(self, target: NodeId, after: bytes, count: int) -> list[tuple[Token, bytes]]:
        """The first `count` markers of what is owed to `target`, in (token, key) order.

        `after`: behind this token ‖ key; b"": from the start. Raises `CorruptRecord`.
        """

    def has_hint(self, target: NodeId, token: Token, key: bytes) -> bool:
        """Whether this record is owed to `target`; raises `CorruptRecord`."""

    def hint_counts(self) -> dict[NodeId, int]:
        """The markers by target, where there are any: walks over all; raises `CorruptRecord`."""


class Dice(Protocol):
    """A named random stream (`random.Random` or `random.SystemRandom`)."""

    def getrandbits(self, k: int, /) -> int: ...


class Effects(Protocol):
    """What a node does to the world. Called during `on_*`; performed by the shell in that order."""

    def send(
        self, targets: Sequence[NodeId], request_id: int, budget_ms: int, message: Message
    ) -> None:
        """One request to each peer, whose links are up. Replies come back by `Node.on_reply`."""

    def answer(self, link: LinkId, request_id: int, message: Message) -> None:
        """The reply to a request that came in on `link`; dropped if that link is gone."""

    def adopt(self, ring: bytes, link: LinkId, request_id: int) -> None:
        """Make this first ring and its cluster id durable, then call `Node.on_adopted`."""

    def reconnect(self, ring: Ring) -> None:
        """The ring is another: members may have come, gone or changed their addresses. Links to
        those of this one are wanted, and to nobody else."""

    def note(self, event: str, **fields: object) -> None:
        """Something worth a line in the log or a counter; never needed for correctness."""
