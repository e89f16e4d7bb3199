"""What a node says of itself, and when that is worth saying again.

Who and where it is, its release, its epoch of the ring, whether it is draining: any change at once.
Its load moves all the time, and every change goes to everybody: so it is looked at every
`limits.LOAD_S`, and told if a figure has moved by an eighth; a smaller change only after
`limits.LOAD_REST_S`, so that in the end the figures are right. An idle node says nothing.
"""

from __future__ import annotations

from math import inf

from dynagent import limits
from dynagent.core.facts import Portrait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dynagent.core.node import Node

# Keys, bytes stored, requests per second, in flight, hints, background share (1/1000).
_Load = tuple[int | None, int | None, int, int, int, int]


class SelfPortrait:
    """Draws the portrait of one node, which has a ring."""

    def __init__(self, node: Node, *, started_ms: int) -> None:
        self._node = node
        self._started_ms = started_ms
        self._release = ""
        self._load: _Load = (None, None, 0, 0, 0, 0)  # as last told
        self._told_at = -inf
        self._look_at = -inf
        self._requests = 0  # at the last look
        self._looked_at = -inf

    def draw(self, now: float) -> Portrait:
        """The portrait by now; equal to the one before it if there is nothing to tell."""
        node = self._node
        assert node.ring is not None
        if now >= self._look_at:
            self._look(now)
        member = node.ring.member(node.node_id)
        about = node.about

        def text(name: str) -> str:
            found = about.get(name, getattr(member, name, ""))
            return _cut(found if isinstance(found, str) else "")

        keys, stored_bytes, requests_per_s, in_flight, hints, background = self._load
        return Portrait(
            name=text("name"),
            address=text("address"),
            zone=text("zone"),
            host=text("host"),
            release=self._release,
            epoch=node.ring.epoch,
            started_ms=self._started_ms,
            draining=node.draining,
            keys=keys,
            stored_bytes=stored_bytes,
            requests_per_s=requests_per_s,
            in_flight=in_flight,
            hints=hints,
            background_permille=background,
        )

    def _look(self, now: float) -> None:
        load = self._measure(now)
        self._look_at = now + limits.LOAD_S
        is_news = any(map(_is_news, self._load, load))
        if is_news or (load != self._load and now - self._told_at >= limits.LOAD_REST_S):
            self._load, self._told_at = load, now

    def _measure(self, now: float) -> _Load:
        node = self._node
        shell = node.measure()
        self._release = _cut(str(shell.get("version", "")))
        store = shell.get("store")
        stored: dict[str, Any] = store if isinstance(store, dict) else {}
        requests = node.counters.get("Get", 0) + node.counters.get("Put", 0)
        rate = (requests - self._requests) / (now - self._looked_at)
        self._requests, self._looked_at = requests, now
        return (
            stored.get("keys"),
            stored.get("bytes"),
            round(rate),
            len(node.coordinator.operations) if node.coordinator is not None else 0,
            sum(node.replica.hints.counts.values()),
            round(1000 * node.budget.share_at(now)),
        )


def _is_news(old: int | None, new: int | None) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(new - old) > limits.LOAD_CHANGE_MIN * max(new, old)


def _cut(text: str) -> str:
    return text.encode()[: limits.FACT_TEXT_BYTES_MAX].decode(errors="ignore")
