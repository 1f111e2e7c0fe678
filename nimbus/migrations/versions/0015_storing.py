# SPDX-License-Identifier: Apache-2.0
"""How usage is stored and rolled up: deltas, hours, days, histograms of answer times.

What a batch adds to the roll-ups is appended to `usage_deltas`, and folded into `usage_hourly` and
`usage_daily` later. Nobody reads the tables' difference: `usage_hours` and `usage_days` are both
together, so a cell may have several rows there.
"""

from importlib import import_module

from alembic import op

from nimbus.migrations.tenancy import definer_function, protect

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

KEYS = (
    "organization_id, provider_organization_id, subscription_id, product_id, key_id, route_id,"
    " status_class, environment"
)
MEASURES = (
    "meter_key, events, quantity_sum, quantity_max, quantity_last, last_at, last_event_id,"
    " duration_us, bytes_in, bytes_out, latency"
)
FUNCTIONS = {
    "usage_retire(timestamptz)": "nimbus_system",
    "usage_cut_addresses(timestamptz, timestamptz)": "nimbus_system",
}
DAY = "(hour AT TIME ZONE 'UTC')::date"


def upgrade() -> None:
    """Make deltas, days and the views over them; fill in what the hours did not have."""
    _latency()
    op.execute("ALTER TABLE usage_hourly ADD COLUMN latency bigint[] NOT NULL DEFAULT '{}'")
    _deltas()
    _daily()
    _fill()
    _views()
    _retention()
    usage = import_module("nimbus.migrations.versions.0007_usage")
    op.execute(f"DROP FUNCTION {usage.PERIOD}")
    usage.make_period("m.calls", "usage_hours")
    _proof_runs()


def downgrade() -> None:
    """Fold what is appended into the hours, then drop the rest."""
    op.execute("DROP TABLE proof_runs")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    op.execute("DROP TABLE usage_kept, usage_retired")
    usage = import_module("nimbus.migrations.versions.0007_usage")
    op.execute(f"DROP FUNCTION {usage.PERIOD}")
    usage.make_period("m.calls")
    _fold()
    op.execute("DROP VIEW usage_hours, usage_days")
    op.execute("DROP TABLE usage_deltas, usage_daily")
    op.execute("ALTER TABLE usage_hourly DROP COLUMN latency")
    op.execute("DROP FUNCTION latency_merge(bigint[]), latency_bucket(bigint)")


def _latency() -> None:
    # `rules.latency.bucket` and `pack`, for the proof and for cells that have become long.
    op.execute(
        """CREATE FUNCTION latency_bucket(us bigint) RETURNS bigint
        LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
            SELECT 10 * octave + (10 * time >> octave) - 10
            FROM (SELECT least(greatest(us, 1), (1::bigint << 41) - 1) AS time) t,
                 LATERAL (SELECT length(ltrim(time::bit(64)::text, '0')) - 1 AS octave) o
        $$"""
    )
    op.execute(
        """CREATE FUNCTION latency_merge(packed bigint[]) RETURNS bigint[]
        LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
            SELECT coalesce(array_agg(bucket << 40 | count ORDER BY bucket), '{}')
            FROM (SELECT one >> 40 AS bucket, sum(one & 1099511627775)::bigint AS count
                  FROM unnest(packed) AS one GROUP BY 1) counts
        $$"""
    )


def _cell(when: str) -> str:
    return f"""
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            product_id uuid NOT NULL,
            key_id uuid NOT NULL,
            route_id uuid NOT NULL,
            status_class smallint NOT NULL,
            environment text NOT NULL,
            {when} NOT NULL,
            meter_key text NOT NULL,
            events bigint NOT NULL,
            quantity_sum numeric(38, 12) NOT NULL,
            quantity_max numeric(38, 12) NOT NULL,
            quantity_last numeric(38, 12) NOT NULL,
            last_at timestamptz NOT NULL,
            last_event_id uuid NOT NULL,
            duration_us bigint NOT NULL,
            bytes_in bigint NOT NULL,
            bytes_out bigint NOT NULL,
            latency bigint[] NOT NULL DEFAULT '{{}}',
            created_at timestamptz NOT NULL DEFAULT now()"""


def _deltas() -> None:
    # Appended by whoever stores, taken out by whoever folds; never changed. Emptied all the time:
    # what is dead is cleared away long before a fifth of the table is.
    op.execute(
        f"""CREATE TABLE usage_deltas (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {_cell("hour timestamptz")})
            WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
                  autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0)"""
    )
    op.execute("CREATE INDEX ix_usage_deltas_subscription ON usage_deltas (subscription_id, hour)")
    op.execute("CREATE INDEX ix_usage_deltas_organization ON usage_deltas (organization_id, hour)")
    protect("usage_deltas", two_sided=True, verbs="SELECT")
    op.execute("REVOKE UPDATE ON usage_deltas FROM nimbus_system")


def _daily() -> None:
    op.execute(
        f"""CREATE TABLE usage_daily ({_cell("day date")},
            PRIMARY KEY (organization_id, subscription_id, day, meter_key, key_id, route_id,
                status_class, environment))"""
    )
    op.execute(
        "CREATE INDEX ix_usage_daily_provider ON usage_daily (provider_organization_id, day)"
    )
    protect("usage_daily", two_sided=True, verbs="SELECT")
    op.execute("REVOKE DELETE ON usage_daily FROM nimbus_system")


def _fill() -> None:
    """The histograms of the events that are there, and the days of the hours."""
    op.execute(
        """UPDATE usage_hourly h SET latency = c.latency FROM (
            SELECT organization_id, subscription_id, hour, key_id, route_id, status_class,
                   environment, array_agg(bucket << 40 | count ORDER BY bucket) AS latency
            FROM (SELECT organization_id, subscription_id, key_id, route_id, environment,
                         status / 100 AS status_class, latency_bucket(duration_us) AS bucket,
                         date_trunc('hour', occurred_at, 'UTC') AS hour, count(*) AS count
                  FROM usage_events WHERE NOT continued GROUP BY 1, 2, 3, 4, 5, 6, 7, 8) b
            GROUP BY 1, 2, 3, 4, 5, 6, 7) c
        WHERE h.meter_key = 'api_calls'
          AND (h.organization_id, h.subscription_id, h.hour, h.key_id, h.route_id, h.status_class,
               h.environment) = (c.organization_id, c.subscription_id, c.hour, c.key_id,
               c.route_id, c.status_class, c.environment)"""
    )
    op.execute(f"INSERT INTO usage_daily ({KEYS}, day, {MEASURES}) {_summed('usage_hourly', DAY)}")


def _fold() -> None:
    columns = f"{KEYS}, hour, {MEASURES}"
    op.execute("CREATE TEMPORARY TABLE folded (LIKE usage_hourly INCLUDING DEFAULTS)")
    op.execute(f"INSERT INTO folded ({columns}) {_summed('usage_hours', 'hour')}")
    op.execute("DELETE FROM usage_hourly")
    op.execute("INSERT INTO usage_hourly SELECT * FROM folded")
    op.execute("DROP TABLE folded")


def _summed(source: str, when: str) -> str:
    """One row a cell, from as many as there are of it."""
    latest = "ORDER BY last_at DESC, last_event_id DESC"
    return f"""SELECT {KEYS}, {when}, meter_key, sum(events)::bigint, sum(quantity_sum),
            max(quantity_max), (array_agg(quantity_last {latest}))[1], max(last_at),
            (array_agg(last_event_id {latest}))[1], sum(duration_us)::bigint,
            sum(bytes_in)::bigint, sum(bytes_out)::bigint,
            latency_merge(string_to_array(string_agg(array_to_string(latency, ','), ',')
                FILTER (WHERE latency <> '{{}}'), ',')::bigint[])
            FROM {source} GROUP BY {KEYS}, {when}, meter_key"""


def _views() -> None:
    own = f"{KEYS}, %s, {MEASURES}"
    op.execute(
        f"""CREATE VIEW usage_hours WITH (security_invoker = true) AS
            SELECT {own % "hour"} FROM usage_hourly
            UNION ALL SELECT {own % "hour"} FROM usage_deltas"""
    )
    op.execute(
        f"""CREATE VIEW usage_days WITH (security_invoker = true) AS
            SELECT {own % "day"} FROM usage_daily
            UNION ALL SELECT {own % f"{DAY} AS day"} FROM usage_deltas"""
    )
    for view in ("usage_hours", "usage_days"):
        op.execute(f"GRANT SELECT ON {view} TO nimbus_app, nimbus_system")


def _retention() -> None:
    # Events that sums still need one by one when their month is dropped: those of an hour that a
    # period or quota window cuts through, and those that a price by single events counts.
    op.execute(
        """CREATE TABLE usage_kept (
            organization_id uuid NOT NULL,
            provider_organization_id uuid NOT NULL,
            subscription_id uuid NOT NULL,
            environment text NOT NULL,
            occurred_at timestamptz NOT NULL,
            event_id uuid NOT NULL,
            billable boolean NOT NULL,
            meter_key text NOT NULL,
            quantity numeric NOT NULL,
            calls integer NOT NULL,
            member uuid,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, occurred_at, event_id, meter_key))"""
    )
    op.execute(
        "CREATE INDEX ix_usage_kept_subscription ON usage_kept (subscription_id, occurred_at)"
    )
    protect("usage_kept", two_sided=True, verbs="SELECT")
    op.execute("REVOKE INSERT, UPDATE, DELETE ON usage_kept FROM nimbus_system")
    # How many calls of each producer went with a month: the proof adds them to those that are left.
    op.execute(
        """CREATE TABLE usage_retired (
            month date NOT NULL,
            producer uuid NOT NULL,
            served bigint NOT NULL,
            refused bigint NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (month, producer))"""
    )
    op.execute("GRANT SELECT ON usage_retired TO nimbus_system")
    _retire()
    _cut_addresses()
    for signature, role in FUNCTIONS.items():
        definer_function(signature, role)


def _retire() -> None:
    # Nobody may add to the month from the first look on. What is not wholly rolled up stays; only
    # of a month that was retired before, and got late events, is that no longer to be told.
    op.execute(
        """CREATE FUNCTION usage_retire(instant timestamptz) RETURNS bigint LANGUAGE plpgsql
        SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET timezone = 'UTC' AS $$
        DECLARE
            starts timestamptz := date_trunc('month', instant);
            ends timestamptz := date_trunc('month', instant) + interval '1 month';
            events text := 'usage_events' || to_char(instant, '_YYYY_MM');
            refusals text := 'refused_calls' || to_char(instant, '_YYYY_MM');
            dropped bigint;
        BEGIN
            IF to_regclass('public.' || events) IS NULL THEN
                RETURN 0;
            END IF;
            EXECUTE format('LOCK TABLE public.%I, public.%I IN SHARE MODE', events, refusals);
            IF NOT EXISTS (SELECT FROM usage_retired WHERE month = starts::date)
                AND (SELECT coalesce(sum(calls), 0) FROM usage_measured
                     WHERE meter_key = 'api_calls' AND occurred_at >= starts AND occurred_at < ends)
                 <> (SELECT coalesce(sum(h.events), 0) FROM usage_hours h
                     WHERE meter_key = 'api_calls' AND hour >= starts AND hour < ends) THEN
                RAISE EXCEPTION 'the events of % are not what is rolled up of them', starts::date;
            END IF;
            WITH edges AS (
                SELECT DISTINCT subscription_id, date_trunc('hour', at) AS hour
                FROM (SELECT subscription_id, unnest(ARRAY[period_starts_at, period_ends_at]) AS at
                      FROM rated_periods
                      UNION ALL
                      SELECT subscription_id, unnest(ARRAY[period_starts_at, period_ends_at])
                      FROM quota_standings) instants
                WHERE at >= starts AND at < ends AND at <> date_trunc('hour', at)),
            by_event AS (
                SELECT r.subscription_id, c.meter_key, r.period_starts_at, r.period_ends_at
                FROM rated_periods r JOIN plan_charges c ON c.plan_version_id = r.plan_version_id
                WHERE c.model = 'percentage' AND r.period_starts_at < ends
                  AND r.period_ends_at > starts)
            INSERT INTO usage_kept
            SELECT m.organization_id, m.provider_organization_id, m.subscription_id, m.environment,
                   m.occurred_at, m.event_id, m.billable, m.meter_key, m.quantity, m.calls,
                   m.member
            FROM usage_measured m
            WHERE m.occurred_at >= starts AND m.occurred_at < ends AND (
                EXISTS (SELECT FROM edges e WHERE e.subscription_id = m.subscription_id
                        AND e.hour = date_trunc('hour', m.occurred_at))
                OR EXISTS (SELECT FROM by_event b WHERE b.subscription_id = m.subscription_id
                        AND b.meter_key = m.meter_key AND m.occurred_at >= b.period_starts_at
                        AND m.occurred_at < b.period_ends_at));
            INSERT INTO usage_retired AS r (month, producer, served, refused)
            SELECT starts::date, producer, sum(one), sum(other)
            FROM (SELECT producer, 1 AS one, 0 AS other FROM usage_events
                  WHERE occurred_at >= starts AND occurred_at < ends
                  UNION ALL
                  SELECT producer, 0, 1 FROM refused_calls
                  WHERE occurred_at >= starts AND occurred_at < ends) calls
            GROUP BY producer
            ON CONFLICT (month, producer) DO UPDATE SET
                served = r.served + excluded.served, refused = r.refused + excluded.refused;
            EXECUTE format('SELECT count(*) FROM public.%I', events) INTO dropped;
            EXECUTE format('DROP TABLE public.%I, public.%I', events, refusals);
            RETURN dropped;
        END $$"""
    )


def _cut_addresses() -> None:
    op.execute(
        """CREATE FUNCTION usage_cut_addresses(since timestamptz, before timestamptz)
        RETURNS void LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, public, pg_temp AS $$
        DECLARE parent text;
        BEGIN
            FOREACH parent IN ARRAY ARRAY['usage_events', 'refused_calls'] LOOP
                EXECUTE format('UPDATE public.%I SET ip = network(set_masklen(ip, CASE family(ip)'
                    ' WHEN 4 THEN 24 ELSE 48 END)) WHERE occurred_at >= $1 AND occurred_at < $2'
                    ' AND masklen(ip) IN (32, 128)', parent) USING since, before;
            END LOOP;
        END $$"""
    )


def _proof_runs() -> None:
    # What the nightly proofs found; instants of the machine, for it is the machine that is proved.
    op.execute(
        """CREATE TABLE proof_runs (
            id uuid PRIMARY KEY,
            proof text NOT NULL,
            started_at timestamptz NOT NULL,
            finished_at timestamptz NOT NULL,
            checked bigint NOT NULL CHECK (checked >= 0),
            found bigint NOT NULL CHECK (found >= 0),
            differences jsonb NOT NULL,
            notes jsonb NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            CHECK (started_at <= finished_at))"""
    )
    op.execute("CREATE INDEX ix_proof_runs_proof ON proof_runs (proof, finished_at)")
    op.execute("GRANT SELECT, INSERT, DELETE ON proof_runs TO nimbus_system")
