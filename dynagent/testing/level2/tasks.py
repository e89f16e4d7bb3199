"""Clients of level 2 that are tasks: all share one `client.trio_client.TrioClient`, the real one.

Everything of it is the product (ring, plans, lanes, turns, cancellation); only its transport is
simulated. What the tasks ask and remember is level 1's `LoopClient`.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from dynagent.client.routing import Plan
from dynagent.client.trio_client import TrioClient
from dynagent.core.messages import Message
from dynagent.core.ports import NodeId
from dynagent.core.ring import Ring
from dynagent.env import Transport
from dynagent.errors import DynagentError
from dynagent.testing.clients import LoopClient, make_message
from dynagent.testing.history import FAILED, OK, UNKNOWN, Attempt, History, Operation
from dynagent.testing.level2.profile import Profile
from dynagent.testing.level2.transport import SimTransport
from dynagent.testing.level2.wires import Wires
from dynagent.testing.world import World

PLACE = "app"


class AppClient(TrioClient):
    """The trio client of one application in the second world; `lose_all` and the like are the
    nemesis's."""

    def __init__(self, endpoints: Sequence[str], wires: Wires, profile: Profile) -> None:
        super().__init__(endpoints, timeout_s=profile.timeout_s)
        self._world = wires.world
        self._wires = wires
        self._transport = SimTransport(wires, PLACE, profile, lambda _point: None)
        self._longest_delay_s = profile.longest_delay_s

    async def run(self, operation: Operation) -> Message:
        """Asks for it; raises what the client raises. The attempts go into its history."""
        plan = await self._plan(operation.key, is_write=operation.is_write)
        message = make_message(operation, 1)
        while (step := plan.next(trio.current_time())) is not None:
            address, timeout_s = step
            attempt = self._begin(operation, plan, address, timeout_s)
            try:
                return await self._try(address, message, plan, timeout_s)
            except DynagentError as exc:
                self._world.log(f"{PLACE} is told {type(exc).__name__}: {exc.message}")
                attempt.is_refused = exc.definite
                plan.failed(exc)
        raise plan.error()

    def _begin(self, operation: Operation, plan: Plan, address: str, timeout_s: float) -> Attempt:
        now = trio.current_time()
        if operation.attempts:
            self._world.faults["retry"] += 1
        # It may wait in its lane until its try is over, and has its whole budget then.
        dead_by = now + 2 * timeout_s + self._longest_delay_s
        attempt = Attempt(number=plan.attempt, agent=NodeId(address), sent=now, dead_by=dead_by)
        operation.attempts.append(attempt)
        return attempt

    @property
    def left_over(self) -> int:
        """Requests that are still counted as under way."""
        return sum(link.load for link in self._links.values())

    # --- the seams -------------------------------------------------------------------------------

    def _make_transport(self) -> Transport:
        return self._transport

    def _wall_ms(self) -> int:
        return 0

    # --- what the nemesis does -------------------------------------------------------------------

    def read_late(self, seconds: float) -> None:
        """Its loop is busy with something else for a while."""
        self._transport.paused_until = self._world.now + seconds

    def wake(self) -> None:
        """It is not any more."""
        self._transport.paused_until = 0.0

    def lose_all(self) -> None:
        """Its connections vanish without a word to the agents."""
        for end in list(self._transport.ends):
            if not end.is_gone:
                self._wires.vanish(end)
                assert end.handler is not None
                end.handler.on_closed("lost")


class TaskClient(LoopClient):
    """A client in a closed loop: each of its operations is a task that uses the shared client."""

    place = PLACE

    def __init__(
        self,
        caller: AppClient,
        nursery: trio.Nursery,
        *,
        number: int,
        world: World,
        history: History,
        ring: Ring,
        profile: Profile,
        keys: Sequence[bytes],
    ) -> None:
        super().__init__(
            number=number, world=world, history=history, ring=ring, profile=profile, keys=keys
        )
        self.caller = caller
        self._nursery = nursery
        self._cancels = profile.cancels

    def _try(self) -> None:
        assert self._operation is not None
        self._nursery.start_soon(self._ask, self._operation)

    async def _ask(self, operation: Operation) -> None:
        dice = self._dice
        patience_s = dice.random() ** 3 if dice.random() < self._cancels else float("inf")
        outcome = UNKNOWN
        with trio.move_on_after(patience_s) as scope:
            try:
                self._take(operation, await self.caller.run(operation))
                outcome = OK
            except DynagentError as exc:
                outcome = FAILED if exc.definite else UNKNOWN
        if scope.cancelled_caught:
            self._world.fault("cancel", self.name)
        self._finish(outcome)
