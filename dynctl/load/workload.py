"""What a load asks: YCSB-style gets and puts over a key space of its own."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass

from dynagent import limits
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_CONTEXT,
    MODE_OVERWRITE,
    Get,
    GetReply,
    Put,
    PutReply,
)
from dynctl.load.driver import Answer
from dynctl.load.keys import chooser
from dynctl.load.wires import Request

MODES = {"context": MODE_CONTEXT, "overwrite": MODE_OVERWRITE, "blind": MODE_BLIND}
_VALUES = 64  # different ones: an engine that compresses must not see one value only


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """`read_share`: 0 puts only, 1 gets only. `mode`: one of `MODES`. `r`, `w`: 0: the ring's."""

    read_share: float
    mode: str = "context"
    distribution: str = "uniform"
    keys: int = 10_000
    value_bytes: int = 1_024
    prefix: bytes = b"bench/"
    seed: int = 1
    r: int = 0
    w: int = 0
    strict: bool = False


class Workload:
    """Requests without end, and the contexts that their replies brought."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._dice = random.Random(shape.seed)
        self._values = [self._dice.randbytes(shape.value_bytes) for _ in range(_VALUES)]
        self._contexts: dict[bytes, bytes] = {}
        self._run = os.urandom(limits.OP_ID_BYTES // 2)  # op-ids are never used twice
        self._puts = 0

    def requests(self) -> Iterator[Request]:
        """One after the other, for ever."""
        shape, dice = self.shape, self._dice.random
        draw = chooser(shape.distribution, shape.keys, self._dice)
        while True:
            key = self._key(draw())
            if dice() < shape.read_share:
                yield key, Get(key, shape.r, shape.strict)
            else:
                yield key, self._put(key, MODES[shape.mode])

    def loading(self) -> Iterator[Request]:
        """A put of every key. It supersedes what an earlier load left."""
        for number in range(self.shape.keys):
            key = self._key(number)
            yield key, self._put(key, MODE_OVERWRITE)

    def deleting(self) -> Iterator[Request]:
        """A delete of every key."""
        for number in range(self.shape.keys):
            key = self._key(number)
            yield key, self._message(key, None, MODE_OVERWRITE, b"")

    def learn(self, request: Request, answer: Answer) -> None:
        """Keeps the context of a reply for the next put of its key."""
        if isinstance(answer, PutReply | GetReply):
            self._contexts[request[0]] = answer.context

    def _key(self, number: int) -> bytes:
        return b"%b%d" % (self.shape.prefix, number)

    def _put(self, key: bytes, mode: int) -> Put:
        context = self._contexts.get(key, b"") if mode == MODE_CONTEXT else b""
        if mode == MODE_CONTEXT and not context:
            # Nobody has seen this key, or its siblings: without a look it would get one more.
            mode = MODE_OVERWRITE
        return self._message(key, self._values[self._puts % _VALUES], mode, context)

    def _message(self, key: bytes, value: bytes | None, mode: int, context: bytes) -> Put:
        self._puts += 1
        op_id = self._run + self._puts.to_bytes(8, "big")
        shape = self.shape
        return Put(key, value, mode, context, op_id, 1, shape.r, shape.w, shape.strict)
