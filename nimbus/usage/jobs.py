# SPDX-License-Identifier: Apache-2.0
"""Quota standings follow the subscriptions; they and spend months open as their time comes."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, db, jobs
from nimbus.base.actors import Actor
from nimbus.base.events import Event, on
from nimbus.subscriptions.events import (
    SubscriptionChanged,
    SubscriptionCreated,
    SubscriptionRenewed,
)
from nimbus.usage.service import quotas, spending


@on(SubscriptionCreated, SubscriptionChanged, SubscriptionRenewed)
async def follow_subscription(session: AsyncSession, _: Actor, event: Event) -> None:
    """A subscription began, changed or renewed: its quotas are those of its plan now."""
    await quotas.open_standings(session, event.entity_id, clock.now())


@jobs.job("usage.open_standings")
async def open_standings(entity_id: str, as_of: str) -> None:
    """The last window that is open for a subscription has begun: open the next one."""
    async with db.system_session("open quotas") as session:
        await quotas.open_standings(session, UUID(entity_id), clock.from_wire(as_of))


jobs.due_source(jobs.DueSource(open_standings, quotas.next_due, quotas.due))


@jobs.job("usage.open_spend")
async def open_spend(entity_id: str, as_of: str) -> None:
    """The last month that is open for an organization's limits has begun: open the next one."""
    async with db.system_session("open quotas") as session:
        await spending.follow(session, UUID(entity_id), clock.from_wire(as_of))


jobs.due_source(jobs.DueSource(open_spend, spending.next_due, spending.due))
