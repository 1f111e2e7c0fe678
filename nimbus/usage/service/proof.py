# SPDX-License-Identifier: Apache-2.0
"""The proof of the counters: everything that is summed up, against a recount of the events."""

from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.proofs import Report
from nimbus.rules.spending import micro
from nimbus.usage.service.rating import wrongly_rated

QUARANTINE = ".quarantine"  # below the journal folder: copies of segments that can't be read
DIFFERENCES_MAX = 1000

# One statement a check: it sees one moment, and a batch is stored in one transaction.
_CELLS = text(
    """
    WITH counted AS (
        SELECT organization_id, provider_organization_id, subscription_id, product_id, key_id,
               route_id, status / 100 AS status_class, environment,
               date_trunc('hour', occurred_at, 'UTC') AS hour, meter_key,
               sum(calls) AS events, sum(quantity) AS quantity_sum, max(quantity) AS quantity_max,
               (array_agg(quantity ORDER BY occurred_at DESC, event_id DESC))[1] AS quantity_last,
               max(occurred_at) AS last_at,
               (array_agg(event_id ORDER BY occurred_at DESC, event_id DESC))[1] AS last_event_id,
               sum(CASE meter_key WHEN 'api_calls' THEN duration_us ELSE 0 END) AS duration_us,
               sum(CASE meter_key WHEN 'api_calls' THEN bytes_in ELSE 0 END) AS bytes_in,
               sum(CASE meter_key WHEN 'api_calls' THEN bytes_out ELSE 0 END) AS bytes_out
        FROM usage_measured GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    SELECT 'roll_up' AS problem, organization_id, subscription_id, key_id, route_id, hour,
           meter_key, environment, status_class, c.events AS counted, h.events AS stored,
           c.quantity_sum AS counted_sum, h.quantity_sum AS stored_sum
    FROM counted c
    FULL JOIN usage_hourly h USING (organization_id, subscription_id, hour, meter_key, key_id,
                                    route_id, status_class, environment)
    WHERE (c.events, c.quantity_sum, c.quantity_max, c.quantity_last, c.last_at, c.last_event_id,
           c.duration_us, c.bytes_in, c.bytes_out, c.provider_organization_id, c.product_id)
        IS DISTINCT FROM
          (h.events, h.quantity_sum, h.quantity_max, h.quantity_last, h.last_at, h.last_event_id,
           h.duration_us, h.bytes_in, h.bytes_out, h.provider_organization_id, h.product_id)
    LIMIT :most
    """
)
_STANDINGS = text(
    """
    WITH counted AS (
        SELECT s.id, s.subscription_id, s.meter_key, s.period_starts_at, s.used,
               coalesce(CASE
                   WHEN s.meter_key = 'api_calls' OR s.aggregation = 'sum' THEN m.total
                   WHEN s.aggregation = 'count' THEN m.events
                   WHEN s.aggregation = 'max' THEN m.peak
                   WHEN s.aggregation = 'last' THEN m.last END, 0) AS counted
        FROM quota_standings s
        LEFT JOIN LATERAL usage_period(s.subscription_id, s.period_starts_at, s.period_ends_at) m
            ON m.meter_key = s.meter_key)
    SELECT 'standing' AS problem, id AS standing_id, subscription_id, meter_key, period_starts_at,
           counted, used AS stored
    FROM counted WHERE counted <> used LIMIT :most
    """
)
_PRODUCERS = text(
    """
    WITH kept AS (
        SELECT producer, count(*) FILTER (WHERE served) AS served,
               count(*) FILTER (WHERE NOT served) AS refused,
               count(DISTINCT sequence) AS sequences, count(*) AS rows,
               max(sequence) AS last, min(sequence) AS first
        FROM (SELECT producer, sequence, true AS served FROM usage_events
              UNION ALL SELECT producer, sequence, false FROM refused_calls) calls
        GROUP BY producer)
    SELECT 'producer' AS problem, producer, p.watermark, p.served AS said_served, k.served,
           p.refused AS said_refused, k.refused, k.rows - k.sequences AS twice, k.last
    FROM usage_producers p FULL JOIN kept k USING (producer)
    WHERE coalesce(p.served, 0) <> coalesce(k.served, 0)
       OR coalesce(p.refused, 0) <> coalesce(k.refused, 0)
       OR k.rows <> k.sequences OR k.last > coalesce(p.watermark, 0) OR k.first < 1
    LIMIT :most
    """
)
_LEASES = text(
    """
    SELECT 'lease' AS problem, s.id AS standing_id, s.leased, coalesce(l.units, 0) AS lent
    FROM quota_standings s
    LEFT JOIN (SELECT standing_id, sum(units) AS units FROM quota_leases GROUP BY 1) l
        ON l.standing_id = s.id
    WHERE s.leased <> coalesce(l.units, 0)
    UNION ALL
    SELECT 'lease_of_the_dead', l.standing_id, l.units, 0
    FROM quota_leases l JOIN usage_producers p USING (producer) WHERE p.ended_at IS NOT NULL
    LIMIT :most
    """
)
# In whole currency units: what an organization's periods cost, and what its months count.
_SPEND = text(
    """
    WITH spent AS (SELECT organization_id, sum(used) AS used FROM spend_standings
                   WHERE kind = 'organization_spend' GROUP BY 1),
         rated AS (SELECT organization_id, sum(cost) AS cost FROM rated_periods GROUP BY 1)
    SELECT organization_id, o.currency, coalesce(used, 0) AS used, coalesce(cost, 0) AS cost
    FROM spent FULL JOIN rated USING (organization_id)
    JOIN organizations o USING (organization_id)
    """
)
_MONEY_LEASES = text(
    """
    SELECT 'money_lease' AS problem, s.id AS standing_id, s.leased, coalesce(l.units, 0) AS lent
    FROM spend_standings s
    LEFT JOIN (SELECT standing_id, sum(units) AS units FROM spend_leases GROUP BY 1) l
        ON l.standing_id = s.id
    WHERE s.leased <> coalesce(l.units, 0)
    UNION ALL
    SELECT 'money_lease_of_the_dead', l.standing_id, l.units, 0
    FROM spend_leases l JOIN usage_producers p USING (producer) WHERE p.ended_at IS NOT NULL
    LIMIT :most
    """
)
_CHECKED = text(
    "SELECT (SELECT count(*) FROM usage_events) + (SELECT count(*) FROM quota_standings)"
    " + (SELECT count(*) FROM usage_producers) + (SELECT count(*) FROM spend_standings)"
)


async def reconcile(session: AsyncSession, journal_dir: Path) -> Report:
    """Prove the counters: roll-ups, standings, leases and producers, against the stored events;
    what is counted as spent, against what the stored events cost.

    Each producer's counts make up its watermark without a hole (a constraint), and here are held
    against the rows. A segment that could not be read counts as a difference for as long as its
    copy lies in the journal folder's quarantine. Needs a system session.
    """
    most = {"most": DIFFERENCES_MAX}
    differences: list[dict[str, Any]] = []
    for statement in (_CELLS, _STANDINGS, _PRODUCERS, _LEASES, _MONEY_LEASES):
        rows = (await session.execute(statement, most)).mappings()
        differences += [{name: plain(value) for name, value in row.items()} for row in rows]
    differences += await _wrong_spend(session)
    differences += [
        {"problem": "unreadable_segment", "producer": path.parent.name, "segment": path.name}
        for path in sorted(journal_dir.glob(f"{QUARANTINE}/*/*"))  # noqa: ASYNC240 - a command
    ]
    checked = await session.scalar(_CHECKED)
    return Report(checked or 0, tuple(differences[:DIFFERENCES_MAX]))


async def _wrong_spend(session: AsyncSession) -> list[dict[str, Any]]:
    found = [
        {
            "problem": "spend",
            "organization_id": row.organization_id,
            "counted": micro(row.cost, row.currency),
            "stored": row.used,
        }
        for row in await session.execute(_SPEND)
        if micro(row.cost, row.currency) != row.used
    ]
    found += await wrongly_rated(session)
    return [{name: plain(value) for name, value in one.items()} for one in found]


def plain(value: Any) -> Any:
    """A quantity as it is written: without an exponent or trailing zeros."""
    if not isinstance(value, Decimal):
        return value
    return format(value.normalize(), "f") if value else "0"
