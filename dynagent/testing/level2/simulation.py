"""One run of level 2: real agents on simulated wires and disks, from a seed (design §10).

    bootstrap  fresh agents are started and handed their first ring, over the wire
    phase 1    clients work while the nemesis strikes                       safety
    mend       no more faults; everybody starts, links come up, clients end
    phase 2    an auditor reads every key strictly, writes, reads again     liveness

Everything is the product but clock, dice, bytes in transit, disk blocks and the commit thread.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from traceback import format_exc

import trio

from dynagent.core.entry import decode_stored
from dynagent.core.messages import MODE_CONTEXT, MODE_OVERWRITE
from dynagent.core.ports import NodeId
from dynagent.core.ring import Ring
from dynagent.core.siblings import Dot
from dynagent.errors import CorruptRecord
from dynagent.testing.checkers import Judge
from dynagent.testing.copies import Copy, merge_copies
from dynagent.testing.history import GET, PUT, History, Operation
from dynagent.testing.ledger import Ledger
from dynagent.testing.level2.bootstrap import N, W, bootstrap, until
from dynagent.testing.level2.clients import FrameClient
from dynagent.testing.level2.clock import SimClock, seeded_scheduling
from dynagent.testing.level2.host import LogTap, SimHost
from dynagent.testing.level2.hostile import HostileClient
from dynagent.testing.level2.nemesis import Nemesis
from dynagent.testing.level2.points import Points
from dynagent.testing.level2.profile import Profile, draw
from dynagent.testing.level2.stranger import Stranger
from dynagent.testing.level2.tasks import AppClient, TaskClient
from dynagent.testing.level2.watch import Watch
from dynagent.testing.level2.wires import Wires
from dynagent.testing.simulation import Report as Level1Report
from dynagent.testing.world import World

PHASE_1_S = 60.0  # should the clients not get through their work
SETTLE_S = 10.0  # longer than any deadline, delay, slow job or restart still under way
HOME_S = 60.0  # until the last hint has been delivered
AUDIT_S = 20.0
HORIZON_S = 400.0  # of the whole run: nothing in it can take that long


@dataclass(slots=True, kw_only=True)
class Report(Level1Report):
    """What a run was, and what the checkers said."""

    passed: Counter[str] = field(default_factory=Counter)  # failure points
    struck: Counter[str] = field(default_factory=Counter)


class Simulation:
    """The world of one seed."""

    def __init__(
        self, seed: int, *, profile: Profile | None = None, keep_trace: bool = False
    ) -> None:
        self.world = world = World(seed, keep_trace=keep_trace)
        self.profile = profile = profile if profile is not None else draw(world)
        world.log(f"seed {seed}: {profile}")
        self.keys = [b"k%d" % number for number in range(profile.keys)]
        self.history = History(world)
        self.ledger = Ledger(world, self.history, siblings_max=profile.siblings_max)
        self.points = Points(world, profile.armed)
        self.watch = Watch(world, self.ledger, self.keys)
        self.wires = Wires(world, profile, self.watch)
        self.hosts = [
            SimHost(
                place=f"n{number}",
                world=world,
                wires=self.wires,
                watch=self.watch,
                points=self.points,
                profile=profile,
            )
            for number in range(1, profile.nodes + 1)
        ]
        self.points.victims = list(self.hosts)
        self.nemesis = Nemesis(
            world=world,
            wires=self.wires,
            hosts=self.hosts,
            points=self.points,
            ledger=self.ledger,
            profile=profile,
            keys=self.keys,
        )

    # --- the run ---------------------------------------------------------------------------------

    def run(self) -> Report:
        """Plays it; whatever is raised on the way is a violation like any other."""
        logger, tap = logging.getLogger("dynagent"), LogTap(self.world)
        handlers, level, propagates = logger.handlers[:], logger.level, logger.propagate
        logger.handlers[:], logger.propagate = [tap], False
        logger.setLevel(logging.INFO if self.world.trace is not None else logging.WARNING)
        clock = SimClock(self.world, horizon_s=HORIZON_S)
        try:
            with seeded_scheduling(self.world.seed):
                trio.run(self._main, clock, clock=clock)
        except Exception:
            self.world.verdicts.violations.append(f"crashed: {format_exc()}")
        finally:
            logger.handlers[:], logger.propagate = handlers, propagates
            logger.setLevel(level)
        return self._report()

    def _report(self) -> Report:
        world, operations = self.world, self.history.operations.values()
        return Report(
            seed=world.seed,
            sim_s=world.now,
            messages=world.messages,
            operations=len(operations),
            acknowledged=sum(op.is_write and op.is_ok for op in operations),
            overlapping_pairs=self.history.overlapping_pairs(),
            faults=world.faults,
            evaluations=world.verdicts.evaluations,
            violations=world.verdicts.violations,
            trace=world.trace,
            passed=self.points.passed,
            struck=self.points.struck,
        )

    async def _main(self, clock: SimClock) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clock.drive)
            for host in self.hosts:
                host.nursery = nursery
                host.start()
            if self.profile.tasks:
                await self._play_with_tasks()
            else:
                await self._play(self._client)
            nursery.cancel_scope.cancel()

    async def _play_with_tasks(self) -> None:
        """The clients of phase 1 are tasks of one application."""
        endpoints = [host.address for host in self.hosts]
        async with (
            AppClient(endpoints, self.wires, self.profile) as app,
            trio.open_nursery() as nursery,
        ):

            def make(ring: Ring, number: int, profile: Profile) -> TaskClient:
                return TaskClient(
                    app,
                    nursery,
                    number=number,
                    world=self.world,
                    history=self.history,
                    ring=ring,
                    profile=profile,
                    keys=self.keys,
                )

            await self._play(make)
            self.world.verdicts.check(
                "nothing_left", not app.left_over, f"the trio client has {app.left_over} left over"
            )

    async def _play(self, make: Callable[[Ring, int, Profile], FrameClient | TaskClient]) -> None:
        world, profile = self.world, self.profile
        ring = await bootstrap(world, self.wires, self.watch, self.hosts)
        clients = [make(ring, number, profile) for number in range(1, profile.clients + 1)]
        self.nemesis.clients = clients
        hostile = HostileClient(world, self.wires, [host.address for host in self.hosts], profile)
        stranger = Stranger(world, self.wires, [host.address for host in self.hosts])
        await trio.sleep(0.3)  # links come up
        for client in clients:
            client.think()
        hostile.begin()
        stranger.begin()
        self.nemesis.rest()
        with trio.move_on_after(PHASE_1_S):
            await until(lambda: len(self.history.operations) >= profile.operations)
        world.log("=== phase 1 is over: mend everything")
        for client in clients:
            client.is_retired = True
        hostile.stop()
        stranger.stop()
        self.nemesis.mend()
        await until(lambda: all(client.is_idle for client in clients))
        await trio.sleep(SETTLE_S)
        if not any(host.is_rotten for host in self.hosts):  # what has rotted waits to be healed
            with trio.move_on_after(HOME_S):
                await until(lambda: not any(host.owes() for host in self.hosts))
            for host in self.hosts:
                world.verdicts.check(
                    "hints_come_home", not host.owes(), f"{host.place} owes {host.owes()}"
                )
        world.log("=== phase 2: audit")
        finals = self._judge()
        auditor = self._client(ring, 0, replace(profile, timeout_s=8.0, router=1.0))
        auditor.is_retired = True
        if profile.antientropy_s and not any(host.is_rotten for host in self.hosts):
            with trio.move_on_after(HOME_S):
                await until(self._are_replicas_equal)
            world.verdicts.check(
                "replicas_converge", self._are_replicas_equal(), "the owners' roots differ"
            )
        for host in self.hosts:
            host.stop_antientropy()
        for key, final in finals.items():
            await self._audit(auditor, ring, key, final)
        await trio.sleep(SETTLE_S)
        running = {host.node_id for host in self.hosts if host.life is not None}
        for host in self.hosts:
            host.check_nothing_left()
            if host.life is not None:
                self._heals(
                    host.sees_up() == running, f"{host.place} has a wrong view of its peers"
                )
        self.watch.check_all_answered(self.wires.open_lines())

    def _are_replicas_equal(self) -> bool:
        """All owners of each partition have the same root."""
        found: dict[int, set[bytes]] = {}
        for host in self.hosts:
            for partition, root in host.roots().items():
                found.setdefault(partition, set()).add(root)
        return all(len(roots) == 1 and b"" not in roots for roots in found.values())

    def _client(self, ring: Ring, number: int, profile: Profile) -> FrameClient:
        return FrameClient(
            number=number,
            world=self.world,
            wires=self.wires,
            history=self.history,
            ring=ring,
            profile=profile,
            keys=self.keys,
        )

    # --- the end ---------------------------------------------------------------------------------

    def _judge(self) -> dict[bytes, frozenset[Dot]]:
        for host in self.hosts:
            for key in self.keys if host.is_lost else ():
                self.ledger.on_rot(NodeId(host.place), key)
            self._heals(host.life is not None or host.is_lost, f"{host.place} does not run")
        finals = {key: merge_copies(self._copies(key).values())[1] for key in self.keys}
        for key, final in finals.items():
            Judge(
                key=key,
                history=self.history,
                ledger=self.ledger,
                verdicts=self.world.verdicts,
                n=N,
                w=W,
                final=final,
            ).judge()
        return finals

    def _copies(self, key: bytes) -> dict[NodeId, Copy]:
        """What the disks hold, a rotten one excepted."""
        copies: dict[NodeId, Copy] = {}
        for host in self.hosts:
            stored = None if host.is_lost or host.life is None else host.stored(key)
            if stored is not None:
                try:
                    record = decode_stored(stored, cluster_id=self.watch.cluster_id, key=key)
                except CorruptRecord:
                    continue
                value = record.value
                copies[NodeId(host.place)] = (value.clock, frozenset(value.dots()))
        return copies

    async def _audit(
        self, auditor: FrameClient, ring: Ring, key: bytes, final: frozenset[Dot]
    ) -> None:
        """Nothing is broken any more: strict reads and writes succeed, and leave one value."""
        is_rotten = any(rotten == key for _, rotten in self.ledger.rotten)
        r = N - is_rotten
        w = N - any(host.is_lost for host in self.hosts)
        first = await self._ask(auditor, GET, key, r=r, w=w)
        writers = {self.ledger.sightings[key][dot].writer for dot in final}
        self._heals(first.is_ok, f"a get of {key!r} with R={r} does not succeed")
        if not is_rotten:
            self._heals(
                set(first.values) == writers,
                f"a get of {key!r} with R={N} has {first.values}, the disks {sorted(writers)}",
            )
        mode = MODE_OVERWRITE if is_rotten else MODE_CONTEXT  # as in level 1
        put = await self._ask(auditor, PUT, key, r=r, w=w, mode=mode)
        self._heals(put.is_ok, f"a put of {key!r} with W={w} does not succeed")
        last = await self._ask(auditor, GET, key, r=r, w=w)
        self._heals(
            # A copy that was unreadable may have kept back what only it held.
            put.number in last.values if is_rotten else last.values == (put.number,),
            f"{key!r} holds {last.values} after put {put.number}, which had seen everything",
        )

    async def _ask(
        self,
        auditor: FrameClient,
        kind: str,
        key: bytes,
        *,
        r: int,
        w: int,
        mode: int = MODE_CONTEXT,
    ) -> Operation:
        operation = auditor.begin(kind=kind, key=key, mode=mode, r=r, w=w)
        with trio.move_on_after(AUDIT_S):
            await until(lambda: auditor.is_idle)
        return operation

    def _heals(self, holds: bool, what: str) -> None:
        self.world.verdicts.check("heals", holds, what)


def run(seed: int, *, profile: Profile | None = None, keep_trace: bool = False) -> Report:
    """Runs one seed; the same seed gives the same report and trace in every process."""
    return Simulation(seed, profile=profile, keep_trace=keep_trace).run()
