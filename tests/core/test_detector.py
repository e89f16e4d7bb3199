"""The failure detector alone: times and answers in, verdicts out. No node, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise, permutations, product
from random import Random

import pytest

from dynagent import limits
from dynagent.core.detector import Detector
from dynagent.core.messages import (
    Error,
    MergeAck,
    Message,
    Ping,
    PingFor,
    Pong,
    Read,
    ReadReply,
    RingIs,
)
from dynagent.core.peer import ALIVE, DEAD, GRAY, SUSPECT, Timing
from dynagent.core.ports import LinkId, NodeId
from dynagent.errors import Overloaded, Unreachable

STEP_S = 0.01  # how late a timer is
TRIP_S = 0.004
A, B, C, D = (NodeId(letter * 16) for letter in "abcd")
OWN = A
Fate = Callable[[NodeId, Message], Message | None]  # what comes back; None: nothing


class Bench:
    """One detector, whose probes meet a fate; virtual time."""

    def __init__(self, others: Iterable[NodeId] = (B, C, D), *, seed: int = 1) -> None:
        self.now = 100.0
        self.up: set[NodeId] = set()
        self.history: list[tuple[float, NodeId, bool]] = []
        self.notes: list[str] = []
        self.sent: list[tuple[NodeId, Message]] = []
        self.answers: list[tuple[LinkId, int, Message]] = []
        self.fates: dict[NodeId, Fate] = {}
        self._mail: list[tuple[float, NodeId, int, Message]] = []
        self._last = 0
        self.detector = Detector(
            node_id=NodeId("self"),
            names={node: node[0] for node in others},
            effects=self,
            dice=Random(seed),
            timing=Timing(),
            take_number=self.take_number,
            probe_stamp=lambda: (7, 1),
            on_up=self._on_up,
            on_down=self._on_down,
        )
        for node in others:
            self.fates[node] = answers
            self.detector.on_link_up(self.now, node)

    def take_number(self) -> int:
        self._last += 1
        return self._last

    def _on_up(self, now: float, node: NodeId) -> None:
        self.up.add(node)
        self.history.append((self.now, node, True))

    def _on_down(self, now: float, node: NodeId) -> None:
        assert now == self.now
        if node in self.up:
            self.up.discard(node)
            self.history.append((self.now, node, False))

    # --- effects ---------------------------------------------------------------------------------

    def send(
        self, targets: Sequence[NodeId], request_id: int, budget_ms: int, message: Message
    ) -> None:
        for target in targets:
            self.sent.append((target, message))
            reply = self.fates[target](target, message)
            if reply is not None:
                self._mail.append((self.now + TRIP_S, target, request_id, reply))

    def answer(self, link: LinkId, request_id: int, message: Message) -> None:
        self.answers.append((link, request_id, message))

    def reconnect(self, ring: object) -> None: ...

    def adopt(self, ring: bytes, link: LinkId, request_id: int) -> None:
        raise AssertionError("a detector never changes the ring")

    def note(self, event: str, **fields: object) -> None:
        self.notes.append(f"{event} {fields['peer']}")

    # --- time and traffic ------------------------------------------------------------------------

    def run(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> float:
        """Lets time pass; how much has."""
        began, end = self.now, self.now + seconds
        while self.now < end and not until():
            self.now += STEP_S
            self.deliver()
            self.detector.on_tick(self.now)
        return self.now - began

    def deliver(self) -> None:
        due = [mail for mail in self._mail if mail[0] <= self.now]
        self._mail = [mail for mail in self._mail if mail[0] > self.now]
        for _, source, number, reply in due:
            self.detector.on_reply(self.now, source, number, reply)

    def sleep(self, seconds: float) -> None:
        """SIGSTOP of ourselves: nothing happens, and what has come waits."""
        self.now += seconds

    def ask(self, node: NodeId) -> None:
        """A data request goes out to it."""
        self.detector.peers[node].expect(self.now)

    def answer_data(self, node: NodeId) -> None:
        """As `Node.on_reply` does when an operation has its answer."""
        peer = self.detector.peers[node]
        peer.heard_at, peer.asked = self.now, 0
        if peer.is_unwell:
            self.detector.on_answer(self.now, peer, is_data=True)

    def state(self, node: NodeId) -> str:
        return self.detector.peers[node].state

    def down_in(self, node: NodeId, seconds: float) -> float:
        return self.run(seconds, until=lambda: node not in self.up)

    def flips(self, node: NodeId) -> int:
        return sum(node == other for _, other, _ in self.history)


ABSENT = ReadReply(0, b"", [], [], None)


def answers(node: NodeId, message: Message) -> Message:
    return ABSENT if isinstance(message, Read) else Pong()


def silent(node: NodeId, message: Message) -> None:
    return None


def pings_only(node: NodeId, message: Message) -> Message | None:
    return Pong() if isinstance(message, Ping | PingFor) else None


def without(target: NodeId) -> Fate:
    """A helper that has no answer from the target either."""

    def fate(node: NodeId, message: Message) -> Message:
        is_lost = isinstance(message, PingFor) and message.target == target
        return Error(Unreachable.code, "") if is_lost else answers(node, message)

    return fate


def kill(bench: Bench, dead: NodeId) -> None:
    for node in bench.fates:
        bench.fates[node] = without(dead)
    bench.fates[dead] = silent


# --- how soon -------------------------------------------------------------------------------------


@pytest.mark.parametrize("peers", [1, 2, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_each_peer_has_its_turn_once_in_an_interval(peers: int, seed: int) -> None:
    others = [NodeId(f"{number:016x}") for number in range(peers)]
    bench = Bench(others, seed=seed)
    turns: dict[NodeId, list[float]] = {node: [] for node in others}
    for _ in range(round(20 / STEP_S)):
        bench.sent.clear()
        bench.run(STEP_S)
        for node, _ in bench.sent:
            turns[node].append(bench.now)
    for times in turns.values():
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert len(gaps) >= 17
        assert max(gaps) <= limits.PROBE_INTERVAL_S_DEFAULT + 2 * STEP_S


def test_the_order_of_the_turns_is_another_one_at_each_node() -> None:
    orders = set()
    for seed in range(20):
        bench = Bench(seed=seed)
        bench.run(2.2)
        orders.add(tuple(node for node, _ in bench.sent[:3]))
    assert orders == set(permutations((B, C, D)))


@pytest.mark.parametrize("seed", range(20))
def test_a_dead_peer_is_not_used_after_two_and_a_half_seconds(seed: int) -> None:
    bench = Bench(seed=seed)
    bench.run(5 + seed * 0.173)
    kill(bench, B)
    assert bench.down_in(B, 10) <= 2.5 + 8 * STEP_S  # two phases of three Pings, and its turn
    assert bench.up == {C, D}
    assert bench.state(B) == SUSPECT
    bench.run(limits.SUSPICION_S_DEFAULT + 2)
    assert bench.state(B) == DEAD
    assert bench.notes == ["peer.suspect b"]


@pytest.mark.parametrize("seed", range(20))
def test_a_peer_that_only_others_reach_is_not_used_after_three_seconds(seed: int) -> None:
    bench = Bench(seed=seed)
    bench.run(5 + seed * 0.173)
    bench.fates[B] = silent  # C and D have its pongs
    assert bench.down_in(B, 10) <= 3.0 + 3 * STEP_S
    bench.run(60)
    assert bench.state(B) == SUSPECT, "it lives: others say so"
    assert bench.up == {C, D}


@pytest.mark.parametrize("seed", range(10))
def test_a_peer_that_falls_silent_right_after_an_answer_is_found_as_soon(seed: int) -> None:
    bench = Bench(seed=seed)
    bench.run(5 + seed * 0.173)
    kill(bench, B)
    bench.answer_data(B)
    assert bench.down_in(B, 10) <= 2.5 + 8 * STEP_S


@pytest.mark.parametrize("seed", range(20))
def test_a_peer_that_answers_pings_but_no_requests_is_gray_within_five_seconds(seed: int) -> None:
    bench = Bench(seed=seed)
    bench.run(5 + seed * 0.173)
    bench.fates[B] = pings_only
    for _ in range(limits.GRAY_REQUESTS):
        bench.ask(B)
    assert bench.down_in(B, 10) <= 5.0
    assert bench.state(B) == GRAY
    assert bench.up == {C, D}


def test_in_a_large_cluster_a_peer_that_requests_wait_for_comes_first() -> None:
    others = [NodeId(f"{number:016x}") for number in range(300)]
    bench = Bench(others)
    bench.run(2)
    dead = others[17]
    kill(bench, dead)
    bench.ask(dead)
    assert bench.down_in(dead, 30) <= 3.0
    probes = bench.detector.counts["probes"]
    bench.run(10)
    rate = (bench.detector.counts["probes"] - probes) / 10
    assert rate <= limits.PROBES_PER_INTERVAL_MAX + 1


def test_a_link_that_breaks_takes_effect_at_once_and_so_does_one_that_is_back() -> None:
    bench = Bench()
    bench.detector.on_link_down(bench.now, B)
    assert bench.up == {C, D}
    bench.detector.on_link_up(bench.now, B)
    assert bench.up == {B, C, D}
    assert bench.notes == [], "the links tell that themselves"


# --- who is not accused ---------------------------------------------------------------------------


def test_peers_that_answer_stay_up_and_cost_at_most_a_ping_each_interval() -> None:
    bench = Bench()
    bench.run(60)
    assert bench.flips(B) == bench.flips(C) == bench.flips(D) == 1
    assert bench.detector.counts["probes"] <= 3 * 61
    assert not bench.detector.counts["indirect_probes"]


def test_a_peer_whose_requests_are_answered_is_not_pinged() -> None:
    bench = Bench()
    bench.run(2)
    bench.sent.clear()
    for _ in range(1_000):
        bench.answer_data(B)
        bench.run(STEP_S)
    assert {node for node, _ in bench.sent} == {C, D}


@pytest.mark.parametrize("asked", [1, 2, 3, 50])
def test_a_slow_peer_that_answers_one_request_now_and_then_is_not_gray(asked: int) -> None:
    bench = Bench()
    bench.fates[B] = pings_only
    for _ in range(30):
        for _ in range(asked):
            bench.ask(B)
        bench.run(1.5)
        bench.answer_data(B)
    assert B in bench.up


def test_two_requests_that_hang_make_nobody_gray() -> None:
    bench = Bench()
    bench.fates[B] = pings_only
    bench.ask(B)
    bench.ask(B)
    bench.run(60)
    assert B in bench.up


@pytest.mark.parametrize("seconds", [0.6, 1.4, 3, 10, 1_000])
@pytest.mark.parametrize("phase", range(12))
@pytest.mark.parametrize("hears_first", [True, False])
def test_a_paused_observer_accuses_nobody(seconds: float, phase: int, hears_first: bool) -> None:
    bench = Bench()
    bench.run(3 + phase * 0.083)
    for node in (B, C, D):
        for _ in range(5):
            bench.ask(node)
    bench.sleep(seconds)
    if hears_first:
        bench.deliver()
    bench.detector.on_tick(bench.now)
    assert bench.up == {B, C, D}
    bench.run(0.4)
    for node in (B, C, D):
        bench.answer_data(node)
    bench.run(30)
    assert bench.up == {B, C, D}
    assert bench.flips(B) + bench.flips(C) + bench.flips(D) == 3


def test_an_observer_that_is_late_again_and_again_becomes_patient_and_recovers() -> None:
    bench = Bench()
    bench.run(2)
    for _ in range(20):
        bench.sleep(2.0)
        bench.detector.on_tick(bench.now)
    assert bench.detector.health == limits.LOCAL_HEALTH_MAX
    bench.run(10)
    assert bench.detector.health == 0
    assert bench.up == {B, C, D}


def test_who_hears_nobody_doubts_itself_before_the_others() -> None:
    """All fall silent at once: rather us. The verdict comes, later than it would for one."""
    bench = Bench()
    bench.run(5)
    for node in bench.fates:
        bench.fates[node] = silent
    began = bench.now
    bench.run(60, until=lambda: not bench.up)
    assert not bench.up
    assert bench.detector.health > 0
    assert bench.now - began > 2.5


# --- refutation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pong", "ack", "late read", "data"])
@pytest.mark.parametrize("at_s", [1.2, 1.6, 2.2, 4.0, 30.0])
def test_any_answer_refutes(how: str, at_s: float) -> None:
    bench = Bench()
    bench.run(5)
    kill(bench, B)
    bench.run(at_s)
    if how == "pong":
        bench.detector.on_reply(bench.now, B, 10_000_000, Pong())
    elif how == "ack":
        bench.detector.on_reply(bench.now, B, 10_000_000, MergeAck())
    elif how == "late read":
        bench.detector.on_reply(bench.now, B, 10_000_000, ABSENT)
    else:
        bench.answer_data(B)
    assert bench.up == {B, C, D}
    assert bench.state(B) == ALIVE


def test_an_answer_ends_a_probe_in_every_phase() -> None:
    for at_ms in range(0, 2_600, 20):
        bench = Bench()
        bench.run(5)
        bench.fates[B] = silent
        bench.run(at_ms / 1000)
        bench.fates[B] = answers
        bench.detector.on_reply(bench.now, B, 10_000_000, Pong())
        bench.run(20)
        assert bench.up == {B, C, D}
        assert bench.flips(B) <= 3


def test_what_helpers_say_decides_the_word_in_every_order() -> None:
    """Two helpers, each with a pong, a nack or nothing, in both orders: the peer itself says
    nothing, so it is not used; it is called dead only if nobody has had an answer from it."""
    for said in product(("pong", "nack", "nothing"), repeat=2):
        for order in permutations(range(2)):
            bench = Bench()
            bench.run(5)
            bench.fates[B] = silent
            fates: list[Fate] = [
                {"pong": answers, "nack": without(B), "nothing": only_for(B, silent)}[word]
                for word in said
            ]
            for place in order:
                bench.fates[(C, D)[place]] = fates[place]
            assert bench.down_in(B, 10) <= 3.2
            bench.run(8)
            assert bench.state(B) == (SUSPECT if "pong" in said else DEAD)
            assert bench.up == {C, D}
            assert bench.detector.health == 0 or "nothing" in said


def only_for(target: NodeId, fate: Fate) -> Fate:
    """That fate for what concerns the target; all else is answered."""

    def mixed(node: NodeId, message: Message) -> Message | None:
        is_his = isinstance(message, PingFor) and message.target == target
        return fate(node, message) if is_his else answers(node, message)

    return mixed


# --- gray and back --------------------------------------------------------------------------------


def make_gray(bench: Bench) -> None:
    bench.fates[B] = pings_only
    for _ in range(limits.GRAY_REQUESTS):
        bench.ask(B)
    bench.down_in(B, 10)
    assert bench.state(B) == GRAY


def test_pongs_do_not_make_a_gray_peer_usable_but_a_read_does_after_the_backoff() -> None:
    bench = Bench()
    make_gray(bench)
    bench.run(30)
    assert bench.state(B) == GRAY
    bench.fates[B] = answers
    assert bench.run(10, until=lambda: B in bench.up) <= 2.0
    bench.fates[B] = pings_only
    bench.ask(B)  # on trial: the first one that hangs
    assert bench.down_in(B, 10) <= 3.0
    assert bench.state(B) == GRAY


def test_the_backoff_doubles_up_to_its_bound_until_a_request_is_answered() -> None:
    bench = Bench()
    make_gray(bench)
    backoffs = []
    for _ in range(7):
        backoffs.append(bench.detector.peers[B].backoff_s)
        bench.fates[B] = answers
        bench.run(60, until=lambda: B in bench.up)
        bench.fates[B] = pings_only
        bench.ask(B)
        bench.down_in(B, 10)
        assert bench.state(B) == GRAY
    assert backoffs == [2, 4, 8, 16, 30, 30, 30]
    bench.fates[B] = answers
    bench.run(60, until=lambda: B in bench.up)
    bench.answer_data(B)
    bench.run(1)
    make_gray(bench)
    assert bench.detector.peers[B].backoff_s == 2


def test_a_gray_peer_is_asked_under_the_stamp_of_now_and_a_refusal_does_not_make_it_usable() -> (
    None
):
    bench = Bench()
    make_gray(bench)
    bench.sent.clear()
    bench.fates[B] = lambda _node, message: RingIs(9) if isinstance(message, Read) else Pong()
    bench.run(10)
    stamps = {(m.stamp_change, m.stamp_phase) for _, m in bench.sent if isinstance(m, Read)}
    assert stamps == {(7, 1)}
    assert bench.state(B) == GRAY
    bench.fates[B] = answers
    assert bench.run(10, until=lambda: B in bench.up) <= 2.0


def test_a_late_answer_to_a_request_ends_it_at_once() -> None:
    bench = Bench()
    make_gray(bench)
    bench.detector.on_reply(bench.now, B, 10_000_000, MergeAck())
    assert bench.state(B) == ALIVE
    bench.ask(B)
    bench.run(20)
    assert B in bench.up, "off trial: one request that hangs is nothing"


# --- no flapping ----------------------------------------------------------------------------------


def test_a_way_that_is_cut_for_good_costs_one_verdict() -> None:
    bench = Bench()
    bench.fates[B] = silent
    bench.run(600)
    assert bench.flips(B) == 2


@pytest.mark.parametrize("seed", range(5))
def test_a_third_of_all_messages_lost_does_not_make_it_flap(seed: int) -> None:
    bench, dice = Bench(seed=seed), Random(seed)

    def lossy(node: NodeId, message: Message) -> Message | None:
        ways = 4 if isinstance(message, PingFor) else 2
        return answers(node, message) if all(dice.random() > 0.3 for _ in range(ways)) else None

    for node in bench.fates:
        bench.fates[node] = lossy
    minutes = 30
    bench.run(minutes * 60)
    for node in (B, C, D):
        assert bench.flips(node) / minutes <= 4


def test_a_link_that_comes_and_goes_must_earn_its_place_and_more_each_time() -> None:
    bench = Bench()
    waits = []
    for _ in range(12):
        bench.run(1)
        bench.detector.on_link_down(bench.now, B)
        bench.run(1)
        bench.detector.on_link_up(bench.now, B)
        waits.append(bench.run(10, until=lambda: B in bench.up))
        assert B in bench.up
    assert waits[: limits.FLAPS_FREE] == [0.0] * limits.FLAPS_FREE
    assert waits == sorted(waits) or max(waits) <= 2.5
    assert 1.0 < max(waits) <= 2.5
    bench.run(limits.FLAP_WINDOW_S + 1)
    bench.detector.on_link_down(bench.now, B)
    bench.detector.on_link_up(bench.now, B)
    assert B in bench.up, "a minute later all is forgotten"


# --- pinging for others ---------------------------------------------------------------------------


def test_a_helper_passes_the_pong_on_once() -> None:
    bench = Bench()
    bench.detector.on_ping_for(bench.now, LinkId(7), 70, 400, B)
    assert bench.sent[-1] == (B, Ping())
    bench.run(1)
    assert bench.answers == [(LinkId(7), 70, Pong())]


def test_a_helper_without_a_pong_says_so_in_time() -> None:
    bench = Bench()
    bench.fates[B] = silent
    bench.detector.on_ping_for(bench.now, LinkId(7), 70, 400, B)
    took = bench.run(1, until=lambda: bool(bench.answers))
    assert took == pytest.approx(0.4, abs=2 * STEP_S)
    [(link, request_id, reply)] = bench.answers
    assert (link, request_id) == (7, 70)
    assert isinstance(reply, Error) and reply.error == Unreachable.code
    bench.run(10)
    assert len(bench.answers) == 1


def test_a_helper_refuses_whom_it_has_no_link_to_and_more_than_its_bound() -> None:
    bench = Bench()
    bench.detector.on_link_down(bench.now, B)
    for target in (B, OWN, "nobody", ""):
        with pytest.raises(Unreachable):
            bench.detector.on_ping_for(bench.now, LinkId(7), 70, 400, target)
    for number in range(limits.RELAYS_MAX):
        bench.detector.on_ping_for(bench.now, LinkId(7), number, 400, C)
    with pytest.raises(Overloaded):
        bench.detector.on_ping_for(bench.now, LinkId(7), 70, 400, C)
    bench.run(1)
    bench.detector.on_ping_for(bench.now, LinkId(7), 70, 400, C)
