"""A host of the second world: the real `core.node.Node`, a simulated disk, lives and deaths.

This is what the agent's shell is in the first world: it feeds the core, performs its effects,
writes its batches and keeps its one timer. Between two lives only the disk stays, with the run
number and whether the last stop was clean (design §3): every start takes the next run, and after a
stop that was not clean `clean_from_run` is that new run, so that no mark of an earlier one counts.

What it owes those who ask it is watched by `manners.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from dynagent import limits
from dynagent.core.detector import Detector
from dynagent.core.gossip import Gossiper
from dynagent.core.logrows import RING_ROW
from dynagent.core.messages import (
    JOB_START,
    BarrierMove,
    BarrierReply,
    Compare,
    CompareReply,
    Facts,
    FactsReply,
    Gossip,
    GossipReply,
    JobRequest,
    LeafKeys,
    LeafKeysReply,
    List,
    ListReply,
    Look,
    LookReply,
    Merge,
    MergeAck,
    Message,
    Ping,
    PingFor,
    Pong,
    Purge,
    Put,
    PutReply,
    StartRefused,
    TombstoneReply,
)
from dynagent.core.node import Node
from dynagent.core.peer import Timing
from dynagent.core.ports import Batch, LinkId, NodeId, PartitionId, Token
from dynagent.core.ring import Member, Ring, token_of
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.core.router import ForwardOperation
from dynagent.core.settings import Settings
from dynagent.core.sums import Shape
from dynagent.core.tour import AskOperation
from dynagent.store.memory import MemoryStore
from dynagent.testing.disk import LANDS_AFTER_KILL, LANDS_AFTER_POWER_CUT, Disk
from dynagent.testing.grapevine import Grapevine
from dynagent.testing.ledger import Ledger
from dynagent.testing.manners import LATE_S, Manners, key_of
from dynagent.testing.network import Network
from dynagent.testing.pledges import Pledges
from dynagent.testing.profile import Profile
from dynagent.testing.repairs import Repairs
from dynagent.testing.rings import Rings
from dynagent.testing.taps import tap
from dynagent.testing.trees import check_trees
from dynagent.testing.world import World

LISTINGS = LinkId(-1)  # where a listing's requests come from: no link of the network
ORDERS = LinkId(-2)  # likewise of jobs
_EXCHANGE = (Compare, LeafKeys, Look)
_EXCHANGE_REPLIES = (CompareReply, LeafKeysReply, LookReply)
_WAIT_FOR_DISK = (Merge, BarrierMove, Purge)  # requests that are answered with a MergeAck
_TOLD_AT_ONCE = (Pong, GossipReply, FactsReply, ListReply, BarrierReply, TombstoneReply)
_CACHES_BYTES = (0, 4_000, 1_000_000)  # none, one that forgets all the time, one for everything
# Of the journal of sums: as it is, so short that its slots come round, and the shortest.
_TREE_SHAPES = (None, Shape(8, 3), Shape(2, 1))


class Copy(NamedTuple):
    """Of a store, with what the identity file says."""

    store: MemoryStore
    run: int
    starts: tuple[bytes, ...]


class SimNode:
    """One host: at any time it is dead (`life` 0) or in its life number `life`."""

    def __init__(
        self,
        *,
        world: World,
        network: Network,
        ledger: Ledger,
        grapevine: Grapevine,
        repairs: Repairs,
        rings: Rings,
        member: Member,
        is_member: bool,
        profile: Profile,
        on_moment: Callable[[SimNode, Message], None],
    ) -> None:
        self.id = node_id = member.id
        self.host = member.host
        self._about = {
            "name": member.name,
            "address": member.address,
            "zone": member.zone,
            "host": member.host,
            "capacity": member.capacity,
        }
        self.life = 0
        self.is_gone = False  # for good: whatever still goes by its name has lost its copies
        # The last one of each of the last two runs that were backed up, the newer one first.
        self._backups: list[tuple[MemoryStore, tuple[int, int, bool, tuple[bytes, ...]]]] = []
        self._misplaced: list[Token] = []  # where rows were put that belong elsewhere
        self.node: Node | None = None
        self.disk = Disk(
            world=world,
            ledger=ledger,
            node=node_id,
            rings=rings,
            batch_s=profile.disk_s,
        )
        if is_member:
            self._write_ring(encode_ring(rings.present))
        self._world = world
        self._network = network
        self._ledger = ledger
        self._grapevine = grapevine
        self._repairs = repairs
        self.manners = Manners(
            world=world,
            network=network,
            ledger=ledger,
            repairs=repairs,
            rings=rings,
            node=node_id,
            is_routed=self._is_routed,
        )
        self.pledges = Pledges(world=world, rings=rings, node=node_id)
        self.disk.on_job_row = repairs.on_job_row
        self.disk.on_vote_row = self.pledges.on_vote_row
        self.disk.on_landed = self.pledges.on_landed
        self._antientropy_s = profile.antientropy_s
        self._rings = rings
        self._gather_s = profile.gather_s
        self._adopt_s = profile.disk_s
        self._siblings_max = profile.siblings_max
        self._on_moment = on_moment  # is told of what makes a good moment for a fault
        self._actors = world.stream(f"actors {node_id}")
        self._probe_timing = Timing(probe_interval_s=profile.probe_interval_s)
        self._hint_bytes_max = profile.hint_bytes_max
        self._owner_hints_max = profile.owner_hints_max
        self._tombstone_rest_s = profile.tombstone_rest_s
        self._scrub_interval_s = profile.scrub_interval_s
        self._probes = world.stream(f"detector {node_id}")
        self._gossip = world.stream(f"gossip {node_id}")
        self._ring_dice = world.stream(f"ring log {node_id}")
        self._timing = world.stream(f"timing {node_id}")
        self._cache_bytes = world.stream(f"cache {node_id}").choice(_CACHES_BYTES)
        self._tree_shape = world.stream(f"trees {node_id}").choice(_TREE_SHAPES)
        self.wall_offset_ms = self._timing.randint(-profile.skew_ms, profile.skew_ms)
        if self.wall_offset_ms:
            world.fault("skew", f"{node_id[:2]} by {self.wall_offset_ms} ms")
        self._pages: list[Message] = []  # answers to a listing, within its call
        self._lives = 0
        self._scrubs = 0
        self._run = 0
        self._starts: tuple[bytes, ...] = ()  # of its runs, as the identity file has them
        self._nonces = world.stream(f"nonces {node_id}")
        self._clean_from_run = 1
        self._was_clean = True  # a new store joins nothing, and has no marks to keep either
        self._forget()

    def _forget(self) -> None:
        self._armed: float | None = None
        self.is_paused = False
        self.is_gray = False  # it answers pings and gossip, and nothing else
        self.asked: list[NodeId] = []  # by gossip
        self._missed: list[Callable[[], None]] = []  # what has happened while it was paused
        self._is_polling = False
        self.manners.forget()
        self.pledges.forget()

    # --- life and death --------------------------------------------------------------------------

    def start(self) -> None:
        if not self.life and not self.is_gone:
            self._begin()

    def _begin(self) -> None:
        self._lives += 1
        self.life = self._lives
        self._run += 1
        nonce = self._nonces.getrandbits(64).to_bytes(8, "big")
        self._starts = (*self._starts, nonce)[-limits.STARTS_KEPT :]
        if not self._was_clean:
            self._clean_from_run = self._run
        self._was_clean = False
        self._world.log(f"{self.id[:2]} starts run {self._run}, clean from {self._clean_from_run}")
        self.node = Node(
            node_id=self.id,
            ring=self._stored_ring(),
            reader=self.disk.store,
            effects=self,
            dice=self._actors,
            probe_dice=self._probes,
            gossip_dice=self._gossip,
            ring_dice=self._ring_dice,
            wall_ms=self.wall_ms,
            run=self._run,
            clean_from_run=self._clean_from_run,
            starts=self._starts,
            settings=Settings(
                cache_bytes=self._cache_bytes,
                siblings_max=self._siblings_max,
                timing=self._probe_timing,
                hint_bytes_max=self._hint_bytes_max,
                owner_hints_max=self._owner_hints_max,
                tree_shape=self._tree_shape,
                tombstone_rest_s=self._tombstone_rest_s,
                antientropy_interval_s=self._antientropy_s,
                scrub_interval_s=self._scrub_interval_s,
            ),
        )
        self.node.about = dict(self._about)
        self.node.stand_down = self._stand_down
        self._rings.look(self)
        self._network.reconnect(self.id, _others(self.node.ring, self.id))
        self.check_trees(is_quiet=False)
        tap(self.node.replica, self.disk, lambda key: self._rings.on_write(self, key))
        self._network.dial_missing()

    @property
    def ring(self) -> Ring | None:
        """Of the present life; None while it is dead, or a member of nothing."""
        return self.node.ring if self.node is not None else None

    @property
    def is_fresh(self) -> bool:
        """It belongs to nothing, and never has."""
        return not self.is_gone and self._stored_ring() is None

    @property
    def has_joined(self) -> bool:
        """It is a member, and knows it."""
        return self.ring is not None and self.ring.member(self.id) is not None

    def knows(self, peer: NodeId) -> bool:
        """Whether that is a member of its ring: it dials no one else."""
        ring = self.ring
        return ring is not None and ring.member(peer) is not None

    def _served(self) -> Ring:
        """The ring that it serves with; of a node that has none yet, what it would be told."""
        return self.ring or self._rings.present

    def _stored_ring(self) -> Ring | None:
        stored = self.disk.store.get_meta(RING_ROW)
        return decode_ring(stored) if stored is not None else None

    def _write_ring(self, encoded: bytes) -> None:
        batch = Batch(0)
        batch.meta.append((RING_ROW, encoded))
        self.disk.store.write(batch)

    def leap(self, seconds: float) -> None:
        """The world has leapt."""
        self.manners.leap(seconds)
        # The timer was set by the clock that has leapt, so it is due at once. Left to the event,
        # which the world puts off, it would hide what becomes due before that.
        self._armed = None
        if self.node is not None:
            self._arm()

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self._world.now * 1000) + self.wall_offset_ms

    def kill(self, *, power: bool) -> None:
        """Everything in memory is lost; a power cut is also noticed later by the others."""
        if not self.life:
            return
        self._world.log(f"{self.id[:2]} dies")
        self._end(LANDS_AFTER_POWER_CUT if power else LANDS_AFTER_KILL)
        self._network.on_death(self.id, detected_s=(0.02, 0.7) if power else (0.001, 0.05))

    def pause(self) -> None:
        """SIGSTOP: what comes waits in the buffers of the system, and the timer is late."""
        self.is_paused = True

    def resume(self) -> None:
        if not self.is_paused:
            return
        self.is_paused = False
        self.manners.on_resume()
        missed, self._missed = self._missed, []
        for event in missed:
            event()

    @property
    def boot(self) -> bytes:
        """What it says in its Hello."""
        return self._starts[-1]

    def _sleeps(self, event: Callable[..., None], *arguments: object) -> bool:
        """True if the process is paused: the event happens when it goes on."""
        if self.is_paused:
            self._missed.append(partial(event, *arguments))
        return self.is_paused

    def break_for_good(self) -> None:
        """It never comes back, and nothing of its disk either."""
        self.resume()
        self.kill(power=True)
        self.is_gone = True

    def copy_store(self) -> Copy:
        """Somebody copies its data directory, as it is now."""
        return Copy(self.disk.copy(), self._run, self._starts)

    @property
    def run(self) -> int:
        """The number of its last start."""
        return self._run

    @property
    def is_known_to_all(self) -> bool:
        """All voters have this start on record."""
        registration = self.node.registration if self.node is not None else None
        return registration is not None and registration.is_known_to_all

    def keep_backup(self) -> None:
        """Somebody copies its store, as it is now, with the identity file."""
        past = (self._run, self._clean_from_run, self._was_clean, self._starts)
        earlier = [backup for backup in self._backups if backup[1][0] < self._run]
        self._backups = [(self.disk.copy(), past), *earlier[:1]]

    def start_from_backup(self) -> bool:
        """Somebody who means well puts back its store from a backup: what came after that is lost
        for good, though it carries the same id. False if there is none, but of the last run: nobody
        could tell that it is not what that left."""
        old = [backup for backup in self._backups if backup[1][0] < self._run]
        if not old or not self.is_gone:
            return False
        store, past = old[0]
        self._run, self._clean_from_run, self._was_clean, self._starts = past
        self.disk.put_back(store)
        self._rings.forget(self.id)
        self.pledges.put_back()
        self._begin()
        return True

    def stop_cleanly(self) -> None:
        """Refuses new requests, and stops once the old ones are answered and all is durable."""
        if self.node is not None and not self.node.draining and not self.is_paused:
            self.node.draining = True
            self._drain(self.life)

    def _drain(self, life: int) -> None:
        if life != self.life or self.node is None or self._sleeps(self._drain, life):
            return
        if self.node.is_idle and not self.disk.is_busy:
            self._was_clean = not self.node.replica.has_burnt
            self._world.log(f"{self.id[:2]} has stopped cleanly")
            self._end(lands=1.0)
            self._network.on_death(self.id, detected_s=(0.001, 0.01))
        else:
            self._world.after(0.02, self._drain, life)

    def _end(self, lands: float) -> None:
        self.life = 0
        self.node = None
        self.disk.stop(lands=lands)
        self._forget()

    def rot(self, token: Token, key: bytes) -> bool:
        """As `Disk.rot`; the damage is met at the next read, whatever the node had in memory."""
        if self.is_paused:
            return False  # what it still learns of its commits would go into its memory
        if self.node is not None:
            self.node.replica.forget(key)
        return self.disk.rot(token, key)

    def lose_row(self, token: Token, key: bytes) -> bool:
        """As `Disk.lose_row`: a row vanishes, and the node's trees and cache still have it."""
        return self.disk.lose_row(token, key)

    def misplace(self, token: Token, key: bytes, elsewhere: Token) -> bool:
        """As `Disk.misplace`."""
        happened = self.disk.misplace(token, key, elsewhere)
        if happened:
            self._misplaced.append(elsewhere)
        return happened

    def begin_scrub(self) -> None:
        """Somebody asks for a scrub of all that it owns; none comes by itself any more."""
        if self.node is None or self.node.scrubber is None:
            return
        self.node.scrubber.interval_s = 0.0
        self._scrubs += 1
        self.order(JobRequest(JOB_START, f"5c{self._scrubs:014x}", "scrub", "", [], b"", False))

    @property
    def is_scrubbing(self) -> bool:
        jobs = self.node.jobs if self.node is not None else None
        return jobs is not None and jobs.under_way > 0

    # --- what the network brings -----------------------------------------------------------------

    def on_request(self, link: LinkId, request_id: int, budget_ms: int, message: Message) -> None:
        if self._sleeps(self.on_request, link, request_id, budget_ms, message):
            return
        if self.is_gray and not isinstance(message, Ping | PingFor | Gossip | Facts):
            return
        assert self.node is not None
        self.manners.on_request(link, request_id, budget_ms, message)
        newest_batch = self.node.replica.newest_batch
        self.pledges.on_request(link, request_id, message, newest_batch=newest_batch)
        if isinstance(message, Put) and message.attempt > 1:
            self._on_moment(self, message)
        peer, node = self._network.peer_of(link), self.node
        is_stranger = peer is not None and node.is_stranger(peer)
        take = node.on_stranger if is_stranger else node.on_message
        take(self._world.now, link, request_id, budget_ms, message)
        self.manners.on_handled(message)
        self._after_message(message)

    def poke(self) -> None:
        """Somebody has called its node, which may have something for the disk, or a deadline."""
        self._after_turn()

    def list_page(self, message: List) -> Message | None:
        """A listing's request and its answer, which comes within the call and changes nothing."""
        if self.is_paused or self.is_gray:
            return None
        assert self.node is not None
        self.node.on_message(self._world.now, LISTINGS, 0, 1, message)
        answers, self._pages = self._pages, []
        assert len(answers) == 1, f"a List has {len(answers)} answers"
        return answers[0]

    def order(self, message: JobRequest) -> bool:
        """Starts or cancels its part of a job; False if nobody is there, or not yet."""
        if self.node is None or self.is_paused or not self.node.serves_as:
            return False
        self.node.on_message(self._world.now, ORDERS, 0, 60_000, message)
        self._after_turn()
        return True

    def on_reply(self, source: NodeId, request_id: int, message: Message) -> None:
        if self._sleeps(self.on_reply, source, request_id, message):
            return
        assert self.node is not None
        self.node.on_reply(self._world.now, source, request_id, message)
        self._after_message(message)

    def on_peer_up(self, peer: NodeId) -> None:
        if self.node is not None and not self._sleeps(self.on_peer_up, peer):
            self.node.registrar.boots[peer] = self._network.hosts[peer].boot
            self.node.on_peer_up(self._world.now, peer)
            self._arm()

    def on_peer_down(self, peer: NodeId) -> None:
        if self.node is not None and not self._sleeps(self.on_peer_down, peer):
            self.node.on_peer_down(self._world.now, peer)
            self._after_turn()

    # --- the disk and the timer ------------------------------------------------------------------

    def _after_message(self, message: Message) -> None:
        if isinstance(message, Gossip | GossipReply | Facts | FactsReply):
            self._grapevine.look(self)  # nothing of it goes to the disk
            self._arm()
        else:
            self._after_turn()

    def _after_turn(self) -> None:
        self._rings.look(self)
        if not self._is_polling and not self.disk.is_busy:
            self._is_polling = True
            self._world.after(self._gather_s, self._take_batch, self.life)
        self._arm()

    def _take_batch(self, life: int) -> None:
        if life != self.life or self.node is None or self._sleeps(self._take_batch, life):
            return
        self._is_polling = False
        if not self.disk.is_busy and (batch := self.node.take_batch()) is not None:
            self.disk.submit(batch, self._served(), self._on_committed, self._on_refused)

    def _on_committed(self, batch: Batch) -> None:
        if self.node is not None and not self._sleeps(self._on_committed, batch):
            self.node.on_committed(self._world.now, batch)
            for _, key, _ in batch.records:
                if (self.id, key) in self._ledger.rotten:  # since it came to the disk
                    self.node.replica.forget(key)
            if self.node.replica.forest.unknown:
                self.check_trees(is_quiet=False)
            self._after_turn()

    def _on_refused(self) -> None:
        if self.node is not None and not self._sleeps(self._on_refused):
            self.node.on_refused(self._world.now)
            self.check_trees(is_quiet=False)
            self._after_turn()

    def _arm(self) -> None:
        assert self.node is not None
        deadline = self.node.next_deadline()
        if deadline is not None and (self._armed is None or deadline < self._armed):
            self._armed = deadline
            delay_s = max(0.0, deadline - self._world.now) + self._timing.random() * LATE_S
            self._world.after(delay_s, self._tick, self.life, deadline)

    def _tick(self, life: int, deadline: float) -> None:
        if life == self.life and deadline == self._armed and self.node is not None:
            if self._sleeps(self._tick, life, deadline):
                return
            self._armed = None
            self.node.on_tick(self._world.now)
            self._grapevine.look(self)
            self._after_turn()

    def find_lost(self, keys: Sequence[bytes]) -> None:
        """Its trees take what the disk has for what is so."""
        assert self.node is not None and not self.disk.is_busy
        for key in keys:
            self.node.replica.forget(key)
            token = token_of(key)
            forest, partition = self.node.replica.forest, self._served().partition_of(token)
            forest.rebuild(PartitionId(partition), forest.leaf_of(token))
        self._after_turn()

    def stop_antientropy(self) -> None:
        """It begins no more rounds, in this life and later ones."""
        self._antientropy_s = 0.0
        if self.node is not None and self.node.antientropy is not None:
            self.node.antientropy.interval_s = 0.0

    @property
    def detector(self) -> Detector | None:
        """Of the present life, while it runs."""
        return self.node.detector if self.node is not None and not self.is_paused else None

    @property
    def gossiper(self) -> Gossiper | None:
        """Of the present life."""
        return self.node.gossip if self.node is not None else None

    # --- Effects: what the core does to the world ------------------------------------------------

    def send(
        self, targets: Sequence[NodeId], request_id: int, budget_ms: int, message: Message
    ) -> None:
        if isinstance(message, Merge):
            for entry in message.entries:
                self._ledger.see_entry(self.id, entry)
            self._watch_moves(targets, request_id, message)
        if isinstance(message, Gossip):
            self.asked += targets
        for target in targets:
            self._network.request(self.id, target, request_id, budget_ms, message)

    def answer(self, link: LinkId, request_id: int, message: Message) -> None:
        if link == LISTINGS:
            self._pages.append(message)
            return
        if link == ORDERS:
            return
        self._rings.look(self)  # the turn may have begun with another ring, by which this is said
        self.manners.on_answer(link, request_id, message)
        self.pledges.on_answer(link, request_id, message)
        self._network.reply(link, request_id, message)
        if isinstance(message, MergeAck | PutReply):
            self._on_moment(self, message)

    def adopt(self, ring: bytes, link: LinkId, request_id: int) -> None:
        self._world.after(self._adopt_s, self._adopted, self.life, ring, link, request_id)

    def _adopted(self, life: int, ring: bytes, link: LinkId, request_id: int) -> None:
        if life != self.life or self.node is None:
            return
        if self._sleeps(self._adopted, life, ring, link, request_id):
            return
        self._write_ring(ring)
        self.node.on_adopted(self._world.now, decode_ring(ring), link, request_id)
        self._after_turn()

    def reconnect(self, ring: Ring) -> None:
        self._network.reconnect(self.id, _others(ring, self.id))

    def _stand_down(self, refusal: StartRefused) -> None:
        is_right = self.is_gone or self._rings.present.member(self.id) is None
        what = f"{self.id[:2]} is refused, though it is what it was: {refusal}"
        self._world.verdicts.check("refused_rightly", is_right, what)
        self._world.fault("refused", self.id[:2])
        self._world.after(0.0, self._obey, self.life)

    def _obey(self, life: int) -> None:
        if life == self.life:
            self.kill(power=False)
            self.is_gone = True

    def note(self, event: str, **fields: object) -> None:
        if self._world.trace is not None:
            self._world.log(f"{self.id[:2]} notes {event} {fields}")
        if event == "record.clash":
            self._world.verdicts.check("dots_unique", False, self.id, fields)

    # --- the judges ------------------------------------------------------------------------------

    def _watch_moves(self, targets: Sequence[NodeId], request_id: int, merge: Merge) -> None:
        """Is it a Merge of an exchange that this node has begun?"""
        assert self.node is not None and self.node.coordinator is not None
        operation = self.node.coordinator.operations.get(request_id)
        if isinstance(operation, AskOperation):
            for entry in merge.entries:
                self._repairs.on_moved(self.id, targets[0], key_of(entry))

    def _is_routed(self, link: LinkId, request_id: int) -> bool:
        """Is that request passed on to another?"""
        assert self.node is not None
        coordinator = self.node.coordinator
        operations = coordinator.operations.values() if coordinator is not None else ()
        return any(
            isinstance(operation, ForwardOperation)
            and (operation.link, operation.request_id) == (link, request_id)
            for operation in operations
        )

    def check_trees(self, *, is_quiet: bool) -> None:
        """The trees say what the disk holds; no batch is under way.

        Who has no ring has no trees: it owns nothing. The others' ring may name it all the same, if
        its store is put back from a backup of before it joined.
        """
        assert self.node is not None
        if self.node.ring is None:
            return
        forest, verdicts = self.node.replica.forest, self._world.verdicts
        lost = [token_of(key) for node, key in self._ledger.lost if node == self.id]
        if not is_quiet:  # a scrub may not have passed yet where such a row lies now (seed 1041)
            lost += self._misplaced
        check_trees(
            verdicts, forest, self.disk.store, self.node.ring, self.id, is_quiet=is_quiet, lost=lost
        )

    def order_hints(self, action: int) -> bool:
        """An operator's order about all of its hints; False if nobody is there to take it."""
        if self.node is None or self.node.delivery is None or self.is_paused:
            return False
        self.node.delivery.order(self._world.now, action, None)
        self._arm()
        return True

    def purge(self, *, is_on: bool) -> None:
        """Whether tombstones may go from now on. While they do, owners may differ in them."""
        if self.node is not None and self.node.purger is not None:
            self.node.purger.rest_s = self._tombstone_rest_s if is_on else 0.0
            self._arm()

    def check_nothing_left(self) -> None:
        """At the end of a run, when all is quiet: no request, operation or change is left over."""
        self.manners.check_nothing_left()
        if self.node is not None and self.node.coordinator is not None:
            operations = self.node.coordinator.operations
            self._world.verdicts.check("nothing_left", not operations, self.id, operations)
            # A scrubber writes down how far its pass has come, now and then.
            scrubs = self.node.scrubber is not None and self.node.scrubber.interval_s > 0
            is_idle = scrubs or (self.node.is_idle and not self.disk.is_busy)
            self._world.verdicts.check("nothing_left", is_idle, self.id, "is not idle")
            self.check_trees(is_quiet=True)


def _others(ring: Ring | None, node: NodeId) -> frozenset[NodeId]:
    """To whom a node with that ring keeps links."""
    if ring is None or not ring.counts(node):
        return frozenset()
    return frozenset(m.id for m in ring.members if m.id != node and ring.counts(m.id))
