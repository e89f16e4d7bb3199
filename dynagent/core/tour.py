"""A tour: partitions to be compared with one peer, in as many exchanges as it takes.

The rounds that anti-entropy makes by itself are tours, and so are the pairs of a repair job. A
partition leaves the tour with its verdict. One that is under comparison with another owner comes
again a little later; after a failure all that are left do, if the tour is a job's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import islice

from dynagent import limits
from dynagent.core.admission import Gate
from dynagent.core.coordinator import Coordinator, Operation
from dynagent.core.exchange import Ask, Exchange
from dynagent.core.messages import Error, Message, RingIs
from dynagent.core.ports import LinkId, NodeId, PartitionId
from dynagent.core.verdict import Verdict
from dynagent.errors import NotReady

_NO_LINK = LinkId(-1)


class Tour:
    """`on_verdict` is told of each partition. `prefix` and `moves` as for an `Exchange`."""

    def __init__(
        self,
        peer: NodeId,
        partitions: Iterable[PartitionId],
        on_verdict: Callable[[float, Tour, Verdict], None],
        *,
        prefix: bytes = b"",
        moves: bool = True,
    ) -> None:
        self.peer = peer
        self.left = dict.fromkeys(partitions)  # without a verdict, the most urgent first
        self.prefix = prefix
        self.moves = moves
        self.due = 0.0  # when to begin, or to try again
        self.pause_s = 0.0  # after the last failure
        self.problem = ""  # the last failure, until a partition is done
        self.began = 0.0  # the exchange under way
        self.since = 0  # the newest batch that was durable then
        self._on_verdict = on_verdict

    def next_partitions(self) -> list[PartitionId]:
        """Those of the next exchange."""
        return list(islice(self.left, limits.EXCHANGE_PARTITIONS_MAX))

    def tell(self, now: float, verdict: Verdict) -> None:
        """A partition has been compared."""
        if verdict.is_later:
            del self.left[verdict.partition]
            self.left[verdict.partition] = None  # at the end
            return
        self.pause_s, self.problem = 0.0, ""
        del self.left[verdict.partition]
        self._on_verdict(now, self, verdict)

    def keep(self, partitions: Collection[PartitionId]) -> list[PartitionId]:
        """Only these are to be compared with the peer any more; returns the others."""
        others = [partition for partition in self.left if partition not in partitions]
        for partition in others:
            del self.left[partition]
        return others

    def fail(self, now: float, problem: str) -> None:
        self.problem = problem
        self.pause_s = min(2 * self.pause_s or limits.EXCHANGE_REST_S, limits.EXCHANGE_PAUSE_S_MAX)
        self.due = now + self.pause_s


class AskOperation(Operation):
    """One message of an exchange; it stands in the table so that its answer finds it."""

    __slots__ = ("_tell", "ask", "is_answered", "peer")

    def __init__(
        self,
        coordinator: Coordinator,
        now: float,
        peer: NodeId,
        ask: Ask,
        tell: Callable[[float, AskOperation, Message | str | None], None],
    ) -> None:
        super().__init__(coordinator, _NO_LINK, 0, now + limits.EXCHANGE_ANSWER_S, gate=Gate())
        self.answered = True  # no client waits, and no gate counts it
        self.ask = ask
        self.peer = peer
        # The answer (an Error: not yet); what went wrong; None: what it brought is durable.
        self._tell = tell
        self.is_answered = False  # it waits for our disk

    def on_reply(self, now: float, source: NodeId, message: Message) -> None:
        if source != self.peer or self.is_answered:
            return
        self.is_answered = True
        if isinstance(message, RingIs):
            self._tell(now, self, f"its ring is of epoch {message.epoch}")
        elif isinstance(message, Error) and message.error != NotReady.code:
            self._tell(now, self, message.text)
        else:
            self._tell(now, self, message)

    def on_failure(self, now: float, source: NodeId) -> None:
        if source == self.coordinator.node_id:
            self._tell(now, self, "the disk of this agent is full")
        elif source == self.peer and not self.is_answered:
            self._tell(now, self, "the link is down")

    def on_durable(self, now: float) -> None:
        self._tell(now, self, None)

    def on_deadline(self, now: float) -> None:
        self._tell(now, self, "no answer in time")


class Running:
    """The exchange of a tour, and its messages under way."""

    __slots__ = ("exchange", "operations", "tour")

    def __init__(self, tour: Tour, exchange: Exchange) -> None:
        self.tour = tour
        self.exchange = exchange
        self.operations: set[AskOperation] = set()
