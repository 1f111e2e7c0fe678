# SPDX-License-Identifier: Apache-2.0
"""What was used: a period's quantities for the bill and for the screen, always the same numbers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.catalog import MeterFacts, PlanFacts
from nimbus.rules.invoicing import MeterUsage
from nimbus.rules.metering import aggregate
from nimbus.rules.periods import Period, period_containing
from nimbus.subscriptions import SubscriptionFacts
from nimbus.usage import queries
from nimbus.usage.models import QuotaState
from nimbus.usage.service.quotas import quota_states


@dataclass(frozen=True, slots=True)
class CurrentUse:
    """What a subscription used in the billing period that runs now, of every meter it has."""

    subscription: SubscriptionFacts
    plan: PlanFacts
    period: Period
    meters: tuple[tuple[MeterFacts, Decimal], ...]
    quotas: tuple[QuotaState, ...]


async def period_quantities(
    session: AsyncSession,
    subscription_id: UUID,
    starts_at: datetime,
    ends_at: datetime,
    *,
    by_event: Collection[str] = (),
    as_of: datetime | None = None,
) -> Mapping[str, MeterUsage]:
    """What a subscription used from `starts_at` up to, not including, `ends_at`, by meter.

    Live, billable events only, each meter by its own aggregation; one without any has no entry.
    Time-weighted meters count up to the period's end, or up to `as_of`. For meters in `by_event`
    the quantity of each single event is given too. Instants are business time in UTC.
    """
    contract = await subscriptions.subscription_facts(session, subscription_id)
    meters = await catalog.meter_facts(session, contract.product_id)
    period = Period(starts_at, ends_at)
    cells = await queries.measured(session, subscription_id, period, as_of)
    single = await queries.single_values(session, subscription_id, period, by_event)
    return {
        key: MeterUsage(aggregate(key, meters[key].aggregation, cell), single.get(key, ()))
        for key, cell in cells.items()
        if key in meters
    }


async def current_use(
    session: AsyncSession, organization_id: UUID, as_of: datetime, product_id: UUID | None = None
) -> list[CurrentUse]:
    """What an organization's subscriptions used so far in the period that contains `as_of`.

    All of them, or the one to a product. By the calendar: a period that ended and waits for its
    invoice is not the current one.
    """
    live = await subscriptions.live_subscriptions(session, organization_id, as_of)
    wanted = [one for one in live if product_id in {None, one.product_id}]
    return [await _current_use(session, one, as_of) for one in wanted]


async def _current_use(
    session: AsyncSession, subscription: SubscriptionFacts, as_of: datetime
) -> CurrentUse:
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    meters = await catalog.meter_facts(session, subscription.product_id)
    period = _running_period(subscription, plan, as_of)
    used = await period_quantities(
        session, subscription.id, period.starts_at, period.ends_at, as_of=as_of
    )
    return CurrentUse(
        subscription=subscription,
        plan=plan,
        period=period,
        meters=tuple(
            (meter, used[key].quantity if key in used else Decimal(0))
            for key, meter in meters.items()
        ),
        quotas=tuple(await quota_states(session, [subscription.id], as_of)),
    )


def _running_period(subscription: SubscriptionFacts, plan: PlanFacts, as_of: datetime) -> Period:
    stored = Period(subscription.period_starts_at, subscription.period_ends_at)
    if subscription.status == "Trial" or as_of < stored.ends_at:
        return stored
    anchor = plan.anchor(subscription.anchor_at, subscription.time_zone)
    return period_containing(anchor, as_of)[1]
