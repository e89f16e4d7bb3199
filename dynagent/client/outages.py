"""Which agents a client has lately found absent or silent: pure, the same for every client.

One that hangs takes a request's connection and never answers, which costs each of them half of its
time. So after a failure it is asked last for a while, doubled each time; when that is over, the
next request tries it, and the others wait for what comes of that.
"""

from __future__ import annotations

from dynagent import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Outages:
    """False while there are none. Times are of one monotonic clock, in seconds."""

    __slots__ = ("_rests",)

    def __init__(self) -> None:
        self._rests: dict[str, tuple[float, float]] = {}  # address → (asked last until, how long)

    def __bool__(self) -> bool:
        return bool(self._rests)

    def in_order(self, addresses: Sequence[str], now: float) -> list[str]:
        """Those that are absent last. Whose time is over keeps its place, for this caller only."""
        return sorted(addresses, key=lambda address: self._is_resting(address, now))

    def _is_resting(self, address: str, now: float) -> bool:
        rest = self._rests.get(address)
        if rest is None:
            return False
        until, rest_s = rest
        if now < until:
            return True
        self._rests[address] = (now + rest_s, rest_s)
        return False

    def on_failure(self, address: str, now: float, *, took_s: float) -> None:
        """It could not be reached, or did not answer; finding that out took `took_s`."""
        _, rest_s = self._rests.get(address, (0.0, 0.0))
        rest_s = max(2 * rest_s, limits.RECONNECT_S_MIN, 2 * took_s)
        rest_s = min(rest_s, max(limits.RECONNECT_S_MAX, 2 * took_s))
        self._rests[address] = (now + rest_s, rest_s)

    def on_answer(self, address: str) -> None:
        """It is there."""
        self._rests.pop(address, None)
