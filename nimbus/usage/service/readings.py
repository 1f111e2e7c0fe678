# SPDX-License-Identifier: Apache-2.0
"""What was used: a period's quantities for the bill and for the screen, always the same numbers."""

from collections.abc import Collection, Mapping
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.rules.invoicing import MeterUsage
from nimbus.rules.metering import aggregate
from nimbus.rules.periods import Period
from nimbus.usage import queries


async def period_quantities(
    session: AsyncSession,
    subscription_id: UUID,
    starts_at: datetime,
    ends_at: datetime,
    *,
    by_event: Collection[str] = (),
) -> Mapping[str, MeterUsage]:
    """What a subscription used from `starts_at` up to, not including, `ends_at`, by meter.

    Live, billable calls only, each meter by its own aggregation; a meter without any has no entry.
    For the meters in `by_event` the quantity of each single event is given too. Both instants are
    business time in UTC.
    """
    contract = await subscriptions.subscription_facts(session, subscription_id)
    meters = await catalog.meter_facts(session, contract.product_id)
    period = Period(starts_at, ends_at)
    cells = await queries.measured(session, subscription_id, period)
    single = await queries.single_values(session, subscription_id, period, by_event)
    return {
        key: MeterUsage(aggregate(key, meters[key].aggregation, cell), single.get(key, ()))
        for key, cell in cells.items()
        if key in meters
    }
