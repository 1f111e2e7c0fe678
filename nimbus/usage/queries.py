# SPDX-License-Identifier: Apache-2.0
"""Reads of usage."""

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Select,
    Text,
    false,
    literal,
    null,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.rules.metering import Cell
from nimbus.rules.periods import Period
from nimbus.usage.models import (
    CallCounts,
    LoggedCall,
    Mark,
    Producer,
    QuotaStanding,
    RefusedCall,
    ServedCall,
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
    }


async def single_values(
    session: AsyncSession, subscription_id: UUID, period: Period, meters: Collection[str]
) -> dict[str, tuple[Decimal, ...]]:
    """The quantity of each single event of these meters, in the order in which they happened."""
    statement = text(
        "SELECT meter_key, quantity FROM usage_measured"
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
    """The quota standings of subscriptions whose window ends after `since`, by id."""
    return (
        select(QuotaStanding)
        .where(
            QuotaStanding.subscription_id.in_(subscription_ids),
            QuotaStanding.period_ends_at > since,
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


_OF_CALLER = (
    "organization_id = :organization_id AND environment = :environment AND meter_key = 'api_calls'"
    " AND hour >= :starts_at AND hour < :ends_at"
)
_COUNTS = (
    "sum(events)::bigint AS calls, sum(quantity_sum) AS units,"
    " coalesce(sum(events) FILTER (WHERE status_class >= 4), 0)::bigint AS errors,"
    " sum(bytes_in)::bigint AS bytes_in, sum(bytes_out)::bigint AS bytes_out,"
    " sum(duration_us)::bigint AS duration_us"
)


async def calls_by_day(
    session: AsyncSession, organization_id: UUID, environment: str, period: Period, time_zone: str
) -> list[CallCounts]:
    """The calls of an organization by day of its time zone; an hour is of the day it begins in."""
    statement = text(
        f"SELECT (hour AT TIME ZONE :time_zone)::date AS day, {_COUNTS} FROM usage_hours"  # noqa: S608
        f" WHERE {_OF_CALLER} GROUP BY day ORDER BY day"
    )
    values = _of_caller(organization_id, environment, period) | {"time_zone": time_zone}
    return [CallCounts(**row) for row in (await session.execute(statement, values)).mappings()]


async def calls_by_status(
    session: AsyncSession, organization_id: UUID, environment: str, period: Period
) -> dict[int, int]:
    """The calls of an organization by the first digit of their status."""
    statement = text(
        "SELECT status_class, sum(events)::bigint AS calls FROM usage_hours"  # noqa: S608
        f" WHERE {_OF_CALLER} GROUP BY status_class ORDER BY status_class"
    )
    values = _of_caller(organization_id, environment, period)
    return {row.status_class: row.calls for row in await session.execute(statement, values)}


async def calls_by_route(
    session: AsyncSession, organization_id: UUID, environment: str, period: Period
) -> list[CallCounts]:
    """The calls of an organization by operation, the most called first."""
    statement = text(
        f"SELECT product_id, route_id, {_COUNTS} FROM usage_hours WHERE {_OF_CALLER}"  # noqa: S608
        " GROUP BY product_id, route_id ORDER BY calls DESC, route_id"
    )
    values = _of_caller(organization_id, environment, period)
    return [CallCounts(**row) for row in (await session.execute(statement, values)).mappings()]


def _of_caller(organization_id: UUID, environment: str, period: Period) -> dict[str, Any]:
    return {
        "organization_id": organization_id,
        "environment": environment,
        "starts_at": period.starts_at,
        "ends_at": period.ends_at,
    }


async def logged_calls(
    session: AsyncSession,
    organization_id: UUID,
    limit: int,
    before: tuple[datetime, UUID] | None = None,
) -> list[LoggedCall]:
    """The calls of an organization, served and refused, the newest first; those before one."""
    served = _log(ServedCall, organization_id, limit, before, _SERVED_ONLY)
    refused = _log(RefusedCall, organization_id, limit, before, _REFUSED_ONLY)
    both = union_all(served, refused).subquery()
    newest = select(both).order_by(both.c.occurred_at.desc(), both.c.event_id.desc()).limit(limit)
    return [LoggedCall(**row) for row in (await session.execute(newest)).mappings()]


_LOGGED = (
    "event_id", "occurred_at", "subscription_id", "product_id", "key_id", "route_id",
    "environment", "method", "status", "duration_us", "bytes_in", "bytes_out", "ip", "request_id",
)  # fmt: skip
_SERVED_ONLY: dict[str, Any] = {
    "code": null().cast(Text),
    "upstream_us": ServedCall.upstream_us,
    "units": ServedCall.units,
    "billable": ServedCall.billable,
    "continued": ServedCall.continued,
    "meters": ServedCall.meters,
}
_REFUSED_ONLY: dict[str, Any] = {
    "code": RefusedCall.code,
    "upstream_us": null().cast(BigInteger),
    "units": literal(0).cast(BigInteger),
    "billable": false(),
    "continued": false(),
    "meters": literal({}, JSONB),
}


def _log(
    call: type[ServedCall | RefusedCall],
    organization_id: UUID,
    limit: int,
    before: tuple[datetime, UUID] | None,
    own: dict[str, Any],
) -> Any:
    columns = [getattr(call, name) for name in _LOGGED]
    columns += [expression.label(name) for name, expression in own.items()]
    statement = select(*columns).where(call.organization_id == organization_id)
    if before is not None:
        statement = statement.where(tuple_(call.occurred_at, call.event_id) < tuple_(*before))
    newest = statement.order_by(call.occurred_at.desc(), call.event_id.desc()).limit(limit)
    return select(newest.subquery())
