"""Pinging for others: the helper's side of an indirect probe (SWIM §4.1).

A `PingFor(target)` becomes a Ping on our own link. Its Pong is passed on; without one in time the
answer is an Error, from which the asker learns that at least we are well (Lifeguard's *nack*).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from dynagent import limits
from dynagent.core.messages import Error, Ping, Pong
from dynagent.core.ports import Effects, LinkId, NodeId
from dynagent.errors import Overloaded, Unreachable


class Relays:
    """Pings under way for others, by their number."""

    def __init__(self, effects: Effects, take_number: Callable[[], int]) -> None:
        self._effects = effects
        self._take_number = take_number
        self._open: dict[int, tuple[LinkId, int, float]] = {}

    def begin(self, link: LinkId, request_id: int, target: NodeId, *, deadline: float) -> None:
        """Raises `Overloaded`."""
        if len(self._open) >= limits.RELAYS_MAX:
            raise Overloaded(f"{limits.RELAYS_MAX} pings for others are under way")
        number = self._take_number()
        self._open[number] = (link, request_id, deadline)
        budget_ms = 1 + int(limits.PROBE_INTERVAL_S_DEFAULT * 1000)
        self._effects.send([target], number, budget_ms, Ping())

    def on_pong(self, number: int) -> bool:
        """True if this Pong was for somebody else, who has it now."""
        relay = self._open.pop(number, None)
        if relay is None:
            return False
        self._effects.answer(relay[0], relay[1], Pong())
        return True

    @property
    def next_deadline(self) -> float:
        return min((deadline for _, _, deadline in self._open.values()), default=inf)

    def on_tick(self, now: float) -> None:
        late = [number for number, relay in self._open.items() if relay[2] <= now]
        for number in late:
            link, request_id, _ = self._open.pop(number)
            self._effects.answer(link, request_id, Error(Unreachable.code, "no answer from it"))
