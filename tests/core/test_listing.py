"""An owner's page of a listing: what is in it, where it stops, and places that are none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dynagent import limits
from dynagent.core.entry import Record, decode_stored, encode_stored
from dynagent.core.listing import list_page, partition_range
from dynagent.core.messages import MODE_BLIND, Error, Export, List, ListReply, Put, RingIs
from dynagent.core.ports import NodeId, PartitionId, Token
from dynagent.core.ring import token_of
from dynagent.core.siblings import Siblings
from dynagent.errors import BadRequest, CorruptRecord, NotReady, Unhealthy
from tests.core.harness import CLUSTER_ID, IDS, Cluster, Disk, make_ring

A, B, D = IDS[0], IDS[1], IDS[3]
RING = make_ring(3)


def keys_of(partition: int, count: int, prefix: bytes = b"") -> list[bytes]:
    """The first `count` keys of a partition, in the order of their places."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        key = prefix + b"key-%d" % number
        if RING.partition_of(token_of(key)) == partition:
            found.append(key)
        number += 1
    return sorted(found, key=lambda key: (token_of(key), key))


def disk_with(*keys: bytes, actors: int = 1) -> Disk:
    clock = {actor + 2**60: 1 for actor in range(1, actors + 1)}
    disk = Disk()
    for key in keys:
        record = Record(Siblings(clock, ()))
        disk.rows[key] = encode_stored(record, cluster_id=CLUSTER_ID, key=key)
    return disk


def page(disk: Disk, request: List) -> ListReply:
    return list_page(disk, RING, A, request)


def pages(disk: Disk, partition: int, **how: object) -> list[ListReply]:
    found = [page(disk, List(partition, **how))]  # type: ignore[arg-type]
    while found[-1].position:
        assert len(found) < 1_000
        found.append(page(disk, List(partition, found[-1].position, **how)))  # type: ignore[arg-type]
    return found


def place(key: bytes) -> bytes:
    return token_of(key) + key


# --- what is in a page ---------------------------------------------------------------------------


def test_a_page_has_the_committed_keys_of_the_partition_in_order_tombstones_too() -> None:
    c = Cluster(RING)
    mine, other = keys_of(3, 4), keys_of(4, 2)
    for number, key in enumerate([*mine, *other], 1):
        c.ask(A, Put(key, b"v", MODE_BLIND, b"", bytes([number]) * 16))
    c.ask(A, Put(mine[0], None, 1, b"", b"d" * 16))
    c.request(A, Put(keys_of(3, 5)[-1] + b"!", b"not yet", MODE_BLIND, b"", b"e" * 16))
    asked = c.request(A, List(3))
    (answer,) = [message for number, message in c.answers if number == asked]
    assert isinstance(answer, ListReply)
    assert [row[0] for row in answer.rows] == mine
    assert [bool(row[2]) for row in answer.rows] == [False, True, True, True]
    assert all(row[1] for row in answer.rows)
    assert (answer.position, answer.looked_at, answer.unreadable) == (b"", 4, 0)


def test_pages_of_any_size_together_have_every_key_once() -> None:
    keys = keys_of(0, 23)
    disk = disk_with(*keys)
    for look_max in (1, 2, 7, 22, 23, 24, 0):
        found = pages(disk, 0, look_max=look_max)
        assert [row[0] for reply in found for row in reply.rows] == keys
        assert sum(reply.looked_at for reply in found) == 23


def test_a_prefix_that_few_keys_have_gives_empty_pages_that_move_on() -> None:
    keys = keys_of(1, 9)
    wanted = keys_of(1, 1, b"rare/")
    found = pages(disk_with(*keys, *wanted), 1, prefix=b"rare/", look_max=2)
    assert [row[0] for reply in found for row in reply.rows] == wanted
    assert [reply.looked_at for reply in found] == [2, 2, 2, 2, 2, 0]


def test_a_copy_that_cannot_be_read_has_a_row_without_a_clock() -> None:
    keys = keys_of(2, 3)
    disk = disk_with(*keys)
    disk.rows[keys[0]] = b"rot!" + disk.rows[keys[0]][4:]
    lost = Record(Siblings({1: 1}, ()), unknown=True)
    disk.rows[keys[1]] = encode_stored(lost, cluster_id=CLUSTER_ID, key=keys[1])
    (reply,) = pages(disk, 2)
    assert [bool(row[1]) for row in reply.rows] == [False, False, True]
    assert [row[0] for row in reply.rows] == keys


def test_a_record_whose_very_key_is_damaged_is_counted() -> None:
    (key,) = keys_of(2, 1)

    class Damaged(Disk):
        def scan(self, first: Token, last: Token) -> Iterator[tuple[Token, bytes, bytes]]:
            yield token_of(key), b"no key of this token", b"rest"

    reply = page(Damaged(), List(2))
    assert (reply.rows, reply.unreadable, reply.looked_at) == ([], 1, 1)


def test_a_store_that_cannot_be_read_there_is_an_error_that_names_it() -> None:
    class Damaged(Disk):
        def scan(self, first: Token, last: Token) -> Iterator[tuple[Token, bytes, bytes]]:
            yield from ()
            raise CorruptRecord("row 7 is damaged")

    with pytest.raises(Unhealthy, match="row 7"):
        page(Damaged(), List(2))


# --- bounds --------------------------------------------------------------------------------------


def test_a_page_looks_at_no_more_records_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = disk_with(*keys_of(0, 30))
    monkeypatch.setattr(limits, "LISTING_LOOK_ROWS_MAX", 12)
    monkeypatch.setattr(limits, "LISTING_ROWS_MAX", 10)
    assert [len(reply.rows) for reply in pages(disk, 0)] == [10, 10, 10, 0]
    assert [len(reply.rows) for reply in pages(disk, 0, look_max=65_535)] == [10, 10, 10, 0]
    assert [reply.looked_at for reply in pages(disk, 0, prefix=b"none")] == [12, 12, 6]


def test_a_page_reads_no_more_bytes_than_its_bound_and_one_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = disk_with(*keys_of(0, 6))
    size = len(next(iter(disk.rows.values())))
    monkeypatch.setattr(limits, "LISTING_LOOK_BYTES_MAX", size + 1)
    assert [reply.looked_at for reply in pages(disk, 0, prefix=b"none")] == [2, 2, 2, 0]


def test_a_page_of_large_clocks_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = disk_with(*keys_of(0, 6), actors=100)
    monkeypatch.setattr(limits, "LISTING_PAGE_BYTES_MAX", 3_000)
    assert [len(reply.rows) for reply in pages(disk, 0)] == [2, 2, 2, 0]


# --- places --------------------------------------------------------------------------------------


def test_a_place_need_not_exist() -> None:
    keys = keys_of(5, 3)
    disk = disk_with(keys[0], keys[2])
    assert [row[0] for row in page(disk, List(5, place(keys[1]))).rows] == [keys[2]]
    assert page(disk, List(5, place(keys[2]))).rows == []
    token = token_of(keys[2])
    assert [row[0] for row in page(disk, List(5, token + b"\0")).rows] == [keys[2]]
    assert page(disk, List(5, token + b"\xff" * limits.KEY_BYTES_MAX)).rows == []


@pytest.mark.parametrize(
    "request_",
    [
        List(8),
        List(65_535),
        List(3, b"short"),
        List(3, bytes(16)),  # a token without a key
        List(3, partition_range(8, PartitionId(3))[0] + b"k" * (limits.KEY_BYTES_MAX + 1)),
        List(3, partition_range(8, PartitionId(2))[1] + b"k"),
        List(3, partition_range(8, PartitionId(4))[0] + b"k"),
    ],
    ids=repr,
)
def test_a_place_that_is_none_of_the_partition_is_refused(request_: List) -> None:
    with pytest.raises(BadRequest):
        page(disk_with(), request_)


def test_the_first_and_last_token_of_a_partition_are_in_it_and_their_neighbours_are_not() -> None:
    for partition in range(8):
        first, last = partition_range(8, PartitionId(partition))
        assert {RING.partition_of(first), RING.partition_of(last)} == {partition}
        if partition:
            before = partition_range(8, PartitionId(partition - 1))[1]
            assert int.from_bytes(before, "big") + 1 == int.from_bytes(first, "big")


def test_only_an_owner_lists_and_only_while_it_serves() -> None:
    with pytest.raises(BadRequest, match="is not of this agent"):
        list_page(Disk(), RING, NodeId("d" * 16), List(1))
    c = Cluster(RING)
    c.nodes[A].draining = True
    answer = c.ask(A, List(1))
    assert isinstance(answer, Error) and answer.error == NotReady.code
    fresh = Cluster(None)
    answer = fresh.ask(A, List(1))
    assert isinstance(answer, Error) and answer.error == NotReady.code


def test_an_owner_lists_only_under_the_stamp_that_the_partition_has() -> None:
    cluster = Cluster(RING)
    put = Put(keys_of(0, 1)[0], b"v", MODE_BLIND, b"", bytes(16))
    cluster.ask(A, put)
    reply = cluster.ask(A, List(0, b"", b"", 0, 1, 2))
    assert isinstance(reply, ListReply) and len(reply.rows) == 1
    for stamp in ((1, 1), (2, 0), (0, 2)):
        assert cluster.ask(A, List(0, b"", b"", 0, *stamp)) == RingIs(RING.epoch)
        assert cluster.ask(A, Export(0, b"", *stamp)) == RingIs(RING.epoch)


def test_a_listing_changes_nothing() -> None:
    c = Cluster(RING)
    c.ask(A, Put(b"k", b"v", MODE_BLIND, b"", b"o" * 16))
    before = {id_: dict(disk.rows) for id_, disk in c.disks.items()}
    for partition in range(8):
        assert isinstance(c.ask(A, List(partition)), ListReply)
    assert {id_: disk.rows for id_, disk in c.disks.items()} == before
    assert not c.nodes[A].replica.is_dirty and c.nodes[A].is_idle
    stored = c.disks[B].rows[b"k"]
    assert decode_stored(stored, cluster_id=CLUSTER_ID, key=b"k").value.dots()
