"""A listing through the blocking client, over nodes without a network: who is asked, what a failure
costs, and that the token names exactly what is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from dynagent.client.keys import Keys
from dynagent.client.requests import Result
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_OVERWRITE,
    Error,
    Get,
    GetReply,
    List,
    Message,
    Pong,
    Put,
    RingIs,
)
from dynagent.core.ports import NodeId
from dynagent.core.ring import Member, Ring, token_of
from dynagent.errors import BadRequest, ConnectionLost, QuorumNotMet, from_wire
from dynagent.limits import FRAME_HEADER_BYTES
from dynagent.wire.codec import decode_frame, encode_frame
from tests.core.harness import CLUSTER_ID, IDS, Cluster

A, B, C, D = IDS
MEMBERS = tuple(
    Member(id=id_, name=f"n-{id_[0]}", address=f"{id_[0]}:1", zone="", host=id_, capacity=1)
    for id_ in IDS
)
LISTS = tuple(tuple(IDS[(partition + place) % 4] for place in range(3)) for partition in range(8))
RING = Ring(
    epoch=1, cluster_id=CLUSTER_ID, n=3, r=2, w=2, members=MEMBERS, lists=LISTS
)  # four nodes, three owners of each partition


class House:
    """Stands in for `Client`: hands each message to a node, unless that one is down."""

    def __init__(self) -> None:
        self.cluster = Cluster(RING)
        self.down: set[NodeId] = set()
        self.asked: list[NodeId] = []
        self.gets = 0
        self.interrupt_after = 1 << 30
        self.nonsense: set[NodeId] = set()

    def put(self, key: bytes, value: bytes | None = b"v") -> None:
        number = self.cluster.last_request.to_bytes(16, "big")
        owner = LISTS[RING.partition_of(token_of(key))][0]
        mode = MODE_BLIND if value is not None else MODE_OVERWRITE
        self.cluster.ask(owner, Put(key, value, mode, b"", number))

    def ring(self) -> Ring:
        return RING

    def ask(self, address: str, message: Message) -> Message:
        node = next(member.id for member in MEMBERS if member.address == address)
        if len(self.asked) >= self.interrupt_after:
            raise KeyboardInterrupt
        self.asked.append(node)
        # What a node hears has been through the wire.
        frame = encode_frame(message, request_id=1, budget_ms=1)
        heard = decode_frame(frame[FRAME_HEADER_BYTES:]).message
        assert heard == message
        if node in self.down:
            raise ConnectionLost(f"{address}: no answer in time")
        if node in self.nonsense:
            return Pong()
        return self._answer(node, message)

    def get(self, key: bytes, *, r: int, strict: bool) -> Result:
        assert strict and r == 2
        self.gets += 1
        owners = LISTS[RING.partition_of(token_of(key))]
        up = [node for node in owners if node not in self.down]
        return Result(self._answer(up[0], Get(key, r, strict)), "somebody")  # type: ignore[arg-type]

    def _answer(self, node: NodeId, message: Message) -> Message:
        answer = self.cluster.ask(node, message)
        if isinstance(answer, Error):
            raise from_wire(answer.error, answer.text)
        assert not isinstance(message, Get) or isinstance(answer, GetReply)
        return answer

    def keys(
        self, *, prefix: bytes | None = None, resume: bytes = b"", rate: float | None = None
    ) -> Keys:
        return Keys(self, prefix=prefix, resume=resume, rate=rate)  # type: ignore[arg-type]


@pytest.fixture
def house() -> House:
    found = House()
    for number in range(40):
        found.put(b"key-%d" % number)
    found.put(b"key-7", None)
    return found


WANTED = sorted(
    (b"key-%d" % number for number in range(40) if number != 7),
    key=lambda key: token_of(key) + key,
)


def _names(keys: Keys) -> list[bytes]:
    return [listed.key for listed in keys]


def _until_it_fails(keys: Keys) -> tuple[list[bytes], QuorumNotMet]:
    found: list[bytes] = []
    with pytest.raises(QuorumNotMet) as failure:
        for listed in keys:
            found.append(listed.key)
    return found, failure.value


def test_all_keys_come_once_in_ring_order_and_deleted_ones_do_not(house: House) -> None:
    assert _names(house.keys()) == WANTED
    assert len(house.asked) == 16  # two owners of each of eight partitions


def test_a_prefix_is_kept_to(house: House) -> None:
    assert _names(house.keys(prefix=b"key-1")) == [k for k in WANTED if k.startswith(b"key-1")]
    assert _names(house.keys(prefix=b"nothing")) == []


def test_with_one_owner_down_another_decides_and_it_is_not_asked_for_each_partition(
    house: House,
) -> None:
    house.down = {B}
    assert _names(house.keys()) == WANTED
    assert house.asked.count(B) == 1


def test_an_owner_that_answers_nonsense_is_as_good_as_down(house: House) -> None:
    house.nonsense = {A}
    assert _names(house.keys()) == WANTED


def test_what_too_few_owners_answer_for_is_left_out_and_the_token_names_exactly_that(
    house: House,
) -> None:
    house.down = {A, B}
    keys = house.keys()
    found, failure = _until_it_fails(keys)
    # Of the owners of partition p (p, p+1, p+2 of a, b, c, d) two are up for p = 1, 2, 5, 6 only.
    able = [key for key in WANTED if RING.partition_of(token_of(key)) in (1, 2, 5, 6)]
    assert found == able
    assert "partitions 0, 3-4, 7 (" in failure.message
    assert "n-a: no answer in time" in failure.message
    assert "n-b: no answer in time" in failure.message
    house.down = set()
    rest = _names(house.keys(resume=keys.token))
    assert rest == [key for key in WANTED if key not in found]


def test_a_listing_goes_on_behind_the_latest_key_that_is_done(house: House) -> None:
    for count in (0, 1, 5, 20, 38, 39):
        keys = house.keys()
        found: list[bytes] = []
        for listed in keys:
            if len(found) == count:
                break
            found.append(listed.key)
        assert found + _names(house.keys(resume=keys.token)) == WANTED


def test_a_page_can_be_done_in_part(house: House) -> None:
    keys = house.keys()
    page = next(page for page in keys.pages() if len(page) > 2)
    keys.done(page[1])
    rest = _names(house.keys(resume=keys.token))
    assert rest == WANTED[WANTED.index(page[2].key) :]


def test_an_interrupt_at_any_request_loses_nothing(house: House) -> None:
    for asked in range(17):
        house.asked.clear()
        house.interrupt_after = asked
        keys = house.keys()
        found: list[bytes] = []
        try:
            for page in keys.pages():
                found += [listed.key for listed in page]
                keys.done(page[-1])
        except KeyboardInterrupt:
            pass
        house.interrupt_after = 1 << 30
        assert found + _names(house.keys(resume=keys.token)) == WANTED


def test_a_finished_listing_has_nothing_left(house: House) -> None:
    keys = house.keys(prefix=b"key-2")
    assert _names(keys)
    assert _names(house.keys(resume=keys.token)) == []


def test_the_token_keeps_its_prefix(house: House) -> None:
    keys = house.keys(prefix=b"key-2")
    first = next(iter(keys.pages()))
    keys.done(first[-1])
    rest = _names(house.keys(resume=keys.token))
    assert [listed.key for listed in first] + rest == [k for k in WANTED if b"key-2" in k]
    with pytest.raises(BadRequest):
        house.keys(resume=keys.token, prefix=b"key-3")


def _rot(house: House, node: NodeId, key: bytes) -> None:
    rows = house.cluster.disks[node].rows
    rows[key] = b"rot!" + rows[key][4:]
    house.cluster.nodes[node].replica.forget(key)


def test_a_copy_that_cannot_be_read_is_decided_by_a_quorum_read(house: House) -> None:
    for key in (WANTED[3], b"key-7"):
        _rot(house, LISTS[RING.partition_of(token_of(key))][1], key)
    keys = house.keys()
    assert _names(keys) == WANTED
    assert (keys.copies_unreadable, house.gets) == (2, 2)


def test_a_key_about_which_nobody_can_decide_ends_its_partition_there(house: House) -> None:
    key = WANTED[3]
    partition = RING.partition_of(token_of(key))
    for node in LISTS[partition][:2]:
        _rot(house, node, key)
    keys = house.keys()
    found, failure = _until_it_fails(keys)
    here = [k for k in WANTED if RING.partition_of(token_of(k)) == partition]
    lost = here[here.index(key) :]
    assert found == [k for k in WANTED if k not in lost]
    assert f"partition {partition} (" in failure.message
    house.put(key, None)
    for node in LISTS[partition]:
        house.cluster.disks[node].rows.pop(key, None)
    assert _names(house.keys(resume=keys.token)) == lost[1:]


class Clock:
    """Stands in for `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    found = Clock()
    monkeypatch.setattr("dynagent.client.keys.time", found)
    yield found


def test_a_rate_bounds_what_each_owner_looks_at(house: House, clock: Clock) -> None:
    assert _names(house.keys(rate=10)) == WANTED
    assert 3.5 < clock.now <= 4.0  # 40 records, the tombstone too, at 10 a second
    began = clock.now
    assert _names(house.keys()) == WANTED
    assert clock.now == began


def test_no_rate_makes_a_request_that_the_wire_refuses(house: House, clock: Clock) -> None:
    for rate in (0.001, 3.0, 1e11):
        first = next(house.keys(rate=rate).pages())
        assert [listed.key for listed in first] == WANTED[: len(first)]


def test_an_owner_that_failed_is_tried_again_after_a_while(house: House, clock: Clock) -> None:
    house.down = {B}
    assert _names(house.keys(rate=1)) == WANTED  # 40 seconds
    assert 2 <= house.asked.count(B) <= 8


# --- the ring changes meanwhile ------------------------------------------------------------------


class MovingHouse(House):
    """Its agents have the ring `present`; clients learn `told`."""

    def __init__(self) -> None:
        super().__init__()
        self.present = self.told = RING

    def ring(self) -> Ring:
        return self.told

    def _answer(self, node: NodeId, message: Message) -> Message:
        if isinstance(message, List):
            stamp = (message.stamp_change, message.stamp_phase)
            if stamp != self.present.stamps[message.partition]:
                return RingIs(self.present.epoch)
            message = List(message.partition, message.after, message.prefix, message.look_max)
        return super()._answer(node, message)


def test_a_listing_follows_the_ring_and_misses_nothing(clock: Clock) -> None:
    house = MovingHouse()
    for number in range(40):
        house.put(b"key-%d" % number)
    keys = house.keys()
    found = []
    for listed in keys:
        found.append(listed.key)
        if len(found) == 9:
            house.present = house.told = replace(RING, epoch=5, changed=(5,) * 8)
    assert found == sorted((b"key-%d" % n for n in range(40)), key=lambda k: token_of(k) + k)
    assert clock.now == 0


def test_an_owner_that_lags_behind_is_waited_for_and_not_for_ever(clock: Clock) -> None:
    house = MovingHouse()
    house.put(b"key")
    house.told = replace(RING, epoch=5, changed=(5,) * 8)
    keys = house.keys()
    found, error = _until_it_fails(keys)
    assert found == []
    assert "RingIs is no page of a listing" in error.message
    assert clock.now >= 5
    house.present = house.told
    assert _names(house.keys(resume=keys.token)) == [b"key"]
