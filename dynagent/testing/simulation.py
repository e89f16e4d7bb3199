"""One run: build a world from a seed, let it go wrong, mend it, and judge (design §10, level 1).

    phase 1   clients work while the nemesis strikes                       safety
    mend      no more faults; everybody starts, links come up, clients end
    phase 2   an auditor reads every key strictly, writes, and reads again liveness

The cores are the real ones (`core.node.Node`), driven by one event heap without codec, sockets or
trio, so a run costs a tenth of a CPU-second and a seed is enough to repeat it, byte by byte.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from traceback import format_exc

from dynagent import limits
from dynagent.core.entry import decode_stored
from dynagent.core.hints import ROW, decode_row
from dynagent.core.messages import MODE_CONTEXT, MODE_OVERWRITE, Message
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Member, Ring, token_of
from dynagent.core.salvage import FIRST, LAST
from dynagent.core.siblings import Dot
from dynagent.core.unknown import ROW as UNKNOWN_ROW
from dynagent.core.unknown import decode_row as decode_unknown
from dynagent.core.voters import choose_voters
from dynagent.errors import CorruptRecord
from dynagent.testing.checkers import Judge
from dynagent.testing.clients import SimClient
from dynagent.testing.copies import Copy, merge_copies
from dynagent.testing.debts import owed_targets
from dynagent.testing.grapevine import TRIPS_S, Grapevine
from dynagent.testing.hangs import Hangs
from dynagent.testing.history import DELETE, GET, PUT, History, Operation
from dynagent.testing.ledger import Ledger, name_dot
from dynagent.testing.listings import Lister
from dynagent.testing.network import Network
from dynagent.testing.operators import Operators
from dynagent.testing.profile import Profile, draw
from dynagent.testing.repairs import Repairs
from dynagent.testing.rings import Rings
from dynagent.testing.shapes import Shapes
from dynagent.testing.simnode import SimNode
from dynagent.testing.swarm import Nemesis
from dynagent.testing.takeovers import Takeovers
from dynagent.testing.twins import Twins
from dynagent.testing.world import World

N, R, W = 3, 2, 2
PARTITIONS = 8
HORIZON_S = 120.0  # of phase 1, should the clients not get through their work
SETTLE_S = 8.0  # longer than any deadline, delay, slow batch or restart still under way
PURGED_S = 3.0  # until a round of purging that is under way has ended
HOME_S = 60.0  # until the last hint has been delivered
HEAL_S = 90.0  # until the last copy is known again: after a pause of the healer's longest
AUDIT_S = 20.0


@dataclass(slots=True, kw_only=True)
class Report:
    """What a run was, and what the checkers said."""

    seed: int
    sim_s: float
    messages: int
    operations: int
    acknowledged: int  # writes
    overlapping_pairs: int
    faults: Counter[str]
    evaluations: Counter[str]
    violations: list[str]
    trace: list[str] | None


class Simulation:
    """The world of one seed."""

    def __init__(
        self, seed: int, *, profile: Profile | None = None, keep_trace: bool = False
    ) -> None:
        self.world = world = World(seed, keep_trace=keep_trace)
        self.profile = profile = profile if profile is not None else draw(world)
        world.log(f"seed {seed}: {profile}")
        self.keys = [b"k%d" % number for number in range(profile.keys)]
        ring = make_ring(profile.nodes, per_machine=profile.nodes_per_machine)
        self.rings = Rings(world, ring)
        members = [*ring.members, *make_spares(ring, profile.spares)]
        self.history = History(world)
        self.ledger = Ledger(
            world,
            self.history,
            siblings_max=profile.siblings_max,
            hosts={member.id: member.host for member in members},
        )
        self.grapevine = Grapevine(world, interval_s=limits.GOSSIP_INTERVAL_S_DEFAULT)
        self.network = Network(world, profile)
        self.repairs = Repairs(
            world=world, rings=self.rings, ledger=self.ledger, profile=profile, keys=self.keys
        )
        self.nodes = [
            SimNode(
                world=world,
                network=self.network,
                ledger=self.ledger,
                grapevine=self.grapevine,
                repairs=self.repairs,
                rings=self.rings,
                member=member,
                is_member=member in ring.members,
                profile=profile,
                on_moment=self._on_moment,
            )
            for member in members
        ]
        self.network.hosts.update({node.id: node for node in self.nodes})
        self.repairs.nodes.update({node.id: node for node in self.nodes})
        disks = {node.id: node.disk for node in self.nodes}
        takeovers = Takeovers(
            world=world,
            history=self.history,
            ledger=self.ledger,
            keys=self.keys,
            copy_of=lambda node, key: disks[node].copy_of(token_of(key), key),
        )
        self.rings.on_newest = takeovers.on_ring
        self.nemesis = Nemesis(
            world=world,
            network=self.network,
            nodes=self.nodes,
            rings=self.rings,
            profile=profile,
            keys=self.keys,
            ledger=self.ledger,
            history=self.history,
        )
        self.twins = Twins(world=world, network=self.network, nodes=self.nodes)
        self.operators = Operators(
            world=world,
            network=self.network,
            rings=self.rings,
            nodes=self.nodes,
            members=members,
            profile=profile,
            may_lose=self.nemesis.may_lose,
        )
        self.hangs = Hangs(
            world=world, network=self.network, nodes=self.nodes, rings=self.rings, profile=profile
        )
        self.shapes = Shapes(world=world, network=self.network, nodes=self.nodes, profile=profile)
        self.clients = [self._client(number, profile) for number in range(1, profile.clients + 1)]
        self.auditor = self._client(0, replace(profile, budget_ms=4000, patience=1.5))
        self.auditor.is_retired = True
        self.lister = Lister(
            world=world,
            hosts={node.id: node for node in self.nodes},
            rings=self.rings,
            profile=profile,
            keys=self.keys,
        )

    @property
    def ring(self) -> Ring:
        """The newest one that anybody has."""
        return self.rings.present

    def _on_moment(self, node: SimNode, message: Message) -> None:
        self.nemesis.on_moment(node, message)

    def _client(self, number: int, profile: Profile) -> SimClient:
        return SimClient(
            number=number,
            world=self.world,
            network=self.network,
            history=self.history,
            ring=self.ring,
            profile=profile,
            keys=self.keys,
            agents=self._agents,
        )

    def _agents(self) -> list[NodeId]:
        """Whom clients ask: members, as far as they have learnt that, which are to stay."""
        ring = self.rings.present
        gone = {*ring.leaving, *ring.removed}
        asked = [m.id for m in ring.members if m.id not in gone]
        if ring.epoch > 1:
            able = [node.id for node in self.nodes if node.has_joined and not node.is_gone]
            return [node for node in asked if node in able] or asked
        return asked

    @property
    def members(self) -> list[SimNode]:
        """The nodes of the newest ring, without those that are gone for good."""
        return [
            node
            for node in self.nodes
            if not node.is_gone and self.ring.member(node.id) is not None
        ]

    # --- the phases ------------------------------------------------------------------------------

    def run(self, *, horizon_s: float = HORIZON_S) -> Report:
        """Plays the whole run; an exception of the core is a violation like any other."""
        try:
            self._play(horizon_s)
        except Exception:
            self.world.verdicts.violations.append(f"crashed: {format_exc()}")
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
        )

    def _play(self, horizon_s: float) -> None:
        world = self.world
        for node in self.nodes:
            node.start()
        world.run(until=0.3)  # links come up
        for client in self.clients:
            client.think()
        self.lister.think()
        self.nemesis.begin()
        self.hangs.begin()
        self.shapes.begin()
        self.twins.begin()
        self.repairs.begin()
        if self.profile.changes_s:
            self.operators.begin()
        world.run(until=horizon_s, unless=self._is_work_done)
        world.log("=== phase 1 is over: mend everything")
        for client in self.clients:
            client.is_retired = True
        self.lister.is_retired = True
        self.hangs.heal_everything()
        self.shapes.end()
        self.twins.end()
        self.repairs.end()
        self.operators.end()
        self.nemesis.heal_everything()
        world.run(until=world.now + horizon_s, unless=self._are_clients_idle)
        world.run(until=world.now + SETTLE_S)
        if self.profile.changes_s:
            self.operators.judge()
        if self.profile.is_quiet:
            self._check_available()
        if not self._has_room_for_a_job():
            world.run(until=world.now + HEAL_S, unless=self._has_room_for_a_job)
        world.log("=== the disks lose rows, and everything is scrubbed")
        self.nemesis.lose_rows()
        for node in self.nodes:
            node.begin_scrub()
        world.run(until=world.now + HEAL_S, unless=self._is_all_known)
        world.run(until=world.now + HOME_S, unless=self._are_hints_home)
        world.log("=== phase 2: audit")
        self._check_all_is_known()
        self._check_hints_are_home()
        finals = {key: merge_copies(self._copies(key).values())[1] for key in self.keys}
        for key, final in finals.items():
            Judge(
                key=key,
                history=self.history,
                ledger=self.ledger,
                verdicts=world.verdicts,
                n=N,
                w=W,
                final=final,
                listings=[verdict for verdict in self.lister.verdicts if verdict.key == key],
                least=(R, W) if self.rings.epochs > 1 else (1, 1),
                lists=self.rings.lists_of(key),
            ).judge()
        if self.profile.tombstone_rest_s:
            for node in self.nodes:
                node.purge(is_on=False)
            world.run(until=world.now + PURGED_S)
        self.repairs.judge()
        for key, final in finals.items():
            self._audit(key, final)
        self.repairs.stop()
        if self.profile.tombstone_rest_s:
            self._check_tombstones_end()
        world.run(until=world.now + SETTLE_S)
        for node in self.nodes:
            node.check_nothing_left()
        self.grapevine.judge_convergence(self.members)
        self._start_a_newcomer()

    def _start_a_newcomer(self) -> None:
        """One node starts once more, among others that know everything about each other."""
        world = self.world
        newcomer = world.stream("newcomer").choice(self.members)
        others = [node for node in self.members if node is not newcomer]
        newcomer.kill(power=False)
        world.run(until=world.now + 0.1)  # the others notice
        newcomer.start()
        until = world.now + 3 * limits.GOSSIP_INTERVAL_S_DEFAULT
        world.run(until=until, unless=lambda: bool(newcomer.asked))
        world.run(until=world.now + TRIPS_S / 2)
        self.grapevine.judge_newcomer(newcomer, others)

    def _is_work_done(self) -> bool:
        return len(self.history.operations) >= self.profile.operations

    def _are_clients_idle(self) -> bool:
        return all(client.is_idle for client in self.clients)

    def _are_hints_home(self) -> bool:
        return not any(self._owed(node) or self._kept(node) for node in self._clean())

    def _clean(self) -> list[SimNode]:
        """Who must keep nothing for others in the end: members, and who has left. Not who is gone
        for good, or has not become a member after all."""
        return [n for n in self.nodes if n in self.members or n.id in self.rings.retired]

    def _kept(self, node: SimNode) -> list[bytes]:
        """Keys of which its disk has a copy, though it is no owner."""
        return [
            key
            for key in self.keys
            if node.id not in self.rings.owners_of(key)
            and node.disk.store.get(token_of(key), key) is not None
        ]

    def _owed(self, node: SimNode) -> list[object]:
        """What a node owes to whom."""
        store = node.disk.store
        dirty = decode_row(store.get_meta(ROW))[2]
        return [*dirty.items()] + [
            (target, key)
            for target in owed_targets(store)
            for _, key in store.hints(target, b"", 1_000)
        ]

    def _has_room_for_a_job(self) -> bool:
        """No node would refuse one more (seed 1892: eight waited for hints to arrive first)."""
        return not any(
            node.node is not None
            and node.node.jobs is not None
            and node.node.jobs.under_way >= limits.JOBS_RUNNING_MAX
            for node in self.nodes
        )

    def _is_all_known(self) -> bool:
        """No node is scrubbing, and none has anything left to heal; and the disks know that."""
        return not self.ledger.rotten and not any(
            node.is_scrubbing
            or node.node is None
            or not node.node.replica.unknown.is_empty
            or any(_unknown(node))
            for node in self.members
        )

    def _check_all_is_known(self) -> None:
        """Whatever was damaged has been found and healed, and nothing lies where it should not."""
        ring = self.ring
        self.ledger.check_all_is_known(self.rings.owners_of)
        for node in self.members:
            unknown = _unknown(node)
            self.world.verdicts.check(
                "rot_is_healed", not any(unknown), f"{node.id} does not know {unknown}"
            )
            for token, key, _ in node.disk.store.scan(FIRST, LAST):
                is_owner = node.id in ring.lists[ring.partition_of(token)]
                self.world.verdicts.check(
                    "rot_is_healed",
                    token == token_of(key) or not is_owner,
                    f"{node.id} still has {key!r} in another place",
                )

    def _check_hints_are_home(self) -> None:
        """All is well again: nothing is owed, it has arrived, and only owners hold copies."""
        self.ledger.check_debts_are_paid(self.rings.owners_of)
        for node in self._clean():
            owed, kept = self._owed(node), self._kept(node)
            self.world.verdicts.check("hints_come_home", not owed, f"{node.id} owes {owed}")
            self.world.verdicts.check(
                "hints_come_home", not kept, f"{node.id} keeps {kept}, of which it is no owner"
            )

    def _check_available(self) -> None:
        """Nothing has gone wrong: no request was refused, or late, for the ring's changes."""
        for operation in self.history.operations.values():
            # Who has only just become a member, or learns while it has a request that it is none,
            # says so; every client asks the next one then.
            asked = [attempt for attempt in operation.attempts if not attempt.is_elsewhere]
            self.world.verdicts.check(
                "available",
                len(asked) == operation.is_ok,
                f"{operation.kind} {operation.number} is {operation.outcome} after",
                f"{len(operation.attempts)} attempts",
            )

    # --- the end ---------------------------------------------------------------------------------

    def _copies(self, key: bytes) -> dict[NodeId, Copy]:
        """What the disks hold."""
        token = token_of(key)
        copies: dict[NodeId, Copy] = {}
        for node in self.members:
            stored = node.disk.store.get(token, key)
            if stored is None:
                continue
            try:
                record = decode_stored(stored, cluster_id=self.ring.cluster_id, key=key)
            except CorruptRecord:
                continue  # `rot_is_healed` has said so
            copies[node.id] = (record.value.clock, frozenset(record.value.dots()))
        return copies

    def _audit(self, key: bytes, final: frozenset[Dot]) -> None:
        """Nothing is broken any more: strict reads and writes succeed, and leave one value."""
        first = self._ask(GET, key, r=N)
        writers = {self.ledger.sightings[key][dot].writer for dot in final}
        self._heals(first.is_ok, f"a get of {key!r} with R={N} does not succeed")
        self._heals(
            set(first.values) == writers,
            f"a get of {key!r} with R={N} has {first.values}, the disks {sorted(writers)}",
        )
        put = self._ask(PUT, key, r=N)
        self._heals(put.is_ok, f"a put of {key!r} with W={N} does not succeed")
        last = self._ask(GET, key, r=N)
        self._heals(
            last.values == (put.number,),
            f"{key!r} holds {last.values} after put {put.number}, which had seen everything",
        )

    def _check_tombstones_end(self) -> None:
        """Everything is deleted, and nothing of it is left; and it stays so, whatever arrives."""
        world = self.world
        for node in self.nodes:
            node.purge(is_on=True)
        keys = [key for key in self.keys if not any(key == k for _, k in self.ledger.rotten)]
        for key in keys:
            deleted = self._ask(DELETE, key, r=N, mode=MODE_OVERWRITE)
            self._heals(deleted.is_ok, f"a delete of {key!r} with W={N} does not succeed")
        world.run(until=world.now + HOME_S, unless=lambda: not any(map(self._copies, keys)))
        for key in keys:
            left = self._copies(key)
            world.verdicts.check("tombstones_end", not left, f"of {key!r} there is left: {left}")
        for node in self.nodes:
            node.purge(is_on=False)
        for late in self.network.hoard:
            self.network.release(*late)
        world.run(until=world.now + 1)
        for key in keys:
            back = merge_copies(self._copies(key).values())[1]
            what = f"{', '.join(map(name_dot, sorted(back)))} of {key!r} is back at the very end"
            world.verdicts.check("no_resurrection", not back, what)

    def _ask(self, kind: str, key: bytes, *, r: int, mode: int = MODE_CONTEXT) -> Operation:
        operation = self.auditor.begin(kind=kind, key=key, mode=mode, r=r, w=N)
        until = self.world.now + AUDIT_S
        self.world.run(until=until, unless=lambda: self.auditor.is_idle)
        return operation

    def _heals(self, holds: bool, what: str) -> None:
        self.world.verdicts.check("heals", holds, what)


def _unknown(node: SimNode) -> tuple[set[PartitionId], set[PartitionId]]:
    """The suspect and the hollow partitions that its disk tells of."""
    return decode_unknown(node.disk.store.get_meta(UNKNOWN_ROW))


def make_ring(nodes: int, *, per_machine: int = 1) -> Ring:
    """A ring of `nodes` members; with more than N, each owns some keys and routes the others.

    Members so many places apart as there are machines share one; owners of a key never do."""
    machines = nodes // per_machine
    assert per_machine == 1 or machines >= N
    ids = [NodeId(f"n{place}" + "0" * 14) for place in range(1, nodes + 1)]
    members = tuple(
        Member(
            id=node,
            name=f"n{place + 1}",
            address=f"n{place + 1}:7411",
            zone="",
            host=ids[place % machines],
            capacity=1,
        )
        for place, node in enumerate(ids)
    )
    return Ring(
        epoch=1,
        cluster_id=b"simulated world.",
        n=N,
        r=R,
        w=W,
        members=members,
        lists=tuple(
            tuple(ids[(partition + place) % nodes] for place in range(N))
            for partition in range(PARTITIONS)
        ),
        voters=choose_voters(members),
    )


def make_spares(ring: Ring, count: int) -> list[Member]:
    """Agents that might join, each on a machine of its own."""
    first = len(ring.members) + 1
    ids = [NodeId(f"n{place}" + "0" * 14) for place in range(first, first + count)]
    return [
        Member(id=node, name=node[:2], address=f"{node[:2]}:7411", zone="", host=node, capacity=1)
        for node in ids
    ]


def run(seed: int, *, horizon_s: float = HORIZON_S, keep_trace: bool = False) -> Report:
    """Runs one seed; the same seed gives the same report and trace in every process."""
    return Simulation(seed, keep_trace=keep_trace).run(horizon_s=horizon_s)
