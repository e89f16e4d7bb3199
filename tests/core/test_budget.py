"""Background work gets what clients leave over, never more than its rate, and never nothing."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent import limits
from dynagent.core.budget import Budget
from dynagent.core.messages import Get, Put
from tests.core.harness import IDS, Cluster, make_ring

RATE = 32 * limits.MIB
QUANTUM = limits.BACKGROUND_GRANT_BYTES_MIN
THRESHOLD_S = 0.05
SEEN_S = THRESHOLD_S / 1.5  # by the agent, when clients wait that long
FAST_S, SLOW_S = 0.01, 0.04
BURST = max(QUANTUM, limits.BACKGROUND_BURST_S * RATE)
UNUSED_BURST = int(BURST * limits.BACKGROUND_SHARE_UNUSED)


def new_budget(rate: int = RATE) -> Budget:
    budget = Budget(threshold_s=THRESHOLD_S, bytes_per_s_max=rate)
    budget.document(0.0)  # its time begins
    return budget


def serve(
    budget: Budget, start: float, lasted_s: float, took_s: Iterable[float], every_s: float = 0.01
) -> float:
    """Answers that took these times in turn, one every so often, while background work takes what
    it is granted; returns when it ends."""
    times = list(took_s)
    for number in range(round(lasted_s / every_s)):
        now = start + number * every_s
        budget.note_foreground(now, times[number % len(times)])
        use(budget, now, every_s)
    budget.document(start + lasted_s)
    return start + lasted_s


def use(budget: Budget, start: float, lasted_s: float) -> None:
    """Takes all that there is, and would take more."""
    for tenth in range(max(1, round(lasted_s * 10))):
        now = start + tenth / 10
        while granted := budget.grant(now, RATE):
            budget.spend(now, granted)


# --- the controller ------------------------------------------------------------------------------


def test_under_a_slow_foreground_the_share_falls_to_the_floor_within_seconds() -> None:
    budget = new_budget()
    now = serve(budget, 0.0, 70.0, [FAST_S])
    assert budget.share == 1
    now = serve(budget, now, 1.0, [SLOW_S])
    assert budget.share == 1 / 2
    now = serve(budget, now, 4.0, [SLOW_S])
    assert budget.share == limits.BACKGROUND_SHARE_MIN
    serve(budget, now, 300.0, [SLOW_S])
    assert budget.share == limits.BACKGROUND_SHARE_MIN


def test_a_fast_foreground_gives_the_share_back_when_the_minute_is_good() -> None:
    budget = new_budget()
    now = serve(budget, 0.0, 20.0, [SLOW_S])
    assert budget.share == limits.BACKGROUND_SHARE_MIN
    now = serve(budget, now, 40.0, [FAST_S])
    assert budget.share == limits.BACKGROUND_SHARE_MIN
    shares = []
    for _ in range(120):
        now = serve(budget, now, 1.0, [FAST_S])
        shares.append(budget.share)
    assert shares == sorted(shares)
    assert max(b - a for a, b in pairwise(shares)) == limits.BACKGROUND_SHARE_STEP
    assert shares[-1] == 1


def test_a_new_process_leaps_until_clients_have_suffered_once() -> None:
    budget = new_budget()
    now = serve(budget, 0.0, 1.0, [FAST_S])
    assert budget.share == 1 / 2
    now = serve(budget, now, 1.0, [SLOW_S])
    assert budget.share == 1 / 4
    now = serve(budget, now, 61.0, [FAST_S])
    assert 1 / 4 <= budget.share <= 1 / 4 + 2 * limits.BACKGROUND_SHARE_STEP


@pytest.mark.parametrize(
    ("place", "factor"), [(-2, 1), (-3, 2 ** (1 / 4)), (-6, 2), (-10, 4), (-30, 4)]
)
def test_a_leap_brings_what_clients_wait_near_the_threshold(place: int, factor: float) -> None:
    budget = new_budget()
    budget.share = start = 1 / 8
    serve(budget, 0.0, 1.0, [SEEN_S * 2 ** (place / 4) * 0.99])
    assert budget.share == pytest.approx(max(start + limits.BACKGROUND_SHARE_STEP, start * factor))


def test_a_share_that_is_not_used_does_not_leap() -> None:
    budget = new_budget()
    for hundredth in range(300):
        budget.note_foreground(hundredth / 100, FAST_S)
    step = limits.BACKGROUND_SHARE_STEP
    assert budget.share == limits.BACKGROUND_SHARE_START + 2 * step


def test_a_share_that_no_work_has_needed_of_late_is_begun_anew() -> None:
    budget = new_budget()
    now = serve(budget, 0.0, 20.0, [FAST_S])
    assert budget.share == 1
    for second in range(round(limits.BACKGROUND_UNUSED_S) - 1):
        budget.note_foreground(now + second, FAST_S)
    assert budget.share == 1
    now += limits.BACKGROUND_UNUSED_S + 2
    budget.document(now)
    assert budget.share == limits.BACKGROUND_SHARE_UNUSED
    serve(budget, now, 1.0, [FAST_S])
    assert budget.share == 2 * limits.BACKGROUND_SHARE_UNUSED


def test_who_owes_for_a_large_record_has_not_left_his_share_unused() -> None:
    budget = new_budget()
    now = serve(budget, 0.0, 20.0, [FAST_S])
    budget.spend(now, 30 * RATE)
    budget.document(now + 29)
    assert budget.share == 1
    budget.document(now + 50)
    assert budget.share == limits.BACKGROUND_SHARE_UNUSED


def test_an_idle_foreground_gives_it_back_without_waiting_for_the_minute() -> None:
    budget = new_budget()
    now = serve(budget, 0.0, 20.0, [SLOW_S])
    shares = []
    for second in range(90):
        use(budget, now + second, 1.0)
        shares.append(budget.share)
    assert shares[int(limits.FOREGROUND_IDLE_S) - 2] == limits.BACKGROUND_SHARE_MIN
    assert shares[int(limits.FOREGROUND_IDLE_S) + 2] > limits.BACKGROUND_SHARE_MIN
    assert shares[-1] == 1


@pytest.mark.parametrize(("slow_of_1000", "share"), [(5, 1), (6, 1 / 4), (10, 1 / 4), (30, 1 / 32)])
def test_up_to_one_in_200_it_grows_and_over_one_in_100_it_shrinks(
    slow_of_1000: int, share: float
) -> None:
    budget = new_budget()
    mixed = [SLOW_S if n * slow_of_1000 % 1000 < slow_of_1000 else FAST_S for n in range(1000)]
    serve(budget, 0.0, 200.0, mixed, every_s=0.002)
    assert budget.share == share


def test_an_answer_exactly_at_the_threshold_is_in_time() -> None:
    budget = new_budget()
    now = serve(budget, 0.0, 20.0, [FAST_S])
    now = serve(budget, now, 100.0, [SEEN_S])
    assert budget.share == 1
    serve(budget, now, 2.0, [SEEN_S * 1.001])
    assert budget.share == 1 / 4


def test_what_is_near_the_threshold_lets_nothing_grow() -> None:
    budget = new_budget()
    now = serve(budget, 0.0, 100.0, [0.72 * SEEN_S])
    assert budget.share == limits.BACKGROUND_SHARE_START
    serve(budget, now, 60.0, [0.7 * SEEN_S])
    assert budget.share == 1


def test_a_second_without_an_answer_is_judged_by_those_before_it() -> None:
    budget = new_budget()
    for second in range(0, 30, 2):
        budget.note_foreground(second + 0.5, 0.75 * SEEN_S)
        use(budget, second + 0.5, 2.0)
    assert budget.share == limits.BACKGROUND_SHARE_START


def test_one_slow_answer_of_few_shrinks_the_share_once() -> None:
    budget = new_budget()
    now = serve(budget, 0.0, 100.0, [FAST_S], every_s=1.0)
    budget.note_foreground(now, SLOW_S)
    now = serve(budget, now, 30.0, [FAST_S], every_s=1.0)
    assert budget.share == 1 / 2
    serve(budget, now, 120.0, [FAST_S], every_s=1.0)
    assert budget.share == 1


def test_a_long_silence_costs_no_more_than_a_minute_and_ends_where_it_began() -> None:
    budget = new_budget()
    now = serve(budget, 0.0, 20.0, [SLOW_S])
    budget.note_foreground(now + 1e9, SLOW_S)
    assert budget.share == limits.BACKGROUND_SHARE_UNUSED
    budget.document(now + 1e9 + 2)
    assert budget.share == limits.BACKGROUND_SHARE_UNUSED / 2


def test_answers_of_any_length_are_counted() -> None:
    budget = new_budget()
    for seconds in (0.0, 1e-9, 1.0, 1e9):
        budget.note_foreground(0.5, seconds)
    assert budget.document(1.0)["foreground_p99_s"] == pytest.approx(4.27, rel=0.01)


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1)), max_size=60))
def test_the_share_stays_between_the_floor_and_the_whole(
    answers: list[tuple[float, float]],
) -> None:
    budget, now = new_budget(), 0.0
    for pause_s, took_s in answers:
        now += pause_s
        budget.note_foreground(now, took_s)
        assert limits.BACKGROUND_SHARE_MIN <= budget.share <= 1


# --- the balance ---------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 3), st.integers(0, 8 * limits.MIB), st.sampled_from([None, FAST_S, SLOW_S])
        ),
        max_size=40,
    ),
    st.sampled_from([limits.BACKGROUND_BYTES_PER_S_MIN, limits.MIB, RATE]),
)
def test_over_no_interval_is_more_granted_than_the_rate_and_a_burst(
    steps: list[tuple[float, int, float | None]], rate: int
) -> None:
    budget, now = new_budget(rate), 0.0
    moved: list[tuple[float, int]] = []
    for pause_s, wanted, took_s in steps:
        now += pause_s
        if took_s is not None:
            budget.note_foreground(now, took_s)
        granted = budget.grant(now, wanted)
        assert 0 <= granted <= wanted
        budget.spend(now, granted, records=0)
        moved.append((now, granted))
    burst = max(QUANTUM, limits.BACKGROUND_BURST_S * rate)
    for first, (start, _) in enumerate(moved):
        total = 0
        for end, size in moved[first:]:
            total += size
            assert total <= burst + (end - start) * rate + 1


def test_work_that_always_wants_more_moves_what_the_share_allows() -> None:
    for took_s, share in ((FAST_S, 1.0), (SLOW_S, limits.BACKGROUND_SHARE_MIN)):
        budget = new_budget()
        now = start = serve(budget, 0.0, 100.0, [took_s])
        moved = 0
        while now < start + 20:
            budget.note_foreground(now, took_s)
            granted = budget.grant(now, limits.MIB)
            budget.spend(now, granted)
            moved += granted
            now = max(now + 0.001, budget.next_grant_at(now))
        assert 0.95 * 20 * share * RATE <= moved <= 20 * share * RATE + BURST


def test_a_record_larger_than_the_grant_is_moved_and_owed() -> None:
    budget = new_budget()
    budget.share = 1 / 4
    assert 0 < budget.grant(0.0, limits.RECORD_BYTES_MAX) < limits.RECORD_BYTES_MAX
    budget.spend(0.0, limits.RECORD_BYTES_MAX)
    assert budget.grant(0.0, 1) == 0
    due = budget.next_grant_at(0.0)
    expected_s = limits.RECORD_BYTES_MAX / (RATE / 4)
    assert due == pytest.approx(expected_s, rel=0.01)
    assert budget.grant(due - 0.01, 1) == 0
    assert budget.grant(due, 1) == 1


@given(st.integers(1, 100 * limits.MIB), st.floats(0, 1e6))
def test_who_comes_when_told_gets_something(size: int, start: float) -> None:
    budget = new_budget()
    budget.spend(start, size)
    due = budget.next_grant_at(start)
    assert due >= start
    assert budget.grant(due, QUANTUM) > 0


def test_what_is_not_used_is_kept_for_a_short_burst_only() -> None:
    budget = new_budget()
    assert budget.grant(1_000.0, 10 * RATE) == UNUSED_BURST


def test_small_records_count_as_their_cpu() -> None:
    budget = new_budget()
    budget.grant(100.0, RATE)
    budget.spend(100.0, 20 * 10, records=20)
    assert budget.grant(100.0, RATE) == UNUSED_BURST - 20 * limits.BACKGROUND_RECORD_BYTES
    document = budget.document(100.0)
    assert (document["bytes"], document["records"]) == (200, 20)


def test_nobody_is_granted_what_he_does_not_want() -> None:
    budget = new_budget()
    assert budget.grant(0.0, 0) == budget.grant(0.0, -5) == 0


# --- what it tells, and who tells it -------------------------------------------------------------


def test_the_document_tells_the_share_and_the_foreground_of_the_last_minute() -> None:
    budget = new_budget()
    assert budget.document(0.0) == {
        "share": limits.BACKGROUND_SHARE_START,
        "bytes_per_s": int(RATE * limits.BACKGROUND_SHARE_START),
        "bytes": 0,
        "records": 0,
        "foreground_p99_s": None,
        "foreground_p99_s_max": THRESHOLD_S,
    }
    now = serve(budget, 0.0, 70.0, [FAST_S] * 95 + [SLOW_S] * 5)
    assert SLOW_S <= budget.document(now)["foreground_p99_s"] <= 1.2 * SLOW_S  # type: ignore[operator]
    now = serve(budget, now, 70.0, [FAST_S])
    assert FAST_S <= budget.document(now)["foreground_p99_s"] <= 1.2 * FAST_S  # type: ignore[operator]
    assert budget.document(now + 70)["foreground_p99_s"] is None


@pytest.mark.plain
def test_a_node_notes_how_long_each_answer_to_a_client_took() -> None:
    cluster = Cluster(make_ring(3))
    node = cluster.nodes[IDS[0]]
    noted: list[tuple[float, float]] = []
    note = lambda now, seconds: noted.append((now, seconds))  # noqa: E731
    node.budget.note_foreground = note  # type: ignore[method-assign]
    cluster.now = 10.0
    cluster.request(IDS[0], Get(b"k"))  # answered when a reply comes
    cluster.now = 10.5
    cluster.settle()
    cluster.request(IDS[0], Put(b"k", b"value", 2, b"", b"1" * 16))  # when our batch is durable
    cluster.now = 10.75
    cluster.commit(IDS[0])
    cluster.settle()
    cluster.request(IDS[0], Get(b"k", strict=True))  # when its time is up
    cluster.wire.clear()
    assert node.coordinator is not None
    while (due := node.coordinator.due) < inf:
        cluster.now = due
        node.on_tick(due)
        cluster.wire.clear()
    assert noted == [(10.5, 0.5), (10.75, 0.25), (11.75, 1.0)]
