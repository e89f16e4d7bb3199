"""The sum of many runs, and the floors under it: was there enough to judge?

A simulation that finds nothing is worth what it has tried. Each floor is per 1,000 seeds, at about
half of what 1,000 of them gave when it was set (seeds 0 to 6,000): high enough that a change which
quietly switches a fault or a checker off fails, low enough that another mix of seeds does not.
"""

from __future__ import annotations

from collections import Counter

from dynagent.testing.simulation import Report

SEEDS_MIN = 200  # a smaller run is too small for its floors to mean anything

ACKNOWLEDGED = 17_000  # writes: what durability and freshness are judged by
OVERLAPPING_PAIRS = 14_000  # of writes to one key: without them there is no concurrency at all

FAULTS = {
    # Memory is lost; a restart with an old mark or a lost batch is what these look for.
    "kill": 1_700,
    "power_cut": 1_900,
    "power_cut_all": 1_000,
    "power_cut_at_ack": 700,  # the rarest moment, and the one that finds a false acknowledgement
    "clean_stop": 1_300,  # marks that rightly survive
    # Sloppy quorums at work: hints that came to a disk, copies that stand-ins dropped in the end.
    "hint": 8_000,
    "drop": 400,
    # Their bounds, of either kind in two fifths of the seeds: copies that a stand-in refused,
    # partitions that became dirty for an owner, and those that a walk has cleared.
    "hint_refused": 300,
    "dirty": 2_000,
    "walked": 2_000,
    # Quorums that meet in different places.
    "cut_pair": 1_700,
    "cut_one_way": 1_900,
    "cut_node": 2_000,
    "cut_halves": 1_000,
    # Shapes that only partitions of several cuts have; in a quarter of the seeds, one at a time.
    "third": 190,
    "majorities": 50,
    "swizzle": 170,
    # Each message by itself: some tens for each seed that has the kind on.
    "loss": 6_500,
    "delay": 16_000,
    "duplicate": 14_000,
    "reorder": 9_000,
    # Batches that gather, and reads between writing and fsync.
    "slow_disk": 1_800,
    # In a fifth of the seeds; each is one refused batch.
    "disk_full": 600,
    # At most one copy of each key at a time, see the fault budget in dynagent/testing/swarm.py.
    "rot": 340,
    # At the end of half of the seeds.
    "lost_row": 150,
    "misplaced_row": 150,
    # Wall clocks decide nothing; half of the seeds have them wrong.
    "skew": 900,
    "clock_jump": 500,
    # Faults that no broken link announces; in two fifths of the seeds, one at a time.
    "hang": 160,
    "gray": 150,
    "one_way": 160,
    # Clients that try again, and those that do so while the first attempt is under way.
    "retry": 30_000,
    "impatience": 14_000,
    # Puts that the bound on siblings refuses; two agents that lose their power together.
    "crowded": 2_800,
    "power_cut_machine": 230,
    # In a third of the seeds: tombstones that are dropped at an owner, Merges that arrive once more
    # and much later, nodes that are away for weeks.
    "purge": 2_000,
    "held": 2_000,
    "weeks_away": 500,
    "hints_paused": 500,
    # In a third of the seeds: copies of a store that start beside it, and are refused.
    "twin": 450,
    "twin_refused": 430,
    # Jobs of two fifths of the seeds and of their ends; copies that a node has lost, in four
    # fifths; records that exchanges have moved, most of them these.
    "job": 2_300,
    "job_cancelled": 1_200,
    "lose": 250,
    "lose_sums": 50,
    "moved": 350,
    # Changes of the ring, in two fifths of the seeds: entries of the log, by kind; what operators
    # were refused, for another was first; nodes that are gone for good, stores that were put back
    # from a backup, and starts that were refused for it.
    "change_join": 90,
    "change_leave": 30,
    "change_replace": 55,
    "change_remove": 30,
    "change_set": 45,
    "phase_1": 320,
    "settled": 290,
    "abort": 90,
    "retire": 40,
    "voters": 29,
    "policy": 15,
    "proposal_refused": 30,
    "gone": 59,
    "put_back": 12,
    "refused": 25,
}

# What only a ring that changes brings about.
OF_CHANGES = {
    *("change_join", "change_leave", "change_replace", "change_remove", "change_set"),
    *("phase_1", "settled", "abort", "retire", "voters", "policy", "proposal_refused"),
    *("gone", "put_back", "refused", "refused_rightly", "changes_end", "available"),
    *("handed_over_first", "fences_grow", "fences_follow", "ack_is_joint", "epoch_grows"),
    *("owners_hold_all", "fences_hold", "pledges_last", "votes_grow", "copied_first"),
}

# Not to be expected of some tens of seeds.
RARE = {"power_cut_machine", "put_back", "refused", "refused_rightly"}

EVALUATIONS = {
    # Once for each message, record or reply that it watches.
    "answered_once": 270_000,
    "dots_unique": 100_000,
    "no_phantom": 49_000,
    "copies_grow": 44_000,
    "ack_is_durable": 26_000,
    "acks_stand_apart": 26_000,
    "ack_is_joint": 14_000,
    "siblings_are_bounded": 44_000,
    "read_is_durable": 25_000,
    # Once or twice for each listing's verdict about a key and write that it compares.
    "listed": 74_000,
    # Once for each get and write that it compares, or for each get.
    "superseded_stays_away": 62_000,
    # Once for each strict get after a get that repaired first; once for each of these.
    "monotonic": 14_000,
    "repair_is_durable": 5_600,
    "fresh": 50_000,
    "context_is_honest": 22_000,
    "siblings_are_concurrent": 20_000,
    # Once for each put.
    "retried_once": 17_000,
    "settling_passes": 10_600,
    "no_lost_write": 12_000,
    # Few writes are refused by all they ask; few copies rot, and not for long; few siblings are
    # left at the end.
    "unreadable_is_unknown": 1_500,
    "antichain": 1_700,
    "refused_is_nothing": 1_000,
    # A fixed number for each seed, its keys and its nodes.
    "heals": 3_600,
    "nothing_left": 3_600,
    "up_again": 5_400,
    "hints_come_home": 7_500,
    # Once for each node and key, and for each row that was lost and its owners.
    "rot_is_healed": 8_000,
    "lost_rows_return": 1_000,
    # Once for each fact that a node takes or asserts, and for each that it replaces.
    "facts_are_own": 41_000,
    "facts_grow": 24_000,
    # A fixed number for each pair of nodes, and for each node but one.
    "gossip_converges": 7_000,
    "newcomer_learns": 1_800,
    # Once for each copy, and each get, of a key of which a tombstone was purged; for each key of a
    # seed that purges, when all is well.
    "no_resurrection": 1_700,
    "tombstones_end": 500,
    # Once for each leaf with records, at each start and refused batch of a node, and at the end.
    "trees_are_current": 21_000,
    "trees_are_known": 1_900,
    # Once for each hint that is settled or copy that is dropped.
    "hint_is_data": 8_000,
    # Once for each batch that adds or removes hints or marks.
    "hints_are_counted": 14_000,
    # Once for each node, target and key that was ever owed.
    "owed_arrives": 3_500,
    # Once for each ring that a node has, in each of its lives; each record that comes to a disk;
    # each write that a node coordinates.
    "one_ring": 18_000,
    # Once for each turn and message of a copy.
    "one_of_a_kind": 2_500,
    "epoch_grows": 16_000,
    "kept_as_planned": 46_000,
    "newcomers_wait": 17_000,
    # Once for each partition of a row of minimum stamps that comes to a disk; each copy that a
    # former owner drops; each refused start; each seed that changes the ring; each operation of a
    # quiet one.
    "fences_grow": 24_000,
    "fences_follow": 24_000,
    # Once for each request that comes under too low a stamp; for each partition of a fence, and
    # each vote, that is told; for each vote that comes to a disk after another for its entry.
    "fences_hold": 100,
    "copied_first": 100,
    "pledges_last": 12_000,
    "votes_grow": 4_500,
    "handed_over_first": 230,
    # Once for each acknowledged write of a partition that is read from another list than before.
    "owners_hold_all": 900,
    "refused_rightly": 25,
    "changes_end": 180,
    "available": 2_000,
    # A few for each hang that lasts longer than the detector may take.
    "hung_is_not_up": 400,
    # Once for each record that an exchange moves.
    "moved_is_news": 350,
    "in_flight_is_left": 350,
    # Once for each partition and key that a job has compared.
    "repaired_is_equal": 12_000,
    # A fixed number for each seed, its keys and its partitions; once for each key that was lost.
    "replicas_converge": 7_500,
    "idle_round_is_silent": 750,
    "jobs_end": 1_500,
    "repair_restores": 250,
}


class Totals:
    """Reports added up."""

    def __init__(self) -> None:
        self.seeds = 0
        self.sim_s = 0.0
        self.cpu_s = 0.0
        self.messages = 0
        self.operations = 0
        self.acknowledged = 0
        self.overlapping_pairs = 0
        self.faults: Counter[str] = Counter()
        self.evaluations: Counter[str] = Counter()
        self.violations: list[tuple[int, str]] = []

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.sim_s += report.sim_s
        self.messages += report.messages
        self.operations += report.operations
        self.acknowledged += report.acknowledged
        self.overlapping_pairs += report.overlapping_pairs
        self.faults += report.faults
        self.evaluations += report.evaluations
        self.violations += [(report.seed, violation) for violation in report.violations]

    def merge(self, other: Totals) -> None:
        self.seeds += other.seeds
        self.sim_s += other.sim_s
        self.cpu_s += other.cpu_s
        self.messages += other.messages
        self.operations += other.operations
        self.acknowledged += other.acknowledged
        self.overlapping_pairs += other.overlapping_pairs
        self.faults += other.faults
        self.evaluations += other.evaluations
        self.violations += other.violations

    def line(self) -> str:
        faults = " ".join(f"{kind}:{count}" for kind, count in sorted(self.faults.items()))
        looks = " ".join(f"{name}:{count}" for name, count in sorted(self.evaluations.items()))
        return (
            f"seeds={self.seeds} sim_hours={self.sim_s / 3600:.1f} cpu_s={self.cpu_s:.1f} "
            f"messages={self.messages} operations={self.operations} "
            f"acknowledged={self.acknowledged} overlapping_pairs={self.overlapping_pairs} "
            f"faults=[{faults}] evaluations=[{looks}] violations={len(self.violations)}"
        )

    def below_floors(self, rings: str = "") -> list[str]:
        """One line for each figure that is 0 or below its floor; empty for a small run. Where only
        seeds with changing rings were run, or only those without (`rings`), just what these are
        for is judged, or all else."""
        if self.seeds < SEEDS_MIN:
            return []
        figures = [
            ("acknowledged", self.acknowledged, ACKNOWLEDGED),
            ("overlapping_pairs", self.overlapping_pairs, OVERLAPPING_PAIRS),
            *((kind, self.faults[kind], floor) for kind, floor in FAULTS.items()),
            *((name, self.evaluations[name], floor) for name, floor in EVALUATIONS.items()),
        ]
        return [
            f"{name}: {count}, must be {floor * self.seeds / 1000:.0f}"
            for name, count, floor in figures
            if not rings or (name in OF_CHANGES) == (rings == "changing")
            if not count or count < floor * self.seeds / 1000
        ]
