"""Nodes that are there and do not work, and whether the failure detectors see it.

    hang      the process is stopped (SIGSTOP): it neither hears nor ticks, then goes on, late
    gray      it answers pings and gossip, and swallows all requests for data
    one_way   what one node sends to another is lost, while their links stay up

One at a time, beside what the nemesis does. While it lasts the judge looks around twice a second
(`hung_is_not_up`): once an observer has had the time that its knobs promise, it must not use the
node any more. Ten seconds after everything is mended everybody uses everybody (`up_again`).
"""

from __future__ import annotations

from collections.abc import Sequence

from dynagent import limits
from dynagent.core.detector import Detector
from dynagent.core.peer import GRAY, Peer
from dynagent.core.ports import NodeId
from dynagent.testing.network import Network
from dynagent.testing.profile import HANG_S_MAX, UP_AGAIN_S, Profile
from dynagent.testing.rings import Rings
from dynagent.testing.simnode import SimNode
from dynagent.testing.world import Stream, World

KINDS = ("hang", "gray", "one_way")
LOOK_S = 0.5
SLACK_S = 0.5  # timers are late, pongs are under way


class Hangs:
    """One fault after the other, with calm between."""

    def __init__(
        self,
        *,
        world: World,
        network: Network,
        nodes: Sequence[SimNode],
        rings: Rings,
        profile: Profile,
    ) -> None:
        self._world = world
        self._network = network
        self._nodes = nodes
        self._rings = rings
        self._profile = profile
        self._dice: Stream = world.stream("hangs")
        self._is_over = False
        self._present: Hang | None = None

    def begin(self) -> None:
        if self._profile.hangs_s and not self._is_over:
            delay_s = self._dice.expovariate(1 / self._profile.hangs_s)
            self._world.after(delay_s, self._strike)

    def heal_everything(self) -> None:
        self._is_over = True
        if self._present is not None:
            self._end(self._present)
        self._world.after(UP_AGAIN_S, self._check_up_again)

    def _strike(self) -> None:
        node, other = self._dice.sample(list(self._nodes), 2)
        kind = self._dice.choice(KINDS)
        duration_s = self._dice.choice((0.3, 1.5, 8.0, 8.0)) * self._dice.uniform(0.7, 1.3)
        assert duration_s <= HANG_S_MAX
        if self._is_over:
            return
        if not node.life:
            self.begin()
            return
        hang = self._present = Hang(kind, node, other, self._world.now)
        self._world.fault(kind, f"{node.id[:2]} for {duration_s:.1f} s")
        if kind == "hang":
            node.pause()
        elif kind == "gray":
            node.is_gray = True
        else:
            self._network.mutes.add((node.id, other.id))
        self._world.after(duration_s, self._end, hang)
        self._world.after(LOOK_S, self._look, hang)

    def _end(self, hang: Hang) -> None:
        if self._present is not hang:
            return
        self._present = None
        hang.node.resume()
        hang.node.is_gray = False
        self._network.mutes.clear()
        self._network.dial_missing()
        self.begin()

    # --- the judge -------------------------------------------------------------------------------

    def _look(self, hang: Hang) -> None:
        if self._present is not hang or hang.node.life != hang.life:
            return  # a process that was killed does not hang any more
        for observer in self._nodes:
            if hang.concerns(observer):
                target = hang.other if observer is hang.node else hang.node
                self._look_at(hang, observer, target.id)
        self._world.after(LOOK_S, self._look, hang)

    def _look_at(self, hang: Hang, observer: SimNode, target: NodeId) -> None:
        detector = observer.detector
        if detector is None:
            return
        health = hang.health.get(observer.id, 0)
        hang.health[observer.id] = max(health, detector.health)
        peer = detector.peers.get(target)
        if peer is None:  # no member of its ring
            return
        allowed_s = self._allowed_s(hang, detector, peer, health)
        since = max(hang.since, peer.since) if peer.is_alive else hang.since
        if hang.kind == "gray" and peer.is_alive:
            since = max(since, peer.hang_at)
        elif hang.kind != "gray":
            # What was asked before may be answered seconds later, by a slow disk. An answer shows
            # that the way there is open, as far as anybody can know: the observer begins anew.
            since = max(since, self._network.answered_at.get((observer.id, target), since))
        if allowed_s is not None and self._world.now - since > allowed_s:
            self._check(
                "hung_is_not_up",
                not peer.is_alive,
                f"{observer.id[:2]} uses {target[:2]}, which is {hang.kind} since {since:.1f}",
            )

    def _allowed_s(self, hang: Hang, detector: Detector, peer: Peer, health: int) -> float | None:
        """How long the observer may go on using it; None if it need not notice."""
        interval_s = self._profile.probe_interval_s
        timeout_s = limits.PROBE_TIMEOUT_S_DEFAULT * (1 + max(health, detector.health))
        # Half an interval while it counts as just heard from; then one sweep until its turn.
        probed_s = 1.5 * interval_s + 3 * timeout_s + SLACK_S
        if hang.kind != "gray":
            return probed_s
        if peer.is_alive and peer.asked < limits.GRAY_REQUESTS:
            return None
        gray_s = limits.GRAY_S_DEFAULT * (1 + max(health, detector.health))
        if peer.is_alive and self._world.now - peer.asked_at > gray_s:
            return None  # no traffic, no verdict
        return max(probed_s, gray_s) + interval_s

    def _check_up_again(self) -> None:
        # A gray peer may be tried from `retry_at` on: when the sweep comes by, within an interval,
        # and then a quarter of one apart, as often as a peer that has flapped must answer.
        probes = limits.FLAPS_KEPT - limits.FLAPS_FREE
        tried_s = self._profile.probe_interval_s * (1 + (probes - 1) / 4) + SLACK_S
        members = {node.id for node in self._nodes if self._counts(node)}
        for observer in self._nodes:
            detector = observer.detector
            for peer in detector.peers.values() if detector is not None else ():
                is_due = peer.state != GRAY or peer.retry_at + tried_s <= self._world.now
                if not {observer.id, peer.node} <= members:
                    continue
                self._check(
                    "up_again",
                    peer.is_alive or not is_due,
                    f"{observer.id[:2]} does not use {peer.node[:2]}: {peer.state}",
                    f"since {peer.since:.1f}, linked: {peer.is_linked}",
                )

    def _counts(self, node: SimNode) -> bool:
        """A member by the newest ring, and not gone for good."""
        return not node.is_gone and self._rings.present.member(node.id) is not None

    def _check(self, checker: str, holds: bool, *what: str) -> None:
        self._world.verdicts.check(checker, holds, *what)


class Hang:
    """One fault."""

    def __init__(self, kind: str, node: SimNode, other: SimNode, since: float) -> None:
        self.kind = kind
        self.life = node.life
        self.node = node
        self.other = other  # of `one_way`: who no longer hears `node`
        self.since = since
        self.health: dict[NodeId, int] = {}  # the worst of each observer meanwhile

    def concerns(self, observer: SimNode) -> bool:
        """Must that one notice?"""
        if self.kind == "one_way":
            return observer in (self.node, self.other)
        return observer is not self.node
