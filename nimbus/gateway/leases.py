# SPDX-License-Identifier: Apache-2.0
"""Quota leases of one gateway process.

Units are borrowed from the standing's row in the database, through `link`:
a call takes what was borrowed before without waiting; under `deny` a call that
finds nothing waits for a lease, under the other policies it goes on and is only counted.
Nothing here talks to a database: `ask` and `give_back` are handed in.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from nimbus.base import clock
from nimbus.rules.grants import Standing
from nimbus.rules.limits import SECOND, lease_size

LEASE_WAIT_SECONDS = 2
EMPTY_SECONDS = 0.25  # how long a standing that had nothing left is not asked again
IDLE_SECONDS = 2  # after which unused units go back


@dataclass(frozen=True, slots=True)
class Granted:
    """The database's answer to a lease: units lent, and the standing as it is afterwards."""

    units: int
    used: int
    leased: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a call can't have its units: the code of spec 08, and seconds until a retry helps."""

    code: str
    retry_after: int
    resets_at: datetime


@dataclass(slots=True)
class _Lease:
    available: int = 0
    left: int | None = None  # neither used nor lent, as last heard
    asked: int = 0  # units asked for and not answered yet
    empty_until: float = 0
    used_at: float = 0
    second: int = 0
    recent: int = 0  # units taken in the second before
    this_second: int = 0
    waiting: int = 0
    answered: list[asyncio.Future[bool]] = field(default_factory=list)


class Leases:
    """Units borrowed on quota standings. `ask(standing, units)` starts a lease whose answer
    comes to `answer`; `give_back(standing, units)` returns units that are not needed.
    """

    def __init__(
        self,
        gateways: int,
        ask: Callable[[UUID, int], None],
        give_back: Callable[[UUID, int], None],
    ) -> None:
        self._gateways = gateways
        self._ask = ask
        self._give_back = give_back
        self._leases: dict[UUID, _Lease] = {}

    def take(self, standings: tuple[Standing, ...], units: int) -> int | None:
        """Take `units` from each limited standing without waiting: how many were leased (0
        where the policy lets the call go on without), or None: `wait_for` has to be awaited.
        """
        limited = [standing for standing in standings if standing.limit is not None]
        short = [each for each in limited if self._of(each.id).available < units]
        if any(standing.policy == "deny" for standing in short):
            return None
        for standing in short:
            self._renew(standing.id, units)
        if short or not limited:
            return 0
        for standing in limited:
            self._count(standing.id, units)
        return units

    async def wait_for(
        self, standings: tuple[Standing, ...], units: int, as_of: datetime
    ) -> int | Shortage:
        """Like `take`, but borrows first what `deny` needs; a Shortage when there is nothing
        to borrow (quota_exceeded) or nobody to borrow from (unavailable).
        """
        deadline = clock.monotonic() + LEASE_WAIT_SECONDS
        while (taken := self.take(standings, units)) is None:
            standing = next(
                each
                for each in standings
                if each.limit is not None
                and each.policy == "deny"
                and self._of(each.id).available < units
            )
            lease = self._of(standing.id)
            if lease.empty_until > clock.monotonic():
                return _exceeded(standing, as_of)
            lease.waiting += units
            try:
                async with asyncio.timeout(max(0, deadline - clock.monotonic())):
                    answered = await self._answer_of(standing.id, lease)
            except TimeoutError:
                answered = False
            finally:
                lease.waiting -= units
            if not answered:
                return Shortage("unavailable", 1, standing.ends_at)
        return taken

    def refund(self, standings: tuple[Standing, ...], units: int) -> None:
        """A call that is not billed gives its units back."""
        for standing in standings:
            if standing.limit is not None:
                lease = self._of(standing.id)
                lease.available += units
                if self._scarce(lease):
                    self._return(standing.id, lease)

    def answer(self, standing_id: UUID, granted: Granted | None) -> None:
        """The database has answered a lease, or could not (None)."""
        lease = self._of(standing_id)
        lease.asked = 0
        if granted is not None:
            lease.available += granted.units
            left = granted.limit
            lease.left = None if left is None else left - granted.used - granted.leased
            if granted.units == 0:
                lease.empty_until = clock.monotonic() + EMPTY_SECONDS
        waiters, lease.answered = lease.answered, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(granted is not None)

    def remaining(self, standing: Standing) -> int | None:
        """What is left of a standing as far as is known here; None before the first lease."""
        lease = self._leases.get(standing.id)
        if lease is None or lease.left is None:
            return None
        return lease.left + lease.available

    def return_idle(self) -> None:
        """Give back what was not used for a while, and what is held while little is left."""
        now = clock.monotonic()
        for standing_id, lease in list(self._leases.items()):
            idle = lease.used_at + IDLE_SECONDS < now
            if lease.available and (idle or (self._scarce(lease) and not lease.waiting)):
                self._return(standing_id, lease)
            if idle and not lease.available and not lease.asked and not lease.answered:
                del self._leases[standing_id]

    def return_all(self) -> None:
        """Give everything back: this gateway stops."""
        for standing_id, lease in self._leases.items():
            if lease.available:
                self._return(standing_id, lease)

    def _of(self, standing_id: UUID) -> _Lease:
        lease = self._leases.get(standing_id)
        if lease is None:
            lease = self._leases[standing_id] = _Lease(used_at=clock.monotonic())
        return lease

    def _count(self, standing_id: UUID, units: int) -> None:
        lease = self._of(standing_id)
        lease.available -= units
        now = clock.monotonic()
        lease.used_at = now
        if int(now) != lease.second:
            lease.recent = lease.this_second if int(now) == lease.second + 1 else 0
            lease.second, lease.this_second = int(now), 0
        lease.this_second += units
        if lease.available * 2 < lease.recent:
            self._renew(standing_id, 0)

    def _renew(self, standing_id: UUID, needed: int) -> None:
        lease = self._of(standing_id)
        if lease.asked or lease.empty_until > clock.monotonic():
            return
        recent = max(lease.recent, lease.this_second)
        units = lease_size(needed, lease.left, recent, self._gateways)
        if units:
            lease.asked = units
            self._ask(standing_id, units)

    async def _answer_of(self, standing_id: UUID, lease: _Lease) -> bool:
        waiter = asyncio.get_running_loop().create_future()
        lease.answered.append(waiter)
        # What is asked for already may be enough for those before us only: we ask again then.
        self._renew(standing_id, max(1, lease.waiting - lease.available))
        return bool(await waiter)

    def _scarce(self, lease: _Lease) -> bool:
        return lease.left is not None and lease_size(0, lease.left, SECOND, self._gateways) == 0

    def _return(self, standing_id: UUID, lease: _Lease) -> None:
        units, lease.available = lease.available, 0
        lease.empty_until = 0
        if lease.left is not None:
            lease.left += units
        self._give_back(standing_id, units)


def _exceeded(standing: Standing, as_of: datetime) -> Shortage:
    pause = int((standing.ends_at - as_of).total_seconds()) + 1
    return Shortage("quota_exceeded", pause, standing.ends_at)
