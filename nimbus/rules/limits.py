# SPDX-License-Identifier: Apache-2.0
"""How often and how much: rate limits of short windows, and the size of a quota lease.

A rate says `amount` calls per `period_s` seconds. With a `burst` it is a bucket that holds
`burst` calls and fills evenly (GCRA): at most `amount + burst` in any window. Without one it is
a sliding window: `amount` calls may come at once, but never more than `amount` in any window.

Instants are machine time in whole microseconds from any origin that only goes forward. The
caller keeps one limiter per subject; asking and taking are apart, so that a call that one of
several limiters refuses takes from none; where one limiter decides alone, `admit` does both.

Gateways that share a limit take tokens from one store. A token is used within its life after it
was granted, so the calls of any window of length W used tokens of a window of W + life: the store
counts as if every window were longer by the life, and the calls stay within the limit exactly.
Example: 100 a minute, life 50 ms: at most 100 tokens in any 60.05 s; at full load 99.9 % of the
limit get through. At 100 a second the life is 10 ms: 99 %.
"""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

SECOND = 1_000_000
_WINDOW_PARTS = 256  # a window counts in parts of this fineness: at most 0.4 % under the limit
_PREFETCH_SECONDS = 5
_CLOSE_TO_THE_LIMIT = 64  # units a gateway: below this many left, a lease holds no reserve
MAX_BLOCK = 10_000
TRIP = 2_000  # microseconds to the store of shared limits and back, when it is not slow
_FAST = 50_000  # microseconds between tokens, below which they may be fetched ahead


@dataclass(frozen=True, slots=True)
class Rate:
    """`amount` calls per `period_s` seconds; `burst` calls at once, None for a sliding window."""

    amount: int
    period_s: int
    burst: int | None = None


class Gcra:
    """The generic cell rate algorithm: one number of state, exact in any window.

    A bucket opened at `opens` is empty then: what others admitted before it fits in.
    """

    __slots__ = (
        "_full_at",
        "_interval",
        "_tolerance",
        "capacity",
        "promised",
        "promised_until",
        "rate",
    )

    def __init__(self, rate: Rate, opens: int | None = None) -> None:
        self.rate = rate
        self.capacity = rate.burst or 1
        # Rounded up, so that rounding never admits a call too many.
        self._interval = -(-rate.period_s * SECOND // rate.amount)
        self._tolerance = (self.capacity - 1) * self._interval
        self._full_at = 0 if opens is None else opens + self._tolerance + self._interval
        self.promised = self.promised_until = 0

    def admit(self, now: int) -> int:
        """Count a call if it is admitted: 0, or microseconds until one would be."""
        full_at = self._full_at
        if full_at <= now:
            self._full_at = now + self._interval
            return 0
        early = full_at - self._tolerance - now
        if early > 0:
            return early
        self._full_at = full_at + self._interval
        return 0

    def wait(self, now: int) -> int:
        """Microseconds until a call would be admitted; 0 is now."""
        early = self._full_at - self._tolerance - now
        return max(0, early)

    def take(self, now: int) -> None:
        """Count a call that was admitted."""
        full_at = self._full_at
        self._full_at = max(now, full_at) + self._interval

    def remaining(self, now: int) -> int:
        """How many calls would be admitted at once."""
        ahead = self._full_at - now
        if ahead <= 0:
            return self.capacity
        calls = (self._tolerance + self._interval - ahead) // self._interval
        return max(0, calls)

    def reset(self, now: int) -> int:
        """Microseconds until one more call becomes available; 0 when all are."""
        ahead = self._full_at - now
        return 0 if ahead <= 0 else (ahead - 1) % self._interval + 1

    def idle(self, now: int) -> bool:
        """Whether forgetting this limiter changes nothing."""
        return self._full_at <= now


class SlidingWindow:
    """A window that slides with the clock; exact to one part of the window, never over."""

    __slots__ = (
        "_counts",
        "_part",
        "_window",
        "capacity",
        "promised",
        "promised_until",
        "rate",
        "total",
    )

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.capacity = rate.amount
        self.total = 0  # calls in the window, as last looked at
        self._window = rate.period_s * SECOND
        self._part = self._window // _WINDOW_PARTS if rate.amount > _WINDOW_PARTS else 1
        self._counts: deque[list[int]] = deque()  # [when the part leaves the window, calls]
        self.promised = self.promised_until = 0

    def admit(self, now: int) -> int:
        """Count a call if it is admitted: 0, or microseconds until one would be."""
        counts = self._counts
        if self.total < self.capacity and counts and counts[-1][0] >= now + self._window:
            # The usual call: there is room, and it falls into the part that is being filled.
            counts[-1][1] += 1
            self.total += 1
            return 0
        pause = self.wait(now)
        if not pause:
            self.take(now)
        return pause

    def wait(self, now: int) -> int:
        """Microseconds until a call would be admitted; 0 is now."""
        counts = self._counts
        while counts and counts[0][0] <= now:
            self.total -= counts.popleft()[1]
        missing = self.total - self.capacity + 1
        if missing <= 0:
            return 0
        for leaves, calls in counts:
            missing -= calls
            if missing <= 0:
                return leaves - now
        return self._window  # a share of nothing: never

    def take(self, now: int) -> None:
        """Count a call that was admitted."""
        part = self._part
        leaves = now + -now % part + self._window
        counts = self._counts
        if counts and counts[-1][0] >= leaves:
            counts[-1][1] += 1
        else:
            counts.append([leaves, 1])
        self.total += 1

    def remaining(self, now: int) -> int:
        """How many calls would be admitted at once."""
        counts = self._counts
        if counts and counts[0][0] <= now:
            self.wait(now)
        return max(0, self.capacity - self.total)

    def reset(self, now: int) -> int:
        """Microseconds until the next calls become available; 0 when all are."""
        self.wait(now)
        return self._counts[0][0] - now if self._counts else 0

    def idle(self, now: int) -> bool:
        """Whether forgetting this limiter changes nothing."""
        self.wait(now)
        return not self._counts

    def calls(self, now: int, pieces: int) -> list[tuple[int, int]]:
        """The calls of the window in at most `pieces`: microseconds until they have left it, at
        the latest, and how many.
        """
        self.wait(now)
        counts = list(self._counts)
        size = -(-len(counts) // pieces) or 1
        parts = [counts[n : n + size] for n in range(0, len(counts), size)]
        return [(part[-1][0] - now, sum(calls for _, calls in part)) for part in parts]


Limiter = Gcra | SlidingWindow


class Promising(Protocol):
    """What `promise` asks of a limiter: its state, and what it promised last."""

    promised: int
    promised_until: int

    def remaining(self, now: int) -> int: ...
    def reset(self, now: int) -> int: ...


def promise(limiter: Promising, now: int) -> tuple[int, int]:
    """What a caller is told: how many calls remain, and for how many seconds that holds.

    Within those seconds it is never told a higher number, though calls may leave the window
    meanwhile: seconds are whole on the wire, so what was told ends up to a second later than the
    reset; until then the number stays. Example: 5 a minute, calls at 0 s and 10.5 s: "4 for 60 s",
    "3 for 50 s" (till 60.5 s); at 61 s the first has left: "3 for 10 s". Source: spec 09 Q-08.
    """
    remaining = limiter.remaining(now)
    if now >= limiter.promised_until:
        limiter.promised_until = now + -(-limiter.reset(now) // SECOND) * SECOND + SECOND
    elif remaining > limiter.promised:
        remaining = limiter.promised
    limiter.promised = remaining
    return remaining, (limiter.promised_until - now - 1) // SECOND


def limiter(rate: Rate, opens: int | None = None) -> Limiter:
    """A fresh limiter for this rate; a bucket that opens at an instant is empty then."""
    return Gcra(rate, opens) if rate.burst and rate.amount else SlidingWindow(rate)


def token_life(rate: Rate) -> int:
    """Microseconds in which a token of a shared limit is used, unless the store is slow.

    Long enough to fetch tokens ahead where they come fast: a hundredth of the window, 50 ms at
    most; else the way from the store and back. 1,000 in 1 s → 10 ms; 6,000 a minute → 50 ms; 60 a
    minute → 2 ms. What it costs is life / (window + life) of the limit, so never 1 % or more.
    """
    window = rate.period_s * SECOND
    if rate.amount * _FAST <= window:
        return TRIP
    return min(50_000, window // 100)


def share(rate: Rate, index: int, gateways: int) -> Rate:
    """The part of a rate that gateway `index` of `gateways` may admit by itself.

    The amounts add up to the rate exactly, so that all together never exceed it; a rate smaller
    than the number of gateways leaves some with nothing. A bucket stays a bucket, which holds one
    call at least: any window of a bucket of `c` has at most amount + c - 1 calls, so buckets of
    one add nothing. Example: 10 a minute, burst 5, 4 gateways: 3, 3, 2, 2 a minute and bursts 2,
    1, 1, 1, together at most 11 in a minute. Source: spec 03 "Limits": without the shared store
    the local limit is divided by the number of gateways.
    """
    assert 0 <= index < gateways, "a gateway has its place among the others"
    burst = None if not rate.burst else max(1, _part_of(rate.burst, index, gateways))
    return Rate(_part_of(rate.amount, index, gateways), rate.period_s, burst)


def lease_size(needed: int, left: int | None, recent: int, gateways: int) -> int:
    """How many units a gateway should ask for, to serve `needed` that wait now.

    `left` is what the standing has neither used nor lent, as last heard (None: no end to it or
    not known yet); `recent` is what this gateway took in the last second. Far from the limit
    the answer covers about five seconds of traffic. Near it nothing is held in reserve, so the
    last units go to whoever asks for them. Never over MAX_BLOCK beyond what waits.
    """
    reserve = min(MAX_BLOCK, _PREFETCH_SECONDS * recent)
    if left is not None:
        free = left - needed - _CLOSE_TO_THE_LIMIT * gateways
        reserve = min(reserve, max(0, free // (2 * gateways)))
    return needed + reserve


def _part_of(whole: int, index: int, parts: int) -> int:
    return whole // parts + (1 if index < whole % parts else 0)
