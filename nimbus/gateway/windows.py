# SPDX-License-Identifier: Apache-2.0
"""Rate windows of one gateway process: of each rate it admits its share, so that all gateways
together never exceed it.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from nimbus.base import clock
from nimbus.rules.limits import SECOND, Limiter, Rate, limiter, share

PER_ADDRESS = Rate(20_000, 1)  # calls a second from one address, before anything is known of it
PRUNE_ABOVE = 50_000  # limiters in memory

Subject = tuple[str, Hashable, Rate]  # the limit's name, who is limited, the rate


def machine_microseconds() -> int:
    """Machine time for rate windows: only goes forward."""
    return int(clock.monotonic() * SECOND)


@dataclass(slots=True)
class _Window:
    rate: Rate
    limiter: Limiter


class RateWindows:
    """The limiters of everything that is limited, made when first seen, forgotten when idle."""

    def __init__(self, index: int, gateways: int) -> None:
        self._index = index
        self._gateways = gateways
        self._windows: dict[tuple[str, Hashable], _Window] = {}
        self._prune_at = 0

    def admit(self, subjects: Iterable[Subject], now: int) -> int:
        """Count one call against all of them, or against none: 0, or microseconds to wait."""
        limiters = [self._limiter(subject, now) for subject in subjects]
        pause = max((each.wait(now) for each in limiters), default=0)
        if not pause:
            for each in limiters:
                each.take(now)
        return pause

    def states(self, subjects: Iterable[Subject], now: int) -> list[tuple[str, Rate, Limiter]]:
        """Name, whole rate and this gateway's limiter of each, for the answer's header."""
        return [(subject[0], subject[2], self._limiter(subject, now)) for subject in subjects]

    def _limiter(self, subject: Subject, now: int) -> Limiter:
        name, who, rate = subject
        window = self._windows.get((name, who))
        if window is None or window.rate != rate:
            if len(self._windows) > PRUNE_ABOVE and now > self._prune_at:
                self._prune(now)
            window = _Window(rate, limiter(share(rate, self._index, self._gateways)))
            self._windows[name, who] = window
        return window.limiter

    def _prune(self, now: int) -> None:
        self._prune_at = now + SECOND
        self._windows = {
            subject: window
            for subject, window in self._windows.items()
            if not window.limiter.idle(now)
        }
