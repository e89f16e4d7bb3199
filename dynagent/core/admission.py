"""Admission: which requests of clients are refused at the door, since others wait too long already.

What an agent cannot answer in time it had better refuse: at once, before anything of it exists or
is written, so that the refusal is definite and costs little, and what was admitted is answered.
The measure is waiting time, not the length of a queue (CoDel, Nichols and Jacobson 2012), because
what is long for a slow disk is short for a fast one. A request waits in two places:

**Under way**, for disks, peers and the loops of peers. A `Gate` (one for gets, one for puts, since
one kind may wait while the other does not) counts those without an answer. The least of that count
over an interval is a standing queue; divided by the rate of answers it is the time that everybody
waits in it (Little's law). So `rate x ADMISSION_WAIT_S` is how many the gate may let stand:

    fewer stand, none refused    the limit doubles, up to CLIENT_REQUESTS_MAX
    else                         limit = rate x ADMISSION_WAIT_S, at least CLIENT_REQUESTS_MIN

**Unread**, while the loop does not look at its sockets:

- *A turn that does not end.* Gets with R=1 are answered at once and never stand. When one long turn
  follows another, what comes late in it is refused (`is_shut`).
- *A gap*: the process was stopped, or a turn took very long. What is read then may have waited all
  that time, and budgets are relative: the shell takes `late_s` off them. The gap is as long as the
  turn before, and if the loop's timer is far overdue, all the time since. (A loop that sleeps until
  its timer cannot tell a stop from sleep; a timer is due at least every other second.)

Only new gets and puts of clients pass here: never what peers ask, nor requests that another agent
has passed on, nor a look at the agent's state. Nobody tells this object the time but its callers,
so a simulated run stays its seed. Example: 1,800 puts a second can be done, 5,400 come. Half a
second later 1,800 stand; the limit falls to 1,800 x 0.25 s = 450, and two of three are refused.
"""

from __future__ import annotations

from math import inf

from dynagent import limits
from dynagent.errors import Overloaded

WAITING = "waiting"  # too many of its kind wait for an answer
TURN = "turn"  # the event loop's turns take too long
EXPIRED = "expired"  # its time was over before it was read
TABLE = "table"  # the table of requests is full: answered ones are in it too, until all is settled
MEMORY = "memory"  # the records of those under way take too much of it


class Gate:
    """The requests of one kind that have no answer yet. Those who admit and answer them write the
    first three fields in passing: a request costs a comparison and three additions."""

    __slots__ = ("_ends_at", "_least", "_since", "answered", "limit", "refused", "under_way")

    def __init__(self) -> None:
        self.under_way = 0
        self.answered = 0  # in this interval
        self.refused = 0  # in this interval
        self.limit = limits.CLIENT_REQUESTS_MAX
        self._least = 0  # under way at the same time, in this interval
        self._since = 0.0
        self._ends_at = 0.0

    def look(self, now: float) -> None:
        """Once a turn, when its answers are out and before its requests are taken."""
        if self.under_way < self._least:
            self._least = self.under_way
        if now >= self._ends_at:
            self._judge(now)

    def _judge(self, now: float) -> None:
        elapsed_s = max(now - self._since, limits.ADMISSION_INTERVAL_S)
        may_stand = int(self.answered / elapsed_s * limits.ADMISSION_WAIT_S)
        may_stand = max(may_stand, limits.CLIENT_REQUESTS_MIN)
        if self.refused or self._least > may_stand:
            self.limit = min(may_stand, limits.CLIENT_REQUESTS_MAX)
        else:
            self.limit = min(2 * self.limit, limits.CLIENT_REQUESTS_MAX)
        self.answered = self.refused = 0
        self._least = self.under_way
        self._since = now
        self._ends_at = now + limits.ADMISSION_INTERVAL_S


class Admission:
    """Both gates, and how late the loop is."""

    __slots__ = (
        *("_busy_s", "_due", "_ended", "_began", "_is_open", "_was_long"),
        *("gets", "is_shut", "late_s", "one_connection_max", "puts", "refused"),
    )

    def __init__(self) -> None:
        self.gets = Gate()
        self.puts = Gate()
        # Requests under way of one connection: never more than half of what everybody may have, so
        # that who sends thousands at once waits for itself and leaves the other half to the others.
        self.one_connection_max = limits.CONNECTION_REQUESTS_MAX
        self.is_shut = False  # this turn takes no more
        self.late_s = 0.0  # what is read in this turn may have waited so long unread
        self.refused = {WAITING: 0, TURN: 0, EXPIRED: 0, TABLE: 0, MEMORY: 0}  # since the start
        self._is_open = False  # a turn is under way
        self._was_long = False  # the last one was
        self._began = 0.0
        self._ended = -inf
        self._busy_s = 0.0  # the last turn
        self._due = inf  # when the loop's timer was to wake it

    def begin(self, now: float) -> None:
        """Some requests of a turn are at hand; called before they go to the node."""
        if self._is_open:
            if self._was_long and now - self._began > limits.ADMISSION_WAIT_S:
                self.is_shut = True
            return
        self._is_open = True
        self._began = now
        gap_s = self._busy_s
        if now - max(self._due, self._ended) > limits.ADMISSION_WAIT_S:
            gap_s += now - self._ended
        self.late_s = gap_s if gap_s > limits.ADMISSION_WAIT_S else 0.0
        self.gets.look(now)
        self.puts.look(now)
        half = min(self.gets.limit, self.puts.limit) // 2
        self.one_connection_max = min(half, limits.CONNECTION_REQUESTS_MAX)

    def end(self, now: float, due: float | None) -> None:
        """The turn is over; the loop now looks at its sockets, or waits for them or for `due`."""
        self._busy_s = now - self._began if self._is_open else 0.0
        self._was_long = self._busy_s > limits.ADMISSION_WAIT_S
        self._is_open = self.is_shut = False
        self._ended = now
        self._due = inf if due is None else due

    def document(self) -> dict[str, object]:
        """See `core.inspect`."""
        return {
            "gets": self.gets.under_way,
            "gets_limit": self.gets.limit,
            "puts": self.puts.under_way,
            "puts_limit": self.puts.limit,
            "refused": dict(self.refused),
        }

    def refusal(self, gate: Gate) -> Overloaded:
        """The error for a request that the gate, or the turn, does not admit."""
        gate.refused += 1
        if gate.under_way >= gate.limit:
            self.refused[WAITING] += 1
            return Overloaded(f"{gate.under_way:,} requests wait for an answer; try again later")
        self.refused[TURN] += 1
        return Overloaded("the agent takes too long to read what it is sent; try again later")

    def expiry(self) -> Overloaded:
        """The error for a request whose time was over when it was read."""
        self.refused[EXPIRED] += 1
        return Overloaded("the agent did not run; its time was over before it was read")
