"""How fast a transfer goes, and when it will be over: for people."""

from __future__ import annotations

from collections import deque

from dynagent import limits


class Pace:
    """Of what has been copied in the last `TRANSFER_PACE_S`."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()  # when, records, bytes by then

    def is_due(self, now: float) -> bool:
        return not self._seen or now - self._seen[-1][0] >= limits.TRANSFER_PACE_STEP_S

    def note(self, now: float, records: int, size: int) -> None:
        self._seen.append((now, records, size))
        while now - self._seen[0][0] > limits.TRANSFER_PACE_S:
            self._seen.popleft()

    def document(self, now: float, records_left: int) -> dict[str, object]:
        """`eta_s` is None while nothing moves."""
        records_per_s = bytes_per_s = 0.0
        if len(self._seen) > 1:
            (began, records, size), (ended, records_then, size_then) = self._seen[0], self._seen[-1]
            seconds = max(now, ended) - began
            records_per_s = (records_then - records) / seconds
            bytes_per_s = (size_then - size) / seconds
        return {
            "records_per_s": round(records_per_s, 1),
            "bytes_per_s": int(bytes_per_s),
            "eta_s": round(records_left / records_per_s, 1) if records_per_s > 0 else None,
        }
