# SPDX-License-Identifier: Apache-2.0
"""A customer's past, lived through again: subscribed, called, billed and paid at past instants.

All of it is one transaction. The house's own clock stands at "now": what is due in the past would
otherwise be taken up by the worker, before its usage is there, as soon as it could be seen.
"""

from calendar import monthrange
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from heapq import heappop, heappush
from typing import Any
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import access, billing, catalog, identity, payments, subscriptions, usage
from nimbus.access import KeyTerms
from nimbus.access.service import revoke_key
from nimbus.base import clock, db, events
from nimbus.base.actors import SYSTEM, Actor
from nimbus.catalog.models import Route
from nimbus.demo import wind
from nimbus.demo.traffic import Call, Program, Traffic
from nimbus.rules.blocks import read_block
from nimbus.rules.metering import (
    SLOT_SIZE,
    UsageEvent,
    encode_record,
    event_id,
    write_completed,
)
from nimbus.rules.periods import Period
from nimbus.subscriptions.service import consumers

DAYS_SINCE_THE_LAST_BILL = 3
PAID_AFTER = timedelta(days=2)
BATCH = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """What a billing period saw: billable calls, turbines at its end, reports made in it."""

    calls: int
    assets: int
    reports: int
    paid: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The billing periods that have ended, the oldest first, and the running one as a whole.

    `contract` is what was agreed with the customer after its first month, where that is other than
    the plan (fields of `catalog.ContractShape`).
    """

    plan: str
    months: tuple[Month, ...]
    running: Month
    programs: tuple[Program, ...]
    contract: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """Whose past it is, for the owner of an organization; the same seed makes the same calls."""

    owner: Actor
    past: Past
    seed: str


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
    meter = await _Meter.of(session, subscription, facts.time_zone, life)
    meter.keys[0] = key.id
    for number, month in enumerate(past.months):
        ends_at = meter.period.ends_at
        await meter.change_keys(number)
        yield ends_at
        await meter.month(number, month, ends_at)
        invoice = await billing.bill(session, SYSTEM, subscription.id, ends_at)
        if number == 0 and past.contract is not None:
            await _agree(session, admin, subscription.id, past.contract, ends_at)
        await meter.renew()
        if month.paid and invoice is not None:
            yield ends_at + PAID_AFTER
            reference = invoice.number
            await payments.mark_paid(
                session, admin, invoice.id, reference=reference, received_on=None
            )
    yield now
    await meter.month(len(past.months), past.running, now)
    await usage.end_producer(session, meter.producer)


async def _agree(
    session: AsyncSession,
    admin: Actor,
    subscription_id: UUID,
    contract: Mapping[str, Any],
    as_of: datetime,
) -> None:
    """The operator agrees other terms with the customer."""
    found = await session.get_one(subscriptions.Subscription, subscription_id)
    given = catalog.ContractShape(**contract)
    await consumers.set_contract(
        session,
        admin,
        subscription_id,
        given,
        version=found.version,
        as_of=as_of,
        side="operator",
    )


class _Meter:
    """Stores a subscription's calls as the drain would, as the journal of one gateway."""

    def __init__(
        self,
        session: AsyncSession,
        subscription: subscriptions.SubscriptionFacts,
        routes: Mapping[tuple[str, str], UUID],
        time_zone: str,
        life: Life,
    ) -> None:
        self.subscription = subscription
        self.producer = uuid5(subscription.id, life.seed)
        self.keys: dict[int, UUID] = {}  # by the number of the program
        self._session = session
        self._owner = life.owner
        self._programs = life.past.programs
        self._routes = routes
        self._traffic = Traffic(life.past.programs, time_zone, life.seed)
        self._stored = 0
        self._assets = 0

    @classmethod
    async def of(
        cls,
        session: AsyncSession,
        subscription: subscriptions.SubscriptionFacts,
        time_zone: str,
        life: Life,
    ) -> "_Meter":
        """The meter of a subscription that has no calls yet."""
        own = select(Route).where(Route.product_id == subscription.product_id)
        routes = {(row.method, row.path): row.id for row in await session.scalars(own)}
        return cls(session, subscription, routes, time_zone, life)

    @property
    def period(self) -> Period:
        """The billing period that the next month is about."""
        return Period(self.subscription.period_starts_at, self.subscription.period_ends_at)

    async def renew(self) -> None:
        """The period was billed: go on in the next one."""
        self.subscription = await subscriptions.subscription_facts(
            self._session, self.subscription.id
        )

    async def change_keys(self, month: int) -> None:
        """Make the keys of the programs that begin in this month, revoke those that have ended."""
        for number, program in enumerate(self._programs):
            if program.calls_in(month) and number not in self.keys:
                terms = KeyTerms(
                    name=program.name,
                    scopes=tuple(wind.SCOPES),
                    rate_per_minute=program.rate_per_minute,
                )
                key, _ = await access.create_key(
                    self._session,
                    self._owner,
                    terms,
                    environment="Live",
                    subscription_id=self.subscription.id,
                )
                self.keys[number] = key.id
            if program.months[1] == month:
                reason = f"{program.name} is no longer in use"
                await revoke_key(self._session, self._owner, self.keys[number], reason)

    async def month(self, number: int, month: Month, until: datetime) -> None:
        """Store the calls of the period that were made before `until`."""
        calls = self._traffic.of_period(
            self.period,
            number,
            calls=month.calls,
            assets=range(self._assets + 1, month.assets + 1),
            reports=month.reports,
        )
        made = [call for call in calls if call.at < until]
        self._assets = month.assets
        for batch in (made[start : start + BATCH] for start in range(0, len(made), BATCH)):
            await self._store(batch)
        used = {self.keys[call.program]: call.at for call in made if not call.refusal}
        await access.note_used(self._session, used)

    async def _store(self, batch: Sequence[Call]) -> None:
        first, last = self._stored + 1, self._stored + len(batch)
        self._stored = last
        slots = b"".join(
            _slot(sequence, self._event(sequence, call))
            for sequence, call in enumerate(batch, first)
        )
        block = read_block(slots, first, last, self.producer)
        await usage.store_batch(self._session, self.producer, first, last, (), block=block)

    def _event(self, sequence: int, call: Call) -> UsageEvent:
        own_id = event_id(self.producer, sequence)
        return UsageEvent(
            event_id=own_id,
            occurred_at=call.at,
            organization_id=self.subscription.organization_id,
            provider_organization_id=self.subscription.provider_organization_id,
            key_id=self.keys[call.program],
            subscription_id=self.subscription.id,
            product_id=self.subscription.product_id,
            route_id=self._routes[call.method, call.path],
            environment="Live",
            method=call.method,
            status=call.status,
            refusal=call.refusal,
            duration_us=call.upstream_us + call.added_us,
            upstream_us=call.upstream_us,
            bytes_in=0 if call.method == "GET" else 120,
            bytes_out=call.bytes_out,
            units=int(call.billable),
            leased=0,
            billable=call.billable,
            ip=call.ip,
            request_id=own_id.hex,
            meters=call.meters,
        )


def _slot(sequence: int, event: UsageEvent) -> bytearray:
    """A finished call as a gateway writes it down."""
    slot = bytearray(SLOT_SIZE)
    write_completed(slot, 0, sequence, encode_record(event))
    return slot
