# SPDX-License-Identifier: Apache-2.0
"""Reads of usage."""

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import (
    Select,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.rules.metering import Cell
from nimbus.rules.periods import Period
from nimbus.usage.models import (
    Mark,
    Producer,
    QuotaStanding,
)


async def measured(
    session: AsyncSession,
    subscription_id: UUID,
    period: Period,
    as_of: datetime | None = None,
) -> dict[str, Cell]:
    """What the live events of a subscription add up to in a half-open period, by meter.

    A level of a time-weighted meter is taken to stand until the period's end, or until `as_of`.
    """
    rows = await session.execute(
        text("SELECT * FROM usage_period(:subscription_id, :starts_at, :ends_at, :as_of)"),
        {
            "subscription_id": subscription_id,
            "starts_at": period.starts_at,
            "ends_at": period.ends_at,
            "as_of": as_of or period.ends_at,
        },
    )
    return {
        row.meter_key: Cell(
            row.events,
            row.total,
            row.peak,
            row.last,
            row.last_at,
            row.last_event_id,
            special=row.special,
        )
        for row in rows
        if row.last_at is not None  # else its events are what this transaction is storing
    }


async def single_values(
    session: AsyncSession, subscription_id: UUID, period: Period, meters: Collection[str]
) -> dict[str, tuple[Decimal, ...]]:
    """The quantity of each single event of these meters, in the order in which they happened."""
    if not meters:
        return {}
    statement = text(
        "SELECT meter_key, quantity FROM usage_singles"
        " WHERE subscription_id = :subscription_id AND billable AND quantity > 0"
        " AND occurred_at >= :starts_at AND occurred_at < :ends_at"
        " AND meter_key = ANY (:meters) ORDER BY occurred_at, event_id"
    )
    values: dict[str, list[Decimal]] = {}
    for row in await session.execute(
        statement,
        {
            "subscription_id": subscription_id,
            "starts_at": period.starts_at,
            "ends_at": period.ends_at,
            "meters": list(meters),
        },
    ):
        values.setdefault(row.meter_key, []).append(row.quantity)
    return {meter_key: tuple(found) for meter_key, found in values.items()}


async def producer_mark(session: AsyncSession, producer: UUID) -> Mark:
    """How far the journal of this gateway process is stored; the beginning for an unknown one."""
    row = await session.get(Producer, producer)
    return Mark(0, frozenset(), ended=False) if row is None else row.mark()


async def absent_producers(
    session: AsyncSession, present: Collection[UUID], node: str | None
) -> dict[UUID, int]:
    """Gateways of a machine (None: of all) that are silent for a minute, have not ended, and are
    not `present` there with a journal: each with the last sequence it said it had used.
    """
    rows = await session.execute(
        text(
            """
            SELECT g.id, g.journal_sequence FROM gateway_instances g
            LEFT JOIN usage_producers p ON p.producer = g.id
            WHERE p.ended_at IS NULL AND g.id <> ALL (CAST(:present AS uuid[]))
              AND g.seen_at < clock_timestamp() - interval '1 minute'
              AND g.node = coalesce(:node, g.node)
            """
        ),
        {"present": list(present), "node": node},
    )
    return {row.id: row.journal_sequence for row in rows}


def standings(subscription_ids: Collection[UUID], since: datetime) -> Select[QuotaStanding]:
    """The quota standings that count, of subscriptions, whose window ends after `since`, by id."""
    return (
        select(QuotaStanding)
        .where(
            QuotaStanding.subscription_id.in_(subscription_ids),
            QuotaStanding.period_ends_at > since,
            QuotaStanding.closed_at.is_(None),
        )
        .order_by(QuotaStanding.id)
    )


async def drained_through(session: AsyncSession, instant: datetime) -> bool:
    """Whether no call made before `instant` (business time) still lies in a journal.

    True when each gateway that was ever seen is dead and wholly stored, or has told the house,
    after that instant, up to which sequence it had reserved, and all of that is stored. Calls
    that stay open for long are not waited for: they bill themselves on the next invoice.
    """
    behind = await session.scalar(
        text(
            """
            SELECT count(*) FROM gateway_instances g
            LEFT JOIN usage_producers p ON p.producer = g.id
            WHERE p.ended_at IS NULL AND (
                coalesce(p.watermark, 0) < g.journal_sequence
                OR CASE WHEN EXISTS (SELECT FROM test_clock)
                   THEN g.number < (SELECT f.number FROM grant_feed f WHERE f.kind = 'clock')
                   ELSE g.seen_at < :instant END)
            """
        ),
        {"instant": instant},
    )
    return not behind
