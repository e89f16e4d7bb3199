"""Hint markers in memory: for each target a sorted list of what is owed to it.

For the engines that keep everything in memory anyway. A list is replaced, never changed, so that a
reader on another thread sees the markers of a target before a batch or after it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from dynagent.core.ports import NodeId, Token

Hint = tuple[NodeId, Token, bytes, bool]


class Markers:
    """The markers of a store, as `Reader` shows them."""

    def __init__(self) -> None:
        self._places: dict[NodeId, list[bytes]] = {}  # token ‖ key: a token has 16 bytes

    def apply(self, hints: Iterable[Hint]) -> None:
        """Adds and removes, in this order."""
        changed: dict[NodeId, list[bytes]] = {}
        for target, token, key, owed in hints:
            places = changed.get(target)
            if places is None:
                places = changed[target] = self._places.get(target, []).copy()
            place = token + key
            at = bisect_left(places, place)
            is_there = at < len(places) and places[at] == place
            if owed and not is_there:
                places.insert(at, place)
            elif is_there and not owed:
                del places[at]
        self._places.update(changed)

    def read(self, target: NodeId, after: bytes, count: int) -> list[tuple[Token, bytes]]:
        places = self._places.get(target, [])
        first = bisect_right(places, after)
        return [(Token(place[:16]), place[16:]) for place in places[first : first + count]]

    def has(self, target: NodeId, token: Token, key: bytes) -> bool:
        places = self._places.get(target, [])
        at = bisect_left(places, token + key)
        return at < len(places) and places[at] == token + key

    def counts(self) -> dict[NodeId, int]:
        return {target: len(places) for target, places in self._places.items() if places}

    def rows(self) -> list[Hint]:
        """What `apply` makes these markers of."""
        return [
            (target, Token(place[:16]), place[16:], True)
            for target, places in self._places.items()
            for place in places
        ]
