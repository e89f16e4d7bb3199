"""The judges: what must hold of a history, whatever went wrong (design §10).

Here is what concerns the writes to a key and what is left of it in the end; `relation.py` tells who
superseded whom, `reads.py` judges what was read. What a checker speaks of is in docs/simulation.md.

Each counts its evaluations under its name in `World.verdicts`. The ones that speak of an instant
live in `ledger.py` and `manners.py` (each says which), the end of a run in `simulation.py` (heals)
and `hangs.py` (hung_is_not_up, up_again); no_phantom is in three places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from dynagent.core.messages import MODE_CONTEXT, MODE_OVERWRITE
from dynagent.core.ports import NodeId
from dynagent.core.siblings import Clock, Dot
from dynagent.testing.history import FAILED, PUT, History, Operation
from dynagent.testing.ledger import Ledger, Lists, is_covered, name_dot
from dynagent.testing.listings import Verdict
from dynagent.testing.reads import Reads
from dynagent.testing.relation import Relation
from dynagent.testing.world import Verdicts

NAMES = (
    "ack_is_joint",
    "available",
    "changes_end",
    "copied_first",
    "fences_follow",
    "fences_grow",
    "fences_hold",
    "pledges_last",
    "votes_grow",
    "handed_over_first",
    "refused_rightly",
    "epoch_grows",
    "kept_as_planned",
    "newcomers_wait",
    "one_of_a_kind",
    "one_ring",
    "owners_hold_all",
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
        least: tuple[int, int] = (1, 1),
        lists: Sequence[tuple[float, Lists]] = (),
    ) -> None:
        """`least`: from which R and W on a read sees a write, if they are over N together: those
        of the ring if it has changed meanwhile (design §6). `lists`: in each list of which owners a
        put needs W by the newest ring, and since when; empty: W disks will do."""
        self._key = key
        self._ledger = ledger
        self._verdicts = verdicts
        self._n = n
        self._r_min, self._w_min = least
        self._w = w  # of the ring: where a repairing get leaves what it returns
        self._final = final
        self._listings = listings
        self._lists = lists
        self._is_rotten = key in ledger.ever_rotten
        self._relation = Relation(key, history, ledger)
        self._reads = Reads(key, self._relation, ledger, verdicts)

    def judge(self) -> None:
        self._no_lost_write()
        self._refused_is_nothing()
        self._retried_once()
        self._antichain()
        for write in self._relation.acked:
            if not self._may_be_gone(write):
                self._superseded_stays_away(write, self._final, "at the end")
            if write.reply_clock is not None:
                own = frozenset({write.number}) if write.kind == PUT else frozenset()
                self._context_is_honest(write, write.reply_clock, own)
        self._siblings_are_concurrent(self._final, "at the end")
        for get in self._relation.gets:
            self._judge_get(get)
        for verdict in self._listings:
            for write in self._relation.acked:
                is_before = write.returned_order < verdict.began_order
                if is_before and write.strict and self._meet(verdict.needed, write.w):
                    self._reads.listed(verdict, write)

    def _judge_get(self, get: Operation) -> None:
        what = f"in get {get.number}"
        assert get.reply_clock is not None
        self._reads.no_phantom(get)
        self._context_is_honest(get, get.reply_clock, frozenset(get.values))
        dots = frozenset(dot for dot in get.dots if dot in self._relation.sightings)
        self._siblings_are_concurrent(dots, what)
        self._reads.no_resurrection(get)
        for write in self._relation.acked:
            is_before = write.returned_order < get.invoked_order
            if is_before and get.strict and write.strict and self._meet(get.r, write.w):
                self._reads.fresh(get, write)
                self._superseded_stays_away(write, dots, what)
        if get.strict:
            for earlier in self._relation.gets:
                is_before = earlier.returned_order < get.invoked_order
                if is_before and earlier.repair and self._meet(get.r, self._w):
                    self._reads.monotonic(earlier, get)

    def _meet(self, r: int, w: int) -> bool:
        """Are a read of R and a write of W sure to have an owner in common?"""
        return r + w > self._n and r >= self._r_min and w >= self._w_min

    # --- durability ------------------------------------------------------------------------------

    def _no_lost_write(self) -> None:
        """An acknowledged put is there at the end, or a chain of writes that superseded it is."""
        left = {self._relation.sightings[dot].writer for dot in self._final}
        for put in self._relation.acked:
            if put.kind == PUT and not self._may_be_gone(put):
                self._verdicts.check(
                    "no_lost_write",
                    self._relation.leads_to(put, left),
                    f"put {put.number} (W={put.w}) was acknowledged and is lost;",
                    f"left: {sorted(left)}",
                )

    def _may_be_gone(self, write: Operation) -> bool:
        """A copy has rotted once, and this write asked for no more than one."""
        return self._is_rotten and write.w < 2

    def _refused_is_nothing(self) -> None:
        """A definite error: the operation has left no trace anywhere."""
        for write in self._relation.operations:
            if write.is_write and write.outcome == FAILED:
                self._verdicts.check(
                    "refused_is_nothing",
                    self._relation.took_effect(write) is None,
                    f"{write.kind} {write.number} was refused, and has been written",
                )

    # --- retries ---------------------------------------------------------------------------------

    def _retried_once(self) -> None:
        """What reached W is not minted again by an attempt that began later (design §3).

        An attempt mints one dot at most. So there are no more dots than attempts that began before
        it had reached W, those that were refused not counted.
        """
        for put in self._relation.puts:
            if put.strict and self._meet(put.r, put.w):
                settled = self._reached(put)
                # A tombstone takes the op-ids with it: who comes after that finds none.
                purged = self._ledger.first_purged(self._key)
                able = [
                    attempt
                    for attempt in put.attempts
                    if (attempt.sent <= settled or attempt.dead_by >= purged)
                    and not attempt.is_refused
                ]
                dots = self._relation.dots(put)
                self._verdicts.check(
                    "retried_once",
                    len(dots) <= len(able),
                    f"put {put.number} was minted as {', '.join(name_dot(s.dot) for s in dots)},",
                    f"but only {len(able)} attempts began before it had reached W",
                )

    def _reached(self, put: Operation) -> float:
        """When it had reached W: a coordinator said so, or W disks of its owners knew its op-id.

        While the partition moves that means W of each of its two lists (design §6). A write that
        W disks know, but fewer in one list, can be missed by a retry that reads from that list.
        """
        known = self._ledger.known.get(put.number, {})
        reached = [self._ledger.acknowledged.get(put.number, inf)]
        tenures = self._lists or [(0.0, [tuple(known)])]
        ends = [*(since for since, _ in tenures[1:]), inf]
        for (since, lists), end in zip(tenures, ends, strict=True):
            when = max(since, *(_nth(put.w, known, owners) for owners in lists))
            if when < end:
                reached.append(when)
        return min(reached)

    # --- siblings --------------------------------------------------------------------------------

    def _antichain(self) -> None:
        """Of what is left, nothing had superseded another when it was minted."""
        for dot in sorted(self._final):
            minted = self._relation.sightings[dot]
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
            and self._meet(write.r, other.w)
        )

    def _writer(self, dot: Dot) -> Operation:
        return self._relation.writers[self._relation.sightings[dot].writer]

    def _superseded_stays_away(self, write: Operation, dots: frozenset[Dot], where: str) -> None:
        """What an acknowledged put or delete has superseded does not come back."""
        clocks = [write.clock] if write.reply_clock is None else [write.clock, write.reply_clock]
        back = [
            dot
            for dot in sorted(dots)
            if self._relation.sightings[dot].writer != write.number
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
            for put in self._relation.puts
            if put.number not in values
            and any(is_covered(s.dot, clock) for s in self._relation.dots(put))
            and not self._relation.is_explained(put, operation.returned_order)
        ]
        self._verdicts.check(
            "context_is_honest",
            not hidden,
            f"the context of {operation.kind} {operation.number} claims {hidden},",
            f"but it came with {sorted(values)}",
        )


def _nth(w: int, known: Mapping[NodeId, float], owners: Sequence[NodeId]) -> float:
    """When W of these owners knew it."""
    times = sorted(known[owner] for owner in owners if owner in known)
    return times[w - 1] if len(times) >= w else inf
