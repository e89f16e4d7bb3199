"""The window over all lanes, without sockets: order, bounds, failover, outages."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent import limits
from dynagent.client.lane import Lane, Request
from dynagent.client.pipeline import Pipeline
from dynagent.client.requests import Receipt, make_put
from dynagent.client.routing import Addresses
from dynagent.core.messages import Error, Get, GetReply, Message, Put, PutReply
from dynagent.core.ring import Ring
from dynagent.errors import (
    BadRequest,
    ConnectionLost,
    DynagentError,
    Overloaded,
    ProtocolError,
    QuorumNotMet,
    TooLarge,
    Unreachable,
    WriteOutcomeUnknown,
    WrongCluster,
)
from dynagent.wire.codec import Frame, decode_frame
from tests.core.test_ring import small_ring


def ring_of_three() -> Ring:
    ring = small_ring()
    ids = [member.id for member in ring.members[:3]]
    lists = tuple(tuple(ids[(p + i) % 3] for i in range(3)) for p in range(ring.partitions))
    return replace(ring, members=ring.members[:3], lists=lists)


RING = ring_of_three()
ALL = sorted(member.address for member in RING.members)
OP_ID = bytes(range(16))
DONE = PutReply(b"seen", 1, b"")


class World:
    """A pipeline whose lanes a test answers, in seconds that it says."""

    def __init__(self, *, timeout_s: float = 8.0, in_flight: int = 64, up: bool = True) -> None:
        addresses = Addresses(RING, [])
        self.owners = addresses.of
        self.pipeline = Pipeline(addresses, timeout_s=timeout_s, in_flight=in_flight)
        self.now = 100.0
        if up:
            for address in ALL:
                self.pipeline.on_up(self.now, self.lane(address))

    def lane(self, address: str) -> Lane[Request]:
        return self.pipeline.lanes.setdefault(address, Lane(address))

    def put(self, key: bytes, value: bytes = b"v", *, repeats: bool = False) -> Request:
        request = Request(make_put(key, value, op_id=OP_ID), repeats=repeats)
        self.pipeline.add(self.now, request)
        return request

    def get(self, key: bytes) -> Request:
        request = Request(Get(key))
        self.pipeline.add(self.now, request)
        return request

    def sent(self, address: str) -> list[Frame]:
        """What has been sent along a lane since the last look."""
        lane = self.lane(address)
        frames, lane.frames = lane.frames, []
        return [decode_frame(frame[limits.FRAME_HEADER_BYTES :]) for frame in frames]

    def one(self, address: str) -> Frame:
        (frame,) = self.sent(address)
        return frame

    def reply(self, address: str, frame: Frame, message: Message) -> None:
        self.pipeline.on_reply(self.now, self.lane(address), frame.request_id, message)

    def lose(self, address: str, error: DynagentError | None = None) -> None:
        lost = error or ConnectionLost(f"{address}: gone")
        self.pipeline.on_lost(self.now, self.lane(address), lost)

    def sweep(self, seconds: float, *addresses: str) -> list[str]:
        self.now += seconds
        lanes = [self.lane(address) for address in addresses or ALL]
        return [lane.address for lane in self.pipeline.sweep(self.now, lanes)]

    def finished(self) -> list[Request]:
        return self.pipeline.finished()


def value_reply(value: bytes) -> GetReply:
    return GetReply(b"seen", [value], False, 2)


def key_of(first: str, world: World, start: int = 0) -> bytes:
    """A key whose first owner is at `first`."""
    keys = (b"key-%d" % number for number in itertools.count(start))
    return next(key for key in keys if world.owners(key)[0] == first)


# --- where, and in what order --------------------------------------------------------------------


def test_a_request_goes_to_the_first_owner_of_its_key_and_all_owners_are_used() -> None:
    world = World()
    requests = [world.put(b"key-%d" % number) for number in range(60)]
    sent = {address: world.sent(address) for address in ALL}
    assert all(sent.values())
    for address, frames in sent.items():
        for frame in frames:
            assert isinstance(frame.message, Put)
            assert world.owners(frame.message.key)[0] == address
    assert sum(map(len, sent.values())) == len(requests)


def test_a_newer_ring_that_an_agent_tells_of_is_followed_by_what_starts_from_then_on() -> None:
    world = World()

    def lags() -> bool:
        return world.pipeline.lags

    first = ALL[0]
    key = key_of(first, world)
    world.put(key)
    assert lags() is False
    world.reply(first, world.one(first), PutReply(b"seen", 1, b"", b"", RING.epoch + 1))
    assert lags() is True
    world.pipeline.aim(Addresses(RING, []))  # who was asked for it had not heard of it yet
    assert lags() is False
    turned = tuple((*owners[1:], owners[0]) for owners in RING.lists)
    world.pipeline.aim(Addresses(replace(RING, epoch=RING.epoch + 1, lists=turned), []))
    world.put(key)
    assert world.sent(first) == []
    assert len(world.sent(world.owners(key)[1])) == 1
    world.pipeline.aim(Addresses(RING, []))
    assert world.pipeline.addresses.epoch == RING.epoch + 1  # never back


def test_outcomes_come_in_the_order_of_the_requests_whatever_the_order_of_replies() -> None:
    world = World()
    requests = [world.put(b"key-%d" % number) for number in range(20)]
    frames = [(address, frame) for address in ALL for frame in world.sent(address)]
    handed_out = []
    for address, frame in reversed(frames):
        world.reply(address, frame, DONE)
        handed_out += world.finished()
    assert handed_out == requests
    assert all(isinstance(request.outcome(), Receipt) for request in handed_out)
    assert len(world.pipeline) == 0


def test_two_requests_of_one_key_take_effect_in_order() -> None:
    world = World()
    owner = world.owners(b"k")[0]
    first, second, third = world.put(b"k", b"1"), world.put(b"k", b"2"), world.get(b"k")
    for value in (b"1", b"2"):
        frame = world.one(owner)
        assert isinstance(frame.message, Put) and frame.message.value == value
        world.reply(owner, frame, DONE)
    world.reply(owner, world.one(owner), value_reply(b"2"))
    assert world.finished() == [first, second, third]


def test_the_next_of_a_key_waits_until_a_retry_of_the_earlier_one_has_ended() -> None:
    world = World()
    one, two, _three = world.owners(b"k")
    world.put(b"k", b"1")
    world.put(b"k", b"2")
    world.sent(one)
    world.lose(one)
    retry = world.one(two)
    assert isinstance(retry.message, Put) and retry.message.value == b"1"
    world.reply(two, retry, DONE)
    after = world.one(two)  # the first owner is down
    assert isinstance(after.message, Put) and (after.message.value, after.message.attempt) == (
        b"2",
        1,
    )


def test_a_refusal_of_the_callers_own_is_handed_out_at_its_place() -> None:
    world = World()
    before = world.put(b"a")
    refused = Request(None, "line 2", error=BadRequest("line 2: not JSON"))
    world.pipeline.add(world.now, refused)
    assert world.finished() == []
    owner = world.owners(b"a")[0]
    world.reply(owner, world.one(owner), DONE)
    assert world.finished() == [before, refused]
    with pytest.raises(BadRequest):
        refused.outcome()


def test_a_chain_of_one_key_longer_than_the_stack_ends() -> None:
    world = World(in_flight=5_000)
    chain = [world.put(b"k") for _ in range(5_000)]
    owner = world.owners(b"k")[0]
    world.reply(owner, world.one(owner), Error(BadRequest.code, "no"))
    for address in ALL:
        world.lose(address)
    world.now += 100
    world.sweep(0)  # the outage has been waited for
    world.sweep(100)
    assert len(world.finished()) == len(chain)


# --- failing over --------------------------------------------------------------------------------


def test_a_lost_lane_sends_all_its_puts_elsewhere_as_retries_with_the_same_op_id() -> None:
    world = World()
    lost = ALL[0]
    keys = {b"key-%d" % n for n in range(40) if world.owners(b"key-%d" % n)[0] == lost}
    for key in keys:
        world.put(key)
    assert len(world.sent(lost)) == len(keys) > 3
    world.lose(lost)
    for address in ALL[1:]:
        for frame in world.sent(address):
            message = frame.message
            assert isinstance(message, Put)
            assert (message.op_id, message.attempt) == (OP_ID, 2)
            assert world.owners(message.key)[1] == address
            keys.remove(message.key)
            world.reply(address, frame, DONE)
    assert not keys
    assert all(request.error is None for request in world.finished())


def test_what_was_never_sent_fails_over_as_a_first_attempt() -> None:
    world = World(up=False)
    one, two, _three = world.owners(b"k")
    request = world.put(b"k")
    world.lose(one, Unreachable(f"{one}: Connection refused"))
    assert world.sent(one) == world.sent(two) == []  # a lane that is not up sends nothing
    world.pipeline.on_up(world.now, world.lane(two))
    frame = world.one(two)
    assert isinstance(frame.message, Put) and frame.message.attempt == 1
    world.reply(two, frame, DONE)
    assert world.finished() == [request] and request.agent == two


def test_an_address_that_is_down_is_passed_over_until_it_is_up_again() -> None:
    world = World()
    one, two, _three = world.owners(b"k")
    world.lose(one)
    world.put(b"k")
    world.reply(two, world.one(two), DONE)
    world.pipeline.on_up(world.now, world.lane(one))
    world.put(b"k")
    assert len(world.sent(one)) == 1


def test_a_late_reply_of_a_try_that_was_given_up_is_passed_over() -> None:
    world = World()
    one, two, _three = world.owners(b"k")
    request = world.put(b"k")
    slow = world.one(one)
    world.lane(one).heard_at = world.now + 4  # it answers others
    assert world.sweep(4.5) == []
    world.reply(one, slow, DONE)
    assert world.finished() == []
    world.reply(two, world.one(two), DONE)
    assert world.finished() == [request] and request.agent == two


def test_a_lane_that_is_silent_is_named_and_one_with_unread_bytes_is_not_looked_at() -> None:
    world = World()
    world.put(key_of(ALL[0], world))
    world.put(key_of(ALL[1], world))
    assert world.sweep(3.9) == []
    assert world.sweep(0.2, ALL[1]) == [ALL[1]]


def test_a_busy_agent_is_not_asked_again_before_a_pause() -> None:
    world = World()
    one, two, _three = world.owners(b"k")
    request = world.put(b"k")
    world.reply(one, world.one(one), Error(Overloaded.code, "full"))
    assert not world.sent(two)
    world.sweep(limits.RETRY_PAUSE_S)
    world.reply(two, world.one(two), DONE)
    assert world.finished() == [request]


def test_requests_that_were_refused_together_do_not_come_back_together() -> None:
    world = World()
    requests = [world.put(b"key-%d" % number) for number in range(60)]
    for address in ALL:
        for frame in world.sent(address):
            world.reply(address, frame, Error(Overloaded.code, "full"))
    came = []
    for _ in range(10):
        world.sweep(limits.RETRY_PAUSE_S / 10)
        came.append(sum(len(world.sent(address)) for address in ALL))
    assert sum(came) == len(requests) and came[:4] == [0] * 4
    assert max(came) <= len(requests) / 4


def test_a_busy_cluster_is_asked_within_the_bound_of_attempts() -> None:
    world = World()
    request = world.put(b"k")
    asked = 0
    for _ in range(20):
        for address in ALL:
            for frame in world.sent(address):
                asked += 1
                world.reply(address, frame, Error(QuorumNotMet.code, "1 of 2"))
        world.sweep(limits.RETRY_PAUSE_S)
    assert asked == limits.CLIENT_ATTEMPTS_MAX
    assert world.finished() == [request]
    assert isinstance(request.error, QuorumNotMet)


def test_a_wrong_request_is_not_tried_elsewhere() -> None:
    world = World()
    owner = world.owners(b"k")[0]
    request = world.put(b"k")
    world.reply(owner, world.one(owner), Error(TooLarge.code, "too large"))
    assert world.finished() == [request]
    assert isinstance(request.error, TooLarge)


def test_a_frame_that_no_wire_could_carry_is_refused_here() -> None:
    world = World()
    request = world.put(b"k", bytes(limits.DATA_FRAME_BYTES_MAX))
    assert world.finished() == [request]
    assert isinstance(request.error, TooLarge)


def test_an_unknown_outcome_carries_its_op_id_and_a_lost_get_is_none() -> None:
    world = World()
    put, get = world.put(b"k"), world.get(b"other")
    for address in (*world.owners(b"k"), *world.owners(b"other")):
        world.lose(address)
    world.sweep(9)
    assert world.finished() == [put, get]
    assert isinstance(put.error, WriteOutcomeUnknown) and put.error.op_id == OP_ID
    assert isinstance(get.error, Unreachable | ConnectionLost)


def test_a_repeated_put_is_a_retry_from_the_start() -> None:
    world = World()
    owner = world.owners(b"k")[0]
    world.put(b"k", repeats=True)
    frame = world.one(owner)
    assert isinstance(frame.message, Put) and frame.message.attempt == 2


@pytest.mark.parametrize("reply", [GetReply(b"", [], False, 2), None])
def test_an_answer_to_something_else_is_a_protocol_error(reply: Message | None) -> None:
    world = World()
    owner = world.owners(b"k")[0]
    request = world.put(b"k")
    frame = world.one(owner)
    world.pipeline.on_reply(world.now, world.lane(owner), frame.request_id, reply)
    assert world.finished() == [request]
    assert isinstance(request.error, ProtocolError)


# --- when nobody is there ------------------------------------------------------------------------


def test_an_outage_is_waited_for_and_its_end_sends_what_waited() -> None:
    world = World()
    for address in ALL:
        world.lose(address)
    request = world.put(b"k")
    assert world.sweep(1) == [] and world.finished() == []
    third = world.owners(b"k")[2]
    world.pipeline.on_up(world.now, world.lane(third))
    world.reply(third, world.one(third), DONE)
    assert world.finished() == [request] and request.error is None


def test_an_outage_is_waited_for_once_then_requests_fail_at_once() -> None:
    world = World(timeout_s=8)
    for address in ALL:
        world.lose(address)
    first = world.put(b"k")
    world.sweep(8.1)
    later = world.put(b"l")
    assert world.finished() == [first, later]
    assert isinstance(first.error, Unreachable) and "gone" in first.error.message
    assert isinstance(later.error, Unreachable)


def test_agents_of_another_cluster_are_refused_by_that_name() -> None:
    world = World(up=False, timeout_s=1)
    request = world.put(b"k")
    for address in world.owners(b"k"):
        world.lose(address, WrongCluster("asked for cluster 1, met one of 2"))
    world.sweep(2)
    assert world.finished() == [request]
    assert isinstance(request.error, WrongCluster)


# --- bounds --------------------------------------------------------------------------------------


def test_the_window_is_bounded_by_count_until_the_head_has_ended() -> None:
    world = World(in_flight=4)
    owner = world.owners(b"head")[0]
    world.put(b"head")
    head = world.one(owner)
    for number in range(3):
        key = b"key-%d" % number
        world.put(key)
        world.reply(world.owners(key)[0], world.one(world.owners(key)[0]), DONE)
    assert not world.pipeline.has_room and world.finished() == []
    world.reply(owner, head, DONE)
    assert len(world.finished()) == 4 and world.pipeline.has_room


def test_the_window_is_bounded_by_the_bytes_of_its_values() -> None:
    world = World(in_flight=1_000)
    taken = 0
    while world.pipeline.has_room:
        world.put(b"key-%d" % taken, bytes(limits.MIB))
        taken += 1
    assert taken == limits.BULK_BYTES_MAX // limits.MIB


def test_gets_begin_with_few_in_flight_and_learn_the_size_of_replies() -> None:
    def taken(world: World) -> int:
        start = len(world.pipeline)
        for number in itertools.count(start):
            if not world.pipeline.has_room:
                return number
            world.get(b"key-%d" % number)
        raise AssertionError

    world = World(in_flight=100_000)
    assert taken(world) <= limits.BULK_BYTES_MAX // limits.REPLY_BYTES_ASSUMED
    for _ in range(2):  # small replies: many more fit
        for address in ALL:
            for frame in world.sent(address):
                world.reply(address, frame, value_reply(b"small"))
        world.finished()
        world.get(b"probe")
    assert taken(world) > 5_000


def test_a_lane_takes_no_more_than_its_bytes_and_the_rest_follows() -> None:
    world = World(in_flight=1_000)
    address = ALL[0]
    keys = [key_of(address, world, start) for start in (0, 100, 200)]
    size = limits.LANE_BYTES_MAX // 2
    for key in dict.fromkeys(keys):
        world.put(key, bytes(size))
    frames = world.sent(address)
    assert len(frames) == 1  # two and their overhead are over the bound
    world.reply(address, frames[0], DONE)
    assert len(world.sent(address)) == 1


def test_a_request_that_never_found_room_in_its_lane_goes_elsewhere_as_a_first_attempt() -> None:
    world = World(in_flight=1_000)
    address = ALL[0]
    stuck, waiting = key_of(address, world), key_of(address, world, 500)
    world.put(stuck, bytes(limits.LANE_BYTES_MAX))
    world.put(waiting)
    world.sent(address)
    world.lane(address).heard_at = world.now + 4
    world.sweep(4.5)
    second = world.owners(waiting)[1]
    frame = world.one(second)
    assert isinstance(frame.message, Put)
    assert (frame.message.key, frame.message.attempt) == (waiting, 1)
    world.reply(second, frame, DONE)
    frame = world.one(second)  # now there is room for the large one too
    assert isinstance(frame.message, Put)
    assert (frame.message.key, frame.message.attempt) == (stuck, 2)


# --- everything at once --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_happens_every_request_ends_once_and_in_order(data: st.DataObject) -> None:
    world = World(timeout_s=2, in_flight=16)
    added: list[Request] = []
    ended: list[Request] = []
    kinds = st.sampled_from(["add", "answer", "refuse", "lose", "up", "wait"])
    for kind in data.draw(st.lists(kinds, max_size=60)):
        address = data.draw(st.sampled_from(ALL))
        match kind:
            case "add" if world.pipeline.has_room:
                key = b"key-%d" % data.draw(st.integers(0, 3))
                added.append(world.get(key) if data.draw(st.booleans()) else world.put(key))
            case "answer":
                for frame in world.sent(address):
                    is_put = isinstance(frame.message, Put)
                    world.reply(address, frame, DONE if is_put else value_reply(b"v"))
            case "refuse":
                for frame in world.sent(address):
                    world.reply(address, frame, Error(Overloaded.code, "full"))
            case "lose":
                world.lose(address)
            case "up" if not world.lane(address).is_up:
                world.pipeline.on_up(world.now, world.lane(address))
            case "wait":
                for silent in world.sweep(data.draw(st.sampled_from([0.05, 0.2, 3.0]))):
                    world.lose(silent)
        ended += world.finished()
    for _ in range(200):
        for silent in world.sweep(1.0):
            world.lose(silent)
        ended += world.finished()
    assert ended == added
    for request in ended:
        assert (request.error is None) != (request.reply is None)
        if request.reply is not None:
            assert request.agent in ALL
