# SPDX-License-Identifier: Apache-2.0
"""Recounts in SQL: what is summed up against what it is the sum of, a statement a link.

Each gives rows of `problem`, of whom and where, `expected` and `found`. They see the one moment
of the transaction that runs them.
"""

from sqlalchemy import text

KEYS = (
    "organization_id", "provider_organization_id", "subscription_id", "product_id", "key_id",
    "route_id", "status_class", "environment", "meter_key",
)  # fmt: skip
MEASURES = (
    "events", "quantity_sum", "quantity_max", "quantity_last", "last_at", "last_event_id",
    "duration_us", "bytes_in", "bytes_out", "latency",
)  # fmt: skip

_FROM_EVENTS = """
    SELECT organization_id, provider_organization_id, subscription_id, product_id, key_id, route_id,
           (status / 100)::smallint AS status_class, environment, meter_key,
           date_trunc('hour', occurred_at, 'UTC') AS at,
           sum(calls) AS events, sum(quantity) AS quantity_sum, max(quantity) AS quantity_max,
           (array_agg(quantity ORDER BY occurred_at DESC, event_id DESC))[1] AS quantity_last,
           max(occurred_at) AS last_at,
           (array_agg(event_id ORDER BY occurred_at DESC, event_id DESC))[1] AS last_event_id,
           sum(CASE meter_key WHEN 'api_calls' THEN duration_us ELSE 0 END) AS duration_us,
           sum(CASE meter_key WHEN 'api_calls' THEN bytes_in ELSE 0 END) AS bytes_in,
           sum(CASE meter_key WHEN 'api_calls' THEN bytes_out ELSE 0 END) AS bytes_out,
           latency_merge(array_agg(latency_bucket(duration_us) << 40 | 1)
               FILTER (WHERE meter_key = 'api_calls' AND calls > 0 AND source IS NULL)
               ) AS latency
    FROM usage_measured WHERE occurred_at >= :starts_at AND occurred_at < :ends_at
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
"""


def _added_up(at: str, table: str, within: str) -> str:
    keys = ", ".join(KEYS)
    newest = "ORDER BY last_at DESC, last_event_id DESC"
    return f"""
    SELECT {keys}, {at} AS at,
           sum(events) AS events, sum(quantity_sum) AS quantity_sum,
           max(quantity_max) AS quantity_max,
           (array_agg(quantity_last {newest}))[1] AS quantity_last,
           max(last_at) AS last_at, (array_agg(last_event_id {newest}))[1] AS last_event_id,
           sum(duration_us) AS duration_us, sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out,
           latency_merge(string_to_array(string_agg(array_to_string(latency, ','), ',')
               FILTER (WHERE latency <> '{{}}'), ',')::bigint[]) AS latency
    FROM {table} WHERE {within} GROUP BY {keys}, at
    """  # noqa: S608 - all of it is written here


def _measures(side: str) -> str:
    pairs = ", ".join(f"'{name}', {side}.{name}" for name in MEASURES)
    return f"CASE WHEN {side}.events IS NOT NULL THEN jsonb_build_object({pairs}) END"


def _comparison(problem: str, expected: str, found: str) -> str:
    """Two sums of the same cells, those that differ; a cell that one side lacks is NULL there."""
    differs = " OR ".join(f"e.{name} IS DISTINCT FROM f.{name}" for name in MEASURES)
    return f"""
        WITH e AS ({expected}), f AS ({found})
        SELECT '{problem}' AS problem, {", ".join(KEYS)}, at,
               {_measures("e")} AS expected, {_measures("f")} AS found
        FROM e FULL JOIN f USING ({", ".join(KEYS)}, at) WHERE {differs} LIMIT :most
        """  # noqa: S608 - all of it is written here


_IN_SPAN = "hour >= :starts_at AND hour < :ends_at"
HOURS = text(_comparison("roll_up", _FROM_EVENTS, _added_up("hour", "usage_hours", _IN_SPAN)))
"""The events of one span, which begins and ends at whole hours, against the hours of it."""

_DAY = "(hour AT TIME ZONE 'UTC')::date"
DAYS = text(
    _comparison(
        "daily", _added_up(_DAY, "usage_hours", "true"), _added_up("day", "usage_days", "true")
    )
)
"""All hours against all days."""

KEPT = text(
    """
    WITH bounds AS (
        SELECT pg_get_expr(c.relpartbound, c.oid) AS bound
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'usage_events'::regclass)
    SELECT (regexp_match(bound, 'FROM \\(''([^'']+)'))[1]::timestamptz AS starts_at,
           (regexp_match(bound, 'TO \\(''([^'']+)'))[1]::timestamptz AS ends_at
    FROM bounds ORDER BY 1
    """
)
"""The spans whose events are kept, one a partition."""

DROPPED = text(
    """
    WITH months AS (
        SELECT date_trunc('month', at, 'UTC') AS month, sum(events)::bigint AS events
        FROM (SELECT hour AS at, events FROM usage_hours WHERE meter_key = 'api_calls') h
        WHERE NOT EXISTS (SELECT FROM unnest(CAST(:starts AS timestamptz[]),
            CAST(:ends AS timestamptz[])) AS kept (starts_at, ends_at)
            WHERE at >= kept.starts_at AND at < kept.ends_at)
        GROUP BY 1)
    SELECT month, events, EXISTS (SELECT FROM usage_retired r
               WHERE r.month = (m.month AT TIME ZONE 'UTC')::date) AS retired
    FROM months m ORDER BY month
    """
)
"""The months that are summed up, but whose events are no more, or not all; whether retention took
them.
"""

RETIRED = text("SELECT DISTINCT month FROM usage_retired")
"""The months that retention took; a call that comes very late may be there alone."""

STANDINGS = text(
    """
    WITH counted AS (
        SELECT s.id, s.organization_id, s.subscription_id, s.meter_key, s.period_starts_at,
               s.period_ends_at, s.used + coalesce((
                   SELECT sum(c.used) FROM quota_standings c
                   WHERE c.subscription_id = s.subscription_id AND c.meter_key = s.meter_key
                     AND c.period = s.period AND c.period_starts_at = s.period_starts_at
                     AND c.period_ends_at = s.period_ends_at AND c.closed_at IS NOT NULL
                     AND s.closed_at IS NULL), 0) AS used,
               coalesce(CASE
                   WHEN s.meter_key = 'api_calls' OR s.aggregation = 'sum' THEN m.total
                   WHEN s.aggregation = 'count' THEN m.events
                   WHEN s.aggregation = 'max' THEN m.peak
                   WHEN s.aggregation = 'last' THEN m.last
                   ELSE m.special END, 0) AS counted
        FROM quota_standings s
        LEFT JOIN LATERAL usage_period(s.subscription_id, s.period_starts_at, s.period_ends_at) m
            ON m.meter_key = s.meter_key
        JOIN subscriptions c ON c.id = s.subscription_id
        LEFT JOIN plan_versions now ON now.id = c.plan_version_id
        LEFT JOIN plan_versions own ON own.id = s.plan_version_id
        WHERE (s.closed_at IS NULL OR s.closed_at = s.period_ends_at)
          AND (s.aggregation <> 'time_weighted' OR own.anchor IS NOT DISTINCT FROM now.anchor))
    SELECT 'standing' AS problem, organization_id, subscription_id, id AS standing_id, meter_key,
           period_starts_at AS at, counted AS expected, used AS found
    FROM counted WHERE counted <> used LIMIT :most
    """
)
"""Quotas against the sum of their windows, with what closed counts of the same window had. What is
weighted by time counts as if its level stayed to the window's end; a window from before the months
of its subscription moved is left out, for it was counted in other months.
"""

KEY_QUOTAS = text(
    """
    WITH counted AS (
        SELECT s.*, key_units(s.organization_id, s.key_id, s.period_starts_at, s.period_ends_at)
                   AS counted
        FROM spend_standings s WHERE s.kind = 'key_quota'
          AND NOT EXISTS (SELECT FROM usage_retired r
              WHERE r.month >= date_trunc('month', s.period_starts_at, 'UTC')::date
                AND r.month < s.period_ends_at))
    SELECT 'key_quota' AS problem, organization_id, key_id, id AS standing_id,
           period_starts_at AS at, counted AS expected, used AS found
    FROM counted WHERE counted <> used LIMIT :most
    """
)
"""The quotas of keys against their calls. A month that retention took a part of is left out: its
calls at the edges are not all kept.
"""

KEY_SPEND = text(
    """
    WITH keys AS (
        SELECT organization_id, period_starts_at, sum(used) AS used
        FROM spend_standings WHERE kind = 'key_spend' GROUP BY 1, 2),
    months AS (SELECT * FROM spend_standings WHERE kind = 'organization_spend')
    SELECT 'key_spend' AS problem, organization_id, period_starts_at AS at,
           m.used - m.keyless AS expected, coalesce(k.used, 0) AS found
    FROM months m FULL JOIN keys k USING (organization_id, period_starts_at)
    WHERE coalesce(k.used, 0) IS DISTINCT FROM m.used - m.keyless LIMIT :most
    """
)
"""What keys spent in a month against what their organization did, less what is of no key."""

BALANCES = text(
    """
    SELECT 'balance' AS problem, b.organization_id, b.id AS standing_id,
           coalesce(m.used, 0) - b.spent_before AS expected, b.used AS found
    FROM spend_standings b
    LEFT JOIN (SELECT organization_id, sum(used) AS used FROM spend_standings
               WHERE kind = 'organization_spend' GROUP BY 1) m USING (organization_id)
    WHERE b.kind = 'balance' AND b.used <> coalesce(m.used, 0) - b.spent_before LIMIT :most
    """
)
"""What was taken from prepaid balances against what was spent since they began."""

OUTSIDE = text(
    """
    SELECT 'dedupe' AS problem, e.organization_id, e.subscription_id, e.event_id,
           e.occurred_at AS at, e.external_id AS expected, NULL AS found
    FROM usage_events e
    WHERE e.source IS NOT NULL AND e.occurred_at >= :starts_at AND e.occurred_at < :ends_at
      AND NOT EXISTS (SELECT FROM usage_dedupe d
          WHERE d.organization_id = e.provider_organization_id AND d.event_id = e.event_id)
    UNION ALL
    SELECT 'gauge', g.organization_id, g.subscription_id, g.event_id, g.occurred_at, NULL,
           trim_scale(g.level)::text
    FROM usage_gauges g WHERE g.occurred_at >= :starts_at AND g.occurred_at < :ends_at
      AND NOT EXISTS (SELECT FROM usage_events e WHERE e.occurred_at = g.occurred_at
          AND e.organization_id = g.organization_id AND e.event_id = g.event_id)
    LIMIT :most
    """
)
"""Events from outside whose ids are forgotten, so that they could be stored again; levels of a
gauge in one span that no event has set.
"""

MEMBERS = text(
    """
    WITH e AS (SELECT DISTINCT organization_id, subscription_id, meter_key, member,
                      date_trunc('hour', occurred_at, 'UTC') AS at
               FROM usage_measured WHERE member IS NOT NULL AND environment = 'Live'
                 AND occurred_at >= :starts_at AND occurred_at < :ends_at),
         f AS (SELECT organization_id, subscription_id, meter_key, member, hour AS at
               FROM usage_members WHERE hour >= :starts_at AND hour < :ends_at)
    SELECT 'member' AS problem, organization_id, subscription_id, meter_key, at,
           e.member AS expected, f.member AS found
    FROM (SELECT *, member AS same FROM e) e
    FULL JOIN (SELECT *, member AS same FROM f) f
        USING (organization_id, subscription_id, meter_key, at, same)
    WHERE e.member IS NULL OR f.member IS NULL LIMIT :most
    """
)
"""The different values of a `unique` meter in one span, in its events and as kept by the hour."""

PRODUCERS = text(
    """
    WITH kept AS (
        SELECT producer, count(*) FILTER (WHERE served) AS served,
               count(*) FILTER (WHERE NOT served) AS refused,
               count(DISTINCT sequence) AS sequences, count(*) AS rows,
               max(sequence) AS last, min(sequence) AS first
        FROM (SELECT producer, sequence, true AS served FROM usage_events WHERE source IS NULL
              UNION ALL SELECT producer, sequence, false FROM refused_calls) calls
        GROUP BY producer)
    SELECT 'producer' AS problem, producer,
           jsonb_build_object('served', p.served, 'refused', p.refused,
               'watermark', p.watermark) AS expected,
           jsonb_build_object('served', k.served, 'refused', k.refused, 'last', k.last,
               'twice', k.rows - k.sequences) AS found
    FROM usage_producers p FULL JOIN kept k USING (producer)
    LEFT JOIN (SELECT producer, sum(served) AS served, sum(refused) AS refused
               FROM usage_retired GROUP BY 1) r USING (producer)
    WHERE coalesce(p.served, 0) <> coalesce(k.served, 0) + coalesce(r.served, 0)
       OR coalesce(p.refused, 0) <> coalesce(k.refused, 0) + coalesce(r.refused, 0)
       OR k.rows <> k.sequences OR k.last > coalesce(p.watermark, 0) OR k.first < 1
    LIMIT :most
    """
)

STORED = text(
    """
    SELECT sequence, event_id, status, units, duration_us, bytes_in, bytes_out FROM usage_events
    WHERE producer = :producer AND sequence BETWEEN :first AND :last
      AND occurred_at BETWEEN :starts_at AND :ends_at
    UNION ALL
    SELECT sequence, event_id, status, 0, duration_us, bytes_in, bytes_out FROM refused_calls
    WHERE producer = :producer AND sequence BETWEEN :first AND :last
      AND occurred_at BETWEEN :starts_at AND :ends_at
    """
)
"""The calls of one producer, as `rules.metering.UsageEvent` says them."""


def _leases(kind: str, standings: str, leases: str) -> str:
    return f"""
        SELECT '{kind}' AS problem, s.organization_id, s.id AS standing_id, NULL::uuid AS producer,
               coalesce(l.units, 0) AS expected, s.leased AS found
        FROM {standings} s
        LEFT JOIN (SELECT standing_id, sum(units) AS units FROM {leases} GROUP BY 1) l
            ON l.standing_id = s.id
        WHERE s.leased <> coalesce(l.units, 0)
        UNION ALL
        SELECT '{kind}_of_the_dead', l.organization_id, l.standing_id, l.producer, 0, l.units
        FROM {leases} l JOIN usage_producers p USING (producer) WHERE p.ended_at IS NOT NULL
        LIMIT :most
        """  # noqa: S608 - all of it is written here


LEASES = text(_leases("lease", "quota_standings", "quota_leases"))
MONEY_LEASES = text(_leases("money_lease", "spend_standings", "spend_leases"))
"""What standings say is lent against the leases; and leases of gateways that are gone."""

# In whole currency units: what an organization's periods cost, and what its months count.
SPEND = text(
    """
    WITH spent AS (SELECT organization_id, sum(used) AS used FROM spend_standings
                   WHERE kind = 'organization_spend' GROUP BY 1),
         rated AS (SELECT organization_id, sum(cost) AS cost FROM rated_periods GROUP BY 1)
    SELECT organization_id, o.currency, coalesce(used, 0) AS used, coalesce(cost, 0) AS cost
    FROM spent FULL JOIN rated USING (organization_id)
    JOIN organizations o USING (organization_id)
    """
)

CHECKED = text(
    "SELECT (SELECT count(*) FROM usage_events) + (SELECT count(*) FROM quota_standings)"
    " + (SELECT count(*) FROM usage_producers) + (SELECT count(*) FROM spend_standings)"
)
