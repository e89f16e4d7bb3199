"""The node: one sans-I/O machine made of small ones. It decides; a shell waits and does.

The shell feeds it, in one thread, and performs the effects that each call emits:

    on_message      a request that came in on a link         (client or peer)
    on_reply        a peer's answer to a request of ours
    on_peer_up/down the link that we dialled to a peer; whether it is used says the detector
    on_committed    a batch that it took with `take_batch` is fsynced
    on_refused      the disk is full, and has none of that batch
    on_tick         `next_deadline` has passed

The shell's promises: every effect of a call is performed, in order; a batch is reported committed
only when it is durable, batches in the order they were taken; replies are delivered for links that
are up only. A store that fails in any other way than for lack of room stops the node.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from dynagent import limits
from dynagent.core.admission import Admission
from dynagent.core.answers import Answers
from dynagent.core.antientropy import AntiEntropy
from dynagent.core.budget import Budget
from dynagent.core.coordinator import Coordinator
from dynagent.core.copies import Copies
from dynagent.core.counterpart import Counterpart
from dynagent.core.delivery import Delivery
from dynagent.core.detector import Detector
from dynagent.core.explain import inspect_copy
from dynagent.core.exports import export_page
from dynagent.core.get import GetOperation
from dynagent.core.gossip import Gossiper
from dynagent.core.heal import Healer
from dynagent.core.jobs import Jobs
from dynagent.core.listing import list_page
from dynagent.core.look import LookingPut
from dynagent.core.messages import (
    MODE_OVERWRITE,
    BarrierMove,
    BarrierRequest,
    Compare,
    Error,
    Export,
    Facts,
    Get,
    Gossip,
    HintOrder,
    Inspect,
    Install,
    Installed,
    JobRequest,
    LeafKeys,
    List,
    Look,
    Merge,
    MergeAck,
    Message,
    Ping,
    PingFor,
    Purge,
    Put,
    Read,
    RingRequest,
    Roots,
    StatusRequest,
    TombstoneQuery,
)
from dynagent.core.peer import Timing
from dynagent.core.portrait import SelfPortrait
from dynagent.core.ports import Batch, Dice, Effects, LinkId, NodeId, Reader, Token
from dynagent.core.purge import Purger
from dynagent.core.purge_answers import PurgeAnswers
from dynagent.core.put import PutOperation
from dynagent.core.readback import RepairingGet
from dynagent.core.rebuild import Rebuilder
from dynagent.core.repair import Repair
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring, token_of
from dynagent.core.router import ForwardOperation
from dynagent.core.scrub import Scrubber
from dynagent.core.sums import Shape
from dynagent.core.trace import Trace
from dynagent.errors import BadRequest, DiskFull, DynagentError, NotReady

_DATA = (Get, Put)  # a tuple: to make the union Get | Put costs 0.2 µs each time
DEFAULT_TIMING = Timing()

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
        wall_ms: Callable[[], int],
        run: int,
        clean_from_run: int,
        value_bytes_max: int = limits.VALUE_BYTES_DEFAULT_MAX,
        siblings_max: int = limits.SIBLINGS_DEFAULT_MAX,
        cache_bytes: int = limits.CACHE_BYTES_DEFAULT,
        timing: Timing = DEFAULT_TIMING,
        background_bytes_per_s: int = limits.BACKGROUND_BYTES_PER_S_DEFAULT,
        foreground_p99_ms: int = limits.FOREGROUND_P99_MS_DEFAULT,
        hint_bytes_max: int = limits.HINT_BYTES_DEFAULT_MAX,
        owner_hints_max: int = limits.OWNER_HINTS_DEFAULT_MAX,
        antientropy_interval_s: float = limits.ANTIENTROPY_INTERVAL_S_DEFAULT,
        tree_shape: Shape | None = None,
        tombstone_rest_s: float = limits.TOMBSTONE_REST_S_DEFAULT,
        scrub_interval_s: float = limits.SCRUB_INTERVAL_S_DEFAULT,
    ) -> None:
        self.node_id = node_id
        self.ring: Ring | None = None
        self.draining = False
        self.about: dict[str, object] = {}  # name, address, zone, host, capacity: for bootstrap
        self.counters: dict[str, int] = {}
        self.measure: Callable[[], dict[str, object]] = dict  # what the shell adds to our status
        self.replica = Replica(
            reader=reader,
            effects=effects,
            dice=dice,
            cluster_id=b"",
            run=run,
            clean_from_run=clean_from_run,
            cache_bytes=cache_bytes,
            hint_bytes_max=hint_bytes_max,
            owner_hints_max=owner_hints_max,
            tree_shape=tree_shape,
        )
        self.budget = Budget(
            threshold_s=foreground_p99_ms / 1000, bytes_per_s_max=background_bytes_per_s
        )
        self.rebuilder = Rebuilder(self.replica.forest, self.budget)
        self.admission = Admission()
        self.coordinator: Coordinator | None = None
        self.delivery: Delivery | None = None
        self.detector: Detector | None = None  # with the coordinator
        self.gossip: Gossiper | None = None  # too
        self.antientropy: AntiEntropy | None = None  # too
        self.purger: Purger | None = None  # too
        self.jobs: Jobs | None = None  # too
        self.healer: Healer | None = None  # too
        self.scrubber: Scrubber | None = None  # too
        self._probe_dice = probe_dice
        self._gossip_dice = gossip_dice
        self._timing = timing
        self._copies = Copies(self.replica, effects)
        self._counterpart = Counterpart(self.replica)
        self._purge_answers = purge_answers = PurgeAnswers(self.replica, effects)
        self._tombstone_rest_s = tombstone_rest_s
        self._antientropy_interval_s = antientropy_interval_s
        self._scrub_interval_s = scrub_interval_s
        self._reader = reader
        self._effects = effects
        self._wall_ms = wall_ms
        self._started_ms = max(0, wall_ms())
        self._value_bytes_max = value_bytes_max
        self._siblings_max = siblings_max
        self._answers = answers = Answers(self, effects)
        self._handlers: dict[type[Message], Handler] = {
            Get: self._on_data,
            Put: self._on_data,
            List: self._on_list,
            Export: self._on_export,
            Inspect: self._on_inspect,
            Merge: self._copies.on_merge,
            Read: self._copies.on_read,
            Ping: answers.on_ping,
            PingFor: answers.on_ping_for,
            RingRequest: answers.on_ring_request,
            Install: answers.on_install,
            StatusRequest: answers.on_status_request,
            HintOrder: answers.on_hint_order,
            Gossip: answers.on_gossip,
            Facts: answers.on_facts,
            JobRequest: answers.on_job_request,
            Compare: self._counterpart.on_compare,
            LeafKeys: self._counterpart.on_leaf_keys,
            Look: self._counterpart.on_look,
            Roots: self._counterpart.on_roots,
            BarrierRequest: purge_answers.on_barrier_request,
            BarrierMove: purge_answers.on_barrier_move,
            TombstoneQuery: purge_answers.on_tombstone_query,
            Purge: purge_answers.on_purge,
        }
        if ring is not None:
            self._serve(ring)

    def _serve(self, ring: Ring) -> None:
        self.ring = ring
        self.replica.serve(ring, self.node_id)
        if unknown := len(self.replica.forest.unknown):
            self._effects.note("tree.unknown", leaves=unknown, of=self.replica.forest.size)
        self.coordinator = coordinator = Coordinator(
            node_id=self.node_id,
            ring=ring,
            replica=self.replica,
            effects=self._effects,
            wall_ms=self._wall_ms,
            value_bytes_max=self._value_bytes_max,
            siblings_max=self._siblings_max,
            budget=self.budget,
            admission=self.admission,
            count_error=self._count_error,
        )
        self._copies.coordinator = self._counterpart.coordinator = coordinator
        self._purge_answers.coordinator = coordinator
        self.delivery = Delivery(coordinator)
        self.healer = Healer(coordinator)
        self.detector = Detector(
            names={m.id: m.name for m in ring.members if m.id != self.node_id},
            effects=self._effects,
            dice=self._probe_dice,
            timing=self._timing,
            take_number=coordinator.take_number,
            on_up=self._on_up,
            on_down=coordinator.on_peer_down,
        )
        coordinator.peers = self.detector.peers
        self.gossip = Gossiper(
            node_id=self.node_id,
            cluster_id=ring.cluster_id,
            run=self.replica.run,
            peers=self.detector.peers,
            draw=SelfPortrait(self, started_ms=self._started_ms).draw,
            effects=self._effects,
            dice=self._gossip_dice,
            interval_s=self._timing.gossip_interval_s,
            take_number=coordinator.take_number,
        )
        self.antientropy = antientropy = AntiEntropy(
            coordinator,
            busy=self._counterpart.busy,
            interval_s=self._antientropy_interval_s,
            is_draining=lambda: self.draining,
        )
        self.purger = Purger(
            coordinator,
            self._purge_answers,
            rest_s=self._tombstone_rest_s,
            is_draining=lambda: self.draining,
        )
        kinds = {
            "repair": Repair(coordinator, antientropy, moves=True),
            "verify": Repair(coordinator, antientropy, moves=False),
        }
        self.scrubber = scrubber = Scrubber(
            coordinator, self._reader, interval_s=self._scrub_interval_s
        )
        self.jobs = Jobs(coordinator, self._reader, {**kinds, "scrub": scrubber})
        self.jobs.load()

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
                raise BadRequest(f"{kind.__name__} is not a request")
            handler(now, link, request_id, budget_ms, message)
        except DynagentError as error:
            self._count_error(error)
            self._effects.answer(link, request_id, Error(error.code, error.message))

    def on_reply(self, now: float, source: NodeId, request_id: int, message: Message) -> None:
        """A peer's answer; one that comes after its operation has ended is dropped."""
        if self.coordinator is None or self.detector is None:
            return
        self.coordinator.now = now
        operations = self.coordinator.operations
        if (operation := operations.get(request_id)) is not None:
            # What the detector must know of each answer, without a call.
            peer = self.coordinator.peers[source]
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
        if self.detector is not None:
            self.detector.on_link_up(now, node)

    def _on_up(self, now: float, node: NodeId) -> None:
        """The detector has found that a peer can be used."""
        assert self.coordinator is not None and self.delivery is not None
        self.coordinator.up.add(node)
        self.delivery.wake(now, node)
        if self.healer is not None:
            self.healer.wake(now)
        if self.antientropy is not None:
            self.antientropy.wake(now, node)
        if self.purger is not None:
            self.purger.wake(now, node)

    def on_peer_down(self, now: float, node: NodeId) -> None:
        if self.detector is not None:
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
                self._effects.answer(link, first, MergeAck(also))

    def on_refused(self, now: float) -> None:
        """The disk has no room for the batch that was taken; nothing of it is there."""
        self._turn_to(now)
        error = DiskFull("the disk of this owner is full")
        waiters = self.replica.on_refused(now)
        if self.jobs is not None:
            self.jobs.on_refused(now)
        for link, request_id in waiters:
            if link is not None:
                self._effects.answer(link, request_id, Error(error.code, error.message))
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
        self._effects.answer(link, request_id, Installed())

    def count_keys(self) -> int | None:
        """Records of the partitions that it owns; None while their trees are not all known."""
        forest = self.replica.forest
        return None if forest.unknown else forest.records

    def on_tick(self, now: float) -> None:
        if self.coordinator is not None and self.detector is not None and self.delivery is not None:
            self.coordinator.on_tick(now)
            self.detector.on_tick(now)
            self.delivery.on_tick(now)
            self.rebuilder.on_tick(now)
            if self.healer is not None:
                self.healer.on_tick(now)
            if self.gossip is not None:
                self.gossip.on_tick(now)
            if self.antientropy is not None and self.jobs is not None:
                self.antientropy.on_tick(now)
                self.jobs.on_tick(now)
            if self.purger is not None:
                self.purger.on_tick(now)

    def next_deadline(self) -> float | None:
        """When `on_tick` is due next; None if nothing waits for time to pass."""
        if self.coordinator is None or self.detector is None or self.delivery is None:
            return None
        due = self.detector.due
        if self.gossip is not None and self.gossip.due < due:
            due = self.gossip.due
        if (other := self.coordinator.next_deadline()) is not None and other < due:
            due = other
        if (other := self.delivery.next_deadline()) is not None and other < due:
            due = other
        if (other := self.rebuilder.next_deadline()) is not None and other < due:
            due = other
        if self.healer is not None and (other := self.healer.next_deadline()) is not None:
            due = min(due, other)
        if self.antientropy is not None and self.antientropy.due < due:
            due = self.antientropy.due
        if self.purger is not None and self.purger.due < due:
            due = self.purger.due
        if self.jobs is not None and self.jobs.due < due:
            due = self.jobs.due
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
            raise NotReady("this agent is stopping")
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
        token = token_of(message.key)
        owners = coordinator.owners_of(token)
        deadline = now + budget_ms / 1000
        operation: GetOperation | PutOperation | ForwardOperation
        if self.node_id not in owners and not self._stands_in(coordinator, message, owners, token):
            stand_ins = coordinator.stand_ins(owners, token)
            operation = ForwardOperation(
                coordinator, link, request_id, deadline, message, owners, stand_ins
            )
        elif isinstance(message, Get):
            reads = RepairingGet if message.repair else GetOperation
            operation = reads(coordinator, link, request_id, now, deadline, message, owners, token)
        else:
            looks = message.mode == MODE_OVERWRITE or message.attempt > 1
            kind = LookingPut if looks else PutOperation
            operation = kind(coordinator, link, request_id, now, deadline, message, owners, token)
        if message.trace:
            operation.trace = Trace(now)
        operation.start(now)

    def _stands_in(
        self,
        coordinator: Coordinator,
        message: Get | Put,
        owners: tuple[NodeId, ...],
        token: Token,
    ) -> bool:
        """No owner is up, as we see it, and we are one of those in whose place requests go."""
        if message.strict or not coordinator.up.isdisjoint(owners):
            return False
        return self.node_id in coordinator.stand_ins(owners, token)

    def _on_list(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, List)
        ring = self._accepting().ring
        page = list_page(self._reader, ring, self.node_id, message)
        for key, clock, _dots in page.rows:
            if not clock and isinstance(key, bytes):
                self.replica.read(key, token_of(key))  # notes that it is to be healed
        self._effects.answer(link, request_id, page)

    def _on_export(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Export)
        page = export_page(self.replica, self._accepting().ring, self.node_id, message)
        self._effects.answer(link, request_id, page)

    def _on_inspect(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Inspect)
        if self.coordinator is None:
            raise NotReady("this agent belongs to no cluster yet; see: dynctl bootstrap")
        self.coordinator.check_key(message.key)
        reply = inspect_copy(
            self.replica, self._reader, message.key, now=now, draining=self.draining
        )
        if self.antientropy is not None:
            partition = self.coordinator.ring.partition_of(token_of(message.key))
            reply.verified_ms = int(1000 * self.antientropy.verified_s(now, partition))
        self._effects.answer(link, request_id, reply)

    def _count_error(self, error: DynagentError) -> None:
        name = type(error).__name__
        self.counters[name] = self.counters.get(name, 0) + 1
