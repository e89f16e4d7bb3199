"""A page of the records that this node holds in one partition, whole: for `dynctl export`.

As a page of a listing (`core.listing`): made on the event loop, bounded by the records and the
bytes that it looks at, and nothing is kept between two pages. It tells what this node has, and no
more: whoever wants what the cluster holds asks N−W+1 owners and merges.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.entry import encode_entry
from dynagent.core.listing import partition_start
from dynagent.core.messages import Export, ExportReply
from dynagent.core.ports import NodeId
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring, token_of
from dynagent.errors import CorruptRecord, Unhealthy


def export_page(replica: Replica, ring: Ring, node_id: NodeId, request: Export) -> ExportReply:
    """The next page. Raises as `list_page`; `Unhealthy` also while records are missing there."""
    first, last = partition_start(ring, node_id, request.partition, request.after)
    replica.unknown.check_whole(request.partition)
    entries: list[list[object]] = []
    unreadable: list[bytes] = []
    size = looked_at = 0
    try:
        for token, key, record in replica.survey.scan(first, last, request.after):
            looked_at += 1
            if record.unknown:
                unreadable.append(key)
            elif token == token_of(key):
                entries.append([*encode_entry(key, record)[:2], b""])
                size += len(key) + len(record.content)
            full = looked_at >= limits.LISTING_LOOK_ROWS_MAX or size >= limits.EXPORT_PAGE_BYTES
            if full:
                return ExportReply(entries, token + key, unreadable)
    except CorruptRecord as exc:
        raise Unhealthy(f"the store of this agent cannot be read there: {exc.message}") from exc
    return ExportReply(entries, b"", unreadable)
