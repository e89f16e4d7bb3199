"""Gossip alone: tables, messages and times; no node, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynagent import limits
from dynagent.core.encoding import encode
from dynagent.core.facts import SEAL_BYTES, Fact, Portrait, assert_fact, read_fact
from dynagent.core.gossip import Gossiper
from dynagent.core.messages import Error, Facts, FactsReply, Gossip, GossipReply, Message
from dynagent.core.peer import ALIVE, DEAD, GRAY, SUSPECT, Peer
from dynagent.core.ports import LinkId, NodeId
from dynagent.errors import BadRequest, NotReady, ProtocolError

CLUSTER = b"c" * 16
A, B, C, D = (NodeId(letter * 16) for letter in "abcd")
PORTRAIT = Portrait(
    name="n",
    address="h:1",
    zone="z",
    host="h",
    release="1",
    epoch=1,
    started_ms=1_700_000_000_000,
    draining=False,
    keys=None,
    stored_bytes=4_096,
    requests_per_s=0,
    in_flight=0,
    hints=0,
    background_permille=250,
)


class Table:
    """One machine, and everything that it does."""

    def __init__(self, own: NodeId = A, others: Sequence[NodeId] = (B, C), *, run: int = 1) -> None:
        self.now = 0.0
        self.id = own
        self.portrait = replace(PORTRAIT, name=own[0])
        self.sent: list[tuple[NodeId, int, Message]] = []
        self.answers: list[Message] = []
        self.notes: list[str] = []
        self.peers = {node: Peer(node) for node in others}
        for peer in self.peers.values():
            peer.is_linked, peer.state = True, ALIVE
        self._last = 0
        self.gossip = Gossiper(
            node_id=own,
            cluster_id=CLUSTER,
            run=run,
            peers=self.peers,
            draw=lambda now: self.portrait,
            effects=self,
            dice=Random(1),
            interval_s=1.0,
            take_number=self.take_number,
        )
        self.gossip.on_tick(0.0)

    def take_number(self) -> int:
        self._last += 1
        return self._last

    def send(
        self, targets: Sequence[NodeId], request_id: int, budget_ms: int, message: Message
    ) -> None:
        self.sent += [(target, request_id, message) for target in targets]

    def answer(self, link: LinkId, request_id: int, message: Message) -> None:
        self.answers.append(message)

    def reconnect(self, ring: object) -> None: ...

    def adopt(self, ring: bytes, link: LinkId, request_id: int) -> None:
        raise AssertionError("gossip never changes the ring")

    def note(self, event: str, **fields: object) -> None:
        self.notes.append(event)

    # --- what tests do with it -------------------------------------------------------------------

    def round(self) -> tuple[NodeId, int, Message]:
        """Lets the next round begin; what it asks whom."""
        self.sent.clear()
        self.now = max(self.now, self.gossip.due)
        self.gossip.on_tick(self.now)
        [asked] = self.sent
        return asked

    def give(self, *facts: bytes) -> list[bytes]:
        """A peer pushes facts; nothing is wanted."""
        self.gossip.on_facts(self.now, LinkId(1), 1, Facts(list(facts), []))
        reply = self.answers[-1]
        assert isinstance(reply, FactsReply)
        return reply.facts

    def meet(self, other: Table) -> list[Message]:
        """A whole round with the other one; the messages of it."""
        self.now = max(self.now, self.gossip.due)
        self.sent.clear()
        target, number, request = self.round()
        while target != other.id:
            target, number, request = self.round()
        seen = [request]
        while True:
            reply = other.take(self.now, request)
            seen.append(reply)
            self.sent.clear()
            assert self.gossip.on_reply(self.now, other.id, number, reply)
            if not self.sent:
                return seen
            [(_, number, request)] = self.sent
            seen.append(request)

    def take(self, now: float, request: Message) -> Message:
        if isinstance(request, Gossip):
            self.gossip.on_gossip(LinkId(1), 1, request)
        else:
            assert isinstance(request, Facts)
            self.gossip.on_facts(now, LinkId(1), 1, request)
        return self.answers[-1]

    def editions(self) -> dict[str, tuple[int, int]]:
        return {node[0]: fact.edition for node, fact in self.gossip.facts.items()}


def fact(node: NodeId, run: int = 1, version: int = 1, *, cluster: bytes = CLUSTER) -> Fact:
    portrait = replace(PORTRAIT, name=f"{node[0]} {run}.{version}")
    return assert_fact(node, (run, version), portrait, cluster_id=cluster)


def kinds(messages: Sequence[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


# --- rounds --------------------------------------------------------------------------------------


def test_one_round_tells_both_what_either_knew() -> None:
    a, b = Table(A, (B, C, D)), Table(B, (A, C, D))
    a.give(fact(C, version=7).sealed, fact(D, version=1).sealed)
    b.give(fact(C, version=3).sealed, fact(D, version=5).sealed)
    assert kinds(a.meet(b)) == ["Gossip", "GossipReply", "Facts", "FactsReply"]
    assert a.editions() == b.editions() == {"a": (1, 1), "b": (1, 1), "c": (1, 7), "d": (1, 5)}
    assert {n: f.sealed for n, f in a.gossip.facts.items()} == {
        n: f.sealed for n, f in b.gossip.facts.items()
    }


def test_who_knows_the_same_exchanges_one_small_pair() -> None:
    a, b = Table(A, (B,)), Table(B, (A,))
    a.meet(b)
    digests, same = a.meet(b)
    assert isinstance(digests, Gossip)
    assert len(digests.digests) == limits.GOSSIP_BUCKETS * SEAL_BYTES
    assert same == GossipReply()


def test_only_buckets_that_differ_are_compared() -> None:
    others = [NodeId(f"{number:016x}") for number in range(100)]
    a, b = Table(A, (B, *others)), Table(B, (A, *others))
    everything = [fact(node).sealed for node in others]
    a.give(*everything)
    b.give(*everything)
    a.meet(b)
    b.give(fact(others[5], version=2).sealed)
    _, reply, request, _ = a.meet(b)
    assert isinstance(reply, GossipReply)
    assert isinstance(request, Facts)
    assert reply.differ.bit_count() == 1
    assert len(reply.editions) < 20
    assert (request.facts, request.wanted) == ([], [others[5]])


def test_every_peer_is_asked_in_turn() -> None:
    a = Table(A, (B, C, D))
    for _ in range(20):
        assert {a.round()[0] for _ in range(3)} == {B, C, D}


@pytest.mark.parametrize(("state", "linked"), [(SUSPECT, True), (DEAD, True), (ALIVE, False)])
def test_who_cannot_answer_is_not_asked(state: str, linked: bool) -> None:
    a = Table(A, (B, C))
    a.peers[B].state, a.peers[B].is_linked = state, linked
    assert {a.round()[0] for _ in range(6)} == {C}


def test_a_gray_peer_takes_gossip_and_no_peer_at_all_is_no_harm() -> None:
    a = Table(A, (B,))
    a.peers[B].state = GRAY
    assert a.round()[0] == B
    a.peers[B].is_linked = False
    a.sent.clear()
    a.gossip.on_tick(a.gossip.due)
    assert not a.sent
    lone = Table(A, ())
    lone.gossip.on_tick(lone.gossip.due)
    assert set(lone.gossip.document()) == {A}


def test_a_change_of_our_own_is_asserted_at_the_next_round_and_no_change_never() -> None:
    a = Table()
    for _ in range(5):
        a.round()
    assert a.editions()["a"] == (1, 1)
    a.portrait = replace(a.portrait, epoch=2)
    a.round()
    assert a.editions()["a"] == (1, 2)
    assert a.gossip.document()[A]["epoch"] == 2


def test_more_facts_than_fit_one_message_take_several_rounds() -> None:
    others = [NodeId(f"{number:016x}") for number in range(999)]
    a, b = Table(A, (B, *others)), Table(B, (A, *others))
    everything = [fact(node).sealed for node in others]
    for start in range(0, len(everything), 100):
        b.give(*everything[start : start + 100])
    met = 0
    while len(a.gossip.facts) < 1_001:
        for message in a.meet(b):
            if isinstance(message, FactsReply):
                assert sum(map(len, message.facts)) <= limits.GOSSIP_PAGE_BYTES
        met += 1
        assert met < 10
    assert met > 1


# --- which fact wins -----------------------------------------------------------------------------


@given(st.permutations([(1, 1), (1, 9), (2, 1), (2, 2), (3, 1)]))
def test_the_highest_run_and_version_wins_in_any_order(order: list[tuple[int, int]]) -> None:
    a = Table()
    highest = (0, 0)
    for run, version in order:
        a.give(fact(B, run, version).sealed)
        highest = max(highest, (run, version))
        assert a.editions()["b"] == highest
    assert a.gossip.facts[B].portrait.name == "b 3.1"


def test_a_start_is_newer_than_all_assertions_of_the_run_before() -> None:
    before, after = Table(B, (A,), run=4), Table(B, (A,), run=5)
    for epoch in range(2, 10):
        before.portrait = replace(before.portrait, epoch=epoch)
        before.round()
    a = Table(A, (B,))
    assert before.gossip.own is not None
    assert after.gossip.own is not None
    a.give(after.gossip.own.sealed)
    a.give(before.gossip.own.sealed)
    assert a.editions()["b"] == (5, 1)


def test_the_fact_of_one_who_is_no_member_is_neither_taken_nor_asked_for() -> None:
    a, b = Table(A, (B, C)), Table(B, (A, C, D))
    a.give(fact(D).sealed)
    assert set(a.editions()) == {"a"}
    b.give(fact(D).sealed)
    a.meet(b)
    assert set(a.editions()) == {"a", "b"}


@pytest.mark.parametrize("edition", [(1, 1), (1, 50), (9, 1), (3, limits.EDITION_MAX)])
def test_what_others_have_made_up_about_us_is_refuted(edition: tuple[int, int]) -> None:
    a, b = Table(A, (B,)), Table(B, (A,))
    made_up = fact(A, *edition).sealed
    b.give(made_up)
    a.meet(b)  # from the editions
    if a.gossip.counts["refuted"] == 0:
        a.give(made_up)  # the same edition: only the bytes differ
    assert a.editions()["a"] > edition
    a.meet(b)
    assert b.gossip.facts[A].portrait == a.portrait
    assert a.notes == ["gossip.refuted"]


def test_our_own_older_facts_are_no_news_to_us() -> None:
    a = Table(run=3)
    a.give(fact(A, 2, 99).sealed)
    assert a.editions() == {"a": (3, 1)}
    assert a.gossip.counts["refuted"] == 0


# --- what is no fact -----------------------------------------------------------------------------


def sealed(content: object) -> bytes:
    """Anything, with a seal that fits."""
    probe = fact(B)
    fields = encode(content)
    from dynagent.core import facts

    assert probe.sealed[:SEAL_BYTES] == facts._seal(probe.sealed[SEAL_BYTES:], CLUSTER)
    return facts._seal(fields, CLUSTER) + fields


FIELDS = [B, 1, 1, "n", "h:1", "", "", "", 1, 0, False, None, None, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"1234567",
        fact(B).sealed[:-1],
        fact(B).sealed + b"x",
        fact(B, cluster=b"d" * 16).sealed,
        sealed(None),
        sealed([]),
        sealed(FIELDS[:-1]),
        sealed([*FIELDS[:1], 0, *FIELDS[2:]]),
        sealed([*FIELDS[:2], limits.EDITION_MAX + 1, *FIELDS[3:]]),
        sealed([*FIELDS[:8], "1", *FIELDS[9:]]),
        sealed([*FIELDS[:-1], -1]),
        sealed(["", *FIELDS[1:]]),
        sealed([*FIELDS[:3], "n" * limits.FACT_BYTES_MAX, *FIELDS[4:]]),
    ],
)
def test_a_bad_fact_is_refused_and_nothing_of_its_message_is_taken(bad: bytes) -> None:
    a = Table()
    with pytest.raises(ProtocolError):
        a.give(fact(C).sealed, bad)
    assert set(a.editions()) == {"a"}
    assert a.gossip.counts["refused"] == 1


@given(st.integers(0, len(fact(B).sealed) * 8 - 1))
def test_one_flipped_bit_does_not_fit_the_seal(bit: int) -> None:
    data = bytearray(fact(B).sealed)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        read_fact(bytes(data), cluster_id=CLUSTER)


def test_the_fields_of_a_newer_release_travel_on() -> None:
    newer = sealed([*FIELDS, "a field of tomorrow", [1]])
    a, c = Table(A, (B, C)), Table(C, (A, B))
    a.give(newer)
    c.meet(a)
    assert c.gossip.facts[B].sealed == newer


@pytest.mark.parametrize(
    "reply",
    [
        GossipReply([[]], 1),
        GossipReply([[7, 1, 1]], 1),
        GossipReply([[B, "1", 1]], 1),
        GossipReply([[B, 1, 0]], 1),
        GossipReply([[B, 1, 2**63]], 1),
        Error(BadRequest.code, "unknown message 40"),
    ],
)
def test_a_malformed_or_unwilling_answer_is_noted_once_and_harms_nothing(reply: Message) -> None:
    a = Table(A, (B,))
    for _ in range(3):
        target, number, _ = a.round()
        a.sent.clear()
        assert a.gossip.on_reply(a.now, target, number, reply)
        assert not a.sent
    assert len(a.notes) == 1
    assert set(a.editions()) == {"a"}


def test_who_is_not_ready_yet_is_no_news() -> None:
    a = Table(A, (B,))
    target, number, _ = a.round()
    assert a.gossip.on_reply(a.now, target, number, Error(NotReady.code, ""))
    assert not a.notes


def test_a_bad_fact_in_an_answer_is_noted() -> None:
    a, b = Table(A, (B,)), Table(B, (A,))
    target, number, request = a.round()
    reply = b.take(0.0, request)
    a.gossip.on_reply(a.now, target, number, reply)
    _, number, _ = a.sent[-1]
    assert a.gossip.on_reply(a.now, B, number, FactsReply([b"?"]))
    assert a.notes == ["gossip.malformed"]


def test_answers_that_nobody_waits_for_are_dropped() -> None:
    a = Table(A, (B, C))
    target, number, _ = a.round()
    other = C if target == B else B
    editions = GossipReply([[B, 5, 5]], 0xFFFF)
    a.sent.clear()
    assert a.gossip.on_reply(a.now, other, number, editions)  # not of whom was asked
    assert a.gossip.on_reply(a.now, target, number + 99, editions)
    assert not a.sent
    assert not a.gossip.on_reply(a.now, target, number + 99, Error(1, ""))
    for _ in range(4):
        a.round()
    assert a.gossip.on_reply(a.now, target, number, editions)  # far too late
    assert all(isinstance(message, Gossip) for _, _, message in a.sent)


@pytest.mark.parametrize("size", [0, 127, 129])
def test_digests_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(BadRequest, match="there are 128"):
        Table().gossip.on_gossip(LinkId(1), 1, Gossip(bytes(size)))


def test_a_fact_with_the_longest_texts_stays_within_its_bound() -> None:
    text = "x" * limits.FACT_TEXT_BYTES_MAX
    long = replace(
        PORTRAIT, name=text, address=text, zone=text, host=text, release=text, keys=2**62
    )
    made = assert_fact(NodeId("n" * 64), (2**62, 2**62), long, cluster_id=CLUSTER)
    assert len(made.sealed) <= limits.FACT_BYTES_MAX
    assert read_fact(made.sealed, cluster_id=CLUSTER).portrait == long
