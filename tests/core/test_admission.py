"""Who is refused because others wait too long already, by a clock that the test moves."""

from __future__ import annotations

import pytest

from dynagent import limits
from dynagent.core.admission import EXPIRED, TABLE, TURN, WAITING, Admission, Gate
from dynagent.core.messages import MODE_BLIND, Error, Get, GetReply, Put, PutReply
from dynagent.errors import Overloaded
from tests.core.harness import IDS, Cluster, make_ring

A = IDS[0]
KEY = b"key"
TURN_S = 0.01


def serve(gate: Gate, *, offered: int, served: int, seconds: float, now: float = 0.0) -> float:
    """`offered` requests a second meet a gate behind which `served` a second are answered; returns
    the time at which it ends."""
    for _ in range(round(seconds / TURN_S)):
        now += TURN_S
        done = min(gate.under_way, round(served * TURN_S))
        gate.under_way -= done
        gate.answered += done
        gate.look(now)
        for _ in range(round(offered * TURN_S)):
            if gate.under_way < gate.limit:
                gate.under_way += 1
            else:
                gate.refused += 1
    return now


def put(number: int) -> Put:
    return Put(KEY, b"v", MODE_BLIND, b"", number.to_bytes(16, "big"))


def is_refused(reply: object) -> bool:
    return isinstance(reply, Error) and reply.error == Overloaded.code


# --- a gate --------------------------------------------------------------------------------------


def test_nobody_is_refused_below_the_capacity() -> None:
    gate = Gate()
    serve(gate, offered=1_900, served=2_000, seconds=10)
    assert gate.limit == limits.CLIENT_REQUESTS_MAX


def test_at_three_times_the_capacity_those_admitted_wait_for_the_bound_and_no_longer() -> None:
    gate = Gate()
    serve(gate, offered=6_000, served=2_000, seconds=5)
    assert gate.limit == 2_000 * limits.ADMISSION_WAIT_S
    assert gate.under_way <= gate.limit


def test_a_gate_that_is_overrun_goes_on_answering_as_much_as_it_can() -> None:
    gate = Gate()
    now = serve(gate, offered=6_000, served=2_000, seconds=5)
    gate.answered, before = 0, now
    gate._ends_at = now + 100  # count on
    now = serve(gate, offered=6_000, served=2_000, seconds=5, now=now)
    assert gate.answered == 2_000 * round(now - before)


def test_a_burst_that_is_worked_off_refuses_nobody() -> None:
    gate = Gate()
    gate.under_way = 1_500  # three quarters of a second
    serve(gate, offered=1_000, served=2_000, seconds=5)
    assert gate.limit == limits.CLIENT_REQUESTS_MAX


def test_a_standing_queue_lowers_the_limit_although_nobody_was_refused() -> None:
    gate = Gate()
    gate.under_way = 2_000
    serve(gate, offered=2_000, served=2_000, seconds=2)
    assert gate.limit < limits.CLIENT_REQUESTS_MAX


def test_after_an_overload_the_gate_opens_within_seconds() -> None:
    gate = Gate()
    now = serve(gate, offered=6_000, served=2_000, seconds=5)
    serve(gate, offered=1_000, served=2_000, seconds=4, now=now)
    assert gate.limit == limits.CLIENT_REQUESTS_MAX


def test_a_disk_that_hangs_lowers_the_limit_to_its_floor_and_no_further() -> None:
    gate = Gate()
    serve(gate, offered=6_000, served=0, seconds=3)
    assert gate.limit == limits.CLIENT_REQUESTS_MIN


def test_a_slow_disk_that_commits_many_at_once_is_no_overload() -> None:
    gate = Gate()
    now = 0.0
    for _ in range(100):  # 200 ms a commit, and each takes all that has come
        now = serve(gate, offered=2_000, served=0, seconds=0.2, now=now)
        gate.answered += gate.under_way
        gate.under_way = 0
    assert gate.limit == limits.CLIENT_REQUESTS_MAX


# --- turns ---------------------------------------------------------------------------------------


def test_a_loop_that_sleeps_until_somebody_comes_is_not_late() -> None:
    admission = Admission()
    admission.begin(0.0)
    admission.end(0.01, due=60.0)
    admission.begin(50.0)
    assert admission.late_s == 0.0


def test_a_loop_whose_timer_is_far_overdue_has_not_looked_since_its_last_turn() -> None:
    admission = Admission()
    admission.begin(0.0)
    admission.end(0.01, due=0.5)
    admission.begin(4.01)
    assert admission.late_s == pytest.approx(4.01)
    admission.end(4.02, due=5.0)
    admission.begin(4.1)
    assert admission.late_s == 0.0


def test_what_comes_during_a_long_turn_has_waited_for_its_length() -> None:
    admission = Admission()
    admission.begin(0.0)
    admission.end(3.0, due=3.5)
    admission.begin(3.0)
    assert admission.late_s == pytest.approx(3.0)


def test_one_long_turn_refuses_nobody_and_a_second_one_what_comes_late_in_it() -> None:
    admission = Admission()
    long_s = limits.ADMISSION_WAIT_S + 0.1
    shut = []
    for turn in range(2):
        for at in (turn * long_s, turn * long_s + 0.1, (turn + 1) * long_s):
            admission.begin(at)
            shut.append(admission.is_shut)
        admission.end((turn + 1) * long_s, None)
    admission.begin(2 * long_s)
    shut.append(admission.is_shut)
    assert shut == [*[False] * 3, *[False, False, True], False]


# --- a node --------------------------------------------------------------------------------------


def test_gets_and_puts_wait_at_gates_of_their_own() -> None:
    c = Cluster(make_ring(3))
    admission = c.nodes[A].admission
    admission.puts.limit = 2
    for number in (1, 2):
        c.request(A, put(number))
    assert is_refused(c.ask(A, put(3)))
    assert isinstance(c.ask(A, Get(KEY)), GetReply)
    assert admission.refused[WAITING] == admission.puts.refused == 1


def test_a_refused_put_has_left_nothing_behind() -> None:
    c = Cluster(make_ring(3))
    node = c.nodes[A]
    node.admission.puts.limit = 0
    c.request(A, put(1))
    assert not c.wire and not node.replica.is_dirty
    assert node.coordinator is not None and not node.coordinator.operations


def test_every_answer_makes_room_again() -> None:
    c = Cluster(make_ring(3))
    admission = c.nodes[A].admission
    admission.puts.limit = admission.gets.limit = 1
    for number in range(1, 5):
        assert isinstance(c.ask(A, put(number)), PutReply)
        assert isinstance(c.ask(A, Get(KEY)), GetReply)
    assert admission.puts.under_way == admission.gets.under_way == 0
    assert admission.puts.answered == admission.gets.answered == 4


def test_what_another_agent_has_passed_on_was_admitted_there() -> None:
    c = Cluster(make_ring(3))
    c.nodes[A].admission.gets.limit = 0
    forwarded = Get(KEY)
    forwarded.hops = 1
    assert is_refused(c.ask(A, Get(KEY)))
    assert isinstance(c.ask(A, forwarded), GetReply)


def test_a_turn_that_takes_too_long_refuses_new_requests_and_says_why() -> None:
    c = Cluster(make_ring(3))
    admission = c.nodes[A].admission
    admission.is_shut = True
    assert is_refused(c.ask(A, Get(KEY)))
    assert admission.refused[TURN] == 1


def test_a_request_whose_time_was_over_before_it_was_read_is_not_executed() -> None:
    c = Cluster(make_ring(3))
    number = c.request(A, put(1), budget_ms=-10)
    assert [(n, is_refused(reply)) for n, reply in c.answers] == [(number, True)]
    assert not c.wire and c.nodes[A].admission.refused[EXPIRED] == 1


def test_a_full_table_is_counted_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUESTS_IN_FLIGHT_MAX", 1)
    c = Cluster(make_ring(3))
    c.request(A, put(1))
    c.request(A, put(2))
    admission = c.nodes[A].admission
    assert admission.refused[TABLE] == 1 and admission.puts.under_way == 1
