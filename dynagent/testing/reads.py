"""The judges of what was read: by a get, or by a listing, which is a quorum read too."""

from __future__ import annotations

from dynagent.core.siblings import Clock, join
from dynagent.testing.history import DELETE, PUT, Operation
from dynagent.testing.ledger import Ledger, covers, is_covered, name_dot
from dynagent.testing.listings import Verdict
from dynagent.testing.relation import Relation
from dynagent.testing.world import Verdicts


class Reads:
    """Decides about the reads of one key."""

    def __init__(self, key: bytes, relation: Relation, ledger: Ledger, verdicts: Verdicts) -> None:
        self._key = key
        self._relation = relation
        self._ledger = ledger
        self._verdicts = verdicts

    def no_phantom(self, get: Operation) -> None:
        """What a get returns was put to this key, and before the get returned."""
        for writer, dot in zip(get.values, get.dots, strict=True):
            put = self._relation.writers.get(writer)
            self._verdicts.check(
                "no_phantom",
                put is not None
                and put.invoked_order < get.returned_order
                and dot in self._relation.sightings
                and self._relation.sightings[dot].writer == writer,
                f"get {get.number} returned {writer} as {name_dot(dot)},",
                "which was not put to this key by then",
            )

    def fresh(self, get: Operation, write: Operation) -> None:
        """R+W>N: a get sees every write that was acknowledged before it began, or its heirs."""
        clock = self._known_to(get)
        if write.kind == DELETE:
            is_seen = covers(clock, write.reply_clock or write.clock)
        elif write.reply_dot is not None:
            is_seen = is_covered(write.reply_dot, clock)
        else:
            is_seen = any(is_covered(s.dot, clock) for s in self._relation.dots(write))
        if is_seen and write.kind == PUT and write.number not in get.values:
            is_seen = self._relation.is_explained(write, get.returned_order)
        self._verdicts.check(
            "fresh",
            is_seen,
            f"get {get.number} (R={get.r}) misses {write.kind} {write.number} (W={write.w}),",
            "which had returned before",
        )

    def _known_to(self, get: Operation) -> Clock:
        """What it has seen, or what no copy needs to know any more."""
        assert get.reply_clock is not None
        return join(get.reply_clock, self._ledger.purged(self._key, get.returned_order))

    def no_resurrection(self, get: Operation) -> None:
        """What was purged before a get began is not in it."""
        if purged := self._ledger.purged(self._key, get.invoked_order):
            back = [dot for dot in get.dots if is_covered(dot, purged)]
            self._verdicts.check(
                "no_resurrection",
                not back,
                f"get {get.number} returns {', '.join(map(name_dot, back))}, which was purged",
            )

    def monotonic(self, earlier: Operation, get: Operation) -> None:
        """A get that repaired before it answered is not gone behind by a later one."""
        assert earlier.reply_clock is not None
        self._verdicts.check(
            "monotonic",
            covers(self._known_to(get), earlier.reply_clock),
            f"get {get.number} (R={get.r}) has not seen all that get {earlier.number},",
            "which repaired first, had returned before",
        )

    def listed(self, verdict: Verdict, write: Operation) -> None:
        """A listing is a quorum read: a key whose write was acknowledged before it began is in it,
        unless a delete came meanwhile; and nothing is in it that such a write had superseded."""
        dots, what = verdict.dots, f"listing {verdict.listing} of {verdict.key!r}:"
        own = {sighting.dot for sighting in self._relation.dots(write)}
        if write.kind == PUT and not own & dots:
            left = {self._relation.sightings[dot].writer for dot in dots}
            self._verdicts.check(
                "listed",
                self._relation.leads_to(write, left, verdict.ended_order),
                what,
                f"put {write.number}, acknowledged before, is not in it; it has {sorted(left)}",
            )
        clocks = [write.clock] if write.reply_clock is None else [write.clock, write.reply_clock]
        back = [
            dot for dot in sorted(dots - own) if any(is_covered(dot, clock) for clock in clocks)
        ]
        self._verdicts.check(
            "listed",
            not back,
            what,
            f"{', '.join(map(name_dot, back))} is in it,",
            f"which {write.kind} {write.number} had superseded",
        )
