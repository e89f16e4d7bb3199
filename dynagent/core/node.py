"""The node: one sans-I/O machine made of small ones. It decides; a shell waits and does.

The shell feeds it, in one thread, and performs the effects that each call emits:

    on_message      a request that came in on a link         (client or peer)
    on_reply        a peer's answer to a request of ours
    on_peer_up/down the link that we dialled to a peer; whether it is used says the detector
    on_committed    a batch that it took with `take_batch` is fsynced
    on_refused      the disk is full, and has none of that batch
    on_tick         `next_deadline` has passed

The ring may change while it runs (`on_ring`); a node that is no member any more answers who asks
about it, and does nothing else.

The shell's promises: every effect of a call is performed, in order; a batch is reported committed
only when it is durable, batches in the order they were taken; replies are delivered for links that
are up only. A store that fails in any other way than for lack of room stops the node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from dynagent import limits
from dynagent.core.admission import Admission
from dynagent.core.aim import Aim
from dynagent.core.answers import Answers
from dynagent.core.antientropy import AntiEntropy
from dynagent.core.assembly import Machine, assemble
from dynagent.core.budget import Budget
from dynagent.core.coordinator import Coordinator
from dynagent.core.copies import Copies
from dynagent.core.counterpart import Counterpart
from dynagent.core.delivery import Delivery
from dynagent.core.detector import Detector
from dynagent.core.driver import Driver
from dynagent.core.electors import Electors
from dynagent.core.explain import inspect_copy
from dynagent.core.exports import export_page
from dynagent.core.former import Former
from dynagent.core.get import GetOperation
from dynagent.core.gossip import Gossiper
from dynagent.core.heal import Healer
from dynagent.core.jobs import Jobs
from dynagent.core.listing import is_restamped, list_page
from dynagent.core.look import LookingPut
from dynagent.core.messages import (
    MODE_OVERWRITE,
    Ballot,
    BarrierMove,
    BarrierRequest,
    Compare,
    DrainOrder,
    Enter,
    Error,
    Export,
    Facts,
    Fence,
    Get,
    Gossip,
    HintOrder,
    Inspect,
    Install,
    Installed,
    Invite,
    JobRequest,
    LeafKeys,
    List,
    LogReply,
    LogRequest,
    Look,
    Merge,
    MergeAck,
    Message,
    Ping,
    PingFor,
    Propose,
    Pull,
    Purge,
    Put,
    Read,
    Register,
    RingIs,
    RingRequest,
    Roots,
    Sift,
    StartRefused,
    StatusRequest,
    TombstoneQuery,
    TransferRequest,
)
from dynagent.core.ports import Batch, Dice, Effects, LinkId, NodeId, Reader
from dynagent.core.purge import Purger
from dynagent.core.purge_answers import PurgeAnswers
from dynagent.core.put import PutOperation
from dynagent.core.readback import RepairingGet
from dynagent.core.readiness import unready_reason
from dynagent.core.rebuild import Rebuilder
from dynagent.core.registrar import Registrar
from dynagent.core.registration import STARTING, WITHOUT_STORE, Registration
from dynagent.core.replacement import Replacements
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring, token_of
from dynagent.core.ringcodec import encode_ring
from dynagent.core.ringlog import RingLog
from dynagent.core.router import ForwardOperation
from dynagent.core.scrub import Scrubber
from dynagent.core.settings import DEFAULTS, Settings
from dynagent.core.sources import Sources
from dynagent.core.trace import Trace
from dynagent.core.transfer import Transfers
from dynagent.errors import (
    BadRequest,
    DiskFull,
    DynagentError,
    NotReady,
    WriteOutcomeUnknown,
)

# What a node that is no member any more still answers.
_ABOUT_ITSELF: tuple[type[Message], ...] = (Ping, RingRequest, StatusRequest)
# What a peer may ask that is no member, or not yet one by our ring.
_OF_ANYBODY = (*_ABOUT_ITSELF, Propose, Ballot, LogRequest, LogReply, Register)
_DATA = (Get, Put)  # a tuple: to make the union Get | Put costs 0.2 µs each time

Handler = Callable[[float, LinkId, int, int, Message], None]


class Node:
    """One agent's decisions. `ring` is None until it has been bootstrapped."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        ring: Ring | None,
        reader: Reader,
        effects: Effects,
        dice: Dice,
        probe_dice: Dice,
        gossip_dice: Dice,
        ring_dice: Dice,
        wall_ms: Callable[[], int],
        run: int,
        clean_from_run: int,
        starts: Sequence[bytes] = (bytes(limits.NONCE_BYTES),),
        settings: Settings = DEFAULTS,
    ) -> None:
        self.node_id = node_id
        self.serves_as = node_id  # as an owner; "" while its start is not registered
        self.starts = starts  # see core.registration
        self.ring: Ring | None = None
        self.draining = False  # takes no requests of clients: it is stopping, or was told to
        self.stopping = False
        self.is_removed = False  # it was a member, and is none any more: for good
        self.about: dict[str, object] = {}  # name, address, zone, host, capacity: for bootstrap
        self.counters: dict[str, int] = {}
        self.measure: Callable[[], dict[str, object]] = dict  # what the shell adds to our status
        self.stand_down: Callable[[StartRefused], None] = _ignore  # this store must not serve: stop
        self.meet_double: Callable[[str], None] = _ignore  # another of our id is up: who is it?
        self.replica = Replica(
            reader=reader,
            effects=effects,
            dice=dice,
            cluster_id=b"",
            run=run,
            clean_from_run=clean_from_run,
            cache_bytes=settings.cache_bytes,
            hint_bytes_max=settings.hint_bytes_max,
            owner_hints_max=settings.owner_hints_max,
            tree_shape=settings.tree_shape,
        )
        self.budget = Budget(
            threshold_s=settings.foreground_p99_ms / 1000,
            bytes_per_s_max=settings.background_bytes_per_s,
        )
        self.rebuilder = Rebuilder(self.replica.forest, self.budget)
        self.admission = Admission()
        self.coordinator: Coordinator | None = None
        self.delivery: Delivery | None = None
        self.detector: Detector | None = None  # with the coordinator
        self.gossip: Gossiper | None = None  # too
        self.ringlog: RingLog | None = None  # too
        self.electors: Electors | None = None  # too
        self.antientropy: AntiEntropy | None = None  # too
        self.purger: Purger | None = None  # too
        self.jobs: Jobs | None = None  # too
        self.healer: Healer | None = None  # too
        self.scrubber: Scrubber | None = None  # too
        self.registration: Registration | None = None  # too
        self.transfers: Transfers | None = None  # too
        self.former: Former | None = None  # too
        self.driver: Driver | None = None  # too
        self.machines: list[Machine] = []  # those that live in time, as `on_tick` goes through them
        self.followers: list[Machine] = []  # all of them, as `on_ring` does
        self.settings = settings
        self.probe_dice = probe_dice
        self.gossip_dice = gossip_dice
        self.ring_dice = ring_dice
        self.copies = Copies(self.replica, effects)
        self.counterpart = Counterpart(self.replica)
        self.sources = Sources(self.replica, effects)
        self.purge_answers = purge_answers = PurgeAnswers(self.replica, effects)
        self.registrar = Registrar(self.replica, reader, effects)
        self.replacements = Replacements(effects)
        self.reader = reader
        self.effects = effects
        self.wall_ms = wall_ms
        self.started_ms = max(0, wall_ms())
        self._answers = answers = Answers(self, effects)
        self._handlers: dict[type[Message], Handler] = {
            Get: self._on_data,
            Put: self._on_data,
            List: self._on_list,
            Export: self._on_export,
            Inspect: self._on_inspect,
            Merge: self.copies.on_merge,
            Read: self.copies.on_read,
            Ping: answers.on_ping,
            PingFor: answers.on_ping_for,
            RingRequest: answers.on_ring_request,
            Install: answers.on_install,
            Invite: answers.on_invite,
            StatusRequest: answers.on_status_request,
            HintOrder: answers.on_hint_order,
            DrainOrder: answers.on_drain_order,
            Gossip: answers.on_gossip,
            Facts: answers.on_facts,
            JobRequest: answers.on_job_request,
            Propose: answers.on_ring_log,
            Ballot: answers.on_ring_log,
            LogRequest: answers.on_ring_log,
            LogReply: answers.on_ring_log,
            Compare: self.counterpart.on_compare,
            LeafKeys: self.counterpart.on_leaf_keys,
            Look: self.counterpart.on_look,
            Roots: self.counterpart.on_roots,
            BarrierRequest: purge_answers.on_barrier_request,
            BarrierMove: purge_answers.on_barrier_move,
            TombstoneQuery: purge_answers.on_tombstone_query,
            Purge: purge_answers.on_purge,
            Register: self.registrar.on_register,
            Enter: self.replacements.on_enter,
            Fence: self.sources.on_fence,
            Sift: self.sources.on_sift,
            Pull: self.sources.on_pull,
            TransferRequest: answers.on_transfer_request,
        }
        self._handlers_of_owner = self._handlers
        if ring is not None:
            self._serve(ring)

    def _serve(self, ring: Ring) -> None:
        self.ring = ring
        if not ring.counts(self.node_id):
            self._be_removed()
            return
        self.replica.serve(ring, self.node_id)
        if unknown := len(self.replica.forest.unknown):
            self.effects.note("tree.unknown", leaves=unknown, of=self.replica.forest.size)
        self.registrar.on_ring(ring)
        assemble(self, ring)
        if self.registration is not None and self.registration.state == STARTING:
            self._close_doors(self._not_yet)

    # --- before the start is registered (core.registration) --------------------------------------

    def _close_doors(self, refuse: Handler) -> None:
        """Only what needs no store of its own is answered; requests of clients are passed on."""
        assert self.coordinator is not None
        self.serves_as = NodeId("")
        self.coordinator.up.discard(self.node_id)
        self._handlers = {
            kind: handler if kind in WITHOUT_STORE else refuse
            for kind, handler in self._handlers_of_owner.items()
        }
        self._handlers[Propose] = self._on_last_resort

    def on_registered(self, now: float) -> None:
        assert self.coordinator is not None
        if self.is_removed:
            return
        self.serves_as = self.node_id
        self.coordinator.up.add(self.node_id)
        self._handlers = self._handlers_of_owner

    def on_start_refused(self, refusal: StartRefused) -> None:
        """This store is not the node that it takes itself for; the shell stops."""
        self.machines = []
        self._close_doors(self._not_yet)
        self.stand_down(refusal)

    def _not_yet(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        raise NotReady(unready_reason(self))

    def _on_last_resort(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        """Where most voters are lost for good nobody can register, until others are forced."""
        assert isinstance(message, Propose)
        proceed = self._handlers_of_owner[Propose] if message.force else self._not_yet
        proceed(now, link, request_id, budget_ms, message)

    def on_ring(self, now: float, ring: Ring) -> None:
        """The ring is another, one or more epochs further, and is durable here."""
        assert self.ring is not None
        assert ring.epoch > self.ring.epoch
        if self.is_removed:
            self.ring = ring
            return
        self.ring = ring
        if not ring.counts(self.node_id):
            self._retire(now)
            return
        self.registrar.on_ring(ring)
        self.replica.on_ring(ring, self.node_id)
        if self.coordinator is not None:
            self.coordinator.expect(ring)
        for machine in self.followers:
            machine.on_ring(now, ring)
        self.effects.reconnect(ring)

    def _retire(self, now: float) -> None:
        """It is no member any more: it acknowledges nothing, votes and hands over nothing, ever.
        What it has passed on for clients it waits for: that rests on the word of others."""
        assert self.ring is not None
        self._be_removed()
        self.effects.note("node.removed", epoch=self.ring.epoch)
        if self.jobs is not None:
            self.jobs.give_up("this agent is no member any more")
        for operation in list(self.coordinator.operations.values()) if self.coordinator else ():
            if isinstance(operation, ForwardOperation):
                continue
            operation.finish()
            if operation.may_have_effect and not operation.answered:
                operation.fail(WriteOutcomeUnknown(self.removal().message))
            elif not operation.answered:
                operation.fail(self.removal())
        for link, request_id in self.replica.give_up():
            if link is not None:
                self.effects.answer(link, request_id, Error(NotReady.code, self.removal().message))
        if self.coordinator is not None:
            self.coordinator.is_member = False
            self.machines = [self.coordinator]
        self._hang_up()

    def _hang_up(self) -> None:
        """Lets all links go, once what was passed on for clients has had its answers."""
        assert self.ring is not None
        if self.machines and not (self.coordinator and self.coordinator.operations):
            self.machines = []
            self.effects.reconnect(self.ring)

    def _be_removed(self) -> None:
        self.is_removed = True
        self.serves_as = NodeId("")
        self.machines = []
        self.detector = self.gossip = None  # it uses nobody, and tells nothing
        self._handlers = {kind: self._handlers_of_owner[kind] for kind in _ABOUT_ITSELF}
        # It may be the only one that knows of its end: a leaver has that decided itself.
        self._handlers |= {Gossip: self._tell_epoch, LogRequest: self._tell_ring}

    def _tell_epoch(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert self.ring is not None
        self.effects.answer(link, request_id, RingIs(self.ring.epoch))

    def _tell_ring(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert self.ring is not None
        if self.ringlog is not None:
            self.ringlog.on_message(now, link, request_id, budget_ms, message)
        else:  # it has started again since
            page = LogReply(self.ring.epoch, 0, [], encode_ring(self.ring))
            self.effects.answer(link, request_id, page)

    def removal(self) -> NotReady:
        return NotReady(
            "this agent is no member of its cluster any more; stop it, move its data directory"
            " away, and it can join as a new node"
        )

    # --- what the shell feeds --------------------------------------------------------------------

    def on_message(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        """A request. Every one is answered, with an Error if need be. `budget_ms`: what is left of
        its time; none of a get or put whose time was over before it was read."""
        kind = type(message)
        self.counters[kind.__name__] = self.counters.get(kind.__name__, 0) + 1
        try:
            handler = self._handlers.get(kind)
            if handler is None:
                if self.is_removed:
                    raise self.removal()
                raise BadRequest(f"{kind.__name__} is not a request")
            handler(now, link, request_id, budget_ms, message)
        except DynagentError as error:
            self.count_error(error)
            self._answer_all(link, request_id, message, Error(error.code, error.message))

    def _answer_all(self, link: LinkId, request_id: int, message: Message, reply: Message) -> None:
        """The same answer to every request of a frame (`Merge`, `Read`)."""
        self.effects.answer(link, request_id, reply)
        if isinstance(message, Merge | Read):
            for also in message.also:
                self.effects.answer(link, also, reply)

    def is_stranger(self, node: str) -> bool:
        """Whether a peer of that id is no member, as far as this node's ring goes."""
        return self.ring is not None and not self.ring.counts(NodeId(node))

    def on_stranger(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        """A request of such a peer. It was removed, and learns that; or it has joined, and we have
        not heard of it: either way our rings differ, and no more is said to it."""
        assert self.ring is not None
        if type(message) in _OF_ANYBODY:
            self.on_message(now, link, request_id, budget_ms, message)
            return
        self._answer_all(link, request_id, message, RingIs(self.ring.epoch))

    def on_reply(self, now: float, source: NodeId, request_id: int, message: Message) -> None:
        """A peer's answer; one that comes after its operation has ended is dropped."""
        if self.coordinator is None:
            return
        self.coordinator.now = now
        if self.is_removed:
            if (operation := self.coordinator.operations.get(request_id)) is not None:
                operation.on_reply(now, source, message)
                self._hang_up()
            return
        if self.detector is None:
            return
        if type(message) is RingIs and self.ringlog is not None:
            self.ringlog.on_ring_is(now, source, message.epoch)
        operations = self.coordinator.operations
        if (operation := operations.get(request_id)) is not None:
            # What the detector must know of each answer, without a call.
            try:
                peer = self.coordinator.peers[source]
            except KeyError:
                return  # no member any more: it neither acknowledges nor tells anything
            peer.heard_at = now
            peer.asked = 0
            if peer.is_unwell:
                self.detector.on_answer(now, peer, is_data=True)
            operation.on_reply(now, source, message)
        elif self.gossip is None or not self.gossip.on_reply(now, source, request_id, message):
            self.detector.on_reply(now, source, request_id, message)
        if type(message) is MergeAck:
            for also in message.also:
                if (operation := operations.get(also)) is not None:
                    operation.on_reply(now, source, message)

    def on_peer_up(self, now: float, node: NodeId) -> None:
        if self.detector is not None and not self.is_removed:
            self.detector.on_link_up(now, node)
        if self.registration is not None:
            self.registration.on_link_up(now, node)

    def on_peer_down(self, now: float, node: NodeId) -> None:
        if self.is_removed:
            if self.coordinator is not None and self.machines:
                self.coordinator.on_peer_down(now, node)
                self._hang_up()
        elif self.detector is not None:
            self.detector.on_link_down(now, node)

    def take_batch(self) -> Batch | None:
        """What the shell shall make durable next; None if nothing has gathered."""
        return self.replica.take_batch()

    def on_committed(self, now: float, batch: Batch) -> None:
        self._turn_to(now)
        acks: dict[LinkId, list[int]] = {}  # one frame for all that a peer waits for
        for link, request_id in self.replica.on_committed(batch):
            if link is not None:
                acks.setdefault(link, []).append(request_id)
            elif self.coordinator is not None and (
                operation := self.coordinator.operations.get(request_id)
            ):
                operation.on_durable(now)
        for link, ids in acks.items():
            for start in range(0, len(ids), limits.PACKED_MAX):
                first, *also = ids[start : start + limits.PACKED_MAX]
                self.effects.answer(link, first, MergeAck(also))
        if self.ringlog is not None and not self.is_removed:
            self.ringlog.on_committed(now, batch.number)

    @property
    def failure(self) -> DynagentError | None:
        """Why this node cannot go on: the shell stops it."""
        return self.ringlog.failure if self.ringlog is not None else None

    def on_refused(self, now: float) -> None:
        """The disk has no room for the batch that was taken; nothing of it is there."""
        self._turn_to(now)
        error = DiskFull("the disk of this owner is full")
        waiters = self.replica.on_refused(now)
        if self.jobs is not None:
            self.jobs.on_refused(now)
        if self.ringlog is not None:
            self.ringlog.on_refused(now)
        if self.transfers is not None:
            self.transfers.on_refused(now)
        for link, request_id in waiters:
            if link is not None:
                self.effects.answer(link, request_id, Error(error.code, error.message))
            elif self.coordinator is not None and (
                operation := self.coordinator.operations.get(request_id)
            ):
                operation.on_failure(now, self.node_id)

    def _turn_to(self, now: float) -> None:
        if self.coordinator is not None:
            self.coordinator.now = now

    def on_adopted(self, now: float, ring: Ring, link: LinkId, request_id: int) -> None:
        """The first ring, handed to `Effects.adopt`, is durable: serve."""
        self._answers.is_adopting = False
        self._serve(ring)
        self.effects.reconnect(ring)
        self.effects.answer(link, request_id, Installed())

    def count_keys(self) -> int | None:
        """Records of the partitions that it owns; None while their trees are not all known."""
        forest = self.replica.forest
        return None if forest.unknown else forest.records

    def on_tick(self, now: float) -> None:
        for machine in self.machines:
            machine.on_tick(now)
        if self.is_removed:
            self._hang_up()

    def next_deadline(self) -> float | None:
        """When `on_tick` is due next; None if nothing waits for time to pass."""
        due = inf
        for machine in self.machines:
            if (other := machine.due) < due:
                due = other
        return due if due < inf else None

    @property
    def is_idle(self) -> bool:
        """No request waits for an answer and no change for the disk: a draining agent may stop."""
        if self.replica.is_dirty:
            return False
        operations = self.coordinator.operations.values() if self.coordinator is not None else ()
        return all(operation.answered for operation in operations)

    # --- requests of clients ---------------------------------------------------------------------

    def _accepting(self) -> Coordinator:
        if self.coordinator is None:
            raise NotReady("this agent belongs to no cluster yet; see: dynctl bootstrap")
        if self.draining:
            raise NotReady("this agent is stopping, or drained; see: dynctl node drain --help")
        return self.coordinator

    def _on_data(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, _DATA)
        coordinator = self._accepting()
        coordinator.now = now
        admission = self.admission
        if budget_ms <= 0:
            raise admission.expiry()
        if not message.hops:  # those that another agent has passed on it has admitted
            gate = admission.gets if type(message) is Get else admission.puts
            if gate.under_way >= gate.limit or admission.is_shut:
                raise admission.refusal(gate)
        coordinator.check_key(message.key)
        operation = self.begin(now, link, request_id, now + budget_ms / 1000, message)
        if message.trace:
            operation.trace = Trace(now)
        operation.start(now)

    def begin(
        self, now: float, link: LinkId, request_id: int, deadline: float, message: Get | Put
    ) -> GetOperation | PutOperation | ForwardOperation:
        """The operation of a client's request that is admitted, still to be started."""
        coordinator = self.coordinator
        assert coordinator is not None
        token = self.replica.token_of(message.key)
        aim = coordinator.aim_of(token)
        if self.serves_as not in aim.readers and not self._stands_in(coordinator, message, aim):
            return ForwardOperation(coordinator, link, request_id, deadline, message, aim)
        if isinstance(message, Get):
            reads = RepairingGet if message.repair else GetOperation
            return reads(coordinator, link, request_id, now, deadline, message, aim, token)
        looks = message.mode == MODE_OVERWRITE or message.attempt > 1
        kind = LookingPut if looks else PutOperation
        return kind(coordinator, link, request_id, now, deadline, message, aim, token)

    def _stands_in(self, coordinator: Coordinator, message: Get | Put, aim: Aim) -> bool:
        """No owner is up, as we see it, and we are one of those in whose place requests go."""
        if message.strict or not coordinator.up.isdisjoint(aim.readers):
            return False
        if self.replica.barriers.is_foreign(aim.partition):
            return False
        return self.node_id in coordinator.stand_ins(aim, aim.readers)

    def _on_list(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, List)
        ring = self._accepting().ring
        if is_restamped(ring, message):
            self.effects.answer(link, request_id, RingIs(ring.epoch))
            return
        self.replica.unknown.check_whole(message.partition)
        page = list_page(self.reader, ring, self.node_id, message)
        for key, clock, _dots in page.rows:
            if not clock and isinstance(key, bytes):
                self.replica.read(key, token_of(key))  # notes that it is to be healed
        self.effects.answer(link, request_id, page)

    def _on_export(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Export)
        ring = self._accepting().ring
        if is_restamped(ring, message):
            self.effects.answer(link, request_id, RingIs(ring.epoch))
            return
        page = export_page(self.replica, ring, self.node_id, message)
        self.effects.answer(link, request_id, page)

    def _on_inspect(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Inspect)
        if self.coordinator is None:
            raise NotReady("this agent belongs to no cluster yet; see: dynctl bootstrap")
        self.coordinator.check_key(message.key)
        reply = inspect_copy(
            self.replica, self.reader, message.key, now=now, draining=self.draining
        )
        if self.antientropy is not None:
            partition = self.coordinator.ring.partition_of(token_of(message.key))
            reply.verified_ms = int(1000 * self.antientropy.verified_s(now, partition))
        self.effects.answer(link, request_id, reply)

    def count_error(self, error: DynagentError) -> None:
        name = type(error).__name__
        self.counters[name] = self.counters.get(name, 0) + 1


def _ignore(_told: object) -> None:
    """For a shell that has nothing to stop, and nobody to meet."""
