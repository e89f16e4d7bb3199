"""What the clients asked and were told: the history that the checkers judge.

Every operation has a number, and that number is everything: it is the op-id of its puts, and the
value that it writes names it and proves itself (`encode_value`), so that whoever meets a value
anywhere knows which operation wrote it and that no byte of it has changed.

An operation ends **ok** (an attempt was answered with a reply), **failed** (every attempt was
refused with a definite error: it surely did nothing) or **unknown** (anything else: it may take
effect until its last attempt is dead).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf

from dynagent.core.ports import NodeId
from dynagent.core.siblings import Clock, Dot
from dynagent.testing.world import World

GET, PUT, DELETE = "get", "put", "delete"
OK, FAILED, UNKNOWN = "ok", "failed", "unknown"


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One request to one agent: does nothing more after `dead_by`, or once it was answered."""

    number: int
    agent: NodeId
    sent: float
    dead_by: float
    is_refused: bool = False  # with a definite error: it has done nothing
    is_elsewhere: bool = False  # with NotReady: clients ask another agent then


@dataclass(slots=True, kw_only=True)
class Operation:
    """One operation of a client, from its invocation to its return."""

    number: int
    client: int
    kind: str
    key: bytes
    mode: int
    r: int  # in force: the request's own or the ring's
    w: int
    invoked: float
    invoked_order: int
    context: bytes = b""
    clock: Clock = field(default_factory=dict)  # of the context that a put carries
    hand: frozenset[int] = frozenset()  # whose values the client had in hand with that context
    attempts: list[Attempt] = field(default_factory=list)
    strict: bool = True  # only owners count
    repair: bool = False  # a get that answers only when W owners hold what it returns
    outcome: str = UNKNOWN
    returned: float = inf
    returned_order: int = 1 << 62
    reply_clock: Clock | None = None  # of the context in the reply; None: it had none
    reply_dot: Dot | None = None
    values: tuple[int, ...] = ()  # whose values a get returned
    dots: tuple[Dot, ...] = ()  # under which dots

    @property
    def op_id(self) -> bytes:
        return self.number.to_bytes(16, "big")

    @property
    def is_write(self) -> bool:
        return self.kind != GET

    @property
    def is_ok(self) -> bool:
        return self.outcome == OK

    @property
    def ended(self) -> float:
        """When it can no longer take effect: an attempt that a client gave up may still run."""
        attempts = self.attempts[:-1] if self.is_ok else self.attempts
        alive = [attempt.dead_by for attempt in attempts if not attempt.is_refused]
        if self.is_ok:
            return max([self.returned, *alive])
        return max(alive, default=self.invoked)


class History:
    """All operations of a run, in the order of their invocation."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.operations: dict[int, Operation] = {}

    def invoke(self, *, client: int, kind: str, key: bytes, mode: int, r: int, w: int) -> Operation:
        operation = Operation(
            number=len(self.operations) + 1,
            client=client,
            kind=kind,
            key=key,
            mode=mode,
            r=r,
            w=w,
            invoked=self._world.now,
            invoked_order=self._world.order(),
        )
        self.operations[operation.number] = operation
        return operation

    def finish(self, operation: Operation, outcome: str) -> None:
        operation.outcome = outcome
        operation.returned = self._world.now
        operation.returned_order = self._world.order()

    def leap(self, seconds: float) -> None:
        """The world has leapt: what is still under way takes so much longer."""
        for operation in self.operations.values():
            for attempt in operation.attempts:
                if attempt.dead_by > self._world.now - seconds:
                    attempt.dead_by += seconds

    def of_key(self, key: bytes) -> list[Operation]:
        return [operation for operation in self.operations.values() if operation.key == key]

    def overlapping_pairs(self) -> int:
        """Pairs of writes to one key that were under way at the same time."""
        writes = [op for op in self.operations.values() if op.is_write]
        return sum(
            one.key == two.key and one.returned_order > two.invoked_order
            for place, one in enumerate(writes)
            for two in writes[place + 1 :]
        )


def encode_value(number: int) -> bytes:
    """The value that operation `number` writes: its number, and a proof of every byte."""
    name = b"v%d." % number
    return name + blake2b(name, digest_size=6).hexdigest().encode()


def decode_value(value: bytes) -> int | None:
    """The operation that wrote `value`; None if it is not what any operation wrote."""
    name = value.partition(b".")[0]
    if not name.startswith(b"v") or not name[1:].isdigit():
        return None
    number = int(name[1:])
    return number if encode_value(number) == value else None
