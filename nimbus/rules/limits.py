# SPDX-License-Identifier: Apache-2.0
"""How often and how much: rate limits of short windows, and the size of a quota lease.

A rate says `amount` calls per `period_s` seconds. With a `burst` it is a bucket that holds
`burst` calls and fills evenly (GCRA): at most `amount + burst` in any window. Without one it is
a sliding window: `amount` calls may come at once, but never more than `amount` in any window.

Instants are machine time in whole microseconds from any origin that only goes forward. The
caller keeps one limiter per subject; asking and taking are apart, so that a call that one of
several limiters refuses takes from none.
"""

from collections import deque
from dataclasses import dataclass

SECOND = 1_000_000
_WINDOW_PARTS = 256  # a window counts in parts of this fineness: at most 0.4 % under the limit
_PREFETCH_SECONDS = 2
_CLOSE_TO_THE_LIMIT = 64  # units a gateway: below this many left, a lease holds no reserve
MAX_BLOCK = 2_000


@dataclass(frozen=True, slots=True)
class Rate:
    """`amount` calls per `period_s` seconds; `burst` calls at once, None for a sliding window."""

    amount: int
    period_s: int
    burst: int | None = None


class Gcra:
    """The generic cell rate algorithm: one number of state, exact in any window."""

    __slots__ = ("_full_at", "_interval", "_tolerance", "capacity", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.capacity = rate.burst or 1
        # Rounded up, so that rounding never admits a call too many.
        self._interval = -(-rate.period_s * SECOND // rate.amount)
        self._tolerance = (self.capacity - 1) * self._interval
        self._full_at = 0

    def wait(self, now: int) -> int:
        """Microseconds until a call would be admitted; 0 is now."""
        return max(0, self._full_at - self._tolerance - now)

    def take(self, now: int) -> None:
        """Count a call that was admitted."""
        self._full_at = max(self._full_at, now) + self._interval

    def remaining(self, now: int) -> int:
        """How many calls would be admitted at once."""
        ahead = max(0, self._full_at - now)
        return max(0, (self._tolerance + self._interval - ahead) // self._interval)

    def reset(self, now: int) -> int:
        """Microseconds until everything is available again."""
        return max(0, self._full_at - now)

    def idle(self, now: int) -> bool:
        """Whether forgetting this limiter changes nothing."""
        return self._full_at <= now


class SlidingWindow:
    """A window that slides with the clock; exact to one part of the window, never over."""

    __slots__ = ("_counts", "_part", "_total", "_window", "capacity", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.capacity = rate.amount
        self._window = rate.period_s * SECOND
        self._part = self._window // _WINDOW_PARTS if rate.amount > _WINDOW_PARTS else 1
        self._counts: deque[list[int]] = deque()  # [first instant after the part, calls]
        self._total = 0

    def wait(self, now: int) -> int:
        """Microseconds until a call would be admitted; 0 is now."""
        self._forget(now)
        if self._total < self.capacity:
            return 0
        if not self._counts:
            return self._window  # a share of nothing: never
        return self._counts[0][0] + self._window - now

    def take(self, now: int) -> None:
        """Count a call that was admitted."""
        end = now - now % self._part + self._part
        if self._counts and self._counts[-1][0] >= end:
            self._counts[-1][1] += 1
        else:
            self._counts.append([end, 1])
        self._total += 1

    def remaining(self, now: int) -> int:
        """How many calls would be admitted at once."""
        self._forget(now)
        return max(0, self.capacity - self._total)

    def reset(self, now: int) -> int:
        """Microseconds until the next calls become available; 0 when all are."""
        self._forget(now)
        return self._counts[0][0] + self._window - now if self._counts else 0

    def idle(self, now: int) -> bool:
        """Whether forgetting this limiter changes nothing."""
        self._forget(now)
        return not self._counts

    def _forget(self, now: int) -> None:
        while self._counts and self._counts[0][0] + self._window <= now:
            self._total -= self._counts.popleft()[1]


Limiter = Gcra | SlidingWindow


def limiter(rate: Rate) -> Limiter:
    """A fresh limiter for this rate."""
    return Gcra(rate) if rate.burst and rate.amount else SlidingWindow(rate)


def share(rate: Rate, index: int, gateways: int) -> Rate:
    """The part of a rate that gateway `index` of `gateways` may admit by itself.

    The shares add up to the rate exactly, so that all together never exceed it; a rate smaller
    than the number of gateways leaves some with nothing. Source: spec 03 "Limits": without the
    shared store the local limit is divided by the number of gateways.
    """
    assert 0 <= index < gateways, "a gateway has its place among the others"
    burst = None if rate.burst is None else _part_of(rate.burst, index, gateways)
    return Rate(_part_of(rate.amount, index, gateways), rate.period_s, burst or None)


def lease_size(needed: int, left: int | None, recent: int, gateways: int) -> int:
    """How many units a gateway should ask for, to serve `needed` that wait now.

    `left` is what the standing has neither used nor lent, as last heard (None: no end to it or
    not known yet); `recent` is what this gateway took in the last second. Far from the limit
    the answer covers about two seconds of traffic. Near it nothing is held in reserve, so the
    last units go to whoever asks for them. Never over MAX_BLOCK beyond what waits.
    """
    reserve = min(MAX_BLOCK, _PREFETCH_SECONDS * recent)
    if left is not None:
        free = left - needed - _CLOSE_TO_THE_LIMIT * gateways
        reserve = min(reserve, max(0, free // (2 * gateways)))
    return needed + reserve


def _part_of(whole: int, index: int, parts: int) -> int:
    return whole // parts + (1 if index < whole % parts else 0)
