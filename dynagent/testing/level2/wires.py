"""The network of level 2: byte streams between places, and what can go wrong with them.

A stream behaves like TCP. Bytes arrive in order and whole, in pieces that have nothing to do with
frames, after a delay, as far as the receiver's window allows. Nothing is lost in the middle. What
can happen instead: a direction stalls (nothing arrives, until it heals and everything does), a
connection is reset (what was on its way is lost), one end vanishes and the other never hears of it,
a reader is slow, a connection is refused or its SYN is never answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from dynagent import limits
from dynagent.env import Accept, Handler
from dynagent.testing.level2.profile import Profile
from dynagent.testing.world import World

Pair = tuple[str, str]  # from, to
CLOSED = "closed by the other end"
RESET = "connection reset"


class Owner(Protocol):
    """Who has an end: an agent's transport, or a client."""

    place: str
    is_dead: bool

    def touch(self, end: End) -> None:
        """There is something to send."""

    def on_ready(self, end: End) -> None:
        """There is something to receive."""

    def on_connect(self, end: End, accept: Accept) -> None:
        """Somebody has dialled."""


class Watcher(Protocol):
    """Who sees everything that is said."""

    def on_write(self, end: End, data: bytes) -> None: ...

    def on_read(self, end: End) -> None: ...

    def on_close(self, end: End, reason: str) -> None: ...


class Line:
    """A connection as a whole; `ends`: who dialled, who accepted."""

    __slots__ = ("ends", "is_hostile", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_hostile = False
        self.ends: list[End] = []


class End:
    """One end of a connection (`env.Connection`)."""

    __slots__ = (
        "_wires", "broken", "closing", "handler", "held", "inbox", "is_gone", "is_paused",
        "last_arrival",
        "line", "out", "owner", "read_bytes", "transit", "transit_bytes", "will_ack",
        "written_bytes",
    )  # fmt: skip

    def __init__(self, wires: Wires, line: Line, owner: Owner) -> None:
        self._wires = wires
        self.line = line
        self.owner = owner
        self.handler: Handler | None = None  # until the owner has taken note of the connection
        self.inbox = bytearray()  # has arrived, is not yet read
        self.transit: deque[bytes | None] = deque()  # on its way to this end; None: a FIN
        self.transit_bytes = 0
        self.held = 0  # pieces that would have arrived, were their direction not stalled
        self.last_arrival = 0.0
        self.out = bytearray()
        self.closing = ""
        self.broken = ""
        self.is_gone = False
        self.is_paused = False
        self.written_bytes = 0  # in all
        self.read_bytes = 0
        self.will_ack = False  # an acknowledgement waits in `out`

    @property
    def is_dialler(self) -> bool:
        return self.line.ends[0] is self

    @property
    def other(self) -> End:
        return self.line.ends[self.is_dialler]

    @property
    def remote(self) -> str:
        return self.other.owner.place

    # --- what the owner's code does --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self.closing or self.is_gone or self.owner.is_dead:
            return
        self.out += data
        self.written_bytes += len(data)
        self._wires.watcher.on_write(self, data)
        self.owner.touch(self)

    def close(self, reason: str) -> None:
        if not self.closing and not self.is_gone and not self.owner.is_dead:
            self.closing = reason
            self._wires.watcher.on_close(self, reason)
            self.owner.touch(self)

    @property
    def unsent(self) -> int:
        return len(self.out)

    def pause(self, *, is_paused: bool) -> None:
        was_paused, self.is_paused = self.is_paused, is_paused
        if was_paused and not is_paused:
            self.owner.on_ready(self)

    # --- what the owner's turn does --------------------------------------------------------------

    def receive(self) -> None:
        """Hands out some of what has arrived, or the news that no more will come."""
        wires = self._wires
        if self.is_gone or self.closing or self.is_paused or self.handler is None:
            return
        if self.inbox:
            size = min(len(self.inbox), limits.RECEIVE_BYTES)
            if wires.dice.random() < wires.cut:
                size = wires.dice.randint(1, size)
            data = bytes(self.inbox[:size])
            del self.inbox[:size]
            self.read_bytes += size
            wires.watcher.on_read(self)
            if self.inbox or self.broken:
                self.owner.on_ready(self)
            if self.other.out:
                wires.world.after(wires.delay_s(), self.other.owner.touch, self.other)
            self.handler.on_bytes(data)
        elif self.broken:
            self.drop(self.broken)

    def flush(self) -> None:
        if self.is_gone:
            return
        room = self._wires.window - self.other.transit_bytes - len(self.other.inbox)
        if self.out and room > 0:
            data = bytes(self.out[:room])
            del self.out[:room]
            self._wires.send(self.other, data)
        if self.closing and not self.out:
            self.drop(self.closing)

    def drop(self, reason: str) -> None:
        """Closes now, whatever waits to be sent."""
        if not self.is_gone:
            self.is_gone = True
            self.out.clear()
            self._wires.send(self.other, None)
            if self.handler is not None:
                self.handler.on_closed(reason)


class Wires:
    """All connections, and what is wrong with them."""

    def __init__(self, world: World, profile: Profile, watcher: Watcher) -> None:
        self.world = world
        self.watcher = watcher
        self.dice = world.stream("wires")
        self.cut = profile.cut
        self.window = profile.window_bytes
        self.refusals = profile.refusals
        self.tail = profile.tail
        self.stalls: set[Pair] = set()
        self.down: set[str] = set()  # places without power
        self._profile = profile
        self._listeners: dict[str, tuple[Owner, Accept]] = {}
        self._lines: dict[int, Line] = {}
        self._count = 0

    # --- connections -----------------------------------------------------------------------------

    def listen(self, address: str, owner: Owner, accept: Accept) -> None:
        self._listeners[address] = (owner, accept)

    def stop_listening(self, owner: Owner) -> None:
        for address, (listener, _) in list(self._listeners.items()):
            if listener is owner:
                del self._listeners[address]

    def dial(self, owner: Owner, address: str, on_result: Callable[[End | str], None]) -> None:
        """Connects; `on_result` gets the end, or why there is none, or is never called."""
        self.world.after(self.delay_s(), self._syn, owner, address, on_result)

    def _syn(self, owner: Owner, address: str, on_result: Callable[[End | str], None]) -> None:
        target = address.partition(":")[0]
        pairs = {(owner.place, target), (target, owner.place)}
        if pairs & self.stalls or target in self.down or owner.is_dead:
            return
        listener = self._listeners.get(address)
        is_refused = self.refusals and self.dice.random() < self.refusals
        if is_refused:
            self.world.fault("refused", f"{owner.place} at {target}")
        if listener is None or is_refused:
            self.world.after(self.delay_s(), on_result, "Connection refused")
            return
        self._count += 1
        line = self._lines[self._count] = Line(self._count)
        line.ends = [End(self, line, owner), End(self, line, listener[0])]
        self.world.log(f"{owner.place} ⇒ {target} connection {line.number}")
        listener[0].on_connect(line.ends[1], listener[1])
        self.world.after(self.delay_s(), on_result, line.ends[0])

    def open_lines(self) -> list[Line]:
        """Those of which at least one end is left."""
        for number, line in list(self._lines.items()):
            if all(end.is_gone for end in line.ends):
                del self._lines[number]
        return list(self._lines.values())

    # --- bytes -----------------------------------------------------------------------------------

    def delay_s(self) -> float:
        profile = self._profile
        delay_s = profile.delay_s * (0.5 + self.dice.random())
        if self.tail and self.dice.random() < self.tail:
            self.world.faults["delay"] += 1
            delay_s += profile.tail_s * self.dice.random()
        return delay_s

    def send(self, target: End, data: bytes | None) -> None:
        """Puts bytes on their way to `target`, perhaps in pieces."""
        pieces: list[bytes | None] = [data]
        if data is not None and len(data) > 1 and self.dice.random() < self.cut:
            place = self.dice.randint(1, len(data) - 1)
            pieces = [data[:place], data[place:]]
            self.world.faults["split"] += 1
        for piece in pieces:
            target.transit.append(piece)
            target.transit_bytes += len(piece or b"")
            arrival = max(target.last_arrival, self.world.now + self.delay_s())
            target.last_arrival = arrival
            self.world.after(arrival - self.world.now, self._arrive, target)

    def _arrive(self, end: End) -> None:
        if not end.transit:
            return  # lost in a reset
        if (end.other.owner.place, end.owner.place) in self.stalls:
            end.held += 1
            return
        piece = end.transit.popleft()
        end.transit_bytes -= len(piece or b"")
        if end.is_gone or end.owner.is_dead:
            if piece is not None and end.owner.place not in self.down:
                self.world.after(self.delay_s(), self.reset, end.other)
        elif piece is None:
            end.broken = end.broken or CLOSED
            end.owner.on_ready(end)
        else:
            end.inbox += piece
            end.owner.on_ready(end)

    # --- faults ----------------------------------------------------------------------------------

    def stall(self, pairs: Iterable[Pair]) -> None:
        self.stalls.update(pairs)

    def flow(self, pairs: Iterable[Pair]) -> None:
        """The end of a stall: everything that was held back arrives."""
        self.stalls.difference_update(pairs)
        for line in self.open_lines():
            for end in line.ends:
                if end.held and (end.other.owner.place, end.owner.place) not in self.stalls:
                    held, end.held = end.held, 0
                    for _ in range(held):
                        self.world.after(self.delay_s(), self._arrive, end)

    def reset(self, end: End) -> None:
        """This end hears that the connection is no more; what was on its way to it is lost."""
        if end.is_gone or end.broken or end.owner.is_dead:
            return
        self._lose(end)
        end.broken = RESET
        end.out.clear()
        end.owner.on_ready(end)

    def _lose(self, end: End) -> None:
        end.transit.clear()
        end.transit_bytes = end.held = 0
        if self.dice.random() < 0.5:
            end.inbox.clear()

    def vanish(self, end: End) -> None:
        """This end is gone without a word to the other; the handler is not told either."""
        end.is_gone = True
        end.out.clear()
        self._lose(end)

    def mend(self) -> None:
        """No stall any more, and the kernels have noticed every connection that has one end."""
        self.cut = self.refusals = self.tail = 0.0
        self.flow(list(self.stalls))
        for line in self.open_lines():
            for end in line.ends:
                if end.other.is_gone or end.other.owner.is_dead:
                    self.world.after(self.delay_s(), self.reset, end)
