"""The nemesis: injects the faults that the profile has switched on, and heals them all at the end.

**The fault budget.** The product promises nothing once more is broken for good than W−1 copies of a
key, and a checker could then decide nothing. So what is permanent is rationed: of a key one copy
may be rotten at a time, and once one has been, another rots only if others hold all that it holds,
what it knows to be superseded included.
One node may be gone for good, which is the same for all that it holds.
(Healing asks owners; of a write that a stand-in keeps for one of them its copy may be the last.)
Everything else here comes back: power cuts lose only what was never durable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dynagent.core.messages import HINTS_PAUSE, HINTS_RESUME, Message, Put
from dynagent.core.ports import NodeId, PartitionId, Token
from dynagent.core.ring import token_of
from dynagent.testing.copies import adds_to
from dynagent.testing.history import History
from dynagent.testing.ledger import Ledger
from dynagent.testing.network import Network, Pair, both_ways
from dynagent.testing.profile import Profile
from dynagent.testing.rings import Rings
from dynagent.testing.simnode import SimNode
from dynagent.testing.world import Stream, World


class Nemesis:
    """One fault after the other, with calm between; some end by themselves after a while."""

    def __init__(
        self,
        *,
        world: World,
        network: Network,
        nodes: Sequence[SimNode],
        rings: Rings,
        profile: Profile,
        keys: Sequence[bytes],
        ledger: Ledger,
        history: History,
    ) -> None:
        self._ledger = ledger
        self._world = world
        self._history = history
        self._network = network
        self._nodes = nodes
        self._rings = rings
        self._profile = profile
        self._keys = keys
        self._dice: Stream = world.stream("nemesis")
        self._fill_dice: Stream = world.stream("full disk")
        self._weeks_dice: Stream = world.stream("weeks away")
        self._pause_dice: Stream = world.stream("hints paused")
        self._ack_dice: Stream = world.stream("power cut at ack")
        self._backup_dice: Stream = world.stream("backups")
        self._rotten: set[bytes] = set()
        self._rots_at_retry: dict[bytes, SimNode] = {}  # keys that rot there at the next retry
        self._is_over = False
        self._actions: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "power_cut": self._power_cut,
            "power_cut_all": self._power_cut_all,
            "clean_stop": self._clean_stop,
            "cut_pair": self._cut_pair,
            "cut_one_way": self._cut_one_way,
            "cut_node": self._cut_node,
            "cut_halves": self._cut_halves,
            "slow_disk": self._slow_disk,
            "clock_jump": self._clock_jump,
            "rot": self._rot,
        }

    def begin(self) -> None:
        """Faults from now on."""
        self._rest()
        self._rest_filling()
        self._rest_weeks()
        self._rest_pauses()
        self._rest_backups()

    def _rest(self) -> None:
        if self._profile.nemeses:
            delay_s = self._dice.expovariate(1 / self._profile.calm_s)
            self._world.after(delay_s, self._strike)

    def _strike(self) -> None:
        if not self._is_over:
            kinds, weights = zip(*self._profile.nemeses.items(), strict=True)
            self._actions[self._dice.choices(kinds, weights)[0]]()
            self._rest()

    def heal_everything(self) -> None:
        """No more faults; what is broken is mended, who is dead starts. Rot stays."""
        self._is_over = True
        network = self._network
        network.loss = network.duplication = network.tail = network.held = 0.0
        for node in self._nodes:
            node.disk.slowness = 1.0
            node.disk.is_full = False
            node.order_hints(HINTS_RESUME)
            node.start()
        network.heal(list(network.cuts))

    def _one(self) -> SimNode:
        return self._dice.choice(self._nodes)

    # --- processes and power ---------------------------------------------------------------------

    def on_moment(self, node: SimNode, message: Message) -> None:
        """`node` is about to acknowledge something, which finds lost acknowledgements, or takes a
        retry, which has found what reads a copy twice and expects the same."""
        if isinstance(message, Put):
            if self._rots_at_retry.get(message.key) is node and not self._is_over:
                del self._rots_at_retry[message.key]
                delay_s = self._dice.random() * 4 * self._profile.delay_s
                self._world.after(delay_s, self._damage, node, message.key)
        elif self._ack_dice.random() < self._profile.power_cut_at_ack and not self._is_over:
            victims = list(self._nodes) if self._ack_dice.random() < 0.4 else [node]
            self._world.after(0.0, self._cut_power_at_ack, victims)

    def _cut_power_at_ack(self, victims: list[SimNode]) -> None:
        self._world.fault("power_cut_at_ack", " ".join(node.id[:2] for node in victims))
        self._take_down(victims, power=True, dice=self._ack_dice)

    def _kill(self) -> None:
        node = self._one()
        if node.life:
            self._world.fault("kill", node.id[:2])
            self._take_down([node], power=False, dice=self._dice)

    def _power_cut(self) -> None:
        node = self._one()
        if node.life:
            victims = self._on_machine_of(node)
            self._world.faults["power_cut_machine"] += len(victims) > 1
            self._world.fault("power_cut", " ".join(victim.id[:2] for victim in victims))
            self._take_down(victims, power=True, dice=self._dice)

    def _on_machine_of(self, node: SimNode) -> list[SimNode]:
        return [other for other in self._nodes if other.host == node.host]

    def _power_cut_all(self) -> None:
        self._world.fault("power_cut_all", "")
        self._take_down(self._nodes, power=True, dice=self._dice)

    def _take_down(self, victims: Sequence[SimNode], *, power: bool, dice: Stream) -> None:
        for node in victims:
            node.kill(power=power)
            self._world.after(dice.choice((0.02, 0.2, 1.0)) * (0.5 + dice.random()), node.start)

    def _clean_stop(self) -> None:
        node = self._one()
        if node.life:
            self._world.fault("clean_stop", node.id[:2])
            node.stop_cleanly()
            self._world.after(self._dice.uniform(0.3, 2.0), self._start_again, node)

    def _start_again(self, node: SimNode) -> None:
        """After a clean stop; one that hangs in its drain is killed, as systemd would."""
        if node.life and node.node is not None and node.node.draining:
            node.kill(power=False)
        node.start()

    # --- weeks -----------------------------------------------------------------------------------

    def _rest_weeks(self) -> None:
        if self._profile.weeks_s and not self._is_over:
            self._world.after(
                self._weeks_dice.expovariate(1 / self._profile.weeks_s), self._go_away
            )

    def _go_away(self) -> None:
        """A node is away for weeks: they pass in an instant, and the others go on without it."""
        node = self._weeks_dice.choice(list(self._nodes))
        if node.life and not self._is_over:
            self._world.fault("weeks_away", node.id[:2])
            node.kill(power=self._weeks_dice.random() < 0.5)
            self._leap(self._weeks_dice.uniform(1, 4) * 7 * 86_400)
            self._world.after(self._weeks_dice.uniform(0.2, 2.0), node.start)
        self._rest_weeks()

    # --- operators -------------------------------------------------------------------------------

    def _rest_pauses(self) -> None:
        if self._profile.pauses_s and not self._is_over:
            delay_s = self._pause_dice.expovariate(1 / self._profile.pauses_s)
            self._world.after(delay_s, self._pause_hints)

    def _pause_hints(self) -> None:
        """An operator pauses the delivery of a node's hints: they become old."""
        node = self._pause_dice.choice(list(self._nodes))
        if not self._is_over and node.order_hints(HINTS_PAUSE):
            self._world.fault("hints_paused", node.id[:2])
            self._world.after(self._pause_dice.uniform(0.5, 4.0), self._resume_hints, node)
        self._rest_pauses()

    def _resume_hints(self, node: SimNode) -> None:
        node.order_hints(HINTS_RESUME)

    def _leap(self, seconds: float) -> None:
        self._world.leap(seconds)
        self._network.leap(seconds)
        self._history.leap(seconds)
        for node in self._nodes:
            node.leap(seconds)

    # --- cuts ------------------------------------------------------------------------------------

    def _cut_pair(self) -> None:
        one, other = self._dice.sample(self._nodes, 2)
        self._cut("cut_pair", both_ways([(one.id, other.id)]))

    def _cut_one_way(self) -> None:
        one, other = self._dice.sample(self._nodes, 2)
        self._cut("cut_one_way", [(one.id, other.id)])

    def _cut_node(self) -> None:
        node = self._one()
        self._cut("cut_node", both_ways((node.id, other.id) for other in self._nodes))

    def _cut_halves(self) -> None:
        order = self._dice.sample(self._nodes, len(self._nodes))
        size = self._dice.randint(1, len(order) - 1)
        pairs = [(one.id, other.id) for one in order[:size] for other in order[size:]]
        self._cut("cut_halves", both_ways(pairs))

    def _cut(self, kind: str, pairs: list[Pair]) -> None:
        pairs = [pair for pair in pairs if pair[0] != pair[1]]
        self._world.fault(kind, ", ".join(f"{one[:2]}→{other[:2]}" for one, other in pairs))
        self._network.cut(pairs)
        duration_s = self._dice.choice((0.1, 0.5, 1.5)) * (0.5 + self._dice.random())
        self._world.after(duration_s, self._network.heal, pairs)

    # --- disks and clocks ------------------------------------------------------------------------

    def _slow_disk(self) -> None:
        node = self._one()
        node.disk.slowness = self._dice.choice((5.0, 30.0, 100.0))
        self._world.fault("slow_disk", f"{node.id[:2]} ×{node.disk.slowness:.0f}")
        self._world.after(self._dice.uniform(0.2, 2.0), self._mend_disk, node)

    def _rest_filling(self) -> None:
        if self._profile.fills_s and not self._is_over:
            delay_s = self._fill_dice.expovariate(1 / self._profile.fills_s)
            self._world.after(delay_s, self._fill)

    def _fill(self) -> None:
        if not self._is_over:
            node = self._fill_dice.choice(list(self._nodes))
            node.disk.is_full = True
            self._world.after(self._fill_dice.uniform(0.1, 2.0), self._free, node)
            self._rest_filling()

    def _free(self, node: SimNode) -> None:
        node.disk.is_full = False

    def _mend_disk(self, node: SimNode) -> None:
        node.disk.slowness = 1.0

    def _clock_jump(self) -> None:
        node = self._one()
        node.wall_offset_ms += self._dice.randint(-7_200_000, 7_200_000)
        self._world.fault("clock_jump", f"{node.id[:2]} to {node.wall_offset_ms} ms")

    def _rot(self) -> None:
        key = self._dice.choice(self._keys)
        owner = self._dice.choice(self._rings.owners_of(key))
        node = next(node for node in self._nodes if node.id == owner)
        if node.is_gone or (key in self._rotten and not self._is_healed(key)):
            return
        self._rotten.add(key)  # already now: no other copy may rot while this one waits for it
        if self._dice.random() < 0.5:
            self._rots_at_retry[key] = node
        else:
            self._damage(node, key)

    def _is_spare(self, node: SimNode, key: bytes) -> bool:
        if key not in self._ledger.ever_rotten:
            return True
        own = node.disk.copy_of(token_of(key), key)
        return not any(
            adds_to(own, [other.disk.copy_of(token_of(key), key) for other in others])
            for others in self._others(node, key)
        )

    def _others(self, node: SimNode, key: bytes) -> list[list[SimNode]]:
        """Those whose copies count beside that of `node`. While a partition moves each list stands
        for itself: what only the new owners hold goes if the change is aborted."""
        there = [other for other in self._nodes if other is not node and not other.is_gone]
        lists = self._rings.present.write_lists(self._rings.partition_of(key))
        if len(lists) == 1:
            return [there]
        mine = [owners for owners in lists if node.id in owners]
        return [[other for other in there if other.id in owners] for owners in mine]

    def may_lose(self, node: SimNode) -> bool:
        """A node breaks for good, and all that it holds is lost, if the fault budget allows it."""
        if self._is_over or any(other.is_gone for other in self._nodes):
            return False
        if not all(self._is_spare(node, key) for key in self._keys):
            return False
        self._world.fault("gone", node.id[:2])
        for key in self._keys:
            if node.disk.store.get(token_of(key), key) is not None:
                self._ledger.ever_rotten.add(key)
            self._ledger.on_gone(node.id, key)
        node.break_for_good()
        if self._backup_dice.random() < 0.8:
            self._world.after(self._backup_dice.uniform(0.1, 2.0), self._put_back, node)
        return True

    def _rest_backups(self) -> None:
        if self._profile.changes_s and not self._is_over:
            self._world.after(self._backup_dice.expovariate(2.0), self._back_up)

    def _back_up(self) -> None:
        node = self._backup_dice.choice(list(self._nodes))
        if not node.is_gone:
            node.keep_backup()
        self._rest_backups()

    def _put_back(self, node: SimNode) -> None:
        """As soon as the rest of the cluster is whole: a voter that is away might not know of the
        starts that the backup has not seen (core/registration.py says what is left open)."""
        others = [other for other in self._nodes if other is not node and not other.is_gone]
        is_whole = all(other.life and not other.is_paused for other in others)
        if self._is_over:
            return
        if not is_whole or self._network.cuts:
            self._world.after(self._backup_dice.uniform(0.02, 0.2), self._put_back, node)
        elif node.start_from_backup():
            self._world.fault("put_back", node.id[:2])

    def _is_healed(self, key: bytes) -> bool:
        """No copy is rotten, nor about to be."""
        return key not in self._rots_at_retry and not self._is_rotten(key)

    def _is_rotten(self, key: bytes) -> bool:
        return any(rotten == key for _, rotten in self._ledger.rotten)

    def lose_rows(self) -> None:
        """At the end: rows vanish, or move elsewhere, while nothing else is wrong with the key.

        Of each partition at one owner only. The loss of one row makes that node unsure of every key
        that it has no record of there, as if each of them had lost a copy (decision 0014). Two
        owners that are unsure of the same keys wait for each other, and for a person (seed 2346).
        """
        dice = self._world.stream("lost rows")
        keys = [key for key in self._keys if not self._is_rotten(key)]
        losers: dict[PartitionId, NodeId] = {}
        for key in dice.sample(keys, min(len(keys), self._profile.lost_rows)):
            token = token_of(key)
            partition = self._rings.partition_of(key)
            owner = losers.setdefault(partition, dice.choice(self._rings.owners_of(key)))
            node = next(node for node in self._nodes if node.id == owner)
            elsewhere = Token(bytes([token[0] ^ dice.choice((0x80, 0x40, 0x01))]) + token[1:])
            if dice.random() < 0.5:
                kind, happened = "lost_row", node.lose_row(token, key)
            else:
                kind, happened = "misplaced_row", node.misplace(token, key, elsewhere)
            if happened:
                self._world.fault(kind, f"{node.id[:2]} {key.decode()}")

    def _damage(self, node: SimNode, key: bytes) -> None:
        may = not self._is_over and not self._is_rotten(key) and self._is_spare(node, key)
        if not may or not node.rot(token_of(key), key):
            self._rotten.discard(key)
        else:
            self._world.fault("rot", f"{node.id[:2]} {key.decode()}")
