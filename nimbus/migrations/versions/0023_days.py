# SPDX-License-Identifier: Apache-2.0
"""A period's sum takes whole days from the roll-up by days: thirty rows, not hundreds."""

from importlib import import_module

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# What the live events of a subscription add up to in [starts, ends), by meter: the one sum for
# bill, quota, screen and proof. Whole days of UTC are taken from the daily roll-up, whole hours
# beside them from the hourly one, what is left from the events. `special` is the value of a
# `unique` or `time_weighted` meter, which no other column gives; of a time-weighted one up to
# `as_of`.
SUM = """CREATE FUNCTION usage_period(subscription uuid, starts timestamptz, ends timestamptz,
        as_of timestamptz DEFAULT 'infinity')
    RETURNS TABLE (meter_key text, events bigint, total numeric, peak numeric, last numeric,
        last_at timestamptz, last_event_id uuid, special numeric)
    LANGUAGE sql STABLE AS $$
        WITH hours AS NOT MATERIALIZED (
            SELECT least(ends, date_bin('1 hour', starts + interval '1 hour - 1 microsecond',
                       'epoch')) AS whole_from,
                   greatest(date_bin('1 hour', ends, 'epoch'), date_bin('1 hour',
                       starts + interval '1 hour - 1 microsecond', 'epoch')) AS whole_to),
        edges AS NOT MATERIALIZED (
            SELECT whole_from, whole_to,
                   least(whole_to, date_bin('1 day',
                       whole_from + interval '1 day - 1 microsecond', 'epoch')) AS days_from,
                   greatest(date_bin('1 day', whole_to, 'epoch'), least(whole_to, date_bin(
                       '1 day', whole_from + interval '1 day - 1 microsecond',
                       'epoch'))) AS days_to
            FROM hours),
        outer_events AS MATERIALIZED (
            SELECT m.meter_key, m.calls, m.quantity, m.occurred_at, m.event_id, m.member
            FROM usage_singles m, edges
            WHERE m.subscription_id = subscription AND m.environment = 'Live'
              AND m.occurred_at >= starts AND m.occurred_at < whole_from
            UNION ALL
            SELECT m.meter_key, m.calls, m.quantity, m.occurred_at, m.event_id, m.member
            FROM usage_singles m, edges
            WHERE m.subscription_id = subscription AND m.environment = 'Live'
              AND m.occurred_at >= greatest(starts, whole_to) AND m.occurred_at < ends),
        parts AS (
            SELECT d.meter_key, d.events, d.quantity_sum, d.quantity_max, d.quantity_last,
                   d.last_at, d.last_event_id
            FROM usage_days d, edges
            WHERE d.subscription_id = subscription AND d.environment = 'Live'
              AND d.day >= (days_from AT TIME ZONE 'UTC')::date
              AND d.day < (days_to AT TIME ZONE 'UTC')::date
            UNION ALL
            SELECT h.meter_key, h.events, h.quantity_sum, h.quantity_max, h.quantity_last,
                   h.last_at, h.last_event_id
            FROM usage_hours h, edges
            WHERE h.subscription_id = subscription AND h.environment = 'Live'
              AND h.hour >= whole_from AND h.hour < days_from
            UNION ALL
            SELECT h.meter_key, h.events, h.quantity_sum, h.quantity_max, h.quantity_last,
                   h.last_at, h.last_event_id
            FROM usage_hours h, edges
            WHERE h.subscription_id = subscription AND h.environment = 'Live'
              AND h.hour >= days_to AND h.hour < whole_to
            UNION ALL
            SELECT o.meter_key, o.calls, o.quantity, o.quantity, o.quantity, o.occurred_at,
                   o.event_id
            FROM outer_events o),
        added AS (
            SELECT p.meter_key, sum(p.events)::bigint AS events,
                   sum(p.quantity_sum) AS total, max(p.quantity_max) AS peak,
                   max(p.last_at) AS last_at
            FROM parts p GROUP BY p.meter_key),
        latest AS (
            SELECT DISTINCT ON (p.meter_key) p.meter_key, p.quantity_last, p.last_event_id
            FROM parts p JOIN added a USING (meter_key, last_at)
            ORDER BY p.meter_key, p.last_event_id DESC),
        members AS (
            SELECT u.meter_key, u.member FROM usage_members u, edges
            WHERE u.subscription_id = subscription
              AND u.hour >= whole_from AND u.hour < whole_to
            UNION ALL
            SELECT o.meter_key, o.member FROM outer_events o WHERE o.member IS NOT NULL),
        special AS (
            SELECT m.meter_key, count(DISTINCT m.member)::numeric AS amount,
                   NULL::numeric AS last, NULL::timestamptz AS last_at,
                   NULL::uuid AS last_event_id
            FROM members m GROUP BY m.meter_key
            UNION ALL
            SELECT * FROM usage_weighted(subscription, starts, ends, as_of))
        SELECT meter_key, coalesce(a.events, 0), coalesce(a.total, 0),
               coalesce(a.peak, s.last), coalesce(l.quantity_last, s.last),
               coalesce(a.last_at, s.last_at), coalesce(l.last_event_id, s.last_event_id),
               s.amount
        FROM (added a JOIN latest l USING (meter_key)) FULL JOIN special s USING (meter_key)
    $$"""


def upgrade() -> None:
    """Say the sum anew, and find days of a subscription and hours of an organization at once."""
    op.execute("CREATE INDEX ix_usage_daily_subscription ON usage_daily (subscription_id, day)")
    op.execute("CREATE INDEX ix_usage_hourly_organization ON usage_hourly (organization_id, hour)")
    op.execute(f"DROP FUNCTION {import_module('nimbus.migrations.versions.0016_outside').PERIOD}")
    op.execute(SUM)


def downgrade() -> None:
    """Put back the sum over hours."""
    outside = import_module("nimbus.migrations.versions.0016_outside")
    op.execute(f"DROP FUNCTION {outside.PERIOD}")
    outside._period()  # noqa: SLF001 - the sum as that migration says it
    op.execute("DROP INDEX ix_usage_daily_subscription, ix_usage_hourly_organization")
