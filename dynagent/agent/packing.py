"""Messages on their way out: those of one turn to the same end leave as one frame if they can.

Merges and Reads to the same owners are packed, and the answers to such Reads. Under load a turn has
twenty, and a frame of its own for each merge cost a tenth of a put, for each Read and its answer a
tenth of a get: a header, a check, a dispatch at either end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from dynagent import limits
from dynagent.core.messages import OP_NOT_ASKED, Merge, Message, Read, ReadReply
from dynagent.errors import TooLarge
from dynagent.obs.log import log
from dynagent.wire.codec import encode_frame

End = TypeVar("End")  # a peer, or a link


class Packer(Generic[End]):
    """Gathers what one turn sends. `write` queues a frame to an end."""

    __slots__ = ("_groups", "_write")

    def __init__(self, write: Callable[[End, bytes], None]) -> None:
        self._write = write
        self._groups: dict[tuple[object, ...], _Group[End]] = {}

    def add(
        self, targets: Sequence[End], request_id: int, budget_ms: int, message: Message
    ) -> bool:
        """Takes a message that may share a frame; False for any other.

        It leaves at the next `flush`, or before its frame is too large.
        """
        kind = _KINDS.get(type(message))
        if kind is None or (common := kind.common(message)) is None:
            return False
        key = (type(message), *common, *targets)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(kind, targets)
        group.budget_ms = max(group.budget_ms, budget_ms)
        group.ids.append(request_id)
        group.messages.append(message)
        group.size += kind.size(message)
        if group.size >= kind.bytes_max or len(group.ids) >= limits.PACKED_MAX:
            del self._groups[key]
            self._send(group)
        return True

    def flush(self) -> None:
        """Everything leaves."""
        if self._groups:
            groups, self._groups = self._groups, {}
            for group in groups.values():
                self._send(group)

    def _send(self, group: _Group[End]) -> None:
        ids, messages = group.ids, group.messages
        message = messages[0] if len(ids) == 1 else group.kind.pack(ids, messages)
        try:
            frame = encode_frame(message, request_id=ids[0], budget_ms=group.budget_ms)
        except TooLarge as exc:
            # No record that keeps to the bounds of core.crowd. Nobody will answer, and what was to
            # be told stays owed; an exception here would cost all other requests of the turn.
            log(logging.ERROR, "frame.too_large", reason=exc.message, requests=len(ids))
            return
        for target in group.targets:
            self._write(target, frame)


class _Group(Generic[End]):
    """What shares one frame."""

    __slots__ = ("budget_ms", "ids", "kind", "messages", "size", "targets")

    def __init__(self, kind: _Kind, targets: Sequence[End]) -> None:
        self.kind = kind
        self.targets = targets
        self.budget_ms = 0
        self.ids: list[int] = []
        self.messages: list[Message] = []
        self.size = 0


class _Kind(NamedTuple):
    """How messages of one class are packed."""

    common: Callable[[Any], tuple[object, ...] | None]  # what all of a frame share; None: alone
    size: Callable[[Any], int]  # bytes that one adds
    pack: Callable[[list[int], list[Any]], Message]
    bytes_max: int


def _pack_merges(ids: list[int], merges: list[Merge]) -> Merge:
    first = merges[0]
    entries = [entry for merge in merges for entry in merge.entries]
    each = [
        barrier
        for merge in merges
        for barrier in (merge.barriers or [merge.barrier] * len(merge.entries))
    ]
    least = min(each, default=0)
    stamps = (first.stamp_change, first.stamp_phase, least)
    if each.count(least) == len(each):
        return Merge(*stamps, entries, ids[1:], first.hint_for)
    return Merge(*stamps, entries, ids[1:], first.hint_for, each)


def _merge_size(merge: Merge) -> int:
    size = 0
    for entry in merge.entries:
        size += len(entry[1])  # type: ignore[arg-type]
    return size


def _pack_reads(ids: list[int], reads: list[Read]) -> Read:
    first, keys = reads[0], [read.key for read in reads]
    return Read(first.stamp_change, first.stamp_phase, keys[0], first.want, b"", ids[1:], keys[1:])


def _pack_replies(ids: list[int], replies: list[ReadReply]) -> ReadReply:
    first = replies[0]
    also: list[list[object]] = []
    for number, reply in zip(ids[1:], replies[1:], strict=True):
        row: list[object] = [number, reply.state, reply.digest, reply.clock, reply.dots, None]
        if reply.barrier:
            row += [OP_NOT_ASKED, [], reply.barrier]
        also.append(row)
    return ReadReply(
        first.state, first.digest, first.clock, first.dots, None, OP_NOT_ASKED, also, first.barrier
    )


_KINDS: dict[type[Message], _Kind] = {
    Merge: _Kind(
        common=lambda merge: (
            merge.stamp_change,
            merge.stamp_phase,
            merge.hint_for,
        ),
        size=_merge_size,
        pack=_pack_merges,
        bytes_max=limits.PACKED_BYTES_MAX,
    ),
    Read: _Kind(
        common=lambda read: (
            None if read.op_id else (read.stamp_change, read.stamp_phase, read.want)
        ),
        size=lambda read: len(read.key),
        pack=_pack_reads,
        bytes_max=limits.PACKED_KEYS_BYTES_MAX,
    ),
    ReadReply: _Kind(
        common=lambda reply: () if reply.entry is None and reply.op == OP_NOT_ASKED else None,
        size=lambda reply: 8 * (len(reply.clock) + len(reply.dots)),
        pack=_pack_replies,
        bytes_max=limits.PACKED_BYTES_MAX,
    ),
}
