# SPDX-License-Identifier: Apache-2.0
"""Leases of one gateway process on quotas, spend limits and prepaid balances.

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
from nimbus.rules.metering import CALLS

LEASE_WAIT_SECONDS = 2
CODES = {
    "quota": "quota_exceeded",
    "key_quota": "quota_exceeded",
    "organization_spend": "spend_limit_reached",
    "key_spend": "spend_limit_reached",
    "balance": "balance_exhausted",
}
EMPTY_SECONDS = 0.25  # how long a standing that had nothing left is not asked again
FIRST_WORD_SECONDS = 0.25  # how long a call that needs no units waits to hear of its standing
IDLE_SECONDS = 2  # after which unused units go back
MEASURE_SECONDS = 0.5  # the shortest time over which speed is measured

Needs = tuple[tuple[Standing, int], ...]  # standings and the units a call takes from each


@dataclass(frozen=True, slots=True)
class Granted:
    """The database's answer to a lease: units lent, and the standing as it is afterwards."""

    units: int
    used: int
    leased: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a call can't have its units: the code of spec 08, and seconds until a retry helps (0:
    nobody can say).
    """

    code: str
    retry_after: int
    resets_at: datetime

    def detail(self) -> str:
        """The reason as a sentence for the caller."""
        if self.code == "balance_exhausted":
            return "What is left of the prepaid balance does not cover the call."
        if self.code == "unavailable":
            return "The quota can't be checked now."
        what = "quota" if self.code == "quota_exceeded" else "spend limit"
        return (
            f"The {what} of this period is used up. It is renewed at"
            f" {clock.to_wire(self.resets_at)}."
        )


@dataclass(slots=True)
class Lease:
    """What is borrowed on one standing. It is `known` once the house has spoken of it, or could not
    for too long, and until it is forgotten; who keeps it looks for another one then.
    """

    standing_id: UUID
    renew: Callable[["Lease"], None]
    available: int = 0
    known: bool = False
    left: int | None = None  # neither used nor lent, as last heard
    asked: int = 0  # units asked for and not answered yet
    empty_until: float = 0
    taken: int = 0  # units, ever
    used_at: float = 0  # when `tend` last saw that units had been taken
    used: int = 0  # what was taken by then
    measured_at: float = 0
    measured: int = 0  # what was taken by then
    recent: int = 0  # units taken in the second that was measured last
    low: int = 0  # with less than this another lease is asked for
    waiting: int = 0
    grain: int = 1  # the most that one call needed: leases are sized in multiples of it
    unused: int = 0  # what would be left if all that is lent came back, as last heard
    answered: list[asyncio.Future[bool]] = field(default_factory=list)

    def take(self, units: int) -> bool:
        """Take units that are at hand, and see to the next ones; whether they were."""
        available = self.available - units
        if available < 0 or not self.known:
            return False
        self.available = available
        self.taken += units
        if available < self.low:
            self.renew(self)
        return True


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
        self._leases: dict[int, Lease] = {}  # by the number of the id, which is quick to find

    def take(self, needs: Needs) -> bool | None:
        """Take the units of each need without waiting: True when they were leased, False when
        the policies let the call go on without, None when `wait_for` has to be awaited first.

        Leased is all or nothing. The first call on a standing waits for what the house says of
        it under every policy, so that each answer can tell the truth about the quota.
        """
        covered = []
        for standing, units in needs:
            if standing.limit is not None:
                lease = self._leases.get(standing.id.int)
                if lease is None or not lease.known or lease.available < units:
                    return self._take_short(needs)
                covered.append((lease, units))
        for lease, units in covered:
            lease.take(units)
        return bool(covered)

    def only(self, needs: Needs) -> Lease | None:
        """The lease that covers calls with these needs alone, when there is one: the usual call
        takes from it without a look-up.
        """
        if len(needs) != 1 or needs[0][0].limit is None:
            return None
        return self._leases.get(needs[0][0].id.int)

    def _take_short(self, needs: Needs) -> bool | None:
        """Not every need is covered: whether the call may go on all the same (False, not None)."""
        if self._blocking(needs) is not None:
            return None
        for standing, units in needs:
            if standing.limit is not None and self._of(standing.id).available < units:
                self._renew(self._of(standing.id), units)
        return False

    def _blocking(self, needs: Needs) -> tuple[Standing, int] | None:
        """The first need that a call has to wait for."""
        for standing, units in needs:
            if standing.limit is not None:
                lease = self._of(standing.id)
                short = standing.ends and lease.available < units
                if short or not lease.known:
                    return standing, units
        return None

    async def wait_for(self, needs: Needs, as_of: datetime) -> bool | Shortage:
        """Like `take`, but borrows first what is missing; a Shortage when `deny` finds nothing
        to borrow (quota_exceeded) or nobody to borrow from (unavailable).
        """
        deadline = clock.monotonic() + LEASE_WAIT_SECONDS
        while (taken := self.take(needs)) is None:
            blocking = self._blocking(needs)
            assert blocking is not None, "take has found one"
            standing, units = blocking
            lease = self._of(standing.id)
            lease.grain = max(lease.grain, units)
            if not standing.ends:
                await self._hear_of(lease, units)
                continue
            now = clock.monotonic()
            if lease.empty_until > now:
                comes_back = _settles_later(standing) and units <= lease.unused
                if not comes_back or lease.empty_until > deadline:
                    return _exceeded(standing, as_of, comes_back=comes_back)
                await asyncio.sleep(lease.empty_until - now)
                continue
            if not await self._answered(lease, units, deadline - clock.monotonic()):
                return Shortage("unavailable", 1, standing.ends_at)
        return taken

    async def _hear_of(self, lease: Lease, units: int) -> None:
        """Wait for the first word on a standing whose policy needs none: not for long."""
        await self._answered(lease, units, FIRST_WORD_SECONDS)
        lease.known = True

    async def _answered(self, lease: Lease, units: int, seconds: float) -> bool:
        """Whether the house has said anything about the standing within this time."""
        lease.waiting += units
        try:
            async with asyncio.timeout(max(0, seconds)):
                return await self._answer_of(lease)
        except TimeoutError:
            return False
        finally:
            lease.waiting -= units

    def refund(self, needs: Needs) -> None:
        """A call that is not billed gives its units back."""
        for standing, units in needs:
            if standing.limit is not None:
                lease = self._of(standing.id)
                lease.available += units
                if self._scarce(lease):
                    self._return(lease)

    def answer(self, standing_id: UUID, granted: Granted | None) -> None:
        """The database has answered a lease, or could not (None)."""
        lease = self._of(standing_id)
        lease.asked = 0
        if granted is not None:
            lease.known = True
            lease.available += granted.units
            left = granted.limit
            lease.left = None if left is None else left - granted.used - granted.leased
            lease.unused = 0 if left is None else left - granted.used
            if granted.units == 0:
                lease.empty_until = clock.monotonic() + EMPTY_SECONDS
        waiters, lease.answered = lease.answered, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(granted is not None)

    def remaining(self, standing: Standing) -> int | None:
        """What is left of a standing as far as is known here; None before the first lease."""
        lease = self._leases.get(standing.id.int)
        if lease is None or lease.left is None:
            return None
        return lease.left + lease.available - (standing.overage_cap or 0)

    def scarcest(self, quotas: tuple[tuple[Standing, bytes], ...]) -> tuple[int | None, bytes]:
        """What is left of the standing with the least left, and what stands beside it; None while
        nothing is known.
        """
        least, beside = None, b""
        for standing, one in quotas:
            remaining = self.remaining(standing)
            if remaining is not None and (least is None or remaining < least):
                least, beside = remaining, one
        return least, beside

    def tend(self) -> None:
        """See how fast units are taken, about every second; give back what was not used for a
        while, and what is held while little is left.
        """
        now = clock.monotonic()
        for number, lease in list(self._leases.items()):
            self._measure(lease, now)
            idle = lease.used_at + IDLE_SECONDS < now
            if lease.available and (idle or (self._scarce(lease) and not lease.waiting)):
                self._return(lease)
            if idle and not lease.available and not lease.asked and not lease.answered:
                lease.known = False
                del self._leases[number]

    def return_all(self) -> None:
        """Give everything back: this gateway stops."""
        for lease in self._leases.values():
            if lease.available:
                self._return(lease)

    def _of(self, standing_id: UUID) -> Lease:
        lease = self._leases.get(standing_id.int)
        if lease is None:
            now = clock.monotonic()
            lease = Lease(standing_id, self._renew, used_at=now, measured_at=now)
            self._leases[standing_id.int] = lease
        return lease

    def _measure(self, lease: Lease, now: float) -> None:
        if lease.taken != lease.used:
            lease.used, lease.used_at = lease.taken, now
        if now - lease.measured_at >= MEASURE_SECONDS:
            lease.recent = int((lease.taken - lease.measured) / (now - lease.measured_at))
            lease.measured, lease.measured_at = lease.taken, now
            lease.low = lease.recent // 2

    def _renew(self, lease: Lease, needed: int = 0) -> None:
        if lease.asked or lease.empty_until > clock.monotonic():
            return
        recent = max(lease.recent, lease.taken - lease.measured)
        units = _sized(lease, needed, recent, self._gateways)
        if units:
            lease.asked = units
            self._ask(lease.standing_id, units)

    async def _answer_of(self, lease: Lease) -> bool:
        waiter = asyncio.get_running_loop().create_future()
        lease.answered.append(waiter)
        # What is asked for already may be enough for those before us only: we ask again then.
        self._renew(lease, max(1, lease.waiting - lease.available))
        return bool(await waiter)

    def _scarce(self, lease: Lease) -> bool:
        if lease.left is None:
            return False
        return _sized(lease, 0, SECOND * lease.grain, self._gateways) == 0

    def _return(self, lease: Lease) -> None:
        units, lease.available = lease.available, 0
        lease.empty_until = 0
        if lease.left is not None:
            lease.left += units
        self._give_back(lease.standing_id, units)


def _sized(lease: Lease, needed: int, recent: int, gateways: int) -> int:
    """`lease_size` in whole grains: what a call needs of money is no single unit."""
    grain = lease.grain
    left = None if lease.left is None else lease.left // grain
    return lease_size(-(-needed // grain), left, -(-recent // grain), gateways) * grain


def _settles_later(standing: Standing) -> bool:
    """Whether calls hold more of it than they use: what they hold comes back when they are stored,
    so that a call may wait for it.
    """
    return standing.meter_key != CALLS


def _exceeded(standing: Standing, as_of: datetime, *, comes_back: bool) -> Shortage:
    pause = int((standing.ends_at - as_of).total_seconds()) + 1
    if comes_back:
        pause = 1
    elif standing.kind == "balance":
        pause = 0
    return Shortage(CODES[standing.kind], pause, standing.ends_at)
