"""The agent: thin trio shells around `core.node`. It owns the tasks; the node decides.

One turn of the transport is one round of the node: whatever has arrived is fed to it, its effects
go into out-buffers, then `_end_turn` hands the open batch to the commit thread if that is free (so
what arrives during an fsync shares the next one), and everything written is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import trio

from dynagent import limits
from dynagent.agent.entrance import Entrance
from dynagent.agent.links import Links
from dynagent.agent.meeting import meet
from dynagent.agent.meter import Meter
from dynagent.agent.packing import Packer
from dynagent.agent.peers import Peers
from dynagent.config import Config, seeds_of
from dynagent.core.logrows import RING_ROW
from dynagent.core.messages import ROLE_PEER, Error, Hello, Install, Message, StartRefused
from dynagent.core.node import Node
from dynagent.core.peer import Timing
from dynagent.core.ports import Batch, LinkId, NodeId
from dynagent.core.registration import REMOVED
from dynagent.core.ring import Ring
from dynagent.core.ringcodec import decode_ring, encode_ring
from dynagent.core.settings import Settings
from dynagent.env import Env
from dynagent.errors import (
    ConfigError,
    DiskFull,
    DynagentError,
    OutdatedStore,
    StartError,
    StoreFailed,
    TooLarge,
    TwinStore,
    UnknownEntry,
)
from dynagent.obs.log import log
from dynagent.store.protocol import Directory
from dynagent.wire.codec import encode_frame
from dynagent.wire.registry import VERSION_MAX, VERSION_MIN

NO_LINK = LinkId(0)  # of what the agent asks of its own node; the others begin with 1


class Agent:
    """One node in its world, from an opened data directory to a clean stop."""

    def __init__(self, config: Config, env: Env, data_dir: Directory) -> None:
        self.config = config
        self.env = env
        self.data_dir = data_dir
        self.address = ""  # where it listens, once it does
        self._failure: BaseException | None = None
        self._in_flight: Batch | None = None
        self._drained = False
        self._idle = trio.Event()  # draining, and nothing is left to do
        self._timer_scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        identity = data_dir.identity_file.value
        guard = config.cluster_id
        if guard and identity.cluster_id and identity.cluster_id.hex() != guard:
            raise ConfigError(
                f"{data_dir.path} belongs to cluster {identity.cluster_id.hex()}, but cluster_id "
                f"is {guard}; use the right data directory, or remove the guard"
            )
        self._boot_id = identity.starts[-1]
        self.node = Node(
            node_id=NodeId(identity.node_id),
            ring=_stored_ring(data_dir),
            reader=data_dir.store,
            effects=self,
            dice=env.dice("actors"),
            probe_dice=env.dice("detector"),
            gossip_dice=env.dice("gossip"),
            ring_dice=env.dice("ring log"),
            wall_ms=env.wall_ms,
            run=identity.run,
            clean_from_run=identity.clean_from_run,
            starts=identity.starts,
            settings=Settings(
                value_bytes_max=config.value_bytes_max,
                siblings_max=config.siblings_max,
                cache_bytes=config.cache_bytes,
                timing=Timing(
                    probe_interval_s=config.probe_interval_s,
                    probe_timeout_s=config.probe_timeout_s,
                    gray_s=config.gray_s,
                    suspicion_s=config.suspicion_s,
                    gossip_interval_s=config.gossip_interval_s,
                ),
                background_bytes_per_s=config.background_bytes_per_s,
                foreground_p99_ms=config.foreground_p99_ms,
                hint_bytes_max=config.hint_bytes_max,
                owner_hints_max=config.owner_hints_max,
                antientropy_interval_s=config.antientropy_interval_s,
                tombstone_rest_s=config.tombstone_rest_s,
                scrub_interval_s=config.scrub_interval_s,
            ),
        )
        self._links = Links(self.node, self._hello, env.monotonic)
        self.meter = Meter(
            env,
            data_dir,
            connections=lambda: len(self._links.by_id),
            background=self.node.budget.document,
            keys=self.node.count_keys,
        )
        self.node.measure = self.meter.document
        self.node.stand_down = self._stand_down
        self.node.meet_double = self._meet_double
        self._peers = Peers(
            self.node,
            env.transport,
            self._hello,
            env.monotonic,
            env.dice("redial"),
            config.redial_s_max,
        )
        self._requests = Packer(self._peers.write)
        self._replies = Packer(self._links.write)

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serves until `stop` or `drain`; raises `StartError` or `StoreFailed`.

        `on_ready` is called once it listens and has its ring and store open.
        """
        self.address = await self.env.transport.listen(self.config.listen, self._links.accept)
        self.node.about = self._about()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.env.transport.run, self._end_turn)
                nursery.start_soon(self._run_timer)
                nursery.start_soon(self._drop_silent_links)
                self._peers.start(nursery, self.node.ring)
                if self.node.ring is None and seeds_of(self.config):
                    nursery.start_soon(self._enter)
                self._announce()
                on_ready()
        finally:
            self.env.pulse.stop()
            self.env.writer.close()
            is_clean = self._drained and self._failure is None
            self.data_dir.close(clean=is_clean and not self.node.replica.has_burnt)
        if isinstance(self._failure, StartError | UnknownEntry):
            raise self._failure
        if self._failure is not None:
            raise StoreFailed(f"the agent stopped: {self._failure}") from self._failure
        log(logging.INFO, "agent.stopped", clean=self._drained)

    def _announce(self) -> None:
        identity = self.data_dir.identity_file.value
        log(
            logging.INFO,
            "agent.ready",
            listen=self.address,
            node=identity.node_id,
            run=identity.run,
            cluster=identity.cluster_id.hex() or "none",
            data_dir=self.data_dir.path,
            cache_bytes=self.config.cache_bytes,
        )
        if self.config.insecure_bind:
            log(logging.WARNING, "agent.insecure", reason="no encryption or authentication")

    def _about(self) -> dict[str, object]:
        """What bootstrap needs to know of a fresh agent."""
        config = self.config
        return {
            "name": config.name or self.node.node_id,
            "address": config.advertise or self.address,
            "zone": config.zone,
            "host": config.host,
            "capacity": config.capacity,
        }

    def _hello(self) -> Hello:
        ring = self.node.ring
        return Hello(
            VERSION_MIN,
            VERSION_MAX,
            ROLE_PEER,
            ring.cluster_id if ring is not None else b"",
            self.node.node_id,
            self._boot_id,
            [],
            limits.DATA_FRAME_BYTES_MAX,
            self.env.wall_ms(),
        )

    # --- effects (core.ports.Effects) ------------------------------------------------------------

    def send(
        self, targets: Sequence[NodeId], request_id: int, budget_ms: int, message: Message
    ) -> None:
        if self._requests.add(targets, request_id, budget_ms, message):
            return
        frame = encode_frame(message, request_id=request_id, budget_ms=budget_ms)
        for target in targets:
            self._peers.write(target, frame)

    def answer(self, link: LinkId, request_id: int, message: Message) -> None:
        if self._replies.add((link,), request_id, 0, message):
            return
        try:
            frame = encode_frame(message, request_id=request_id, budget_ms=0)
        except TooLarge as exc:
            frame = encode_frame(Error(exc.code, exc.message), request_id=request_id, budget_ms=0)
        self._links.write(link, frame)

    def adopt(self, ring: bytes, link: LinkId, request_id: int) -> None:
        first = decode_ring(ring)
        self.env.writer.submit(
            partial(self._write_adoption, first),
            partial(self._on_adopted, first, link, request_id),
        )

    def reconnect(self, ring: Ring) -> None:
        self._peers.on_ring(ring)
        self._links.on_ring()

    def note(self, event: str, **fields: object) -> None:
        log(logging.INFO if event == "peer.alive" else logging.WARNING, event, **fields)

    # --- disk ------------------------------------------------------------------------------------

    def _end_turn(self) -> None:
        if self._links.end_turn():
            self.env.transport.request_turn()
        self._requests.flush()
        self._replies.flush()
        if self.node.failure is not None and self._failure is None:
            self._failure = self.node.failure
            self.stop()
        if self._in_flight is None and self._failure is None:
            batch = self.node.take_batch()
            if batch is not None:
                self._in_flight = batch
                self.env.writer.submit(partial(self.meter.write, batch), self._on_written)
            elif self.node.draining and self.node.is_idle:
                self._idle.set()
        self.node.admission.end(self.env.monotonic(), self._arm_timer())
        self.env.pulse.beat()

    def _on_written(self, error: BaseException | None) -> None:
        batch, self._in_flight = self._in_flight, None
        assert batch is not None
        if isinstance(error, DiskFull):
            log(logging.ERROR, "store.full", reason=error.message, records=len(batch.records))
            self.node.on_refused(self.env.monotonic())
        elif error is not None:
            self._stop_failed(error)
        else:
            self.node.on_committed(self.env.monotonic(), batch)
            if self.data_dir.store.is_log_long:
                self.env.writer.submit(self.data_dir.store.fold_log, self._on_folded)

    def _on_folded(self, error: BaseException | None) -> None:
        if error is not None:
            self._stop_failed(error)

    def _write_adoption(self, ring: Ring) -> None:
        """The ring first, the cluster id second: a cut between them leaves a fresh agent."""
        batch = Batch(0)
        batch.meta.append((RING_ROW, encode_ring(ring)))
        self.data_dir.store.write(batch)
        file = self.data_dir.identity_file
        file.write(replace(file.value, cluster_id=ring.cluster_id))

    def _on_adopted(
        self, ring: Ring, link: LinkId, request_id: int, error: BaseException | None
    ) -> None:
        if error is not None:
            self._stop_failed(error)
            return
        log(logging.INFO, "agent.adopted", cluster=ring.cluster_id, members=len(ring.members))
        self.node.on_adopted(self.env.monotonic(), ring, link, request_id)

    def _stop_failed(self, error: BaseException) -> None:
        """Fail-stop: nothing that was in that batch, or comes after it, is acknowledged."""
        log(logging.CRITICAL, "store.failed", reason=error)
        self._failure = error
        self.stop()

    # --- who this store is -----------------------------------------------------------------------

    async def _enter(self) -> None:
        """A fresh agent that was told of a cluster."""
        entrance = Entrance(
            self.config,
            self.data_dir.identity_file.value,
            self.env.transport,
            about=self.node.about,
            is_member=lambda: self.node.ring is not None,
            adopt=self._adopt_place,
        )
        await entrance.run()

    def _adopt_place(self, ring: bytes) -> None:
        self.node.on_message(self.env.monotonic(), NO_LINK, 0, 0, Install(ring))

    def _stand_down(self, refusal: StartRefused) -> None:
        """The cluster does not take this store for the node whose id it has."""
        assert self._nursery is not None
        identity = self.data_dir.identity_file.value
        if refusal.kind == REMOVED:
            log(
                logging.ERROR,
                "node.removed",
                node=identity.node_id,
                epoch=refusal.epoch,
                remedy=f"stop this agent; with another data directory than {self.data_dir.path} it"
                " can join as a new node",
            )
            return
        log(logging.ERROR, "start.refused", known_run=refusal.run, known_at=refusal.address)
        self._nursery.start_soon(self._stop_refused, refusal)

    async def _stop_refused(self, refusal: StartRefused) -> None:
        """Two agents, or one old store? It depends on whether the other one is there."""
        identity, path = self.data_dir.identity_file.value, self.data_dir.path
        if await self._is_there(refusal.address):
            self._failure = self._twin_at(refusal.address)
        else:
            self._failure = OutdatedStore(
                f"{path} is not the store that node {identity.node_id} last wrote: that one has"
                f" been in run {refusal.run} (at {refusal.address or 'an unknown address'}), this"
                " one knows nothing of it; put the right one back, or start with an empty data"
                " directory and take the old node's place: dynctl replace"
            )
        self.stop()

    def _meet_double(self, address: str) -> None:
        """A voter has a link to another agent with this node id; or to one that is dead by now."""
        assert self._nursery is not None
        self._nursery.start_soon(self._stop_if_double, address)

    async def _stop_if_double(self, address: str) -> None:
        if await self._is_there(address) and self._failure is None:
            self._failure = self._twin_at(address)
            self.stop()

    def _twin_at(self, address: str) -> TwinStore:
        return TwinStore(
            f"{self.data_dir.path} is a copy of the store of node {self.node.node_id}, which runs"
            f" at {address}; give this agent an empty data directory of its own"
        )

    async def _is_there(self, address: str) -> bool:
        if not address or address == self.node.about["address"]:
            return False
        try:
            hello, _ = await meet(self.env.transport, address)
        except DynagentError:
            return False
        return hello.node_id == self.node.node_id and hello.boot_id != self._boot_id

    # --- time ------------------------------------------------------------------------------------

    def _arm_timer(self) -> float | None:
        """The one timer serves all deadlines; it is only ever moved forward when it fires. Returns
        when the next of them is."""
        deadline = self.node.next_deadline()
        if deadline is None:
            return None
        due = trio.current_time() + deadline - self.env.monotonic()
        if due < self._timer_scope.deadline:
            self._timer_scope.deadline = due
        return deadline

    async def _run_timer(self) -> None:
        while True:
            with trio.CancelScope() as self._timer_scope:
                self._arm_timer()
                await trio.sleep_forever()
            self.node.on_tick(self.env.monotonic())
            self.env.transport.request_turn()

    async def _drop_silent_links(self) -> None:
        while True:
            await trio.sleep(1)
            now = self.env.monotonic()
            if self._links.greeting:
                self._links.drop_silent(now)
                self.env.transport.request_turn()
            if self._peers.drop_silent(now):
                self.env.transport.request_turn()

    # --- stopping --------------------------------------------------------------------------------

    async def drain(self) -> None:
        """New requests are refused (definitely), those under way end, then everything stops."""
        log(logging.INFO, "agent.draining", drain_s=self.config.drain_s)
        self.node.draining = self.node.stopping = True
        self.env.transport.stop_listening()
        with trio.move_on_after(self.config.drain_s):
            self.env.transport.request_turn()
            await self._idle.wait()
            self._drained = True
        self.stop()

    def stop(self) -> None:
        """Everything stops now; what was acknowledged is durable all the same."""
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()


def _stored_ring(data_dir: Directory) -> Ring | None:
    identity = data_dir.identity_file.value
    if not identity.cluster_id:
        return None
    encoded = data_dir.store.get_meta(RING_ROW)
    if encoded is None:
        raise ConfigError(f"{data_dir.path} has a cluster id but no ring; its store was replaced")
    return decode_ring(encoded)
