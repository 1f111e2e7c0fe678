# SPDX-License-Identifier: Apache-2.0
"""Folding: what batches appended to the roll-up goes into the hours and days, in one transaction.

Whoever stores only appends, so that no batch waits for another over a cell. One folder works at a
time; readers see a delta either where it was appended or in its cell, never in both, because they
read both through one view in one statement.
"""

from typing import cast

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

DELTAS = 50_000  # in one transaction
FOLDING_LOCK = 7_303_021
_LONG = 64  # elements of a histogram, from which on its buckets are added up

_KEYS = (
    "organization_id, provider_organization_id, subscription_id, product_id, key_id, route_id,"
    " status_class, environment, meter_key"
)
_MEASURES = (
    "events, quantity_sum, quantity_max, quantity_last, last_at, last_event_id, duration_us,"
    " bytes_in, bytes_out, latency"
)
_LATEST = "ORDER BY last_at DESC, last_event_id DESC"
_SUMS = f"""
    sum(events), sum(quantity_sum), max(quantity_max), (array_agg(quantity_last {_LATEST}))[1],
    max(last_at), (array_agg(last_event_id {_LATEST}))[1], sum(duration_us), sum(bytes_in),
    sum(bytes_out), coalesce(string_to_array(string_agg(array_to_string(latency, ','), ',')
        FILTER (WHERE latency <> '{{}}'), ',')::bigint[], '{{}}')
"""
_IS_LATER = "(excluded.last_at, excluded.last_event_id) > (c.last_at, c.last_event_id)"
_ADD = f"""
    events = c.events + excluded.events,
    quantity_sum = c.quantity_sum + excluded.quantity_sum,
    quantity_max = greatest(c.quantity_max, excluded.quantity_max),
    quantity_last = CASE WHEN {_IS_LATER} THEN excluded.quantity_last ELSE c.quantity_last END,
    last_event_id = CASE WHEN {_IS_LATER} THEN excluded.last_event_id ELSE c.last_event_id END,
    last_at = greatest(c.last_at, excluded.last_at),
    duration_us = c.duration_us + excluded.duration_us,
    bytes_in = c.bytes_in + excluded.bytes_in,
    bytes_out = c.bytes_out + excluded.bytes_out,
    latency = CASE WHEN cardinality(c.latency) + cardinality(excluded.latency) > {_LONG}
        THEN latency_merge(c.latency || excluded.latency) ELSE c.latency || excluded.latency END
"""


def _into(table: str, column: str, when: str) -> str:
    return f"""INSERT INTO {table} AS c ({_KEYS}, {column}, {_MEASURES})
        SELECT {_KEYS}, {when}, {_SUMS} FROM taken GROUP BY {_KEYS}, {when}
        ON CONFLICT (organization_id, subscription_id, {column}, meter_key, key_id, route_id,
                     status_class, environment) DO UPDATE SET {_ADD}"""  # noqa: S608 - our own words


def _folding() -> str:
    return f"""
    WITH taken AS (
        DELETE FROM usage_deltas
        WHERE id = ANY (ARRAY(SELECT id FROM usage_deltas ORDER BY id LIMIT :most)) RETURNING *),
    hours AS ({_into("usage_hourly", "hour", "hour")}),
    days AS ({_into("usage_daily", "day", "(hour AT TIME ZONE 'UTC')::date")})
    SELECT count(*) FROM taken
    """  # noqa: S608 - our own words


_FOLD = text(_folding())


async def fold(session: AsyncSession, most: int = DELTAS) -> int:
    """Fold up to `most` of the oldest deltas; answers how many. None while another folds.

    Needs a system session.
    """
    mine = await session.scalar(
        text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": FOLDING_LOCK}
    )
    return cast("int", await session.scalar(_FOLD, {"most": most})) if mine else 0
