# SPDX-License-Identifier: Apache-2.0
"""A customer's past, lived through again: subscribed, called, billed and paid at past instants.

All of it is one transaction. The house's own clock stands at "now": what is due in the past would
otherwise be taken up by the worker, before its usage is there, as soon as it could be seen.
"""

import random
from calendar import monthrange
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from heapq import heappop, heappush
from ipaddress import ip_address
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import billing, identity, payments, subscriptions, usage
from nimbus.base import clock, db, events
from nimbus.base.actors import SYSTEM, Actor
from nimbus.catalog.models import Route
from nimbus.demo import wind
from nimbus.rules.metering import UsageEvent, event_id
from nimbus.rules.periods import Period

DAYS_SINCE_THE_LAST_BILL = 3
PAID_AFTER = timedelta(days=2)
BATCH = 10_000
READS = ("/farms", "/turbines", "/turbines/{turbine_id}", "/alerts")
# One call more, besides the billable ones, of so many: failed at the upstream, refused.
FAILED_ONE_IN = 300
REFUSED_ONE_IN = 500
CALLER = ip_address("203.0.113.24")  # an address for documents (RFC 5737)


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """What a billing period saw: billable calls, turbines at its end, reports made in it."""

    calls: int
    assets: int
    reports: int
    paid: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The billing periods that have ended, the oldest first, and the running one as a whole."""

    plan: str
    months: tuple[Month, ...]
    running: Month


@dataclass(frozen=True, slots=True)
class Life:
    """Whose past it is, for the owner of an organization; the same seed makes the same calls."""

    owner: Actor
    past: Past
    seed: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the past; `refusal` is empty where it was served."""

    at: datetime
    method: str
    path: str
    status: int
    meters: tuple[tuple[str, Decimal], ...] = ()
    refusal: str = ""


def begins_at(now: datetime, months: int, time_zone: str) -> datetime:
    """When a past of so many months began, so that its last one ended three days before `now`.

    Midnight in the time zone; in UTC: 2026-06-18 and 3 months in Amsterdam → 2026-03-14T23:00Z.
    """
    zone = ZoneInfo(time_zone)
    day = now.astimezone(zone).date() - timedelta(days=DAYS_SINCE_THE_LAST_BILL)
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    day = day.replace(year=year, month=month + 1, day=min(day.day, monthrange(year, month + 1)[1]))
    return datetime.combine(day, time.min, zone).astimezone(UTC)


async def live_through(lives: Sequence[Life], admin: Actor, now: datetime) -> dict[str, str]:
    """Subscribe organizations in the past, and live up to `now` (UTC), in the order of time.

    Answers the secret of each one's first key by its seed. Raises `Refusal` 503 while a gateway's
    calls are not stored, and nothing of it has happened then.
    """
    secrets: dict[str, str] = {}
    waiting: list[tuple[datetime, str, AsyncIterator[datetime]]] = []
    async with db.system_session("demo sets") as session:
        for life in lives:
            steps = _steps(session, life, admin, now, secrets)
            heappush(waiting, (await anext(steps), life.seed, steps))
        while waiting:
            at, seed, steps = heappop(waiting)
            clock.set_instant(at)
            following = await anext(steps, None)
            await events.settle(session)
            if following is not None:
                heappush(waiting, (following, seed, steps))
    return secrets


async def _steps(
    session: AsyncSession, life: Life, admin: Actor, now: datetime, secrets: dict[str, str]
) -> AsyncIterator[datetime]:
    """One step at a time; each gives the instant at which the next one is to be made."""
    past = life.past
    facts = await identity.organization_facts(session, life.owner.organization_id)
    starts_at = begins_at(now, len(past.months), facts.time_zone)
    yield starts_at
    started = await payments.start_subscription(
        session, life.owner, product=wind.SLUG, plan=past.plan, payment="invoice", as_of=starts_at
    )
    subscription, key, secret = started.subscription, started.key, started.secret
    assert subscription is not None, "the organization is Active"
    assert key is not None and secret is not None, "it is the first one"  # noqa: PT018
    secrets[life.seed] = secret
    meter = await _Meter.of(session, subscription, key.id, life.seed)
    for month in past.months:
        ends_at = meter.period.ends_at
        yield ends_at
        await meter.month(month, ends_at)
        invoice = await billing.bill(session, SYSTEM, subscription.id, ends_at)
        await meter.renew()
        if month.paid and invoice is not None:
            yield ends_at + PAID_AFTER
            reference = invoice.number
            await payments.mark_paid(
                session, admin, invoice.id, reference=reference, received_on=None
            )
    yield now
    await meter.month(past.running, now)
    await usage.end_producer(session, meter.producer)


class _Meter:
    """Stores a subscription's calls as the drain would, as the journal of one gateway."""

    def __init__(
        self,
        session: AsyncSession,
        subscription: subscriptions.SubscriptionFacts,
        key_id: UUID,
        routes: Mapping[tuple[str, str], UUID],
        seed: str,
    ) -> None:
        self.subscription = subscription
        self.producer = uuid5(subscription.id, seed)
        self._session = session
        self._key_id = key_id
        self._routes = routes
        self._chance = random.Random(seed)  # noqa: S311 - the same data every time is the point
        self._stored = 0
        self._assets = 0

    @classmethod
    async def of(
        cls,
        session: AsyncSession,
        subscription: subscriptions.SubscriptionFacts,
        key_id: UUID,
        seed: str,
    ) -> "_Meter":
        """The meter of a subscription that has no calls yet."""
        own = select(Route).where(Route.product_id == subscription.product_id)
        routes = {(row.method, row.path): row.id for row in await session.scalars(own)}
        return cls(session, subscription, key_id, routes, seed)

    @property
    def period(self) -> Period:
        """The billing period that the next month is about."""
        return Period(self.subscription.period_starts_at, self.subscription.period_ends_at)

    async def renew(self) -> None:
        """The period was billed: go on in the next one."""
        self.subscription = await subscriptions.subscription_facts(
            self._session, self.subscription.id
        )

    async def month(self, month: Month, until: datetime) -> None:
        """Store the calls of the period that were made before `until`."""
        made = [call for call in self._calls(month) if call.at < until]
        self._assets = month.assets
        for batch in (made[start : start + BATCH] for start in range(0, len(made), BATCH)):
            first = self._stored + 1
            self._stored += len(batch)
            numbered = [self._event(n, call) for n, call in enumerate(batch, first)]
            await usage.store_batch(self._session, self.producer, first, self._stored, numbered)

    def _calls(self, month: Month) -> list[Call]:
        """All calls of a whole period in their order; the assets only grow."""
        grown = range(self._assets + 1, month.assets + 1)
        built = zip(self._instants(len(grown)), grown, strict=True)
        calls = [
            Call(at, "POST", "/turbines", 201, (("assets", Decimal(number)),))
            for at, number in built
        ]
        reported = (("reports", Decimal(1)),)
        calls += [
            Call(at, "POST", "/reports", 201, reported) for at in self._instants(month.reports)
        ]
        reads = self._instants(month.calls - len(calls))
        calls += [Call(at, "GET", self._chance.choice(READS), 200) for at in reads]
        for at in self._instants(month.calls // FAILED_ONE_IN):
            calls.append(Call(at, "GET", "/alerts", 502))
        for at in self._instants(month.calls // REFUSED_ONE_IN):
            calls.append(Call(at, "GET", "/turbines", 429, refusal="rate_limited"))
        return sorted(calls, key=lambda call: call.at)

    def _instants(self, count: int) -> list[datetime]:
        whole = self.period.ends_at - self.period.starts_at
        return sorted(self.period.starts_at + whole * self._chance.random() for _ in range(count))

    def _event(self, sequence: int, call: Call) -> UsageEvent:
        billable = call.status < 500 and not call.refusal
        upstream_us = 0 if call.refusal else self._chance.randint(2_000, 40_000)
        own_id = event_id(self.producer, sequence)
        return UsageEvent(
            event_id=own_id,
            occurred_at=call.at,
            organization_id=self.subscription.organization_id,
            provider_organization_id=self.subscription.provider_organization_id,
            key_id=self._key_id,
            subscription_id=self.subscription.id,
            product_id=self.subscription.product_id,
            route_id=self._routes[call.method, call.path],
            environment="Live",
            method=call.method,
            status=call.status,
            refusal=call.refusal,
            duration_us=upstream_us + self._chance.randint(200, 900),
            upstream_us=upstream_us,
            bytes_in=0 if call.method == "GET" else 120,
            bytes_out=self._chance.randint(300, 6_000),
            units=int(billable),
            leased=0,
            billable=billable,
            ip=CALLER,
            request_id=own_id.hex,
            meters=call.meters,
        )
