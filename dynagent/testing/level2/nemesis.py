"""The nemesis of level 2: one fault after the other, and all of them mended at the end.

**The fault budget.** As in level 1, what is permanent is rationed: at most one host's log rots in a
run, and only where no checker could take it for a torn tail. That host must refuse to start again,
so from then on one copy of everything is lost. A disk that fails an fsync loses only what was never
acknowledged, if the agent behaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dynagent.core.ports import NodeId
from dynagent.testing.ledger import Ledger
from dynagent.testing.level2.clients import FrameClient
from dynagent.testing.level2.host import SimHost
from dynagent.testing.level2.logstore import FILE_NAME
from dynagent.testing.level2.points import Points
from dynagent.testing.level2.profile import STALL_S_MAX, Profile
from dynagent.testing.level2.tasks import TaskClient
from dynagent.testing.level2.wires import Pair, Wires
from dynagent.testing.world import Stream, World


class Nemesis:
    """One fault after the other, with calm between; some end by themselves after a while."""

    def __init__(
        self,
        *,
        world: World,
        wires: Wires,
        hosts: Sequence[SimHost],
        points: Points,
        ledger: Ledger,
        profile: Profile,
        keys: Sequence[bytes],
    ) -> None:
        self.clients: Sequence[FrameClient | TaskClient] = ()
        self._world = world
        self._wires = wires
        self._hosts = hosts
        self._points = points
        self._ledger = ledger
        self._profile = profile
        self._keys = keys
        self._dice: Stream = world.stream("nemesis")
        self._is_over = False
        self._actions: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "power_cut": self._power_cut,
            "power_cut_all": self._power_cut_all,
            "clean_stop": self._clean_stop,
            "stall": self._stall_pair,
            "stall_one_way": self._stall_one_way,
            "stall_node": self._stall_node,
            "reset": self._reset,
            "half_open": self._half_open,
            "slow_disk": self._slow_disk,
            "pause": self._pause,
            "slow_reader": self._slow_reader,
            "fsync_fails": self._fsync_fails,
            "disk_full": self._disk_full,
            "rot": self._rot,
            "clock_jump": self._clock_jump,
        }

    def rest(self) -> None:
        """Waits until the next fault."""
        if self._profile.nemeses:
            delay_s = self._dice.expovariate(1 / self._profile.calm_s)
            self._world.after(delay_s, self._strike)

    def _strike(self) -> None:
        if not self._is_over:
            kinds, weights = zip(*self._profile.nemeses.items(), strict=True)
            self._actions[self._dice.choices(kinds, weights)[0]]()
            self.rest()

    def mend(self) -> None:
        """No more faults; what is broken is mended, who is dead starts. Rot stays."""
        self._is_over = self._points.is_over = True
        for host in self._hosts:
            host.disk.bytes_free = None
            host.disk.fsyncs_to_fail = 0
            if host.life is not None:
                host.life.writer.slowness = 1.0
            host.start()
        for client in self.clients:
            client.caller.wake()
        self._wires.mend()

    def _one(self) -> SimHost:
        return self._dice.choice(self._hosts)

    # --- processes and power ---------------------------------------------------------------------

    def _kill(self) -> None:
        host = self._one()
        if host.life is not None:
            self._world.fault("kill", host.place)
            host.die(power=False)

    def _power_cut(self) -> None:
        host = self._one()
        self._world.fault("power_cut", host.place)
        host.die(power=True)

    def _power_cut_all(self) -> None:
        self._world.fault("power_cut_all", "")
        for host in self._hosts:
            host.die(power=True)

    def _clean_stop(self) -> None:
        host = self._one()
        if host.life is not None:
            self._world.fault("clean_stop", host.place)
            host.stop_cleanly()

    def _pause(self) -> None:
        """An agent's loop does not come round for a while; its deadlines pass meanwhile."""
        life = self._one().life
        if life is not None:
            pause_s = self._dice.choice((0.05, 0.5, 1.5))
            self._world.fault("pause", f"{life.transport.place} for {pause_s} s")
            life.transport.paused_until = self._world.now + pause_s

    # --- the network -----------------------------------------------------------------------------

    def _places(self) -> list[str]:
        return [host.place for host in self._hosts] + [client.place for client in self.clients]

    def _stall_pair(self) -> None:
        one, other = self._dice.sample(self._places(), 2)
        self._stall("stall", [(one, other), (other, one)])

    def _stall_one_way(self) -> None:
        one, other = self._dice.sample(self._places(), 2)
        self._stall("stall_one_way", [(one, other)])

    def _stall_node(self) -> None:
        node = self._one().place
        others = [place for place in self._places() if place != node]
        pairs = [(node, other) for other in others]
        self._stall("stall_node", pairs + [(other, one) for one, other in pairs])

    def _stall(self, kind: str, pairs: Iterable[Pair]) -> None:
        pairs = list(pairs)
        self._world.fault(kind, ", ".join(f"{one}→{other}" for one, other in pairs))
        self._wires.stall(pairs)
        duration_s = self._dice.choice((0.1, 0.5, 0.5, 1.5, 4.0)) * self._dice.uniform(0.5, 1.5)
        assert duration_s < STALL_S_MAX
        self._world.after(duration_s, self._wires.flow, pairs)

    def _reset(self) -> None:
        """A connection is reset; one end may hear of it later than the other."""
        lines = self._wires.open_lines()
        if lines:
            line = self._dice.choice(lines)
            self._world.fault("reset", f"#{line.number}")
            for end in line.ends:
                self._world.after(self._dice.random() ** 3 * 0.5, self._wires.reset, end)

    def _half_open(self) -> None:
        """A client's machine goes away without a word: its agents keep the connection."""
        if self.clients:
            client = self._dice.choice(self.clients)
            self._world.fault("half_open", client.name)
            client.caller.lose_all()

    def _slow_reader(self) -> None:
        if self.clients:
            client = self._dice.choice(self.clients)
            self._world.fault("slow_reader", client.name)
            client.caller.read_late(self._dice.uniform(0.1, 2.0))

    # --- disks and clocks ------------------------------------------------------------------------

    def _slow_disk(self) -> None:
        life = self._one().life
        if life is not None:
            life.writer.slowness = self._dice.choice((5.0, 30.0, 100.0))
            self._world.fault("slow_disk", f"{life.transport.place} ×{life.writer.slowness:.0f}")
            self._world.after(self._dice.uniform(0.2, 2.0), setattr, life.writer, "slowness", 1.0)

    def _fsync_fails(self) -> None:
        host = self._one()
        self._world.fault("fsync_fails", host.place)
        host.disk.fsyncs_to_fail = 1

    def _disk_full(self) -> None:
        host = self._one()
        if host.disk.bytes_free is None:
            host.disk.bytes_free = self._dice.choice((0, 100, 2_000))
            self._world.fault("disk_full", f"{host.place} has {host.disk.bytes_free} bytes left")
            self._world.after(self._dice.uniform(0.5, 3.0), self._free_disk, host)

    def _free_disk(self, host: SimHost) -> None:
        host.disk.bytes_free = None

    def _clock_jump(self) -> None:
        host = self._one()
        host.wall_offset_ms += self._dice.randint(-7_200_000, 7_200_000)
        self._world.fault("clock_jump", f"{host.place} to {host.wall_offset_ms} ms")

    def _rot(self) -> None:
        host = self._one()
        if any(one.is_rotten for one in self._hosts) or host.life is None:
            return
        data_dir = host.life.data_dir
        places = [] if data_dir is None else data_dir.log.places()
        places = [(key, place) for key, place in places if key in self._keys]
        if places:
            key, place = self._dice.choice(places)
            host.disk.rot(FILE_NAME, *place)
            if host.life.agent is not None:
                host.life.agent.node.replica.forget(key)  # met at the next read
            host.is_rotten = True
            self._ledger.on_rot(NodeId(host.place), key)
            self._world.fault("rot", f"{host.place} {key.decode()}")
