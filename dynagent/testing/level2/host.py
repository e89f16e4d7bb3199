"""A host of level 2: a disk that stays, and on it one life after the other of the real agent.

A life is one process: `SimDataDir.open`, an `Env`, an `Agent`, until it stops by itself, drains,
or dies. Dying is immediate: the seams of that life (transport, writer, data directory) stop having
any effect at that instant, then its tasks are cancelled.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from traceback import format_exception

import trio

from dynagent import limits
from dynagent.agent.agent import Agent
from dynagent.config import Config
from dynagent.core.ports import Dice, NodeId
from dynagent.core.ring import token_of
from dynagent.env import Env
from dynagent.errors import DataDirError, DynagentError, StoreFailed
from dynagent.testing.level2.datadir import SimDataDir
from dynagent.testing.level2.disk import Gone, SimDisk
from dynagent.testing.level2.logstore import FILE_NAME
from dynagent.testing.level2.points import Points
from dynagent.testing.level2.profile import Profile
from dynagent.testing.level2.transport import SimTransport, SimWriter
from dynagent.testing.level2.watch import Watch, WatchedStore
from dynagent.testing.level2.wires import Wires
from dynagent.testing.trees import check_trees
from dynagent.testing.world import Stream, World

PORT = 7411
WHERE: ContextVar[str] = ContextVar("WHERE", default="")  # whose code is running, for the log


class Life:
    """One process: its seams, and the agent once it runs."""

    def __init__(self, transport: SimTransport, writer: SimWriter) -> None:
        self.transport = transport
        self.writer = writer
        self.scope = trio.CancelScope()
        self.data_dir: SimDataDir | None = None
        self.agent: Agent | None = None
        self.nursery: trio.Nursery | None = None


class SimHost:
    """A machine: at any time it runs one agent or none."""

    def __init__(
        self,
        *,
        place: str,
        world: World,
        wires: Wires,
        watch: Watch,
        points: Points,
        profile: Profile,
    ) -> None:
        self.place = place
        self.address = f"{place}:{PORT}"
        self.node_id = NodeId("")
        self.life: Life | None = None
        self.is_rotten = False  # its log is damaged for good: it must not start again
        self.is_lost = False  # and it has refused to
        self.disk = SimDisk(world.stream(f"disk {place}"), point=self._on_point)
        self.nursery: trio.Nursery | None = None
        self._world = world
        self._wires = wires
        self._watch = watch
        self._points = points
        self._profile = profile
        self._streams: dict[str, Stream] = {}
        self._timing = world.stream(f"restarts {place}")
        self.wall_offset_ms = self._timing.randint(-profile.skew_ms, profile.skew_ms)
        self._clock_s = float(self._timing.randint(1, 1_000_000))  # since it was booted

    # --- its world -------------------------------------------------------------------------------

    def _dice(self, name: str) -> Dice:
        """Streams go on from life to life: a new process does not repeat the old one's dice."""
        return self._streams.setdefault(name, self._world.stream(f"{name} of {self.place}"))

    def _wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self._world.now * 1000) + self.wall_offset_ms

    def _monotonic(self) -> float:
        return self._clock_s + self._world.now

    def _on_point(self, point: str) -> None:
        self._points.on(self, point)

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.life is None and not self.is_lost:
            self._wires.down.discard(self.place)
            transport = SimTransport(self._wires, self.place, self._profile, self._on_point)
            writer = SimWriter(
                self._world,
                transport,
                self._profile,
                point=self._on_point,
                on_failed=lambda: self._on_failed(transport),
            )
            self.life = Life(transport, writer)
            assert self.nursery is not None
            self.nursery.start_soon(self._live, self.life)

    async def _live(self, life: Life) -> None:
        WHERE.set(self.place)
        ended = "is dead"
        try:
            with life.scope:
                agent = self._open(life)
                ended = await self._run(life, agent)
        except Gone:
            pass
        except DataDirError as exc:
            self._on_refused(exc)
            ended = f"does not start: {exc.message}"
        except StoreFailed as exc:
            ended = exc.message
        except Exception as exc:
            self._world.verdicts.check("crashed", False, self.place, *format_exception(exc))
        if self.life is life:
            self._world.log(f"{self.place} {ended}")
            self._end(life)

    def _open(self, life: Life) -> Agent:
        before = self.disk.fsyncs_failed
        engine = partial(WatchedStore, watch=self._watch, node=NodeId(self.place))
        path = Path(f"/{self.place}")
        life.data_dir = SimDataDir.open(self.disk, path, dice=self._dice("identity"), engine=engine)
        value = life.data_dir.identity_file.value
        self._check(not self.is_rotten or self.disk.fsyncs_failed > before, "opens a damaged log")
        if self.node_id:
            self._check(value.node_id == self.node_id, f"was {self.node_id}, is {value.node_id}")
        self.node_id = value.node_id
        self._world.log(f"{self.place} starts run {value.run}, clean from {value.clean_from_run}")
        config = Config(
            data_dir=str(path),
            listen=self.address,
            name=self.place,
            host=self.place,
            probe_interval_s=self._profile.probe_interval_s,
            siblings_max=self._profile.siblings_max,
            cache_bytes=limits.CACHE_BYTES_DEFAULT,
            antientropy_interval_s=self._profile.antientropy_s,
            tombstone_rest_s=0.0,
        )
        env = Env(
            monotonic=self._monotonic,
            wall_ms=self._wall_ms,
            dice=self._dice,
            transport=life.transport,
            writer=life.writer,
        )
        life.agent = Agent(config, env, life.data_dir)
        self._check_trees(life, is_quiet=False)
        return life.agent

    async def _run(self, life: Life, agent: Agent) -> str:
        failure: DynagentError | Gone | None = None
        async with trio.open_nursery() as nursery:
            life.nursery = nursery
            try:
                await agent.run()
            except (DynagentError, Gone) as exc:
                failure = exc  # out of the nursery, which would wrap it in a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return "has stopped"

    def _on_failed(self, transport: SimTransport) -> None:
        self._watch.silence(transport)
        self._world.after(1.0, self._check_stopped, transport)

    def _check_stopped(self, transport: SimTransport) -> None:
        self._world.verdicts.check(
            "failed_stops", transport.is_dead, f"{self.place} goes on although its disk has failed"
        )

    def _on_refused(self, exc: DataDirError) -> None:
        is_log = exc.message.startswith(f"{FILE_NAME}: damaged")
        self._check(self.is_rotten or not is_log, f"takes a sound log for damaged: {exc.message}")
        self.is_lost = self.is_rotten

    def _check(self, holds: bool, what: str) -> None:
        self._world.verdicts.check("store_is_known", holds, self.place, what)

    # --- death -----------------------------------------------------------------------------------

    def die(self, *, power: bool) -> None:
        """The process is killed, or the machine loses its power; it starts again by itself."""
        if power:
            self.disk.cut_power()
        life = self.life
        if life is None:
            return
        self._world.log(f"{self.place} dies")
        if power:
            self._wires.down.add(self.place)
        self._end(life, loudly=not power)
        life.scope.cancel()

    def _end(self, life: Life, *, loudly: bool = True) -> None:
        self.life = None
        ends = list(life.transport.ends)
        life.transport.die(loudly=loudly)
        life.writer.is_dead = True
        if life.data_dir is not None:
            life.data_dir.abandon()
        if not loudly:
            for end in ends:
                if self._timing.random() < 0.7:  # else only when it is spoken to, or in the end
                    delay_s = self._timing.uniform(0.02, 0.7)
                    self._world.after(delay_s, self._wires.reset, end.other)
        delay_s = self._timing.choice((0.02, 0.2, 0.2, 1.0, 4.0)) * (0.5 + self._timing.random())
        self._world.after(delay_s, self.start)

    def stop_cleanly(self) -> None:
        """SIGTERM."""
        life = self.life
        if life is None or life.agent is None or life.nursery is None:
            return
        if life.agent.address and not life.agent.node.draining:
            life.nursery.start_soon(life.agent.drain)

    # --- what the end of a run asks --------------------------------------------------------------

    def stored(self, key: bytes) -> bytes | None:
        """What its disk holds of a key."""
        assert self.life is not None
        assert self.life.data_dir is not None
        return self.life.data_dir.store.get(token_of(key), key)

    def owes(self) -> dict[NodeId, int]:
        """What it owes to whom: hints."""
        agent = self.life.agent if self.life is not None else None
        return dict(agent.node.replica.hints.counts) if agent is not None else {}

    def sees_up(self) -> set[NodeId]:
        """Whom its agent believes to be up."""
        agent = self.life.agent if self.life is not None else None
        coordinator = agent.node.coordinator if agent is not None else None
        return set(coordinator.up) if coordinator is not None else set()

    def stop_antientropy(self) -> None:
        """It begins no more rounds."""
        agent = self.life.agent if self.life is not None else None
        if agent is not None and agent.node.antientropy is not None:
            agent.node.antientropy.interval_s = 0.0

    def roots(self) -> dict[int, bytes]:
        """Of its trees, by partition."""
        agent = self.life.agent if self.life is not None else None
        forest = agent.node.replica.forest if agent is not None else None
        return {at: forest.root(at) for at in forest.partitions} if forest is not None else {}

    def check_nothing_left(self) -> None:
        """When all is quiet: no operation, no change, no link that is not whole."""
        life = self.life
        if life is None or life.agent is None:
            return
        agent, ends = life.agent, life.transport.ends
        assert agent.node.coordinator is not None
        left = {
            "operations": len(agent.node.coordinator.operations),
            "uncommitted": int(not agent.node.is_idle),
            "jobs": int(life.writer.is_busy),
            "greeting": len(agent._links.greeting),
            "links": len(agent._links.by_id) - sum(not end.is_dialler for end in ends),
        }
        self._world.verdicts.check(
            "nothing_left", not any(left.values()), f"{self.place} has left over: {left}"
        )
        self._check_trees(life, is_quiet=True)

    def _check_trees(self, life: Life, *, is_quiet: bool) -> None:
        """The trees say what the disk holds; no batch is under way."""
        assert life.agent is not None
        assert life.data_dir is not None
        node, reader, verdicts = life.agent.node, life.data_dir.store, self._world.verdicts
        if node.ring is not None:
            forest = node.replica.forest
            check_trees(verdicts, forest, reader, node.ring, node.node_id, is_quiet=is_quiet)


class LogTap(logging.Handler):
    """The agents' own log goes into the trace; what it says of crashes and clashes is judged."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        event = record.getMessage()
        fields: dict[str, object] = getattr(record, "fields", {})
        self._world.log(f"{WHERE.get()} logs {event} {fields}")
        verdicts = self._world.verdicts
        if event in ("link.crashed", "peer.crashed") and record.exc_info:
            verdicts.check("crashed", False, WHERE.get(), *format_exception(record.exc_info[1]))
        elif event == "record.clash":
            verdicts.check("dots_unique", False, WHERE.get(), fields)
