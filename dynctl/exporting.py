"""The lines of `dynctl export`: pages of several owners, merged place by place.

Each owner sends its records of a partition in the order of their places (token, key), page by page.
A record is written when all that were asked have come past its place, so memory holds one page of
each. They are merged as siblings are (`core.siblings`), which is why any N−W+1 owners do: an
acknowledged write is at one of them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any

from dynagent.client.blocking import Client
from dynagent.client.proposing import ring_of
from dynagent.core.entry import Record, decode_entry, encode_clock
from dynagent.core.messages import Export, ExportReply, RingIs
from dynagent.core.ports import PartitionId
from dynagent.core.ring import Member, token_of
from dynagent.core.version import Version
from dynagent.errors import DynagentError, ProtocolError, Refused
from dynctl import streams
from dynctl.observe import Observation
from dynctl.views.base import SCHEMA_VERSION, Base64, text_of

_LINES_AT_ONCE = 256

# A place (token ‖ key), and the record of one owner there; None: its copy is unreadable.
_Placed = tuple[bytes, bytes, Record | None]


class Exporter:
    """`source`: the one member whose copies are wanted; None: what the cluster holds."""

    def __init__(self, client: Client, seen: Observation, source: Member | None) -> None:
        self.problems: list[str] = []
        self._client = client
        self._seen = seen
        self._source = source
        self._ring = seen.ring  # the latest that was seen: it may change on the way
        self._is_up = {one.member.id: one.status is not None for one in seen.members}

    def write(self, partitions: list[int]) -> None:
        """Everything to stdout."""
        lines = [json.dumps(self._header(partitions))]
        for partition in partitions:
            for row in self._records(partition):
                lines.append(json.dumps(row, ensure_ascii=False))
                if len(lines) >= _LINES_AT_ONCE:
                    streams.emit_text("\n".join(lines) + "\n")
                    lines = []
        streams.emit_text("".join(f"{line}\n" for line in lines))

    def _header(self, partitions: list[int]) -> dict[str, Any]:
        ring = self._seen.ring
        return {
            "schema_version": SCHEMA_VERSION,
            "cluster_id": ring.cluster_id.hex(),
            "epoch": ring.epoch,
            "partitions": ring.partitions,
            "n": ring.n,
            "r": ring.r,
            "w": ring.w,
            "node": self._source.name if self._source is not None else None,
            "exported": partitions if len(partitions) < ring.partitions else None,
        }

    def _records(self, partition: int) -> Iterator[dict[str, Any]]:
        self._ring = ring_of(self._client, self._seen.agent)
        streams_of = [self._pages(owner, partition) for owner in self._owners(partition)]
        by_place = groupby(merge(*streams_of, key=itemgetter(0)), key=itemgetter(0))
        for _place, found in by_place:
            merged: Record | None = None
            key = b""
            for _, key, record in found:
                if record is None:
                    name = key.decode(errors="backslashreplace")
                    self._tell(f"a copy of {name!r} is unreadable")
                elif merged is None or merged.content == record.content:
                    merged = record
                else:
                    merged = Record(merged.value.merge(record.value))
            if merged is not None:
                yield _row(partition, key, merged)

    def _owners(self, partition: int) -> list[Member]:
        ring = self._ring
        members = {member.id: member for member in ring.members}
        owners = [members[owner] for owner in ring.read_list(PartitionId(partition))]
        if self._source is not None:
            return [self._source] if self._source in owners else []
        needed = ring.n - ring.w + 1
        up = [owner for owner in owners if self._is_up.get(owner.id, True)]
        if len(up) < needed:
            self._tell(f"{len(up)} of the {needed} owners needed of partition {partition} are up")
        return up[:needed]

    def _pages(self, owner: Member, partition: int) -> Iterator[_Placed]:
        after = b""
        stamp = self._ring.stamps[partition] if self._source is None else (0, 0)
        while True:
            try:
                page = self._client.ask(owner.address, Export(partition, after, *stamp))
                if isinstance(page, RingIs):
                    raise Refused("it moves to other owners; export it again when it is settled")
                if not isinstance(page, ExportReply):
                    raise ProtocolError(f"{owner.name}: {type(page).__name__} is no export")
                rows: list[_Placed] = [(token_of(key) + key, key, None) for key in page.unreadable]
                for entry in page.entries:
                    key, record = decode_entry(entry)
                    rows.append((token_of(key) + key, key, record))
            except DynagentError as exc:
                self._tell(f"{owner.name}, partition {partition}: {exc.message}")
                return
            yield from sorted(rows, key=itemgetter(0))
            if not page.position:
                return
            after = page.position

    def _tell(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def _row(partition: int, key: bytes, record: Record) -> dict[str, Any]:
    value = record.value
    return {
        "key": _json(key),
        "partition": partition,
        "clock": _pairs(encode_clock(value.clock)),
        "siblings": [_sibling(sibling.data) for sibling in value.siblings],
        "content": base64.b64encode(record.content).decode(),
        "digest": record.digest.hex(),
    }


def _sibling(data: bytes) -> dict[str, Any]:
    version = Version(data)
    return {
        "dot": f"{version.actor:016x}:{version.counter}",
        "wall_ms": version.wall_ms,
        "expiry_ms": version.expiry_ms,
        "content_type": version.content,
        "op_id": version.op_id.hex(),
        "meta": [[_json(name), _json(header)] for name, header in sorted(version.meta.items())],
        "value": _json(version.value),
    }


def _pairs(flat: list[int]) -> dict[str, str]:
    """Actors in hex; counters are strings, as all 64-bit numbers in JSON."""
    return {f"{actor:016x}": str(n) for actor, n in zip(flat[::2], flat[1::2], strict=True)}


def _json(data: bytes) -> Any:
    text = text_of(data)
    return {"base64": text.base64} if isinstance(text, Base64) else text
