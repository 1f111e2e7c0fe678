# SPDX-License-Identifier: Apache-2.0
"""Usage that comes from outside, and meters of every kind.

Events from outside are rows of `usage_events` beside the gateways' calls, told apart by their
`source`. Their ids are kept for ever in a table of their own, which outlives the partitions. What
`unique` and `time_weighted` meters are summed up from stands in two tables that outlive them too.
"""

from importlib import import_module

from alembic import op

from nimbus.migrations.feed import record_function, watch
from nimbus.migrations.tenancy import protect

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

PERIOD = "usage_period(uuid, timestamptz, timestamptz, timestamptz)"
PRODUCT = "grant_product(e products)"
EVENT_COLUMNS = {
    "source": "text CHECK (length(source) BETWEEN 1 AND 255)",
    "external_id": "text CHECK (length(external_id) BETWEEN 1 AND 255)",
    "reported_by": "uuid",
    "properties": "jsonb",
    "member": "uuid",
}
METER_COLUMNS = {
    "property": "text CHECK (length(property) BETWEEN 1 AND 64)",
    "filters": "jsonb NOT NULL DEFAULT '{}'",
    "source_path": "text CHECK (length(source_path) BETWEEN 1 AND 200)",
    "version": "integer NOT NULL DEFAULT 1",
    "updated_at": "timestamptz",
}
TAPS = """'taps', coalesce((
        SELECT jsonb_agg(jsonb_build_object('meter', m.key, 'path', m.source_path) ORDER BY m.key)
        FROM meters m WHERE m.product_id = e.id AND m.source_path IS NOT NULL), '[]'),"""
DEDUPE_PARTITIONS = 8


def upgrade() -> None:
    """Add the columns and tables, say the period's sum anew, and tell gateways of the taps."""
    for name, column in METER_COLUMNS.items():
        op.execute(f"ALTER TABLE meters ADD COLUMN {name} {column}")
    op.execute("UPDATE meters SET updated_at = created_at")
    op.execute("ALTER TABLE meters ALTER COLUMN updated_at SET NOT NULL")
    for name, column in EVENT_COLUMNS.items():
        op.execute(f"ALTER TABLE usage_events ADD COLUMN {name} {column}")
    op.execute(
        "ALTER TABLE usage_events ADD CONSTRAINT ck_usage_events_outside"
        " CHECK (num_nulls(source, external_id, reported_by) IN (0, 3))"
    )
    _dedupe()
    _gauges()
    _members()
    _measured()
    op.execute(f"DROP FUNCTION {import_module('nimbus.migrations.versions.0007_usage').PERIOD}")
    _weighted()
    _period()
    before = _product_before()
    record = before.replace("'websockets', e.websockets,", f"'websockets', e.websockets, {TAPS}")
    assert record != before, "the record says more"
    record_function(PRODUCT, record)
    watch("meters", "INSERT OR UPDATE OR DELETE", "grant_feed_row('product', 'product_id')")


def downgrade() -> None:
    """Forget what came from outside, which no roll-up may hold any more."""
    usage = import_module("nimbus.migrations.versions.0007_usage")
    op.execute("DROP TRIGGER feed ON meters")
    record_function(PRODUCT, _product_before())
    op.execute(f"DROP FUNCTION {PERIOD}")
    op.execute("DROP FUNCTION usage_weighted(uuid, timestamptz, timestamptz, timestamptz)")
    op.execute("DROP VIEW usage_singles, usage_measured")
    op.execute("DROP TABLE usage_dedupe, usage_gauges, usage_members")
    op.execute("ALTER TABLE usage_events DROP CONSTRAINT ck_usage_events_outside")
    for table, columns in (("usage_events", EVENT_COLUMNS), ("meters", METER_COLUMNS)):
        for name in columns:
            op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
    usage.make_measured(", CASE WHEN e.continued THEN 0 ELSE 1 END AS calls")
    usage.make_period("m.calls", "usage_hours")


def _product_before() -> str:
    records: dict[str, str] = import_module("nimbus.migrations.versions.0012_money")._records()  # noqa: SLF001 - the records as that migration says them
    return records[PRODUCT]


def _dedupe() -> None:
    # Whose ids these are: the provider's that sent them. The event's id follows from its own.
    op.execute(
        """CREATE TABLE usage_dedupe (
            organization_id uuid NOT NULL,
            event_id uuid NOT NULL,
            content uuid NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, event_id)) PARTITION BY HASH (event_id)"""
    )
    for number in range(DEDUPE_PARTITIONS):
        op.execute(
            f"CREATE TABLE usage_dedupe_{number} PARTITION OF usage_dedupe"
            f" FOR VALUES WITH (MODULUS {DEDUPE_PARTITIONS}, REMAINDER {number})"
        )
    protect("usage_dedupe", verbs="SELECT")
    op.execute("REVOKE UPDATE, DELETE ON usage_dedupe FROM nimbus_system")


def _gauges() -> None:
    op.execute(
        """CREATE TABLE usage_gauges (
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            meter_key text NOT NULL,
            occurred_at timestamptz NOT NULL,
            event_id uuid NOT NULL,
            level numeric(38, 12) NOT NULL CHECK (level >= 0),
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (subscription_id, meter_key, occurred_at, event_id, organization_id))"""
    )
    protect("usage_gauges", two_sided=True, verbs="SELECT")
    op.execute("REVOKE UPDATE, DELETE ON usage_gauges FROM nimbus_system")


def _members() -> None:
    # Which different values a meter's property had in an hour.
    op.execute(
        """CREATE TABLE usage_members (
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            meter_key text NOT NULL,
            hour timestamptz NOT NULL,
            member uuid NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (subscription_id, hour, meter_key, member, organization_id))"""
    )
    protect("usage_members", two_sided=True, verbs="SELECT")
    op.execute("REVOKE UPDATE, DELETE ON usage_members FROM nimbus_system")


def _measured() -> None:
    # An event from outside is no call: it counts for its own meter alone, which may be that of
    # calls.
    op.execute("DROP VIEW usage_measured")
    op.execute(
        """CREATE VIEW usage_measured WITH (security_invoker = true) AS
            SELECT e.*, m.meter_key, m.quantity, CASE WHEN e.continued THEN 0 ELSE 1 END AS calls
            FROM usage_events e CROSS JOIN LATERAL (
                SELECT 'api_calls'::text AS meter_key, e.units::numeric AS quantity
                WHERE e.source IS NULL
                UNION ALL
                SELECT key, value::numeric FROM jsonb_each_text(e.meters)
                WHERE e.billable AND (key <> 'api_calls' OR e.source IS NOT NULL)) m"""
    )
    # Events one by one, also of months that are dropped, as far as sums still need them.
    columns = (
        "organization_id, subscription_id, environment, occurred_at, event_id, billable,"
        " meter_key, quantity, calls, member"
    )
    op.execute(
        f"""CREATE VIEW usage_singles WITH (security_invoker = true) AS
            SELECT {columns} FROM usage_measured UNION ALL SELECT {columns} FROM usage_kept"""
    )
    for view in ("usage_measured", "usage_singles"):
        op.execute(f"GRANT SELECT ON {view} TO nimbus_app, nimbus_system")


def _weighted() -> None:
    # The law is `rules.meters`; the division is rounded half up to 12 decimals by integers alone.
    op.execute(
        """CREATE FUNCTION usage_weighted(subscription uuid, starts timestamptz, ends timestamptz,
            as_of timestamptz)
        RETURNS TABLE (meter_key text, amount numeric, last numeric, last_at timestamptz,
            last_event_id uuid)
        LANGUAGE sql STABLE AS $$
            WITH RECURSIVE keys AS (
                (SELECT g.meter_key FROM usage_gauges g WHERE g.subscription_id = subscription
                 ORDER BY g.meter_key LIMIT 1)
                UNION ALL
                SELECT (SELECT g.meter_key FROM usage_gauges g
                        WHERE g.subscription_id = subscription AND g.meter_key > k.meter_key
                        ORDER BY g.meter_key LIMIT 1)
                FROM keys k WHERE k.meter_key IS NOT NULL),
            levels AS (
                SELECT carried.* FROM keys k CROSS JOIN LATERAL (
                    SELECT g.meter_key, g.occurred_at, g.event_id, g.level FROM usage_gauges g
                    WHERE g.subscription_id = subscription AND g.meter_key = k.meter_key
                      AND g.occurred_at < starts
                    ORDER BY g.occurred_at DESC, g.event_id DESC LIMIT 1) carried
                UNION ALL
                SELECT g.meter_key, g.occurred_at, g.event_id, g.level
                FROM keys k JOIN usage_gauges g
                  ON g.subscription_id = subscription AND g.meter_key = k.meter_key
                 AND g.occurred_at >= starts AND g.occurred_at < ends),
            spans AS (
                SELECT l.meter_key, l.level, l.occurred_at AS since,
                       lead(l.occurred_at, 1, ends) OVER (PARTITION BY l.meter_key
                           ORDER BY l.occurred_at, l.event_id) AS until
                FROM levels l),
            anchor AS (
                SELECT coalesce(min(s.time_zone), 'UTC') AS zone, coalesce(min(
                           CASE v.anchor WHEN 'calendar' THEN timestamp '2000-01-01'
                           ELSE coalesce(s.trial_ends_at, s.anchor_at) AT TIME ZONE s.time_zone
                           END), timestamp '2000-01-01') AS at
                FROM subscriptions s LEFT JOIN plan_versions v ON v.id = s.plan_version_id
                WHERE s.id = subscription),
            numbers AS (
                SELECT a.zone, a.at, generate_series(
                    12 * extract(year FROM starts AT TIME ZONE a.zone)::int
                        + extract(month FROM starts AT TIME ZONE a.zone)::int - 1,
                    12 * extract(year FROM ends AT TIME ZONE a.zone)::int
                        + extract(month FROM ends AT TIME ZONE a.zone)::int)
                    - 12 * extract(year FROM a.at)::int - extract(month FROM a.at)::int AS n
                FROM anchor a),
            months AS (
                SELECT (at + n * interval '1 month') AT TIME ZONE zone AS begins,
                       (at + (n + 1) * interval '1 month') AT TIME ZONE zone AS passes
                FROM numbers),
            weights AS (
                SELECT s.meter_key,
                       (extract(epoch FROM m.passes - m.begins) * 1000000)::bigint AS length,
                       sum(s.level * (extract(epoch FROM
                           least(s.until, m.passes, ends, as_of)
                           - greatest(s.since, m.begins, starts)) * 1000000)::bigint) AS weight
                FROM spans s JOIN months m
                  ON least(s.until, m.passes, ends, as_of) > greatest(s.since, m.begins, starts)
                GROUP BY s.meter_key, m.begins, m.passes),
            amounts AS (
                SELECT w.meter_key, sum(div(2 * w.weight * 1000000000000 + w.length, 2 * w.length)
                    * 0.000000000001) AS amount
                FROM weights w GROUP BY w.meter_key)
            SELECT DISTINCT ON (l.meter_key) l.meter_key, coalesce(a.amount, 0), l.level,
                   l.occurred_at, l.event_id
            FROM levels l LEFT JOIN amounts a ON a.meter_key = l.meter_key
            ORDER BY l.meter_key, l.occurred_at DESC, l.event_id DESC
        $$"""
    )


def _period() -> None:
    """What the live events of a subscription add up to in [starts, ends), by meter: the one sum
    for bill, quota, screen and proof. Whole hours are taken from the roll-ups, what lies before
    and after them from the events. `special` is the value of a `unique` or `time_weighted` meter,
    which no other column gives; of a time-weighted one up to `as_of`.
    """
    op.execute(
        """CREATE FUNCTION usage_period(subscription uuid, starts timestamptz, ends timestamptz,
            as_of timestamptz DEFAULT 'infinity')
        RETURNS TABLE (meter_key text, events bigint, total numeric, peak numeric, last numeric,
            last_at timestamptz, last_event_id uuid, special numeric)
        LANGUAGE sql STABLE AS $$
            WITH edges AS (
                SELECT least(ends, date_bin('1 hour', starts + interval '1 hour - 1 microsecond',
                           'epoch')) AS whole_from,
                       greatest(date_bin('1 hour', ends, 'epoch'), date_bin('1 hour',
                           starts + interval '1 hour - 1 microsecond', 'epoch')) AS whole_to),
            outer_events AS MATERIALIZED (
                SELECT m.meter_key, m.calls, m.quantity, m.occurred_at, m.event_id, m.member
                FROM usage_singles m, edges
                WHERE m.subscription_id = subscription AND m.environment = 'Live'
                  AND m.occurred_at >= starts AND m.occurred_at < ends
                  AND (m.occurred_at < whole_from OR m.occurred_at >= whole_to)),
            parts AS (
                SELECT h.meter_key, h.events, h.quantity_sum, h.quantity_max, h.quantity_last,
                       h.last_at, h.last_event_id
                FROM usage_hours h, edges
                WHERE h.subscription_id = subscription AND h.environment = 'Live'
                  AND h.hour >= whole_from AND h.hour < whole_to
                UNION ALL
                SELECT o.meter_key, o.calls, o.quantity, o.quantity, o.quantity, o.occurred_at,
                       o.event_id
                FROM outer_events o),
            added AS (
                SELECT p.meter_key, sum(p.events)::bigint AS events,
                       sum(p.quantity_sum) AS total, max(p.quantity_max) AS peak,
                       (array_agg(p.quantity_last
                           ORDER BY p.last_at DESC, p.last_event_id DESC))[1] AS last,
                       max(p.last_at) AS last_at,
                       (array_agg(p.last_event_id
                           ORDER BY p.last_at DESC, p.last_event_id DESC))[1] AS last_event_id
                FROM parts p GROUP BY p.meter_key),
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
                   coalesce(a.peak, s.last), coalesce(a.last, s.last),
                   coalesce(a.last_at, s.last_at), coalesce(a.last_event_id, s.last_event_id),
                   s.amount
            FROM added a FULL JOIN special s USING (meter_key)
        $$"""
    )
