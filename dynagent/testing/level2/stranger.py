"""A stranger: an agent, or a client, of another cluster that has the address of one of ours.

So it is when two clusters swap addresses, or somebody copies a list of them. It says in its Hello
to whom it belongs, then at once what is said in its own cluster. An agent that belongs to ours must
answer with errors only (`strangers_are_refused`). It comes in some seeds, with dice of its own.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.messages import (
    MODE_OVERWRITE,
    ROLE_CLIENT,
    ROLE_PEER,
    Error,
    Get,
    Hello,
    Merge,
    Message,
    Put,
    Read,
)
from dynagent.testing.level2.clients import Port
from dynagent.testing.level2.wires import End, Wires
from dynagent.testing.world import World
from dynagent.wire.codec import decode_frame, encode_frame
from dynagent.wire.framing import FrameBuffer
from dynagent.wire.registry import VERSION_MAX, VERSION_MIN

KEY = b"stranger"
_SHARE_OF_SEEDS = 0.15
_PAUSE_S = 0.8  # between two of its visits, on the average


class Stranger:
    """One connection after the other, to any agent."""

    def __init__(self, world: World, wires: Wires, addresses: list[str]) -> None:
        self._world = world
        self._addresses = addresses
        self._dice = world.stream("strangers")
        self._is_over = self._dice.random() >= _SHARE_OF_SEEDS
        self._port = Port(wires, "stranger")

    def begin(self) -> None:
        if not self._is_over:
            self._world.after(self._dice.expovariate(1 / _PAUSE_S), self._visit)

    def stop(self) -> None:
        self._is_over = True

    def _visit(self) -> None:
        if not self._is_over:
            self._port.dial(self._dice.choice(self._addresses), self._on_dialled)
            self.begin()

    def _on_dialled(self, result: End | str) -> None:
        if isinstance(result, str):
            return
        result.line.is_hostile = True
        result.handler = _Ear(self._world)
        self._port.on_ready(result)
        self._world.faults["stranger"] += 1
        for number, message in enumerate(self._talk()):
            result.write(encode_frame(message, request_id=number, budget_ms=500 if number else 0))
        self._world.after(1.0, result.close, "has had enough")

    def _talk(self) -> list[Message]:
        if self._dice.random() < 0.5:
            put = Put(KEY, b"theirs", MODE_OVERWRITE, b"", self._dice.randbytes(16))
            return [_hello(ROLE_CLIENT), Get(KEY, 1), put]
        merge = Merge(1, 2, 0, [[KEY, [7, 1], [b"theirs"], []]])
        return [_hello(ROLE_PEER), Read(1, 2, KEY, 1), merge]


def _hello(role: int) -> Hello:
    node_id = "f" * 16 if role == ROLE_PEER else ""
    return Hello(
        *(VERSION_MIN, VERSION_MAX, role, b"another cluster.", node_id, b""),
        *([], limits.DATA_FRAME_BYTES_MAX, 0),
    )


class _Ear:
    """What it hears on one connection (`env.Handler`)."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._heard = FrameBuffer(limits.DATA_FRAME_BYTES_MAX)
        self._is_fresh = False  # that agent has no cluster yet, and may say so

    def on_bytes(self, data: bytes) -> None:
        for body in self._heard.feed(data):
            message = decode_frame(body).message
            if isinstance(message, Hello):
                self._is_fresh = not message.cluster_id
            elif not self._is_fresh:
                self._world.verdicts.check(
                    "strangers_are_refused",
                    isinstance(message, Error),
                    f"an agent answers {message} to one of another cluster",
                )

    def on_closed(self, reason: str) -> None:
        pass
