"""A page of the keys that this node holds in one partition: an owner's part of a listing.

A listing asks several owners of each partition for their records in store order, page by page, and
merges what they say (`client/listing.py`): this node alone cannot tell whether a key has a value,
because it may have missed the write or the delete. So it sends clock and dots of every record,
tombstones too, and leaves the verdict to whoever has heard enough owners.

A page is made on the event loop, between two turns. It is bounded by the records that it looks at,
by their bytes, and by the bytes of its rows: a prefix that few keys have gives pages that are empty
and still move on. Nothing is kept between two pages; where to go on is the asker's to say, and is
only a place in the order, so it may name a key that has gone meanwhile, or never was there.

A record that fails its checksum has a row without a clock: neither a value nor its absence.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.entry import decode_stored, encode_clock, flatten
from dynagent.core.messages import Export, List, ListReply
from dynagent.core.ports import NodeId, PartitionId, Reader, Token
from dynagent.core.ring import Ring, token_of
from dynagent.errors import BadRequest, CorruptRecord, Unhealthy

TOKEN_BYTES = 16
PLACE_BYTES_MAX = TOKEN_BYTES + limits.KEY_BYTES_MAX
_NUMBER_BYTES = 9  # the longest integer in CBOR


def is_restamped(ring: Ring, request: List | Export) -> bool:
    """Is it asked under another stamp than the partition has now? An owner that has not heard of a
    change, or asks for one that we have not heard of, might miss what was written since then."""
    ring.check_partition(request.partition)
    stamp = (request.stamp_change, request.stamp_phase)
    return stamp != (0, 0) and stamp != ring.stamps[request.partition]


def list_page(reader: Reader, ring: Ring, node_id: NodeId, request: List) -> ListReply:
    """The next page. Raises `BadRequest` if this node is no owner of that partition or the place
    is none of it, `Unhealthy` if the store cannot be read there."""
    first, last = partition_start(ring, node_id, request.partition, request.after)
    try:
        return _gather(reader, ring.cluster_id, first, last, request)
    except CorruptRecord as exc:
        raise Unhealthy(f"the store of this agent cannot be read there: {exc.message}") from exc


def partition_start(
    ring: Ring, node_id: NodeId, partition: int, after: bytes
) -> tuple[Token, Token]:
    """Where a page begins, and the partition ends. Raises `BadRequest` if this node is no owner of
    it or the place is none of it."""
    first, last = _range(ring, partition)
    if node_id not in ring.read_list(PartitionId(partition)):
        raise BadRequest(
            f"partition {partition} is not of this agent under epoch {ring.epoch}; "
            f"see: dynctl ring show"
        )
    if after:
        if not TOKEN_BYTES < len(after) <= PLACE_BYTES_MAX:
            raise BadRequest("not a place: a token of 16 bytes and a key")
        if not first <= after[:TOKEN_BYTES] <= last:
            raise BadRequest(f"that place is not in partition {partition}")
        first = Token(after[:TOKEN_BYTES])
    return first, last


def _gather(
    reader: Reader, cluster_id: bytes, first: Token, last: Token, request: List
) -> ListReply:
    after, prefix = request.after, request.prefix
    look_max = min(request.look_max or limits.LISTING_LOOK_ROWS_MAX, limits.LISTING_LOOK_ROWS_MAX)
    rows: list[list[object]] = []
    looked_at = unreadable = look_bytes = page_bytes = 0
    for token, key, stored in reader.scan(first, last):
        place = token + key
        if place <= after:
            continue  # at most the record of that very place
        looked_at += 1
        look_bytes += len(stored)
        if token != token_of(key):
            unreadable += 1
        elif key.startswith(prefix):
            row = _row(cluster_id, key, stored)
            rows.append(row)
            page_bytes += _size(row)
        if (
            looked_at >= look_max
            or len(rows) >= limits.LISTING_ROWS_MAX
            or look_bytes >= limits.LISTING_LOOK_BYTES_MAX
            or page_bytes >= limits.LISTING_PAGE_BYTES_MAX
        ):
            return ListReply(rows, place, looked_at, unreadable)
    return ListReply(rows, b"", looked_at, unreadable)


def _row(cluster_id: bytes, key: bytes, stored: bytes) -> list[object]:
    try:
        record = decode_stored(stored, cluster_id=cluster_id, key=key)
    except CorruptRecord:
        return [key, [], []]
    if record.unknown:
        return [key, [], []]
    return [key, encode_clock(record.value.clock), flatten(record.value.dots())]


def _size(row: list[object]) -> int:
    key, clock, dots = row
    return len(key) + _NUMBER_BYTES * (len(clock) + len(dots)) + _NUMBER_BYTES  # type: ignore[arg-type]


def _range(ring: Ring, partition: int) -> tuple[Token, Token]:
    """The first and the last token of a partition."""
    ring.check_partition(partition)
    return partition_range(ring.partitions, PartitionId(partition))


def partition_range(partitions: int, partition: PartitionId) -> tuple[Token, Token]:
    """The first and the last token of a partition, of so many."""
    width = 2 ** (8 * TOKEN_BYTES) // partitions
    first = partition * width
    return (
        Token(first.to_bytes(TOKEN_BYTES, "big")),
        Token((first + width - 1).to_bytes(TOKEN_BYTES, "big")),
    )
