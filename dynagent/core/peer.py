"""What a node knows of one other member: the row that the failure detector keeps of it.

Who sends and who receives writes the first fields of it in passing (`Coordinator.send`,
`Node.on_reply`): a data request costs an integer and now and then a timestamp, an answer two
assignments. Everything else belongs to `detector.py`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dynagent import limits
from dynagent.core.ports import NodeId

ALIVE, SUSPECT, DEAD, GRAY = "alive", "suspect", "dead", "gray"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How fast detector and gossip are; the knobs of the same names (`config.py`) set it."""

    probe_interval_s: float = limits.PROBE_INTERVAL_S_DEFAULT
    probe_timeout_s: float = limits.PROBE_TIMEOUT_S_DEFAULT
    gray_s: float = limits.GRAY_S_DEFAULT
    suspicion_s: float = limits.SUSPICION_S_DEFAULT
    gossip_interval_s: float = limits.GOSSIP_INTERVAL_S_DEFAULT


class Peer:
    """One other member."""

    __slots__ = (
        "asked",
        "asked_at",
        "backoff_s",
        "deadline",
        "flaps",
        "hang_at",
        "heard_at",
        "helpers",
        "is_accused",
        "is_linked",
        "is_on_trial",
        "is_unwell",
        "is_vouched",
        "node",
        "phase",
        "pings_left",
        "retry_at",
        "since",
        "state",
        "streak",
    )

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.asked = 0  # data requests since its last answer to one
        self.asked_at = 0.0  # when the latest of them began to count
        self.hang_at = 0.0  # when the first of them did, or the one that may make it gray
        self.heard_at = 0.0  # its last answer of any kind
        self.is_unwell = True  # not alive, or on trial: its answers are looked at more closely
        self.state = SUSPECT  # until its link is up
        self.since = 0.0
        self.is_accused = False  # the log has said that it is suspect or gray
        self.is_linked = False
        self.is_on_trial = False  # it was gray, and has not answered a data request since
        self.flaps: deque[float] = deque(maxlen=limits.FLAPS_KEPT)  # when it became suspect
        self.streak = 0  # probes answered in a row since then
        self.backoff_s = 0.0  # how long it is gray the next time, at least
        self.retry_at = 0.0
        self.phase = 0  # of the probe under way, see detector.py
        self.pings_left = 0  # of that phase
        self.deadline = 0.0  # until the next of them, or until the phase ends
        self.helpers: set[NodeId] = set()  # asked to probe it, without an answer so far
        self.is_vouched = False  # a helper has had an answer from it

    @property
    def is_alive(self) -> bool:
        return self.state == ALIVE

    def expect(self, now: float) -> None:
        """A data request has gone out to it, or one that was passed on to it has had no answer."""
        self.asked = asked = self.asked + 1
        self.asked_at = now
        if asked == 1 or asked == limits.GRAY_REQUESTS:
            self.hang_at = now
