"""Jobs on one agent: how they begin, go on after a crash, end and are kept."""

from __future__ import annotations

from typing import Any

from dynagent import limits
from dynagent.core.encoding import decode
from dynagent.core.messages import (
    JOB_CANCEL,
    JOB_START,
    JOBS_TELL,
    Error,
    JobRequest,
    JobsReply,
    Roots,
    RootsReply,
)
from dynagent.errors import BadRequest, Overloaded
from tests.core.harness import CLUSTER_ID, IDS, Cluster, at_once, cluster, is_error, make_ring
from tests.core.test_exchange import A, B, C, hold, keys_at, version

ID = "0123456789abcdef"


def job_id(number: int) -> str:
    return f"{number:016x}"


def told(world: Cluster, job: str = "") -> list[dict[str, Any]]:
    reply = at_once(world, A, JobRequest(JOBS_TELL, job))
    assert isinstance(reply, JobsReply)
    document: Any = decode(reply.document)
    found: list[dict[str, Any]] = document["jobs"]
    return found


def start(world: Cluster, job: str = ID, kind: str = "repair", **scope: Any) -> dict[str, Any]:
    reply = world.ask(A, JobRequest(JOB_START, job, kind, **scope))
    assert isinstance(reply, JobsReply), reply
    return told(world, job)[0]


def run(world: Cluster) -> None:
    """Some seconds of work."""
    for _ in range(40):
        world.tick(world.now + 0.25)
        world.settle()


def test_a_repair_is_answered_when_it_is_durable_and_ends_with_a_report() -> None:
    world = cluster()
    world.tick(10)
    hold(world, A, b"only at a", version(1))
    hold(world, B, b"only at b", version(2))
    number = world.request(A, JobRequest(JOB_START, ID, "repair"))
    assert not world.answers
    assert world.commit(A)
    assert [request for request, _ in world.answers] == [number]
    assert "job/0" in world.disks[A].meta
    run(world)
    job = told(world)[0]
    assert job["state"] == "done"
    assert job["labels"][B] == {
        **dict.fromkeys(("left", "changed", "unreadable"), 0),
        "done": 8,
        "partitions": 8,
        "problem": "",
        "keys": 2,
        "differing": 2,
        "sent": 1,
        "fetched": 1,
        "healed": 2,
        "bytes": job["labels"][B]["bytes"],
    }
    assert keys_at(world, A) == keys_at(world, B) == {b"only at a", b"only at b"}
    assert keys_at(world, C) == {b"only at a"}  # what only B has is told by B's part


def test_verify_and_preview_move_nothing() -> None:
    for kind, preview in (("verify", False), ("repair", True)):
        world = cluster()
        world.tick(10)
        hold(world, A, b"only at a", version(1))
        start(world, kind=kind, preview=preview)
        run(world)
        job = told(world)[0]
        assert (job["state"], job["labels"][B]["differing"]) == ("done", 1)
        assert not keys_at(world, B)


def test_a_job_for_one_node_compares_its_pairs_only() -> None:
    world = cluster()
    assert list(start(world, node=C)["labels"]) == [C]
    assert start(world, job_id(1), partitions=[3])["labels"][B]["left"] == 1


def test_it_goes_on_after_a_crash_where_it_was() -> None:
    world = cluster()
    world.tick(10)
    for number in range(40):
        hold(world, A, b"k%d" % number, version(number + 1))
    start(world)
    world.nodes[A].on_peer_down(world.now, C)
    run(world)
    job = told(world)[0]
    assert (job["state"], job["labels"][B]["left"]) == ("running", 0)
    assert (job["labels"][C]["left"], job["labels"][C]["problem"]) == (8, "it is down")
    before = job["labels"][B]
    world.restart(A)
    run(world)
    job = told(world)[0]
    assert job["state"] == "done"
    assert job["labels"][B] == before  # not compared again
    assert len(keys_at(world, C)) == 40


def test_what_is_not_saved_is_done_again() -> None:
    world = cluster()
    world.tick(10)
    hold(world, A, b"k", version(1))
    start(world)
    world.tick(world.now)
    world.settle()  # some partitions have their verdict, and no row tells of it
    assert told(world)[0]["labels"][B]["done"]
    world.restart(A)
    assert all(told["done"] == 0 for told in told(world)[0]["labels"].values())
    run(world)
    assert told(world)[0]["labels"][B]["done"] == 8


def test_a_peer_that_stays_away_is_given_up() -> None:
    world = cluster()
    world.tick(10)
    world.nodes[A].on_peer_down(world.now, C)
    start(world)
    for _ in range(int(limits.JOB_PATIENCE_S) + 3):
        world.tick(world.now + 1)
        world.settle()
    job = told(world)[0]
    assert job["state"] == "incomplete"
    assert "not waited for" in job["labels"][C]["problem"]
    assert job["labels"][B]["problem"] == ""


def test_cancelling_and_starting_again_change_nothing_twice() -> None:
    world = cluster()
    start(world)
    reply = world.ask(A, JobRequest(JOB_CANCEL, ID))
    assert isinstance(reply, JobsReply)
    assert told(world)[0]["state"] == "cancelled"
    assert start(world)["state"] == "cancelled"
    world.ask(A, JobRequest(JOB_CANCEL, ID))
    run(world)
    assert [job["state"] for job in told(world)] == ["cancelled"]
    world.restart(A)
    assert told(world)[0]["state"] == "cancelled"


def test_only_so_many_run_and_are_kept() -> None:
    world = cluster()
    world.nodes[A].on_peer_down(world.now, C)
    for number in range(limits.JOBS_RUNNING_MAX):
        start(world, job_id(number))
    late = JobRequest(JOB_START, ID, "repair")
    assert is_error(at_once(world, A, late), Overloaded)
    for number in range(limits.JOBS_RUNNING_MAX):
        world.ask(A, JobRequest(JOB_CANCEL, job_id(number)))
    for number in range(100, 100 + limits.JOBS_KEPT):
        start(world, job_id(number))
        world.ask(A, JobRequest(JOB_CANCEL, job_id(number)))
    kept = {job["id"] for job in told(world)}
    assert kept == {job_id(number) for number in range(100, 100 + limits.JOBS_KEPT)}
    assert sum(name.startswith("job/") for name in world.disks[A].meta) == limits.JOBS_KEPT


def test_bad_requests_are_refused() -> None:
    world = cluster()
    for request in (
        JobRequest(JOB_START, "short", "repair"),
        JobRequest(JOB_START, ID, "dance"),
        JobRequest(JOB_START, ID, "repair", "nobody"),
        JobRequest(JOB_START, ID, "repair", partitions=[8]),
        JobRequest(JOB_CANCEL, ID),
        JobRequest(9, ID),
    ):
        assert is_error(at_once(world, A, request), BadRequest), request
    assert told(world) == []
    fresh = Cluster(None)
    assert isinstance(at_once(fresh, A, JobRequest(JOBS_TELL)), Error)


def test_a_row_that_cannot_be_read_is_passed_over() -> None:
    world = cluster()
    start(world)
    world.disks[A].meta["job/0"] = b"\xff"
    world.restart(A)
    assert told(world) == []


def test_roots_are_told_to_anybody() -> None:
    world = Cluster(make_ring(2, others=1))
    assert CLUSTER_ID
    hold(world, A, b"k", version(1))
    told: list[tuple[bytes, int]] = []
    forest = world.nodes[A].replica.forest
    while len(told) < 8:  # a few at a time, as all are stale
        before = sum(map(forest.stale, forest.partitions))
        reply = at_once(world, A, Roots(list(range(len(told), 8))))
        assert isinstance(reply, RootsReply)
        assert reply.roots
        assert before - sum(map(forest.stale, forest.partitions)) <= limits.EXCHANGE_STALE_MAX
        told += zip(reply.roots, reply.counts, strict=True)
    assert sum(count for _, count in told) == 1
    assert {len(root) for root, _ in told} == {32}
    assert at_once(world, A, Roots(list(range(8)))) == RootsReply(
        1, [root for root, _ in told], [count for _, count in told]
    )
    none = at_once(world, IDS[2], Roots([0]))
    assert isinstance(none, RootsReply)
    assert (none.roots, none.counts) == ([b""], [0])
    assert is_error(at_once(world, A, Roots([8])), BadRequest)


def test_a_peer_that_goes_down_at_the_last_verdict_holds_up_no_later_job() -> None:
    """Our disk brings the last record when the peer is already down: the job is done, its exchange
    ends as one that failed. Its tour stayed at the head of the pair's, where nothing was left to
    do, and no job behind it ever began."""
    world = cluster()
    world.tick(10)
    hold(world, B, b"k", version(1))
    start(world, node=B)
    for _ in range(40):
        world.tick(world.now + 0.25)
        while world.wire:
            world.deliver(world.wire[0])
    assert told(world)[0]["labels"][B]["left"] == 1  # it waits for our disk
    world.nodes[A].on_peer_down(world.now, B)
    world.commit(A)
    assert told(world)[0]["state"] == "done"
    world.nodes[A].on_peer_up(world.now, B)
    run(world)  # for longer than the pause after a failure
    start(world, job_id(2), node=B)
    run(world)
    assert told(world, job_id(2))[0]["state"] == "done"
