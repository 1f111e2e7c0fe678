# SPDX-License-Identifier: Apache-2.0
"""A month of one tenant with very many calls: filled in by the set, counted from its rows."""

from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.rules.periods import Period
from nimbus.usage import queries_rollup

DAYS = 30
ROUTES = 50

Connection = psycopg.Connection[tuple[Any, ...]]
Counts = dict[tuple[date, UUID], int]

# The routes need not exist: calls are counted by what they carry.
_CALLS = """
    INSERT INTO usage_events (event_id, occurred_at, organization_id, provider_organization_id,
        subscription_id, product_id, key_id, route_id, environment, method, status, duration_us,
        bytes_in, bytes_out, ip, request_id, producer, sequence, upstream_us, billable, units,
        leased, meters)
    SELECT md5('call' || n)::uuid, %(month)s + n * (interval '1 day' * %(days)s / %(calls)s),
        s.organization_id, s.provider_organization_id, s.id, s.product_id,
        md5('key' || n %% 3)::uuid, md5('route' || n %% %(routes)s)::uuid, 'Live', 'GET',
        CASE WHEN n %% 40 = 0 THEN 404 ELSE 200 END, 2000 + n * 37 %% 9000, 100, 207, '192.0.2.1',
        'bench', md5('bench')::uuid, n, 1500, true, 1, 0, '{}'
    FROM generate_series(0, %(calls)s - 1) n,
        (SELECT * FROM subscriptions WHERE organization_id = %(organization)s LIMIT 1) s
"""
_CELLS = """
    INSERT INTO {table} (organization_id, provider_organization_id, subscription_id, product_id,
        key_id, route_id, status_class, environment, {column}, meter_key, events, quantity_sum,
        quantity_max, quantity_last, last_at, last_event_id, duration_us, bytes_in, bytes_out,
        latency)
    SELECT organization_id, provider_organization_id, subscription_id, product_id, key_id,
        route_id, status / 100, environment, {when}, 'api_calls', count(*), sum(units), max(units),
        1, max(occurred_at), (array_agg(event_id ORDER BY occurred_at DESC, event_id DESC))[1],
        sum(duration_us), sum(bytes_in), sum(bytes_out),
        latency_merge(array_agg(latency_bucket(duration_us) << 40 | 1))
    FROM usage_events WHERE organization_id = %(organization)s
        AND occurred_at >= %(month)s AND occurred_at < %(month)s + interval '1 month'
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""


def fill(connection: Connection, organization: UUID, month: datetime, calls: int) -> None:
    """Give an organization so many calls in a month, with the cells that they make."""
    values = {
        "organization": organization,
        "month": month,
        "calls": calls,
        "days": DAYS,
        "routes": ROUTES,
    }
    connection.execute("SELECT usage_partition(%s)", (month,))
    connection.execute(_CALLS, values)
    for table, column, when in (
        ("usage_hourly", "hour", "date_trunc('hour', occurred_at, 'UTC')"),
        ("usage_daily", "day", "(occurred_at AT TIME ZONE 'UTC')::date"),
    ):
        connection.execute(_CELLS.format(table=table, column=column, when=when).encode(), values)
    connection.execute("ANALYZE usage_hourly, usage_daily, usage_deltas")


def counted_raw(connection: Connection, organization: UUID, month: datetime) -> Counts:
    """Calls by day and operation, from the rows."""
    rows = connection.execute(
        "SELECT (occurred_at AT TIME ZONE 'UTC')::date, route_id, sum(units)::bigint"
        " FROM usage_events WHERE organization_id = %s AND environment = 'Live'"
        " AND occurred_at >= %s AND occurred_at < %s GROUP BY 1, 2",
        (organization, month, month + timedelta(days=DAYS)),
    )
    return {(day, route_id): units for day, route_id, units in rows}


async def by_endpoint_and_day(session: AsyncSession, organization: UUID, month: datetime) -> Counts:
    """The same by the query that the portal asks."""
    rows = await queries_rollup.counted(
        session,
        queries_rollup.Scope(
            period=Period(month, month + timedelta(days=DAYS)),
            organization_id=organization,
            environment="Live",
        ),
        queries_rollup.Grouping(by=("endpoint",), interval="day"),
    )
    found = {}
    for row in rows:
        assert row.route_id is not None, "it is asked by operation"
        assert isinstance(row.at, date), "it is asked by day"
        found[row.at, row.route_id] = int(row.units)
    return found
