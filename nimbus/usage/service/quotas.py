# SPDX-License-Identifier: Apache-2.0
"""Quota standings: opened ahead of their window, limited by the plan, counted from the events.

A subscription has, for each quota of its plan, the standing of the present window and that of the
next, so that a gateway never meets a window that is not open yet. Each standing begins where the
one before it ends.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import delete, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog, subscriptions
from nimbus.catalog import PlanFacts, QuotaFacts
from nimbus.rules import quotas as law
from nimbus.rules.metering import CALLS
from nimbus.rules.periods import Period, QuotaPeriod, quota_window
from nimbus.rules.quotas import Quota
from nimbus.subscriptions import SubscriptionFacts
from nimbus.usage import queries
from nimbus.usage.models import (
    QuotaIncrease,
    QuotaSchedule,
    QuotaStanding,
    QuotaState,
    SpendStanding,
)
from nimbus.usage.service.allowances import (
    allow,
    close,
    increase_of,
    increases,
    take_over,
    used_in,
)

STORING_LOCK = 7_303_020
WindowAt = Callable[[QuotaPeriod, datetime], Period]


async def open_standings(session: AsyncSession, subscription_id: UUID, as_of: datetime) -> None:
    """Open the standings that a subscription needs at `as_of` and after, by the plan it is on.

    Those that are open keep what they counted and get the plan's limits; a quota that the plan
    does not have becomes unlimited; one that says so counts anew with a change of plan. Again
    changes nothing. Run when a subscription begins, changes or renews, whenever a window has begun,
    and when an increase ends.
    """
    # The contract is locked before the storing: who changes it holds it already, and comes here.
    contract = await subscriptions.lock_subscription(session, subscription_id)
    if has_ended(contract, as_of):
        await _end_schedule(session, contract)
        return
    plan = await catalog.plan_facts(session, contract.plan_version_id)
    meters = await catalog.meter_facts(session, plan.product.id)
    await while_no_storing(session)
    statement = queries.standings([subscription_id], as_of).with_for_update(key_share=True)
    rows = list(await session.scalars(statement.execution_options(populate_existing=True)))
    window_at = _windows(contract, plan)
    begins = []
    quotas = await _quotas(session, contract, plan, as_of)
    for facts in quotas:
        aggregation = meters[facts.meter_key].aggregation
        mine = [r for r in rows if (r.meter_key, r.period) == (facts.meter_key, facts.period)]
        for window in _missing(mine, facts, window_at, as_of):
            row = _new(contract, facts, aggregation, window)
            row.used = await used_in(session, row)
            if not mine:
                await take_over(session, contract, row)
            session.add(row)
            mine.append(row)
            rows.append(row)
        begins.append(max(row.period_starts_at for row in mine))
    given = await increases(session, subscription_id, as_of)
    await _apply(session, rows, plan, quotas, given=given, as_of=as_of)
    await session.flush()
    await _schedule(session, contract, begins + [one.ends_at for one in given])


async def quota_states(
    session: AsyncSession, subscription_ids: Iterable[UUID], as_of: datetime
) -> list[QuotaState]:
    """The quotas of subscriptions whose window contains `as_of`, as they stand."""
    ids = list(subscription_ids)
    statement = queries.standings(ids, as_of)
    rows = await session.scalars(statement.where(QuotaStanding.period_starts_at <= as_of))
    found = [_state(row) for row in rows]
    if any(state.increase for state in found):
        given = [one for each in ids for one in await increases(session, each, as_of)]
        found = [replace(state, increase_ends_at=_first_end(given, state)) for state in found]
    return sorted(
        found, key=lambda state: (str(state.subscription_id), state.meter_key, state.period)
    )


async def key_quota_states(
    session: AsyncSession, organization_id: UUID, as_of: datetime
) -> list[QuotaState]:
    """The quotas of an organization's keys in the month that contains `as_of`."""
    rows = await session.scalars(
        select(SpendStanding)
        .where(
            SpendStanding.organization_id == organization_id,
            SpendStanding.kind == "key_quota",
            SpendStanding.limit_micro.is_not(None),
            SpendStanding.period_starts_at <= as_of,
            SpendStanding.period_ends_at > as_of,
        )
        .order_by(SpendStanding.key_id)
    )
    return [
        QuotaState(
            subscription_id=None,
            key_id=row.key_id,
            meter_key=CALLS,
            period="month",
            window=row.window(),
            used=row.used,
            limit=row.limit_micro,
            behavior="deny",
        )
        for row in rows
    ]


def _state(row: QuotaStanding) -> QuotaState:
    rolled = 0
    if row.limit_units is not None and row.own_units is not None:
        rolled = max(0, row.limit_units - row.own_units - row.increase_units)
    return QuotaState(
        subscription_id=row.subscription_id,
        meter_key=row.meter_key,
        period=row.period,
        window=row.window(),
        used=row.used,
        limit=row.limit_units,
        behavior=row.policy,
        overage_cap=row.overage_cap,
        rolled_over=rolled,
        increase=row.increase_units,
        used_before=row.used_before,
    )


def _first_end(given: list[QuotaIncrease], state: QuotaState) -> datetime | None:
    """When the first of the increases of a quota ends."""
    own = (state.subscription_id, state.meter_key, state.period)
    ends = [one.ends_at for one in given if (one.subscription_id, one.meter_key, one.period) == own]
    return min(ends, default=None)


async def next_due(session: AsyncSession) -> datetime | None:
    """When the next window has to be opened, or an increase ends, over all subscriptions."""
    return await session.scalar(
        select(QuotaSchedule.due_at).order_by(QuotaSchedule.due_at).limit(1)
    )


async def due(session: AsyncSession, as_of: datetime, limit: int) -> list[tuple[UUID, datetime]]:
    """The subscriptions that need another window, or less, by `as_of`; the earliest first."""
    rows = await session.execute(
        select(QuotaSchedule.subscription_id, QuotaSchedule.due_at)
        .where(QuotaSchedule.due_at <= as_of)
        .order_by(QuotaSchedule.due_at)
        .limit(limit)
    )
    return [(row.subscription_id, row.due_at) for row in rows]


def has_ended(contract: SubscriptionFacts, as_of: datetime) -> bool:
    """Whether nothing is served any more, whatever is stored."""
    if contract.status == "Trial" and contract.payment is None:
        return contract.trial_ends_at is not None and contract.trial_ends_at <= as_of
    return contract.status == "Expired" or (
        contract.ends_at is not None and contract.ends_at <= as_of
    )


async def while_storing(session: AsyncSession) -> None:
    """Until commit no standing is opened: its first count would miss what is stored now."""
    await _lock(session, "SELECT pg_advisory_xact_lock_shared(:lock)")


async def while_no_storing(session: AsyncSession) -> None:
    """Until commit nothing is stored: what is read now is one moment."""
    await _lock(session, "SELECT pg_advisory_xact_lock(:lock)")


async def _lock(session: AsyncSession, statement: str) -> None:
    await session.execute(text(statement), {"lock": STORING_LOCK})


def _windows(contract: SubscriptionFacts, plan: PlanFacts) -> WindowAt:
    """Which window of a quota period an instant is in. A trial is a cycle of its own, and the
    cycles that are paid begin at its end.
    """
    trial_ends_at = contract.trial_ends_at if contract.status == "Trial" else None
    anchor = plan.anchor(trial_ends_at or contract.anchor_at, contract.time_zone)

    def window_at(kind: QuotaPeriod, instant: datetime) -> Period:
        if kind == "cycle" and trial_ends_at is not None and instant < trial_ends_at:
            return Period(contract.started_at, trial_ends_at)
        return quota_window(kind, anchor, instant)

    return window_at


def _missing(
    rows: list[QuotaStanding], quota: QuotaFacts, window_at: WindowAt, as_of: datetime
) -> list[Period]:
    """The windows to open so that the present one and the one after it are there."""
    if rows:
        newest = max(rows, key=lambda row: row.period_starts_at).window()
        missing = []
    else:
        newest = window_at(quota.period, as_of)
        missing = [newest]
    if newest.starts_at <= as_of:
        after = window_at(quota.period, newest.ends_at)
        missing.append(Period(newest.ends_at, after.ends_at))
    return missing


def _new(
    contract: SubscriptionFacts, facts: QuotaFacts, aggregation: str, window: Period
) -> QuotaStanding:
    return QuotaStanding(
        organization_id=contract.organization_id,
        provider_organization_id=contract.provider_organization_id,
        subscription_id=contract.id,
        meter_key=facts.meter_key,
        aggregation=aggregation,
        period=facts.period,
        period_starts_at=window.starts_at,
        period_ends_at=window.ends_at,
        policy=facts.quota.policy,
        best_units=0,
        used_before=Decimal(0),
        rolled=[],
        told=0,
    )


async def _quotas(
    session: AsyncSession, contract: SubscriptionFacts, plan: PlanFacts, as_of: datetime
) -> list[QuotaFacts]:
    """The quotas of the plan, with what the add-ons of the contract add to them."""
    now = Period(as_of, as_of + timedelta(microseconds=1))
    terms = await subscriptions.terms_between(session, contract.id, now)
    quotas = {(one.meter_key, one.period): one for one in plan.quotas}
    for taken in terms[-1].add_ons if terms else ():
        add_on = await catalog.plan_facts(session, taken.plan_version_id)
        for more in add_on.quotas:
            known = quotas.get((more.meter_key, more.period))
            if known is not None:
                amount = law.added(known.quota.amount, more.quota.amount, taken.quantity)
                raised = replace(known, quota=replace(known.quota, amount=amount))
                quotas[more.meter_key, more.period] = raised
    return list(quotas.values())


async def _apply(
    session: AsyncSession,
    rows: Iterable[QuotaStanding],
    plan: PlanFacts,
    quotas: Iterable[QuotaFacts],
    *,
    given: list[QuotaIncrease],
    as_of: datetime,
) -> None:
    """Let the standings say what the plan allows; what counts anew under it begins here."""
    known = {(facts.meter_key, facts.period): facts.quota for facts in quotas}
    for row in rows:
        absent = Quota(amount=None, policy=plan.over_quota_policy)
        quota = known.get((row.meter_key, row.period), absent)  # type: ignore[arg-type]
        changed = row.plan_version_id not in {None, plan.plan_version_id}
        if changed and row.aggregation == "time_weighted":  # its months may begin elsewhere now
            row.used = await used_in(session, row)
        if changed and quota.on_change == "reset" and row.used and as_of in row.window():
            await close(session, row, as_of, "plan_change")
        allow(row, quota, plan.plan_version_id, increase_of(given, row, as_of), as_of)


async def _schedule(
    session: AsyncSession, contract: SubscriptionFacts, begins: list[datetime]
) -> None:
    """The next window is opened when the last one that is open begins; an increase ends earlier."""
    if not begins:
        await _end_schedule(session, contract)
        return
    statement = postgresql.insert(QuotaSchedule).values(
        organization_id=contract.organization_id,
        provider_organization_id=contract.provider_organization_id,
        subscription_id=contract.id,
        due_at=min(begins),
    )
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=["organization_id", "subscription_id"],
            set_={"due_at": statement.excluded.due_at},
        )
    )


async def _end_schedule(session: AsyncSession, contract: SubscriptionFacts) -> None:
    await session.execute(delete(QuotaSchedule).where(QuotaSchedule.subscription_id == contract.id))
