"""The loop's pulse: it beats at the end of every turn, for whoever watches the loop.

This one watches nothing (the second world has no loop to block). The real one is
`agent.watchdog.Watchdog`.
"""

from __future__ import annotations

from dynagent.obs.histogram import Histogram

STALL_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Pulse:
    """What the agent tells of its turns, and what came of it."""

    def __init__(self) -> None:
        self.stalls = Histogram(STALL_BOUNDS_S)

    def beat(self) -> None:
        """A turn has ended."""

    def stop(self) -> None:
        """Turns end here; what blocks the loop from now on does so on purpose. May be repeated."""
