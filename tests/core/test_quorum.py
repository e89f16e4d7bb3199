"""The tallies, under every order of every answer for N ≤ 3, against an oracle that keeps the list.

The oracle is naive on purpose: it holds all answers in the order in which they came and judges the
whole list again after each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import pytest

from dynagent.core.entry import Record, encode_clock, encode_entry, encode_sibling, flatten
from dynagent.core.messages import STATE_ABSENT, STATE_PRESENT, STATE_UNREADABLE, ReadReply
from dynagent.core.ports import NodeId
from dynagent.core.quorum import (
    DONE,
    MISSED,
    PENDING,
    ContextQuorum,
    GetQuorum,
    PutQuorum,
    Quorum,
)
from dynagent.core.siblings import EMPTY, Dot, Sibling, Siblings
from dynagent.errors import ProtocolError

NODES = [NodeId(name) for name in "abc"]
SIZES = [(n, needed) for n in (1, 2, 3) for needed in range(1, n + 1)]


def expected_outcome(asked: int, needed: int, counted: int, failed: int) -> int:
    if counted >= needed:
        return DONE
    return MISSED if asked - failed < needed else PENDING


@dataclass
class Watch:
    """Checks a tally after each answer: its reply comes once, and neither early nor late."""

    tally: Quorum
    asked: int
    replies: int = 0

    def check(self, counted: Sequence[NodeId], failed: Sequence[NodeId]) -> None:
        assert self.tally.counted == list(counted)
        assert sorted(self.tally.failed) == sorted(failed)
        reply = self.tally.take_reply()
        assert self.tally.take_reply() == PENDING
        outcome = expected_outcome(self.asked, self.tally.needed, len(counted), len(failed))
        assert reply == (PENDING if self.replies else outcome)
        self.replies += reply != PENDING
        assert self.replies == (self.replies or outcome != PENDING)
        everyone = len(counted) + len(failed) == self.asked
        assert self.tally.is_complete == (self.replies == 1 and everyone)
        assert not everyone or self.replies == 1


def orders(events: Sequence[tuple[NodeId, str]], limit: int) -> Iterator[list[tuple[NodeId, str]]]:
    """Every sequence in which no node answers more than `limit` times, whole ones only: what
    holds for their prefixes is checked on the way."""

    def extend(sofar: list[tuple[NodeId, str]]) -> Iterator[list[tuple[NodeId, str]]]:
        is_whole = True
        for event in events:
            if sum(node == event[0] for node, _ in sofar) < limit:
                is_whole = False
                yield from extend([*sofar, event])
        if is_whole:
            yield sofar

    return extend([])


# --- puts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "needed"), SIZES)
def test_a_put_replies_once_at_w_distinct_acks_in_every_order(n: int, needed: int) -> None:
    explored = 0
    for order in orders([(node, kind) for node in NODES[:n] for kind in ("ack", "failure")], 2):
        explored += 1
        watch = Watch(PutQuorum(NODES[:n], needed), n)
        first: dict[NodeId, str] = {}
        watch.check([], [])
        for node, kind in order:
            first.setdefault(node, kind)
            assert isinstance(watch.tally, PutQuorum)
            (watch.tally.add_result if kind == "ack" else watch.tally.add_failure)(node)
            watch.check(
                [node for node, kind in first.items() if kind == "ack"],
                [node for node, kind in first.items() if kind == "failure"],
            )
        assert watch.tally.is_complete
    assert explored == {1: 4, 2: 96, 3: 5_760}[n]
    print(f"{explored} orders")


def test_an_ack_of_a_node_that_was_not_asked_does_not_count() -> None:
    tally = PutQuorum(NODES[:2], 2)
    tally.add_result(NODES[2])
    tally.add_failure(NODES[2])
    assert (tally.counted, tally.failed, tally.take_reply()) == ([], [], PENDING)


# --- gets ----------------------------------------------------------------------------------------


def sibling(dot: Dot, value: bytes = b"value") -> Sibling:
    return encode_sibling(
        dot=dot, wall_ms=1, content=0, expiry_ms=0, op_id=b"o" * 16, meta={}, value=value
    )


COPIES = {
    "absent": None,
    "unreadable": None,
    "old": Record(Siblings({1: 1}, (sibling((1, 1)),))),
    "new": Record(Siblings({1: 2}, (sibling((1, 2)),))),
    "concurrent": Record(Siblings({1: 1, 2: 1}, (sibling((1, 1)), sibling((2, 1))))),
    "tombstone": Record(Siblings({1: 2}, ())),
    "rotten": Record(Siblings({1: 2}, (sibling((1, 2), b"other bytes"),))),
}


@lru_cache
def reply(copy: str, want: str) -> ReadReply:
    record = COPIES[copy]
    if record is None:
        state = STATE_ABSENT if copy == "absent" else STATE_UNREADABLE
        return ReadReply(state, b"", [], [], None)
    clock, dots = encode_clock(record.value.clock), flatten(record.value.dots())
    entry = encode_entry(b"key", record) if want == "value" else None
    return ReadReply(STATE_PRESENT, record.digest, clock, dots, entry)


class NaiveGet:
    """Every answer in order; what counts is decided by looking at all of them."""

    def __init__(self) -> None:
        self.counted: dict[NodeId, str] = {}
        self.failed: list[NodeId] = []
        self.asked_for_value: set[NodeId] = set()

    @property
    def merged(self) -> Siblings:
        value = EMPTY
        for copy in self.counted.values():
            record = COPIES[copy]
            value = value if record is None else value.merge(record.value)
        return value

    def add(self, node: NodeId, copy: str, kind: str) -> bool:
        """True if the value must be fetched."""
        if node in self.counted or node in self.failed:
            return False
        if kind == "failure" or copy == "unreadable":
            self.failed.append(node)
            return False
        record = COPIES[copy]
        if kind == "digest" and record is not None and self.has_news(record):
            is_first = node not in self.asked_for_value
            self.asked_for_value.add(node)
            return is_first
        self.counted[node] = copy
        return False

    def has_news(self, record: Record) -> bool:
        if any(COPIES[copy] is record for copy in self.counted.values()):
            return False
        merged = self.merged
        same_version = (merged.clock, merged.dots()) == (record.value.clock, record.value.dots())
        return same_version or not {*merged.merge(record.value).dots()} <= {*merged.dots()}


# With own copy first and two others, the classes of copies are spanned by these.
OWN = ["absent", "unreadable", "old", "new", "concurrent"]
OTHERS = [*OWN, "tombstone"]


def run_get(order: Sequence[tuple[NodeId, str]], copies: dict[NodeId, str], needed: int) -> None:
    asked = list(copies)
    tally, naive = GetQuorum(asked, needed), NaiveGet()
    watch = Watch(tally, len(asked))
    own = COPIES[copies[asked[0]]]
    if own is not None:
        tally.add_own(asked[0], own)
    elif copies[asked[0]] == "absent":
        tally.add_own(asked[0], Record(EMPTY))
    else:
        tally.add_own(asked[0], Record(EMPTY, unknown=True))
    naive.add(asked[0], copies[asked[0]], "value")
    watch.check(list(naive.counted), naive.failed)
    for node, kind in order:
        if kind == "failure":
            tally.add_failure(node)
            naive.add(node, copies[node], kind)
        else:
            fetch = tally.add_result(node, reply(copies[node], kind))
            assert fetch == naive.add(node, copies[node], kind)
        watch.check(list(naive.counted), naive.failed)
        assert tally.merged == naive.merged


@pytest.mark.parametrize(("n", "needed"), SIZES)
def test_a_get_replies_once_at_r_copies_in_hand_in_every_order(n: int, needed: int) -> None:
    """Each of the others sends any two of: its digest, its value, a failure; in every order."""
    explored = 0
    others = NODES[1:n]
    for own, *held in product(OWN, *[OTHERS] * (n - 1)):
        copies = dict(zip(NODES, [own, *held], strict=False))
        events = [(node, kind) for node in others for kind in ("digest", "value", "failure")]
        for order in orders(events, 2):
            explored += 1
            run_get(order, copies, needed)
    assert explored == {1: 5, 2: 30 * 9, 3: 180 * 486}[n]
    print(f"{explored} orders")


def test_a_digest_that_differs_counts_only_when_its_value_is_in_hand() -> None:
    tally = GetQuorum(NODES, 2)
    old = COPIES["old"]
    assert old is not None
    tally.add_own(NODES[0], old)
    assert tally.add_result(NODES[1], reply("new", "digest"))
    assert not tally.add_result(NODES[1], reply("new", "digest"))
    assert tally.take_reply() == PENDING
    assert not tally.add_result(NODES[1], reply("new", "value"))
    assert tally.take_reply() == DONE
    assert tally.merged == Siblings({1: 2}, (sibling((1, 2)),))


def test_the_same_version_with_other_bytes_is_fetched_and_both_values_are_kept() -> None:
    tally = GetQuorum(NODES, 2)
    new = COPIES["new"]
    assert new is not None
    tally.add_own(NODES[0], new)
    assert tally.add_result(NODES[1], reply("rotten", "digest"))
    assert not tally.add_result(NODES[1], reply("rotten", "value"))
    assert tally.take_reply() == DONE
    assert len(tally.merged.siblings) == 2


def test_a_second_copy_with_a_digest_that_was_merged_already_is_not_fetched() -> None:
    tally = GetQuorum(NODES, 3)
    tally.add_own(NODES[0], Record(EMPTY))
    assert not tally.add_result(NODES[1], reply("tombstone", "digest"))
    assert not tally.add_result(NODES[2], reply("tombstone", "digest"))
    assert tally.take_reply() == DONE


def test_a_malformed_digest_is_refused_and_leaves_the_tally_as_it_was() -> None:
    for answer in (
        ReadReply(STATE_PRESENT, b"d", [1], [], None),
        ReadReply(STATE_PRESENT, b"d", [1, 0], [], None),
        ReadReply(STATE_PRESENT, b"d", [1, 1], [1], None),
        ReadReply(STATE_PRESENT, b"d", [], [], [b"key"]),
    ):
        tally = GetQuorum(NODES, 1)
        with pytest.raises(ProtocolError):
            tally.add_result(NODES[1], answer)
        assert (tally.waiting, tally.counted, tally.merged) == (set(NODES), [], EMPTY)


# --- the read before a write ---------------------------------------------------------------------


@pytest.mark.parametrize(("n", "needed"), SIZES)
def test_the_read_before_a_write_joins_the_clocks_of_r_readable_owners(n: int, needed: int) -> None:
    explored = 0
    clocks = dict(zip(NODES, ({1: 1}, {1: 2}, {2: 5}), strict=True))
    kinds = ("present", "unreadable", "failure")
    for order in orders([(node, kind) for node in NODES[:n] for kind in kinds], 2):
        explored += 1
        tally = ContextQuorum(NODES[:n], needed)
        watch = Watch(tally, n)
        first: dict[NodeId, str] = {}
        for node, kind in order:
            first.setdefault(node, kind)
            add_context(tally, node, kind, clocks[node])
            counted = [node for node, kind in first.items() if kind == "present"]
            watch.check(counted, [node for node in first if node not in counted])
            assert list(tally.op_states) == counted
            for actor in (1, 2):
                best = max((clocks[node].get(actor, 0) for node in counted), default=0)
                assert tally.clock.get(actor, 0) == best
    assert explored == {1: 9, 2: 6 * 81, 3: 90 * 729}[n]
    print(f"{explored} orders")


def add_context(tally: ContextQuorum, node: NodeId, kind: str, clock: dict[int, int]) -> None:
    if kind == "failure":
        tally.add_failure(node)
    else:
        state = STATE_PRESENT if kind == "present" else STATE_UNREADABLE
        tally.add_result(node, state=state, clock=clock, op_state=1)


@pytest.mark.parametrize("make", [PutQuorum, GetQuorum, ContextQuorum])
def test_a_tally_that_cannot_reach_its_number_says_so_at_once(
    make: Callable[[list[NodeId], int], Quorum],
) -> None:
    tally = make(NODES[:1], 2)
    assert tally.take_reply() == MISSED
    assert not tally.is_complete
