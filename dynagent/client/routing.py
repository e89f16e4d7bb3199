"""Where a request goes, and what happens when it fails: pure, the same for every client.

One request is a `Plan`: addresses in order (owners of the key first, then other members), a
deadline, and the rule for retries. A put that failed *definitely* is sent on as it is; one whose
outcome is unknown is sent again with the same op-id and the next attempt number, which makes its
coordinator look before it writes (design §3).

A busy agent is not helped by a request that comes again at once, nor are the other owners if all do
so: after `Overloaded` a client rests (`pause_s`), longer each time and each for a different time,
and asks a few times only.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynagent import limits
from dynagent.errors import (
    ConnectionLost,
    DynagentError,
    NotReady,
    Overloaded,
    QuorumNotMet,
    Unreachable,
    WriteOutcomeUnknown,
    WrongCluster,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynagent.core.ring import Ring

# Worth asking another agent: it may be up, less busy, see more of the owners, or be the right one.
_ELSEWHERE = (
    NotReady,
    Overloaded,
    QuorumNotMet,
    Unreachable,
    ConnectionLost,
    WriteOutcomeUnknown,
    WrongCluster,
)

_ABSENT_SHOWN = 3  # addresses where nobody is, in an error


class Plan:
    """The attempts of one request. Ask `next`, report with `failed`, until it says None."""

    __slots__ = (
        "_absent",
        "_addresses",
        "_answer",
        "_indefinite",
        "_is_write",
        "_last",
        "_place",
        "_refusals",
        "attempt",
        "deadline",
    )

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        deadline: float,
        is_write: bool,
        repeats: bool = False,  # it was sent before, and nobody knows what came of it
    ) -> None:
        self._addresses = addresses
        self._place = -1
        self._is_write = is_write
        self._last: DynagentError | None = None
        self._refusals = 0  # tries that met an overloaded agent
        self._absent: tuple[str, ...] = ()  # what was said where nobody is
        self._answer: DynagentError | None = None  # the latest definite one of an agent
        self._indefinite: DynagentError | None = None
        if repeats:
            self._indefinite = WriteOutcomeUnknown("the earlier attempt may still appear")
        self.deadline = deadline
        self.attempt = 2 if repeats else 1  # of the put, as its coordinator shall see it

    def next(self, now: float) -> tuple[str, float] | None:
        """(address, seconds for this try); None when nothing is left to try.

        A try gets half of what is left, so that one silent agent cannot use up the deadline; the
        last one gets all of it.
        """
        left_s = self.deadline - now
        last = self._last
        if last is not None and not isinstance(last, _ELSEWHERE):
            return None
        if self._refusals >= limits.CLIENT_ATTEMPTS_MAX:
            return None  # in a large cluster as in a small one: more would feed the overload
        tries_max = max(len(self._addresses), limits.CLIENT_ATTEMPTS_MAX)
        if left_s <= 0 or self._place + 1 >= tries_max or not self._addresses:
            return None
        if self._place + 1 >= len(self._addresses) and isinstance(last, Unreachable):
            return None  # everybody has been tried, and the last one is not there
        self._place += 1
        is_last = self._place + 1 >= tries_max
        share_s = left_s if is_last else max(left_s / 2, min(left_s, 0.25))
        return self._addresses[self._place % len(self._addresses)], share_s

    def failed(self, error: DynagentError) -> None:
        """This try failed; an indefinite failure of a put makes the next one a retry."""
        self._last = error
        if isinstance(error, Overloaded):
            self._refusals += 1
        if isinstance(error, Unreachable):
            self._absent += (error.message,)
        if error.definite and not isinstance(error, Unreachable):
            self._answer = error
        if self._is_write and not error.definite:
            self._indefinite = error
            self.attempt += 1

    def pause_s(self, now: float, dice: float) -> float:
        """How long to rest before `next`, after the failure that was reported last.

        `dice`: 0 to 1, so that those who were refused together do not come back together. 0 as well
        if no time would be left afterwards: then there is no next try.
        """
        if not isinstance(self._last, Overloaded):
            return 0.0
        pause_s = limits.RETRY_PAUSE_S * 2 ** (self._refusals - 1) * (1 + dice) / 2
        if now + pause_s >= self.deadline:
            self._refusals = limits.CLIENT_ATTEMPTS_MAX
        return pause_s if self._refusals < limits.CLIENT_ATTEMPTS_MAX else 0.0

    def error(self) -> DynagentError:
        """What to tell the caller: indefinite if any try may have had an effect."""
        last = self._last or Unreachable("no address to try")
        if isinstance(last, Unreachable) and self._answer is not None:
            last = self._answer  # it tells more than that the next address is not there
        elif isinstance(last, Unreachable) and len(self._absent) > 1:
            shown = list(dict.fromkeys(self._absent))
            more = len(shown) - _ABSENT_SHOWN
            rest = [f"and {more} more"] if more > 0 else []
            last = Unreachable(", ".join([*shown[:_ABSENT_SHOWN], *rest]))
        if self._indefinite is None or not last.definite:
            if isinstance(last, ConnectionLost) and self._is_write:
                return WriteOutcomeUnknown(last.message)
            return last
        return WriteOutcomeUnknown(f"{self._indefinite.message}; then: {last.message}")


class Addresses:
    """The addresses of a request in order: owners of its key, the other members, the endpoints.

    All that write a key begin at the same owner, so that one actor mints its dots and its clock
    stays short; the ring gives every node its fair share of first places, so the load is spread.

    An agent that had to pass a request on tells the epoch of its ring: if that is newer than ours,
    the ring is worth learning again. Until then requests take one more hop.
    """

    __slots__ = ("_by_partition", "_ring", "_token_of", "anybody", "epoch")

    def __init__(self, ring: Ring, endpoints: Sequence[str]) -> None:
        from dynagent.core.ring import token_of  # here: `dynctl get` can do without it

        self._token_of = token_of
        self._ring = ring
        self.epoch = ring.epoch
        self._by_partition: dict[int, list[str]] = {}  # a list is made when it is first needed
        members = [member.address for member in ring.members]
        self.anybody = list(dict.fromkeys([*members, *endpoints]))  # for what is not about a key

    def of(self, key: bytes) -> list[str]:
        """Each address once; shared by all keys of the partition, so it must not be changed."""
        partition = self._ring.partition_of(self._token_of(key))
        found = self._by_partition.get(partition)
        if found is None:
            address_of = {member.id: member.address for member in self._ring.members}
            readers, rest = self._ring.read_list(partition), self._ring.all_owners(partition)
            owners = [address_of[node] for node in (*readers, *rest)]
            found = list(dict.fromkeys([*owners, *self.anybody]))
            self._by_partition[partition] = found
        return found
