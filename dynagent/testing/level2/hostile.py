"""A client that says nonsense: real frames, then bent, cut, doubled or mixed up.

What it writes, should a bent frame still be one, goes to keys of its own. It never speaks as peer.

Some frames are **poison**: requests in CBOR that our protocol does not know (indefinite lengths,
doubled map keys), which a decoder left at its defaults would take. An answer to one is a violation
of `poison_is_refused`.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.messages import (
    MODE_OVERWRITE,
    ROLE_CLIENT,
    Get,
    Hello,
    Merge,
    Message,
    Ping,
    Put,
    Read,
    RingRequest,
    StatusRequest,
)
from dynagent.testing.level2.clients import Port
from dynagent.testing.level2.profile import Profile
from dynagent.testing.level2.wires import End, Wires
from dynagent.testing.world import Stream, World
from dynagent.wire.codec import decode_frame, encode_frame
from dynagent.wire.framing import FrameBuffer
from dynagent.wire.registry import VERSION_MAX, VERSION_MIN

_POISON = 600  # request ids from here on are of poison; all others are below 6
KEY = b"hostile"  # no bent bit turns it into a key of the others


class _Ear:
    """What comes back on one of its connections (`env.Handler`)."""

    def __init__(self, client: HostileClient, world: World) -> None:
        self.poisoned = 0  # poison frames sent on this connection
        self._client = client
        self._world = world
        self._heard = FrameBuffer(limits.DATA_FRAME_BYTES_MAX)

    def on_bytes(self, data: bytes) -> None:
        for body in self._heard.feed(data):
            frame = decode_frame(body)
            self._world.verdicts.check(
                "poison_is_refused",
                frame.request_id < _POISON,
                f"an agent answers {frame.message} to a frame in forbidden CBOR",
            )

    def on_closed(self, reason: str) -> None:
        if self.poisoned:
            self._world.verdicts.check("poison_is_refused", True, "")
        self._client.on_gone(self)


class HostileClient:
    """One connection after the other, to any agent."""

    def __init__(self, world: World, wires: Wires, addresses: list[str], profile: Profile) -> None:
        self.is_over = False
        self.frames = 0
        self._world = world
        self._addresses = addresses
        self._pause_s = profile.hostile
        self._dice: Stream = world.stream("hostile")
        self._poison_dice: Stream = world.stream("poison")
        self._ear = _Ear(self, world)  # of the present connection
        self._port = Port(wires, "hostile")
        self._end: End | None = None

    def begin(self) -> None:
        if self._pause_s:
            self._world.after(self._dice.expovariate(1 / self._pause_s), self._next)

    def _next(self) -> None:
        if self.is_over:
            return
        if self._end is None:
            self._port.dial(self._dice.choice(self._addresses), self._on_dialled)
        else:
            self._say()
            if self._dice.random() < 0.1 and self._end is not None:
                self._end.close("bored")
                self._end = None
        self.begin()

    def _on_dialled(self, result: End | str) -> None:
        if isinstance(result, str) or self.is_over or self._end is not None:
            if isinstance(result, End):
                result.handler = _Ear(self, self._world)
                result.line.is_hostile = True
                result.close("not wanted")
            return
        result.line.is_hostile = True
        result.handler = self._ear = _Ear(self, self._world)
        self._end = result
        self._port.on_ready(result)
        if self._dice.random() < 0.8:
            self._write(self._hello())
        elif self._dice.random() < 0.5:
            self._say()  # else it stays silent, and is closed after a while

    def _say(self) -> None:
        data = b"".join(self._bent(self._frame()) for _ in range(self._dice.randint(1, 3)))
        if self._poison_dice.random() < 0.2:
            data = self._poison()
        self.frames += 1
        self._world.faults["hostile_frame"] += 1
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self._end is not None and data:
            self._end.write(data)

    def on_gone(self, ear: _Ear) -> None:
        if ear is self._ear:
            self._end = None

    def stop(self) -> None:
        self.is_over = True
        if self._end is not None:
            self._end.close("has had enough")

    # --- frames ----------------------------------------------------------------------------------

    def _hello(self) -> bytes:
        hello = Hello(
            VERSION_MIN, VERSION_MAX, ROLE_CLIENT, b"", "", b"", [], limits.DATA_FRAME_BYTES_MAX, 0
        )
        return encode_frame(hello, request_id=0, budget_ms=0)

    def _frame(self) -> bytes:
        dice = self._dice
        op_id = dice.randbytes(16)
        messages: list[Message] = [
            Get(KEY, 1),
            Put(KEY, dice.randbytes(dice.choice((0, 10, 3_000))), MODE_OVERWRITE, b"", op_id),
            Merge(1, 2, 0, [[KEY, [7, 1], [b"nonsense"], []]]),
            Read(1, 2, KEY, 1),
            RingRequest(),
            StatusRequest(),
            Ping(),
        ]
        message = dice.choice(messages)
        return encode_frame(message, request_id=dice.randint(0, 5), budget_ms=dice.randint(0, 900))

    def _poison(self) -> bytes:
        self._ear.poisoned += 1
        self._world.faults["poison_frame"] += 1
        request_id = (_POISON + self._ear.poisoned).to_bytes(2, "big")
        if self._poison_dice.random() < 0.5:  # a Get whose key is a string of indefinite length
            body = b"\x85\x0a\x19" + request_id + b"\x00\xf6" + b"\x5f\x44host\x43ile\xff"
        else:  # a Put whose headers have one name twice
            put = Put(KEY, b"", MODE_OVERWRITE, b"", bytes(16), meta={b"a": b"1"})
            body = encode_frame(put, request_id=_POISON, budget_ms=0)[4:]
            body = body.replace(_POISON.to_bytes(2, "big"), request_id, 1)
            body = body.replace(b"\xa1\x41a\x411", b"\xa2\x41a\x411\x41a\x412")
        return len(body).to_bytes(4, "big") + body

    def _bent(self, frame: bytes) -> bytes:
        dice = self._dice
        data = bytearray(frame)
        how = dice.randrange(6)
        if how == 0:
            place = dice.randrange(8 * len(data))
            data[place // 8] ^= 1 << place % 8
        elif how == 1:
            del data[dice.randrange(len(data)) :]
        elif how == 2:
            at = dice.randrange(len(data))
            data[at:at] = dice.randbytes(dice.randint(1, 8))
        elif how == 3:
            data[4 + dice.randrange(len(data) - 4)] = dice.randrange(256)
        elif how == 4:
            data = bytearray(dice.randbytes(dice.randint(1, 60)))
        return bytes(data)  # else a frame as it should be
