# SPDX-License-Identifier: Apache-2.0
"""Quota standings follow the subscriptions; they and spend months open as their time comes.

Exports are written, and go when their time is over.
"""

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
from nimbus.usage.events import UsageExportStarted
from nimbus.usage.service import adjustments, allowances, exports, quotas, spending


@on(SubscriptionCreated, SubscriptionChanged, SubscriptionRenewed)
async def follow_subscription(session: AsyncSession, _: Actor, event: Event) -> None:
    """A subscription began or changed: its quotas are those of its plan now. One that renews as it
    is needs nothing: its next windows open when their time comes.
    """
    if isinstance(event, SubscriptionRenewed) and not event.before:
        return
    await quotas.open_standings(session, event.entity_id, clock.now())


@jobs.job("usage.open_standings")
async def open_standings(entity_id: str, as_of: str) -> None:
    """The last window that is open for a subscription has begun: open the next one."""
    async with db.system_session("open quotas") as session:
        await quotas.open_standings(session, UUID(entity_id), clock.from_wire(as_of))


jobs.due_source(jobs.DueSource(open_standings, quotas.next_due, quotas.due))


@jobs.job("usage.roll_over")
async def roll_over(entity_id: str, as_of: str) -> None:
    """The window of a quota is over: hand on what it has left."""
    async with db.system_session("open quotas") as session:
        await adjustments.roll_over(session, UUID(entity_id), clock.from_wire(as_of))


jobs.due_source(jobs.DueSource(roll_over, allowances.next_roll_over, allowances.due_roll_overs))


@jobs.job("usage.open_spend")
async def open_spend(entity_id: str, as_of: str) -> None:
    """The last month that is open for an organization's limits has begun: open the next one."""
    async with db.system_session("open quotas") as session:
        await spending.follow(session, UUID(entity_id), clock.from_wire(as_of))


jobs.due_source(jobs.DueSource(open_spend, spending.next_due, spending.due))


@on(UsageExportStarted)
async def begin_export(session: AsyncSession, _: Actor, event: UsageExportStarted) -> None:
    """Somebody asked for a file: it is written when the request is done."""
    await jobs.defer(
        session,
        write_export,
        lock=f"usage export/{event.entity_id}",
        export_id=str(event.entity_id),
        organization_id=str(event.organization_id),
    )


@jobs.job("usage.export", retries=2)
async def write_export(export_id: str, organization_id: str) -> None:
    """Write the file of an export, as its organization."""
    await exports.write(UUID(export_id), UUID(organization_id))


@jobs.job("usage.expire_export")
async def expire_export(entity_id: str, as_of: str) -> None:  # noqa: ARG001 - what is due is over
    """The week of an export is over: its file goes."""
    async with db.system_session("expire exports") as session:
        await exports.expire(session, UUID(entity_id))


jobs.due_source(jobs.DueSource(expire_export, exports.next_due, exports.due))
