"""Clients in a closed loop: think, ask, wait, try again, remember what was seen.

A client keeps, for each key, the contexts it was given lately and whose values it had in hand with
each. It puts with the newest one, sometimes with an older one, sometimes blind or as an overwrite.
What is not answered with a reply is tried again under the same op-id with the next attempt number,
at the same agent or at another, owner or not; an impatient client does so while the first attempt
is still under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dynagent.core.entry import decode_context
from dynagent.core.messages import (
    MODE_BLIND,
    MODE_CONTEXT,
    MODE_OVERWRITE,
    Error,
    Get,
    GetReply,
    Message,
    Put,
    PutReply,
)
from dynagent.core.ports import LinkId, NodeId
from dynagent.core.ring import Ring
from dynagent.core.version import Version
from dynagent.errors import BY_CODE, NotReady
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
    decode_value,
    encode_value,
)
from dynagent.testing.network import Network
from dynagent.testing.profile import Profile
from dynagent.testing.world import World

ATTEMPTS_MAX = 4
CONTEXTS_KEPT = 3

# (kind, mode) of a write, and how often.
_WRITES = (
    ((PUT, MODE_CONTEXT), 10),
    ((PUT, MODE_OVERWRITE), 6),
    ((PUT, MODE_BLIND), 3),
    ((DELETE, MODE_CONTEXT), 4),
    ((DELETE, MODE_OVERWRITE), 2),
)
_KINDS = [kind for kind, _ in _WRITES]
_WEIGHTS = [weight for _, weight in _WRITES]

Seen = tuple[bytes, frozenset[int]]  # a context, and whose values came with it


class LoopClient:
    """One client: at most one operation under way. How it asks is up to the level's own class."""

    def __init__(
        self,
        *,
        number: int,
        world: World,
        history: History,
        ring: Ring,
        profile: Profile,
        keys: Sequence[bytes],
    ) -> None:
        self.name = f"c{number}"
        self.is_idle = True
        self.is_retired = False
        self._number = number
        self._world = world
        self._history = history
        self._ring = ring
        self._profile = profile
        self._keys = keys
        self._dice = world.stream(f"client {number}")
        self._sloppy = world.stream(f"sloppy client {number}")
        self._blind = world.stream(f"blind client {number}")
        self._deletes = world.stream(f"deleting client {number}")
        self._repairs = world.stream(f"repairing client {number}")
        self._seen: dict[bytes, list[Seen]] = {}
        self._operation: Operation | None = None

    # --- the loop --------------------------------------------------------------------------------

    def think(self) -> None:
        self.is_idle = True
        if not self.is_retired:
            delay_s = self._dice.expovariate(1 / self._profile.think_s)
            self._world.after(delay_s, self._next_operation)

    def _next_operation(self) -> None:
        if self.is_retired:
            return
        dice, profile = self._dice, self._profile
        key = dice.choice(self._keys)
        kind, mode = (GET, MODE_CONTEXT)
        if dice.random() < profile.writes:
            kind, mode = dice.choices(_KINDS, _WEIGHTS)[0]
            if self._blind.random() < profile.blind:
                kind, mode = PUT, MODE_BLIND
            if self._deletes.random() < profile.deletes:
                kind, mode = DELETE, self._deletes.choice((MODE_CONTEXT, MODE_OVERWRITE))
        r = w = 0
        if dice.random() < profile.odd_quorum:
            r, w = dice.randint(0, self._ring.n), dice.randint(0, self._ring.n)
        strict = self._sloppy.random() >= profile.sloppy
        self.begin(kind=kind, key=key, mode=mode, r=r, w=w, strict=strict)

    def begin(
        self, *, kind: str, key: bytes, mode: int, r: int, w: int, strict: bool = True
    ) -> Operation:
        """Invokes an operation; r and w 0: the ring's."""
        self.is_idle = False
        operation = self._history.invoke(
            client=self._number,
            kind=kind,
            key=key,
            mode=mode,
            r=r or self._ring.r,
            w=w or self._ring.w,
        )
        operation.strict = strict
        operation.repair = kind == GET and self._repairs.random() < self._profile.repairs
        if kind != GET and mode == MODE_CONTEXT and (seen := self._seen.get(key)):
            place = -1 if self._dice.random() < 0.8 else 0
            operation.context, operation.hand = seen[place]
            operation.clock = decode_context(operation.context, key=key)
        self._operation = operation
        self._try()
        return operation

    def _try(self) -> None:
        """Begins to ask for the present operation; `_finish` is to be called in the end."""
        raise NotImplementedError

    def _finish(self, outcome: str) -> None:
        operation = self._operation
        assert operation is not None
        self._history.finish(operation, outcome)
        self._world.log(f"{self.name} {operation.kind} {operation.number} is {outcome}")
        self._operation = None
        self.think()

    # --- answers ---------------------------------------------------------------------------------

    def _take(self, operation: Operation, reply: Message) -> None:
        """Learns what a reply tells."""
        if isinstance(reply, GetReply):
            self._take_values(operation, reply)
        elif isinstance(reply, PutReply):
            self._take_dot(operation, reply)

    def _take_values(self, operation: Operation, reply: GetReply) -> None:
        versions = [Version(data) for data in reply.siblings]
        writers = [decode_value(version.value) for version in versions]
        self._world.verdicts.check(
            "no_phantom",
            None not in writers,
            f"get {operation.number} returned what nobody wrote: {reply.siblings}",
        )
        operation.values = tuple(writer for writer in writers if writer is not None)
        operation.dots = tuple((version.actor, version.counter) for version in versions)
        operation.reply_clock = decode_context(reply.context, key=operation.key)
        self._remember(operation.key, (reply.context, frozenset(operation.values)))

    def _take_dot(self, operation: Operation, reply: PutReply) -> None:
        if reply.dot:
            actor, counter = reply.dot[:8], reply.dot[8:]
            operation.reply_dot = int.from_bytes(actor, "big"), int.from_bytes(counter, "big")
        if reply.context:
            operation.reply_clock = decode_context(reply.context, key=operation.key)
            own = {operation.number} if operation.kind == PUT else set()
            self._remember(operation.key, (reply.context, operation.hand | own))

    def _remember(self, key: bytes, seen: Seen) -> None:
        contexts = self._seen.setdefault(key, [])
        contexts.append(seen)
        del contexts[:-CONTEXTS_KEPT]


class SimClient(LoopClient):
    """The client of level 1: single messages, and its own, wilder rules for trying again."""

    def __init__(
        self,
        *,
        number: int,
        world: World,
        network: Network,
        history: History,
        ring: Ring,
        profile: Profile,
        keys: Sequence[bytes],
        agents: Callable[[], Sequence[NodeId]],
    ) -> None:
        """`agents`: whom it knows, which may change."""
        super().__init__(
            number=number, world=world, history=history, ring=ring, profile=profile, keys=keys
        )
        self._network = network
        self._link: LinkId | None = None
        self._known = agents
        self._agent: NodeId = self._dice.choice(agents())

    # --- attempts --------------------------------------------------------------------------------

    def _try(self) -> None:
        operation = self._operation
        assert operation is not None
        profile, now = self._profile, self._world.now
        number = len(operation.attempts) + 1
        if number > 1:
            self._world.faults["retry"] += 1
        agents = self._known()
        wanders = (number > 1 and self._dice.random() < 0.7) or self._dice.random() < 0.2
        if wanders or self._agent not in agents:
            self._agent = self._dice.choice(agents)
        dead_by = now + profile.budget_ms / 1000 + profile.longest_delay_s
        attempt = Attempt(number=number, agent=self._agent, sent=now, dead_by=dead_by)
        operation.attempts.append(attempt)
        if profile.is_quiet:
            # What was refused for certain goes on as it is, as by every client (client/routing.py).
            # Elsewhere it is called a retry too, which does no harm but on a key that has forgotten
            # op-ids: there nobody can know that it is none (decision 0002).
            number -= sum(attempt.is_refused for attempt in operation.attempts)
        message = make_message(operation, number)
        self._link = self._network.call(self, self._agent, profile.budget_ms, message)
        patience_s = profile.budget_ms / 1000 * profile.patience + 0.05
        if profile.patience < 1 and number == 1:
            self._world.faults["impatience"] += 1
        self._world.after(patience_s, self._give_up, self._link)

    def _give_up(self, link: LinkId) -> None:
        if link == self._link:
            self._again()

    def on_lost(self, link: LinkId) -> None:
        if link == self._link:
            self._again()

    def _again(self) -> None:
        operation = self._operation
        assert operation is not None
        if self._link is not None:
            self._network.hang_up(self._link)
            self._link = None
        if len(operation.attempts) < ATTEMPTS_MAX and self._dice.random() < 0.85:
            self._world.after(self._dice.random() * 0.05, self._try)
        elif all(attempt.is_refused for attempt in operation.attempts):
            self._finish(FAILED)
        else:
            self._finish(UNKNOWN)

    def on_answer(self, link: LinkId, message: Message) -> None:
        operation = self._operation
        if link != self._link or operation is None:
            return
        if isinstance(message, Error):
            operation.attempts[-1].is_refused = BY_CODE[message.error].definite
            operation.attempts[-1].is_elsewhere = message.error == NotReady.code
            self._again()
            return
        self._network.hang_up(link)
        self._link = None
        self._take(operation, message)
        self._finish(OK)


def make_message(operation: Operation, attempt: int) -> Message:
    if operation.kind == GET:
        return Get(operation.key, operation.r, operation.strict, repair=operation.repair)
    value = encode_value(operation.number) if operation.kind == PUT else None
    return Put(
        operation.key,
        value,
        operation.mode,
        operation.context,
        operation.op_id,
        attempt,
        operation.r,
        operation.w,
        operation.strict,
    )
