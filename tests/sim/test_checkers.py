"""Every checker bites: each is fed a history that only a broken product can have.

A `Story` is told step by step, and each step is later than the one before. In every test the first
story is a sound one, so that the second is condemned for its one difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dynagent.core.admission import Gate
from dynagent.core.coordinator import SETTLED
from dynagent.core.coordinator import Operation as OperationUnderWay
from dynagent.core.detector import Detector
from dynagent.core.encoding import encode
from dynagent.core.entry import Record, encode_entry, encode_sibling
from dynagent.core.facts import Fact, assert_fact
from dynagent.core.gossip import Gossiper
from dynagent.core.hints import ROW
from dynagent.core.jobs import Job
from dynagent.core.messages import (
    JOB_START,
    MODE_BLIND,
    MODE_CONTEXT,
    MODE_OVERWRITE,
    WANT_DIGEST,
    Error,
    JobRequest,
    MergeAck,
    Message,
    Put,
    PutReply,
    Read,
)
from dynagent.core.peer import Peer
from dynagent.core.ports import Batch, LinkId, NodeId
from dynagent.core.repair import Repair
from dynagent.core.ring import token_of
from dynagent.core.siblings import Clock, Dot, Sibling, Siblings
from dynagent.core.verdict import FIGURES
from dynagent.errors import TooManySiblings
from dynagent.testing.checkers import NAMES, Judge
from dynagent.testing.grapevine import Grapevine
from dynagent.testing.hangs import Hang
from dynagent.testing.history import (
    DELETE,
    FAILED,
    GET,
    OK,
    PUT,
    UNKNOWN,
    Attempt,
    History,
    Operation,
    encode_value,
)
from dynagent.testing.ledger import Ledger, Lists
from dynagent.testing.listings import Verdict
from dynagent.testing.profile import Profile
from dynagent.testing.simulation import Simulation
from dynagent.testing.world import World
from tests.core.test_gossip import PORTRAIT
from tests.sim.totals import EVALUATIONS

KEY = b"k"
A1, A2, B1 = (1, 1), (1, 2), (2, 1)
X, Y = NodeId("x"), NodeId("y")


class Story:
    """A history, made by hand."""

    def __init__(self) -> None:
        self.world = World(0)
        self.history = History(self.world)
        self.ledger = Ledger(self.world, self.history)

    def begin(
        self,
        kind: str,
        *,
        mode: int = MODE_CONTEXT,
        seen: Clock | None = None,
        hand: Sequence[Operation] = (),
        w: int = 2,
    ) -> Operation:
        operation = self.history.invoke(client=1, kind=kind, key=KEY, mode=mode, r=2, w=w)
        operation.clock = seen or {}
        operation.hand = frozenset(op.number for op in hand)
        self.retry(operation)
        return operation

    def retry(self, operation: Operation) -> None:
        self.world.now += 1
        number = len(operation.attempts) + 1
        now = self.world.now
        operation.attempts.append(Attempt(number=number, agent=X, sent=now, dead_by=now + 0.5))

    def mint(self, operation: Operation, dot: Dot, clock: Clock) -> Sibling:
        self.world.now += 1
        sibling = sibling_of(operation.number, dot)
        self.ledger.see(KEY, [sibling.data], clock)
        return sibling

    def end(self, operation: Operation, *, dot: Dot | None = None, outcome: str = OK) -> Operation:
        self.world.now += 1
        operation.reply_dot = dot
        self.history.finish(operation, outcome)
        return operation

    def put(self, dot: Dot, clock: Clock, **how: object) -> Operation:
        operation = self.begin(PUT, **how)  # type: ignore[arg-type]
        self.mint(operation, dot, clock)
        return self.end(operation, dot=dot)

    def get(self, clock: Clock, *found: tuple[Operation, Dot]) -> Operation:
        operation = self.begin(GET)
        operation.values = tuple(put.number for put, _ in found)
        operation.dots = tuple(dot for _, dot in found)
        operation.reply_clock = clock
        return self.end(operation)

    def listing(self, *dots: Dot) -> Verdict:
        """A listing that begins and ends now."""
        self.world.now += 1
        return Verdict(
            listing=1,
            key=KEY,
            dots=frozenset(dots),
            needed=2,
            began_order=self.world.order(),
            ended_order=self.world.order(),
        )

    def verdict(
        self,
        *final: Dot,
        listings: Sequence[Verdict] = (),
        lists: Sequence[tuple[float, Lists]] = (),
    ) -> set[str]:
        """The checkers that object."""
        Judge(
            key=KEY,
            history=self.history,
            ledger=self.ledger,
            verdicts=self.world.verdicts,
            n=3,
            w=2,
            final=frozenset(final),
            listings=listings,
            lists=lists,
        ).judge()
        return objections(self.world)


def objections(world: World) -> set[str]:
    return {violation.partition(":")[0] for violation in world.verdicts.violations}


def sibling_of(number: int, dot: Dot) -> Sibling:
    return encode_sibling(
        dot=dot,
        wall_ms=0,
        content=0,
        expiry_ms=0,
        op_id=number.to_bytes(16, "big"),
        meta={},
        value=encode_value(number),
    )


def test_an_acknowledged_write_is_lost() -> None:
    story = Story()
    story.put(A1, {1: 1})
    assert story.verdict(A1) == set()
    story = Story()
    story.put(A1, {1: 1})
    assert story.verdict() == {"no_lost_write"}


def test_a_write_is_superseded_only_by_one_that_had_it_in_hand() -> None:
    story = Story()
    first = story.put(A1, {1: 1})
    story.put(B1, {1: 1, 2: 1}, seen={1: 1}, hand=[first])
    assert story.verdict(B1) == set()
    story = Story()
    story.put(A1, {1: 1})
    story.put(B1, {1: 1, 2: 1}, seen={1: 1})  # a context that claims what nobody had shown
    assert story.verdict(B1) == {"no_lost_write"}


def test_an_overwrite_supersedes_only_what_began_before_it_ended() -> None:
    story = Story()
    overwrite = story.begin(PUT, mode=MODE_OVERWRITE)
    story.put(A1, {1: 1})
    story.mint(overwrite, B1, {1: 1, 2: 1})
    story.end(overwrite, dot=B1)
    assert story.verdict(B1) == set()
    story = Story()
    overwrite = story.put(A2, {1: 2}, mode=MODE_OVERWRITE)
    story.put(A1, {1: 1}, mode=MODE_BLIND)
    assert story.verdict(A2) == {"no_lost_write"}


def test_a_get_returns_what_was_never_put() -> None:
    story = Story()
    put = story.put(A1, {1: 1})
    story.get({1: 1}, (put, A1))
    assert story.verdict(A1) == set()
    story.get({1: 1}, (put, B1))
    assert story.verdict(A1) == {"no_phantom"}
    story = Story()
    story.ledger.see(KEY, [sibling_of(7, A1).data], {1: 1})
    assert objections(story.world) == {"no_phantom"}


def test_a_dot_is_issued_twice() -> None:
    story = Story()
    story.put(A1, {1: 1})
    assert objections(story.world) == set()
    story.put(A1, {1: 1})
    assert objections(story.world) == {"dots_unique"}


def test_a_get_is_stale() -> None:
    story = Story()
    put = story.put(A1, {1: 1})
    story.get({1: 1}, (put, A1))
    assert story.verdict(A1) == set()
    story.get({})
    assert story.verdict(A1) == {"fresh"}


def test_a_get_need_not_see_a_write_of_too_small_a_quorum() -> None:
    story = Story()
    story.put(A1, {1: 1}, w=1)
    story.get({})
    assert story.verdict(A1) == set()


def test_a_context_claims_what_did_not_come_with_it() -> None:
    story = Story()
    one = story.put(A1, {1: 1}, mode=MODE_BLIND)
    two = story.begin(PUT, mode=MODE_BLIND)
    story.mint(two, B1, {2: 1})
    get = story.get({1: 1}, (one, A1))
    assert story.verdict(A1, B1) == set()
    get.reply_clock = {1: 1, 2: 1}
    assert story.verdict(A1, B1) == {"context_is_honest"}


def test_a_deleted_value_comes_back() -> None:
    story = Story()
    put = story.put(A1, {1: 1})
    story.end(story.begin(DELETE, seen={1: 1}, hand=[put]))
    story.get({1: 1})
    assert story.verdict() == set()
    story.get({1: 1}, (put, A1))
    assert story.verdict() == {"superseded_stays_away"}


def test_a_listing_misses_an_acknowledged_write() -> None:
    story = Story()
    story.put(A1, {1: 1})
    assert story.verdict(A1, listings=[story.listing(A1)]) == set()
    assert story.verdict(A1, listings=[story.listing()]) == {"listed"}


def test_a_listing_need_not_have_what_was_written_or_deleted_meanwhile() -> None:
    story = Story()
    early = story.listing()
    put = story.put(A1, {1: 1})
    assert story.verdict(A1, listings=[early]) == set()
    delete = story.begin(DELETE, seen={1: 1}, hand=[put])
    missed = story.listing()
    story.end(delete)
    assert story.verdict(listings=[early, missed]) == set()


def test_a_listing_may_not_miss_what_was_only_overwritten() -> None:
    story = Story()
    put = story.put(A1, {1: 1})
    story.put(B1, {1: 1, 2: 1}, seen={1: 1}, hand=[put], w=1)
    assert story.verdict(B1, listings=[story.listing(B1)]) == set()
    assert story.verdict(B1, listings=[story.listing()]) == {"listed"}


def test_a_deleted_key_comes_back_in_a_listing() -> None:
    story = Story()
    put = story.put(A1, {1: 1})
    before = story.listing(A1)
    story.end(story.begin(DELETE, seen={1: 1}, hand=[put]))
    assert story.verdict(listings=[before, story.listing()]) == set()
    assert story.verdict(listings=[story.listing(A1)]) == {"listed"}


def test_a_write_stands_beside_one_that_it_had_seen() -> None:
    story = Story()
    one = story.put(A1, {1: 1})
    two = story.begin(PUT, seen={1: 1}, hand=[one])
    story.mint(two, B1, {1: 1, 2: 1})
    assert story.verdict(B1) == set()
    assert story.verdict(A1, B1) == {"siblings_are_concurrent", "antichain"}


def test_an_overwrite_stands_beside_what_was_acknowledged_before_it() -> None:
    story = Story()
    story.put(A1, {1: 1})
    overwrite = story.begin(PUT, mode=MODE_OVERWRITE)
    story.mint(overwrite, B1, {2: 1})
    assert story.verdict(A1, B1) == {"siblings_are_concurrent"}


def test_a_refused_write_was_written() -> None:
    story = Story()
    put = story.begin(PUT)
    story.end(put, outcome=FAILED)
    assert story.verdict() == set()
    story.mint(put, A1, {1: 1})
    assert story.verdict(A1) == {"refused_is_nothing"}


def test_a_retry_mints_again_what_had_reached_w() -> None:
    for copies, condemned in ((1, set[str]()), (2, {"retried_once"})):
        story = Story()
        put = story.begin(PUT)
        sibling = story.mint(put, A1, {1: 1})
        for node in (X, Y)[:copies]:
            story.ledger.on_durable(node, KEY, Record(Siblings({1: 1}, (sibling,))))
        story.retry(put)
        story.mint(put, B1, {2: 1})
        story.end(put, dot=B1)
        assert story.verdict(A1, B1) == condemned


def test_a_node_mints_again_what_its_own_disk_knows() -> None:
    story = Story()
    put = story.begin(PUT)
    sibling = story.mint(put, A1, {1: 1})
    both = Siblings({1: 1, 2: 1}, (sibling, sibling_of(put.number, B1)))
    entry = encode_entry(KEY, Record(both))
    story.ledger.on_durable(X, KEY, Record(Siblings({1: 1}, (sibling,))))
    story.ledger.see_entry(Y, entry)
    assert objections(story.world) == set()
    again = Siblings({1: 1, 2: 2}, (sibling, sibling_of(put.number, (2, 2))))
    entry = encode_entry(KEY, Record(again))
    story.ledger.see_entry(X, entry)
    assert objections(story.world) == {"retried_once"}


def test_an_acknowledgement_comes_too_early() -> None:
    story = Story()
    put = story.begin(PUT)
    sibling = story.mint(put, A1, {1: 1})
    message = Put(KEY, encode_value(put.number), MODE_CONTEXT, b"", put.op_id)
    reply = PutReply(b"", 1, (1).to_bytes(8, "big") + (1).to_bytes(8, "big"))
    for node in (X, Y):
        story.ledger.on_durable(node, KEY, Record(Siblings({1: 1}, (sibling,))))
    story.ledger.on_put_reply(X, message, reply, w=2, reply_clock=None)
    assert objections(story.world) == set()
    story.ledger.on_put_reply(X, message, reply, w=3, reply_clock=None)
    assert objections(story.world) == {"ack_is_durable"}


def test_a_copy_forgets() -> None:
    story = Story()
    story.ledger.on_durable(X, KEY, Record(Siblings({1: 2}, ())))
    assert objections(story.world) == set()
    story.ledger.on_durable(X, KEY, Record(Siblings({1: 1, 2: 1}, ())))
    assert objections(story.world) == {"copies_grow"}


def test_a_get_returns_what_no_disk_holds() -> None:
    story = Story()
    sibling = story.mint(story.begin(PUT), A1, {1: 1})
    story.ledger.on_get_reply(X, KEY, [sibling.data])
    assert objections(story.world) == {"read_is_durable"}


def test_what_a_node_owed_never_arrives() -> None:
    story = Story()
    story.ledger.on_durable(X, KEY, Record(Siblings({1: 2}, ())))
    story.ledger.on_owed(X, Y, KEY)
    story.ledger.on_durable(Y, KEY, Record(Siblings({1: 1}, ())))
    story.ledger.check_debts_are_paid()
    assert objections(story.world) == {"owed_arrives"}


def test_a_node_counts_more_for_others_than_it_keeps() -> None:
    simulation = calm()
    batch = Batch(1)
    batch.hints.append((Y, token_of(KEY), KEY, True))
    batch.meta.append((ROW, encode([100, 1, [], b"", []])))
    disk = simulation.nodes[0].disk
    disk.store.write(batch)
    disk.debts.on_landed(disk.store, batch, simulation.ring)
    assert objections(simulation.world) == {"hints_are_counted"}


# --- the checkers that watch a running node ------------------------------------------------------


def calm() -> Simulation:
    return Simulation(1, profile=Profile())


def test_a_calm_world_is_sound() -> None:
    assert calm().run().violations == []


def test_a_node_answers_what_nobody_asked() -> None:
    simulation = calm()
    simulation.nodes[0].answer(LinkId(1), 1, MergeAck())
    assert objections(simulation.world) == {"answered_once"}


def test_a_node_returns_an_unreadable_copy() -> None:
    simulation = calm()
    node = simulation.nodes[0]
    for other in simulation.nodes:
        other.start()
    simulation.world.run(until=2.0)  # the voters have recorded its start
    simulation.ledger.on_rot(node.id, KEY)  # the ledger knows of a damage that the disk hides
    node.on_request(LinkId(1), 1, 100, Read(1, SETTLED, KEY, WANT_DIGEST))
    assert objections(simulation.world) == {"unreadable_is_unknown"}


def test_a_node_leaves_an_operation_behind() -> None:
    simulation = calm()
    simulation.run()
    node = simulation.nodes[0]
    assert node.node is not None
    assert node.node.coordinator is not None
    left_over = OperationUnderWay(node.node.coordinator, LinkId(1), 1, deadline=1e9, gate=Gate())
    left_over.answered = True
    node.check_nothing_left()
    assert objections(simulation.world) == {"nothing_left"}


def test_a_cluster_does_not_heal(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = calm()

    def fall_ill() -> None:
        for node in simulation.nodes[1:]:
            node.kill(power=True)

    monkeypatch.setattr(simulation.nemesis, "heal_everything", fall_ill)
    simulation.run()
    assert objections(simulation.world) == {
        *("heals", "hints_come_home", "owed_arrives", "up_again"),
        *("gossip_converges", "newcomer_learns", "replicas_converge"),
    }


def hanging() -> Simulation:
    """Nothing goes wrong but that nodes hang, one after the other."""
    return Simulation(1, profile=Profile(operations=40, think_s=0.5, hangs_s=0.3))


def test_a_node_goes_on_using_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    report = hanging().run()
    assert report.violations == []
    assert report.evaluations["hung_is_not_up"]
    monkeypatch.setattr(Detector, "_go_down", lambda self, now, peer, state, why="": None)
    simulation = hanging()
    simulation.run()
    assert objections(simulation.world) == {"hung_is_not_up"}


def test_an_answer_that_comes_late_gives_a_node_its_time_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asked before its requests began to be lost, answered by a slow disk seconds later."""
    monkeypatch.setattr(Detector, "_go_down", lambda self, now, peer, state, why="": None)
    simulation = calm()
    world = simulation.world
    one, other, _ = simulation.nodes
    for node in simulation.nodes:
        node.start()
    world.run(until=1.0)
    hang = Hang("one_way", one, other, world.now)
    simulation.network.mutes.add((one.id, other.id))
    world.run(until=8.0)
    simulation.network.answered_at[one.id, other.id] = 6.0
    simulation.hangs._look_at(hang, one, other.id)
    assert objections(world) == set()
    world.run(until=12.0)
    simulation.hangs._look_at(hang, one, other.id)
    assert objections(world) == {"hung_is_not_up"}


def test_a_node_does_not_use_again_one_that_has_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "_needed", lambda self, now, peer: 1_000)
    simulation = hanging()
    simulation.run()
    assert "up_again" in objections(simulation.world)


# --- repair --------------------------------------------------------------------------------------


def losing() -> Simulation:
    """Nothing goes wrong but that at the end a node has lost a copy."""
    return Simulation(1, profile=Profile(operations=20, loses=True))


def test_a_record_is_moved_that_was_equal_or_in_flight() -> None:
    simulation = calm()
    simulation.run()
    repairs = simulation.repairs
    a, b, _ = (node.id for node in simulation.nodes)
    repairs.on_moved(a, b, KEY)
    assert objections(simulation.world) == {"moved_is_news", "in_flight_is_left"}
    simulation.world.verdicts.violations.clear()
    simulation.nodes[0].disk.lose([b"k0"])  # just now
    simulation.world.now += 0.1
    repairs.on_looked(a, b, [b"k0"])
    repairs.on_moved(a, b, b"k0")
    assert objections(simulation.world) == {"in_flight_is_left"}


def test_a_lost_copy_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    report = losing().run()
    assert report.violations == []
    assert report.evaluations["repair_restores"]
    monkeypatch.setattr(Repair, "start", _start_without_moving)
    simulation = losing()
    simulation.run()
    assert objections(simulation.world) >= {"replicas_converge", "repair_restores"}


def _start_without_moving(repair: Repair, now: float, job: Job) -> None:
    for label, partitions in job.todo.items():
        for partition in list(partitions):
            job.finish_unit(label, partition, dict.fromkeys(FIGURES, 0))


def test_a_job_claims_what_is_not_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repair, "start", _start_without_moving)
    simulation = calm()
    simulation.run()
    repairs = simulation.repairs
    simulation.nodes[0].disk.taken.clear()
    repairs._start(JobRequest(JOB_START, "", "repair"))
    simulation.world.run(until=simulation.world.now + 1)
    assert objections(simulation.world) == {"repaired_is_equal"}


def test_what_was_spoiled_may_have_been_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repair, "start", _start_without_moving)
    simulation = calm()
    simulation.run()
    ledger, keys = simulation.ledger, simulation.keys
    simulation.nodes[0].disk.taken.clear()
    others = [(node.id, key) for node in simulation.nodes[1:] for key in keys]
    ledger.rotten.update(dict.fromkeys(others, 0))  # when the job begins
    simulation.repairs._start(JobRequest(JOB_START, "", "repair"))
    ledger.rotten.clear()
    simulation.world.run(until=simulation.world.now + 1)
    assert not objections(simulation.world)
    simulation.repairs._start(JobRequest(JOB_START, "", "repair"))
    ledger.spoiled.update(dict.fromkeys(others, simulation.world.order()))
    simulation.world.run(until=simulation.world.now + 1)
    assert not objections(simulation.world)
    simulation.repairs._start(JobRequest(JOB_START, "", "repair"))  # sound again when it begins
    simulation.world.run(until=simulation.world.now + 1)
    assert objections(simulation.world) == {"repaired_is_equal"}


def test_of_a_partition_only_one_owner_loses_rows() -> None:
    """Two that are unsure of the same keys would wait for each other."""
    simulation = Simulation(3, profile=Profile(operations=120, keys=16, lost_rows=16))
    simulation.run()
    assert objections(simulation.world) == set()
    simulation.nemesis.lose_rows()
    losers: dict[int, set[NodeId]] = {}
    for node, key in simulation.ledger.lost:
        losers.setdefault(simulation.ring.partition_of(token_of(key)), set()).add(node)
    assert len(simulation.ledger.lost) > len(losers) > 2
    assert {len(nodes) for nodes in losers.values()} == {1}


def test_a_vanished_row_excuses_its_leaf_until_it_is_found() -> None:
    simulation = calm()
    simulation.run()
    node, key = simulation.nodes[0], simulation.keys[0]
    node.disk.lose_row(token_of(key), key)
    node.check_trees(is_quiet=False)
    assert not objections(simulation.world)
    simulation.ledger.lost.clear()
    node.check_trees(is_quiet=False)
    assert objections(simulation.world) == {"trees_are_current"}


def test_a_job_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repair, "start", lambda repair, now, job: None)
    simulation = calm()
    simulation.run()
    assert "jobs_end" in objections(simulation.world)


def test_a_round_moves_what_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = calm()

    def move(*, twice: bool = False) -> None:
        simulation.repairs.moved += 1

    monkeypatch.setattr(simulation.repairs, "_round", move)
    simulation.run()
    assert objections(simulation.world) == {"idle_round_is_silent"}


# --- gossip --------------------------------------------------------------------------------------


class Told:
    """A node as gossip's judge sees it; its table is made by hand."""

    def __init__(self, node: NodeId, *others: NodeId) -> None:
        self.id = node
        self.life = 1
        self.asked = list(others)
        self.gossiper: Gossiper | None = Gossiper(
            node_id=node,
            cluster_id=b"c" * 16,
            run=1,
            peers={other: Peer(other) for other in others},
            draw=lambda _now: PORTRAIT,
            effects=SimulatedNothing(),
            dice=World(0).stream("gossip"),
            interval_s=1.0,
            take_number=lambda: 1,
        )
        self.gossiper.on_tick(0.0)

    def believe(self, fact: Fact) -> None:
        assert self.gossiper is not None
        self.gossiper.facts[fact.node] = fact

    def say(self, run: int, version: int) -> Fact:
        """Asserts something more."""
        assert self.gossiper is not None
        fact = assert_fact(self.id, (run, version), PORTRAIT, cluster_id=b"c" * 16)
        self.gossiper.own = self.gossiper.facts[self.id] = fact
        return fact


class SimulatedNothing:
    """Effects of machines that only tick once."""

    def send(self, targets: Sequence[NodeId], number: int, budget_ms: int, what: Message) -> None:
        raise AssertionError(f"sends {what}")

    def answer(self, link: LinkId, number: int, what: Message) -> None:
        raise AssertionError(f"answers {what}")

    def reconnect(self, ring: object) -> None: ...

    def adopt(self, ring: bytes, link: LinkId, number: int) -> None:
        raise AssertionError("adopts a ring")

    def note(self, event: str, **fields: object) -> None:
        raise AssertionError(f"notes {event}")


def wrong_with(world: World) -> set[str]:
    return {violation.split(":")[0] for violation in world.verdicts.violations}


def test_a_fact_that_its_subject_has_not_asserted_is_found() -> None:
    for liar in (False, True):
        world = World(0)
        grapevine = Grapevine(world, interval_s=1.0)
        x, y = Told(X, Y), Told(Y, X)
        grapevine.look(y)
        fact = y.say(1, 2)
        if not liar:
            grapevine.look(y)
        x.believe(fact)
        grapevine.look(x)
        assert wrong_with(world) == ({"facts_are_own"} if liar else set())


@pytest.mark.parametrize(
    ("second", "wrong"), [((1, 3), set()), ((2, 1), set()), ((1, 2), {"facts_grow"})]
)
def test_an_edition_that_does_not_rise_is_found(second: tuple[int, int], wrong: set[str]) -> None:
    world = World(0)
    grapevine = Grapevine(world, interval_s=1.0)
    x, y = Told(X, Y), Told(Y, X)
    for edition in ((1, 2), second):
        x.believe(y.say(*edition))
        grapevine.look(y)
        grapevine.look(x)
    assert wrong_with(world) == wrong


def test_who_has_not_heard_in_the_end_is_found() -> None:
    for heard in (True, False):
        world = World(0)
        grapevine = Grapevine(world, interval_s=1.0)
        x, y = Told(X, Y), Told(Y, X)
        for node in (x, y):
            grapevine.look(node)
        assert x.gossiper is not None
        y.believe(x.gossiper.facts[X])
        if heard:
            x.believe(y.say(1, 2))
        world.run(until=1.0)
        grapevine.look(y)
        grapevine.judge_convergence([x, y])
        assert not wrong_with(world)  # it may still be under way
        world.run(until=100.0)
        grapevine.judge_convergence([x, y])
        assert wrong_with(world) == (set() if heard else {"gossip_converges"})


@pytest.mark.parametrize("lacks", ["", "newcomer", "asked"])
def test_a_newcomer_that_does_not_learn_or_is_not_heard_is_found(lacks: str) -> None:
    world = World(0)
    grapevine = Grapevine(world, interval_s=1.0)
    x, y = Told(X, Y), Told(Y, X)
    for node in (x, y):
        grapevine.look(node)
    world.run(until=100.0)
    assert x.gossiper is not None
    assert y.gossiper is not None
    if lacks != "newcomer":
        x.believe(y.gossiper.facts[Y])
    if lacks != "asked":
        y.believe(x.gossiper.facts[X])
    grapevine.judge_newcomer(x, [y])
    assert wrong_with(world) == ({"newcomer_learns"} if lacks else set())


def test_every_checker_has_its_floor() -> None:
    assert set(NAMES) == set(EVALUATIONS)


# --- bounds, machines and repairs ----------------------------------------------------------------


def test_an_actor_has_more_siblings_than_a_put_may_leave() -> None:
    world = World(0)
    ledger = Ledger(world, History(world), siblings_max=2)
    three = tuple(sibling_of(number, (1, number)) for number in (1, 2, 3))
    ledger.on_durable(X, KEY, Record(Siblings({1: 2}, three[:2])))
    two_actors = (*three[:2], sibling_of(4, B1))
    ledger.on_durable(X, KEY, Record(Siblings({1: 2, 2: 1}, two_actors)))
    assert objections(world) == set()
    ledger.on_durable(X, KEY, Record(Siblings({1: 3, 2: 1}, three)))
    assert objections(world) == {"siblings_are_bounded"}


@pytest.mark.parametrize(("host", "objects"), [("rack", set()), ("same", {"acks_stand_apart"})])
def test_an_acknowledgement_counts_two_copies_on_one_machine(host: str, objects: set[str]) -> None:
    story = Story()
    story.ledger = Ledger(story.world, story.history, hosts={X: "same", Y: host})
    put = story.begin(PUT)
    sibling = story.mint(put, A1, {1: 1})
    for node in (X, Y):
        story.ledger.on_durable(node, KEY, Record(Siblings({1: 1}, (sibling,))))
    message = Put(KEY, encode_value(put.number), MODE_CONTEXT, b"", put.op_id)
    reply = PutReply(b"", 1, (1).to_bytes(8, "big") + (1).to_bytes(8, "big"))
    story.ledger.on_put_reply(X, message, reply, w=2, reply_clock=None)
    assert objections(story.world) == objects


def test_a_repairing_get_answers_before_w_owners_have_it() -> None:
    story = Story()
    sibling = story.mint(story.begin(PUT), A1, {1: 1})
    for node in (X, Y):
        story.ledger.on_durable(node, KEY, Record(Siblings({1: 1}, (sibling,))))
    story.ledger.on_repaired(X, KEY, {1: 1}, lists=[[[X, Y]]], w=2)
    assert objections(story.world) == set()
    story.ledger.on_repaired(X, KEY, {1: 1}, lists=[[[X, NodeId("z")]]], w=2)
    assert objections(story.world) == {"repair_is_durable"}


@pytest.mark.parametrize(("repair", "objects"), [(False, set()), (True, {"monotonic"})])
def test_a_get_goes_behind_one_that_had_repaired(repair: bool, objects: set[str]) -> None:
    story = Story()
    put = story.begin(PUT)
    story.mint(put, A1, {1: 1})
    story.end(put, outcome=UNKNOWN)  # on one disk only
    story.get({1: 1}, (put, A1)).repair = repair
    story.get({})
    assert story.verdict(A1) == objects


def test_an_overwrite_is_refused_for_what_it_would_supersede() -> None:
    simulation = calm()
    node = simulation.nodes[0]
    node.start()
    refusal = Error(TooManySiblings.code, "too many")
    for mode in (MODE_BLIND, MODE_OVERWRITE):
        node.manners.check_settling(Put(KEY, b"v", mode, b"", bytes(16)), refusal)
        expected = {"settling_passes"} if mode == MODE_OVERWRITE else set()
        assert objections(simulation.world) == expected
