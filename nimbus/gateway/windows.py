# SPDX-License-Identifier: Apache-2.0
"""Rate windows of one gateway process: of each rate it admits its share, so that all gateways
together never exceed it.
"""

from collections.abc import Hashable
from dataclasses import dataclass

from nimbus.rules.limits import SECOND, Limiter, Rate, limiter, share

PER_ADDRESS = Rate(20_000, 1)  # calls a second from one address, before anything is known of it
PRUNE_ABOVE = 50_000  # limiters in memory

Subject = tuple[str, Hashable, Rate]  # the limit's name, who is limited, the rate


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
        self.generation = 0  # changes when limiters handed out before may be in force no more

    def limiter(self, subject: Subject, now: int) -> Limiter:
        """The limiter of this gateway's share of a rate. It may be kept for as long as
        `generation` stays the same.
        """
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
        self.generation += 1
        self._windows = {
            subject: window
            for subject, window in self._windows.items()
            if not window.limiter.idle(now)
        }
