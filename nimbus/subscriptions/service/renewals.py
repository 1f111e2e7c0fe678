# SPDX-License-Identifier: Apache-2.0
"""The next period begins once the one before it is billed: the bill run's side of the door."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus import catalog
from nimbus.base.actors import Actor
from nimbus.catalog import PlanFacts
from nimbus.rules import lifecycles
from nimbus.subscriptions import queries
from nimbus.subscriptions.events import SubscriptionRenewed
from nimbus.subscriptions.models import SubscriptionFacts
from nimbus.subscriptions.service.records import apply_scheduled, enter_period, entered, state, tell


async def renew_period(
    session: AsyncSession, actor: Actor, subscription_id: UUID, ended_at: datetime
) -> SubscriptionFacts:
    """Begin the next period once the one that ended at `ended_at` is billed; a system session.

    A change that waited for it is made now. Of a subscription that ends, nothing more is to be
    billed. Again for the same end changes nothing.
    """
    subscription = await queries.lock(session, subscription_id)
    due_at = subscription.next_billing_at
    if due_at is None or ended_at < due_at:
        return subscription.facts()
    if subscription.ends_at is not None and subscription.ends_at <= subscription.period_ends_at:
        subscription.next_billing_at = None
        return subscription.facts()
    waited = subscription.scheduled_change
    before = {"plan_version_id": str(subscription.plan_version_id), "scheduled_change": waited}
    if subscription.status != "Expired":
        subscription.status = lifecycles.subscription(state(subscription), "renew")
        await apply_scheduled(session, subscription, subscription.period_ends_at)
    plan = await catalog.plan_facts(session, subscription.plan_version_id)
    enter_period(subscription, plan, subscription.period_number + 1)
    # What waited may have been an add-on alone: its quotas and prices change all the same.
    told = before if waited != subscription.scheduled_change else {}
    tell(session, actor, SubscriptionRenewed, subscription, plan, before=told)
    return subscription.facts()


async def renew_periods(
    session: AsyncSession, actor: Actor, ended: Sequence[tuple[SubscriptionFacts, datetime]]
) -> None:
    """Begin the next period of many subscriptions, each as `renew_period` does one.

    `ended`: each with when its period ended, as it is stored and locked by the caller. Those that
    just go on are moved in one statement.
    """
    plans: dict[UUID, PlanFacts] = {}
    moved = []
    for one, ended_at in ended:
        ends = one.ends_at is not None and one.ends_at <= one.period_ends_at
        if ends or one.scheduled_change is not None or one.status not in {"Active", "PastDue"}:
            await renew_period(session, actor, one.id, ended_at)
            continue
        if one.next_billing_at is None or ended_at < one.next_billing_at:
            continue
        if one.plan_version_id not in plans:
            plans[one.plan_version_id] = await catalog.plan_facts(session, one.plan_version_id)
        plan = plans[one.plan_version_id]
        next_one = replace(one, **entered(one, plan, one.period_number + 1))
        tell(session, actor, SubscriptionRenewed, next_one, plan)
        moved.append(next_one)
    if moved:
        await queries.move_periods(session, moved)
