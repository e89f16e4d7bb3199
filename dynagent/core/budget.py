"""The budget of background work, after Dynamo §6.5: its share shrinks when clients wait.

Hints, repair, transfer and scrub share one allowance in bytes a second. It is a *share* of the
configured most, and a feedback controller moves the share: whenever a sub-window of the trailing
minute ends, it compares the 99th percentile of the foreground, which is how long the answers to
clients took, with a threshold.

    newest answers over the threshold      the share shrinks to a half, down to the floor
    newest answers and the last minute     it grows, up to 1: by a step; until it shrinks for the
      well under it, or nobody has asked     first time by as much as what clients wait may grow
      anything of late
    otherwise                              it stays: clients have been served badly, or nearly so
    it has hardly been used of late        what clients would feel of it is not known: it falls to
                                           a 16th, and begins anew

The newest answers are those of the sub-window that has just ended; where they are too few for a
percentile, older ones are judged with them. But it shrinks only if one of the new ones was slow:
thus one slow answer shrinks the share once, and a sudden rise is met within seconds, while recovery
waits for a good minute. A request under way counts when it is answered, which is at its deadline at
the latest.

Clients wait longer than we can see, by what their requests and our answers lie in sockets: half as
long again, where it was measured (five agents on two full cores). So we compare with two thirds of
the threshold (decision 0026). Well under that: of the newest answers the 99th percentile at 7/10 of
it at most, of the minute's the 99.5th under it. Who grows until the 99th is over it keeps clients
there half of the time.

What clients wait is taken to grow in proportion to the share. So a share that was used grows by as
much as brings them to those 7/10, fourfold at most: in seconds where they hardly wait, and where
they wait long by no more than a step. Several nodes that work for one may sum up, so whoever has
been over the threshold once goes on by steps, until it begins anew.

Within the share the allowance is a balance that fills up to a short burst. What was granted may be
exceeded by the last record, which is then owed: a record is never cut.

Example, 32 MiB/s and 50 ms: 1,000 requests a second begin to take 80 ms. Within a second the share
is a half, 4 s later it is at the floor of a 32nd. They take 10 ms again: when the minute is good, a
minute later, it grows by half a MiB/s every second, and after one more it is whole.

Every method takes the time (`now`, monotonic): nothing here waits or reads a clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from math import inf

from dynagent import limits

_SUB_WINDOWS = round(limits.FOREGROUND_WINDOW_S / limits.FOREGROUND_SUB_WINDOW_S)
_IDLE_SUB_WINDOWS = round(limits.FOREGROUND_IDLE_S / limits.FOREGROUND_SUB_WINDOW_S)
_UNUSED_SUB_WINDOWS = round(limits.BACKGROUND_UNUSED_S / limits.FOREGROUND_SUB_WINDOW_S)
_SEEN = 1 / 1.5  # of what clients wait
# Bounds of the buckets: what we see at the threshold times 2^(place/4), each a fifth over the last.
# Of 50 ms these are 0.1 ms to 4.3 s; what is over the threshold is counted exactly.
_PLACES = range(-32, 29)
_THRESHOLD_AT = _PLACES.index(0)
_NEAR_AT = _PLACES.index(-2)  # 0.7 of it: from there on nothing grows


class _SubWindow:
    """Answers by how long they took."""

    __slots__ = ("counts", "slow", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_PLACES) + 1)
        self.total = 0  # this and the next: known when it has ended
        self.slow = 0  # over the threshold


class Budget:
    """How much background work may move now.

    `threshold_s`: of the foreground's 99th percentile; `bytes_per_s_max`: the rate of a share of 1.
    """

    def __init__(self, *, threshold_s: float, bytes_per_s_max: int) -> None:
        assert threshold_s > 0
        assert bytes_per_s_max > 0
        self.share = limits.BACKGROUND_SHARE_START
        self._leaps = True  # until it shrinks
        self._spent = 0  # in the open sub-window
        self._unused = 0  # sub-windows since much of it was spent
        self._threshold_s = threshold_s
        self._bytes_per_s_max = bytes_per_s_max
        self._bounds = [threshold_s * _SEEN * 2 ** (place / 4) for place in _PLACES]
        self._past: deque[_SubWindow] = deque([_SubWindow() for _ in range(_SUB_WINDOWS)])
        self._open = _SubWindow()
        self._counts = self._open.counts
        self._ends_at = -inf  # of the open sub-window: before the first call, of none
        self._balance = float(limits.BACKGROUND_GRANT_BYTES_MIN)
        self._filled_at = inf
        self._moved_bytes = 0
        self._moved_records = 0

    def note_foreground(self, now: float, seconds: float) -> None:
        """A client's request was answered after that long (0.2 µs)."""
        if now >= self._ends_at:
            self._end_sub_windows(now)
        self._counts[bisect_left(self._bounds, seconds)] += 1

    def grant(self, now: float, wanted: int) -> int:
        """How many of the `wanted` bytes background work may move now; 0: none before
        `next_grant_at`. Nothing is set aside: what is moved must be reported with `spend`."""
        self._fill(now)
        # A grain of rounding must not make the one who comes at `next_grant_at` come again.
        if self._balance < limits.BACKGROUND_GRANT_BYTES_MIN - 1:
            return 0
        return max(0, min(wanted, int(self._balance)))

    def spend(self, now: float, size: int, records: int = 1) -> None:
        """So many bytes in so many records have been moved. Small ones cost CPU, not bytes: each
        counts as `limits.BACKGROUND_RECORD_BYTES` at least."""
        self._fill(now)
        cost = max(size, records * limits.BACKGROUND_RECORD_BYTES)
        self._balance -= cost
        self._spent += cost
        self._moved_bytes += size
        self._moved_records += records

    def next_grant_at(self, now: float) -> float:
        """When `grant` will have something, if the share does not shrink until then."""
        self._fill(now)
        lacking = limits.BACKGROUND_GRANT_BYTES_MIN - self._balance
        return now + max(0.0, lacking / self._bytes_per_s)

    def share_at(self, now: float) -> float:
        """The share by now; without an answer to count nobody else looks at it."""
        self._fill(now)
        return self.share

    def document(self, now: float) -> dict[str, object]:
        """For the status document, see `core.inspect`; no p99 if no answer was counted."""
        self._fill(now)
        return {
            "share": self.share,
            "bytes_per_s": int(self._bytes_per_s),
            "bytes": self._moved_bytes,
            "records": self._moved_records,
            "foreground_p99_s": self._foreground_p99_s(),
            "foreground_p99_s_max": self._threshold_s,
        }

    # --- the controller --------------------------------------------------------------------------

    def _end_sub_windows(self, now: float) -> None:
        """Ends those whose time is over and judges each; several if nobody has called meanwhile."""
        length_s = limits.FOREGROUND_SUB_WINDOW_S
        if self._ends_at == -inf:
            self._ends_at, self._filled_at = now + length_s, now
            return
        ended = int((now - self._ends_at) / length_s) + 1
        end = self._ends_at
        self._ends_at += ended * length_s
        for number in range(min(ended, _SUB_WINDOWS)):  # those behind them are as empty as these
            self._accrue(end + number * length_s)
            self._end_sub_window()
            self._judge()
            self._forget_unused()

    def _end_sub_window(self) -> None:
        ended = self._open
        ended.total = sum(ended.counts)
        ended.slow = sum(ended.counts[_THRESHOLD_AT + 1 :])
        self._past.appendleft(ended)
        self._open = oldest = self._past.pop()
        self._counts = oldest.counts
        self._counts[:] = [0] * len(self._counts)

    def _judge(self) -> None:
        ended = self._past[0]
        newest: list[_SubWindow] = []
        total = 0
        for window in self._past:
            newest.append(window)
            total += window.total
            if total >= limits.FOREGROUND_JUDGED_MIN:
                break
        is_idle = not any(self._past[age].total for age in range(_IDLE_SUB_WINDOWS))
        p99_at = 0 if is_idle else _p99_at(newest)
        if ended.slow and p99_at > _THRESHOLD_AT:
            self._leaps = False
            self.share = max(
                limits.BACKGROUND_SHARE_MIN, self.share * limits.BACKGROUND_SHARE_FACTOR
            )
        elif is_idle or (p99_at <= _NEAR_AT and self._is_minute_good()):
            self.share = min(1.0, self._grown(p99_at))

    def _is_minute_good(self) -> bool:
        """Hardly anybody has waited long."""
        past = self._past
        slow, total = sum(window.slow for window in past), sum(window.total for window in past)
        return 2 * slow <= total // 100

    def _grown(self, p99_at: int) -> float:
        """By a step; or, as far as what clients wait shall grow in proportion to it, by more."""
        stepped = self.share + limits.BACKGROUND_SHARE_STEP
        if not self._leaps or not self._is_used(self.share / 2):
            return stepped
        factor: float = 2 ** ((_NEAR_AT - p99_at) / 4)
        return max(stepped, self.share * min(factor, limits.BACKGROUND_SHARE_LEAP_MAX))

    def _forget_unused(self) -> None:
        """A share that has not been used for a while is no measure of what clients can bear."""
        is_used = self._is_used(min(self.share / 2, limits.BACKGROUND_SHARE_UNUSED))
        self._unused = 0 if is_used or self._balance < 0 else self._unused + 1
        self._spent = 0
        if self._unused >= _UNUSED_SUB_WINDOWS:
            self.share = min(self.share, limits.BACKGROUND_SHARE_UNUSED)
            self._leaps = True

    def _is_used(self, share: float) -> bool:
        """The sub-window that has ended moved more than so much."""
        return self._spent > share * self._bytes_per_s_max * limits.FOREGROUND_SUB_WINDOW_S

    # --- the balance -----------------------------------------------------------------------------

    @property
    def _bytes_per_s(self) -> float:
        return self.share * self._bytes_per_s_max

    def _fill(self, now: float) -> None:
        if now >= self._ends_at:
            self._end_sub_windows(now)
        self._accrue(now)

    def _accrue(self, now: float) -> None:
        rate = self._bytes_per_s
        burst = max(limits.BACKGROUND_GRANT_BYTES_MIN, limits.BACKGROUND_BURST_S * rate)
        gained = max(0.0, now - self._filled_at) * rate
        self._balance = min(burst, self._balance + gained)
        self._filled_at = max(now, self._filled_at)

    def _foreground_p99_s(self) -> float | None:
        """Of the trailing minute: the upper bound of its bucket, and of the last one the lower."""
        windows = [self._open, *self._past]
        if not any(any(window.counts) for window in windows):
            return None
        return self._bounds[min(_p99_at(windows), len(self._bounds) - 1)]


def _p99_at(windows: list[_SubWindow]) -> int:
    """The bucket of the 99th percentile of their answers; the first one if there are none."""
    counts = [sum(column) for column in zip(*(one.counts for one in windows), strict=True)]
    over = sum(counts) // 100  # so many may be longer
    for place in reversed(range(len(counts))):
        over -= counts[place]
        if over < 0:
            return place
    return 0
