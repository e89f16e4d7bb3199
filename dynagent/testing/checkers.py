"""The judges: what must hold of a history, whatever went wrong (design §10).

Everything rests on one relation. A write w **supersedes** an earlier write v if w took effect and

- w carried a context and its client had v in hand with it; or
- w was an overwrite, v was invoked before w could no longer take effect, and w's clock covers v.

A write that is nowhere must have been superseded by one that is there, or by a chain of such, or by
a delete. What a client had in hand is known without looking at any clock of the product, so a clock
that claims too much is found out.

Each checker counts its evaluations under its name in `World.verdicts`. The ones that speak of an
instant live in `ledger.py` and `simnode.py` (each says which), the end of a run in `simulation.py`
(heals) and `hangs.py` (hung_is_not_up, up_again); no_phantom is in three places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from dynagent.core.messages import MODE_BLIND, MODE_CONTEXT, MODE_OVERWRITE
from dynagent.core.ports import NodeId
from dynagent.core.siblings import Clock, Dot, join
from dynagent.testing.history import DELETE, FAILED, GET, PUT, History, Operation
from dynagent.testing.ledger import Ledger, Sighting, covers, is_covered, name_dot
from dynagent.testing.listings import Verdict
from dynagent.testing.world import Verdicts

# One copy of a key, as its disk has it: its clock and its dots.
Copy = tuple[Clock, frozenset[Dot]]

NAMES = (
    "ack_is_durable",
    "acks_stand_apart",
    "answered_once",
    "antichain",
    "context_is_honest",
    "copies_grow",
    "dots_unique",
    "facts_are_own",
    "facts_grow",
    "fresh",
    "gossip_converges",
    "heals",
    "rot_is_healed",
    "lost_rows_return",
    "hint_is_data",
    "hints_are_counted",
    "hints_come_home",
    "hung_is_not_up",
    "idle_round_is_silent",
    "in_flight_is_left",
    "jobs_end",
    "listed",
    "monotonic",
    "moved_is_news",
    "newcomer_learns",
    "no_lost_write",
    "no_phantom",
    "no_resurrection",
    "nothing_left",
    "owed_arrives",
    "read_is_durable",
    "refused_is_nothing",
    "repair_is_durable",
    "repair_restores",
    "repaired_is_equal",
    "replicas_converge",
    "retried_once",
    "settling_passes",
    "siblings_are_bounded",
    "siblings_are_concurrent",
    "superseded_stays_away",
    "tombstones_end",
    "trees_are_current",
    "trees_are_known",
    "unreadable_is_unknown",
    "up_again",
)


def merge_copies(copies: Mapping[NodeId, Copy]) -> frozenset[Dot]:
    """The dots that survive a merge of all copies: the rule of `core/siblings.py`, told again."""
    held = frozenset(dot for _, dots in copies.values() for dot in dots)
    return frozenset(
        dot
        for dot in held
        if all(dot in dots or not is_covered(dot, clock) for clock, dots in copies.values())
    )


class Judge:
    """Decides about one key. `final` are the dots that survive on all disks together."""

    def __init__(
        self,
        *,
        key: bytes,
        history: History,
        ledger: Ledger,
        verdicts: Verdicts,
        n: int,
        w: int,
        final: frozenset[Dot],
        listings: Sequence[Verdict] = (),
    ) -> None:
        self._key = key
        self._ledger = ledger
        self._verdicts = verdicts
        self._n = n
        self._w = w  # of the ring: where a repairing get leaves what it returns
        self._final = final
        self._listings = listings
        self._operations = history.of_key(key)
        self._sightings = ledger.sightings.get(key, {})
        self._is_rotten = key in ledger.ever_rotten
        self._gets = [op for op in self._operations if op.kind == GET and op.is_ok]
        self._puts = [op for op in self._operations if op.kind == PUT]
        self._writers = {put.number: put for put in self._puts}
        self._acked = [op for op in self._operations if op.is_write and op.is_ok]
        self._effective = [op for op in self._operations if self._took_effect(op) is not None]
        self._supersedes = {
            put.number: [w for w in self._effective if self._superseded_by(put, w)]
            for put in self._puts
        }

    def judge(self) -> None:
        self._no_lost_write()
        self._refused_is_nothing()
        self._retried_once()
        self._antichain()
        for write in self._acked:
            if not self._may_be_gone(write):
                self._superseded_stays_away(write, self._final, "at the end")
            if write.reply_clock is not None:
                own = frozenset({write.number}) if write.kind == PUT else frozenset()
                self._context_is_honest(write, write.reply_clock, own)
        self._siblings_are_concurrent(self._final, "at the end")
        for get in self._gets:
            self._judge_get(get)
        for verdict in self._listings:
            for write in self._acked:
                is_before = write.returned_order < verdict.began_order
                if is_before and write.strict and verdict.needed + write.w > self._n:
                    self._listed(verdict, write)

    def _judge_get(self, get: Operation) -> None:
        what = f"in get {get.number}"
        assert get.reply_clock is not None
        self._no_phantom(get)
        self._context_is_honest(get, get.reply_clock, frozenset(get.values))
        dots = frozenset(dot for dot in get.dots if dot in self._sightings)
        self._siblings_are_concurrent(dots, what)
        self._no_resurrection(get)
        for write in self._acked:
            is_before = write.returned_order < get.invoked_order
            if is_before and get.strict and write.strict and get.r + write.w > self._n:
                self._fresh(get, write)
                self._superseded_stays_away(write, dots, what)
        if get.strict:
            for earlier in self._gets:
                is_before = earlier.returned_order < get.invoked_order
                if is_before and earlier.repair and get.r + self._w > self._n:
                    self._monotonic(earlier, get)

    # --- the relation ----------------------------------------------------------------------------

    def _dots(self, operation: Operation) -> list[Sighting]:
        return self._ledger.minted.get(operation.number, [])

    def _took_effect(self, operation: Operation) -> int | None:
        """Since when (order) this write may have superseded others; None: it never has."""
        if operation.kind == PUT and (dots := self._dots(operation)):
            return dots[0].order
        is_applied = operation.is_ok or operation.number in self._ledger.applied
        return operation.invoked_order if operation.kind == DELETE and is_applied else None

    def _superseded_by(self, put: Operation, write: Operation) -> bool:
        if put is write or write.mode == MODE_BLIND:
            return False
        if write.mode == MODE_CONTEXT:
            return put.number in write.hand
        if put.invoked >= write.ended:
            return False
        if write.kind == DELETE:
            # Each attempt may have deleted what it saw; only the last one tells what that was.
            is_told = write.reply_clock is not None and len(write.attempts) == 1
            clocks = [write.reply_clock or {}] if is_told else []
        else:
            clocks = [sighting.clock for sighting in self._dots(write)]
        dots = [sighting.dot for sighting in self._dots(put)]
        if put.reply_dot is not None:  # superseded in the batch that minted it: never seen
            dots.append(put.reply_dot)
        return not clocks or any(is_covered(dot, clock) for dot in dots for clock in clocks)

    def _is_explained(self, put: Operation, before_order: int) -> bool:
        """May `put` have been superseded by then?"""
        for write in self._supersedes[put.number]:
            since = self._took_effect(write)
            if since is not None and since < before_order:
                return True
        return False

    # --- durability ------------------------------------------------------------------------------

    def _no_lost_write(self) -> None:
        """An acknowledged put is there at the end, or a chain of writes that superseded it is."""
        left = {self._sightings[dot].writer for dot in self._final}
        for put in self._acked:
            if put.kind == PUT and not self._may_be_gone(put):
                self._verdicts.check(
                    "no_lost_write",
                    self._leads_to(put, left),
                    f"put {put.number} (W={put.w}) was acknowledged and is lost;",
                    f"left: {sorted(left)}",
                )

    def _may_be_gone(self, write: Operation) -> bool:
        """A copy has rotted once, and this write asked for no more than one."""
        return self._is_rotten and write.w < 2

    def _leads_to(self, put: Operation, left: set[int], before_order: int = 1 << 62) -> bool:
        """Is it left, or was it superseded by a chain of writes up to one that is, or a delete?"""
        seen = {put.number}
        todo = [put]
        while todo:
            write = todo.pop()
            if write.kind == DELETE or write.number in left:
                return True
            for heir in self._supersedes[write.number]:
                since = self._took_effect(heir)
                if heir.number not in seen and since is not None and since < before_order:
                    seen.add(heir.number)
                    todo.append(heir)
        return False

    def _refused_is_nothing(self) -> None:
        """A definite error: the operation has left no trace anywhere."""
        for write in self._operations:
            if write.is_write and write.outcome == FAILED:
                self._verdicts.check(
                    "refused_is_nothing",
                    self._took_effect(write) is None,
                    f"{write.kind} {write.number} was refused, and has been written",
                )

    # --- retries ---------------------------------------------------------------------------------

    def _retried_once(self) -> None:
        """What reached W is not minted again by an attempt that began later (design §3).

        An attempt mints one dot at most. So there are no more dots than attempts that began before
        W disks knew the op-id, those that were refused not counted.
        """
        for put in self._puts:
            if put.strict and put.r + put.w > self._n:
                known = sorted(self._ledger.known.get(put.number, {}).values())
                settled = known[put.w - 1] if len(known) >= put.w else inf
                # A tombstone takes the op-ids with it: who comes after that finds none.
                purged = self._ledger.first_purged(self._key)
                able = [
                    attempt
                    for attempt in put.attempts
                    if (attempt.sent <= settled or attempt.dead_by >= purged)
                    and not attempt.is_refused
                ]
                dots = self._dots(put)
                self._verdicts.check(
                    "retried_once",
                    len(dots) <= len(able),
                    f"put {put.number} was minted as {', '.join(name_dot(s.dot) for s in dots)},",
                    f"but only {len(able)} attempts began before it had reached W",
                )

    # --- siblings --------------------------------------------------------------------------------

    def _antichain(self) -> None:
        """Of what is left, nothing had superseded another when it was minted."""
        for dot in sorted(self._final):
            minted = self._sightings[dot]
            gone = [
                d for d in self._final if is_covered(d, minted.clock) and d not in minted.present
            ]
            self._verdicts.check(
                "antichain",
                not gone,
                f"{name_dot(dot)} stands beside {', '.join(map(name_dot, sorted(gone)))},",
                "which it superseded",
            )

    def _siblings_are_concurrent(self, dots: frozenset[Dot], where: str) -> None:
        """No write stands beside one that it had seen, or that it was bound to overwrite."""
        for dot in sorted(dots):
            write = self._writer(dot)
            beside = [other for other in sorted(dots) if self._must_have_gone(other, write)]
            self._verdicts.check(
                "siblings_are_concurrent",
                not beside,
                f"{where}: put {write.number} stands beside",
                f"{', '.join(map(name_dot, beside))}, which it had seen",
            )

    def _must_have_gone(self, dot: Dot, write: Operation) -> bool:
        if write.mode == MODE_CONTEXT:
            return is_covered(dot, write.clock)
        other = self._writer(dot)
        return (
            write.mode == MODE_OVERWRITE
            and other.reply_dot == dot
            and other.returned_order < write.invoked_order
            and write.strict
            and other.strict
            and write.r + other.w > self._n
        )

    def _writer(self, dot: Dot) -> Operation:
        return self._writers[self._sightings[dot].writer]

    # --- reads -----------------------------------------------------------------------------------

    def _no_phantom(self, get: Operation) -> None:
        """What a get returns was put to this key, and before the get returned."""
        for writer, dot in zip(get.values, get.dots, strict=True):
            put = self._writers.get(writer)
            self._verdicts.check(
                "no_phantom",
                put is not None
                and put.invoked_order < get.returned_order
                and dot in self._sightings
                and self._sightings[dot].writer == writer,
                f"get {get.number} returned {writer} as {name_dot(dot)},",
                "which was not put to this key by then",
            )

    def _fresh(self, get: Operation, write: Operation) -> None:
        """R+W>N: a get sees every write that was acknowledged before it began, or its heirs."""
        clock = self._known_to(get)
        if write.kind == DELETE:
            is_seen = covers(clock, write.reply_clock or write.clock)
        elif write.reply_dot is not None:
            is_seen = is_covered(write.reply_dot, clock)
        else:
            is_seen = any(is_covered(s.dot, clock) for s in self._dots(write))
        if is_seen and write.kind == PUT and write.number not in get.values:
            is_seen = self._is_explained(write, get.returned_order)
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

    def _no_resurrection(self, get: Operation) -> None:
        """What was purged before a get began is not in it."""
        if purged := self._ledger.purged(self._key, get.invoked_order):
            back = [dot for dot in get.dots if is_covered(dot, purged)]
            self._verdicts.check(
                "no_resurrection",
                not back,
                f"get {get.number} returns {', '.join(map(name_dot, back))}, which was purged",
            )

    def _monotonic(self, earlier: Operation, get: Operation) -> None:
        """A get that repaired before it answered is not gone behind by a later one."""
        assert earlier.reply_clock is not None
        self._verdicts.check(
            "monotonic",
            covers(self._known_to(get), earlier.reply_clock),
            f"get {get.number} (R={get.r}) has not seen all that get {earlier.number},",
            "which repaired first, had returned before",
        )

    def _listed(self, verdict: Verdict, write: Operation) -> None:
        """A listing is a quorum read: a key whose write was acknowledged before it began is in it,
        unless a delete came meanwhile; and nothing is in it that such a write had superseded."""
        dots, what = verdict.dots, f"listing {verdict.listing} of {verdict.key!r}:"
        own = {sighting.dot for sighting in self._dots(write)}
        if write.kind == PUT and not own & dots:
            left = {self._sightings[dot].writer for dot in dots}
            self._verdicts.check(
                "listed",
                self._leads_to(write, left, verdict.ended_order),
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

    def _superseded_stays_away(self, write: Operation, dots: frozenset[Dot], where: str) -> None:
        """What an acknowledged put or delete has superseded does not come back."""
        clocks = [write.clock] if write.reply_clock is None else [write.clock, write.reply_clock]
        back = [
            dot
            for dot in sorted(dots)
            if self._sightings[dot].writer != write.number
            and any(is_covered(dot, clock) for clock in clocks)
        ]
        self._verdicts.check(
            "superseded_stays_away",
            not back,
            f"{where}: {', '.join(map(name_dot, back))} is back,",
            f"which {write.kind} {write.number} had superseded",
        )

    def _context_is_honest(
        self, operation: Operation, clock: Clock, values: frozenset[int]
    ) -> None:
        """A context claims only what came with it, and what something else had superseded."""
        hidden = [
            put.number
            for put in self._puts
            if put.number not in values
            and any(is_covered(s.dot, clock) for s in self._dots(put))
            and not self._is_explained(put, operation.returned_order)
        ]
        self._verdicts.check(
            "context_is_honest",
            not hidden,
            f"the context of {operation.kind} {operation.number} claims {hidden},",
            f"but it came with {sorted(values)}",
        )
