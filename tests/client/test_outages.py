"""Which agents are asked last, and who tries them again."""

from dynagent import limits
from dynagent.client.outages import Outages

ALL = ["a", "b", "c"]


def test_without_outages_the_order_is_as_it_was() -> None:
    outages = Outages()
    assert not outages
    assert outages.in_order(ALL, 0.0) == ALL


def test_who_has_failed_is_asked_last_until_one_request_tries_it_again() -> None:
    outages = Outages()
    outages.on_failure("a", 10.0, took_s=0.0)
    assert outages
    assert outages.in_order(ALL, 10.0) == ["b", "c", "a"]
    later = 10.0 + limits.RECONNECT_S_MIN
    assert outages.in_order(ALL, later) == ALL
    assert outages.in_order(ALL, later) == ["b", "c", "a"], "the others wait for what comes of it"


def test_each_failure_doubles_the_time_up_to_a_bound() -> None:
    outages, now, rests = Outages(), 0.0, []
    for _ in range(8):
        outages.on_failure("a", now, took_s=0.0)
        began = now
        while outages.in_order(ALL, now) != ALL:
            now += limits.RECONNECT_S_MIN / 4
        rests.append(now - began)
    assert rests == sorted(rests)
    assert rests[0] < 2 * limits.RECONNECT_S_MIN
    assert rests[-1] <= limits.RECONNECT_S_MAX + limits.RECONNECT_S_MIN


def test_who_was_silent_for_long_rests_for_longer() -> None:
    outages = Outages()
    outages.on_failure("a", 0.0, took_s=5.0)
    assert outages.in_order(ALL, 9.9) == ["b", "c", "a"]
    assert outages.in_order(ALL, 10.0) == ALL


def test_an_answer_ends_an_outage() -> None:
    outages = Outages()
    outages.on_failure("a", 0.0, took_s=1.0)
    outages.on_answer("a")
    assert not outages
    assert outages.in_order(ALL, 0.0) == ALL


def test_when_all_are_absent_their_order_is_as_it_was() -> None:
    outages = Outages()
    for address in ALL:
        outages.on_failure(address, 0.0, took_s=1.0)
    assert outages.in_order(ALL, 0.1) == ALL
