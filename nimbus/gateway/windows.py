# SPDX-License-Identifier: Apache-2.0
"""Rate windows of one gateway process: alone they live here; of several, in a shared store."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from hashlib import blake2b

from nimbus.base import clock
from nimbus.gateway.tokens import Fleet, Phase, Shared
from nimbus.rules.limits import SECOND, Limiter, Rate, limiter, share

# Calls a second from one address, before anything is known of it; a bucket is one number.
PER_ADDRESS = Rate(100_000, 1, 10_000)
ADDRESS = "address"
PRUNE_ABOVE = 50_000  # limiters in memory
WAIT_SECONDS = 2  # for the shared store's word
LOOK_SECONDS = 0.02  # between looks while the gateways find together

Subject = tuple[str, Hashable, Rate]  # the limit's name, who is limited, the rate
Window = Limiter | Shared
NamedWindows = tuple[tuple[bytes, Window], ...]


@dataclass(slots=True)
class _Entry:
    rate: Rate
    limiter: Window


class RateWindows:
    """The limiters of everything that is limited, made when first seen, forgotten when idle.

    With a `fleet` the limits of keys, plans and routes are shared. The limit of an address is
    divided in any case: it guards the gate itself, and a stranger makes nobody ask the store.
    """

    def __init__(self, index: int, gateways: int, fleet: Fleet | None = None) -> None:
        self._index = index
        self._gateways = gateways
        self._fleet = fleet
        self._entries: dict[tuple[str, Hashable], _Entry] = {}
        self._prune_at = 0
        self.generation = 0  # changes when limiters handed out before may be in force no more

    def limiter(self, subject: Subject, now: int) -> Window:
        """The limiter of a rate at this gateway. It may be kept for as long as `generation`
        stays the same.
        """
        name, who, rate = subject
        entry = self._entries.get((name, who))
        if entry is None or entry.rate != rate:
            if len(self._entries) > PRUNE_ABOVE and now > self._prune_at:
                self._prune(now)
            entry = _Entry(rate, self._make(subject))
            self._entries[name, who] = entry
        return entry.limiter

    async def wait_for(self, limiters: NamedWindows) -> int:
        """Count a call against all of them, when the store has tokens: 0, or microseconds until
        they may have. For a call that found none and of which every limit says it may come.
        """
        deadline = clock.monotonic_us() + WAIT_SECONDS * SECOND
        while True:
            now = clock.monotonic_us()
            pause = count(limiters, now)
            if not pause or now >= deadline or not may_come(limiters, now):
                return pause
            short = [one for _, one in limiters if isinstance(one, Shared) and one.wait(now)]
            if self._fleet is None or self._fleet.phase is not Phase.SHARED:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            rest = max(each.rest(now) for each in short)
            for each in short:
                each.waiters.append(waiter)
                if not rest and not each.asking:
                    self._fleet.want(each)
            await asyncio.wait([waiter], timeout=(rest or deadline - now) / SECOND)
            for each in short:
                if waiter in each.waiters:
                    each.waiters.remove(waiter)

    def _make(self, subject: Subject) -> Window:
        name, who, rate = subject
        if self._fleet is None or name == ADDRESS:
            return limiter(share(rate, self._index, self._gateways))
        # Another rate is another limit. What is left of the old one is not carried over: a window
        # after the change the new one holds exactly, as in one process.
        mark = blake2b(repr((name, who, rate)).encode(), digest_size=16).hexdigest().encode()
        shared = self._fleet.limits.get(mark)
        if shared is None:
            shared = self._fleet.limits[mark] = Shared(self._fleet, mark, rate)
        return shared

    def _prune(self, now: int) -> None:
        self._prune_at = now + SECOND
        self.generation += 1
        self._entries = {
            subject: entry
            for subject, entry in self._entries.items()
            if not entry.limiter.idle(now)
        }
        if self._fleet is not None:
            self._fleet.forget(now)


def count(limiters: NamedWindows, now: int) -> int:
    """Count one call against all of them, or against none: 0, or microseconds to wait."""
    pause = 0
    for _, each in limiters:
        pause = max(pause, each.wait(now))
    if not pause:
        for _, each in limiters:
            each.take(now)
    return pause


def may_come(limiters: NamedWindows, now: int) -> bool:
    """Whether a call that was not admitted should await the store's word."""
    waits = False
    for _, each in limiters:
        if each.wait(now):
            if not isinstance(each, Shared) or not each.may_come(now):
                return False
            waits = True
    return waits
