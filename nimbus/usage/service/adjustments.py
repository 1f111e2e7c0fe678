# SPDX-License-Identifier: Apache-2.0
"""What people and time do to a quota: a reset by hand, an increase for a time, the roll-over.

All in system sessions: the provider and the operator act on a subscription that is another's.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.base.actors import Actor
from nimbus.base.events import announce
from nimbus.errors import Refusal, field_error
from nimbus.subscriptions import SubscriptionFacts
from nimbus.usage import queries
from nimbus.usage.events import QuotaIncreased, QuotaReset
from nimbus.usage.models import QuotaIncrease, QuotaStanding, QuotaState
from nimbus.usage.service import allowances
from nimbus.usage.service.quotas import open_standings, quota_states, while_no_storing


class StillStoringError(Exception):
    """Calls of a window that is over may lie in a journal; the queue comes back."""


async def reset(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    meter_key: str | None,
    period: str | None,
    reason: str,
    as_of: datetime,
) -> list[QuotaState]:
    """Count the quotas of a subscription anew from now on, all or those of a meter and period.

    What was counted stays on a closed row; no event changes. Calls that are not stored yet count on
    the new row. Raises 404 for an unknown subscription, 422 on `meter` when it has no such quota.
    """
    contract = await subscriptions.lock_subscription(session, subscription_id)
    rows = await _running(session, subscription_id, meter_key, period, as_of)
    if not rows:
        raise field_error("meter", "no_quota", "The subscription has no such quota now.")
    before = [
        {"meter": row.meter_key, "period": row.period, "used": row.used, "limit": row.limit_units}
        for row in rows
    ]
    for row in rows:
        await allowances.close(session, row, as_of, "by_hand")
    await session.flush()
    await open_standings(session, subscription_id, as_of)
    _announce(session, actor, QuotaReset, contract, after={"quotas": before}, reason=reason)
    return await quota_states(session, [subscription_id], as_of)


async def increase(
    session: AsyncSession,
    actor: Actor,
    subscription_id: UUID,
    *,
    meter_key: str,
    period: str,
    units: int,
    ends_at: datetime,
    reason: str,
    as_of: datetime,
) -> list[QuotaState]:
    """Give a subscription units on top of a quota, in each of its windows until `ends_at`.

    Raises 404 for an unknown subscription; 422 on `ends_at` when it has passed, on `meter` when
    there is no such quota, or one without a limit.
    """
    contract = await subscriptions.lock_subscription(session, subscription_id)
    if ends_at <= as_of:
        raise field_error("ends_at", "in_the_past", "An increase ends in the future.")
    rows = await _running(session, subscription_id, meter_key, period, as_of)
    if not rows:
        raise field_error("meter", "no_quota", "The subscription has no such limit now.")
    given = QuotaIncrease(
        organization_id=contract.organization_id,
        provider_organization_id=contract.provider_organization_id,
        subscription_id=contract.id,
        meter_key=meter_key,
        period=period,
        units=units,
        reason=reason,
        starts_at=as_of,
        ends_at=ends_at,
        created_by=actor.user_id,
    )
    session.add(given)
    await session.flush()
    await open_standings(session, subscription_id, as_of)
    after = {"meter": meter_key, "period": period, "units": units, "ends_at": ends_at}
    _announce(session, actor, QuotaIncreased, contract, after=after, reason=reason)
    return await quota_states(session, [subscription_id], as_of)


async def of_provider(
    session: AsyncSession, provider_organization_id: UUID, subscription_id: UUID
) -> None:
    """See that a subscription is one to this provider's products; 404 otherwise."""
    facts = await subscriptions.subscription_facts(session, subscription_id)
    if facts.provider_organization_id != provider_organization_id:
        raise Refusal("not_found")


async def roll_over(session: AsyncSession, standing_id: UUID, as_of: datetime) -> None:
    """Hand on what the window of a standing has left, once it is over and all of it is stored.

    Again changes nothing. Raises `StillStoringError` while calls may lie in a journal.
    """
    row = await session.get(QuotaStanding, standing_id)
    if row is None or row.rolls_over_at is None or row.rolls_over_at > as_of:
        return
    if not await queries.drained_through(session, row.period_ends_at):
        raise StillStoringError(str(standing_id))
    await subscriptions.lock_subscription(session, row.subscription_id)
    await while_no_storing(session)
    await session.refresh(row, with_for_update={"key_share": True})
    if row.rolls_over_at is None or row.plan_version_id is None:
        return
    plan = await catalog.plan_facts(session, row.plan_version_id)
    for facts in plan.quotas:
        if (facts.meter_key, facts.period) == (row.meter_key, row.period):
            await allowances.roll_over(session, row, facts.quota)
    row.rolls_over_at = None
    await session.flush()
    await open_standings(session, row.subscription_id, as_of)


async def _running(
    session: AsyncSession,
    subscription_id: UUID,
    meter_key: str | None,
    period: str | None,
    as_of: datetime,
) -> Sequence[QuotaStanding]:
    """The standings that limit the present windows, locked while nothing is stored."""
    await open_standings(session, subscription_id, as_of)  # in case no worker ran
    statement = queries.standings([subscription_id], as_of).where(
        QuotaStanding.period_starts_at <= as_of, QuotaStanding.limit_units.is_not(None)
    )
    if meter_key is not None:
        statement = statement.where(QuotaStanding.meter_key == meter_key)
    if period is not None:
        statement = statement.where(QuotaStanding.period == period)
    locked = statement.with_for_update(key_share=True).execution_options(populate_existing=True)
    return (await session.scalars(locked)).all()


def _announce(
    session: AsyncSession,
    actor: Actor,
    fact: type[QuotaReset | QuotaIncreased],
    contract: SubscriptionFacts,
    *,
    after: dict[str, object],
    reason: str,
) -> None:
    event = fact(
        organization_id=contract.organization_id,
        provider_organization_id=contract.provider_organization_id,
        entity_id=contract.id,
        after=after,
        reason=reason,
    )
    announce(session, actor, event)
