# SPDX-License-Identifier: Apache-2.0
"""What a standing allows, by the law of `rules.quotas`: under a plan, after a change, on a reset.

A count that is ended keeps its leases: what gateways hold goes over to the count that follows, so
that nothing is lent twice. So the row that counts stays the same one, and what it had counted is
written down as a row of its own, closed.
"""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.actors import SYSTEM
from nimbus.base.events import announce
from nimbus.base.ids import new_id
from nimbus.rules import quotas as law
from nimbus.rules.metering import CALLS, aggregate
from nimbus.rules.money import EXACT
from nimbus.rules.quotas import Quota
from nimbus.subscriptions import SubscriptionFacts
from nimbus.usage import queries
from nimbus.usage.events import QuotaExceeded, UsageThresholdReached
from nimbus.usage.models import QuotaIncrease, QuotaStanding, SpendStanding

LEVELS = frozenset(("max", "last"))
"""The aggregations that say how high something stands, not how much was used up."""


def additive(standing: QuotaStanding) -> bool:
    """Whether an event adds to what was used before, whatever that was."""
    return standing.meter_key == CALLS or standing.aggregation in {"sum", "count"}


async def used_in(session: AsyncSession, standing: QuotaStanding) -> Decimal:
    """What the stored events of a standing's window come to."""
    cells = await queries.measured(session, standing.subscription_id, standing.window())
    cell = cells.get(standing.meter_key)
    if cell is None:
        return Decimal(0)
    return aggregate(standing.meter_key, standing.aggregation, cell)


def allow(
    row: QuotaStanding, quota: Quota, plan_version_id: UUID, increase: int, as_of: datetime
) -> None:
    """Let a standing say what its plan allows now. A window that has not begun has had no other
    plan; of one that runs the best plan is remembered.
    """
    begun = row.period_starts_at <= as_of
    row.best_units = law.best_of(row.best_units, quota.amount) if begun else quota.amount
    row.own_units = law.own_units(quota, row.best_units, row.used_before)
    row.increase_units = increase
    limit = law.limit(quota, row.own_units, row.rolled, increase)
    if limit != row.limit_units:
        reached = law.crossed(row.used, limit, 0)
        row.told = min(row.told, max(reached, default=0))
    row.limit_units, row.policy = limit, quota.policy
    row.overage_cap = quota.overage_cap
    row.plan_version_id = plan_version_id
    rolls = quota.roll_over and quota.amount is not None and additive(row)
    row.rolls_over_at = row.period_ends_at if rolls else None


async def close(session: AsyncSession, row: QuotaStanding, as_of: datetime, because: str) -> bool:
    """End a count and begin anew in the same window; False where there is nothing to end.

    What adds up goes on from zero; of everything else the window itself is divided. A change of
    plan remembers what was used up, a reset by hand forgets it.
    """
    if not additive(row) and row.period_starts_at >= as_of:
        return False
    closed = {name: getattr(row, name) for name in QuotaStanding.__mapper__.columns.keys()}  # noqa: SIM118 - columns, not names
    closed |= {"id": new_id(), "leased": 0, "rolls_over_at": None}
    closed |= {"closed_at": as_of, "closed_because": because}
    used = row.used
    if additive(row):
        row.used = Decimal(0)
    else:
        closed["period_ends_at"] = row.period_starts_at = as_of
        row.used = await used_in(session, row)
    if because == "plan_change" and row.aggregation not in LEVELS:
        row.used_before = EXACT.add(row.used_before, used)
    else:
        row.used_before, row.best_units = Decimal(0), 0
    row.told = 0
    session.add(QuotaStanding(**closed))
    return True


async def take_over(session: AsyncSession, contract: SubscriptionFacts, row: QuotaStanding) -> None:
    """Let the first window of a subscription remember what one to the same product used, that
    ended while its own window would still run.
    """
    if row.aggregation in LEVELS or contract.started_at not in row.window():
        return
    found = await session.execute(
        _EARLIER,
        {
            "id": contract.id,
            "organization_id": contract.organization_id,
            "product_id": contract.product_id,
            "meter_key": row.meter_key,
            "period": row.period,
            "at": contract.started_at,
        },
    )
    earlier = found.one_or_none()
    if earlier is not None:
        row.used_before, row.best_units = earlier.used, earlier.best_units


_EARLIER = text(
    """
    SELECT s.used + s.leased + s.used_before AS used, s.best_units
    FROM quota_standings s JOIN subscriptions c ON c.id = s.subscription_id
    WHERE c.organization_id = :organization_id AND c.product_id = :product_id AND c.id <> :id
      AND s.meter_key = :meter_key AND s.period = :period AND s.closed_at IS NULL
      AND s.period_starts_at <= :at AND s.period_ends_at > :at
    ORDER BY s.created_at DESC, s.id DESC LIMIT 1
    """
)


def tell(session: AsyncSession, row: QuotaStanding) -> None:
    """Announce the thresholds that a locked standing has reached, each once."""
    reached = law.crossed(row.used, row.limit_units, row.told)
    if not reached:
        return
    row.told = reached[-1]
    facts = {
        "subscription_id": row.subscription_id,
        "meter": row.meter_key,
        "period": row.period,
        "starts_at": row.period_starts_at,
        "resets_at": row.period_ends_at,
        "used": row.used,
        "limit": row.limit_units,
        "behavior": row.policy,
        "reached": reached[-1],
    }
    for threshold in reached:
        for fact in (UsageThresholdReached, QuotaExceeded):
            if fact is UsageThresholdReached or threshold == law.THRESHOLDS[-1]:
                event = fact(
                    organization_id=row.organization_id,
                    provider_organization_id=row.provider_organization_id,
                    entity_id=row.id,
                    after={"kind": "quota", "threshold": threshold, **facts},
                )
                announce(session, SYSTEM, event)


def tell_spend(session: AsyncSession, row: SpendStanding) -> None:
    """The same of a limit in money, of a key's quota, or of a prepaid balance: that one is used up
    as what was left of it when money last came in goes, to calls or to anything else.
    """
    used, of = row.used, None if row.limit_micro is None else Decimal(row.limit_micro)
    if row.told_of is not None and of is not None:
        used, of = EXACT.subtract(row.told_of, EXACT.subtract(of, row.used)), row.told_of
    reached = law.crossed(used, of, row.told)
    if not reached:
        return
    row.told = reached[-1]
    for threshold in reached:
        event = UsageThresholdReached(
            organization_id=row.organization_id,
            entity_id=row.id,
            after={
                "kind": row.kind,
                "threshold": threshold,
                "key_id": row.key_id,
                "starts_at": row.period_starts_at,
                "resets_at": None if row.kind == "balance" else row.period_ends_at,
                "used": used,
                "limit": of,
                "reached": reached[-1],
            },
        )
        announce(session, SYSTEM, event)


async def increases(
    session: AsyncSession, subscription_id: UUID, since: datetime
) -> list[QuotaIncrease]:
    """What was given on top of a subscription's quotas and has not ended by `since`."""
    statement = select(QuotaIncrease).where(
        QuotaIncrease.subscription_id == subscription_id, QuotaIncrease.ends_at > since
    )
    return list(await session.scalars(statement.order_by(QuotaIncrease.ends_at, QuotaIncrease.id)))


def increase_of(given: list[QuotaIncrease], row: QuotaStanding, as_of: datetime) -> int:
    """The units on top of a standing, now or when its window begins."""
    at = max(as_of, row.period_starts_at)
    return sum(
        one.units
        for one in given
        if (one.meter_key, one.period) == (row.meter_key, row.period)
        and one.starts_at <= at < one.ends_at
    )


async def roll_over(session: AsyncSession, row: QuotaStanding, quota: Quota) -> bool:
    """Hand what a window that is over has left to the one after it; False when nothing is handed.

    What is handed is taken from the window that is over, so that nobody uses it there any more;
    what is still lent counts as used.
    """
    units = law.roll_over(quota, row.own_units, row.rolled, row.used + row.leased)
    following = await session.scalar(
        queries.standings([row.subscription_id], row.period_ends_at)
        .where(
            QuotaStanding.meter_key == row.meter_key,
            QuotaStanding.period == row.period,
            QuotaStanding.period_starts_at == row.period_ends_at,
        )
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if following is None or not any(units) or row.limit_units is None:
        return False
    row.limit_units -= sum(units)
    following.rolled = units
    await session.flush()
    return True


async def next_roll_over(session: AsyncSession) -> datetime | None:
    """When the next window with units to hand on is over."""
    return await session.scalar(select(func.min(QuotaStanding.rolls_over_at)))


async def due_roll_overs(
    session: AsyncSession, as_of: datetime, limit: int
) -> list[tuple[UUID, datetime]]:
    """The standings whose windows are over by `as_of` and have units to hand on."""
    rows = await session.execute(
        select(QuotaStanding.id, QuotaStanding.rolls_over_at)
        .where(QuotaStanding.rolls_over_at <= as_of)
        .order_by(QuotaStanding.rolls_over_at, QuotaStanding.id)
        .limit(limit)
    )
    return [(row.id, row.rolls_over_at) for row in rows if row.rolls_over_at is not None]
