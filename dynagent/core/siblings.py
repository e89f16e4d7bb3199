"""Siblings: all concurrent values of one key, as a dotted version set.

A *value*, immutable. Two parts:

- the **clock**, a version vector {actor: highest counter seen}. An entry {A: n} claims *all* dots
  (A,1)…(A,n) of this key: each is either among the siblings or was superseded;
- the **siblings**, one for each dot (actor, counter) that nothing has superseded yet.

The whole algebra is one rule. Merging X and Y keeps a sibling that both have, or that one has and
the other's clock does not cover; the clocks are joined entry by entry. It is commutative,
associative and idempotent (`tests/core/test_siblings.py`), which is why replication, read repair,
hints and transfer can all be the same message, in any order and any number of times.

Worked example. A writes blind twice, (A,1) and (A,2): clock {A:2}, both are siblings, although a
plain version vector {A:2} would swallow {A:1} (Preguiça et al., *Dotted version vectors*, 2012;
Dynamo §4.4 has the plain ones). A reader sees both under context {A:2}; its next put at B mints
(B,1), drops what the context covers, and leaves clock {A:2, B:1} with the one sibling (B,1).

A delete is a put of nothing: the context joins the clock, what it covers goes, no dot is minted. A
clock without siblings *is* the tombstone.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from dynagent.core.encoding import decode, encode

Clock = dict[int, int]  # actor → highest counter; never changed once it is part of a value
Dot = tuple[int, int]


class Sibling:
    """One write: its dot, the op-id of the client's request, and its encoded bytes (core/entry)."""

    __slots__ = ("_data", "actor", "counter", "op_id")

    def __init__(self, actor: int, counter: int, op_id: bytes, data: bytes) -> None:
        self.actor = actor
        self.counter = counter
        self.op_id = op_id
        self._data = data

    @property
    def data(self) -> bytes:
        return self._data

    @property
    def dot(self) -> Dot:
        return (self.actor, self.counter)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sibling) and self.dot == other.dot and self.data == other.data

    def __hash__(self) -> int:
        return hash((self.actor, self.counter))

    def __repr__(self) -> str:
        return f"Sibling({self.actor:016x}:{self.counter})"


class Siblings:
    """A clock and the siblings, sorted by dot."""

    __slots__ = ("clock", "siblings")

    def __init__(self, clock: Clock, siblings: tuple[Sibling, ...]) -> None:
        self.clock = clock
        self.siblings = siblings

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Siblings)
            and self.clock == other.clock
            and self.siblings == other.siblings
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        clock = ", ".join(f"{actor:016x}:{count}" for actor, count in sorted(self.clock.items()))
        return f"Siblings({{{clock}}}, {list(self.siblings)})"

    def dots(self) -> list[Dot]:
        return [(sibling.actor, sibling.counter) for sibling in self.siblings]

    def merge(self, other: Siblings) -> Siblings:
        """Everything that either knows; nothing that either knows to be superseded.

        Returns `other` itself where that is the outcome because it has seen all of this value.
        """
        if other._supersedes(self):
            return other
        mine = {(s.actor, s.counter): s for s in self.siblings}
        theirs = {(s.actor, s.counter): s for s in other.siblings}
        kept: dict[Dot, Sibling] = {}
        losers: list[Sibling] = []
        for dot, sibling in mine.items():
            twin = theirs.get(dot)
            if twin is None:
                if sibling.counter > other.clock.get(sibling.actor, 0):
                    kept[dot] = sibling
            elif twin.data == sibling.data:
                kept[dot] = sibling
            else:
                winner, loser = sorted((sibling, twin), key=lambda s: s.data)
                kept[dot] = winner
                losers.append(loser)
        for dot, sibling in theirs.items():
            if dot not in mine and sibling.counter > self.clock.get(sibling.actor, 0):
                kept[dot] = sibling
        clock = join(self.clock, other.clock)
        for loser in losers:
            rescued = _under_fresh_dot(loser)
            clock = join(clock, {rescued.actor: rescued.counter})
            kept[rescued.dot] = rescued
        return Siblings(clock, _sorted(kept.values()))

    def _supersedes(self, old: Siblings) -> bool:
        """Has this value seen all of `old`, which has nothing of it? The usual case of a merge."""
        clock, seen = self.clock, old.clock
        for actor, counter in seen.items():
            if counter > clock.get(actor, 0):
                return False
        # A loop, not all(): a generator costs as much again as the rest of this.
        for sibling in self.siblings:  # noqa: SIM110
            if sibling.counter <= seen.get(sibling.actor, 0):
                return False
        return True

    def clashes(self, other: Siblings) -> int:
        """Dots that both have with different bytes: a cloned store or a bug, never concurrency."""
        theirs = {(s.actor, s.counter): s.data for s in other.siblings}
        return sum(theirs.get(s.dot, s.data) != s.data for s in self.siblings)

    def write(self, context: Clock, sibling: Sibling) -> Siblings:
        """A put: `sibling` joins, what `context` has seen goes."""
        clock = join(self.clock, context)
        clock[sibling.actor] = sibling.counter
        kept = self._unseen(context)
        return Siblings(clock, _sorted([*kept, sibling]) if kept else (sibling,))

    def delete(self, context: Clock) -> Siblings:
        """A put of nothing: what `context` has seen goes."""
        return Siblings(join(self.clock, context), tuple(self._unseen(context)))

    def merge_known(self, clock: Clock, dots: list[Dot]) -> Siblings | None:
        """`merge` with a copy of which only clock and dots are known; None if it has news.

        The bytes of a dot never change, so a copy whose dots we all hold (or have superseded)
        adds nothing but its clock.
        """
        mine = set(self.dots())
        for dot in dots:
            if dot not in mine and dot[1] > self.clock.get(dot[0], 0):
                return None
        held = set(dots)
        kept = tuple(s for s in self.siblings if s.dot in held or s.counter > clock.get(s.actor, 0))
        return Siblings(join(self.clock, clock), kept)

    def _unseen(self, context: Clock) -> list[Sibling]:
        return [s for s in self.siblings if s.counter > context.get(s.actor, 0)]


EMPTY = Siblings({}, ())


def join(one: Clock, other: Clock) -> Clock:
    """The least clock that covers both: a new dict."""
    joined = dict(one)
    for actor, counter in other.items():
        if counter > joined.get(actor, 0):
            joined[actor] = counter
    return joined


def _sorted(siblings: Iterable[Sibling]) -> tuple[Sibling, ...]:
    return tuple(sorted(siblings, key=lambda s: (s.actor, s.counter)))


def _under_fresh_dot(sibling: Sibling) -> Sibling:
    """The same write under a dot drawn from its own bytes.

    Two stores that minted one dot for two writes are clones (design §5: both values are kept and
    an alarm is raised). Every replica that meets the clash picks the same new dot, so that merging
    stays commutative and idempotent even then.
    """
    actor = int.from_bytes(blake2b(sibling.data, digest_size=8, person=b"dyn-clash").digest())
    fields = decode(sibling.data)
    assert isinstance(fields, list)
    return Sibling(actor, 1, sibling.op_id, encode([actor, 1, *fields[2:]]))
