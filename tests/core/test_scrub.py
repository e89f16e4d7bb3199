"""What a scrub finds on the disk that neither reads nor trees could see, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dynagent.core.messages import JOB_START, Get, JobRequest, JobsReply, Message, Put
from dynagent.core.ports import NodeId, PartitionId, Token
from dynagent.core.ring import token_of
from dynagent.core.scrub import Scrubber
from dynagent.core.unknown import ROW, encode_row
from dynagent.errors import BadRequest, CorruptRecord
from tests.core.harness import IDS, Cluster, Disk, cluster, is_error, make_ring, op, values

A, B, C, D = IDS
RING = make_ring(3)
KEYS = [b"k%d" % number for number in range(60)]
JOB = "0123456789abcdef"


def filled() -> Cluster:
    c = cluster()
    for number, key in enumerate(KEYS):
        c.ask(A, Put(key, b"v", 2, b"", op(number + 1), w=3))
    pass_time(c, 2)  # the trees are known
    c.notes.clear()
    return c


def pass_time(c: Cluster, seconds: float) -> None:
    for _ in range(round(20 * seconds)):
        c.tick(c.now + 0.05)
        c.settle()


def scrub(c: Cluster, node: NodeId = A, *, partitions: list[int] | None = None) -> Message:
    request = JobRequest(JOB_START, JOB, "scrub", "", partitions or [], b"", False)
    return c.ask(node, request)


def events(c: Cluster) -> list[str]:
    return [event for event, _ in c.notes]


def scrubber(c: Cluster, node: NodeId = A) -> Scrubber:
    found = c.nodes[node].scrubber
    assert found is not None
    return found


def is_as_others(c: Cluster, key: bytes) -> bool:
    return c.disks[A].record(key).digest == c.disks[B].record(key).digest


def test_a_scrub_of_good_records_finds_nothing() -> None:
    c = filled()
    assert isinstance(scrub(c), JobsReply)
    pass_time(c, 3)
    assert events(c) == ["job.ended"]
    assert scrubber(c).counts["partitions"] == 8
    assert scrubber(c).counts["keys"] == len(KEYS)


def test_rot_that_nobody_reads_is_found_named_and_healed() -> None:
    c = filled()
    stored = c.disks[A].rows[KEYS[7]]
    c.disks[A].rows[KEYS[7]] = stored[:20] + bytes([stored[20] ^ 4]) + stored[21:]
    scrub(c)
    pass_time(c, 5)
    found = {event: fields["key"] for event, fields in c.notes if event.startswith("record.")}
    assert found == {"record.unreadable": KEYS[7], "record.healed": KEYS[7]}
    assert scrubber(c).counts["unreadable"] == 1
    assert is_as_others(c, KEYS[7])


def test_a_lost_row_is_named_by_its_leaf_and_comes_back() -> None:
    c = filled()
    key = KEYS[3]
    partition = RING.partition_of(token_of(key))
    del c.disks[A].rows[key]  # the cache still has it
    scrub(c, partitions=[partition])
    pass_time(c, 10)
    [differs] = [fields for event, fields in c.notes if event == "tree.differs"]
    assert (differs["partition"], differs["leaf"]) == (
        partition,
        c.nodes[A].replica.forest.leaf_of(token_of(key)),
    )
    assert differs["expected"] == int(str(differs["records"])) + 1
    assert "partition.healed" in events(c)
    assert is_as_others(c, key)
    assert c.nodes[A].replica.forest.root(partition) == c.nodes[B].replica.forest.root(partition)


def test_between_the_scrub_and_the_healing_a_lost_row_is_unknown_and_not_absent() -> None:
    c = filled()
    key = KEYS[3]
    del c.disks[A].rows[key]
    c.without_healer(A)
    scrub(c)
    pass_time(c, 3)
    assert c.nodes[A].replica.read(key, token_of(key)).unknown
    assert values(c.ask(A, Get(key, 2, True))) == [b"v"]


def test_a_row_too_many_is_named() -> None:
    c = filled()
    key, stored = KEYS[3], c.disks[A].rows[KEYS[3]]
    c.nodes[A].replica.drop(key, token_of(key))
    c.settle()
    c.disks[A].rows[key] = stored  # a page of before has come back
    scrub(c)
    pass_time(c, 3)
    assert "tree.differs" in events(c)
    assert scrubber(c).counts["phantom"] == 1


def test_a_misplaced_row_is_removed_and_what_it_should_have_been_comes_back() -> None:
    c = filled()
    key = KEYS[3]
    stored = c.disks[A].rows.pop(key)
    elsewhere = Token(bytes([token_of(key)[0] ^ 0x80]) + token_of(key)[1:])
    c.disks[A].strays.append((elsewhere, key, stored))
    c.disks[A].strays.append((Token(b"\x01" * 16), b"", b""))  # one that has lost its key
    scrub(c)
    pass_time(c, 10)
    assert events(c).count("record.misplaced") == 2
    assert c.disks[A].strays == []
    assert is_as_others(c, key)


def test_a_range_that_cannot_be_read_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    c = filled()
    disk = c.disks[A]
    first, last = c.nodes[A].replica.forest.leaf_range(PartitionId(2), 100)

    def scan(self: Disk, low: Token, high: Token) -> Iterator[tuple[Token, bytes, bytes]]:
        if self is disk and low <= last and high >= first:
            raise CorruptRecord("a page is malformed")
        return whole(self, low, high)

    whole = Disk.scan
    monkeypatch.setattr(Disk, "scan", scan)
    c.without_healer(A)
    scrub(c)
    pass_time(c, 3)
    [damage] = [fields for event, fields in c.notes if event == "store.damaged"]
    assert (damage["partition"], damage["leaf"]) == (2, 100)
    assert "dynagent store rebuild" in str(damage["remedy"])
    assert scrubber(c).damaged == {PartitionId(2)}
    assert c.nodes[A].replica.unknown.hollow == {PartitionId(2)}


def test_partitions_that_the_last_run_knew_to_be_suspect_come_first() -> None:
    c = filled()
    key = KEYS[9]
    partition = RING.partition_of(token_of(key))
    c.disks[A].rows[key] = b"rotten"
    c.disks[A].meta[ROW] = encode_row({partition}, set())
    c.restart(A)
    pass_time(c, 5)
    assert is_as_others(c, key)
    assert c.nodes[A].replica.unknown.suspect == set()
    assert scrubber(c).counts["partitions"] == 1


def test_a_pass_takes_its_interval_and_goes_on_after_a_restart() -> None:
    c = filled()
    week = scrubber(c).document()["interval_s"]
    assert week == 7 * 86_400
    day = 7 * 86_400 / 8
    for turn in range(1, 4):
        c.tick(c.now + day)
        pass_time(c, 2)
        assert scrubber(c).document()["done"] == turn
    c.restart(A)
    assert scrubber(c).document()["done"] == 3


def test_a_job_that_makes_no_sense_is_refused() -> None:
    c = filled()
    for wrong in (
        JobRequest(JOB_START, JOB, "scrub", "nobody", [], b"", False),
        JobRequest(JOB_START, JOB, "scrub", "", [8], b"", False),
        JobRequest(JOB_START, JOB, "scrub", "", [], b"k", False),
        JobRequest(JOB_START, JOB, "scrub", "", [], b"", True),
    ):
        assert is_error(c.ask(A, wrong), BadRequest)
