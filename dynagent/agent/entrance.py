"""How an agent with a new, empty store takes the place that its old one had (`core.replacement`).

It was told of some members (`seeds`), and asks one after the other to be put into the places of the
member with its name; or of the one whose store was set aside, if its identity says so. It goes on
until it is a member, or an operator makes it one. Without seeds it waits for the operator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import trio

from dynagent import limits
from dynagent.agent.meeting import meet
from dynagent.config import Config, seeds_of
from dynagent.core.messages import Enter, Error, Hello, Message, RingReply
from dynagent.env import Transport
from dynagent.errors import DynagentError, ProtocolError, WrongCluster, from_wire
from dynagent.obs.log import log
from dynagent.store.identity import Identity


class Entrance:
    """One agent's tries. `about`: its own row of the ring to be, see `Agent`."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        transport: Transport,
        *,
        about: Mapping[str, object],
        is_member: Callable[[], bool],
        adopt: Callable[[bytes], None],
    ) -> None:
        name, address, zone, host = (str(about[at]) for at in ("name", "address", "zone", "host"))
        self._seeds = [seed for seed in seeds_of(config) if seed != address]
        self._cluster = identity.enters.hex() or config.cluster_id
        self._transport = transport
        self._is_member = is_member
        self._adopt = adopt
        capacity = about["capacity"]
        assert isinstance(capacity, int)
        self._enter = Enter(
            identity.node_id, name, address, zone, host, capacity, identity.replaces
        )
        self._last_reason = ""

    async def run(self) -> None:
        """Returns when this agent belongs to a cluster."""
        while not self._is_member():
            for seed in self._seeds:
                try:
                    self._take(await self._ask(seed))
                    return
                except DynagentError as error:
                    self._note(seed, error.message)
            await trio.sleep(limits.ENTER_REST_S)

    async def _ask(self, seed: str) -> Message | None:
        _, answer = await meet(
            self._transport, seed, self._enter, check=self._check, budget_s=limits.PROPOSE_S
        )
        return answer

    def _check(self, remote: Hello) -> None:
        if self._cluster and remote.cluster_id and remote.cluster_id.hex() != self._cluster:
            raise WrongCluster(
                f"it belongs to cluster {remote.cluster_id.hex()}, not to {self._cluster}"
            )

    def _take(self, answer: Message | None) -> None:
        if isinstance(answer, Error):
            raise from_wire(answer.error, answer.text)
        if not isinstance(answer, RingReply):
            raise ProtocolError("its answer is no ring")
        if not self._is_member():
            self._adopt(answer.ring)

    def _note(self, seed: str, reason: str) -> None:
        if reason != self._last_reason:  # the same reason again is not news
            log(logging.WARNING, "entrance.refused", seed=seed, reason=reason)
            self._last_reason = reason
